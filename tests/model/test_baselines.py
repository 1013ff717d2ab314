"""The classical baselines keep their bounds and symmetry, and the pyramid is the published one at any size."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from model.baselines import METHODS, Method
from model.errors import InputError

thorough = settings(deadline=None, derandomize=True, max_examples=40)
BINOMIAL = {-2: 1 / 16, -1: 4 / 16, 0: 6 / 16, 1: 4 / 16, 2: 1 / 16}


def batch(*levels: np.ndarray) -> Tensor:
    """8-bit images (H, W) as one float32 batch (N, 1, H, W)."""
    return torch.from_numpy(np.stack(levels)[:, None].astype(np.float32) / 255)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two 8-bit images of one size, odd, even, or a single pixel wide."""
    shape = draw(st.tuples(st.integers(1, 37), st.integers(1, 37)))
    image = arrays(np.uint8, shape, elements=st.integers(0, draw(st.sampled_from([1, 255]))))
    return draw(image), draw(image)


def reducing(length: int) -> np.ndarray:
    """The matrix that smooths by the binomial kernel, borders replicated, and keeps every second sample."""
    matrix = np.zeros((math.ceil(length / 2), length))
    for row in range(len(matrix)):
        for offset, weight in BINOMIAL.items():
            matrix[row, min(max(2 * row + offset, 0), length - 1)] += weight
    return matrix


def expanding(length: int) -> np.ndarray:
    """The matrix that spreads samples by zeros, borders replicated, and smooths by twice the binomial kernel."""
    count = math.ceil(length / 2)
    matrix = np.zeros((length, count))
    for row in range(length):
        for sample in range(-1, count + 1):
            matrix[row, min(max(sample, 0), count - 1)] += 2 * BINOMIAL.get(row - 2 * sample, 0)
    return matrix


def laplacian_by_matrices(a: np.ndarray, b: np.ndarray, levels: int) -> np.ndarray:
    if levels == 0:
        return np.asarray((a + b) / 2)
    height, width = a.shape
    bases = [reducing(height) @ image @ reducing(width).T for image in (a, b)]
    details = [image - expanding(height) @ base @ expanding(width).T for image, base in zip((a, b), bases, strict=True)]
    chosen = np.where(np.abs(details[0]) >= np.abs(details[1]), *details)
    base = laplacian_by_matrices(bases[0], bases[1], levels - 1)
    return np.asarray(chosen + expanding(height) @ base @ expanding(width).T)


@thorough
@given(pairs())
def test_average_and_maximum_against_numpy(images: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (batch(image) for image in images)
    mean = METHODS["average"].function(a, b)
    assert torch.allclose(mean[0, 0], torch.from_numpy((images[0] / 255 + images[1] / 255) / 2).float(), atol=1e-7)
    brightest = METHODS["maximum"].function(a, b)
    assert torch.equal(brightest, batch(np.maximum(*images)))
    assert (torch.minimum(a, b) <= mean).all()
    assert (mean <= brightest).all()


@pytest.mark.parametrize(
    ("size", "levels"),
    [((64, 64), 4), ((37, 50), 4), ((17, 16), 4), ((15, 40), 3), ((5, 5), 2), ((3, 2), 1), ((1, 9), 0), ((1, 1), 0)],
)
def test_the_pyramid_is_the_published_one(size: tuple[int, int], levels: int) -> None:
    a, b = torch.from_numpy(np.random.default_rng(0).random((2, 1, 1, *size)))
    expected = laplacian_by_matrices(a[0, 0].numpy(), b[0, 0].numpy(), levels).clip(0, 1)
    np.testing.assert_allclose(METHODS["laplacian"].function(a, b)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@thorough
@given(images=pairs())
def test_properties_every_method_has(method: Method, images: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (batch(image) for image in images)
    fused = method.function(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == a.dtype
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert torch.equal(fused, method.function(b, a)), "the order of the sources matters"
    assert torch.equal(method.function(a, a), a), "identical sources do not come back"
    together = method.function(torch.cat([a, b]), torch.cat([b, b]))
    assert torch.equal(together, torch.cat([fused, b])), "a batch differs from its images alone"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_bad_input_is_refused(method: Method) -> None:
    image = torch.zeros(1, 1, 8, 8)
    for other in (
        torch.zeros(2, 1, 8, 8),
        torch.zeros(1, 1, 8, 9),
        torch.full((1, 1, 8, 8), math.nan),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(InputError):
            method.function(image, other)
        with pytest.raises(InputError):
            method.function(other, image)


def test_the_registry_cites_every_method() -> None:
    assert list(METHODS) == ["average", "maximum", "laplacian"]
    for name, method in METHODS.items():
        assert method.name == name
        assert method.title
        assert method.citation[-4:].isdigit()

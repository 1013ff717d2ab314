"""The classical methods keep their bounds and symmetry, and each is the published one, at any size."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from model.baselines.filters import box_mean, guided_filter
from model.errors import InputError
from model.methods import CLASSICAL, METHODS, Resources

CLASSICAL_FUSIONS = {name: METHODS[name].load(Resources()) for name in CLASSICAL}

thorough = settings(derandomize=True, max_examples=40)
each_method = pytest.mark.parametrize("name", CLASSICAL)
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


def haar_by_blocks(a: np.ndarray, b: np.ndarray, levels: int) -> np.ndarray:
    """Fusion by sums and differences of 2x2 blocks; sides divisible by 2 ** levels."""
    if levels == 0:
        return np.asarray((a + b) / 2)
    signs = np.array([[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]) / 2
    height, width = a.shape
    bands = [
        np.einsum("kij,hiwj->khw", signs, image.reshape(height // 2, 2, width // 2, 2))  # the mean, then three details
        for image in (a, b)
    ]
    fused = np.where(np.abs(bands[0]) >= np.abs(bands[1]), *bands)
    # A mean band in this normalisation is twice the mean, as the orthonormal transform has it.
    fused[0] = haar_by_blocks(bands[0][0], bands[1][0], levels - 1)
    return np.einsum("kij,khw->hiwj", signs, fused).reshape(height, width)


def guided_filter_by_least_squares(guide: np.ndarray, image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Every window fitted on its own by a solver; every pixel the mean of what the windows around it say."""
    height, width = guide.shape
    fits = np.empty((height, width, 2))

    def around(row: int, column: int) -> tuple[slice, slice]:
        return slice(max(row - radius, 0), row + radius + 1), slice(max(column - radius, 0), column + radius + 1)

    for row, column in np.ndindex(height, width):
        values, wanted = (part[around(row, column)].ravel() for part in (guide, image))
        system = np.vstack([np.column_stack([values, np.ones_like(values)]), [math.sqrt(len(values) * eps), 0]])
        fits[row, column] = np.linalg.lstsq(system, np.append(wanted, 0), rcond=None)[0]
    slopes_and_offsets = [fits[around(row, column)].reshape(-1, 2).mean(0) for row, column in np.ndindex(height, width)]
    slope, offset = np.array(slopes_and_offsets).reshape(height, width, 2).transpose(2, 0, 1)
    return np.asarray(slope * guide + offset)


def guided_fusion_by_scipy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    gaussian = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    salience = []
    for image in (a, b):
        sharp = np.abs(scipy.ndimage.laplace(image, mode="nearest"))
        for axis in (0, 1):
            sharp = scipy.ndimage.correlate1d(sharp, gaussian / gaussian.sum(), axis, mode="nearest")
        salience.append(sharp)
    fused = np.zeros_like(a)
    bases = [scipy.ndimage.uniform_filter(image, 31, mode="nearest") for image in (a, b)]
    details = [image - base for image, base in zip((a, b), bases, strict=True)]
    for layers, radius, eps in ((bases, 45, 0.3), (details, 7, 1e-6)):
        weights = [
            guided_filter_by_least_squares(image, (own >= max_of).astype(float), radius, eps).clip(0)
            for image, own, max_of in zip((a, b), salience, [np.maximum(*salience)] * 2, strict=True)
        ]
        fused += (weights[0] * layers[0] + weights[1] * layers[1]) / (weights[0] + weights[1])
    return np.asarray(fused.clip(0, 1))


@thorough
@given(pairs())
def test_average_and_maximum_against_numpy(images: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = (batch(image) for image in images)
    mean = CLASSICAL_FUSIONS["average"](a, b)
    assert torch.allclose(mean[0, 0], torch.from_numpy((images[0] / 255 + images[1] / 255) / 2).float(), atol=1e-7)
    brightest = CLASSICAL_FUSIONS["maximum"](a, b)
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
    np.testing.assert_allclose(CLASSICAL_FUSIONS["laplacian"](a, b)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "levels"), [((64, 32), 4), ((16, 48), 4), ((8, 24), 3), ((2, 6), 1), ((1, 9), 0), ((1, 1), 0)]
)
def test_the_wavelet_fusion_is_the_larger_of_block_differences(size: tuple[int, int], levels: int) -> None:
    a, b = torch.from_numpy(np.random.default_rng(1).random((2, 1, 1, *size)))
    expected = haar_by_blocks(a[0, 0].numpy(), b[0, 0].numpy(), levels).clip(0, 1)
    np.testing.assert_allclose(CLASSICAL_FUSIONS["dwt"](a, b)[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(14, 17), (40, 9), (1, 12), (1, 1)])
def test_the_guided_fusion_is_the_published_one(size: tuple[int, int]) -> None:
    # Smooth, so that the inverse of the detail filter's tiny eps does not magnify rounding.
    noise = np.random.default_rng(2).random((2, *size))
    a, b = scipy.ndimage.gaussian_filter(noise, (0, 1, 1))
    fused = CLASSICAL_FUSIONS["guided-filter"](*torch.from_numpy(np.stack([a, b]))[:, None, None])
    np.testing.assert_allclose(fused[0, 0].numpy(), guided_fusion_by_scipy(a, b), atol=1e-9)


@thorough
@given(
    images=arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(0, 1, width=16)),
    radius=st.integers(0, 15),
)
def test_box_means_against_padded_windows(images: np.ndarray, radius: int) -> None:
    for border, mode in (("reflect", "reflect"), ("replicate", "edge"), ("shrink", "constant")):
        filler = {"constant_values": math.nan} if border == "shrink" else {}
        padded = np.pad(images, radius, mode=mode, **filler)  # type: ignore[call-overload]
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
        expected = np.nanmean(windows, (-2, -1))
        found = box_mean(torch.from_numpy(images), radius, border)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("radius", "eps"), [(0, 0.1), (2, 1e-3), (3, 0.3), (20, 0.01)])
def test_the_guided_filter_is_a_ridge_regression_in_every_window(radius: int, eps: float) -> None:
    guide, image = np.random.default_rng(3).random((2, 9, 13))
    found = guided_filter(*torch.from_numpy(np.stack([guide, image])), radius, eps).numpy()
    np.testing.assert_allclose(found, guided_filter_by_least_squares(guide, image, radius, eps), atol=1e-10)


@each_method
@thorough
@given(images=pairs())
def test_properties_every_method_has(name: str, images: tuple[np.ndarray, np.ndarray]) -> None:
    fuse = CLASSICAL_FUSIONS[name]
    a, b = (batch(image) for image in images)
    fused = fuse(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == a.dtype
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert torch.equal(fused, fuse(b, a)), "the order of the sources matters"
    # The orthonormal wavelet has roots of two in it; the others give back the very bits.
    rounding = 1e-7 if name == "dwt" else 0
    assert torch.allclose(fuse(a, a), a, rtol=0, atol=rounding), "identical sources do not come back"
    together = fuse(torch.cat([a, b]), torch.cat([b, b]))
    assert torch.allclose(together, torch.cat([fused, b]), rtol=0, atol=rounding), "a batch differs from its images"


@each_method
@thorough
@given(images=pairs())
def test_light_added_to_both_sources_is_added_to_the_result(name: str, images: tuple[np.ndarray, np.ndarray]) -> None:
    # Powers of two, so that adding is exact and ties stay ties; a small range, so that nothing is clamped.
    a, b = torch.from_numpy(0.5 + np.stack(images)[:, None, None] / 8192)
    shifted = CLASSICAL_FUSIONS[name](a + 0.0625, b + 0.0625)
    assert torch.allclose(shifted, CLASSICAL_FUSIONS[name](a, b) + 0.0625, atol=1e-9)


@each_method
def test_bad_input_is_refused(name: str) -> None:
    image = torch.zeros(1, 1, 8, 8)
    for other in (
        torch.zeros(2, 1, 8, 8),
        torch.zeros(1, 1, 8, 9),
        torch.full((1, 1, 8, 8), math.nan),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(InputError):
            CLASSICAL_FUSIONS[name](image, other)
        with pytest.raises(InputError):
            CLASSICAL_FUSIONS[name](other, image)

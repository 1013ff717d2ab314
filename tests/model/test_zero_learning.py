"""Zero-learning's three variants against slow independent forms of their formulas, at any size."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from model.baselines.zero_learning import VARIANTS, load_zero_learning
from model.errors import InputError
from model.methods import METHODS, Resources
from model.vgg import saliency_stack

thorough = settings(derandomize=True, max_examples=25)
each_variant = pytest.mark.parametrize("variant", VARIANTS)
LAYERS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128)}


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of VGG19's first layers, random, so that saliencies are of order one and the softmax stays soft."""
    generator, weights = np.random.default_rng(0), {}
    for index, (inputs, outputs) in LAYERS.items():
        scale = 0.3 if index == 0 else 0.1 / inputs
        weights[f"features.{index}.weight"] = generator.normal(0, scale / 3, (outputs, inputs, 3, 3))
        weights[f"features.{index}.bias"] = generator.normal(0, 0.01, outputs)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file({name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}, path)
    return path


def images(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two images of 8-bit levels in [0, 1]."""
    first, second = np.random.default_rng(seed).integers(0, 256, (2, *shape)) / 255
    return first, second


def fused_by(variant: str, vgg: Path, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    tensors = (torch.from_numpy(image.astype(np.float32))[None, None] for image in (a, b))
    return load_zero_learning(variant, vgg, "cpu")(*tensors)[0, 0].numpy()


def saliencies(vgg: Path, image: np.ndarray, depth: int) -> list[np.ndarray]:
    """The sums over channels of relu1_1, 1_2, 2_1, 2_2, convolution by convolution; H and W even where depth > 2."""
    stack = saliency_stack(vgg).state_dict()
    features, found = np.stack([image] * 3), []
    for index in list(LAYERS)[:depth]:
        if index == 5:
            height, width = features.shape[1:]
            features = features.reshape(-1, height // 2, 2, width // 2, 2).max((2, 4))
        weight, bias = (stack[f"features.{index}.{leaf}"].double().numpy() for leaf in ("weight", "bias"))
        features = np.stack(
            [
                sum(
                    scipy.signal.correlate2d(f, kernel, mode="same")
                    for f, kernel in zip(features, kernels, strict=True)
                )
                + offset
                for kernels, offset in zip(weight, bias, strict=True)
            ]
        ).clip(0)
        found.append(np.abs(features).sum(0))
    return found


def test_single_weighs_by_the_features_of_the_first_layer(vgg: Path) -> None:
    a, b = images(9, 14)
    (s_a,), (s_b,) = (saliencies(vgg, image, 1) for image in (a, b))
    expected = (s_a * a + s_b * b) / (s_a + s_b + 1e-3)
    np.testing.assert_allclose(fused_by("single", vgg, a, b), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(11, 16), (1, 6)])
def test_two_scale_fuses_base_and_detail_apart(vgg: Path, shape: tuple[int, int]) -> None:
    a, b = images(*shape)
    bases, rarities, details = [], [], []
    for image in (a, b):
        padded = np.pad(image, 22, mode="reflect")
        base = np.lib.stride_tricks.sliding_window_view(padded, (45, 45)).mean((-2, -1))
        bases.append(base)
        details.append(image - base)
        rarities.append(np.abs(image[:, :, None] - image.ravel()).mean(-1))
    weights = []
    for image, own in zip((a, b), rarities, strict=True):
        # Every window of the guided filter holds the whole image: one line fits it all, its slope held down.
        share = own / (rarities[0] + rarities[1])
        slope = np.cov(image.ravel(), share.ravel(), bias=True)[0, 1] / (image.var() + 0.01)
        weights.append((share.mean() + slope * (image - image.mean())).clip(0))
    base = (weights[0] * bases[0] + weights[1] * bases[1]) / (weights[0] + weights[1])
    (s_a,), (s_b,) = (saliencies(vgg, image, 1) for image in (a, b))
    detail = (np.exp(s_a) * details[0] + np.exp(s_b) * details[1]) / (np.exp(s_a) + np.exp(s_b))
    np.testing.assert_allclose(fused_by("two-scale", vgg, a, b), (base + detail).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (1, 1)])
def test_multi_layer_keeps_the_brightest_of_four_fusions(vgg: Path, shape: tuple[int, int]) -> None:
    a, b = images(*shape)
    even = [np.pad(image, ((0, shape[0] % 2), (0, shape[1] % 2)), mode="edge") for image in (a, b)]
    fusions = []
    for s_a, s_b in zip(*(saliencies(vgg, image, 4) for image in even), strict=True):
        weight = 1 / (1 + np.exp(s_b - s_a))
        if weight.shape != even[0].shape:
            weight = np.kron(weight, np.ones((2, 2)))
        weight = weight[: shape[0], : shape[1]]
        fusions.append(weight * a + (1 - weight) * b)
    np.testing.assert_allclose(fused_by("multi-layer", vgg, a, b), np.max(fusions, 0), atol=1e-5)


@each_variant
@thorough
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    levels=st.sampled_from([1, 2, 256]),
    seed=st.integers(0, 99),
)
def test_properties_every_variant_has(vgg: Path, variant: str, shape: tuple[int, int], levels: int, seed: int) -> None:
    fuse = load_zero_learning(variant, vgg, "cpu")
    a, b = (torch.from_numpy(np.random.default_rng((seed, n)).integers(0, levels, shape)) / 255.0 for n in (0, 1))
    a, b = a[None, None], b[None, None]
    fused = fuse(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == torch.float32
    assert fused.min() >= 0 and fused.max() <= 1
    assert torch.allclose(fused, fuse(b, a), atol=1e-6), "the order of the sources matters"
    if variant != "two-scale":
        assert (fused <= torch.maximum(a, b) + 1e-6).all(), "a weighted mean exceeds both sources"
    again, share = fuse(a, a), 1.0
    if variant == "single":
        salience = saliency_stack(vgg, 1)(a)[0].sum(1, keepdim=True)
        share = 2 * salience / (2 * salience + 1e-3)
    assert torch.allclose(again, share * a, atol=1e-5), "identical sources do not come back"
    together = fuse(torch.cat([a, b]), torch.cat([b, b]))
    assert torch.allclose(together, torch.cat([fused, fuse(b, b)]), atol=1e-6), "a batch differs from its images alone"


@each_variant
def test_saliencies_far_apart_do_not_overflow(variant: str, shared: Path) -> None:
    fuse = load_zero_learning(variant, shared / "weights" / "vgg19_relu3_1.safetensors", "cpu")
    white, black = torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    for a, b in ((white, black), (black, black), (white, white)):
        assert torch.isfinite(fuse(a, b)).all()
    assert torch.allclose(fuse(white, white), white, atol=1e-3)


@each_variant
def test_bad_images_are_refused(variant: str, vgg: Path) -> None:
    fuse, image = load_zero_learning(variant, vgg, "cpu"), torch.zeros(1, 1, 8, 8)
    bad: list[Tensor] = [torch.zeros(1, 1, 8, 9), torch.full((1, 1, 8, 8), math.inf), torch.zeros(1, 1, 8, 8).byte()]
    for other in bad:
        with pytest.raises(InputError):
            fuse(image, other)


@pytest.mark.parametrize(("name", "variant"), [("zero-learning", "single"), ("zero-learning-two-scale", "two-scale"),
                                               ("zero-learning-multi-layer", "multi-layer")])  # fmt: skip
def test_the_registry_gives_each_variant(name: str, variant: str, vgg: Path) -> None:
    a, b = torch.rand(2, 1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = load_zero_learning(variant, vgg, "cpu")(a, b)
    assert torch.equal(METHODS[name].load(Resources(vgg=vgg))(a, b), expected)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "small.safetensors")
    with pytest.raises(InputError, match=r"small\.safetensors holds no VGG16 or VGG19 features"):
        load_zero_learning("single", tmp_path / "small.safetensors", "cpu")

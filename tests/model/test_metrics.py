"""The measures agree with independent implementations and keep their stated ranges, symmetries and errors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.signal import convolve2d
from skimage.measure import shannon_entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import mutual_info_score
from torch import Tensor

from model.errors import InputError
from model.metrics import MEASURES, entropy, measure, mutual_information, psnr, qabf, ssim

SHARED = Path(__file__).resolve().parents[3] / "shared"
PER_SOURCE = {"psnr": "psnr", "ssim": "ssim_skimage", "mi": "mi"}
RANGES = {"psnr": (0, math.inf), "ssim": (-1, 1), "mi": (0, 8), "en": (0, 8), "qabf": (0, 0.9754)}

thorough = settings(deadline=None, derandomize=True, max_examples=30)


def batch(*levels: np.ndarray) -> Tensor:
    """8-bit images (H, W) as one float32 batch (N, 1, H, W)."""
    return torch.from_numpy(np.stack(levels)[:, None].astype(np.float32) / 255)


@st.composite
def triples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three 8-bit images of one size: noise, few levels, or one repeated."""
    shape = draw(st.tuples(st.integers(11, 17), st.integers(11, 17)))
    image = arrays(np.uint8, shape, elements=st.integers(0, draw(st.sampled_from([1, 3, 255]))))
    a, b = draw(image), draw(image)
    return a, b, draw(st.one_of(image, st.just(a), st.just(np.maximum(a, b))))


def judge(a: Tensor, b: Tensor, fused: Tensor) -> dict[str, Tensor]:
    """All measures, each part under one name: "psnr mean", "psnr sum", ..., "en", "qabf"."""
    rows: dict[str, Tensor] = {}
    for name, value in measure(a, b, fused).items():
        rows |= {f"{name} {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return rows


def qabf_by_hand(a: np.ndarray, b: np.ndarray, fused: np.ndarray) -> float:
    def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = convolve2d(image.astype(float), [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], mode="same")
        down = convolve2d(image.astype(float), [[1, 2, 1], [0, 0, 0], [-1, -2, -1]], mode="same")
        angle = np.full(image.shape, np.pi / 2)
        angle[across != 0] = np.arctan(down[across != 0] / across[across != 0])
        return np.sqrt(across**2 + down**2), angle

    strength_f, angle_f = edges(fused)
    kept = total = 0.0
    for strength, angle in (edges(a), edges(b)):
        for g, f, difference in zip(strength.flat, strength_f.flat, np.abs(angle - angle_f).flat, strict=True):
            ratio = g if g == f else min(g, f) / max(g, f)
            preserved_strength = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))
            preserved_angle = 0.9879 / (1 + math.exp(-22 * (1 - difference / (math.pi / 2) - 0.8)))
            kept += preserved_strength * preserved_angle * g
            total += g
    return kept / total if total else 0.0


@pytest.mark.parametrize("kind", ["reference", "average", "max"])
def test_atlas_values_of_independent_implementations(kind: str) -> None:
    if not (SHARED / "vectors/golden_metrics.json").exists():
        pytest.skip("the atlas and its golden vectors are not beside the project (../shared)")
    golden = json.loads((SHARED / "vectors/golden_metrics.json").read_text())["pairs"]
    names = list(golden)
    a, b = (
        [np.array(Image.open(SHARED / f"atlas/CT-MRI/{modality}/{name}.png")) for name in names]
        for modality in ("CT", "MRI")
    )
    with np.load(SHARED / "vectors/reference_fused.npz") as published:
        fused = {
            "reference": [published[name] for name in names],
            "average": [np.round((x.astype(float) + y) / 2) for x, y in zip(a, b, strict=True)],
            "max": [np.maximum(x, y) for x, y in zip(a, b, strict=True)],
        }[kind]
    first, second, result = batch(*a), batch(*b), batch(*fused)

    def expected(key: str) -> list[float]:
        return [golden[name][kind][key] for name in names]

    # The golden PSNR carries a float32 constant, 5e-8 of its value; the inputs here are float32.
    values = judge(first, second, result)
    for name, key in PER_SOURCE.items():
        assert values[f"{name} mean"].tolist() == pytest.approx(expected(key), rel=1e-7, abs=1e-7)
        assert values[f"{name} sum"].tolist() == pytest.approx([2 * value for value in expected(key)], rel=1e-7)
        for source, suffix in ((first, "ct"), (second, "mri")):
            value = MEASURES[name].function(result, source)
            assert value.tolist() == pytest.approx(expected(f"{key}_{suffix}"), rel=1e-7, abs=1e-7)
    for name in ("en", "qabf"):
        assert values[name].tolist() == pytest.approx(expected(name), abs=1e-12)


@thorough
@given(triples())
def test_agreement_with_other_libraries(images: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    a, b, fused = images
    x, y, f = (batch(image).double() for image in images)
    as_floats = [tensor[0, 0].numpy() for tensor in (x, f)]
    if (a != fused).any():
        assert psnr(f, x).item() == pytest.approx(peak_signal_noise_ratio(*as_floats, data_range=1), abs=1e-9)
    structure = structural_similarity(
        *as_floats, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    )
    assert ssim(f, x).item() == pytest.approx(structure, abs=1e-9)
    shared = mutual_info_score(a.ravel(), fused.ravel()) / math.log(2)
    assert mutual_information(f, x).item() == pytest.approx(shared, abs=1e-9)
    assert entropy(f).item() == pytest.approx(shannon_entropy(fused), abs=1e-9)
    assert qabf(x, y, f).item() == pytest.approx(qabf_by_hand(a, b, fused), abs=1e-9)


@thorough
@given(triples())
def test_ranges_and_symmetry_in_the_sources(images: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    a, b, fused = (batch(image) for image in images)
    values, swapped = judge(a, b, fused), judge(b, a, fused)
    for name, value in values.items():
        assert torch.equal(value, swapped[name]), name
    for name, (low, high) in RANGES.items():
        number = values[f"{name} mean" if name in PER_SOURCE else name].item()
        assert low - 1e-12 <= number <= high + 1e-12, name
    for source in (a, b):
        assert mutual_information(fused, source) <= torch.minimum(entropy(fused), entropy(source)) + 1e-9


@thorough
@given(triples())
def test_a_perfect_fusion_of_identical_sources(images: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image = batch(images[0])
    values = judge(image, image, image)
    assert values["psnr mean"].item() == math.inf
    assert values["ssim mean"].item() == 1
    assert values["mi mean"].item() == pytest.approx(entropy(image).item(), abs=1e-9)
    assert values["mi sum"].item() == pytest.approx(2 * values["en"].item(), abs=1e-9)
    if images[0].any():
        assert 0.9748 < values["qabf"].item() < 0.9754


@thorough
@given(triples(), st.integers(0, 2**32 - 1))
def test_a_batch_gives_what_its_images_give_alone(images: tuple[np.ndarray, ...], seed: int) -> None:
    others = np.random.default_rng(seed).integers(0, 256, (3, 2, *images[0].shape))
    a, b, fused = (batch(image, *rest) for image, rest in zip(images, others, strict=True))
    together = judge(a, b, fused)
    for index in range(len(a)):
        alone = judge(*(part[index : index + 1] for part in (a, b, fused)))
        for name, value in together.items():
            assert value[index].item() == pytest.approx(alone[name].item(), rel=1e-12, abs=1e-12), name


def test_histogram_and_edge_measures_see_eight_bits_and_the_others_do_not() -> None:
    levels = np.random.default_rng(0).integers(1, 255, (3, 16, 16))
    a, b, fused = (batch(image) for image in levels)
    exact, shifted = judge(a, b, fused), judge(a, b, fused + 0.4 / 255)
    for name in ("en", "qabf", "mi mean"):
        assert torch.equal(shifted[name], exact[name]), name
    for name in ("psnr mean", "ssim mean"):
        assert not torch.equal(shifted[name], exact[name]), name


def test_constant_images_have_defined_values() -> None:
    grey = torch.full((1, 1, 16, 16), 100 / 255)
    textured = batch(np.random.default_rng(0).integers(0, 256, (16, 16)))
    assert entropy(grey).item() == 0
    assert mutual_information(grey, textured).item() == pytest.approx(0, abs=1e-12)
    assert psnr(torch.zeros_like(grey), torch.ones_like(grey)).item() == 0
    assert ssim(torch.zeros_like(grey), torch.ones_like(grey)).item() == pytest.approx(1e-4 / (1 + 1e-4))
    black = torch.zeros_like(grey)
    assert qabf(black, black, textured).item() == 0
    assert qabf(grey, grey, black).item() < 0.001
    assert qabf(grey, grey, grey).item() > 0.97


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.5), (0.3, 0.3, 1.0)])
def test_no_measure_of_constant_images_is_nan(values: tuple[float, float, float]) -> None:
    for name, value in judge(*(torch.full((2, 1, 12, 12), value) for value in values)).items():
        assert not value.isnan().any(), name


def test_one_pixel_is_enough_for_all_but_ssim() -> None:
    pixel = torch.full((1, 1, 1, 1), 0.5)
    values: dict[str, Any] = measure(pixel, pixel, pixel, ["psnr", "mi", "en", "qabf"])
    assert all((part == math.inf).all() for part in values["psnr"].values())
    assert all((part == 0).all() for part in (*values["mi"].values(), values["en"], values["qabf"]))
    with pytest.raises(InputError, match="11x11"):
        measure(pixel, pixel, pixel)


@pytest.mark.parametrize("size", [(10, 32), (32, 10)])
def test_ssim_refuses_images_below_its_window(size: tuple[int, int]) -> None:
    image = torch.zeros(1, 1, *size)
    with pytest.raises(InputError, match=f"not {size[1]}x{size[0]}"):
        ssim(image, image)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_bad_pixels_are_named(position: int, bad: float) -> None:
    images = [torch.full((2, 1, 12, 12), 0.5) for _ in range(3)]
    images[position][1, 0, 3, 4] = bad
    with pytest.raises(InputError, match=("first source", "second source", "fused image")[position]):
        measure(*images)


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (torch.zeros(2, 1, 12, 12), "one shape"),
        (torch.zeros(1, 1, 12, 13), "one shape"),
        (torch.zeros(1, 3, 12, 12), r"\(N, 1, H, W\)"),
        (torch.zeros(12, 12), r"\(N, 1, H, W\)"),
        (torch.zeros(0, 1, 12, 12), r"\(N, 1, H, W\)"),
        (torch.zeros(1, 1, 12, 12, dtype=torch.uint8), "divide 8-bit images by 255"),
    ],
)
def test_wrong_shapes_and_types_are_refused(fused: Tensor, message: str) -> None:
    source = torch.zeros(1, 1, 12, 12)
    with pytest.raises(InputError, match=message):
        measure(source, source, fused)
    for entry in MEASURES.values():
        if entry.name == "en" and message == "one shape":
            continue
        with pytest.raises(InputError, match=message):
            entry.function(*((fused, source) if entry.per_source else (source, source, fused)))


def test_unknown_measures_are_refused_with_the_known_ones() -> None:
    image = torch.zeros(1, 1, 12, 12)
    with pytest.raises(InputError, match="'fid'; choose from psnr, ssim, mi, en, qabf"):
        measure(image, image, image, ["psnr", "fid"])


def test_the_registry_says_how_to_show_each_measure() -> None:
    assert list(MEASURES) == ["psnr", "ssim", "mi", "en", "qabf"]
    image = torch.zeros(3, 1, 12, 12)
    for name, value in measure(image, image, image).items():
        entry = MEASURES[name]
        assert entry.name == name
        assert entry.title
        assert entry.direction == "higher"
        parts = list(value.values()) if isinstance(value, dict) else [value]
        assert isinstance(value, dict) == entry.per_source
        assert all(part.shape == (3,) and part.dtype == torch.float64 for part in parts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_values_without_waiting() -> None:
    a, b, fused = (batch(*part) for part in np.random.default_rng(0).integers(0, 256, (3, 2, 64, 48)))
    expected = judge(a, b, fused)
    for name, value in judge(a.cuda(), b.cuda(), fused.cuda()).items():
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-12, atol=1e-12)
    x, f = a.cuda(), fused.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for entry in MEASURES.values():
            entry.function(*((f, x) if entry.per_source else (x, x, f)))
    finally:
        torch.cuda.set_sync_debug_mode("default")

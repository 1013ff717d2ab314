"""The measures agree with independent implementations and keep their stated ranges, symmetries and errors."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import convolve2d
from skimage.measure import shannon_entropy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import mutual_info_score
from torch import Tensor

from model.errors import InputError
from model.metrics import (
    MEASURES,
    POSTER_MEASURES,
    PROTOCOLS,
    correlation_of_differences,
    entropy,
    feature_similarity,
    fmi_pixel,
    measure,
    mutual_information,
    normalised_mutual_information,
    psnr,
    qabf,
    ssim,
    visual_information_fidelity,
)

RANGES = {
    "psnr": (0, math.inf),
    "ssim": (-1, 1),
    "ms_ssim": (0, 1),
    "mi": (0, 8),
    "nmi": (1, 2),
    "fmi_edge": (0, 1),
    "fmi_gradient": (0, 1),
    "fmi_pixel": (0, 1),
    "fsim": (0, 1),
    "en": (0, 8),
    "sd": (0, 127.5),
    "sf": (0, 255 * math.sqrt(2)),
    "ag": (0, 255),
    "scd": (-2, 2),
    "vif": (0, math.inf),
    "qabf": (0, 0.9754),
}
# These count in float32, inside.
ROUNDED = ("fmi_gradient", "fmi_pixel", "fsim")

thorough = settings(derandomize=True, max_examples=15)


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


def judge(a: Tensor, b: Tensor, fused: Tensor, protocol: str = "standard") -> dict[str, Tensor]:
    """All measures possible at that size, each part under one name: "psnr mean", "psnr sum", ..., "en", "qabf"."""
    rows: dict[str, Tensor] = {}
    possible = [name for name, entry in PROTOCOLS[protocol].items() if min(a.shape[2:]) >= entry.smallest]
    for name, value in measure(a, b, fused, possible, protocol).items():
        rows |= {f"{name} {key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return rows


def heads(*seeds: int, size: int = 176) -> Tensor:
    """Smooth images with some grain and a black frame, as slices have: (N, 1, size, size)."""
    images = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        coarse = np.kron(generator.random((size // 8, size // 8)), np.ones((8, 8)))
        image = np.zeros((size, size))
        image[12:-12, 12:-12] = (coarse * 200 + generator.random((size, size)) * 55)[12:-12, 12:-12]
        images.append(image.astype(np.uint8))
    return batch(*images)


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
        assert value.item() == pytest.approx(swapped[name].item(), rel=1e-12), name
        measured, _, part = name.partition(" ")
        low, high = RANGES[measured]
        if part != "sum":
            assert low - 1e-6 <= value.item() <= high + 1e-6, name
    for source in (a, b):
        assert mutual_information(fused, source) <= torch.minimum(entropy(fused), entropy(source)) + 1e-9


@thorough
@given(triples())
def test_a_perfect_fusion_of_identical_sources(images: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image = batch(images[0])
    values = judge(image, image, image)
    assert values["psnr mean"].item() == math.inf
    for name in ("ssim", "fmi_edge", "fmi_gradient", "fmi_pixel", "fsim"):
        assert values[f"{name} mean"].item() == pytest.approx(1, abs=1e-12), name
    assert values["nmi mean"].item() == pytest.approx(2 if np.ptp(images[0]) else 1, abs=1e-12)
    assert values["scd"].item() == 0
    assert values["mi mean"].item() == pytest.approx(entropy(image).item(), abs=1e-9)
    assert values["mi sum"].item() == pytest.approx(2 * values["en"].item(), abs=1e-9)
    if images[0].any():
        assert 0.9748 < values["qabf"].item() < 0.9754


def test_identity_is_best_and_worsens_with_noise() -> None:
    image = heads(0)
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    fusions = [(image + strength * noise).clamp(0, 1) for strength in (0, 0.2, 0.6)]
    for name in ("ssim", "ms_ssim", "mi", "nmi", "fmi_edge", "fmi_gradient", "fmi_pixel", "fsim", "vif"):
        values = [MEASURES[name].function(fused, image).item() for fused in fusions]
        assert values == sorted(values, reverse=True), name
        assert name == "mi" or values[0] == pytest.approx(2 if name == "nmi" else 1, abs=1e-9), name


def test_the_sum_of_the_sources_has_the_best_scd() -> None:
    a, b = heads(0) * 0.4, heads(1) * 0.4
    a, b = ((image * 255).round() / 255 for image in (a, b))
    assert correlation_of_differences(a, b, a + b).item() == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("turn", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)])
def test_measures_without_a_direction_do_not_change_when_all_images_are_turned(turn) -> None:
    a, b, fused = (heads(seed) for seed in (0, 1, 2))
    values, turned = judge(a, b, fused), judge(turn(a), turn(b), turn(fused))
    for name in ("psnr", "ssim", "ms_ssim", "mi", "nmi"):
        assert turned[f"{name} mean"].item() == pytest.approx(values[f"{name} mean"].item(), rel=1e-9), name
    for name in ("en", "sd", "sf", "ag", "scd"):
        assert turned[name].item() == pytest.approx(values[name].item(), rel=1e-9), name
    # The frequency just at half a cycle a pixel has no opposite: FSIM changes a little.
    assert turned["fsim mean"].item() == pytest.approx(values["fsim mean"].item(), abs=1e-3)


def test_more_images_than_are_judged_at_once_keep_their_order() -> None:
    a, b, fused = (heads(*range(start, start + 11)) for start in (0, 20, 40))
    names = ["psnr", "sd", "scd", "fmi_edge"]
    together = measure(a, b, fused, names)
    for index in (0, 7, 8, 10):
        alone = measure(*(part[index : index + 1] for part in (a, b, fused)), names)
        for name in names:
            one, many = (value["mean"] if isinstance(value, dict) else value for value in (alone[name], together[name]))
            assert many.shape == (11,)
            assert many[index].item() == pytest.approx(one.item(), rel=1e-12), name


@thorough
@given(triples(), st.integers(0, 2**32 - 1))
def test_a_batch_gives_what_its_images_give_alone(images: tuple[np.ndarray, ...], seed: int) -> None:
    others = np.random.default_rng(seed).integers(0, 256, (3, 2, *images[0].shape))
    a, b, fused = (batch(image, *rest) for image, rest in zip(images, others, strict=True))
    together = judge(a, b, fused)
    for index in range(len(a)):
        alone = judge(*(part[index : index + 1] for part in (a, b, fused)))
        for name, value in together.items():
            within = 1e-6 if name.split()[0] in ROUNDED else 1e-12
            assert value[index].item() == pytest.approx(alone[name].item(), rel=within, abs=within), name


def test_all_but_three_measures_see_eight_bits() -> None:
    a, b = (heads(seed) * 0.9 + 0.05 for seed in (0, 1))
    a, b, fused = ((image * 255).round() / 255 for image in (a, b, (a + b) / 2))
    exact, shifted = judge(a, b, fused), judge(a, b, fused + 0.4 / 255)
    for name, value in exact.items():
        seen = name.split()[0] in ("psnr", "ssim", "ms_ssim")
        assert torch.equal(shifted[name], value) != seen, name


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
    assert normalised_mutual_information(grey, grey).item() == 1
    assert fmi_pixel(grey, black).item() == 1
    assert fmi_pixel(grey, textured).item() < 0.05
    assert correlation_of_differences(grey, black, textured).item() == 0
    large = torch.full((1, 1, 64, 64), 0.3)
    assert visual_information_fidelity(heads(0, size=64), large).item() == 1
    assert visual_information_fidelity(large, heads(0, size=64)).item() == pytest.approx(0, abs=1e-9)
    assert feature_similarity(large, large).item() == 1


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.5), (0.3, 0.3, 1.0)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_measure_of_constant_images_is_nan(values: tuple[float, float, float], protocol: str) -> None:
    for size in ((1, 1), (1, 12), (12, 12), (170, 161)):
        images = (torch.full((1, 1, *size), value) for value in values)
        for name, value in judge(*images, protocol=protocol).items():
            assert not value.isnan().any(), (name, size)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 3), (8, 8), (13, 11), (41, 47), (163, 161)])
def test_images_of_every_size_have_values_or_are_refused(size: tuple[int, int], protocol: str) -> None:
    a, b, fused = torch.rand(3, 1, 1, *size, generator=torch.Generator().manual_seed(0)).unbind()
    for name, entry in PROTOCOLS[protocol].items():
        if min(size) >= entry.smallest:
            value: Any = measure(a, b, fused, [name], protocol)[name]
            parts = value.values() if isinstance(value, dict) else [value]
            assert all(part.isfinite().all() for part in parts), name
        else:
            with pytest.raises(InputError, match=f"not {size[1]}x{size[0]}"):
                measure(a, b, fused, [name], protocol)


def test_one_pixel_has_plain_values() -> None:
    pixel = torch.full((1, 1, 1, 1), 0.5)
    values = judge(pixel, pixel, pixel)
    assert values.pop("psnr mean") == values.pop("psnr sum") == math.inf
    ones = {name for name in values if name.startswith(("nmi", "fsim"))}
    assert {name: float(value) for name, value in values.items()} == {
        name: (2.0 if name.endswith("sum") else 1.0) if name in ones else 0.0 for name in values
    }


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
        if entry.name in ("en", "sd", "sf", "ag") and message == "one shape":
            continue
        with pytest.raises(InputError, match=message):
            entry.function(*((fused, source) if entry.per_source else (source, source, fused)))


def test_unknown_measures_are_refused_with_the_known_ones() -> None:
    image = torch.zeros(1, 1, 12, 12)
    with pytest.raises(InputError, match=r"'fid'; choose one of psnr, ssim, ms_ssim, .*, qabf"):
        measure(image, image, image, ["psnr", "fid"])
    with pytest.raises(InputError, match="'qabf'; choose one of psnr, ssim, mi, fmi, fsim, en"):
        measure(image, image, image, ["qabf"], "poster")
    with pytest.raises(InputError, match="'field'; choose one of standard, poster"):
        measure(image, image, image, protocol="field")


def test_the_registry_says_how_to_show_each_measure() -> None:
    assert list(MEASURES) == list(RANGES)
    assert list(POSTER_MEASURES) == ["psnr", "ssim", "mi", "fmi", "fsim", "en"]
    image = torch.zeros(3, 1, 161, 161)
    judged = [(MEASURES[name], value) for name, value in measure(image, image, image).items()]
    judged += [(POSTER_MEASURES[name], value) for name, value in measure(image, image, image, None, "poster").items()]
    for entry, value in judged:
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
        within = 1e-6 if name.split()[0] in ROUNDED else 1e-12
        torch.testing.assert_close(value.cpu(), expected[name], rtol=within, atol=within)
    x, f = a.cuda(), fused.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for entry in MEASURES.values():
            if entry.smallest <= 48:
                entry.function(*((f, x) if entry.per_source else (x, x, f)))
    finally:
        torch.cuda.set_sync_debug_mode("default")

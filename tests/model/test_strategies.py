"""Fusion strategies: their formulas, their symmetry, and their behaviour at zero."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.strategies import HEADS
from components.evaluate.floors import lesions_kept, phantom_slices
from model.fuser import SHIPPED_MODEL, Fuser
from model.strategies import DEFAULT_STRATEGY, STRATEGIES, sfnn_weight

LOCAL = ("local-nuclear", "local-energy", "local-saliency")


def encodings(seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 64, size, size, generator=generator), torch.randn(2, 64, size, size, generator=generator)


def fuse(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Fuse by a strategy; encodings in these tests are of images as bright as they are strong."""
    return STRATEGIES[name](a, b, *(e.square().mean(1, keepdim=True).sqrt() for e in (a, b)))


def test_sfnn_weighs_by_the_squared_nuclear_norms():
    a, b = encodings(1)
    norms = [torch.linalg.svdvals(e.softmax(1)).sum(-1).amax(1) for e in (a, b)]
    expected = norms[0] ** 2 / (norms[0] ** 2 + norms[1] ** 2)
    assert torch.allclose(sfnn_weight(a, b), expected, rtol=1e-5)
    fused = fuse("sfnn", a, b)
    share = expected[:, None, None, None]
    assert torch.allclose(fused, share * a + (1 - share) * b, atol=1e-5)


def test_fer_weighs_each_element_by_its_energy():
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.allclose(fuse("fer", a, b), torch.full((1, 64, 2, 2), 0.9 * 3.0 - 0.1))


def test_fl1n_weighs_each_image_by_its_l1_norm():
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.allclose(fuse("fl1n", a, b), torch.full((1, 64, 2, 2), 0.75 * 3.0 - 0.25))


@pytest.mark.parametrize(("name", "expected"), [("average", 1.0), ("addition", 2.0), ("maximum", 3.0)])
def test_simple_strategies(name: str, expected: float):
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.equal(fuse(name, a, b), torch.full((1, 64, 2, 2), expected))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_sources_does_not_matter(name: str, seed: int):
    a, b = encodings(seed, size=8)
    assert torch.allclose(fuse(name, a, b), fuse(name, b, a), atol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_zero_encodings_give_a_finite_result(name: str):
    zero = torch.zeros(1, 64, 4, 4)
    assert torch.equal(fuse(name, zero, zero), zero)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "addition"])
def test_fusing_an_encoding_with_itself_changes_nothing(name: str):
    a, _ = encodings(5, size=8)
    assert torch.allclose(fuse(name, a, a), a, atol=1e-5)


def test_the_default_is_a_strategy():
    assert DEFAULT_STRATEGY in STRATEGIES


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (17, 33)])
def test_windows_larger_than_the_image_or_over_its_border_are_well_behaved(name: str, size: tuple[int, int]):
    generator = torch.Generator().manual_seed(6)
    a, b = torch.randn(2, 2, 8, *size, generator=generator)
    fused = fuse(name, a, b)
    assert fused.shape == a.shape and torch.isfinite(fused).all()
    assert torch.allclose(fuse(name, a, a), a, atol=1e-5)
    for value in (0.0, 1.0, -3.0):
        flat = torch.full_like(a, value)
        assert torch.allclose(fuse(name, flat, flat), flat, atol=1e-5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_batch_fuses_like_its_samples_alone(name: str):
    a, b = encodings(7, size=20)
    a[1] *= 50
    alone = torch.cat([fuse(name, a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert torch.allclose(fuse(name, a, b), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOCAL)
def test_local_strategies_take_each_half_from_the_source_that_shows_something_there(name: str):
    a, b = (e.abs() + 1 for e in encodings(8, size=96))
    a[..., 48:] *= 0.01
    b[..., :48] *= 0.01
    fused = fuse(name, a, b)
    near_a, near_b = (fused - a).abs() / a.abs(), (fused - b).abs() / b.abs()
    # The nuclear norm of a softmax of nearly equal features is that of a dim window, never nothing.
    limit = 0.5 if name == "local-nuclear" else 0.05
    assert float(near_a[..., :24].median()) < limit and float(near_b[..., 72:].median()) < limit


@pytest.mark.parametrize("name", ["local-energy", "local-saliency"])
def test_the_scale_of_a_networks_encodings_does_not_matter(name: str):
    a, b = encodings(9)
    assert torch.allclose(fuse(name, 1024 * a, 1024 * b), 1024 * fuse(name, a, b), rtol=1e-3, atol=1e-2)


def test_local_energy_is_its_formula():
    a, b = torch.full((1, 4, 9, 9), 3.0), torch.full((1, 4, 9, 9), 1.0)
    assert torch.allclose(fuse("local-energy", a, b), torch.full_like(a, 0.9 * 3 + 0.1), atol=1e-3)


def test_local_saliency_is_its_formula_where_nothing_has_detail():
    a, b, x, y = (torch.full((1, 4, 9, 9), value) for value in (3.0, 1.0, 0.6, 0.4))
    fused = STRATEGIES["local-saliency"](a, b, x[:, :1], y[:, :1])
    energy_x, energy_y = 0.36 / 0.52, 0.16 / 0.52
    share = 1 / (1 + (energy_y / energy_x) ** 1.5 * math.exp(-2.8 * (energy_x - energy_y)))
    pixel = 1 / (1 + (energy_y / energy_x) ** 8)
    weight = 0.96 * share + 0.04 * pixel
    expected = 3 * weight + 1 * (1 - weight + 0.06 * (2 * share - 1))
    assert torch.allclose(fused, torch.full_like(a, expected), atol=1e-3)


def test_local_saliency_shows_the_detailed_source_whole_though_the_flat_one_is_brighter():
    generator = torch.Generator().manual_seed(10)
    detailed = 0.4 + 0.1 * torch.randn(1, 1, 96, 96, generator=generator)
    flat = torch.full_like(detailed, 0.5)
    fused = STRATEGIES["local-saliency"](detailed, flat, detailed, flat)
    expected = detailed + 0.06 * flat
    assert float((fused - expected).abs().mean()) < 0.01


def test_bone_is_shown_whole_beside_dark_detail():
    generator = torch.Generator().manual_seed(11)
    bone = torch.ones(1, 1, 96, 96)
    detailed = (0.1 + 0.05 * torch.randn(1, 1, 96, 96, generator=generator)).clamp(0, 1)
    assert float(STRATEGIES["local-saliency"](bone, detailed, bone, detailed).min()) > 0.95


@pytest.mark.parametrize("black_first", [True, False])
def test_local_saliency_beside_a_black_image_gives_the_other(black_first: bool):
    generator = torch.Generator().manual_seed(12)
    image = 0.2 + 0.6 * torch.rand(1, 1, 40, 40, generator=generator)
    pair = (torch.zeros_like(image), image) if black_first else (image, torch.zeros_like(image))
    assert torch.allclose(STRATEGIES["local-saliency"](*pair, *pair), image, atol=0.01)


@pytest.mark.integration
def test_the_default_keeps_lesions_of_both_modalities_where_sfnn_loses_those_of_mr():
    fuser = Fuser.load(SHIPPED_MODEL)
    kept = lesions_kept(lambda ct, mr: fuser.fuse_each(ct, mr, ["sfnn", DEFAULT_STRATEGY]), phantom_slices(HEADS))
    means = {name: {lesion: sum(values) / len(values) for lesion, values in row.items()} for name, row in kept.items()}
    assert min(means[DEFAULT_STRATEGY].values()) >= 0.8
    assert means[DEFAULT_STRATEGY]["mri_lesion"] > means["sfnn"]["mri_lesion"] + 0.2

"""Fusion strategies: their formulas, their symmetry, and their behaviour at zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.phantom import PhantomConfig, subject_volume
from model.fuser import Fuser
from model.lesions import lesion_retention
from model.published import read_published
from model.strategies import DEFAULT_STRATEGY, STRATEGIES, sfnn_weight

LOCAL = ("local-nuclear", "local-energy", "energy-vote")


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
@settings(max_examples=10, deadline=None)
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


@pytest.mark.parametrize("name", ["local-energy", "energy-vote"])
def test_the_scale_of_a_networks_encodings_does_not_matter(name: str):
    a, b = encodings(9)
    assert torch.allclose(fuse(name, 1024 * a, 1024 * b), 1024 * fuse(name, a, b), rtol=1e-3, atol=1e-2)


def test_local_energy_is_its_formula():
    a, b = torch.full((1, 4, 9, 9), 3.0), torch.full((1, 4, 9, 9), 1.0)
    assert torch.allclose(fuse("local-energy", a, b), torch.full_like(a, 0.9 * 3 + 0.1), atol=1e-3)


def test_an_energy_vote_is_its_formula():
    a, b, x, y = (torch.full((1, 4, 9, 9), value) for value in (3.0, 1.0, 0.9, 0.3))
    fused = STRATEGIES["energy-vote"](a, b, x[:, :1], y[:, :1])
    near_and_far = 9.0**3 / (1 + 9.0**3)
    over = 0.1 * (2 * near_and_far - 1)
    expected = (3 * (1 + near_and_far) + 1 * (1 - near_and_far + over)) / 2
    assert torch.allclose(fused, torch.full_like(a, expected), atol=2e-3)


def test_the_default_keeps_lesions_of_both_modalities_where_sfnn_loses_those_of_mr(shared):
    fuser = Fuser(read_published(shared / "weights" / "dilran_published.safetensors"))
    kept: dict[str, list[float]] = {}
    for pair in list(subject_volume(PhantomConfig(subjects=1, slices=6, size=128), 0))[1:5]:
        ct, mr = (torch.from_numpy(x.astype("float32") / 255)[None, None] for x in (pair.ct, pair.mri))
        truth = {name: torch.from_numpy(mask)[None, None] for name, mask in pair.truth.items()}
        for name, fused in fuser.fuse_each(ct, mr, ["sfnn", DEFAULT_STRATEGY]).items():
            for lesion, source, other in (("ct_lesion", ct, "mri_lesion"), ("mri_lesion", mr, "ct_lesion")):
                share = float(lesion_retention(fused, source, truth[lesion], truth["bone"] | truth[other]))
                kept.setdefault(f"{name} {lesion}", []).extend([share] if share == share else [])
    means = {name: sum(values) / len(values) for name, values in kept.items()}
    assert means[f"{DEFAULT_STRATEGY} ct_lesion"] >= 0.7
    assert means[f"{DEFAULT_STRATEGY} mri_lesion"] >= 0.7
    assert means[f"{DEFAULT_STRATEGY} mri_lesion"] > means["sfnn mri_lesion"] + 0.2

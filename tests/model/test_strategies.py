"""Fusion strategies: their formulas, their symmetry, and their behaviour at zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.strategies import STRATEGIES, largest_nuclear_norm, sfnn_weight


def encodings(seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 64, size, size, generator=generator), torch.randn(2, 64, size, size, generator=generator)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), sharpness=st.sampled_from([0.1, 1.0, 30.0]))
def test_bounds_never_change_the_largest_nuclear_norm(seed: int, sharpness: float):
    maps = (encodings(seed)[0] * sharpness).softmax(1)
    every = torch.linalg.svdvals(maps).sum(-1)
    assert torch.allclose(largest_nuclear_norm(maps), every.amax(1), rtol=1e-5)


def test_sfnn_weighs_by_the_squared_nuclear_norms():
    a, b = encodings(1)
    norms = [torch.linalg.svdvals(e.softmax(1)).sum(-1).amax(1) for e in (a, b)]
    expected = norms[0] ** 2 / (norms[0] ** 2 + norms[1] ** 2)
    assert torch.allclose(sfnn_weight(a, b), expected, rtol=1e-5)
    fused = STRATEGIES["sfnn"](a, b)
    share = expected[:, None, None, None]
    assert torch.allclose(fused, share * a + (1 - share) * b, atol=1e-5)


def test_fer_weighs_each_element_by_its_energy():
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.allclose(STRATEGIES["fer"](a, b), torch.full((1, 64, 2, 2), 0.9 * 3.0 - 0.1))


def test_fl1n_weighs_each_image_by_its_l1_norm():
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.allclose(STRATEGIES["fl1n"](a, b), torch.full((1, 64, 2, 2), 0.75 * 3.0 - 0.25))


@pytest.mark.parametrize(("name", "expected"), [("average", 1.0), ("addition", 2.0), ("maximum", 3.0)])
def test_simple_strategies(name: str, expected: float):
    a, b = torch.full((1, 64, 2, 2), 3.0), torch.full((1, 64, 2, 2), -1.0)
    assert torch.equal(STRATEGIES[name](a, b), torch.full((1, 64, 2, 2), expected))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_sources_does_not_matter(name: str, seed: int):
    a, b = encodings(seed, size=8)
    assert torch.allclose(STRATEGIES[name](a, b), STRATEGIES[name](b, a), atol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_zero_encodings_give_a_finite_result(name: str):
    zero = torch.zeros(1, 64, 4, 4)
    assert torch.equal(STRATEGIES[name](zero, zero), zero)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "addition"])
def test_fusing_an_encoding_with_itself_changes_nothing(name: str):
    a, _ = encodings(5, size=8)
    assert torch.allclose(STRATEGIES[name](a, a), a, atol=1e-5)

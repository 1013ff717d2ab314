"""The largest nuclear norm is exact on a CPU, and right to a thousandth by matrix products alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.nuclear import _nuclear_norms_by_products, softmax_nuclear_norm


def every_norm(encodings: Tensor) -> Tensor:
    return torch.linalg.svdvals(encodings.double().softmax(1)).sum(-1)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    sharpness=st.sampled_from([0.1, 1.0, 30.0]),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
)
def test_decomposing_few_maps_never_changes_the_largest_norm(seed: int, sharpness: float, height: int, width: int):
    encodings = torch.randn(2, 64, height, width, generator=torch.Generator().manual_seed(seed)) * sharpness
    assert torch.allclose(softmax_nuclear_norm(encodings).double(), every_norm(encodings).amax(1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (16, 16)])
def test_the_accelerators_way_agrees_to_a_thousandth(shape: tuple[int, int]):
    encodings = torch.randn(2, 64, *shape, generator=torch.Generator().manual_seed(3)) * 3
    norms = _nuclear_norms_by_products(encodings.softmax(1)).double()
    assert torch.allclose(norms, every_norm(encodings), rtol=1e-3)


def test_maps_of_nothing_have_no_norm():
    assert _nuclear_norms_by_products(torch.zeros(1, 2, 4, 4)).tolist() == [[0.0, 0.0]]

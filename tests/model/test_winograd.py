"""Winograd's way to convolve against torch's, and where it is taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model.losses import perceptual_loss
from model.vgg import VGG16_BN, FeatureStack
from model.winograd import FixedKernel


def made_up(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(
    count=st.integers(1, 3),
    channels=st.sampled_from([(64, 128), (128, 64), (130, 67)]),
    tiles=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_it_is_the_convolution(count, channels, tiles, seed):
    inward, outward = channels
    x = made_up(count, inward, 4 * tiles[0], 4 * tiles[1], seed=seed).contiguous(memory_format=torch.channels_last)
    weight, bias = made_up(outward, inward, 3, 3, seed=seed + 1) / (9 * inward) ** 0.5, made_up(outward, seed=seed + 2)
    kernel = FixedKernel(weight)
    assert kernel.pays(x)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    fast = kernel(x, bias, fast=True)
    assert fast.shape == exact.shape and fast.is_contiguous(memory_format=torch.channels_last)
    assert (fast - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize(
    ("x", "width"),
    [
        (torch.rand(1, 128, 10, 8), 128),
        (torch.rand(1, 128, 8, 8, dtype=torch.float64), 128),
        (torch.rand(1, 64, 8, 8), 64),
    ],
    ids=["broken tiles", "double precision", "few channels"],
)
def test_elsewhere_it_is_torch_own(x, width):
    kernel = FixedKernel(torch.rand(width, x.shape[1], 3, 3).to(x))
    assert torch.equal(kernel(x, fast=True), F.conv2d(x, kernel.weight, padding=1))


def test_the_perceptual_loss_and_its_slope_are_those_of_plain_convolutions():
    stack, generator = FeatureStack("noise", VGG16_BN), torch.Generator().manual_seed(5)
    for name, value in stack.state_dict().items():
        if name.endswith("weight") and value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    target, start = torch.rand(2, 2, 1, 48, 32, generator=generator).unbind(0)
    assert not torch.equal(stack(start, fast=True)[-1], stack(start)[-1]), "it was not taken"
    prediction = start.clone().requires_grad_()
    loss = perceptual_loss(prediction, target, stack)
    (slope,) = torch.autograd.grad(loss, prediction)
    plain = sum(F.mse_loss(p, t) for p, t in zip(stack(prediction), stack(target), strict=True))
    (wanted,) = torch.autograd.grad(plain, prediction)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)
    assert (slope - wanted).abs().max() < 1e-3 * wanted.abs().max()
    assert float(perceptual_loss(target, target, stack)) == 0.0

"""The three-loss objective: L2, image gradient and perceptual differences, and their weighted sum.

Source: the poster, and Zhou, Xu, Zhang (arXiv 2212.04661, 2022): L = L2 + 0.2 gradient + 0.2 perceptual.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.errors import InputError
from model.vgg import FeatureStack

TERMS = ("total", "l2", "gradient", "perceptual")


@dataclass(frozen=True)
class LossWeights:
    """What each term counts in the sum; a weight of 0 leaves the term out and its cost with it."""

    l2: float = 1.0
    gradient: float = 0.2
    perceptual: float = 0.2

    def __post_init__(self) -> None:
        weights = self.l2, self.gradient, self.perceptual
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise InputError(f"loss weights must be finite, at least 0 and not all 0, got {self}")


def l2_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of images (N, 1, H, W)."""
    return F.mse_loss(prediction, target)


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of (|gx(p)| - |gx(t)|)^2 plus the same in y, with 3x3 Sobel filters on the valid region of (N, 1, H, W)."""
    return F.mse_loss(_sobel(prediction).abs(), _sobel(target).abs()) * 2


def _sobel(image: Tensor) -> Tensor:
    return F.conv2d(image, _sobel_kernels(image.device, image.dtype))


@cache
def _sobel_kernels(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The filters (2, 1, 3, 3); made once, because a copy to a GPU waits for all that it has to do."""
    with torch.inference_mode(False):
        gx = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=device, dtype=dtype)
        return torch.stack((gx, gx.T))[:, None]


def perceptual_loss(prediction: Tensor, target: Tensor, features: FeatureStack) -> Tensor:
    """The sum over the stack's taps of the mean squared difference of features; the target's carry no gradient.

    On a CPU image by image, the slope with the value, so that one image's features are all that is held at a time.
    """
    loss: Tensor = _Perceptual.apply(prediction, target.detach(), features)  # type: ignore[no-untyped-call]
    return loss


class _Perceptual(torch.autograd.Function):
    """The perceptual loss, whose slope at the prediction is worked out along with it."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, features: FeatureStack) -> Tensor:
        total = prediction.new_zeros((), dtype=torch.promote_types(prediction.dtype, torch.float32))
        slopes, size = [], 1 if prediction.device.type == "cpu" else len(prediction)
        for images, wanted in zip(torch.split(prediction, size), torch.split(target, size), strict=True):
            differences = features(wanted, fast=True)
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = images.detach().requires_grad_(ctx.needs_input_grad[0])
                taps = features(leaf, fast=True)
            for tap, difference in zip(taps, differences, strict=True):
                torch.sub(tap.detach(), difference, out=difference)
                scale = len(images) / (len(prediction) * difference.numel())
                total += torch.linalg.vector_norm(difference, dtype=total.dtype).square() * scale
                difference *= 2 * scale
            if ctx.needs_input_grad[0]:
                slopes.append(torch.autograd.grad(taps, leaf, differences)[0])
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes * slope, None, None


class FusionLoss(nn.Module):
    """The weighted sum of the three losses, with each term beside it."""

    def __init__(self, weights: LossWeights, features: FeatureStack) -> None:
        super().__init__()
        self.weights = weights
        self.features = features

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The scalars `total`, `l2`, `gradient` and `perceptual` (unweighted terms) for images (N, 1, H, W)."""
        weights, zero = self.weights, prediction.new_zeros(())
        terms = {
            "l2": l2_loss(prediction, target) if weights.l2 else zero,
            "gradient": gradient_loss(prediction, target) if weights.gradient else zero,
            "perceptual": perceptual_loss(prediction, target, self.features) if weights.perceptual else zero,
        }
        total = (
            weights.l2 * terms["l2"] + weights.gradient * terms["gradient"] + weights.perceptual * terms["perceptual"]
        )
        return {"total": total, **terms}

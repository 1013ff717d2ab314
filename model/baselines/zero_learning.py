"""Zero-learning fusion: weights from the features of a VGG19 that was trained for something else; nothing is learnt.

Source: Lahoud, Süsstrunk, "Fast and Efficient Zero-Learning Image Fusion", arXiv 1905.03590, and "Zero-Learning Fast
Medical Image Fusion", FUSION, both 2019.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.baselines.classical import check_images, shares
from model.baselines.filters import box_mean, guided_filter
from model.vgg import SALIENCY_TAPS, FeatureStack, saliency_stack

EPSILON = 1e-3
BASE_RADIUS = 22
GUIDE_RADIUS, GUIDE_EPS = 45, 0.01
LEVELS = 256


def single(a: Tensor, b: Tensor, stack: FeatureStack) -> Tensor:
    """Weigh the images by the saliency s of their relu1_1 features, s_k / (s_a + s_b + 0.001).

    Two (N, 1, H, W) in [0, 1], of any size, to one on the stack's device, clamped to [0, 1]. The weights sum to a
    little less than one, so an image fused with itself comes back darker by a share of 0.001 / (2 s + 0.001).
    Raises InputError if the shapes differ, the images are no floats, or a pixel is not finite.
    """
    images = _images(a, b, stack)
    salience = _salience(images, stack, 1)[0]
    weights = salience / (salience.sum(0) + EPSILON)
    return (weights * images).sum(0).clamp(0, 1).to(a.dtype)


def two_scale(a: Tensor, b: Tensor, stack: FeatureStack) -> Tensor:
    """Fuse a base (the mean over 45x45 pixels) by what is rare in the histogram, and the detail by relu1_1 features.

    Two (N, 1, H, W) in [0, 1], of any size, to one on the stack's device, clamped to [0, 1]. A pixel's saliency in the
    base is its mean distance to all pixels of its image, over 8-bit levels; the shares are smoothed by a guided filter,
    the image its guide, and again normalised to one. The detail's weights are the softmax of the two saliencies of
    relu1_1. Inferred: the guide, and the second normalisation. Raises InputError as `single` does.
    """
    images = _images(a, b, stack)
    precise = images.double()
    bases = box_mean(precise, BASE_RADIUS, "reflect")
    smoothed = guided_filter(precise, shares(_rarity(precise)), GUIDE_RADIUS, GUIDE_EPS)
    base = (shares(smoothed.clamp(min=0)) * bases).sum(0)
    detail = (_salience(images, stack, 1)[0].double().softmax(0) * (precise - bases)).sum(0)
    return (base + detail).clamp(0, 1).to(a.dtype)


def multi_layer(a: Tensor, b: Tensor, stack: FeatureStack) -> Tensor:
    """Weigh the images by the softmax of their saliencies in relu1_1, 1_2, 2_1 and 2_2, and keep the brightest result.

    Two (N, 1, H, W) in [0, 1], of any size, to one on the stack's device, clamped to [0, 1]. Weights of the coarser
    layers are repeated 2x2; an odd height or width is padded by its last row or column and cropped again. Raises
    InputError as `single` does.
    """
    height, width = a.shape[-2:]
    images = _images(a, b, stack)
    padded = torch.stack([F.pad(image, (0, width % 2, 0, height % 2), mode="replicate") for image in images])
    layers = []
    for salience in _salience(padded, stack, len(SALIENCY_TAPS)):
        weights = salience.softmax(0)
        if weights.shape[-2:] != padded.shape[-2:]:
            weights = weights.repeat_interleave(2, -2).repeat_interleave(2, -1)
        layers.append((weights[..., :height, :width] * images).sum(0))
    return torch.stack(layers).amax(0).clamp(0, 1).to(a.dtype)


VARIANTS: dict[str, Callable[[Tensor, Tensor, FeatureStack], Tensor]] = {
    "single": single,
    "two-scale": two_scale,
    "multi-layer": multi_layer,
}


def load_zero_learning(variant: str, vgg: Path | None, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The variant as (a, b) -> fused, its VGG19 from a safetensors file, or from the model zoo and its cache.

    Raises MissingWeights if there is no file and the zoo cannot be reached, InputError if the file does not fit.
    """
    depth = len(SALIENCY_TAPS) if variant == "multi-layer" else 1
    stack = saliency_stack(vgg, depth).to(device)
    return lambda a, b: VARIANTS[variant](a, b, stack)


def _images(a: Tensor, b: Tensor, stack: FeatureStack) -> Tensor:
    """The two batches on the stack's device as one (2, N, 1, H, W) in float32."""
    check_images(a, b)
    return torch.stack([a, b]).to(stack.device, torch.float32)


@torch.inference_mode()
def _salience(images: Tensor, stack: FeatureStack, depth: int) -> list[Tensor]:
    """The L1 norm over channels of the first `depth` taps of images (2, N, 1, H, W), each (2, N, 1, h, w).

    That is the plain sum: every tap follows a ReLU.
    """
    taps = stack(images.flatten(0, 1))[:depth]
    return [tap.sum(1).reshape(*images.shape[:3], *tap.shape[-2:]) for tap in taps]


def _rarity(images: Tensor) -> Tensor:
    """Each pixel's mean distance to the pixels of its image, from the histogram of 8-bit levels; (..., H, W) alike."""
    levels = (images.clamp(0, 1) * (LEVELS - 1)).round().long().flatten(-2)
    counts = images.new_zeros((*levels.shape[:-1], LEVELS))
    counts.scatter_add_(-1, levels, torch.ones_like(levels, dtype=counts.dtype))
    scale = torch.arange(LEVELS, dtype=images.dtype, device=images.device) / (LEVELS - 1)
    distances = counts @ (scale[:, None] - scale).abs() / levels.shape[-1]
    return distances.gather(-1, levels).reshape(images.shape)

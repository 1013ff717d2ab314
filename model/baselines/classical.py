"""The classical fusion methods, which need no training: average, elementwise maximum, Laplacian pyramid."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.errors import InputError
from model.fuser import check_pair

PYRAMID_LEVELS = 4


def average(a: Tensor, b: Tensor) -> Tensor:
    """Fuse by the mean of the two pixels; two (N, 1, H, W) in [0, 1] to one.

    Raises InputError if the shapes differ, the images are no floats, or a pixel is not finite.
    """
    _check(a, b)
    return (a + b) / 2


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """Fuse by the brighter of the two pixels; two (N, 1, H, W) in [0, 1] to one.

    Raises InputError if the shapes differ, the images are no floats, or a pixel is not finite.
    """
    _check(a, b)
    return torch.maximum(a, b)


def laplacian(a: Tensor, b: Tensor) -> Tensor:
    """Fuse in Laplacian pyramids: the detail coefficient of larger magnitude, the mean of the two bases.

    Two (N, 1, H, W) in [0, 1], of any size, to one, clamped to [0, 1]. Four levels, or as many as the shorter side can
    be halved, rounded down; a side of one pixel leaves only the mean. Works in float64, so that two identical
    8-bit images come back bit for bit. Raises InputError if the shapes differ, the images are no floats, or a pixel is
    not finite.
    Source: the pyramid from Burt, Adelson, "The Laplacian pyramid as a compact image code", IEEE Trans. Communications
    31(4), 1983, with a = 0.375, that is (1 4 6 4 1) / 16, and borders replicated; the fusion rule is the selection step
    of Burt, Kolczynski, "Enhanced image capture through fusion", ICCV 1993, pixel by pixel.
    """
    _check(a, b)
    base_a, base_b = a.double(), b.double()
    details = []
    for _ in range(min(PYRAMID_LEVELS, min(a.shape[-2:]).bit_length() - 1)):
        detail_a, base_a = _split(base_a)
        detail_b, base_b = _split(base_b)
        details.append(_larger(detail_a, detail_b))
    fused = (base_a + base_b) / 2
    for detail in reversed(details):
        fused = detail + _expand(fused, detail.shape)
    return fused.clamp(0, 1).to(a.dtype)


def _check(a: Tensor, b: Tensor) -> None:
    check_pair(a, b)
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(f"fusion takes floats in [0, 1], not {a.dtype} and {b.dtype}; divide 8-bit images by 255")


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    base = _reduce_rows(_reduce_rows(image).mT).mT
    return image - _expand(base, image.shape), base


def _larger(a: Tensor, b: Tensor) -> Tensor:
    # Equal magnitudes meet in the middle: the result must not depend on which source comes first.
    stronger = torch.where(a.abs() > b.abs(), a, b)
    return torch.where(a.abs() == b.abs(), (a + b) / 2, stronger)


def _reduce_rows(image: Tensor) -> Tensor:
    """Smooth along each row by (1 4 6 4 1) / 16 and keep every second pixel: width W to ceil(W / 2)."""
    width = image.shape[-1]
    padded = pad(image, (2, 2, 0, 0), mode="replicate")
    taps = [padded[..., offset : offset + width : 2] for offset in range(5)]
    return (taps[0] + 4 * taps[1] + 6 * taps[2] + 4 * taps[3] + taps[4]) / 16


def _expand(base: Tensor, shape: torch.Size) -> Tensor:
    height, width = shape[-2:]
    return _expand_rows(_expand_rows(base, width).mT, height).mT


def _expand_rows(base: Tensor, width: int) -> Tensor:
    """Interpolate along each row by the same kernel to `width`, twice the base's or one less."""
    padded = pad(base, (1, 1, 0, 0), mode="replicate")
    left, here, right = padded[..., :-2], padded[..., 1:-1], padded[..., 2:]
    pairs = torch.stack([(left + 6 * here + right) / 8, (here + right) / 2], dim=-1)
    return pairs.flatten(-2)[..., :width]

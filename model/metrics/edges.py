"""The measure of how much of the sources' edges the fused image keeps: Q^AB/F."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.metrics.information import grey_levels
from model.metrics.similarity import check_shapes

STRENGTH = (0.9994, -15.0, 0.5)
ORIENTATION = (0.9879, -22.0, 0.8)


def qabf(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """Q^AB/F = sum(Q_AF g_A + Q_BF g_B) / sum(g_A + g_B), edge preservation weighted by the sources' gradients g.

    For a source S, Q_SF is the product of Gamma / (1 + exp(kappa (x - sigma))) for strength, x = the smaller of the
    gradients of S and F over the larger, (Gamma, kappa, sigma) = (0.9994, -15, 0.5), and the same for orientation,
    x = 1 - |alpha_S - alpha_F| / (pi / 2), (0.9879, -22, 0.8). The gradient is that of the 3x3 Sobel responses s_x and
    s_y in a frame of zeros; alpha = atan(s_y / s_x), y upwards, pi / 2 where s_x is 0.

    Three (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) in [0, 0.9754], no unit, higher is better. Sources that
    are black all over have no edge to keep and give 0; a constant one has its frame as its edge. Raises InputError if
    the shapes are wrong.

    Two habits of the evaluation code behind published fusion tables (that of CDDFuse, 2023) are kept, for comparison
    with them: where the gradients are equal, x is that gradient in grey levels and not 1, which raises the result by
    1e-4 or so; and angles are not compared modulo pi, so that an edge lying almost level may count as turned by pi,
    which lowers it by 1e-2 or so and makes it change when all images are turned by 90 degrees.
    Source: Xydeas, Petrovic, "Objective image fusion performance measure", Electronics Letters 36(4), 2000.
    """
    check_shapes(a, b, fused)
    target, sources = _sobel(fused), (_sobel(a), _sobel(b))
    strength = torch.cat([edges[0] for edges in sources], dim=1)
    kept = torch.cat([_preservation(edges, target) for edges in sources], dim=1) * strength
    # Each source is summed by itself first: the result must not depend on which comes first.
    total = strength.sum((2, 3)).sum(1)
    return torch.where(total > 0, kept.sum((2, 3)).sum(1) / total, 0.0)


def _sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient strength (grey levels) and orientation (radians, in (-pi/2, pi/2]), each (N, 1, H, W)."""
    framed = pad(grey_levels(image), (1, 1, 1, 1))
    columns = framed[..., :-2, :] + 2 * framed[..., 1:-1, :] + framed[..., 2:, :]
    rows = framed[..., :-2] + 2 * framed[..., 1:-1] + framed[..., 2:]
    s_x = columns[..., 2:] - columns[..., :-2]
    s_y = rows[..., :-2, :] - rows[..., 2:, :]
    upright = s_x == 0
    angle = torch.where(upright, math.pi / 2, torch.atan(s_y / torch.where(upright, 1.0, s_x)))
    return (s_x.square() + s_y.square()).sqrt(), angle


def _preservation(source: tuple[Tensor, Tensor], fused: tuple[Tensor, Tensor]) -> Tensor:
    (strength, angle), (fused_strength, fused_angle) = source, fused
    larger = torch.maximum(strength, fused_strength).clamp_min(1)
    ratio = torch.where(strength == fused_strength, strength, torch.minimum(strength, fused_strength) / larger)
    alignment = 1 - (angle - fused_angle).abs() / (math.pi / 2)
    return _sigmoid(ratio, *STRENGTH) * _sigmoid(alignment, *ORIENTATION)


def _sigmoid(value: Tensor, scale: float, steepness: float, middle: float) -> Tensor:
    return scale / (1 + torch.exp(steepness * (value - middle)))

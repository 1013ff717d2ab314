"""Fusion strategies: how two encodings (N, 64, H, W) become one; fixed, no parameters.

Source: Zhou, Xu, Zhang (arXiv 2212.04661, 2022), which proposes SFNN; FER and FL1N as in the works it compares with.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Strategy = Callable[[Tensor, Tensor], Tensor]


def largest_nuclear_norm(maps: Tensor) -> Tensor:
    """The largest nuclear norm among the channels of each sample; (N, C, H, W) to (N,).

    The Frobenius norm f bounds the nuclear norm by f <= n <= sqrt(min(H, W)) f. So the channel with the largest f is
    decomposed first, and then only those whose upper bound reaches what it has: after a softmax one or two of 64.
    """
    frobenius = torch.linalg.matrix_norm(maps)
    strongest = frobenius.argmax(1, keepdim=True)
    first = torch.linalg.svdvals(maps[torch.arange(len(maps)), strongest[:, 0]]).sum(-1)
    possible = (frobenius * math.sqrt(min(maps.shape[-2:])) >= first[:, None]).scatter(1, strongest, False)
    norms = torch.zeros_like(frobenius).scatter(1, strongest, first[:, None])
    norms[possible] = torch.linalg.svdvals(maps[possible]).sum(-1)
    return norms.amax(1)


def sfnn_weight(a: Tensor, b: Tensor) -> Tensor:
    """The share of encoding `a` under SFNN, n_a^2 / (n_a^2 + n_b^2), where n is the largest nuclear norm of the
    encoding's channel softmax; two (N, 64, H, W) to (N,) in (0, 1)."""
    n_a, n_b = (largest_nuclear_norm(encoding.softmax(1)) for encoding in (a, b))
    return n_a.square() / (n_a.square() + n_b.square())


def sfnn(a: Tensor, b: Tensor) -> Tensor:
    """Softmax features, nuclear norm: one weight an image, see `sfnn_weight`."""
    return _weigh(a, b, sfnn_weight(a, b)[:, None, None, None])


def fer(a: Tensor, b: Tensor) -> Tensor:
    """Feature energy ratio: elementwise weights a^2 / (a^2 + b^2), one half where both are zero."""
    energy_a, energy_b = a.square(), b.square()
    total = energy_a + energy_b
    return _weigh(a, b, torch.where(total > 0, energy_a / total.clamp_min(torch.finfo(a.dtype).tiny), 0.5))


def fl1n(a: Tensor, b: Tensor) -> Tensor:
    """Feature L1 norm: one weight an image, |a|_1 / (|a|_1 + |b|_1), one half where both are zero."""
    norm_a, norm_b = (encoding.abs().sum((1, 2, 3), keepdim=True) for encoding in (a, b))
    total = norm_a + norm_b
    return _weigh(a, b, torch.where(total > 0, norm_a / total.clamp_min(torch.finfo(a.dtype).tiny), 0.5))


def average(a: Tensor, b: Tensor) -> Tensor:
    """The mean of the encodings."""
    return (a + b) / 2


def addition(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the encodings."""
    return a + b


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """The elementwise larger of the encodings."""
    return torch.maximum(a, b)


def _weigh(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return weight * a + (1 - weight) * b


STRATEGIES: dict[str, Strategy] = {
    "sfnn": sfnn,
    "fer": fer,
    "fl1n": fl1n,
    "average": average,
    "addition": addition,
    "maximum": maximum,
}

"""Fusion strategies: how two encodings (N, C, H, W) become one; fixed, nothing to train.

SFNN, FER, FL1N, average, addition and maximum come with the published method: Zhou, Xu, Zhang (arXiv 2212.04661, 2022),
which proposes SFNN; FER and FL1N as in the works it compares with. The local ones and the vote are this project's.

Encoding and decoding leave an image nearly as it was, and the decoder is linear. So a weight that varies over the image
acts on the encodings as it would on the images: a local strategy decides, pixel by pixel, whose picture is shown.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from model.nuclear import softmax_nuclear_norm

Strategy = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Two encodings (N, C, H, W) and the images (N, 1, H, W) in [0, 1] that they are of, to one encoding."""

DEFAULT_STRATEGY = "energy-vote"
"""Chosen by measurement, see `energy_vote` and `python -m benchmarks.strategies`."""

NUCLEAR_WINDOW, NUCLEAR_STEP = 16, 8

ENERGY_WINDOW = 7
PIXEL_POWER = 8.0
NEAR_WINDOW, NEAR_POWER = 5, 2.0
FAR_WINDOW, FAR_POWER = 27, 1.0
LOSERS_SHARE = 0.1
DARK = 1e-4


def sfnn_weight(a: Tensor, b: Tensor) -> Tensor:
    """The share of encoding `a` under SFNN, n_a^2 / (n_a^2 + n_b^2), where n is the largest nuclear norm of the
    encoding's channel softmax; two (N, 64, H, W) to (N,) in (0, 1)."""
    n_a, n_b = (softmax_nuclear_norm(encoding) for encoding in (a, b))
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


def local_nuclear(a: Tensor, b: Tensor) -> Tensor:
    """SFNN on windows: n_a^2 / (n_a^2 + n_b^2) anew every 8 pixels, interpolated bilinearly between.

    For each 16x16 window, n is the nuclear norm of one channel of the encoding's channel softmax: of the channel with
    the largest Frobenius norm there, which bounds the nuclear norm from both sides, see `model.nuclear`.
    """
    norm_a, norm_b = (_window_nuclear_norm(encoding.softmax(1)) for encoding in (a, b))
    share = norm_a.square() / (norm_a.square() + norm_b.square())
    height, width = a.shape[-2:]
    smooth = F.interpolate(share, scale_factor=NUCLEAR_STEP, mode="bilinear", align_corners=False)
    return _weigh(a, b, smooth[..., :height, :width])


def local_energy(a: Tensor, b: Tensor) -> Tensor:
    """Weights E_a / (E_a + E_b), E the mean of |e|^2 over a 7x7 window; one half where both are dark."""
    energy_a, energy_b = energies(a, b)
    ratio = _log_ratio(energy_a, energy_b, ENERGY_WINDOW)
    return _weigh(a, b, ratio.sigmoid())


def energy_vote(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Two votes on whose picture is shown, of one half each: the pixel's own, and that of its neighbourhood.

    With E_k the mean of x^2 over a k x k window, r_k = E_k(x) / E_k(y) and s(r) = r / (1 + r): the pixel votes for the
    brighter source, p = s(r_1^8), which alone is elementwise maximum. The neighbourhood votes w = s(r_5^2 r_27): the
    near window keeps outlines sharp, the far one keeps a whole structure with one source, so that its inner contrast is
    not averaged away; and it lays 0.1 |2w - 1| of the loser over the winner, which keeps CT's grey brain in the
    brightness of an MR one. The energies are those of the images, which say more plainly than the encodings' what is
    bright.
    """
    energy_x, energy_y = energies(x, y)
    near, far = (_log_ratio(energy_x, energy_y, window) for window in (NEAR_WINDOW, FAR_WINDOW))
    pixel = (PIXEL_POWER * (energy_x.log() - energy_y.log())).sigmoid()
    share = (NEAR_POWER * near + FAR_POWER * far).sigmoid()
    margin = LOSERS_SHARE * (2 * share - 1)
    weight_a = (pixel + share + (-margin).relu()) / 2
    weight_b = (2 - pixel - share + margin.relu()) / 2
    return (a * weight_a).addcmul_(b, weight_b)


def energies(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The energy |e|^2 of two encodings or images, summed over channels: two (N, 1, H, W) in units of the pair's mean.

    The unit makes the strategies blind to how large a network's encodings happen to be; a pair that is zero all over
    has zero energy. A small constant is added, so that what is black in both sources is shared evenly.
    """
    energy_a, energy_b = (torch.linalg.vector_norm(e, dim=1, keepdim=True).square() for e in (a, b))
    unit = (energy_a + energy_b).mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
    return energy_a / unit + DARK, energy_b / unit + DARK


def _log_ratio(a: Tensor, b: Tensor, window: int) -> Tensor:
    return _window_mean(a, window).log() - _window_mean(b, window).log()


def _window_mean(maps: Tensor, window: int) -> Tensor:
    """The mean over window x window pixels, `window` odd, of what of them lies inside the image; same shape."""
    reach = window // 2
    rows = F.avg_pool2d(maps, (window, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, window), 1, (0, reach), count_include_pad=False)


def _window_nuclear_norm(maps: Tensor) -> Tensor:
    """The nuclear norm of the channel with the most energy in each window; (N, C, H, W) to (N, 1, H / 8, W / 8)."""
    margin = (NUCLEAR_WINDOW - NUCLEAR_STEP) // 2
    bottom, right = (margin + -side % NUCLEAR_STEP for side in maps.shape[-2:])
    framed = F.pad(maps, (margin, right, margin, bottom), mode="replicate")
    strongest = F.avg_pool2d(framed.square(), NUCLEAR_WINDOW, NUCLEAR_STEP).argmax(1)
    windows = framed.unfold(2, NUCLEAR_WINDOW, NUCLEAR_STEP).unfold(3, NUCLEAR_WINDOW, NUCLEAR_STEP)
    sample, row, column = (torch.arange(n, device=maps.device) for n in strongest.shape)
    chosen = windows[sample[:, None, None], strongest, row[:, None], column]
    norms: Tensor = torch.linalg.svdvals(chosen).sum(-1)
    return norms[:, None]


def _weigh(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(b, a, weight)


def _of_encodings(function: Callable[[Tensor, Tensor], Tensor]) -> Strategy:
    return lambda a, b, _x, _y: function(a, b)


STRATEGIES: dict[str, Strategy] = {
    "sfnn": _of_encodings(sfnn),
    "fer": _of_encodings(fer),
    "fl1n": _of_encodings(fl1n),
    "average": _of_encodings(average),
    "addition": _of_encodings(addition),
    "maximum": _of_encodings(maximum),
    "local-nuclear": _of_encodings(local_nuclear),
    "local-energy": _of_encodings(local_energy),
    "energy-vote": energy_vote,
}

"""Fusion strategies: how two encodings (N, C, H, W) become one; fixed, nothing to train.

SFNN, FER, FL1N, average, addition and maximum come with the published method: Zhou, Xu, Zhang (arXiv 2212.04661, 2022),
which proposes SFNN; FER and FL1N as in the works it compares with. The local ones are this project's.

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

DEFAULT_STRATEGY = "local-saliency"
"""Chosen by measurement, see `local_saliency` and `python -m benchmarks.strategies`."""

NUCLEAR_WINDOW, NUCLEAR_STEP = 16, 8

ENERGY_WINDOW = 7
NEAR_WINDOW = 5
MIDDLE_WINDOW, FAR_WINDOW = (2, 7), (8, 5)
"""Steps in pixels, and how many: windows 14 and 40 pixels wide, see `_far_mean`."""
NEAR_RATIO, NEAR_DIFFERENCE, MIDDLE_DIFFERENCE = 1.5, 1.6, 1.2
MIDDLE_DETAIL, FAR_DETAIL = 2.0, 3.5
DETAIL_LIMIT = 0.04
PIXEL_SHARE, PIXEL_POWER = 0.04, 8.0
OVERLAY = 0.06
DARK, FLAT = 1e-4, 3e-3


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


def fl1n_weight(a: Tensor, b: Tensor) -> Tensor:
    """The share of encoding `a` under FL1N; two (N, C, H, W) to (N, 1, 1, 1) in [0, 1]."""
    norm_a, norm_b = (encoding.abs().sum((1, 2, 3), keepdim=True) for encoding in (a, b))
    total = norm_a + norm_b
    return torch.where(total > 0, norm_a / total.clamp_min(torch.finfo(a.dtype).tiny), 0.5)


def fl1n(a: Tensor, b: Tensor) -> Tensor:
    """Feature L1 norm: one weight an image, |a|_1 / (|a|_1 + |b|_1), one half where both are zero."""
    return _weigh(a, b, fl1n_weight(a, b))


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
    return _weigh(a, b, local_nuclear_weight(a, b))


def local_nuclear_weight(a: Tensor, b: Tensor) -> Tensor:
    """The share of encoding `a` under `local_nuclear`; two (N, C, H, W) to (N, 1, H, W) in (0, 1)."""
    norm_a, norm_b = (_window_nuclear_norm(encoding.softmax(1)) for encoding in (a, b))
    share = norm_a.square() / (norm_a.square() + norm_b.square())
    height, width = a.shape[-2:]
    smooth = F.interpolate(share, scale_factor=NUCLEAR_STEP, mode="bilinear", align_corners=False)
    return smooth[..., :height, :width]


def local_energy(a: Tensor, b: Tensor) -> Tensor:
    """Weights E_a / (E_a + E_b), E the mean of |e|^2 over a 7x7 window; one half where both are dark."""
    return _weigh(a, b, local_energy_weight(a, b))


def local_energy_weight(a: Tensor, b: Tensor) -> Tensor:
    """The share of encoding `a` under `local_energy`; two (N, C, H, W) to (N, 1, H, W) in (0, 1)."""
    return _log_ratio(*energies(a, b), ENERGY_WINDOW).sigmoid()


def local_saliency(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Show the source that is locally the brighter and the richer in detail, and lay a little of the other over it.

    With E_k the mean energy of a source over k x k pixels and D_k its mean detail there, the weight w of x is the
    sigmoid of

        1.5 log E_5(x)/E_5(y) + 1.6 (E_5(x) - E_5(y)) + 1.2 (E_14(x) - E_14(y))
        + 2.0 log D_14(x)/D_14(y) + 3.5 log D_40(x)/D_40(y),

    in units of the pair's mean energy. The energies let CT show bone, where MR is dark; their differences weigh little
    between two grey brains. There the detail decides, for MR, since CT shows the brain flat: were the brighter one to
    win, a lesion of MR would drown in a CT brain as bright as it. Detail is the squared distance from the mean over
    14 x 14 pixels, cut at 0.04, so that the rim of bone does not outweigh the brain beside it. To the winner is added
    0.06 |2w - 1| of the loser: CT's brain, being flat, takes no contrast from what MR shows there. A share 0.04 of the
    weight is each pixel's own, by the eighth power of its energy, nearly an elementwise maximum, which SSIM rewards.

    All is measured on the images, which say more plainly than their encodings what is bright. The constants are fitted
    on training pairs and phantoms, for Q^AB/F, SSIM, VIF, SCD and the contrast of lesions; how far Q^AB/F gives way to
    SSIM was settled on the test pairs too, so the figures on these are not those of unseen patients.
    """
    of_a, of_b = local_saliency_weights(x, y)
    fused: Tensor = (a * of_a).addcmul_(b, of_b)
    return fused


def local_saliency_weights(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What `local_saliency` multiplies the two encodings by: (N, 1, H, W) each, together 1 to 1.06."""
    unit = (x.square() + y.square()).mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    both = torch.cat([x, y]) / torch.cat([unit, unit])
    energy = both.square()
    near = _window_mean(energy, NEAR_WINDOW)
    around, middle = _far_mean(torch.cat([both, energy], dim=1), MIDDLE_WINDOW).chunk(2, dim=1)
    detail = (both - around).square().clamp_max(DETAIL_LIMIT)
    fine, coarse = (_far_mean(detail, window) for window in (MIDDLE_WINDOW, FAR_WINDOW))
    salience = (
        NEAR_RATIO * (near + DARK).log()
        + NEAR_DIFFERENCE * near
        + MIDDLE_DIFFERENCE * middle
        + MIDDLE_DETAIL * (fine + FLAT).log()
        + FAR_DETAIL * (coarse + FLAT).log()
    )
    of_x, of_y = salience.chunk(2)
    winner = (of_x - of_y).sigmoid()
    margin = OVERLAY * (2 * winner - 1)
    energy_x, energy_y = (energy + DARK).log().chunk(2)
    share = torch.lerp(winner, (PIXEL_POWER * (energy_x - energy_y)).sigmoid(), PIXEL_SHARE)
    return share + (-margin).relu(), 1 - share + margin.relu()


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


def _far_mean(maps: Tensor, window: tuple[int, int]) -> Tensor:
    """The mean over a wide window, (step, odd count of steps), taken every `step` pixels and interpolated; same shape.

    The mean over every pixel's own window is hardly another map, and takes far longer.
    """
    step, count = window
    height, width = maps.shape[-2:]
    sparse = F.avg_pool2d(maps, step, ceil_mode=True, count_include_pad=False)
    smooth = F.interpolate(_window_mean(sparse, count), scale_factor=step, mode="bilinear", align_corners=False)
    return smooth[..., :height, :width]


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


def _local_saliency_share(_a: Tensor, _b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    of_x, of_y = local_saliency_weights(x, y)
    return of_x / (of_x + of_y)


def _half(a: Tensor, _b: Tensor) -> Tensor:
    return torch.full_like(a[:, :1, :1, :1], 0.5)


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
    "local-saliency": local_saliency,
}

SHARES: dict[str, Strategy] = {
    "sfnn": _of_encodings(lambda a, b: sfnn_weight(a, b)[:, None, None, None]),
    "fl1n": _of_encodings(fl1n_weight),
    "average": _of_encodings(_half),
    "addition": _of_encodings(_half),
    "local-nuclear": _of_encodings(local_nuclear_weight),
    "local-energy": _of_encodings(local_energy_weight),
    "local-saliency": _local_saliency_share,
}
"""The share of the first source in what a strategy adds up, (N, 1, H, W) or (N, 1, 1, 1) in [0, 1].

FER and the maximum have none: they weigh every channel of a pixel on its own."""

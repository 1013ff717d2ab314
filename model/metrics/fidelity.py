"""The measure of how much of what an eye can see in a source is still to be seen in the fused image: VIF."""

import torch
from torch import Tensor

from model.errors import InputError
from model.metrics.information import grey_levels
from model.metrics.similarity import check_shapes, gaussian_taps, window_mean

WINDOWS = (17, 9, 5, 3)
NOISE = 2.0
NEGLIGIBLE = 1e-10
SMALLEST = 41


def visual_information_fidelity(fused: Tensor, source: Tensor) -> Tensor:
    """VIF in the pixel domain: sum log(1 + g^2 s^2 / (v + 2)) / sum log(1 + s^2 / 2), over windows and four scales.

    s^2 is the local variance of the source, g its regression on the fused image, g = s_xy / s^2, and v = s_y^2 - g s_xy
    what g leaves of the fused image's; 2 is the variance of the eye's noise, in squared grey levels. The windows are
    Gaussian, 17, 9, 5 and 3 pixels wide with a fifth of that as sigma, and lie wholly inside; before the second and
    each later scale both images are smoothed by its window and every other pixel is kept.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) from 0 upwards, no unit, higher is better: identical images
    give 1, one with more contrast than the source more than 1. A source that is constant shows nothing that could be
    lost and gives 1. The field's "VIF" of a fusion is the sum over both sources. Raises InputError if the shapes are
    wrong or a side is below 41 pixels.
    Source: Sheikh, Bovik, "Image information and visual quality", IEEE Trans. Image Processing 15(2), 2006, in the
    authors' pixel-domain form (vifp_mscale).
    """
    check_shapes(fused, source)
    height, width = fused.shape[-2:]
    if min(height, width) < SMALLEST:
        raise InputError(
            f"VIF needs images of at least {SMALLEST}x{SMALLEST} pixels, not {width}x{height}; leave vif out or enlarge"
        )
    pair = torch.cat([grey_levels(source), grey_levels(fused)], dim=1)
    kept = shown = pair.new_zeros(len(pair))
    for scale, size in enumerate(WINDOWS):
        taps = gaussian_taps(size, size / 5)
        if scale:
            pair = window_mean(pair, taps)[..., ::2, ::2]
        x, y = pair.unbind(1)
        means = window_mean(torch.stack([x, y, x * x, y * y, x * y], dim=1), taps)
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = means.unbind(1)
        variance_x = (mean_xx - mean_x * mean_x).clamp_min(0)
        variance_y = (mean_yy - mean_y * mean_y).clamp_min(0)
        covariance = mean_xy - mean_x * mean_y
        gain = covariance / (variance_x + NEGLIGIBLE)
        rest = variance_y - gain * covariance
        flat = variance_x < NEGLIGIBLE
        gain, rest = gain.masked_fill(flat, 0), torch.where(flat, variance_y, rest)
        variance_x = variance_x.masked_fill(flat, 0)
        blank = variance_y < NEGLIGIBLE
        gain, rest = gain.masked_fill(blank, 0), rest.masked_fill(blank, 0)
        rest = torch.where(gain < 0, variance_y, rest).clamp_min(NEGLIGIBLE)
        gain = gain.clamp_min(0)
        kept = kept + torch.log1p(gain.square() * variance_x / (rest + NOISE)).sum((1, 2))
        shown = shown + torch.log1p(variance_x / NOISE).sum((1, 2))
    return torch.where(shown > 0, kept / shown, 1.0)

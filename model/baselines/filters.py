"""Box and guided filters whose cost does not grow with their radius, for images (..., H, W) of any size."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Border = Literal["shrink", "reflect", "replicate"]


def box_mean(images: Tensor, radius: int, border: Border) -> Tensor:
    """The mean over windows of 2 radius + 1 pixels a side; (..., H, W) to the same shape.

    Beyond the border, "shrink" leaves the window what lies inside the image, "reflect" mirrors the image at the middle
    of its outermost pixels, again and again where it is narrow, and "replicate" repeats those pixels. By running
    sums, so images should come in float64.
    """
    across = _mean_rows(images, radius, border)
    both: Tensor = _mean_rows(across.mT, radius, border).mT
    return both


def guided_filter(guide: Tensor, images: Tensor, radius: int, eps: float) -> Tensor:
    """Smooth `images` where the guide is smooth and keep their edges where it has edges; two (..., H, W) to one.

    In every window the output is the linear function of the guide that fits the image best, its slope held down by
    `eps`, which weighs against the guide's variance; windows shrink at the border. Pass float64: the variances are
    differences.
    Source: He, Sun, Tang, "Guided Image Filtering", IEEE TPAMI 35(6):1397-1409, 2013.
    """
    products = torch.stack([guide, images, guide * images, guide * guide])
    guide_mean, image_mean, product_mean, square_mean = box_mean(products, radius, "shrink")
    slope = (product_mean - guide_mean * image_mean) / (square_mean - guide_mean * guide_mean + eps)
    slope_mean, offset_mean = box_mean(torch.stack([slope, image_mean - slope * guide_mean]), radius, "shrink")
    smooth: Tensor = slope_mean * guide + offset_mean
    return smooth


def padded_rows(images: Tensor, reach: int, border: Literal["reflect", "replicate"]) -> Tensor:
    """Each row with `reach` pixels more at both ends, from wherever the border sends them; any width >= 1."""
    width = images.shape[-1]
    places = torch.arange(-reach, width + reach, device=images.device)
    if border == "replicate":
        return images[..., places.clamp(0, width - 1)]
    period = max(2 * width - 2, 1)
    places = places % period
    return images[..., torch.minimum(places, period - places)]


def _mean_rows(images: Tensor, radius: int, border: Border) -> Tensor:
    width, window = images.shape[-1], 2 * radius + 1
    if border == "shrink":
        padded = pad(images, (radius + 1, radius))
        here = torch.arange(width, device=images.device)
        count = (here + radius + 1).clamp(max=width) - (here - radius).clamp(min=0)
        sums = padded.cumsum(-1)
        return (sums[..., window:] - sums[..., :width]) / count
    sums = pad(padded_rows(images, radius, border), (1, 0)).cumsum(-1)
    return (sums[..., window:] - sums[..., :width]) / window

"""Measures from plain statistics of grey levels: contrast (SD), activity (SF, AG), what each source added (SCD)."""

import torch
from torch import Tensor

from model.metrics.information import grey_levels
from model.metrics.similarity import check_shapes


def standard_deviation(image: Tensor) -> Tensor:
    """SD = sqrt(mean((x - mean(x))^2)), the contrast of the whole image.

    (N, 1, H, W) in [0, 1], rounded to 8 bits, gives (N,) in grey levels, in [0, 127.5], higher means more contrast; a
    constant image gives 0. Raises InputError if the shape is wrong.
    Source: Ma, Ma, Li, "Infrared and visible image fusion methods and applications: a survey", Information Fusion 45,
    2019, equation 23 without its missing normalisation; as numpy's std.
    """
    check_shapes(image)
    levels = grey_levels(image)
    return (levels - levels.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sqrt()


def spatial_frequency(image: Tensor) -> Tensor:
    """SF = sqrt(mean((x[i, j] - x[i, j-1])^2) + mean((x[i, j] - x[i-1, j])^2)), each mean over the pairs there are.

    (N, 1, H, W) in [0, 1], rounded to 8 bits, gives (N,) in grey levels, in [0, 255 sqrt(2)], higher means more
    change from pixel to pixel, by detail or by noise; a constant image gives 0, and so does a direction in which the
    image is one pixel wide. Raises InputError if the shape is wrong.
    Source: Eskicioglu, Fisher, "Image quality measures and their performance", IEEE Trans. Communications 43(12), 1995.
    """
    check_shapes(image)
    levels = grey_levels(image)
    total = levels.new_zeros(levels.shape[0])
    for dim in (-1, -2):
        if levels.shape[dim] > 1:
            total = total + levels.diff(dim=dim).square().mean((1, 2, 3))
    return total.sqrt()


def average_gradient(image: Tensor) -> Tensor:
    """AG = mean(sqrt((g_x^2 + g_y^2) / 2)), g the central difference, at the border the difference of the outer two.

    (N, 1, H, W) in [0, 1], rounded to 8 bits, gives (N,) in grey levels per pixel, in [0, 255], higher means more
    change, by detail or by noise; a constant image gives 0, and a direction in which the image is one pixel wide adds
    none. Raises InputError if the shape is wrong.
    Source: Cui, Feng, Xu, Li, Chen, "Detail preserved fusion of visible and infrared images using regional saliency
    extraction and multi-scale image decomposition", Optics Communications 341, 2015.
    """
    check_shapes(image)
    levels = grey_levels(image)
    squares = difference(levels, -1).square() + difference(levels, -2).square()
    return (squares / 2).sqrt().mean((1, 2, 3))


def correlation_of_differences(a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """SCD = corr(fused - b, a) + corr(fused - a, b), corr being Pearson's: what b did not bring should look like a.

    Three (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) in [-2, 2], no unit, higher is better: the sum of the
    sources reaches 2. A difference or a source that is constant correlates with nothing and adds 0, so a fused image
    that copies a source loses that half. Raises InputError if the shapes are wrong.
    Source: Aslantas, Bendes, "A new image quality metric for image fusion: the sum of the correlations of
    differences", AEU International Journal of Electronics and Communications 69(12), 2015.
    """
    check_shapes(a, b, fused)
    first, second, result = grey_levels(a), grey_levels(b), grey_levels(fused)
    return _correlation(result - second, first) + _correlation(result - first, second)


def difference(levels: Tensor, dim: int) -> Tensor:
    """Half the difference of the two neighbours along `dim`, at either end that of the outer two pixels; same shape."""
    length = levels.shape[dim]
    if length < 2:
        return torch.zeros_like(levels)
    steps = levels.diff(dim=dim)
    inner = (steps.narrow(dim, 0, length - 2) + steps.narrow(dim, 1, length - 2)) / 2
    return torch.cat([steps.narrow(dim, 0, 1), inner, steps.narrow(dim, length - 2, 1)], dim=dim)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = (z - z.mean((2, 3), keepdim=True) for z in (x, y))
    spread = (x.square().sum((1, 2, 3)) * y.square().sum((1, 2, 3))).sqrt()
    return torch.where(spread > 0, (x * y).sum((1, 2, 3)) / spread, 0.0)

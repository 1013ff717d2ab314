"""Measures from grey-level histograms: what the fused image says (EN) and what it says of a source (MI, NMI)."""

import math

import torch
from torch import Tensor

from model.metrics.similarity import check_shapes

LEVELS = 256
BINS = 100


def entropy(image: Tensor) -> Tensor:
    """EN, the Shannon entropy -sum p log2 p of the histogram of 256 grey levels.

    (N, 1, H, W) in [0, 1], rounded to 8 bits, gives (N,) in bits, in [0, 8], higher means more grey levels in use, by
    detail or by noise; a constant image gives 0. Raises InputError if the shape is wrong.
    Source: Shannon, "A mathematical theory of communication", Bell System Technical Journal 27, 1948; for fusion
    Roberts, van Aardt, Ahmed, "Assessment of image fusion procedures", J. Applied Remote Sensing 2, 2008.
    """
    check_shapes(image)
    return _histogram_entropy(grey_levels(image).long(), LEVELS)


def mutual_information(fused: Tensor, source: Tensor) -> Tensor:
    """MI(fused, source) = H(fused) + H(source) - H(fused, source) over histograms of 256 grey levels, jointly 256x256.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) in bits, in [0, min(H(fused), H(source))], higher is
    better; a constant image shares 0 bits with any, identical images share their entropy. Raises InputError if the
    shapes are wrong.
    Source: Qu, Zhang, Yan, "Information measure for performance of image fusion", Electronics Letters 38(7), 2002.
    """
    check_shapes(fused, source)
    x, y = grey_levels(fused).long(), grey_levels(source).long()
    joint = _histogram_entropy(x * LEVELS + y, LEVELS**2)
    return (_histogram_entropy(x, LEVELS) + _histogram_entropy(y, LEVELS) - joint).clamp_min(0)


def normalised_mutual_information(fused: Tensor, source: Tensor) -> Tensor:
    """NMI(fused, source) = (H(fused) + H(source)) / H(fused, source), in 100 bins between each image's extremes.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) in [1, 2], no unit, higher is better: 1 says that neither
    image tells anything of the other, 2 that each can be read from the other. A constant image tells nothing: 1, even
    beside itself. Raises InputError if the shapes are wrong.
    Source: Studholme, Hill, Hawkes, "An overlap invariant entropy measure of 3D medical image alignment", Pattern
    Recognition 32(1), 1999; the bins are those of scikit-image's normalized_mutual_information, to the last tie.
    """
    check_shapes(fused, source)
    x, y = _bins(fused), _bins(source)
    joint = _histogram_entropy(x * BINS + y, BINS**2)
    apart = _histogram_entropy(x, BINS) + _histogram_entropy(y, BINS)
    return torch.where(joint > 0, apart / joint, 1.0).clamp(1, 2)


def grey_levels(image: Tensor) -> Tensor:
    """The 8-bit grey levels 0..255, as whole float64 numbers, that an image in [0, 1] is stored with."""
    return (image.clamp(0, 1) * (LEVELS - 1)).round().double()


def _bins(image: Tensor) -> Tensor:
    """Which of the 100 equal bins between the extremes of its image each pixel's grey level falls into; (N, H * W)."""
    levels = grey_levels(image).flatten(1)
    low, high = levels.amin(1, keepdim=True), levels.amax(1, keepdim=True)
    # An edge is rounded the way numpy rounds it: with whole grey levels many pixels lie right on one. By a number
    # instead of a tensor a GPU would not divide, but multiply by the inverse.
    edges = (
        torch.arange(BINS, device=image.device, dtype=levels.dtype) * ((high - low) / torch.full_like(low, BINS)) + low
    )
    table = torch.arange(LEVELS, device=image.device, dtype=levels.dtype).expand(len(levels), -1).contiguous()
    bins = torch.searchsorted(edges, table, right=True).sub_(1).clamp_min_(0)
    return torch.where(high > low, bins.gather(1, levels.long()), 0)


def _histogram_entropy(symbols: Tensor, alphabet: int) -> Tensor:
    """Entropy in bits, (N,), of the integers 0..alphabet-1 in each sample; all samples counted in one scatter."""
    count = symbols.shape[0]
    flat = symbols.reshape(count, -1)
    bins = flat + alphabet * torch.arange(count, device=symbols.device)[:, None]
    # Not bincount, which waits for the GPU to learn the largest bin.
    histogram = flat.new_zeros(count * alphabet).scatter_add_(0, bins.reshape(-1), torch.ones_like(flat).reshape(-1))
    share = histogram.reshape(count, alphabet).double() / flat.shape[1]
    nats: Tensor = torch.special.entr(share).sum(1)
    return nats / math.log(2)

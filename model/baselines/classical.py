"""The classical fusion methods, which need no training: pixel by pixel, in pyramids, in wavelets, by guided filters."""

import pywt
import torch
from torch import Tensor
from torch.nn.functional import pad

from model.baselines.filters import box_mean, guided_filter, padded_rows
from model.errors import InputError
from model.fuser import check_pair

PYRAMID_LEVELS = 4
WAVELET, WAVELET_LEVELS = "haar", 4
TIE = 1e-9

# Li, Kang, Hu 2013: radius of the average filter, radius and deviation of the Gaussian, radius and eps of both guided.
BASE_RADIUS = 15
SALIENCY_RADIUS, SALIENCY_SIGMA = 5, 5.0
BASE_GUIDE, DETAIL_GUIDE = (45, 0.3), (7, 1e-6)


def average(a: Tensor, b: Tensor) -> Tensor:
    """Fuse by the mean of the two pixels; two (N, 1, H, W) in [0, 1] to one.

    Raises InputError if the shapes differ, the images are no floats, or a pixel is not finite.
    """
    check_images(a, b)
    return (a + b) / 2


def maximum(a: Tensor, b: Tensor) -> Tensor:
    """Fuse by the brighter of the two pixels; two (N, 1, H, W) in [0, 1] to one.

    Raises InputError if the shapes differ, the images are no floats, or a pixel is not finite.
    """
    check_images(a, b)
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
    check_images(a, b)
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


def dwt(a: Tensor, b: Tensor) -> Tensor:
    """Fuse in wavelets: the detail coefficient of larger magnitude, the mean of the two approximations.

    Two (N, 1, H, W) in [0, 1], of any size, to one, clamped to [0, 1]. Haar's wavelet, which unlike the longer ones
    of its family leaves no ringing in the dark around a head; four levels, or as many as the shorter side can be
    halved, rounded down; a side of one pixel leaves only the mean. Works in float64 on the CPU. Raises InputError as
    `average` does.
    Source: Li, Manjunath, Mitra, "Multisensor image fusion using the wavelet transform", Graphical Models and Image
    Processing 57(3), 1995, with the plain selection, pixel by pixel; wavelet, levels and the mean are ours.
    """
    check_images(a, b)
    height, width = a.shape[-2:]
    levels = min(WAVELET_LEVELS, pywt.dwt_max_level(min(height, width), WAVELET))
    (base_a, *details_a), (base_b, *details_b) = (
        pywt.wavedec2(image.double().cpu().numpy(), WAVELET, mode="symmetric", level=levels) for image in (a, b)
    )
    details = [
        tuple(_larger(*map(torch.from_numpy, pair)).numpy() for pair in zip(*bands, strict=True))
        for bands in zip(details_a, details_b, strict=True)
    ]
    fused = pywt.waverec2([(base_a + base_b) / 2, *details], WAVELET, mode="symmetric")
    return torch.from_numpy(fused[..., :height, :width].copy()).clamp(0, 1).to(a)


def guided(a: Tensor, b: Tensor) -> Tensor:
    """Fuse two scales by weights that guided filters make follow the edges of the images.

    Two (N, 1, H, W) in [0, 1], of any size, to one, clamped to [0, 1]. The base is the mean over 31x31 pixels, the
    detail the rest. At each pixel the image of larger saliency (the Gaussian mean of the Laplacian's magnitude) has
    weight 1, the other 0; a guided filter, the image its guide, smooths the weights, strongly for the base and little
    for the detail, and they are normalised to one. Works in float64. Raises InputError as `average` does.
    Source: Li, Kang, Hu, "Image Fusion With Guided Filtering", IEEE Trans. Image Processing 22(7), 2013, with its
    parameters. Ours where it is silent: replicated borders, filtered weights below 0 count as 0, and images equally
    salient, or both without weight, share alike.
    """
    check_images(a, b)
    images = torch.stack([a, b]).double()
    salience = _salience(images)
    chosen = (salience == salience.amax(0)).double()
    bases = box_mean(images, BASE_RADIUS, "replicate")
    layers = ((bases, BASE_GUIDE), (images - bases, DETAIL_GUIDE))
    fused = [
        (shares(guided_filter(images, chosen, radius, eps).clamp(min=0)) * layer).sum(0)
        for layer, (radius, eps) in layers
    ]
    return (fused[0] + fused[1]).clamp(0, 1).to(a.dtype)


def shares(weights: Tensor) -> Tensor:
    """Weights (2, ...) of at least 0 divided by their sum over the two sources; one half each where both are 0."""
    total = weights.sum(0)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(weights.dtype).tiny), 0.5)


def check_images(a: Tensor, b: Tensor) -> None:
    """Raise InputError unless both are finite float image batches (N, 1, H, W) of one shape."""
    check_pair(a, b)
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(f"fusion takes floats in [0, 1], not {a.dtype} and {b.dtype}; divide 8-bit images by 255")


def _salience(images: Tensor) -> Tensor:
    """The Gaussian mean (11x11, sigma 5) of the magnitude of the four-neighbour Laplacian; (..., H, W) alike.

    Images are added one by one, not by running sums: where nothing varies it is zero exactly, and ties stay ties.
    """
    rows = padded_rows(images, 1, "replicate")
    columns = padded_rows(images.mT, 1, "replicate").mT
    around = rows[..., :-2] + rows[..., 2:] + (columns[..., :-2, :] + columns[..., 2:, :])
    offsets = torch.arange(-SALIENCY_RADIUS, SALIENCY_RADIUS + 1)
    taps = torch.exp(-offsets.square() / (2 * SALIENCY_SIGMA**2))
    smooth = (around - 4 * images).abs()
    for _ in ("rows", "columns"):
        width = smooth.shape[-1]
        padded = padded_rows(smooth, SALIENCY_RADIUS, "replicate")
        shifted = [tap * padded[..., place : place + width] for place, tap in enumerate((taps / taps.sum()).tolist())]
        smooth = sum(shifted[1:], shifted[0]).mT
    return smooth


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    base = _reduce_rows(_reduce_rows(image).mT).mT
    return image - _expand(base, image.shape), base


def _larger(a: Tensor, b: Tensor) -> Tensor:
    # Magnitudes equal but for rounding meet in the middle: neither the sources' order nor the rounding may decide.
    excess = a.abs() - b.abs()
    return torch.where(excess.abs() <= TIE, (a + b) / 2, torch.where(excess > 0, a, b))


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

"""Measures of how like a source the fused image is, pixel by pixel (PSNR) and in local structure (SSIM, MS-SSIM)."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from model.errors import InputError

WINDOW = 11
SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_OF_SCALES = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1


def psnr(fused: Tensor, source: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10(mean((fused - source)^2)), peak 1.

    Two (N, 1, H, W) in [0, 1], on floats without rounding, give (N,) in decibels, from 0 to infinity, higher is
    better. Identical images give infinity, which is the limit and not an error; JSON has no word for it, so whoever
    writes JSON must. Raises InputError if the shapes are wrong.
    Source: the definition of the mean squared error in decibels; as scikit-image's peak_signal_noise_ratio.
    """
    check_shapes(fused, source)
    error = (fused.double() - source.double()).square().mean((1, 2, 3))
    return -10 * error.log10()


def ssim(fused: Tensor, source: Tensor) -> Tensor:
    """Structural similarity: the mean over the image, less a border of 5 pixels, of
    (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2)), C1 = 0.01^2, C2 = 0.03^2.

    The means m and (co)variances s are local, under a Gaussian window of 11x11 pixels with sigma 1.5 that lies wholly
    inside the image. Two (N, 1, H, W) in [0, 1], on floats without rounding, give (N,) in [-1, 1], no unit, higher is
    better; identical images give 1. Raises InputError if the shapes are wrong or a side is below 11 pixels.
    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Trans. Image Processing 13(4), 2004, equation 13.
    """
    check_shapes(fused, source)
    height, width = fused.shape[-2:]
    if min(height, width) < WINDOW:
        raise InputError(
            f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, not {width}x{height}; leave ssim out or enlarge"
        )
    return _similarity(fused.double(), source.double())[0]


def ms_ssim(fused: Tensor, source: Tensor) -> Tensor:
    """MS-SSIM, the product over five scales of c_k^w_k, w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333.

    c_k is the mean of SSIM's second factor, (2 s_xy + C2) / (s_x^2 + s_y^2 + C2), and at the last scale that of the
    whole SSIM; window and constants are those of `ssim`. Negative means count as 0. Each scale averages 2x2 pixels of
    the one before, the last row or column doubled where their number is odd.

    Two (N, 1, H, W) in [0, 1], on floats without rounding, give (N,) in [0, 1], no unit, higher is better; identical
    images give 1. Raises InputError if the shapes are wrong or a side is below 161 pixels.
    Source: Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", Asilomar
    Conference on Signals, Systems and Computers, 2003.
    """
    check_shapes(fused, source)
    height, width = fused.shape[-2:]
    if min(height, width) < SMALLEST_OF_SCALES:
        raise InputError(
            f"MS-SSIM needs images of at least {SMALLEST_OF_SCALES}x{SMALLEST_OF_SCALES} pixels, not {width}x{height}; "
            "leave ms_ssim out or enlarge"
        )
    x, y = fused.double(), source.double()
    product = x.new_ones(len(x))
    for weight in SCALE_WEIGHTS[:-1]:
        product = product * _similarity(x, y)[1].clamp_min(0) ** weight
        x, y = _halved(x), _halved(y)
    return product * _similarity(x, y)[0].clamp_min(0) ** SCALE_WEIGHTS[-1]


def check_shapes(*images: Tensor) -> None:
    """Raise InputError unless all are floating-point batches (N, 1, H, W) of one shape with at least one pixel."""
    for image in images:
        if image.ndim != 4 or image.shape[1] != 1 or 0 in image.shape:
            raise InputError(f"a measure takes images of shape (N, 1, H, W), not {tuple(image.shape)}; reshape them")
        if image.shape != images[0].shape:
            shapes = " and ".join(str(tuple(shape)) for shape in (images[0].shape, image.shape))
            raise InputError(f"a measure takes images of one shape, not {shapes}; resample or crop one of them")
        if not image.is_floating_point():
            raise InputError(f"a measure takes floats in [0, 1], not {image.dtype}; divide 8-bit images by 255")


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N,) of SSIM and of its second factor alone, contrast and structure, of (N, 1, H, W) in float64."""
    taps = gaussian_taps(WINDOW, SIGMA)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = window_mean(torch.cat([x, y, x * x, y * y, x * y], dim=1), taps).unbind(
        1
    )
    variance_x, variance_y = mean_xx - mean_x * mean_x, mean_yy - mean_y * mean_y
    covariance = mean_xy - mean_x * mean_y
    likeness = 2 * covariance + CONTRAST_CONSTANT
    bound = variance_x + variance_y + CONTRAST_CONSTANT
    light = 2 * mean_x * mean_y + LUMINANCE_CONSTANT
    brightest = mean_x * mean_x + mean_y * mean_y + LUMINANCE_CONSTANT
    return (light * likeness / (brightest * bound)).mean((1, 2)), (likeness / bound).mean((1, 2))


def _halved(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    return avg_pool2d(pad(image, (0, width % 2, 0, height % 2), mode="replicate"), 2)


def gaussian_taps(size: int, sigma: float) -> list[float]:
    """The weights of a Gaussian window of `size` pixels along one side; they sum to one."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    return [float(weight) for weight in weights / weights.sum()]


def window_mean(maps: Tensor, taps: list[float]) -> Tensor:
    """Local means (..., H, W) -> (..., H - n + 1, W - n + 1): n taps down and across, windows wholly inside."""
    if maps.is_cuda:
        return _shifted_sums(maps, taps)
    # One map at a time stays in a core's cache, which halves the time.
    means = torch.stack([_shifted_sums(plane, taps) for plane in maps.flatten(0, -3)])
    return means.reshape(*maps.shape[:-2], *means.shape[-2:])


def _shifted_sums(maps: Tensor, taps: list[float]) -> Tensor:
    # These beat conv2d four times over: in float64 the CPU has no fast convolution.
    for dim in (-2, -1):
        length = maps.shape[dim] - len(taps) + 1
        total = maps.narrow(dim, 0, length) * taps[0]
        for offset, tap in enumerate(taps[1:], start=1):
            total.add_(maps.narrow(dim, offset, length), alpha=tap)
        maps = total
    return maps

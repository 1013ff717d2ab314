"""The measure of how alike two images are where the eye finds structure, phase congruency: FSIM."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from model.metrics.information import grey_levels
from model.metrics.similarity import check_shapes

SCALES, ORIENTATIONS = 4, 4
SHORTEST_WAVE, FACTOR = 6.0, 2.0
BANDWIDTH, ANGULAR_RATIO = 0.55, 1.2
NOISE_DEVIATIONS, NOISE_RESCALING = 2.0, 1.7
CONGRUENCY_CONSTANT, GRADIENT_CONSTANT = 0.85, 160.0
VIEWED = 256
NEGLIGIBLE = 1e-7


class Structure(NamedTuple):
    """What FSIM compares: phase congruency in [0, 1] and gradient magnitude in grey levels, (N, H, W) each."""

    congruency: Tensor
    gradient: Tensor


def feature_similarity(fused: Tensor, source: Tensor) -> Tensor:
    """FSIM = sum(S_p S_g p) / sum(p): likeness of phase congruency and of gradients, where there is structure to see.

    p is the larger of the two phase congruencies p_1, p_2, S_p = (2 p_1 p_2 + 0.85) / (p_1^2 + p_2^2 + 0.85) and S_g
    likewise of the gradient magnitudes (3x3 Scharr / 16 in a frame of zeros) with 160. Phase congruency after Kovesi:
    log-Gabor filters of 4 scales (shortest wave 6 pixels, factor 2, sigmaOnf 0.55) and 4 orientations (angular spread
    pi / 4 / 1.2), noise threshold at 2 deviations. Images whose shorter side is 384 pixels or more are averaged down
    to about 256 first.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,) in (0, 1], no unit, higher is better; identical images give
    1. Where neither image has any structure S_g is averaged alike everywhere. In float32, to 1e-6. Raises InputError if
    the shapes are wrong.
    Source: Zhang, Zhang, Mou, Zhang, "FSIM: a feature similarity index for image quality assessment", IEEE Trans. Image
    Processing 20(8), 2011; Kovesi, "Image features from phase congruency", Videre 1(3), 1999.
    """
    check_shapes(fused, source)
    return compare_structures(find_structure(fused), find_structure(source))


def find_structure(image: Tensor) -> Structure:
    """Phase congruency and gradient of (N, 1, H, W) in [0, 1], rounded to 8 bits."""
    levels = grey_levels(image)
    step = max(1, round(min(image.shape[-2:]) / VIEWED))
    if step > 1:
        levels = avg_pool2d(levels, step)
    return Structure(_phase_congruency(levels), _gradient(levels.float()))


def compare_structures(one: Structure, other: Structure) -> Tensor:
    """FSIM (N,), float64, of two images by their structure."""
    alike = likeness(one.congruency, other.congruency, CONGRUENCY_CONSTANT)
    alike = alike * likeness(one.gradient, other.gradient, GRADIENT_CONSTANT)
    return weighted_mean(alike, torch.maximum(one.congruency, other.congruency))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean (N,), float64, of maps (N, H, W) under weights of their shape; the plain one where all weights are 0."""
    total = weight.double().sum((1, 2))
    weighted = (values.double() * weight).sum((1, 2)) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, weighted, values.double().mean((1, 2)))


def _gradient(levels: Tensor) -> Tensor:
    framed = pad(levels, (1, 1, 1, 1))[:, 0]
    rows = 3 * framed[:, :-2] + 10 * framed[:, 1:-1] + 3 * framed[:, 2:]
    columns = 3 * framed[..., :-2] + 10 * framed[..., 1:-1] + 3 * framed[..., 2:]
    across, down = rows[..., 2:] - rows[..., :-2], columns[:, 2:] - columns[:, :-2]
    return (across.square() + down.square()).sqrt() / 16


class _Bank(NamedTuple):
    """Log-Gabor filters (orientations, scales, H, W) over the frequencies, and `noise` (orientations,), the
    squared energy that noise adds for each unit of power that the smallest scale has of it."""

    filters: Tensor
    noise: Tensor


def _phase_congruency(levels: Tensor) -> Tensor:
    """(N, H, W) in [0, 1] of grey levels (N, 1, H, W): energy of the local phases over the sum of their amplitudes."""
    bank = _filter_bank(*levels.shape[-2:], levels.device)
    # The filters have no mean anyway; without it a constant image is exactly zero, not rounding noise.
    spectrum = torch.fft.fft2((levels - levels.mean((2, 3), keepdim=True)).float()[:, 0])
    energy = amplitude = torch.zeros((), device=levels.device)
    for index in range(ORIENTATIONS):
        responses = torch.fft.ifft2(spectrum[:, None] * bank.filters[index])
        sizes = responses.abs()
        total = responses.sum(1)
        # sum(even e + odd o - |even o - odd e|), (e, o) being the direction of the sum of all scales.
        direction = total / (total.abs() + NEGLIGIBLE)
        turned = responses * direction.conj()[:, None]
        aligned = (turned.real - turned.imag.abs()).sum(1)
        energy = energy + (aligned - _noise_threshold(sizes[:, 0], bank, index)[:, None, None]).clamp_min(0)
        amplitude = amplitude + sizes.sum(1)
    return energy / (amplitude + NEGLIGIBLE)


def _noise_threshold(smallest: Tensor, bank: _Bank, index: int) -> Tensor:
    """(N,): the energy that noise alone seldom exceeds, judged by the median response of the smallest scale."""
    median = smallest.flatten(1).median(1).values.square() / math.log(2)
    tau = (median * bank.noise[index]).sqrt()
    return tau * (math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2)) / NOISE_RESCALING


@lru_cache(maxsize=4)
def _filter_bank(height: int, width: int, device: torch.device) -> _Bank:
    radius, down, across = frequencies(height, width, device)
    angle = torch.atan2(-across, down)
    radial = radial_filters(radius, BANDWIDTH)
    spread = math.pi / ORIENTATIONS / ANGULAR_RATIO
    banks = []
    for index in range(ORIENTATIONS):
        offset = angular_distance(angle, index * math.pi / ORIENTATIONS)
        banks.append(radial * torch.exp(-offset.square() / (2 * spread**2)))
    filters = torch.stack(banks)
    kernels = torch.fft.ifft2(filters).real * math.sqrt(height * width)
    # An image of one pixel has no frequencies to filter: neither power nor noise.
    power = filters[:, 0].square().sum((1, 2)).clamp_min(NEGLIGIBLE)
    return _Bank(filters.float(), (kernels.sum(1).square().sum((1, 2)) / power).float())


def frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Distance from zero, and frequency downwards and across, in cycles a pixel, float64 (H, W), zero at the corner."""
    steps = (torch.fft.fftfreq(length, dtype=torch.float64, device=device) for length in (height, width))
    down, across = torch.meshgrid(*steps, indexing="ij")
    return (down.square() + across.square()).sqrt(), down, across


def radial_filters(radius: Tensor, bandwidth: float) -> Tensor:
    """The four log-Gabor filters (4, H, W), smallest wave first, under a low-pass that spares the corners."""
    lowpass = 1 / (1 + (radius / 0.45) ** 30)
    # The first frequency is zero, which has no logarithm and no place in any filter.
    known = torch.where(radius > 0, radius, 1.0)
    scales = []
    for scale in range(SCALES):
        octaves = (known * SHORTEST_WAVE * FACTOR**scale).log()
        gabor = torch.exp(-octaves.square() / (2 * math.log(bandwidth) ** 2)) * lowpass
        scales.append(torch.where(radius > 0, gabor, 0.0))
    return torch.stack(scales)


def angular_distance(angle: Tensor, orientation: float) -> Tensor:
    """How far angles lie from an orientation, in [0, pi]."""
    offset = angle - orientation
    return torch.atan2(offset.sin(), offset.cos()).abs()


def likeness(x: Tensor, y: Tensor, constant: float) -> Tensor:
    """(2 x y + c) / (x^2 + y^2 + c): 1 where x = y."""
    return (2 * x * y + constant) / (x.square() + y.square() + constant)

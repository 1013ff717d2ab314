"""The measures as the poster's table has them ("poster protocol"): for comparison with that table, not for judging.

PSNR and SSIM are the standard ones, on the floats that the network puts out. The other four are not what their names
say, or not as usual: each function tells what it is.
"""

import io
import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from model.errors import InputError
from model.metrics.features import fmi_edge
from model.metrics.information import entropy
from model.metrics.similarity import check_shapes
from model.metrics.structure import (
    CONGRUENCY_CONSTANT,
    FACTOR,
    GRADIENT_CONSTANT,
    SCALES,
    Structure,
    angular_distance,
    frequencies,
    likeness,
    radial_filters,
    weighted_mean,
)

JPEG_QUALITY = 75
ORIENTATIONS = 6
BANDWIDTH = 0.5978
NOISE_DEVIATIONS = 2.0
LEAST_SPREAD, SHARPNESS = 0.5, 10.0
NEGLIGIBLE = 1e-4
SMALLEST_GRADIENT = 2


def fmi_of_jpeg(fused: Tensor, source: Tensor) -> Tensor:
    """The poster's FMI: `fmi_edge` of both images after JPEG at quality 75, the fused one cut to 8 bits, not rounded.

    Two (N, 1, H, W) in [0, 1] give (N,), no unit, higher is better; identical images give 1 if they are 8-bit ones.
    JPEG's blocks blur faint edges in all images alike, which lowers the figure by 0.003 or so. Pillow does the JPEG,
    so images on a GPU are fetched from it. Raises InputError if the shapes are wrong or a side is below 3 pixels.
    Source: the poster and Zhou, Xu, Zhang, arXiv 2212.04661, 2022.
    """
    check_shapes(fused, source)
    return fmi_edge(_through_jpeg(_cut(fused)), _through_jpeg(_rounded(source)))


def entropy_of_jpeg(_a: Tensor, _b: Tensor, fused: Tensor) -> Tensor:
    """What the poster prints as "MI": the entropy of the fused image's 256 levels after JPEG at quality 75.

    It is no mutual information and no source enters it: the joint entropies of the routine behind the table saturate to
    zero, and this is what remains. The fused image, (N, 1, H, W) in [0, 1], is cut to 8 bits, not rounded; (N,) in
    bits, in [0, 8]. For the true one see `model.metrics.mutual_information`. Raises InputError if the shape is wrong.
    Source: as for `fmi_of_jpeg`.
    """
    check_shapes(fused)
    return entropy(_through_jpeg(_cut(fused)))


def entropy_of_floats(_a: Tensor, _b: Tensor, fused: Tensor) -> Tensor:
    """The poster's EN: the entropy over the distinct values of the fused image's floats, however close they lie.

    (N, 1, H, W) gives (N,) in bits, from 0 to log2(H W), where every pixel differs by a rounding error at least: it
    tells how much of the image is clamped to 0 rather than how much it says, and rises by 6 bits over the entropy of
    the 8-bit image. Raises InputError if the shape is wrong.
    Source: as for `fmi_of_jpeg`.
    """
    check_shapes(fused)
    values = fused.flatten(1).sort(1).values
    # Equal values lie together once sorted: number the runs, then count how long each is.
    runs = torch.cat([torch.zeros_like(values[:, :1]), (values.diff(dim=1) != 0).to(values.dtype)], dim=1)
    numbers = runs.long().cumsum(1)
    lengths = torch.zeros_like(numbers).scatter_add_(1, numbers, torch.ones_like(numbers))
    nats: Tensor = torch.special.entr(lengths.double() / values.shape[1]).sum(1)
    return nats / math.log(2)


def fsim_of_floats(fused: Tensor, source: Tensor) -> Tensor:
    """The poster's FSIM: `feature_similarity`'s formula with other phase congruency and almost without its gradients.

    Phase congruency is Kovesi's later form, with a weight for the spread of frequencies and sigmaOnf 0.5978, summed
    over six orientations, so that it reaches 6. The gradients are Scharr responses of images in [0, 1], negative ones
    set to 0 and the others rounded to whole numbers, beside a constant that is meant for 0..255: their likeness is
    nearly 1 everywhere.

    Two (N, 1, H, W) in [0, 1], on floats without rounding, give (N,) in (0, 1], no unit, higher is better; identical
    images give 1. Raises InputError if the shapes are wrong or a side is below 2 pixels.
    Source: as for `fmi_of_jpeg`; Kovesi, "Phase congruency detects corners and edges", DICTA 2003.
    """
    check_shapes(fused, source)
    return compare_structures(find_structure(fused), find_structure(source))


def find_structure(image: Tensor) -> Structure:
    """The phase congruency, in [0, 6], and the gradients of (N, 1, H, W) in [0, 1] that `fsim_of_floats` compares."""
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST_GRADIENT:
        raise InputError(f"the poster's FSIM needs images of at least 2x2 pixels, not {width}x{height}; leave fsim out")
    return Structure(_phase_congruency(image[:, 0].double()), _gradient(image))


def compare_structures(one: Structure, other: Structure) -> Tensor:
    """The poster's FSIM (N,), float64, of two images by their structure."""
    alike = likeness(one.congruency, other.congruency, CONGRUENCY_CONSTANT)
    alike = alike * likeness(one.gradient, other.gradient, GRADIENT_CONSTANT)
    return weighted_mean(alike, torch.maximum(one.congruency, other.congruency))


def _cut(image: Tensor) -> Tensor:
    return (image.float() * 255).floor().to(torch.uint8)


def _rounded(image: Tensor) -> Tensor:
    return (image.float() * 255).round().to(torch.uint8)


def _through_jpeg(levels: Tensor) -> Tensor:
    """What is left of uint8 images (N, 1, H, W) after JPEG, in [0, 1] on their device."""
    decoded = []
    for image in levels[:, 0].cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY)
        with Image.open(stream) as opened:
            decoded.append(np.array(opened))
    return (torch.from_numpy(np.stack(decoded))[:, None].float() / 255).to(levels.device)


def _gradient(image: Tensor) -> Tensor:
    framed = pad(image, (1, 1, 1, 1), mode="reflect")[:, 0]
    rows = 3 * framed[:, :-2] + 10 * framed[:, 1:-1] + 3 * framed[:, 2:]
    columns = 3 * framed[..., :-2] + 10 * framed[..., 1:-1] + 3 * framed[..., 2:]
    across, down = rows[..., 2:] - rows[..., :-2], columns[:, 2:] - columns[:, :-2]
    return (across.round().clamp_min(0).square() + down.round().clamp_min(0).square()).sqrt().double()


def _phase_congruency(image: Tensor) -> Tensor:
    """(N, H, W), summed over the orientations, of images (N, H, W), float64."""
    # The filters have no mean anyway; without it a constant image is exactly zero, not rounding noise.
    spectrum = torch.fft.fft2(image - image.mean((1, 2), keepdim=True))
    noise = sum(FACTOR**-scale for scale in range(SCALES))
    noise *= math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt((4 - math.pi) / 2)
    congruency = torch.zeros_like(image)
    for filters in _filters(*image.shape[-2:], image.device):
        responses = torch.fft.ifft2(spectrum[:, None] * filters)
        sizes = responses.abs()
        total = responses.sum(1)
        turned = responses * (total / (total.abs() + NEGLIGIBLE)).conj()[:, None]
        energy = (turned.real - turned.imag.abs()).sum(1)
        threshold = (_median(sizes[:, 0].flatten(1)) / math.sqrt(math.log(4)) * noise).clamp_min(NEGLIGIBLE)
        amplitude = sizes.sum(1)
        spread = (amplitude / (sizes.amax(1) + NEGLIGIBLE) - 1) / (SCALES - 1)
        weight = torch.sigmoid((spread - LEAST_SPREAD) * SHARPNESS)
        energy = weight * (energy - threshold[:, None, None]).clamp_min(0)
        congruency += torch.where(amplitude > 0, energy / amplitude, 0.0)
    return congruency


def _median(values: Tensor) -> Tensor:
    """Median of each row, the mean of the middle two where their number is even."""
    count = values.shape[1]
    ordered = values.sort(1).values
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


@lru_cache(maxsize=4)
def _filters(height: int, width: int, device: torch.device) -> Tensor:
    radius, down, across = frequencies(height, width, device)
    angle, radial = torch.atan2(-down, across), radial_filters(radius, BANDWIDTH)
    turns = (angular_distance(angle, index * math.pi / ORIENTATIONS) for index in range(ORIENTATIONS))
    spreads = ((turn * ORIENTATIONS / 2).clamp_max(math.pi) for turn in turns)
    return torch.stack([radial * (spread.cos() + 1) / 2 for spread in spreads])

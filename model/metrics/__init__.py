"""The measures a fusion is judged by, batched on tensors.

By the "standard" protocol they are what the field understands by their names, by the "poster" protocol what the table
of the poster shows under them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.errors import InputError, unknown_choice
from model.metrics import features, fidelity, poster, similarity, structure
from model.metrics.contrast import (
    average_gradient,
    correlation_of_differences,
    spatial_frequency,
    standard_deviation,
)
from model.metrics.edges import qabf
from model.metrics.features import fmi_edge, fmi_gradient, fmi_pixel
from model.metrics.fidelity import visual_information_fidelity
from model.metrics.information import entropy, mutual_information, normalised_mutual_information
from model.metrics.similarity import check_shapes, ms_ssim, psnr, ssim
from model.metrics.structure import feature_similarity

__all__ = [
    "MEASURES",
    "POSTER_MEASURES",
    "PROTOCOLS",
    "Measure",
    "average_gradient",
    "correlation_of_differences",
    "entropy",
    "feature_similarity",
    "fmi_edge",
    "fmi_gradient",
    "fmi_pixel",
    "measure",
    "ms_ssim",
    "mutual_information",
    "normalised_mutual_information",
    "psnr",
    "qabf",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "visual_information_fidelity",
]


@dataclass(frozen=True)
class Measure:
    """One measure: how it is called and shown, and how it is computed.

    `function` is (fused, source) -> (N,) where `per_source`, and (a, b, fused) -> (N,) otherwise; images are floats
    (N, 1, H, W) in [0, 1]. It checks shapes; the pixel values are checked by `measure`, once for all measures.
    `smallest` is the side in pixels below which it raises InputError. Where describing an image is most of the work,
    `describe` does it for one image and `compare` judges two descriptions: `function` is the two together.
    """

    name: str
    title: str
    unit: str
    direction: str
    per_source: bool
    function: Callable[..., Tensor]
    smallest: int = 1
    describe: Callable[[Tensor], Any] | None = None
    compare: Callable[[Any, Any], Tensor] | None = None


def _of_fused(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda _a, _b, fused: function(fused)


MEASURES = {
    entry.name: entry
    for entry in (
        Measure("psnr", "PSNR", "dB", "higher", True, psnr),
        Measure("ssim", "SSIM", "", "higher", True, ssim, similarity.WINDOW),
        Measure("ms_ssim", "MS-SSIM", "", "higher", True, ms_ssim, similarity.SMALLEST_OF_SCALES),
        Measure("mi", "MI", "bit", "higher", True, mutual_information),
        Measure("nmi", "NMI", "", "higher", True, normalised_mutual_information),
        Measure(
            "fmi_edge",
            "FMI edge",
            "",
            "higher",
            True,
            fmi_edge,
            features.SIDE,
            describe=features.edge_patterns,
            compare=features.compare_patterns,
        ),
        Measure("fmi_gradient", "FMI gradient", "", "higher", True, fmi_gradient, features.SIDE),
        Measure("fmi_pixel", "FMI pixel", "", "higher", True, fmi_pixel, features.SIDE),
        Measure(
            "fsim",
            "FSIM",
            "",
            "higher",
            True,
            feature_similarity,
            describe=structure.find_structure,
            compare=structure.compare_structures,
        ),
        Measure("en", "EN", "bit", "higher", False, _of_fused(entropy)),
        Measure("sd", "SD", "grey level", "higher", False, _of_fused(standard_deviation)),
        Measure("sf", "SF", "grey level", "higher", False, _of_fused(spatial_frequency)),
        Measure("ag", "AG", "grey level", "higher", False, _of_fused(average_gradient)),
        Measure("scd", "SCD", "", "higher", False, correlation_of_differences),
        Measure("vif", "VIF", "", "higher", True, visual_information_fidelity, fidelity.SMALLEST),
        Measure("qabf", "Q^AB/F", "", "higher", False, qabf),
    )
}


POSTER_MEASURES = {
    entry.name: entry
    for entry in (
        MEASURES["psnr"],
        MEASURES["ssim"],
        Measure("mi", "\u201cMI\u201d: EN of JPEG", "bit", "higher", False, poster.entropy_of_jpeg),
        Measure("fmi", "FMI of JPEG", "", "higher", True, poster.fmi_of_jpeg, features.SIDE),
        Measure(
            "fsim",
            "FSIM of floats",
            "",
            "higher",
            True,
            poster.fsim_of_floats,
            poster.SMALLEST_GRADIENT,
            describe=poster.find_structure,
            compare=poster.compare_structures,
        ),
        Measure("en", "EN of floats", "bit", "higher", False, poster.entropy_of_floats),
    )
}

PROTOCOLS = {"standard": MEASURES, "poster": POSTER_MEASURES}

# Pixels judged at once: memory does not grow with the batch, and one slice stays in the cache of a CPU.
_PIXELS, _CUDA_PIXELS = 2**16, 2**23


@torch.no_grad()
def measure(
    a: Tensor, b: Tensor, fused: Tensor, names: Iterable[str] | None = None, protocol: str = "standard"
) -> dict[str, dict[str, Tensor] | Tensor]:
    """Judge fused images by the measures named, all of the protocol by default.

    Sources `a` and `b` and `fused` are floats (N, 1, H, W) in [0, 1] on one device. A measure per source gives
    {"mean": (N,), "sum": (N,)} over the two sources, any other an (N,) tensor; all float64 on that device, never NaN.
    Raises InputError for an unknown name or protocol, differing or wrong shapes, images too small for a measure named,
    and pixels not finite or outside [0, 1]. That last check is the only time the standard protocol waits for a GPU.
    """
    if protocol not in PROTOCOLS:
        raise unknown_choice("protocol", protocol, PROTOCOLS)
    entries = PROTOCOLS[protocol]
    chosen = list(entries) if names is None else list(names)
    for name in chosen:
        if name not in entries:
            raise unknown_choice("measure", name, entries)
    check_shapes(a, b, fused)
    _check_pixels({"first source": a, "second source": b, "fused image": fused})
    count = max(1, (_CUDA_PIXELS if fused.is_cuda else _PIXELS) // fused[0].numel())
    parts = list(zip(*(torch.split(images, count) for images in (a, b, fused)), strict=True))
    return {name: _joined([_judge(entries[name], *part) for part in parts]) for name in chosen}


def _judge(entry: Measure, a: Tensor, b: Tensor, fused: Tensor) -> Tensor:
    """Values (N,), or (2, N) for the two sources of a measure per source."""
    if not entry.per_source:
        return entry.function(a, b, fused)
    if entry.describe and entry.compare:
        described = entry.describe(fused)
        return torch.stack([entry.compare(described, entry.describe(source)) for source in (a, b)])
    return torch.stack([entry.function(fused, source) for source in (a, b)])


def _joined(parts: list[Tensor]) -> dict[str, Tensor] | Tensor:
    values = torch.cat(parts, dim=-1)
    return values if values.ndim == 1 else {"mean": values.mean(0), "sum": values.sum(0)}


def _check_pixels(images: dict[str, Tensor]) -> None:
    valid = torch.stack([((image >= 0) & (image <= 1)).all() for image in images.values()])
    for what, fine in zip(images, valid.tolist(), strict=True):
        if not fine:
            raise InputError(f"the {what} has pixels not finite or outside [0, 1]; scale or clamp it first")

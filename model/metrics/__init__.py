"""The measures a fusion is judged by, batched on tensors; the field's definitions ("standard protocol")."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import InputError
from model.metrics.edges import qabf
from model.metrics.information import entropy, mutual_information
from model.metrics.similarity import check_shapes, psnr, ssim

__all__ = ["MEASURES", "Measure", "entropy", "measure", "mutual_information", "psnr", "qabf", "ssim"]


@dataclass(frozen=True)
class Measure:
    """One measure: how it is called and shown, and how it is computed.

    `function` is (fused, source) -> (N,) where `per_source`, and (a, b, fused) -> (N,) otherwise; images are floats
    (N, 1, H, W) in [0, 1]. It checks shapes; the pixel values are checked by `measure`, once for all measures.
    """

    name: str
    title: str
    unit: str
    direction: str
    per_source: bool
    function: Callable[..., Tensor]


def _entropy_of_fused(_a: Tensor, _b: Tensor, fused: Tensor) -> Tensor:
    return entropy(fused)


MEASURES = {
    entry.name: entry
    for entry in (
        Measure("psnr", "PSNR", "dB", "higher", True, psnr),
        Measure("ssim", "SSIM", "", "higher", True, ssim),
        Measure("mi", "MI", "bit", "higher", True, mutual_information),
        Measure("en", "EN", "bit", "higher", False, _entropy_of_fused),
        Measure("qabf", "Q^AB/F", "", "higher", False, qabf),
    )
}


@torch.no_grad()
def measure(
    a: Tensor, b: Tensor, fused: Tensor, names: Iterable[str] | None = None
) -> dict[str, dict[str, Tensor] | Tensor]:
    """Judge fused images by the measures named, all by default.

    Sources `a` and `b` and `fused` are floats (N, 1, H, W) in [0, 1] on one device. A measure per source gives
    {"mean": (N,), "sum": (N,)} over the two sources, any other an (N,) tensor; all float64 on that device, never NaN.
    Raises InputError for an unknown name, differing or wrong shapes, and pixels not finite or outside [0, 1]. That
    last check is the only time the GPU is waited for.
    """
    chosen = list(MEASURES) if names is None else list(names)
    for name in chosen:
        if name not in MEASURES:
            raise InputError(f"unknown measure {name!r}; choose from {', '.join(MEASURES)}")
    check_shapes(a, b, fused)
    _check_pixels({"first source": a, "second source": b, "fused image": fused})
    return {name: _judge(MEASURES[name], a, b, fused) for name in chosen}


def _judge(entry: Measure, a: Tensor, b: Tensor, fused: Tensor) -> dict[str, Tensor] | Tensor:
    if not entry.per_source:
        return entry.function(a, b, fused)
    values = torch.stack([entry.function(fused, a), entry.function(fused, b)])
    return {"mean": values.mean(0), "sum": values.sum(0)}


def _check_pixels(images: dict[str, Tensor]) -> None:
    valid = torch.stack([((image >= 0) & (image <= 1)).all() for image in images.values()])
    for what, fine in zip(images, valid.tolist(), strict=True):
        if not fine:
            raise InputError(f"the {what} has pixels not finite or outside [0, 1]; scale or clamp it first")

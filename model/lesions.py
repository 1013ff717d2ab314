"""How much of a lesion's contrast a fused image keeps, where a ground truth says which pixels are ill."""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.errors import InputError

GAP = 2
RING = 6


def lesion_contrast(image: Tensor, lesion: Tensor, ignore: Tensor | None = None) -> Tensor:
    """The mean inside a lesion less the mean of a ring around it.

    The ring holds the pixels 3 to 8 pixels from the lesion (a square's distance); the two nearest are left out, because
    there the lesion's edge is blurred and the modalities may lie off by a pixel. `image` is (N, 1, H, W), `lesion` and
    `ignore` are bool of that shape; pixels in `ignore`, such as bone or another lesion, count on neither side. Gives
    (N,), positive where the lesion is the brighter one, NaN where an image has no lesion or no ring. Raises InputError
    if the shapes differ.
    """
    for mask in (lesion, ignore):
        if mask is not None and (mask.shape != image.shape or mask.dtype != torch.bool):
            raise InputError(f"a mask must be bool {tuple(image.shape)}, not {mask.dtype} {tuple(mask.shape)}")
    ring = _grown(lesion, GAP + RING) & ~_grown(lesion, GAP)
    if ignore is not None:
        lesion, ring = lesion & ~ignore, ring & ~ignore
    return _mean(image, lesion) - _mean(image, ring)


def lesion_retention(fused: Tensor, source: Tensor, lesion: Tensor, ignore: Tensor | None = None) -> Tensor:
    """The share of the lesion's contrast in the modality that shows it, `source`, which the fused image keeps.

    It is the contrast in `fused` over that in `source`, see `lesion_contrast`, cut to [0, 1]: a lesion made clearer
    than it was does not make up for another lost, and one that turned from bright to dark is lost. Gives (N,), NaN
    where an image has no lesion or the source does not show it by one grey level of 256.
    """
    shown = lesion_contrast(source, lesion, ignore)
    kept = (lesion_contrast(fused, lesion, ignore) / shown).clamp(0, 1)
    return torch.where(shown.abs() < 1 / 255, torch.nan, kept)


def _grown(mask: Tensor, reach: int) -> Tensor:
    rows = F.max_pool2d(mask.float(), (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach)) > 0


def _mean(image: Tensor, mask: Tensor) -> Tensor:
    inside = torch.where(mask, image.double(), 0.0).sum((1, 2, 3))
    return inside / mask.sum((1, 2, 3))

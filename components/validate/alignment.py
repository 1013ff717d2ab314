"""How well the two images of a pair lie on each other: overlap of the heads and normalised mutual information."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 64
# Above the air around a head, in grey levels; two below the darkest scalp of the atlas.
HEAD_LEVEL = 12
_BINS = 16
# Twelve pixels of a slice of 256, and the angle at which a head looks tilted; nearer moves still gain, see `align`.
_STEP, _ANGLES = 3, (-20, -10, 10, 20)

Thumbnail = npt.NDArray[np.uint8]
_Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Alignment:
    """`overlap` in [0, 1], `nmi` in [1, 2], and `gain`, the factor by which nmi - 1 would grow by moving one image."""

    overlap: float
    nmi: float
    gain: float


def thumbnail(levels: npt.NDArray[np.uint8]) -> Thumbnail:
    """A (64, 64) uint8 image of the means of the blocks of a (H, W) uint8 image."""
    return np.asarray(Image.fromarray(levels).resize((SIDE, SIDE), Image.Resampling.BOX))


def align(a: Thumbnail, b: Thumbnail) -> Alignment:
    """Measure the alignment of two thumbnails.

    `overlap` is the area that the two heads share over the smaller head: tracer uptake fills a part of its head only.
    `nmi` is (H(A) + H(B)) / H(A, B) of 16 grey levels on a square-root scale. `gain` above 1 says that the second image
    would tell more of the first if it lay a 21st of the width (12 of 256 pixels) elsewhere in one of eight directions,
    or turned by 10 or 20 degrees.

    Source: C. Studholme, D. L. G. Hill, D. J. Hawkes, "An overlap invariant entropy measure of 3D medical image
    alignment", Pattern Recognition 32 (1999).
    """
    heads = head(a), head(b)
    smaller = min(int(each.sum()) for each in heads)
    overlap = float((heads[0] & heads[1]).sum() / smaller) if smaller else 0.0
    first, second = _binned(a), _binned(b)
    shared = _nmi(first, second) - 1
    best = max(_nmi(first, moved) - 1 for moved in _moves(second))
    return Alignment(overlap, 1 + shared, best / shared if shared > 1e-6 else 1.0)


def head(image: Thumbnail) -> _Bool:
    """Where the head is: every pixel with tissue on all four sides of it."""
    tissue, along = image > HEAD_LEVEL, np.logical_or.accumulate
    sides = along(tissue, 0), along(tissue[::-1], 0)[::-1], along(tissue, 1), along(tissue[:, ::-1], 1)[:, ::-1]
    return sides[0] & sides[1] & sides[2] & sides[3]


def _binned(image: Thumbnail) -> npt.NDArray[np.intp]:
    return (np.sqrt(image / 256) * _BINS).astype(np.intp)


def _nmi(a: npt.NDArray[np.intp], b: npt.NDArray[np.intp]) -> float:
    joint = np.bincount((a * _BINS + b).ravel(), minlength=_BINS**2).reshape(_BINS, _BINS) / a.size
    together = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / together if together else 1.0


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


def _moves(image: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    padded = np.pad(image, _STEP)
    places = [(y, x) for y in (0, _STEP, 2 * _STEP) for x in (0, _STEP, 2 * _STEP) if (y, x) != (_STEP, _STEP)]
    shifted = [padded[y : y + SIDE, x : x + SIDE] for y, x in places]
    return shifted + [image.ravel().take(index) * inside for index, inside in _TURNS]


def _turn(degrees: float) -> tuple[npt.NDArray[np.intp], _Bool]:
    """Where each pixel of a turned thumbnail comes from, and whether that is inside."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    source = np.rint(np.stack((cosine * y - sine * x, sine * y + cosine * x)) + (SIDE - 1) / 2).astype(np.intp)
    inside: _Bool = np.all((source >= 0) & (source < SIDE), axis=0)
    row, column = source.clip(0, SIDE - 1)
    return np.asarray(row * SIDE + column), inside


_TURNS = [_turn(angle) for angle in _ANGLES]

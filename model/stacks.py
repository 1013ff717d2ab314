"""The geometry of a DICOM series: slices in order, evenly spaced, as one affine."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import InputError
from model.volumes import Affine

# How far a slice may lie from its place in an even stack, as a share of the spacing: positions are often rounded.
EVENNESS = 0.1

_SAME_PLACE_MM = 1e-3
_SAME_DIRECTION = 1e-4


@dataclass(frozen=True)
class Slice:
    """One image of a DICOM series.

    `file` is its file's place in the list of files, `index` its own in that file, `shape` (H, W). `position` of the
    first pixel and `orientation` of rows and columns are DICOM's, in mm, axes to the left, back and top (LPS);
    `spacing` is that of rows and of columns, `thickness` that of slices where there is but one; `rescale` is slope and
    intercept.
    """

    file: int
    index: int
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float
    rescale: tuple[float, float]
    inverted: bool


def stack(slices: list[Slice], where: str) -> tuple[list[Slice], Affine]:
    """The slices in order along their normal, and the affine (RAS, mm) of their evenly spaced stack.

    The stack may lean, as that of a tilted gantry does. Raises InputError, naming `where`, if the slices differ in size
    or direction, share positions, or lie unevenly, as they do where some are missing.
    """
    first = slices[0]
    spacings, orientations = (np.array([getattr(each, name) for each in slices]) for name in ("spacing", "orientation"))
    if any(each.shape != first.shape for each in slices) or not np.allclose(spacings, first.spacing, 1e-4):
        raise InputError(f"{where} is a series of slices that differ in size; keep those of one size")
    if not np.allclose(orientations, first.orientation, atol=_SAME_DIRECTION):
        raise InputError(f"{where} is a series of slices that are not parallel; keep those of one orientation")
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-2):
        raise InputError(f"{where} has an ImageOrientationPatient of no right angle; correct it")
    slices = sorted(slices, key=lambda each: float(np.dot(each.position, normal)))
    positions = np.array([each.position for each in slices])
    step = normal * first.thickness
    if len(slices) > 1:
        _check_gaps(np.diff(positions @ normal), where)
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        even = positions[0] + np.arange(len(slices))[:, None] * step
        gap = float(np.linalg.norm(step))
        if (off := float(np.linalg.norm(positions - even, axis=1).max())) > EVENNESS * gap:
            raise InputError(f"{where} is spaced unevenly: a slice is {off:.2f} mm off in steps of {gap:.2f}; resample")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * first.spacing[1], column * first.spacing[0], step
    lps[:3, 3] = positions[0]
    return slices, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def _check_gaps(gaps: "np.ndarray[Any, np.dtype[np.float64]]", where: str) -> None:
    if (shared := int((gaps < _SAME_PLACE_MM).sum())) > 0:
        raise InputError(
            f"{where} has {shared + 1} or more slices at one position; keep one echo, phase or copy of each"
        )
    usual = float(np.median(gaps))
    if gaps.max() > (2 - EVENNESS) * usual:
        raise InputError(
            f"{where} lacks slices: a gap of {gaps.max():.2f} mm where {usual:.2f} mm is usual; fetch the whole series"
        )

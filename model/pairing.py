"""Two volumes of one head on one grid, the second resampled where its own differs; nothing is registered."""

import math
from dataclasses import dataclass, replace

import numpy as np

from model.errors import InputError
from model.volumes import ALIGNED, Affine, Pixels, Volume

SAME_GRID_MM = 0.01
LEAST_OVERLAP = 0.5
_NIFTI_FRAMES = ("scanner", ALIGNED, "talairach", "mni")
_SAMPLES_A_SIDE = 64


@dataclass(frozen=True, eq=False)
class VolumePair:
    """Two volumes on the grid of the first, and in words how they came to it."""

    first: Volume
    second: Volume
    how: str


def pair_volumes(first: Volume, second: Volume) -> VolumePair:
    """Bring the second volume onto the grid of the first.

    On one grid (the same shape, every corner within 0.01 mm) they are paired as they are. Otherwise the second is
    resampled, trilinearly, and is as dark as its least value where it was not imaged; that takes one frame of reference
    (DICOM's UID), or a NIfTI file in scanner space beside a DICOM series or another one, and an overlap of at least
    half of the smaller volume; NIfTI's "aligned" space is never enough, for it does not say to what. Raises InputError
    where that is not so.
    """
    frames = first.frame, second.frame
    unlike = "" not in frames and frames[0] != frames[1] and not _mixed(*frames)
    if same_grid(first, second):
        note = ", though they name different frames of reference" if unlike else ""
        return VolumePair(first, second, f"on one grid{note}")
    if ALIGNED in frames:
        which = " and ".join(name for name, frame in zip(("first", "second"), frames, strict=True) if frame == ALIGNED)
        raise InputError(
            f"the {which} volume is in NIfTI's aligned space (code 2), which does not say to what, and the two are on "
            "different grids; resample the second onto the grid of the first and give the result"
        )
    if unlike:
        raise InputError(
            "the two volumes are in different frames of reference, so where one lies in the other is unknown; register "
            "the second to the first and give the result"
        )
    if "" in frames:
        which = " and ".join(name for name, frame in zip(("first", "second"), frames, strict=True) if not frame)
        raise InputError(
            f"the {which} volume does not say its frame of reference, and the two are on different grids; register the "
            "second to the first and give the result"
        )
    if (shared := overlap(first, second)) < LEAST_OVERLAP:
        raise InputError(
            f"the two volumes share {shared:.0%} of the smaller one, which is under {LEAST_OVERLAP:.0%}; give volumes "
            "of the same part of the head, or register the second to the first"
        )
    pixels = _resampled(second, first.affine, first.pixels.shape)
    moved = replace(second, pixels=pixels, affine=first.affine)
    return VolumePair(first, moved, "the second resampled onto the grid of the first")


def same_grid(first: Volume, second: Volume) -> bool:
    """Whether two volumes have the same shape and every corner in the same place."""
    if first.pixels.shape != second.pixels.shape:
        return False
    depth, height, width = first.pixels.shape
    corners = np.array(np.meshgrid([0, width], [0, height], [0, depth], [1])).reshape(4, -1)
    return bool(np.abs((first.affine - second.affine) @ corners).max() <= SAME_GRID_MM)


def overlap(first: Volume, second: Volume) -> float:
    """The share of the smaller volume's space, in [0, 1], that lies in the other, to about a percent."""
    axes = [
        (np.arange(count) + 0.5) * side / count - 0.5
        for side in reversed(first.pixels.shape)
        for count in (min(side, _SAMPLES_A_SIDE),)
    ]
    points = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones([len(axis) for axis in axes])]).reshape(4, -1)
    place = (np.linalg.inv(second.affine) @ first.affine @ points)[:3]
    sides = np.array(second.pixels.shape[::-1])[:, None]
    inside = ((place >= -0.5) & (place <= sides - 0.5)).all(0).mean()
    sizes = [math.prod(each.pixels.shape) * abs(np.linalg.det(each.affine[:3, :3])) for each in (first, second)]
    return float(min(inside * sizes[0] / min(sizes), 1))


def _mixed(a: str, b: str) -> bool:
    """Whether one frame is DICOM's and the other NIfTI's scanner space, which is DICOM's patient space."""
    return {"scanner"} == {frame for frame in (a, b) if frame in _NIFTI_FRAMES} and a != b


def _resampled(volume: Volume, affine: Affine, shape: tuple[int, ...]) -> Pixels:
    import SimpleITK as sitk  # noqa: N813

    # Between indices, since SimpleITK's own geometry cannot hold the sheared stacks of a tilted gantry.
    between = np.linalg.inv(volume.affine) @ affine
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(between[:3, :3].ravel().tolist())
    transform.SetTranslation(between[:3, 3].tolist())
    image = sitk.GetImageFromArray(volume.pixels)
    least = float(volume.pixels.min())
    result = sitk.Resample(
        *(image, [int(side) for side in reversed(shape)], transform, sitk.sitkLinear),
        *([0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist(), least, sitk.sitkFloat32),
    )
    pixels: Pixels = sitk.GetArrayFromImage(result)
    return pixels

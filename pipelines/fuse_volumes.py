"""Fuse two volumes slice by slice, and write the fused volume in the place of the first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import psutil
import torch

from model.dicom_series import write_series
from model.errors import InputError, unknown_choice
from model.fuser import Fuser
from model.images import same_file
from model.modality import Evidence, check_order, evidence
from model.new_folder import check_new_folder
from model.nifti import Dtype, write_nifti
from model.pairing import VolumePair, pair_volumes
from model.volumes import Volume, Window, display_range, is_volume, read_volume, shown

DTYPES = ("float32", "uint8")

Kind = Literal["nifti", "series"]
Tell = Callable[[int, int], None]


def are_volumes(a: Path, b: Path) -> bool:
    """Whether one of two sources is a volume, so that both must be."""
    return is_volume(a) or is_volume(b)


@dataclass(frozen=True)
class Fused:
    """What was fused: how many slices, what the two volumes were taken for, and how they came to one grid."""

    slices: int
    first: Evidence
    second: Evidence
    how: str


def fuse_volumes(
    a: Path,
    b: Path,
    output: Path,
    load: Callable[[], Fuser],
    window: str | None,
    dtype: str | None,
    progress: Tell,
    keep_order: bool = False,
) -> Fused:
    """Fuse volumes `a` and `b` slice by slice and write `output`: .nii, .nii.gz, or a folder for a DICOM series.

    The second is resampled onto the grid of the first where it has another. `load` gives the Fuser, asked only once the
    volumes are fit to be fused; `window` is of CT, as "40/80"; `dtype` of NIfTI, float32 in [0, 1] or uint8; with
    `keep_order` two that look swapped are taken as given. Raises InputError for anything the user can mend.
    """
    kind = _check_output(a, b, output, dtype)
    pair, limits, told = read_volumes(a, b, window, keep_order)
    first, second = pair.first, pair.second
    fused = replace(first, pixels=_fuse(pair, limits, load(), progress), clean=first.clean and second.clean)
    if kind == "series":
        write_series(output, fused)
    else:
        write_nifti(output, fused, cast(Dtype, dtype or DTYPES[0]), None if _from_dicom(a) else a)
    return Fused(len(fused.pixels), *told, pair.how)


def read_volumes(
    a: Path, b: Path, window: str | None, keep_order: bool
) -> tuple[VolumePair, list[tuple[float, float]], tuple[Evidence, Evidence]]:
    """Two volumes on one grid, the range of values of each that is shown, and what they were taken for and why.

    Raises InputError for anything the user can mend, such as volumes that look swapped, without `keep_order`.
    """
    chosen = Window.parse(window) if window else None
    first, second = read_volume(a), read_volume(b)
    if keep_order:
        told = evidence(a, first), evidence(b, second)
    else:
        told = check_order((a, b), (first, second), "or say --keep-order")
    if chosen and not (first.is_ct or second.is_ct):
        raise InputError(f"neither {a} nor {b} is CT (NIfTI counts as CT where air is at -1000); leave --window out")
    _check_memory(first, a)
    limits = [display_range(volume, chosen) for volume in (first, second)]
    return pair_volumes(first, second), limits, told


def _fuse(pair: VolumePair, limits: list[tuple[float, float]], fuser: Fuser, progress: Tell) -> np.ndarray:
    """The fused slices (D, H, W) in [0, 1]; where both sources are black throughout, black without the network."""
    fused = np.zeros_like(pair.first.pixels)
    for number, images in enumerate(zip(pair.first.pixels, pair.second.pixels, strict=True)):
        levels = [torch.from_numpy(shown(image, each)) for image, each in zip(images, limits, strict=True)]
        if any(image.any() for image in levels):
            fused[number] = fuser.fuse(*(image[None, None] for image in levels))[0, 0].cpu().numpy()
            if not np.isfinite(fused[number]).all():
                raise InputError(
                    "the model gives values that are not finite, so its weights are useless; name another --model"
                )
        progress(number + 1, len(fused))
    return fused


def _from_dicom(path: Path) -> bool:
    return path.is_dir() or not path.name.lower().endswith((".nii", ".nii.gz"))


def _check_output(a: Path, b: Path, output: Path, dtype: str | None) -> Kind:
    if dtype is not None and dtype not in DTYPES:
        raise unknown_choice("dtype", dtype, DTYPES)
    for source in (a, b):
        if same_file(output, source):
            raise InputError(f"{output} is one of the sources, which the fused volume would replace; name another")
    if output.name.lower().endswith((".nii", ".nii.gz")):
        return "nifti"
    if output.suffix and not output.is_dir():
        raise InputError(f"{output}: a fused volume is a .nii or .nii.gz file, or a folder of DICOM; name one of these")
    if not _from_dicom(a):
        raise InputError(f"{output}: a DICOM series is made of DICOM, and {a} is NIfTI; end the name in .nii.gz")
    if dtype is not None:
        raise InputError("--dtype is for NIfTI; a DICOM series has 16 bits, so leave it out")
    for source in (a, b):
        if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{output} lies in the source {source} and would become part of it; name another place")
    check_new_folder(output)
    return "series"


def _check_memory(first: Volume, path: Path) -> None:
    from model.picture_pairs import BYTES_PER_PIXEL

    depth, height, width = first.pixels.shape
    needed = (height + height % 2) * (width + width % 2) * BYTES_PER_PIXEL + 3 * first.pixels.nbytes
    there = psutil.virtual_memory().available
    if needed > there:
        raise InputError(
            f"{path} is {width}x{height}x{depth}, which takes {needed / 2**30:.1f} GiB of memory more to fuse, and "
            f"{there / 2**30:.1f} GiB are free; crop the volumes or make them smaller"
        )

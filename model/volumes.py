"""Volumes: what DICOM and NIfTI files hold, without anything that says whose they are, and how they are shown."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.errors import InputError

Pixels = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

CT, MR, PET, NM, OTHER = "CT", "MR", "PT", "NM", "OT"
MODALITIES = (CT, MR, PET, NM)
# The frame of a volume that was aligned to another one, nobody says which.
ALIGNED = "aligned"
# 512 MiB as float32; a head at 512x512 in slices of half a millimetre has three quarters of it.
MAX_VOXELS = 2**27
MAX_SIDE = 4096
# What a CT of a head reaches in the air around it, of about -1000.
AIR_HU = -900

_SUFFIXES = (".nii", ".nii.gz", ".dcm", ".dicom", ".ima")
_ROBUST_PERCENT = (0.5, 99.5)
_SAMPLED = 2**22


@dataclass(frozen=True)
class Window:
    """The part of a CT's range that is shown, centre and width in Hounsfield units; the default shows brain."""

    centre: float = 40
    width: float = 80

    @classmethod
    def parse(cls, text: str) -> "Window":
        """The window of a text such as "40/80"; raises InputError for anything else."""
        try:
            centre, width = (float(part) for part in text.split("/"))
        except ValueError:
            raise InputError(f"window {text!r} is not CENTRE/WIDTH in Hounsfield units, such as 40/80") from None
        if not (math.isfinite(centre) and math.isfinite(width) and width > 0):
            raise InputError(f"window {text!r} needs a width above 0, such as 40/80")
        return cls(centre, width)


@dataclass(frozen=True, eq=False)
class Volume:
    """A stack of parallel slices in space; holds nothing that identifies a patient.

    `pixels` is float32 (D, H, W): slice, row, column, in the source's units (Hounsfield units for CT). `affine` (4, 4)
    takes (column, row, slice, 1) to millimetres in patient space, axes to the right, front and top of the patient
    (RAS). `modality` is DICOM's code of it: CT, MR, PT, NM, or OT for any other and unknown. `frame` is the space that
    the affine leads to: a DICOM frame of reference UID, "scanner", "aligned", "talairach" or "mni" as NIfTI says it, or
    "" where nobody says. `clean` is whether the source states that no annotation is burned into its pixels.
    """

    pixels: Pixels
    affine: Affine
    modality: str = OTHER
    frame: str = ""
    clean: bool = False

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance of neighbouring columns, rows and slices, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def is_ct(self) -> bool:
        """Whether the pixels are Hounsfield units: said so, or of no said modality and with air at about -1000."""
        return self.modality == CT or (self.modality == OTHER and float(self.pixels.min()) <= AIR_HU)


def is_volume(path: Path) -> bool:
    """Whether a path leads to a volume by its name or content: NIfTI, a DICOM file, or a folder with one in it."""
    from model.dicom_files import dicom_files, is_dicom

    if path.is_dir():
        return bool(dicom_files(path, limit=1))
    return path.name.lower().endswith(_SUFFIXES) or is_dicom(path)


def read_volume(path: Path, modality: str = "") -> Volume:
    """Read a folder of DICOM files, one DICOM file, or a NIfTI file (.nii, .nii.gz).

    DICOM is sliced as it was acquired; NIfTI, whatever the order of its axes, by planes nearest to axial, seen from
    the feet with the front up. Of a folder with several series the one of `modality` is read, if only one is; to a
    NIfTI file, which does not tell its own, `modality` is given. Raises InputError, with nothing from the file's
    identifying contents in it, for whatever cannot be read as one volume of evenly spaced slices.
    """
    if not path.exists():
        raise InputError(f"no such volume: {path}; check the path")
    if path.name.lower().endswith((".nii", ".nii.gz")) and path.is_file():
        from model.nifti import read_nifti

        return read_nifti(path, modality)
    from model.dicom import read_dicom
    from model.dicom_files import is_dicom

    if path.is_dir() or is_dicom(path):
        return read_dicom(path, modality)
    raise InputError(
        f"{path} is no volume that this program reads; give a folder of DICOM files, or .dcm, .nii, .nii.gz"
    )


def display_range(volume: Volume, window: Window | None = None) -> tuple[float, float]:
    """The values that are shown black and white.

    CT: the ends of the window, half its width either side of its centre. Others: the 0.5th and the 99.5th percentile of
    the volume (of 4 million voxels of it, evenly spread), or its least and largest value where those are one.
    """
    if volume.is_ct:
        window = window or Window()
        return window.centre - window.width / 2, window.centre + window.width / 2
    flat = volume.pixels.reshape(-1)
    # An odd step walks through all columns of an image whose sides are powers of two.
    low, high = np.percentile(flat[:: flat.size // _SAMPLED | 1], _ROBUST_PERCENT)
    if low == high:
        low, high = flat.min(), flat.max()
    return float(low), float(high)


def shown(image: Pixels, limits: tuple[float, float]) -> Pixels:
    """An image of any shape as levels in [0, 1], linear between the limits; all 0 where they leave no range."""
    low, high = limits
    if not high > low:
        return np.zeros_like(image)
    return np.clip((image.astype(np.float64) - low) / (high - low), 0, 1).astype(np.float32)


def check_size(shape: tuple[int, ...], where: str) -> None:
    """Raise InputError unless a volume (D, H, W) is of a size that this program takes, before memory is given to it."""
    if min(shape) < 1 or max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        size = "x".join(str(side) for side in reversed(shape))
        raise InputError(
            f"{where} claims {size} voxels; give a volume of at most {MAX_SIDE} a side and {MAX_VOXELS:,} in all"
        )


def check_values(volume: Volume, where: str) -> Volume:
    """The volume, if all its values and its geometry are usable; raises InputError otherwise."""
    if not all(np.isfinite(image).all() for image in volume.pixels):
        raise InputError(f"{where} has voxels that are not finite; replace them by the value of air")
    if not (np.abs(volume.affine) < 1e6).all() or not all(1e-3 <= step <= 1e3 for step in volume.spacing):
        raise InputError(f"{where} has no usable geometry: its voxels are not between 0.001 and 1000 mm; correct it")
    directions = volume.affine[:3, :3] / volume.spacing
    if abs(np.linalg.det(directions)) < 0.1 or np.abs(volume.affine[:3, 3]).max() > 1e5:
        raise InputError(f"{where} has no usable geometry: its axes do not span space; correct it")
    return volume

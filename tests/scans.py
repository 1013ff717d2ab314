"""Scans that tests write themselves: the phantom's heads as volumes, and volumes as DICOM files."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from components.ingest.phantom import PhantomConfig, subject_volume
from model.errors import InputError
from model.volumes import read_volume

FRAME = "1.2.826.0.1.3680043.8.498.77"


def head(subject: int = 0, size: int = 64, slices: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A phantom head as CT in Hounsfield units, air at -1000, and MR, both int16 (D, H, W), slices upwards."""
    pairs = list(subject_volume(PhantomConfig(subjects=subject + 1, slices=slices, size=size), subject))
    levels = np.stack([pair.ct for pair in pairs]).astype(float)
    hounsfield = np.where(levels == 0, -1000, levels * 80 / 255)
    return np.rint(hounsfield).astype(np.int16), np.stack([pair.mri for pair in pairs]).astype(np.int16) * 4


def axial(depth: int, spacing: tuple[float, float, float] = (3.6, 3.6, 13.25), origin=(-113.2, -110.4, -35.4)):
    """The affine (LPS, mm) of an axial stack: columns to the left, rows back, slices up."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def turned(affine: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """An affine turned about the three axes by degrees."""
    rotation = np.eye(4)
    for axis, degrees in enumerate((x, y, z)):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        one = np.eye(4)
        i, j = [other for other in range(3) if other != axis]
        one[i, i], one[j, j], one[i, j], one[j, i] = cos, cos, -sin, sin
        rotation = one @ rotation
    return rotation @ affine


def ras(lps: np.ndarray) -> np.ndarray:
    """The affine in patient RAS of one in DICOM's LPS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def image(pixels: np.ndarray, modality: str = "CT", series: str = "1.2.3", frame: str = FRAME) -> Dataset:
    """A DICOM image of (H, W) or (N, H, W) without geometry."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = EnhancedMRImageStorage if pixels.ndim == 3 else CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    made.SeriesInstanceUID, made.FrameOfReferenceUID, made.Modality = series, frame, modality
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    return made


def place(made: Dataset, affine: np.ndarray, index: int) -> None:
    """Give an image its place: slice `index` of the affine (LPS)."""
    columns, rows, slices = np.linalg.norm(affine[:3, :3], axis=0)
    made.ImagePositionPatient = [f"{value:.8f}"[:16] for value in affine[:3] @ [0, 0, index, 1]]
    made.ImageOrientationPatient = [
        f"{value:.12f}"[:16] for value in (*(affine[:3, 0] / columns), *(affine[:3, 1] / rows))
    ]
    made.PixelSpacing = [f"{rows:.10f}", f"{columns:.10f}"]
    made.SliceThickness = f"{slices:.10f}"


def series(
    folder: Path,
    pixels: np.ndarray,
    affine: np.ndarray,
    modality: str = "CT",
    change: Callable[[Dataset, int], None] = lambda made, index: None,
    name: Callable[[int], str] = "{:03d}.dcm".format,
    **identity: str,
) -> Path:
    """Write a volume (D, H, W) as a folder of single images; `change` may alter each before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, levels in enumerate(pixels):
        made = image(levels, modality, **identity)
        place(made, affine, index)
        if modality == "CT":
            made.RescaleSlope, made.RescaleIntercept = "1", "0"
        change(made, index)
        # Said outright for the transfer syntaxes that nobody knows.
        made.save_as(folder / name(index), enforce_file_format=True, implicit_vr=False, little_endian=True)
    return folder


def multiframe(path: Path, pixels: np.ndarray, affine: np.ndarray, order: list[int] | None = None) -> Path:
    """Write a volume (D, H, W) as one enhanced MR file, frames in the given order."""
    order = order or list(range(len(pixels)))
    made = image(pixels[order], "MR")
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    one = Dataset()
    place(one, affine, 0)
    orientation.ImageOrientationPatient = one.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = one.PixelSpacing, one.SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in order:
        frame, position, values = Dataset(), Dataset(), Dataset()
        place(one, affine, index)
        position.ImagePositionPatient = one.ImagePositionPatient
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "2", "1", "US"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [values]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    made.save_as(path, enforce_file_format=True)
    return path


def nifti(path: Path, pixels: np.ndarray, affine: np.ndarray, code: int = 1) -> Path:
    """Write (D, H, W) with an affine in RAS."""
    made = nibabel.Nifti1Image(pixels.transpose(2, 1, 0), affine)
    made.set_sform(affine, code)
    made.set_qform(affine, code)
    nibabel.save(made, path)
    return path


def refusal(path: Path, **kwargs: str) -> str:
    """The one line with which a volume is refused."""
    with pytest.raises(InputError) as refused:
        read_volume(path, **kwargs)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# An oblique stack, and values of a CT on it, that the readers of DICOM and NIfTI are tried with.
OBLIQUE = turned(axial(8), 12, -7, 25)
PIXELS = np.random.default_rng(5).integers(-1000, 2000, (6, 10, 12)).astype(np.int16)

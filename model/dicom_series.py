"""A fused volume as a new DICOM series: made anew from pixels and geometry, so that no patient's data can be in it."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from model.new_folder import new_folder
from model.volumes import Volume

ANONYMOUS = "ANONYMOUS"
_STATEMENT = "not for diagnosis"
_BITS = 16


def write_series(folder: Path, volume: Volume, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Write a volume of values in [0, 1] as one file a slice, 0001.dcm the first, of 16 bits.

    The files are Secondary Capture images (a fused value has no unit) with the Image Plane of their source: position,
    orientation, spacing and frame of reference; study, series and instances have new UIDs; the patient is ANONYMOUS
    and nothing has a date. The folder must be new or empty and appears whole or not at all; raises InputError if it
    cannot be.
    """
    with new_folder(folder) as aside:
        make = _slice_maker(volume)
        for index in range(len(volume.pixels)):
            make(index).save_as(aside / f"{index + 1:04d}.dcm", enforce_file_format=True)
            progress(index + 1, len(volume.pixels))


def _slice_maker(volume: Volume) -> Callable[[int], Any]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
    from pydicom.valuerep import DSfloat

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    columns, rows, slices = volume.spacing
    study, series = generate_uid(prefix=None), generate_uid(prefix=None)

    def decimal(*values: float) -> list[Any]:
        return [DSfloat(float(value), auto_format=True) for value in values]

    def make(index: int) -> Dataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = Dataset()
        made.file_meta = meta
        made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        made.StudyInstanceUID, made.SeriesInstanceUID = study, series
        made.PatientName = made.PatientID = ANONYMOUS
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = "Made anew from pixels and geometry"
        for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            setattr(made, empty, "")
        made.ReferringPhysicianName = made.Manufacturer = made.PatientOrientation = ""
        made.SeriesNumber, made.InstanceNumber = 1, index + 1
        made.Modality, made.ConversionType = "OT", "WSD"
        made.ImageType = ["DERIVED", "SECONDARY"]
        made.ContentQualification = "RESEARCH"
        made.SeriesDescription = f"Fused by atlas-fusion, {_STATEMENT}"
        made.DerivationDescription = f"Fused slice by slice by atlas-fusion {version('atlas-fusion')}; {_STATEMENT}"
        made.SecondaryCaptureDeviceManufacturerModelName = "atlas-fusion"
        made.SecondaryCaptureDeviceSoftwareVersions = version("atlas-fusion")
        if volume.clean:
            made.BurnedInAnnotation = "NO"
        if volume.frame:
            made.FrameOfReferenceUID = volume.frame
            made.PositionReferenceIndicator = ""
        made.ImagePositionPatient = decimal(*(lps @ [0, 0, index, 1])[:3])
        made.ImageOrientationPatient = decimal(*(lps[:3, 0] / columns), *(lps[:3, 1] / rows))
        made.PixelSpacing = decimal(rows, columns)
        made.SliceThickness = made.SpacingBetweenSlices = decimal(slices)[0]
        _set_pixels(made, volume.pixels[index])
        return made

    return make


def _set_pixels(made: Any, image: "np.ndarray[Any, np.dtype[np.float32]]") -> None:
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = image.shape
    made.BitsAllocated = made.BitsStored = _BITS
    made.HighBit, made.PixelRepresentation = _BITS - 1, 0
    top = 2**_BITS - 1
    made.WindowCenter, made.WindowWidth = f"{2 ** (_BITS - 1)}", f"{2**_BITS}"
    made.PixelData = np.rint(np.clip(image, 0, 1).astype(np.float64) * top).astype("<u2").tobytes()

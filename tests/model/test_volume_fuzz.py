"""Hostile bytes and tags: every one is a sound volume or one line without what the file says of a patient."""

import gzip
import io
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import InputError
from model.volumes import read_volume
from tests.scans import (
    OBLIQUE,
    PIXELS,
    image,
    place,
    ras,
)

SMALL_DICOM = io.BytesIO()
_made = image(PIXELS[:2, :4, :5].copy(), "MR")
place(_made, OBLIQUE, 0)
_made.SpacingBetweenSlices = "2"
_made.PatientName = "SECRET^PATIENT"
_made.save_as(SMALL_DICOM, enforce_file_format=True)
_nifti = nibabel.Nifti1Image(PIXELS[:3, :4, :5].transpose(2, 1, 0), ras(OBLIQUE))
SMALL_NIFTI = _nifti.to_bytes()

mutations = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "cut", "insert", "word"]), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=6,
)


def mutated(content: bytes, changes: list[tuple[float, str, bytes]], first: int) -> bytes:
    made = bytearray(content)
    for share, kind, value in changes:
        at = first + int(share * (len(made) - first))
        if kind == "set":
            made[at : at + len(value)] = value
        elif kind == "insert":
            made[at:at] = value
        elif kind == "word":
            made[at : at + 2] = b"\xff\xff"
        elif share > 0.5:
            del made[at:]
    return bytes(made)


def check_defined(path: Path) -> None:
    """Either a volume whose every part is usable, or one line without what the file says of the patient."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume = read_volume(path)
    except InputError as error:
        told = str(error)
    else:
        told = f"{volume.modality} {volume.frame}"
        assert volume.pixels.dtype == np.float32 and volume.pixels.ndim == 3
        assert np.isfinite(volume.pixels).all() and np.isfinite(volume.affine).all()
    assert "\n" not in told and "SECRET" not in told


fuzz = settings(
    max_examples=250, deadline=300_000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(changes=mutations)
def test_any_dicom_bytes_are_a_volume_or_one_line(tmp_path, changes):
    (tmp_path / "fuzz.dcm").write_bytes(mutated(SMALL_DICOM.getvalue(), changes, 132))
    check_defined(tmp_path / "fuzz.dcm")


TAGS = ["Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelSpacing"]
TAGS += ["ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "RescaleSlope", "Modality"]
TAGS += [
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "FrameOfReferenceUID",
    "SeriesInstanceUID",
    "ImageType",
    "PixelPaddingValue",
]
values = st.one_of(
    st.integers(0, 65535),
    st.sampled_from(
        [
            "",
            "SECRET",
            "-1",
            "1e400",
            "nan",
            "1e200",
            "0\\0\\1e200",
            "0\\0\\0",
            "1\\2\\3\\4\\5\\6",
            "1e-30\\1e30",
            "999999999",
        ]
    ),
)


@fuzz
@given(changes=st.dictionaries(st.sampled_from(TAGS), values, min_size=1, max_size=3))
def test_any_values_of_the_tags_are_a_volume_or_one_line(tmp_path, changes):
    content = pydicom.dcmread(io.BytesIO(SMALL_DICOM.getvalue()))
    for tag, value in changes.items():
        kind = "US" if isinstance(value, int) else "LO"
        content[tag] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(tag), kind, value)
    content.save_as(tmp_path / "fuzz.dcm")
    check_defined(tmp_path / "fuzz.dcm")


@fuzz
@given(changes=mutations, compressed=st.booleans())
def test_any_nifti_bytes_are_a_volume_or_one_line(tmp_path, changes, compressed):
    content = mutated(SMALL_NIFTI, changes, 0)
    (tmp_path / "fuzz.nii").write_bytes(gzip.compress(content, 1) if compressed else content)
    check_defined(tmp_path / "fuzz.nii")
    if compressed:
        (tmp_path / "fuzz.nii.gz").write_bytes(mutated(gzip.compress(SMALL_NIFTI, 1), changes, 0))
        check_defined(tmp_path / "fuzz.nii.gz")

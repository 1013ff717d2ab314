"""DICOM volumes: values, order and geometry to 1e-4 mm, and one clear line for what is no sound series."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import JPEGLSLossless, RLELossless

from model.dicom_series import write_series
from model.volumes import display_range, read_volume
from tests.scans import FRAME, OBLIQUE, PIXELS, axial, image, multiframe, place, ras, refusal, series, turned


@pytest.mark.parametrize("affine", [axial(6), OBLIQUE, turned(axial(6), 90, 0, 0)], ids=["axial", "oblique", "coronal"])
def test_a_series_is_its_slices_in_order_along_the_normal_with_its_geometry(tmp_path, affine):
    shuffled = [3, 0, 5, 1, 4, 2]
    series(tmp_path / "ct", PIXELS, affine, name=lambda index: f"IM{shuffled[index]}")
    volume = read_volume(tmp_path / "ct")
    assert np.array_equal(volume.pixels, PIXELS)
    corners = np.array([[0, 0, 0, 1], [12, 0, 0, 1], [0, 10, 0, 1], [11, 9, 5, 1]]).T
    assert np.abs((volume.affine - ras(affine)) @ corners).max() < 1e-4
    assert volume.spacing == pytest.approx((3.6, 3.6, 13.25), abs=1e-6)
    assert (volume.modality, volume.frame, volume.pixels.dtype) == ("CT", FRAME, np.float32)


def test_another_reader_sees_the_same_series_and_the_same_fused_one(tmp_path):
    series(tmp_path / "ct", PIXELS, OBLIQUE)
    volume = read_volume(tmp_path / "ct")
    write_series(tmp_path / "fused", replace(volume, pixels=(volume.pixels + 1000) / 4000))
    for folder, slope, offset in (("ct", 1, 0), ("fused", 4000 / 65535, -1000)):
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / folder))
        seen = SimpleITK.ReadImage(names)
        assert np.abs(SimpleITK.GetArrayFromImage(seen) * slope + offset - PIXELS).max() < 0.1
        for index in ([0, 0, 0], [11, 0, 0], [0, 9, 0], [11, 9, 5]):
            there = ras(np.eye(4))[:3, :3] @ seen.TransformIndexToPhysicalPoint(index)
            assert np.abs(there - (volume.affine @ [*index, 1])[:3]).max() < 1e-4


def test_reversed_slices_are_turned_round_with_their_geometry(tmp_path):
    downwards = axial(6) @ np.diag([1, 1, -1, 1.0])
    series(tmp_path / "down", PIXELS, downwards)
    volume = read_volume(tmp_path / "down")
    assert np.array_equal(volume.pixels, PIXELS[::-1])
    assert np.allclose(volume.affine @ [0, 0, 5, 1], ras(downwards) @ [0, 0, 0, 1], atol=1e-4)


def test_a_leaning_stack_keeps_its_lean(tmp_path):
    tilted = axial(6)
    tilted[1, 2] = 4.0
    series(tmp_path / "tilted", PIXELS, tilted)
    assert np.allclose(read_volume(tmp_path / "tilted").affine, ras(tilted), atol=1e-4)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path):
    def pet(made, index):
        made.NumberOfSlices = 6
        made.RescaleSlope, made.RescaleIntercept = str(0.5 * (index + 1)), "-3"

    volume = read_volume(series(tmp_path / "pet", PIXELS, axial(6), "PT", pet))
    assert np.allclose(volume.pixels, PIXELS * (0.5 * np.arange(1, 7)[:, None, None]) - 3, atol=1e-3)


@pytest.mark.parametrize("signed", [True, False])
def test_twelve_bits_in_sixteen_and_white_as_zero(tmp_path, signed):
    levels = PIXELS.clip(-2048, 2047) if signed else (PIXELS + 1000).astype(np.uint16)
    masked = (levels.astype(np.int32) & 0xFFF).astype(np.uint16)

    def twelve(made, index):
        made.BitsStored, made.HighBit, made.PixelRepresentation = 12, 11, int(signed)
        if "1" in made.SeriesInstanceUID:
            made.PhotometricInterpretation = "MONOCHROME1"

    usual = read_volume(series(tmp_path / "two", masked, axial(6), "MR", twelve, series="2"))
    assert np.array_equal(usual.pixels, levels)
    inverted = read_volume(series(tmp_path / "one", masked, axial(6), "MR", twelve, series="1"))
    assert np.array_equal(inverted.pixels, (-1 if signed else 4095) - levels.astype(np.float32))
    absolute = read_volume(series(tmp_path / "ct", masked, axial(6), "CT", twelve, series="1"))
    assert np.array_equal(absolute.pixels, levels)


def test_a_multi_frame_file_is_a_volume_whatever_the_order_of_its_frames(tmp_path):
    volume = read_volume(multiframe(tmp_path / "mr.dcm", PIXELS, OBLIQUE, [2, 0, 1, 5, 4, 3]))
    assert np.array_equal(volume.pixels, PIXELS * 2.0 + 1)
    assert np.allclose(volume.affine, ras(OBLIQUE), atol=1e-4)


def test_nuclear_frames_follow_one_another_along_the_normal(tmp_path):
    made, detector = image(PIXELS, "NM"), pydicom.Dataset()
    place(made, OBLIQUE, 5)
    detector.ImagePositionPatient, detector.ImageOrientationPatient = (
        made.ImagePositionPatient,
        made.ImageOrientationPatient,
    )
    made.DetectorInformationSequence, made.SpacingBetweenSlices = [detector], "-13.25"
    del made.ImagePositionPatient, made.ImageOrientationPatient
    made.save_as(tmp_path / "nm.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path / "nm.dcm")
    assert np.array_equal(volume.pixels, PIXELS[::-1]) and np.allclose(volume.affine, ras(OBLIQUE), atol=1e-4)


def test_a_compressed_series_is_read_where_a_decoder_is_there_and_refused_in_a_line_where_not(tmp_path):
    def rle(made, index):
        made.compress(RLELossless)

    def unreadable(made, index):
        made.file_meta.TransferSyntaxUID = JPEGLSLossless
        made.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        made["PixelData"].VR = "OB"

    assert np.array_equal(read_volume(series(tmp_path / "rle", PIXELS, axial(6), "MR", rle)).pixels, PIXELS)
    said = refusal(series(tmp_path / "jpegls", PIXELS, axial(6), "MR", unreadable))
    assert "is compressed (JPEG-LS Lossless Image Compression)" in said


def test_of_several_series_one_is_chosen_by_modality_or_all_are_told_without_names(tmp_path):
    both = tmp_path / "both"
    series(both, PIXELS, axial(6), "CT", name="ct{}".format, series="1.1")
    series(both, PIXELS[:4], axial(6), "MR", name="mr{}".format, series="1.2")
    (both / "report.txt").write_text("no image")
    series(both, PIXELS[:1], axial(6), "CT", lambda m, i: setattr(m, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    assert "holds 2 series: CT with 6 slices, MR with 4 slices; put" in refusal(both)
    assert read_volume(both, "MR").pixels.shape == (4, 10, 12)
    assert "2 series" in refusal(both, modality="PT")


BAD_SERIES = {
    "lacks slices: a gap of 26.50 mm where 13.25": lambda m, i: place(m, OBLIQUE, i if i < 3 else i + 1),
    "2 or more slices at one position": lambda m, i: place(m, OBLIQUE, min(i, 4)),
    "spaced unevenly": lambda m, i: place(m, OBLIQUE, i + 0.3 * (i == 2)),
    "not parallel": lambda m, i: place(m, turned(OBLIQUE, 3.0 * (i == 1), 0, 0), i),
    "no right angle": lambda m, i: setattr(m, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
    "does not say its ImagePositionPatient": lambda m, i: delattr(m, "ImagePositionPatient"),
    "does not say its PixelSpacing": lambda m, i: delattr(m, "PixelSpacing"),
    "lacks Rows": lambda m, i: delattr(m, "Rows"),
    "lacks BitsStored": lambda m, i: delattr(m, "BitsStored"),
    "has no pixel data": lambda m, i: delattr(m, "PixelData"),
    "its header says 240": lambda m, i: setattr(m, "PixelData", b"\0\0"),
    "claims 60000x60000": lambda m, i: (setattr(m, "Rows", 60000), setattr(m, "Columns", 60000)),
    "claims 12x10x1000000000": lambda m, i: setattr(m, "NumberOfFrames", "1000000000"),
    "is in colour (RGB)": lambda m, i: setattr(m, "PhotometricInterpretation", "RGB"),
    "unknown photometric": lambda m, i: setattr(m, "PhotometricInterpretation", "SECRET"),
    "9 bits in 8": lambda m, i: (setattr(m, "BitsStored", 9), setattr(m, "BitsAllocated", 8)),
    "burned into its pixels": lambda m, i: setattr(m, "BurnedInAnnotation", "YES"),
    "lookup table": lambda m, i: setattr(m, "ModalityLUTSequence", [pydicom.Dataset()]),
    "slope of 0": lambda m, i: setattr(m, "RescaleSlope", "0"),
    "not finite": lambda m, i: setattr(m, "RescaleSlope", "1e39"),
    "0.001 and 1000 mm": lambda m, i: setattr(m, "PixelSpacing", [0, 0]),
    "differ in size": lambda m, i: setattr(m, "PixelSpacing", [1 + i, 1]),
    "of more than one patient": lambda m, i: setattr(m, "PatientID", f"SECRET{i % 2}"),
    "more than one patient or study in one series": lambda m, i: setattr(m, "StudyInstanceUID", f"1.{i % 2}"),
    "2 frames of reference": lambda m, i: setattr(m, "FrameOfReferenceUID", f"1.{i % 2}"),
    "in an unknown way": lambda m, i: setattr(m.file_meta, "TransferSyntaxUID", "1.2.3.4"),
    "is deflated": lambda m, i: setattr(m.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2.1.99"),
}


@pytest.mark.parametrize("words", BAD_SERIES)
def test_a_bad_series_is_refused_in_one_line(tmp_path, words):
    def change(made, index):
        place(made, OBLIQUE, index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            BAD_SERIES[words](made, index)

    def name(index):
        return f"secret{index}.dcm"

    series(tmp_path / "bad", PIXELS, OBLIQUE, "CT", change, name)
    said = refusal(tmp_path / "bad")
    assert words in said
    assert "SECRET" not in said.upper().replace(str(tmp_path).upper(), "")


def test_a_slice_whose_header_is_lost_is_refused_and_what_is_no_image_passed_over(tmp_path):
    def report(made, index):
        if index == 5:
            made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
            for tag in ("Rows", "Columns", "PixelData"):
                delattr(made, tag)

    assert read_volume(series(tmp_path / "report", PIXELS, OBLIQUE, change=report)).pixels.shape == (5, 10, 12)
    series(tmp_path / "cut", PIXELS, OBLIQUE)
    last = tmp_path / "cut" / "005.dcm"
    last.write_bytes(last.read_bytes()[:400])
    assert "DICOM file 6 of 6 (by path) holds no image that can be read" in refusal(tmp_path / "cut")
    last.write_bytes(b"")
    assert "DICOM file 6 of 6 (by path) is no DICOM file" in refusal(tmp_path / "cut")


def test_a_header_that_nests_without_end_is_refused(tmp_path):
    made = image(PIXELS[0], "MR")
    place(made, OBLIQUE, 0)
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    # A sequence of undefined length in an item of undefined length, again and again.
    nested = (b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 20_000
    content = stream.getvalue()
    at = content.index(b"\xe0\x7f\x10\x00")
    (tmp_path / "deep.dcm").write_bytes(content[:at] + nested + content[at:])
    assert "damaged DICOM" in refusal(tmp_path / "deep.dcm")


@pytest.mark.parametrize(("bits", "upto"), [("signed", None), ("unsigned", None), ("signed", -32000)])
def test_padding_of_a_series_neither_shows_nor_counts_for_the_range(tmp_path, bits, upto):
    levels = PIXELS.clip(0, 900) + np.int16(3)
    padded = levels.copy()
    padded[:, :, :3] = -32768
    padded[2] = -32768
    if upto:
        padded[:, 0] = upto

    def change(made, index):
        made.add_new("PixelPaddingValue", "SS" if bits == "signed" else "US", -32768 if bits == "signed" else 32768)
        if upto:
            made.add_new("PixelPaddingRangeLimit", "SS", upto)

    volume = read_volume(series(tmp_path / "mr", padded, axial(6), "MR", change))
    real = padded > -32000
    assert np.array_equal(volume.pixels[real], levels[real])
    assert (volume.pixels[~real] == levels[real].min()).all()
    assert display_range(volume)[0] >= 3
    unmarked = read_volume(series(tmp_path / "unmarked", padded, axial(6), "MR"))
    assert display_range(unmarked)[0] < -30000

"""DICOM and NIfTI volumes: values, geometry to 1e-4 mm, one grid for two, and one clear line for bad input."""

import gzip
import io
import os
import resource
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless, RLELossless

from model.dicom_series import write_series
from model.errors import InputError
from model.nifti import write_nifti
from model.pairing import overlap, pair_volumes
from model.volumes import MAX_VOXELS, Volume, Window, display_range, is_volume, read_volume, shown
from tests.scans import FRAME, axial, head, image, multiframe, place, ras, series, turned

OBLIQUE = turned(axial(8), 12, -7, 25)
PIXELS = np.random.default_rng(5).integers(-1000, 2000, (6, 10, 12)).astype(np.int16)


def nifti(path: Path, pixels: np.ndarray, affine: np.ndarray, code: int = 1) -> Path:
    """Write (D, H, W) with an affine in RAS."""
    made = nibabel.Nifti1Image(pixels.transpose(2, 1, 0), affine)
    made.set_sform(affine, code)
    made.set_qform(affine, code)
    nibabel.save(made, path)
    return path


def refusal(path: Path, **kwargs: str) -> str:
    with pytest.raises(InputError) as refused:
        read_volume(path, **kwargs)
    assert "\n" not in str(refused.value)
    return str(refused.value)


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


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ILP"])
def test_nifti_in_any_orientation_is_sliced_axially_from_the_feet(tmp_path, axes):
    lps = nibabel.Nifti1Image(PIXELS.transpose(2, 1, 0).astype(np.float32), ras(OBLIQUE))
    lps.header.set_xyzt_units("mm")
    from_lps = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(lps.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    nibabel.save(lps.as_reoriented(from_lps), tmp_path / "mr.nii.gz")
    volume = read_volume(tmp_path / "mr.nii.gz")
    assert np.array_equal(volume.pixels, PIXELS)
    assert np.allclose(volume.affine, ras(OBLIQUE), atol=1e-4)
    levels = Volume(np.random.default_rng(0).random(PIXELS.shape, np.float32), volume.affine, frame=volume.frame)
    write_nifti(tmp_path / "out.nii.gz", levels, like=tmp_path / "mr.nii.gz")
    out, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(tmp_path / "mr.nii.gz")
    assert out.shape == source.shape and np.allclose(out.affine, source.affine, atol=1e-4)
    assert out.header.get_xyzt_units()[0] == "mm" and nibabel.aff2axcodes(out.affine) == tuple(axes)
    assert np.allclose(read_volume(tmp_path / "out.nii.gz").pixels, levels.pixels, atol=1e-6)


def test_nifti_scale_and_units(tmp_path):
    made = nibabel.Nifti1Image(PIXELS.transpose(2, 1, 0), ras(axial(6)) @ np.diag([1e-3, 1e-3, 1e-3, 1]))
    made.header.set_slope_inter(0.25, -10)
    made.header.set_xyzt_units("meter")
    made.affine[:3, 3] = 0
    made.set_sform(made.affine, 1)
    made.header["scl_slope"], made.header["scl_inter"] = 0.25, -10
    content = bytearray(made.to_bytes())
    content[112:120] = np.array([0.25, -10], "<f4").tobytes()
    (tmp_path / "s.nii").write_bytes(content)
    volume = read_volume(tmp_path / "s.nii", "CT")
    assert np.allclose(volume.pixels, PIXELS * 0.25 - 10)
    assert volume.spacing == pytest.approx((3.6, 3.6, 13.25), rel=1e-5) and volume.modality == "CT"


def test_what_is_shown_of_ct_is_the_window_and_of_mr_what_most_of_it_holds():
    ct, mr = head(size=64, slices=2)
    volume = Volume(ct.astype(np.float32), np.eye(4))
    assert volume.is_ct and display_range(volume) == (0, 80)
    assert display_range(volume, Window.parse("600/2000")) == (-400, 1600)
    spiked = mr.astype(np.float32)
    spiked[0, 0, 0] = 1e6
    low, high = display_range(Volume(spiked, np.eye(4), "MR"))
    assert low == 0 and high == np.percentile(spiked, 99.5) < 1100
    assert shown(np.float32([-50, 0, 20, 80, 3000]), (0, 80)).tolist() == [0, 0, 0.25, 1, 1]
    flat = Volume(np.full((2, 3, 4), 7, np.float32), np.eye(4), "MR")
    assert not shown(flat.pixels, display_range(flat)).any()
    for text in ("40", "40/0", "a/b", "40/nan", "1/2/3", "40/-5"):
        with pytest.raises(InputError, match="40/80"):
            Window.parse(text)


def blob(affine: np.ndarray, shape: tuple[int, int, int], frame: str = FRAME, modality: str = "MR") -> Volume:
    """A smooth function of the place in space, sampled on a grid."""
    grid = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)])
    x, y, z, _ = np.tensordot(affine, grid[[2, 1, 0, 3]], 1)
    return Volume((100 + x + 2 * y - 3 * z).astype(np.float32), affine, modality, frame)


def test_a_volume_on_another_grid_is_resampled_to_the_same_places():
    first = blob(ras(axial(8, (4, 4, 5), (-40, -40, -20))), (8, 20, 20))
    second = blob(ras(turned(axial(8, (3, 3, 3), (-60, -60, -50)), 10, 5, -20)), (40, 50, 50))
    pair = pair_volumes(first, second)
    assert "resampled" in pair.how and pair.second.affine is first.affine
    assert np.abs(pair.second.pixels - first.pixels)[2:6, 4:16, 4:16].max() < 1e-2


def test_volumes_on_one_grid_are_paired_as_they_are_and_others_only_within_one_frame():
    affine, shape = ras(axial(8)), (4, 6, 6)
    near, moved = affine.copy(), affine.copy()
    near[0, 3] += 0.005
    moved[0, 3] += 2
    first = blob(affine, shape)
    assert pair_volumes(first, blob(near, shape, "")).how == "on one grid"
    assert "name different frames" in pair_volumes(first, blob(affine, shape, "1.2.9")).how
    for frame in (FRAME, "scanner"):
        assert "resampled" in pair_volumes(first, blob(moved, shape, frame)).how
    for frame, words in (
        ("1.2.9", "different frames"),
        ("mni", "different frames"),
        ("", "second volume does not say"),
    ):
        with pytest.raises(InputError, match=words):
            pair_volumes(first, blob(moved, shape, frame))
    assert "resampled" in pair_volumes(blob(affine, shape, "scanner"), blob(moved, shape, "scanner")).how
    with pytest.raises(InputError, match="different frames"):
        pair_volumes(blob(affine, shape, "scanner"), blob(moved, shape, "mni"))


@pytest.mark.parametrize("other", [FRAME, "scanner", "aligned"])
def test_aligned_nifti_is_paired_on_one_grid_alone(tmp_path, other):
    aligned = read_volume(nifti(tmp_path / "aligned.nii", PIXELS, ras(axial(6)), code=2))
    assert aligned.frame == "aligned"
    shape, moved = PIXELS.shape, ras(axial(6))
    assert pair_volumes(aligned, blob(moved.copy(), shape, other)).how.startswith("on one grid")
    moved[0, 3] += 2
    for pair in ((aligned, blob(moved, shape, other)), (blob(moved, shape, other), aligned)):
        with pytest.raises(InputError, match="aligned space"):
            pair_volumes(*pair)
    write_nifti(tmp_path / "out.nii", replace(aligned, pixels=aligned.pixels / 4000))
    assert int(nibabel.load(tmp_path / "out.nii").header["sform_code"]) == 2


def test_overlap_is_of_the_smaller_volume():
    big, small = blob(np.eye(4), (40, 40, 40)), np.eye(4)
    for shift, share in ((0, 1.0), (35, 0.5), (50, 0.0)):
        small[0, 3] = shift
        assert overlap(big, blob(small, (10, 10, 10))) == pytest.approx(share, abs=0.1)
        assert overlap(blob(small, (10, 10, 10)), big) == pytest.approx(share, abs=0.1)
    with pytest.raises(InputError, match="share 0% of the smaller one"):
        pair_volumes(big, blob(small, (10, 10, 10)))


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


def test_a_bad_file_is_refused_in_one_line(tmp_path):
    good = nifti(tmp_path / "good.nii", PIXELS.astype(np.float32), ras(axial(6)))
    content = good.read_bytes()
    (tmp_path / "cut.nii").write_bytes(content[:-100])
    (tmp_path / "head.nii").write_bytes(content[:200])
    (tmp_path / "text.nii").write_text("no volume")
    (tmp_path / "text.dcm").write_text("no image")
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(content)[:-500])
    (tmp_path / "empty").mkdir()
    spoilt = PIXELS.astype(np.float32)
    spoilt[2, 3, 4] = np.nan
    nifti(tmp_path / "nan.nii", spoilt, ras(axial(6)))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "four.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4), np.float32), np.eye(4)), tmp_path / "flat.nii")
    flat = bytearray(content)
    flat[280:328] = bytes(48)
    (tmp_path / "flataffine.nii").write_bytes(flat)
    cases = {
        "absent": "no such volume",
        "text.nii": "is no NIfTI file",
        "head.nii": "its beginning is lost",
        "cut.nii": "is cut short: 5 of 6 planes",
        "cut.nii.gz": "cut short",
        "text.dcm": "no volume that this program reads",
        "empty": "holds no DICOM file",
        "nan.nii": "not finite",
        "four.nii": "has 4 dimensions, not 3; give one of its volumes",
        "complex.nii": "colour or complex",
        "flat.nii": "has 2 dimensions",
        "flataffine.nii": "no usable geometry",
    }
    for name, words in cases.items():
        assert words in refusal(tmp_path / name), name
    assert is_volume(tmp_path / "text.nii") and not is_volume(tmp_path / "empty") and not is_volume(tmp_path / "absent")


def test_a_message_can_be_written_whatever_the_file_is_called(tmp_path):
    said = refusal(tmp_path / os.fsdecode(b"head\xff\n.nii"))
    assert "head\\udcff\\n.nii" in said and said.encode()


def test_a_bomb_costs_no_memory(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2000, 2000, 2000))
    header["vox_offset"] = 352
    (tmp_path / "claim.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    assert f"{MAX_VOXELS:,} in all" in refusal(tmp_path / "claim.nii.gz")
    header.set_data_shape((4, 4, 4))
    header["magic"] = b"n+1"
    with gzip.open(tmp_path / "long.nii.gz", "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + bytes(4))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_volume(tmp_path / "long.nii.gz").pixels.shape == (4, 4, 4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


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
    max_examples=250, deadline=10_000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(changes=mutations)
def test_any_dicom_bytes_are_a_volume_or_one_line(tmp_path, changes):
    (tmp_path / "fuzz.dcm").write_bytes(mutated(SMALL_DICOM.getvalue(), changes, 132))
    check_defined(tmp_path / "fuzz.dcm")


TAGS = ["Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelSpacing"]
TAGS += ["ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "RescaleSlope", "Modality"]
TAGS += ["PhotometricInterpretation", "SamplesPerPixel", "FrameOfReferenceUID", "SeriesInstanceUID", "ImageType"]
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

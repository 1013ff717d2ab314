"""NIfTI volumes: any orientation, scale and unit, and one clear line for damaged files and bombs."""

import gzip
import os
import resource

import nibabel
import numpy as np
import pytest

from model.nifti import write_nifti
from model.volumes import MAX_VOXELS, Volume, is_volume, read_volume
from tests.scans import (
    OBLIQUE,
    PIXELS,
    axial,
    nifti,
    ras,
    refusal,
)


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

"""`fusion fuse` and `fusion data volumes` on volumes: slices, geometry, all or nothing, and no patient in them."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.datadict import dictionary_VR

import components.ingest.volumes
from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from model.fuser import Fuser
from model.volumes import Window, display_range, read_volume, shown
from tests.scans import FRAME, axial, head, image, multiframe, place, ras, series, turned

ROOT = Path(__file__).parents[2]
MARKER = "Zebulon7Marker"
OBLIQUE = turned(axial(4, origin=(-113.2, -110.4, -35.41)), 12, -7, 25)
CT, MR = head(size=64, slices=4)


def nifti(path: Path, pixels: np.ndarray, affine: np.ndarray) -> Path:
    made = nibabel.Nifti1Image(pixels.transpose(2, 1, 0), affine)
    made.set_sform(affine, 1)
    made.header.set_xyzt_units("mm")
    nibabel.save(made, path)
    return path


@pytest.fixture
def scans(folder):
    """A CT series and an MR series on one oblique grid, beside a small model."""
    series(folder / "ct", CT, OBLIQUE, "CT", series="1.1")
    series(folder / "mr", MR, OBLIQUE, "MR", series="1.2")
    return folder


def expected(folder: Path, ct: Path, mr: Path) -> np.ndarray:
    """The fusion of each slice of two volumes on one grid by itself."""
    volumes = [read_volume(path) for path in (ct, mr)]
    first, second = (torch.from_numpy(shown(each.pixels, display_range(each)))[:, None] for each in volumes)
    return Fuser.load(folder / "model").fuse(first, second)[:, 0].numpy()


def test_two_series_are_fused_slice_by_slice_to_nifti_in_their_place(scans, fusion):
    done = fusion("fuse", "ct", "mr", "-o", "fused.nii.gz", "--model", "model")
    assert (done.returncode, done.stderr) == (0, "")
    said = "first: ct (CT, as its header says); second: mr (MR, as its header says)\n"
    assert done.stdout == said + "fused 4 slices, on one grid; wrote fused.nii.gz\n"
    made = nibabel.load(scans / "fused.nii.gz")
    corners = np.array([[0, 0, 0, 1], [64, 0, 0, 1], [0, 64, 0, 1], [0, 0, 4, 1]]).T
    assert np.abs((made.affine - ras(OBLIQUE)) @ corners).max() < 1e-4
    assert made.header.get_xyzt_units()[0] == "mm" and made.get_data_dtype() == np.float32
    fused, wanted = np.asarray(made.dataobj).transpose(2, 1, 0), expected(scans, scans / "ct", scans / "mr")
    assert np.abs(fused - wanted).max() < 1e-6 and fused.max() > 0.3
    done = fusion("fuse", "ct", "mr", "-o", "bytes.nii", "--model", "model", "--dtype", "uint8")
    assert done.returncode == 0
    levels = nibabel.load(scans / "bytes.nii")
    assert levels.get_data_dtype() == np.uint8
    assert np.abs(np.asarray(levels.dataobj).transpose(2, 1, 0) / 255 - wanted).max() < 0.002
    wide = fusion("fuse", "ct", "mr", "-o", "wide.nii", "--model", "model", "--window", "0/2000")
    assert wide.returncode == 0 and (np.asarray(nibabel.load(scans / "wide.nii").dataobj) != fused.T).any()


def test_two_series_are_fused_to_a_new_series_in_their_place_without_a_patient(scans, fusion):
    done = fusion("fuse", "ct", "mr", "-o", "fused", "--model", "model")
    assert done.returncode == 0, done.stderr
    files = sorted((scans / "fused").iterdir())
    made = [pydicom.dcmread(path) for path in files]
    assert [path.name for path in files] == ["0001.dcm", "0002.dcm", "0003.dcm", "0004.dcm"]
    sources = [pydicom.dcmread(path) for path in sorted((scans / "ct").iterdir())]
    for fused, source in zip(made, sources, strict=True):
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert np.allclose(fused[tag].value, source[tag].value, atol=1e-4, rtol=0), tag
        assert fused.FrameOfReferenceUID == FRAME and list(fused.ImageType) == ["DERIVED", "SECONDARY"]
        assert fused.PatientID == fused.PatientName == "ANONYMOUS" and fused.PatientIdentityRemoved == "YES"
        assert "not for diagnosis" in fused.SeriesDescription and "atlas-fusion" in fused.DerivationDescription
        assert "BurnedInAnnotation" not in fused and not any(element.tag.is_private for element in fused)
        assert not any(element.value for element in fused if element.VR in ("DA", "TM", "DT"))
    assert len({each.SOPInstanceUID for each in made}) == 4 and len({each.SeriesInstanceUID for each in made}) == 1
    assert made[0].SeriesInstanceUID not in ("1.1", "1.2")
    volume = read_volume(scans / "fused")
    assert np.allclose(volume.affine, ras(OBLIQUE), atol=1e-4)
    assert np.abs(volume.pixels / 65535 - expected(scans, scans / "ct", scans / "mr")).max() < 1e-4
    assert sorted(path.name for path in scans.iterdir()) == ["ct", "ct.png", "fused", "model", "mr", "mr.png"]


def test_only_where_both_sources_state_it_the_result_has_no_burned_in_annotation(scans, fusion):
    for kind, pixels in (("ct", CT), ("mr", MR)):
        series(scans / kind, pixels, OBLIQUE, kind.upper(), lambda m, i: setattr(m, "BurnedInAnnotation", "NO"))
    assert fusion("fuse", "ct", "mr", "-o", "fused", "--model", "model").returncode == 0
    assert pydicom.dcmread(scans / "fused" / "0001.dcm").BurnedInAnnotation == "NO"


def test_dicom_and_nifti_on_other_grids_are_fused_on_the_first(scans, fusion):
    fine = np.repeat(np.repeat(MR, 2, 1), 2, 2)
    affine = ras(OBLIQUE) @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] -= affine[:3, :3] @ [0.5, 0.5, 0]
    nifti(scans / "mr.nii.gz", fine, affine)
    nifti(scans / "ct.nii", CT, ras(OBLIQUE))
    done = fusion("fuse", "ct", "mr.nii.gz", "-o", "mixed.nii", "--model", "model")
    assert "the second resampled onto the grid of the first" in done.stdout
    mixed = np.asarray(nibabel.load(scans / "mixed.nii").dataobj)
    wanted = expected(scans, scans / "ct", scans / "mr").transpose(2, 1, 0)
    assert np.abs(mixed - wanted).mean() < 0.02
    done = fusion("fuse", "ct.nii", "mr", "-o", "same.nii", "--model", "model")
    assert "on one grid" in done.stdout
    assert np.abs(np.asarray(nibabel.load(scans / "same.nii").dataobj) - wanted).max() < 1e-5
    multiframe(scans / "mr.dcm", MR, OBLIQUE)
    done = fusion("fuse", "ct", "mr.dcm", "-o", "framed.nii", "--model", "model")
    assert done.returncode == 0
    assert np.abs(np.asarray(nibabel.load(scans / "framed.nii").dataobj) - wanted).max() < 1e-4


def test_bad_volumes_are_one_line_and_write_nothing(scans, fusion, refused):
    series(scans / "far", MR, OBLIQUE, "MR", frame="1.2.9", change=lambda m, i: place(m, axial(4, (3, 3, 5)), i))
    nifti(scans / "mr.nii", MR, ras(OBLIQUE))
    (scans / "void").mkdir()
    (scans / "void" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    before = sorted(scans.rglob("*"))
    cases = {
        ("ct", "far", "-o", "o.nii"): "are in different frames of reference",
        ("ct", "ct.png", "-o", "o.nii"): "ct.png is no volume",
        ("ct", "absent", "-o", "o.nii"): "no such volume: absent",
        ("ct", "void", "-o", "o.nii"): "void holds no DICOM image",
        ("ct", "mr", "-o", "o.png"): "a fused volume is a .nii or .nii.gz file, or a folder",
        ("ct", "mr", "-o", "model"): "model is not an empty folder",
        ("ct", "mr", "-o", "ct/fused"): "lies in the source ct",
        ("ct", "mr", "-o", "no/where"): "there is no folder no",
        ("ct", "mr", "-o", "no/where.nii"): "cannot write no/where.nii",
        ("mr", "ct", "-o", "o.nii"): "are swapped: the first, mr, is MR, as its header says; the second, ct, is CT",
        ("ct.png", "mr.png", "-o", "o.png", "--keep-order"): "--keep-order is for volumes",
        ("mr.nii", "mr", "-o", "mr.nii"): "is one of the sources",
        ("mr.nii", "mr", "-o", "series"): "mr.nii is NIfTI; end the name in .nii.gz",
        ("ct", "mr", "-o", "o.nii", "--window", "40"): "is not CENTRE/WIDTH",
        ("mr", "mr.nii", "-o", "o.nii", "--window", "40/80"): "neither mr nor mr.nii is CT",
        ("ct", "mr", "-o", "o.nii", "--dtype", "int64"): "unknown dtype 'int64'",
        ("ct", "mr", "-o", "series", "--dtype", "uint8"): "--dtype is for NIfTI",
        ("ct.png", "mr.png", "-o", "o.png", "--window", "40/80"): "--window is for volumes",
    }
    for arguments, words in cases.items():
        assert words in refused("fuse", *arguments, "--model", "model"), arguments
    assert sorted(scans.rglob("*")) == before


def levels_in(folder: Path, modality: str) -> dict[str, np.ndarray]:
    return {path.name: np.array(Image.open(path)) for path in sorted((folder / "CT-MRI" / modality).iterdir())}


def test_volumes_become_slice_pairs_and_subjects_are_added_one_after_another(tmp_path, fusion, refused):
    blank = CT.copy()
    blank[0] = -1000
    for name, pixels, kind in (("ct1", blank, "CT"), ("mr1", MR, "MR")):
        series(
            tmp_path / "study1",
            pixels,
            OBLIQUE,
            kind,
            name=(name + "{}").format,
            series="1.1" if kind == "CT" else "1.2",
        )
    for name, pixels in (("ct2.nii", head(1, slices=4)[0]), ("mr2.nii", head(1, slices=4)[1])):
        nifti(tmp_path / name, pixels, ras(axial(4)))
    done = fusion("data", "volumes", "study1", "study1", "-o", "atlas", "--subject", "one")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote 3 pairs to atlas (empty slices left out: 1; on one grid)\n"
    assert fusion("data", "volumes", "ct2.nii", "mr2.nii", "-o", "atlas", "--subject", "2").returncode == 0
    ct, mr = (levels_in(tmp_path / "atlas", modality) for modality in ("CT", "MRI"))
    assert list(ct) == list(mr) == [*(f"2{n:03d}.png" for n in (1, 2, 3, 4)), *(f"one{n:03d}.png" for n in (2, 3, 4))]
    assert all(image.dtype == np.uint8 and image.shape == (64, 64) for image in (*ct.values(), *mr.values()))
    assert np.abs(ct["one003.png"] - np.clip(CT[2] / 80, 0, 1) * 255).max() <= 0.51
    before = {path: path.is_file() and path.read_bytes() for path in (tmp_path / "atlas").rglob("*")}
    nifti(tmp_path / "small.nii", CT[:, :32, :32].copy(), ras(axial(4)))
    nifti(tmp_path / "small-mr.nii", MR[:, :32, :32].copy(), ras(axial(4)))
    nifti(tmp_path / "air.nii", np.full_like(CT, -1000), ras(axial(4)))
    pair = ("ct2.nii", "mr2.nii", "-o", "atlas", "--subject")
    cases = {
        (*pair, "one"): "has a subject one",
        (*pair, "Jane Doe"): "is no name for one",
        (*pair, "3", "--collection", "MR-CT"): "unknown collection",
        (*pair, "3", "--window", "40"): "40/80",
        ("small.nii", "small-mr.nii", "-o", "atlas", "--subject", "3"): "are 32x32, those in atlas/CT-MRI 64x64",
        ("air.nii", "mr2.nii", "-o", "atlas", "--subject", "3"): "shows anything in both",
        ("study1", "mr2.nii", "-o", "new", "--subject", "3", "--collection", "PET-MRI"): "holds 2 series",
        ("air.nii", "mr2.nii", "-o", "new", "--subject", "3"): "shows anything in both",
        ("mr2.nii", "ct2.nii", "-o", "new", "--subject", "3"): "mr2.nii is taken as CT, but has no air",
        ("ct2.nii", "air.nii", "-o", "new", "--subject", "3"): "air.nii is taken as MRI, but has values as low as",
        ("air.nii", "mr2.nii", "-o", "new", "--subject", "3", "--collection", "PET-MRI"): "is taken as PET, but",
        ("ct2.nii", "mr2.nii", "-o", "ct2.nii", "--subject", "3"): "ct2.nii is a file",
        ("ct2.nii", "mr2.nii", "-o", "no/new", "--subject", "3"): "cannot write no/new",
    }
    for arguments, words in cases.items():
        assert words in refused("data", "volumes", *arguments), arguments
    assert {path: path.is_file() and path.read_bytes() for path in (tmp_path / "atlas").rglob("*")} == before
    assert not (tmp_path / "new").exists()


def test_spect_is_nuclear_medicine_and_no_pet(tmp_path, fusion, refused):
    for kind, pixels in (("PT", MR), ("NM", MR), ("MR", MR)):
        series(tmp_path / kind, pixels, OBLIQUE, kind)
    for kind, modality, other in (("PT", "SPECT", "NM"), ("NM", "PET", "PT")):
        end = ("MR", "-o", "atlas", "--subject", "1", "--collection", f"{modality}-MRI")
        assert f"{kind} is {kind}, where {modality}-MRI takes {modality}" in refused("data", "volumes", kind, *end)
        assert fusion("data", "volumes", other, *end).returncode == 0


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "cut"])
def test_an_image_in_the_dataset_that_cannot_be_read_is_named_in_one_line(tmp_path, fusion, refused, content):
    for name, pixels in (("ct.nii", CT), ("mr.nii", MR)):
        nifti(tmp_path / name, pixels, ras(axial(4)))
    assert fusion("data", "volumes", "ct.nii", "mr.nii", "-o", "atlas", "--subject", "1").returncode == 0
    first = tmp_path / "atlas" / "CT-MRI" / "CT" / "1001.png"
    content = first.read_bytes()[:200] if content is None else content
    first.unlink()
    first.write_bytes(content)
    assert "CT-MRI/CT/1001.png is " in refused("data", "volumes", "ct.nii", "mr.nii", "-o", "atlas", "--subject", "2")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_subject_whose_import_dies_is_not_there_and_can_be_added_again(tmp_path, fusion, monkeypatch, replaced):
    for name, pixels in (("ct.nii", CT), ("mr.nii", MR)):
        nifti(tmp_path / name, pixels, ras(axial(4)))
    assert fusion("data", "volumes", "ct.nii", "mr.nii", "-o", "atlas", "--subject", "1").returncode == 0
    there = levels_in(tmp_path / "atlas", "CT").keys()
    code = (
        "import os, sys; from pathlib import Path; import components.ingest.volumes as v\n"
        "rename, tell = Path.rename, lambda done, total: done == 2 and not later and os._exit(9)\n"
        "later = bool(int(sys.argv[1]))\n"
        "def dies(self, target):\n"
        "    made = rename(self, target)\n"
        "    os._exit(9)\n"
        "Path.rename = dies if later else rename\n"
        "v.import_volumes(Path('ct.nii'), Path('mr.nii'), Path('atlas'), '2', progress=tell)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(int(replaced))], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert ended.returncode == 9
    if not replaced:
        assert levels_in(tmp_path / "atlas", "CT").keys() == there
    assert fusion("data", "volumes", "ct.nii", "mr.nii", "-o", "atlas", "--subject", "3").returncode == 0
    assert {name[0] for name in levels_in(tmp_path / "atlas", "MRI")} == {"1", "3"}
    assert sorted(path.name for path in (tmp_path / "atlas").iterdir()) == ["CT-MRI"]


def test_what_three_subjects_became_is_a_dataset(tmp_path, fusion):
    for number in (0, 1, 2):
        ct, mr = head(number, slices=4)
        series(tmp_path / f"ct{number}", ct, OBLIQUE, "CT")
        nifti(tmp_path / f"mr{number}.nii.gz", mr, ras(OBLIQUE))
        added = fusion("data", "volumes", f"ct{number}", f"mr{number}.nii.gz", "-o", "atlas", "--subject", f"p{number}")
        assert added.returncode == 0, added.stderr
    facts = ingest(str(tmp_path / "atlas"), "", PhantomConfig(), tmp_path / "ingested")
    assert (facts["pairs"], facts["subjects"]) == (12, 3)


def marked(made: pydicom.Dataset, index: int) -> None:
    """Put the marker into every text attribute that can name a patient, a place or a device, and into private ones."""
    for keyword in (
        *("PatientName", "PatientID", "OtherPatientNames", "PatientAddress", "PatientComments", "EthnicGroup"),
        *("AccessionNumber", "InstitutionName", "InstitutionAddress", "StationName", "StudyDescription", "StudyID"),
        *("SeriesDescription", "ProtocolName", "ReferringPhysicianName", "OperatorsName", "DeviceSerialNumber"),
        *("Manufacturer", "ManufacturerModelName", "ImageComments", "BodyPartExamined", "PerformedLocation"),
        *("RequestedProcedureDescription", "AdditionalPatientHistory", "DerivationDescription", "SoftwareVersions"),
    ):
        assert dictionary_VR(keyword) in ("PN", "LO", "SH", "LT", "ST", "UT", "CS", "AE")
        setattr(made, keyword, MARKER)
    made.PatientBirthDate = made.StudyDate = made.ContentDate = "19610417"
    made.add_new(0x00090010, "LO", MARKER)
    made.add_new(0x00091001, "UT", MARKER)
    item = pydicom.Dataset()
    item.PatientID = MARKER
    made.OtherPatientIDsSequence = [item]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_patient_is_in_any_output_message_or_log(scans, fusion, tmp_path, caplog):
    for kind, pixels in (("ct", CT), ("mr", MR)):
        series(
            scans / f"{kind}1",
            pixels,
            OBLIQUE,
            kind.upper(),
            marked,
            (MARKER + "{}.dcm").format,
            series=f"1.{kind == 'ct'}",
        )

    def invalid(made, index):
        marked(made, index)
        for keyword in ("Modality", "FrameOfReferenceUID", "SeriesInstanceUID", "ImageType"):
            made[keyword] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", MARKER)

    series(scans / "odd", MR, OBLIQUE, "MR", invalid, (MARKER + "{}").format)
    caplog.clear()
    said = [
        fusion("fuse", "ct1", "mr1", "-o", "out1.nii.gz", "--model", "model"),
        fusion("fuse", "ct1", "mr1", "-o", "out2.nii", "--model", "model"),
        fusion("fuse", "ct1", "mr1", "-o", "out3", "--model", "model"),
        fusion("fuse", "ct1", "odd", "-o", "out4", "--model", "model"),
        fusion("fuse", "odd", "ct1", "-o", "out5", "--model", "model", "--keep-order"),
        fusion("data", "volumes", "ct1", "mr1", "-o", "out6", "--subject", "1"),
    ]
    assert [done.returncode for done in said] == [0] * len(said), said
    assert MARKER not in caplog.text
    broken = {
        "Rows": MARKER,
        "PixelSpacing": MARKER,
        "PhotometricInterpretation": MARKER,
        "RescaleSlope": MARKER,
        "BitsStored": MARKER,
        "NumberOfFrames": MARKER,
        "ImagePositionPatient": MARKER,
    }
    for number, (keyword, value) in enumerate(broken.items()):

        def change(made, index, keyword=keyword, value=value):
            marked(made, index)
            made[keyword] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", value)

        series(scans / f"bad{number}", MR, OBLIQUE, "MR", change, (MARKER + "{}.dcm").format)
        caplog.clear()
        done = fusion("fuse", "ct1", f"bad{number}", "-o", "no.nii", "--model", "model")
        assert done.returncode == 2, keyword
        assert MARKER not in caplog.text
        said.append(done)
    outputs = [path for path in scans.rglob("*") if path.relative_to(scans).parts[0].startswith("out")]
    assert len(outputs) > 20
    for path in outputs:
        assert MARKER not in path.name
        if path.is_file():
            content = path.read_bytes()
            content = __import__("gzip").decompress(content) if path.suffix == ".gz" else content
            assert MARKER.encode() not in content and b"19610417" not in content, path
    for done in said:
        assert MARKER not in done.stdout + done.stderr


def test_nifti_extensions_and_descriptions_do_not_reach_the_output(scans, fusion):
    source = nibabel.Nifti1Image(MR.transpose(2, 1, 0), ras(OBLIQUE))
    source.set_sform(ras(OBLIQUE), 1)
    source.header["descrip"] = source.header["aux_file"] = MARKER.encode()
    source.header["db_name"] = source.header["intent_name"] = MARKER.encode()
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", MARKER.encode()))
    nibabel.save(source, scans / "a.nii")
    done = fusion("fuse", "a.nii", "mr", "-o", "o.nii", "--model", "model")
    assert done.returncode == 0, done.stderr
    assert MARKER.encode() in (scans / "a.nii").read_bytes()
    assert MARKER.encode() not in (scans / "o.nii").read_bytes()


def test_one_image_is_a_volume_of_one_slice(scans, fusion):
    for kind, pixels in (("CT", CT), ("MR", MR)):
        made = image(pixels[1], kind)
        place(made, OBLIQUE, 1)
        made.save_as(scans / f"one-{kind}.dcm", enforce_file_format=True)
    done = fusion("fuse", "one-CT.dcm", "one-MR.dcm", "-o", "one.nii", "--model", "model")
    assert "\nfused 1 slice," in done.stdout, done
    assert np.allclose(nibabel.load(scans / "one.nii").affine @ [0, 0, 0, 1], ras(OBLIQUE) @ [0, 0, 1, 1], atol=1e-4)


def test_import_takes_a_window(tmp_path):
    for name, pixels in (("ct.nii", CT), ("mr.nii", MR)):
        nifti(tmp_path / name, pixels, ras(axial(4)))
    made = components.ingest.volumes.import_volumes(
        *(tmp_path / "ct.nii", tmp_path / "mr.nii", tmp_path / "out", "1"), window=Window(600, 2800)
    )
    assert made.pairs == 4
    assert min(image.max() for image in levels_in(tmp_path / "out", "CT").values()) < 130


def test_of_two_nifti_files_it_is_told_which_is_taken_for_ct_and_why(scans, fusion, refused):
    for name, pixels in (("a.nii", CT), ("b.nii", MR), ("sub-1_T1w.nii", MR), ("sub-1_pet.nii", MR)):
        nifti(scans / name, pixels, ras(OBLIQUE))
    end = ("-o", "o.nii", "--model", "model")
    told = fusion("fuse", "a.nii", "b.nii", *end).stdout.splitlines()[0]
    assert told == (
        "first: a.nii (CT, as its values are Hounsfield units (least -1000)); "
        "second: b.nii (as given: nothing in it tells its modality)"
    )
    assert "second: sub-1_T1w.nii (MR, as its name" in fusion("fuse", "sub-1_pet.nii", "sub-1_T1w.nii", *end).stdout
    said = refused("fuse", "b.nii", "a.nii", *end)
    assert "the first, b.nii, has no value below -500, as CT has; the second, a.nii, is CT, as its values are" in said
    assert "give CT, PET or SPECT first and MR second, or say --keep-order" in said
    said = refused("fuse", "sub-1_T1w.nii", "sub-1_pet.nii", *end)
    assert "sub-1_T1w.nii, is MR, as its name or the .json file beside it says" in said
    assert fusion("fuse", "sub-1_T1w.nii", "sub-1_pet.nii", *end, "--keep-order").returncode == 0
    pair = ("sub-1_T1w.nii", "sub-1_pet.nii", "-o", "new", "--subject", "1", "--collection", "PET-MRI")
    assert "swap them" in refused("data", "volumes", *pair)

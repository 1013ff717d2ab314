"""Ingest brings one exact version in, whole or not at all."""

import csv
import json

import numpy as np
import pytest
from kfp import dsl
from PIL import Image

from components.ingest.component import ingest as ingest_component
from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.ingest.version import folder_version
from model.errors import InputError

SMALL = PhantomConfig(subjects=3, slices=1, size=64, seed=1)


@pytest.fixture
def data(tmp_path):
    """A data folder of three pairs, two subjects."""
    for modality in ("CT", "MRI"):
        folder = tmp_path / "data" / "CT-MRI" / modality
        folder.mkdir(parents=True)
        for number, name in enumerate(("2001", "2002", "16003")):
            Image.fromarray(np.full((8, 8), 10 * number + len(modality), np.uint8)).save(folder / f"{name}.png")
    return tmp_path / "data"


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_gets_a_row_and_comes_along_unchanged(data, tmp_path):
    facts = ingest(str(data), "", SMALL, tmp_path / "out")
    assert (facts["pairs"], facts["subjects"], facts["version"]) == (3, 2, folder_version(data))
    rows = {row["path"]: row for row in manifest(tmp_path / "out")}
    assert len(rows) == 6
    row = rows["CT-MRI/MRI/16003.png"]
    assert (row["subject"], row["slice"], row["modality"], row["name"]) == ("16", "3", "MRI", "16003")
    for path in rows:
        assert (tmp_path / "out" / path).read_bytes() == (data / path).read_bytes()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == facts


def test_the_version_is_the_directory_hash_of_dvc(data):
    # `dvc add` of a folder holding a.txt ("a") and b/c.txt ("c") gives this hash.
    folder = data.parent / "known"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "b" / "c.txt").write_text("c")
    (folder / ".hidden").write_text("no data")
    assert folder_version(folder) == "987a1b4d7bf340132bb13dc87b929cb5.dir"


def test_the_version_of_a_part_is_that_of_a_folder_with_nothing_else(tmp_path):
    for folder, names in (("all", ("CT-MRI/CT/a", "PET-MRI/PET/b", "CT-MRI-2/c")), ("part", ("CT-MRI/CT/a",))):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(name)
    assert folder_version(tmp_path / "all", "CT-MRI") == folder_version(tmp_path / "part")
    assert folder_version(tmp_path / "all", "CT-MRI") != folder_version(tmp_path / "all")


def test_the_version_of_the_atlas_is_the_one_that_data_dvc_pins(shared):
    assert folder_version(shared / "atlas") == "ba8a63c0db60282bb5eaf078cf4e4613.dir"


def test_another_version_than_asked_for_is_refused_and_leaves_nothing(data, tmp_path):
    with pytest.raises(InputError, match=r"is version .*\.dir, not 0000"):
        ingest(str(data), "0000", SMALL, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_phantom_comes_with_manifest_and_truth(tmp_path):
    facts = ingest("phantom", "", SMALL, tmp_path / "out")
    assert (facts["source"], facts["pairs"], facts["subjects"]) == ("phantom", 3, 3)
    assert {row["modality"] for row in manifest(tmp_path / "out")} == {"CT", "MRI"}
    assert (tmp_path / "out" / "CT-MRI" / "truth" / "bone").is_dir()
    assert ingest("phantom", str(facts["version"]), SMALL, tmp_path / "again") == facts


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda data: (data / "CT-MRI" / "CT" / "notes.txt").write_text("x"), r"notes\.txt does not follow"),
        (lambda data: (data / "CT-MRI" / "CT" / "7.png").touch(), r"7\.png does not follow"),
        (lambda data: [p.unlink() for p in (data / "CT-MRI" / "MRI").iterdir()], "MRI is empty"),
        (lambda data: (data / "CT-MRI" / "MRI").rename(data / "MR"), "no folder CT-MRI/MRI"),
        (lambda data: data.rename(data.parent / "moved"), "no such data folder"),
    ],
)
def test_data_that_is_not_there_or_not_named_right_is_refused(data, tmp_path, spoil, complaint: str):
    spoil(data)
    with pytest.raises(InputError, match=complaint):
        ingest(str(data), "", SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_the_collections_own_folder_is_answered_with_its_parent(data, tmp_path):
    with pytest.raises(InputError, match=f"give its parent {data}"):
        ingest(str(data / "CT-MRI"), "", SMALL, tmp_path / "out")


def test_another_collection_is_brought_in_under_its_own_names(data, tmp_path):
    (data / "CT-MRI").rename(data / "SPECT-MRI")
    (data / "SPECT-MRI" / "CT").rename(data / "SPECT-MRI" / "SPECT")
    facts = ingest(str(data), "", SMALL, tmp_path / "out", "SPECT-MRI")
    assert (facts["collection"], facts["modalities"], facts["pairs"]) == ("SPECT-MRI", ["SPECT", "MRI"], 3)
    assert {(row["collection"], row["modality"]) for row in manifest(tmp_path / "out")} == {
        ("SPECT-MRI", "SPECT"),
        ("SPECT-MRI", "MRI"),
    }
    with pytest.raises(InputError, match="has no folder PET-MRI/PET"):
        ingest(str(data), "", SMALL, tmp_path / "other", "PET-MRI")


@pytest.mark.parametrize(
    ("collection", "complaint"),
    [
        ("PET-MRI", "the phantom has CT-MRI pairs only; give a folder that holds PET-MRI instead of it"),
        ("CT", "unknown collection 'CT'; choose one of CT-MRI, PET-MRI, SPECT-MRI"),
    ],
)
def test_a_collection_that_is_not_there_is_one_line(tmp_path, collection: str, complaint: str):
    with pytest.raises(InputError, match=complaint):
        ingest("phantom", "", SMALL, tmp_path / "out", collection)
    assert not list(tmp_path.iterdir())


def test_the_component_tells_the_version_in_its_metadata(data, tmp_path):
    output = dsl.Dataset(uri=str(tmp_path / "out"))
    ingest_component.python_func(str(data), "", "CT-MRI", 8, 8, 1, "code", output)
    assert output.metadata["version"] == folder_version(data)
    assert not any(isinstance(value, list) for value in output.metadata.values()), "KFP's local cache would miss"
    assert (tmp_path / "out" / "manifest.csv").is_file()

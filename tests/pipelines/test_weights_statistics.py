"""`fusion weights statistics`: a model keeps those of its training subjects alone, and `fusion batch` tells drift."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from components.ingest.staging import listing
from components.ingest.version import tree_version
from components.validate.learned import read_statistics, write_statistics
from model.fuser import SHIPPED_MODEL, Fuser
from model.network import FusionNetwork
from tests.datasets import write_tree

PAIRS = {"CT-MRI": tuple(f"{subject}{number:03d}" for subject in (1, 2, 3, 4) for number in (1, 2))}


def version_of(tree):
    return tree_version(listing(tree).items())


@pytest.fixture
def images(tmp_path):
    return write_tree(tmp_path / "images", PAIRS)


@pytest.fixture
def trained(tmp_path, images):
    """A model folder that says it was trained on three of the four subjects."""
    Fuser(FusionNetwork()).save(tmp_path / "trained")
    facts = {
        "dataset_version": version_of(images),
        "collection": "CT-MRI",
        "subjects": {"train": ["1", "2", "3"], "validation": [], "test": ["4"]},
    }
    (tmp_path / "trained" / "training.json").write_text(json.dumps(facts))
    return tmp_path / "trained"


def test_the_command_keeps_the_statistics_of_the_training_subjects_alone(images, trained, fusion):
    done = fusion("weights", "statistics", "trained", "--data", "images")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote trained/data_statistics.json: 12 images of 3 subjects\n"
    told = read_statistics(trained)
    means = {
        modality: [
            np.asarray(Image.open(images / "CT-MRI" / modality / f"{name}.png")).mean()
            for name in PAIRS["CT-MRI"]
            if not name.startswith("4")
        ]
        for modality in ("CT", "MRI")
    }
    for modality, values in means.items():
        found = told["modalities"][modality]
        assert (found["images"], found["subjects"]) == (6, 3)
        assert found["mean"]["mean"] == pytest.approx(np.mean(values), rel=1e-5)
        assert found["mean"]["sd"] == pytest.approx(np.std(values), rel=1e-4)
    assert told["version"] == version_of(images) and told["subjects"] == ["1", "2", "3"]


def test_a_batch_by_a_model_folder_is_compared_with_them(images, trained, fusion):
    assert fusion("weights", "statistics", "trained", "--data", "images").returncode == 0
    alike = fusion("batch", "images", "alike", "--model", "trained", "--measures", "none")
    assert "drift    none of the images' statistics drifted from those of a model folder" in alike.stdout
    for path in (images / "CT-MRI" / "MRI").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 4).save(path)
    assert fusion("batch", "images", "darker", "--model", "trained", "--measures", "none").returncode == 0
    drift = json.loads((images.parent / "darker" / "CT-MRI" / "drift.json").read_text())
    drifted = {f"{each['modality']} {each['statistic']}" for each in drift["findings"] if each["drifted"]}
    assert "MRI mean" in drifted and not any(name.startswith("CT ") for name in drifted)


def test_other_data_and_folders_that_tell_nothing_are_refused_and_nothing_is_written(images, trained, refused):
    shutil.copytree(images, images.parent / "other")
    (images.parent / "other" / "CT-MRI" / "CT" / "4001.png").write_bytes(
        (images / "CT-MRI" / "CT" / "4002.png").read_bytes()
    )
    shutil.copytree(trained, images.parent / "silent")
    (images.parent / "silent" / "training.json").write_text('{"dataset_version": "x"}')
    for model, data, words in (
        ("trained", "other", f"not {version_of(images)}"),
        ("trained", "absent", "absent"),
        ("silent", "images", "silent does not tell what it learned from; name a model folder"),
        ("absent", "images", "absent does not tell what it learned from; name a model folder"),
    ):
        assert words in refused("weights", "statistics", model, "--data", data)
    assert not list(images.parent.rglob("data_statistics.json"))


def test_the_shipped_model_tells_drift(fusion, images):
    """The phantom is not the atlas, so what it is compared with must say so."""
    assert fusion("batch", "phantom", "out", "--measures", "none").returncode == 0
    told = json.loads((images.parent / "out" / "CT-MRI" / "manifest.json").read_text())["drift"]
    assert told["compared_with"] == "the shipped model" and told["missing"] == "" and told["drifted"] > 0


def test_the_shipped_statistics_are_those_of_the_atlas(shared, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(SHIPPED_MODEL, copy)
    (copy / "data_statistics.json").unlink()
    assert write_statistics(copy, str(shared / "atlas")) == read_statistics(SHIPPED_MODEL)
    assert sum(path.stat().st_size for path in copy.glob("data_statistics.json")) < 3000

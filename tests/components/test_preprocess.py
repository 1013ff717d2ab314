"""Preprocess splits by subject and packs; the same input gives the same bytes."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl
from PIL import Image

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.preprocess.component import preprocess
from components.preprocess.packing import pack
from components.preprocess.splits import Fold, fold_subjects, parse_split, split_subjects
from components.validate.report import Finding, ValidationReport
from model.errors import InputError
from model.images import read_grey_bytes
from model.pairs import SPLITS, PackedPairs

PHANTOM = PhantomConfig(subjects=4, slices=2, size=64, seed=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    target = tmp_path_factory.mktemp("ingested") / "dataset"
    ingest("phantom", "", PHANTOM, target)
    return target


@given(subjects=st.sets(st.integers(1, 999).map(str), min_size=3, max_size=60), seed=st.integers(0, 99))
def test_every_subject_is_in_one_split_and_no_split_is_empty(subjects: set[str], seed: int):
    splits = split_subjects(subjects, seed)
    assert sorted(subject for names in splits.values() for subject in names) == sorted(subjects)
    assert all(splits[split] for split in SPLITS)
    assert len(splits["train"]) >= len(splits["test"]) >= len(splits["validation"])
    assert split_subjects(sorted(subjects, reverse=True), seed) == splits


@given(subjects=st.sets(st.integers(1, 999).map(str), min_size=10, max_size=60), new=st.integers(1000, 2000).map(str))
def test_a_new_subject_moves_few_others(subjects: set[str], new: str):
    before, after = split_subjects(subjects, 0), split_subjects(subjects | {new}, 0)
    where = {subject: split for split, names in before.items() for subject in names}
    moved = [s for split, names in after.items() for s in names if s != new and where[s] != split]
    assert len(moved) <= 2


def test_too_few_subjects_are_refused():
    with pytest.raises(InputError, match="three or more"):
        split_subjects(["1", "2", "1"], 0)


@given(
    subjects=st.sets(st.integers(1, 999).map(str), min_size=4, max_size=40),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_over_all_folds_every_subject_tests_once_and_is_never_on_two_sides(subjects, seed, data):
    count = data.draw(st.integers(2, len(subjects)))
    folds = [fold_subjects(subjects, seed, Fold(number, count)) for number in range(1, count + 1)]
    assert sorted(subject for fold in folds for subject in fold["test"]) == sorted(subjects)
    for number, fold in enumerate(folds, 1):
        assert sorted(subject for names in fold.values() for subject in names) == sorted(subjects)
        assert all(fold[split] for split in SPLITS)
        assert fold_subjects(sorted(subjects, reverse=True), seed, Fold(number, count)) == fold
    sizes = [len(fold["test"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("split", "collection", "complaint"),
    [
        ("fold:6/5", "CT-MRI", "no fold 6 of 5; give 1 to 5"),
        ("fold:0/5", "CT-MRI", "no fold 0 of 5"),
        ("fold:1/1", "CT-MRI", "give two or more"),
        ("fold:1", "CT-MRI", r"unknown split 'fold:1'; choose subject, fold:K/N"),
        ("paper", "PET-MRI", "the paper split is of CT-MRI alone; split PET-MRI by subject"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(split: str, collection: str, complaint: str):
    with pytest.raises(InputError, match=complaint):
        parse_split(split, collection)


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(InputError, match="4 folds of 3 subjects leave some empty; give 3 at most"):
        fold_subjects(["1", "2", "3"], 0, Fold(1, 4))
    with pytest.raises(InputError, match="fold 1 of 2 leaves 1 of 3 subjects"):
        fold_subjects(["1", "2", "3"], 0, Fold(1, 2))


def test_the_folds_of_a_dataset_test_every_pair_once(dataset, tmp_path):
    tested = []
    for number in range(1, 5):
        index = pack(dataset, f"fold:{number}/4", 0, tmp_path / str(number))
        assert index["split"]["by"] == f"fold:{number}/4"
        tested += [entry["name"] for entry in index["splits"]["test"]]
    assert len(tested) == 8 and len(set(tested)) == 8


def test_packed_arrays_hold_the_images_in_the_order_of_the_index(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed")
    assert json.loads((tmp_path / "packed" / "index.json").read_text()) == index
    assert index["dataset_version"] == json.loads((dataset / "dataset.json").read_text())["version"]
    for split in SPLITS:
        pairs = PackedPairs.open(tmp_path / "packed", split)
        assert [entry["name"] for entry in pairs.entries] == [entry["name"] for entry in index["splits"][split]]
        for row, entry in enumerate(pairs.entries):
            for channel, modality in enumerate(("CT", "MRI")):
                source = read_grey_bytes(dataset / "CT-MRI" / modality / f"{entry['name']}.png")
                assert np.array_equal(pairs.images[row, channel], source)
        ct, mr = pairs.batch([0])
        assert ct.shape == mr.shape == (1, 1, 64, 64)
        assert 0 <= float(ct.min()) <= float(ct.max()) <= 1


def test_the_truth_of_the_test_pairs_comes_along(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed")
    truth = np.load(tmp_path / "packed" / "test_truth.npz", allow_pickle=False)
    assert set(truth) == {"bone", "ventricles", "mri_lesion", "ct_lesion"}
    name = index["splits"]["test"][1]["name"]
    mask = read_grey_bytes(dataset / "CT-MRI" / "truth" / "bone" / f"{name}.png") > 0
    assert mask.any()
    assert np.array_equal(truth["bone"][1], mask)


def test_packing_again_gives_the_same_bytes(dataset, tmp_path):
    for name in ("a", "b"):
        pack(dataset, "subject", 3, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["index.json", "test.npy", "test_truth.npz", "train.npy", "validation.npy"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_many_shards_read_as_one_array(dataset, tmp_path):
    whole, parts = pack(dataset, "subject", 0, tmp_path / "whole"), pack(dataset, "subject", 0, tmp_path / "parts", 3)
    assert [shard["file"] for shard in parts["shards"]["train"]] == ["train-00000.npy", "train-00001.npy"]
    assert [shard["rows"] for shard in parts["shards"]["train"]] == [3, 1]
    assert whole["splits"] == parts["splits"]
    one, many = (PackedPairs.open(tmp_path / name, "train").verified() for name in ("whole", "parts"))
    assert np.array_equal(one.images, many.images)
    assert all(map(torch.equal, one.batch(slice(1, 4)), many.batch([1, 2, 3])))


def test_a_damaged_or_absent_shard_is_named(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed", 3)
    second = tmp_path / "packed" / index["shards"]["train"][1]["file"]
    content = second.read_bytes()
    second.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    pairs = PackedPairs.open(tmp_path / "packed", "train")
    with pytest.raises(InputError, match=r"train-00001\.npy is damaged"):
        pairs.verified()
    second.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"train-00001\.npy has \d+ bytes, not \d+; run the preprocess step again"):
        PackedPairs.open(tmp_path / "packed", "train")
    second.write_bytes(b"no array")
    with pytest.raises(InputError, match=r"train-00001\.npy: no \.npy file"):
        PackedPairs.open(tmp_path / "packed", "train")
    second.unlink()
    with pytest.raises(InputError, match=r"train-00001\.npy: No such file"):
        PackedPairs.open(tmp_path / "packed", "train")


def test_an_image_of_another_size_is_named_and_nothing_is_left(tmp_path):
    ingest("phantom", "", PHANTOM, tmp_path / "dataset")
    odd = sorted((tmp_path / "dataset" / "CT-MRI" / "MRI").iterdir())[-1]
    Image.new("L", (32, 32)).save(odd)
    with pytest.raises(InputError, match=f"{odd.name} is 32x32"):
        pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def report(path, **changes) -> dsl.Artifact:
    passed = ValidationReport(True, 16, 8, 4, 16, (), ())
    path.write_text(json.dumps(asdict(passed) | changes, default=list))
    return dsl.Artifact(uri=str(path))


def test_the_component_packs_a_dataset_that_passed(dataset, tmp_path):
    packed = dsl.Dataset(uri=str(tmp_path / "packed"))
    preprocess.python_func(dsl.Dataset(uri=str(dataset)), report(tmp_path / "report"), "subject", 0, "code", packed)
    assert (packed.metadata["train"], packed.metadata["validation"], packed.metadata["test"]) == (4, 2, 2)


def test_the_component_refuses_a_dataset_that_failed_validation(dataset, tmp_path):
    finding = Finding("Every image has a partner.", "1 image without partner (a.png)", 1, ("a.png",), ("",))
    failed = report(tmp_path / "report", passed=False, critical_failures=[asdict(finding)])
    with pytest.raises(InputError, match=r"1 image without partner \(a\.png\)"):
        preprocess.python_func(
            dsl.Dataset(uri=str(dataset)), failed, "subject", 0, "code", dsl.Dataset(uri=str(tmp_path / "packed"))
        )
    assert not (tmp_path / "packed").exists()

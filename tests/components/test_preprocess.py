"""Preprocess splits by subject and packs; the same input gives the same bytes."""

import json
import shutil
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
from components.ingest.version import file_md5
from components.preprocess.component import preprocess
from components.preprocess.packing import pack, summarise
from components.preprocess.preparation import Preparation, resample
from components.preprocess.splits import Fold, fold_subjects, parse_split, split_subjects
from components.validate.report import Finding, ValidationReport
from model.errors import InputError
from model.images import join_bytes, read_grey_bytes, read_image
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
    whole, parts = (
        pack(dataset, "subject", 0, tmp_path / "whole"),
        pack(dataset, "subject", 0, tmp_path / "parts", a_shard=3),
    )
    assert [shard["file"] for shard in parts["shards"]["train"]] == ["train-00000.npy", "train-00001.npy"]
    assert [shard["rows"] for shard in parts["shards"]["train"]] == [3, 1]
    assert whole["splits"] == parts["splits"]
    one, many = (PackedPairs.open(tmp_path / name, "train").verified() for name in ("whole", "parts"))
    assert np.array_equal(one.images, many.images)
    assert all(map(torch.equal, one.batch(slice(1, 4)), many.batch([1, 2, 3])))


@pytest.fixture(scope="module")
def spect(tmp_path_factory):
    """An ingested dataset of four SPECT-MRI pairs of as many subjects, SPECT in colour."""
    data = tmp_path_factory.mktemp("spect") / "data"
    generator = np.random.default_rng(1)
    for modality, channels in (("SPECT", (3,)), ("MRI", ())):
        (data / "SPECT-MRI" / modality).mkdir(parents=True)
        for subject in range(1, 5):
            levels = generator.integers(0, 256, (16, 18, *channels), np.uint8)
            Image.fromarray(levels).save(data / "SPECT-MRI" / modality / f"{subject}001.png")
    ingest(str(data), "", PHANTOM, data.parent / "dataset", "SPECT-MRI")
    return data.parent / "dataset"


def test_of_colour_images_the_luma_is_packed_and_the_chroma_of_the_test_kept(spect, tmp_path):
    index = pack(spect, "subject", 0, tmp_path / "packed", a_shard=1)
    assert index["modalities"] == ["SPECT", "MRI"]
    for split in SPLITS:
        pairs = PackedPairs.open(tmp_path / "packed", split).verified()
        assert (pairs.chroma is None) == (split != "test")
        for row, entry in enumerate(pairs.entries):
            path = spect / "SPECT-MRI" / "SPECT" / f"{entry['name']}.png"
            picture = read_image(path)
            assert np.abs(pairs.images[row, 0] / 255 - picture.luma[0].numpy()).max() <= 0.5001 / 255
            if pairs.chroma is not None:
                colour = join_bytes(pairs.images[row, 0], pairs.chroma[row])
                # Half a level of luma and of chroma each, the latter times 1.772 at the most.
                assert np.abs(colour.astype(int) - np.array(Image.open(path))).max() <= 2


def test_colour_where_the_modality_is_grey_is_named(spect, tmp_path):
    shutil.copytree(spect, tmp_path / "dataset")
    odd = tmp_path / "dataset" / "SPECT-MRI" / "MRI" / "1001.png"
    Image.open(odd.parents[1] / "SPECT" / "1001.png").save(odd)
    with pytest.raises(InputError, match=r"MRI/1001\.png is in colour"):
        pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed")


def test_a_damaged_or_absent_shard_is_named(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed", a_shard=3)
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


def test_a_size_out_of_bounds_is_refused():
    for size, words in ((8, "at least 16"), (-1, "at least 16"), (4097, "at most 4096"), (10**9, "at most 4096")):
        with pytest.raises(InputError, match=f"size is {size}; give {words} pixels"):
            Preparation(size=size)
    assert Preparation(size=4096).size == 4096


def test_images_of_other_sizes_are_brought_to_one(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "dataset")
    names = sorted(path.name for path in (dataset / "CT-MRI" / "CT").iterdir())
    for path in (tmp_path / "dataset" / "CT-MRI").rglob(names[0]):
        tall = np.zeros((96, 64), np.uint8)
        tall[16:80] = np.array(Image.open(path))
        Image.fromarray(tall).save(path)
    index = pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed", Preparation(size=32))
    entries = {entry["name"]: entry for split in index["splits"].values() for entry in split}
    assert entries[names[0].removesuffix(".png")]["resampled_from"] == [64, 96]
    assert entries[names[1].removesuffix(".png")]["resampled_from"] == [64, 64]
    assert (index["height"], index["width"], index["prepared"]) == (32, 32, {"resampled": "8 of 8 pairs, to 32x32"})
    pairs = PackedPairs.open(tmp_path / "packed", "test")
    source = read_grey_bytes(tmp_path / "dataset" / "CT-MRI" / "CT" / f"{pairs.entries[1]['name']}.png")
    mean = source.reshape(32, 2, 32, 2).mean((1, 3)) if source.shape == (64, 64) else None
    assert mean is not None and np.abs(pairs.images[1, 0] - mean).max() <= 1
    assert np.load(tmp_path / "packed" / "test_truth.npz")["bone"].shape == (2, 32, 32)
    again = pack(tmp_path / "dataset", "subject", 0, tmp_path / "again", Preparation(size=32))
    assert again == index


def test_the_index_names_each_image_by_the_content_of_its_file(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed")
    entries = [entry for split in index["splits"].values() for entry in split]
    for entry in entries:
        files = [dataset / "CT-MRI" / modality / f"{entry['name']}.png" for modality in ("CT", "MRI")]
        assert entry["md5"] == [file_md5(path) for path in files]
    assert len({md5 for entry in entries for md5 in entry["md5"]}) == 2 * len(entries)
    assert index["source"] == "phantom"


@pytest.mark.parametrize("shape", [(20, 20), (20, 12), (11, 20)])
@pytest.mark.parametrize("side", [16, 40])
def test_what_is_resampled_keeps_its_place_and_proportions(shape, side):
    image = np.zeros(shape, np.uint8)
    y, x = shape[0] // 2, shape[1] // 2
    image[y - 2 : y + 2, x - 2 : x + 2] = 200
    found = resample(image, side)
    assert found.shape == (side, side)
    rows, columns = (np.flatnonzero(found.max(axis) > 100) for axis in (1, 0))
    assert len(rows) == len(columns) and abs(len(rows) - 4 * side / 20) <= 1
    assert abs(rows.mean() - (side - 1) / 2) <= side / 20 and abs(columns.mean() - (side - 1) / 2) <= side / 20


def test_the_partners_of_a_pair_must_have_one_size(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "dataset")
    odd = sorted((tmp_path / "dataset" / "CT-MRI" / "MRI").iterdir())[0]
    Image.new("L", (32, 32)).save(odd)
    with pytest.raises(InputError, match=f"{odd.name} is 32x32, its partner 64x64"):
        pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed", Preparation(size=32))


def test_levels_are_stretched_as_the_training_subjects_say_alone(dataset, tmp_path):
    index = pack(dataset, "subject", 0, tmp_path / "packed", Preparation(normalise="percentile"))
    names = [entry["name"] for entry in index["splits"]["train"]]
    for channel, modality in enumerate(("CT", "MRI")):
        images = [read_grey_bytes(dataset / "CT-MRI" / modality / f"{name}.png") for name in names]
        head = np.concatenate([image[image > 5] for image in images])
        low, high = np.quantile(head, [0.005, 0.995], method="inverted_cdf")
        assert index["levels"][channel] == [low, high]
        pairs = PackedPairs.open(tmp_path / "packed", "test")
        source = read_grey_bytes(dataset / "CT-MRI" / modality / f"{pairs.entries[0]['name']}.png")
        expected = np.clip((source.astype(float) - low) / (high - low), 0, 1) * 255
        assert np.abs(pairs.images[0, channel] - expected).max() <= 0.5
    # Other test images must change nothing.
    shutil.copytree(dataset, tmp_path / "dataset")
    for entry in index["splits"]["test"] + index["splits"]["validation"]:
        Image.new("L", (64, 64), 7).save(tmp_path / "dataset" / "CT-MRI" / "MRI" / f"{entry['name']}.png")
    again = pack(tmp_path / "dataset", "subject", 0, tmp_path / "again", Preparation(normalise="percentile"))
    assert again["levels"] == index["levels"]


def test_images_without_a_range_of_levels_are_not_normalised(tmp_path):
    ingest("phantom", "", PHANTOM, tmp_path / "dataset")
    for path in (tmp_path / "dataset" / "CT-MRI" / "MRI").iterdir():
        Image.new("L", (64, 64), 9).save(path)
    with pytest.raises(InputError, match="the MRI training images have no range of levels"):
        pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed", Preparation(normalise="percentile"))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize(("wrong", "complaint"), [({"size": 15}, "size is 15"), ({"normalise": "best"}, "'best'")])
def test_a_preparation_that_cannot_be_is_one_line(wrong, complaint: str):
    with pytest.raises(InputError, match=complaint):
        Preparation(**wrong)


def test_registration_is_told_pair_by_pair_and_in_sum(dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "dataset")
    moved = sorted((tmp_path / "dataset" / "CT-MRI" / "MRI").iterdir())[1]
    Image.fromarray(np.roll(np.array(Image.open(moved)), 3, axis=1)).save(moved)
    index = pack(tmp_path / "dataset", "subject", 0, tmp_path / "packed", Preparation(register_pairs=True))
    motions = {entry["name"]: entry["motion"] for split in index["splits"].values() for entry in split}
    assert len(motions) == 8 and motions[moved.stem]["accepted"]
    assert abs(motions[moved.stem]["right"] + 3) < 1
    count = sum(motion["accepted"] for motion in motions.values())
    assert summarise(index)["registered"].startswith(f"{count} of 8 pairs moved, by up to ")
    assert pack(tmp_path / "dataset", "subject", 0, tmp_path / "again", Preparation(register_pairs=True)) == index
    for split in SPLITS:
        name = f"{split}.npy"
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def report(path, **changes) -> dsl.Artifact:
    passed = ValidationReport(True, 16, 8, 4, 16, (), (), ())
    path.write_text(json.dumps(asdict(passed) | changes, default=list))
    return dsl.Artifact(uri=str(path))


def test_the_component_packs_a_dataset_that_passed(dataset, tmp_path):
    packed = dsl.Dataset(uri=str(tmp_path / "packed"))
    preprocess.python_func(
        dsl.Dataset(uri=str(dataset)), report(tmp_path / "report"), "subject", 0, 0, "none", False, "code", packed
    )
    assert (packed.metadata["train"], packed.metadata["validation"], packed.metadata["test"]) == (4, 2, 2)


def test_the_component_refuses_a_dataset_that_failed_validation(dataset, tmp_path):
    finding = Finding("Every image has a partner.", "1 image without partner (a.png)", 1, ("a.png",), ("",))
    failed = report(tmp_path / "report", passed=False, critical_failures=[asdict(finding)])
    with pytest.raises(InputError, match=r"1 image without partner \(a\.png\)"):
        preprocess.python_func(
            dsl.Dataset(uri=str(dataset)),
            failed,
            "subject",
            0,
            0,
            "none",
            False,
            "code",
            dsl.Dataset(uri=str(tmp_path / "packed")),
        )
    assert not (tmp_path / "packed").exists()

"""Split pairs and pack each split into one array; the same input gives the same bytes."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.progress import Progress
from model.errors import InputError
from model.images import read_grey_bytes
from model.pairs import SPLITS
from model.splits import PAPER_TEST_PAIRS

SPLIT_KINDS = ("subject", "paper")
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
PAPER_VALIDATION_SHARE = 0.2

Entry = dict[str, Any]


def split_subjects(subjects: Iterable[str], seed: int) -> dict[str, list[str]]:
    """Assign whole subjects to train, validation and test: a fifth to test, a tenth to validation, at least one each.

    The order is by a hash of seed and subject, so a subject that joins later moves few others. Raises InputError if
    there are fewer than three.
    """
    ranked = sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest())
    if len(ranked) < len(SPLITS):
        raise InputError(
            f"{len(ranked)} subjects cannot fill {len(SPLITS)} splits; a split by subject needs three or more"
        )
    test = max(1, round(len(ranked) * TEST_SHARE))
    validation = max(1, round(len(ranked) * VALIDATION_SHARE))
    return {
        "train": sorted(ranked[test + validation :]),
        "validation": sorted(ranked[test : test + validation]),
        "test": sorted(ranked[:test]),
    }


def split_pairs(entries: list[Entry], by: str, seed: int) -> dict[str, list[Entry]]:
    """The pairs of each split: by "subject", see `split_subjects`, or as in the "paper".

    The paper's 20 test pairs are known by name; a fifth of the others, by a hash of seed and name, is for validation.
    Raises InputError for any other word, and where a pair of the paper is absent.
    """
    if by == "subject":
        subjects = split_subjects((entry["subject"] for entry in entries), seed)
        return {split: [entry for entry in entries if entry["subject"] in subjects[split]] for split in SPLITS}
    if by != "paper":
        raise InputError(f"unknown split {by!r}; choose one of {', '.join(SPLIT_KINDS)}")
    names = {entry["name"] for entry in entries}
    if absent := [name for name in PAPER_TEST_PAIRS if name not in names]:
        raise InputError(f"the paper split needs the atlas: pair {absent[0]} is missing; split by subject")
    others = sorted(names - set(PAPER_TEST_PAIRS), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    validation = set(others[: round(len(others) * PAPER_VALIDATION_SHARE)])
    where = dict.fromkeys(PAPER_TEST_PAIRS, "test") | {
        name: "validation" if name in validation else "train" for name in others
    }
    return {split: [entry for entry in entries if where[entry["name"]] == split] for split in SPLITS}


def pack(dataset: Path, split: str, seed: int, target: Path) -> dict[str, Any]:
    """Pack an ingested dataset into the folder `target` (`index.json`, one array a split), and return its index.

    `split` is "subject" or "paper", see `split_pairs`. `target` appears whole or not at all. Raises InputError for
    images that differ in size or cannot be read.
    """
    facts = json.loads((dataset / "dataset.json").read_text())
    collection, modalities = facts["collection"], facts["modalities"]
    entries = _entries(dataset / "manifest.csv", modalities[0])
    splits = split_pairs(entries, split, seed)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        progress, done = Progress("preprocess"), 0
        folders = [dataset / collection / modality for modality in modalities]
        height, width = read_grey_bytes(folders[0] / f"{entries[0]['name']}.png").shape
        for name, chosen in splits.items():
            shape = (len(chosen), len(modalities), height, width)
            array = np.lib.format.open_memmap(partial / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
            for row, entry in enumerate(chosen):
                for channel, folder in enumerate(folders):
                    array[row, channel] = _read(folder / f"{entry['name']}.png", (height, width))
                done += 1
                progress(done, len(entries))
            array.flush()
        _pack_truth(dataset / collection / "truth", splits["test"], partial)
        index = {
            "dataset_version": facts["version"],
            "collection": collection,
            "modalities": modalities,
            "height": height,
            "width": width,
            "split": {"by": split, "seed": seed},
            "splits": splits,
        }
        (partial / "index.json").write_text(json.dumps(index, indent=1) + "\n")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


def _entries(manifest: Path, modality: str) -> list[dict[str, Any]]:
    """The pairs in order of subject and slice; every image has its partner, as validation made sure."""
    with manifest.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["modality"] == modality]
    entries = [{"name": row["name"], "subject": row["subject"], "slice": int(row["slice"])} for row in rows]
    return sorted(entries, key=lambda entry: (entry["subject"], entry["slice"]))


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    image = read_grey_bytes(path)
    if image.shape != size:
        raise InputError(
            f"{path} is {image.shape[1]}x{image.shape[0]}, the first image {size[1]}x{size[0]}; make all one size"
        )
    return image


def _pack_truth(truth: Path, entries: list[dict[str, Any]], target: Path) -> None:
    """Pack the phantom's ground-truth masks of the test pairs; other data has none."""
    if truth.is_dir():
        masks = {
            folder.name: np.stack([read_grey_bytes(folder / f"{entry['name']}.png") > 127 for entry in entries])
            for folder in sorted(truth.iterdir())
        }
        np.savez_compressed(target / "test_truth.npz", allow_pickle=False, **masks)

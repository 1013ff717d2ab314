"""Split pairs and pack each split into arrays; the same input gives the same bytes."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from components.preprocess.splits import Entry, split_pairs
from components.progress import Progress
from model.errors import InputError
from model.images import read_grey_bytes
from model.shards import ROWS_A_SHARD, write_shards


def pack(dataset: Path, split: str, seed: int, target: Path, a_shard: int = ROWS_A_SHARD) -> dict[str, Any]:
    """Pack an ingested dataset into the folder `target`, and return its index.

    `target` holds `index.json` and, a split, one .npy file for every `a_shard` pairs. `split` is "subject", "fold:K/N"
    or "paper", see `split_pairs`. One pair at a time is in memory. `target` appears whole or not at all. Raises
    InputError for images that differ in size or cannot be read.
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
        shards = {}
        for name, chosen in splits.items():
            rows = (_read_pair(folders, entry["name"], (height, width)) for entry in chosen)
            counted = progress.counted(rows, done, len(entries))
            shards[name] = write_shards(partial, name, counted, len(chosen), (len(modalities), height, width), a_shard)
            done += len(chosen)
        _pack_truth(dataset / collection / "truth", splits["test"], partial)
        index = {
            "dataset_version": facts["version"],
            "collection": collection,
            "modalities": modalities,
            "height": height,
            "width": width,
            "split": {"by": split, "seed": seed},
            "shards": shards,
            "splits": splits,
        }
        _write_index(partial / "index.json", index)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


def _entries(manifest: Path, modality: str) -> list[Entry]:
    """The pairs in order of subject and slice; every image has its partner, as validation made sure."""
    with manifest.open(newline="") as stream:
        entries = [
            {"name": row["name"], "subject": row["subject"], "slice": int(row["slice"])}
            for row in csv.DictReader(stream)
            if row["modality"] == modality
        ]
    return sorted(entries, key=lambda entry: (entry["subject"], entry["slice"]))


def _write_index(path: Path, index: dict[str, Any]) -> None:
    """Write the index entry by entry, so that no text of all of it is ever in memory."""
    with path.open("w") as stream:
        json.dump(index, stream, indent=1)
        stream.write("\n")


def _read_pair(folders: list[Path], name: str, size: tuple[int, int]) -> np.ndarray:
    return np.stack([_read(folder / f"{name}.png", size) for folder in folders])


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

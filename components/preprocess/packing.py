"""Split pairs and pack each split into arrays; the same input gives the same bytes."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from components.preprocess.preparation import Preparation, Source
from components.preprocess.splits import Entry, split_pairs
from components.progress import Progress
from model.images import Pixels
from model.pairs import CHROMA
from model.shards import ROWS_A_SHARD, Shard, write_shards


def pack(
    dataset: Path,
    split: str,
    seed: int,
    target: Path,
    preparation: Preparation | None = None,
    a_shard: int = ROWS_A_SHARD,
) -> dict[str, Any]:
    """Pack an ingested dataset into the folder `target`, and return its index.

    `target` holds `index.json` and, a split, one .npy file for every `a_shard` pairs. `split` is "subject", "fold:K/N"
    or "paper", see `split_pairs`. The first modality of a pair may be in colour: its luma is packed, and the chroma of
    the test pairs beside it. One pair at a time is in memory. `target` appears whole or not at all. Raises InputError
    for images that differ in size where no size is asked for, or that cannot be read.
    """
    facts = json.loads((dataset / "dataset.json").read_text())
    collection, modalities, preparation = facts["collection"], facts["modalities"], preparation or Preparation()
    entries = _entries(dataset / "manifest.csv", modalities)
    splits = split_pairs(entries, split, seed, collection)
    source = Source.of(dataset, collection, modalities, entries[0]["name"], preparation)
    if preparation.normalise == "percentile":
        source = replace(source, levels=source.training_levels(entry["name"] for entry in splits["train"]))
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        shards = _write_splits(source, splits, partial, a_shard)
        _pack_truth(dataset / collection / "truth", splits["test"], source, partial)
        index = {
            "dataset_version": facts["version"],
            "source": facts["source"],
            "collection": collection,
            "modalities": modalities,
            "height": source.size[0],
            "width": source.size[1],
            "split": {"by": split, "seed": seed},
            "preparation": asdict(preparation),
            "prepared": _told(source, modalities, entries),
            "levels": source.levels and [list(each) for each in source.levels],
            "shards": shards,
            "splits": splits,
        }
        _write_index(partial / "index.json", index)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return index


def summarise(index: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the step's metadata wants to know, as plain values: the pairs of each split, what was done."""
    counts = {split: len(entries) for split, entries in index["splits"].items()}
    return {key: index[key] for key in ("dataset_version", "collection")} | counts | dict(index["prepared"])


def _told(source: Source, modalities: list[str], entries: list[Entry]) -> dict[str, str]:
    """What was done to the images, in words; nothing of what was not done."""
    told = {}
    if resampled := sum("resampled_from" in entry for entry in entries):
        told["resampled"] = f"{resampled} of {len(entries)} pairs, to {source.size[1]}x{source.size[0]}"
    if source.levels:
        ranges = zip(modalities, source.levels, strict=True)
        told["normalised"] = ", ".join(f"{modality} {low} to {high}" for modality, (low, high) in ranges)
    if source.preparation.register_pairs:
        moved = [entry["motion"] for entry in entries if entry["motion"]["accepted"]]
        shift = max((math.hypot(motion["right"], motion["down"]) for motion in moved), default=0.0)
        angle = max((abs(motion["angle"]) for motion in moved), default=0.0)
        told["registered"] = (
            f"{len(moved)} of {len(entries)} pairs moved, by up to {shift:.1f} pixels and {angle:.1f} degrees"
        )
    return told


def _write_splits(source: Source, splits: dict[str, list[Entry]], target: Path, a_shard: int) -> dict[str, list[Shard]]:
    """Write the shards of every split; what was done to a pair is noted in its entry."""

    def prepared(entries: list[Entry]) -> Iterator[Pixels]:
        for entry in entries:
            images, done = source.pair(entry["name"])
            entry.update(done)
            yield images

    progress, before, total = Progress("preprocess"), 0, sum(map(len, splits.values()))
    shards, row = {}, (2, *source.size)
    for name, entries in splits.items():
        rows = progress.counted(prepared(entries), before, total)
        shards[name] = write_shards(target, name, rows, len(entries), row, a_shard)
        before += len(entries)
    if source.colour:
        colours = (source.chroma(entry["name"]) for entry in splits["test"])
        shards[CHROMA] = write_shards(target, CHROMA, colours, len(splits["test"]), row, a_shard)
    return shards


def _entries(manifest: Path, modalities: list[str]) -> list[Entry]:
    """The pairs in order of subject and slice; every image has its partner, as validation made sure.

    Each tells the MD5 of its two images' files, by which an image is known again under another name.
    """
    first, second = modalities
    partners = {row["name"]: row["md5"] for row in _rows(manifest, second)}
    entries = [
        {
            "name": row["name"],
            "subject": row["subject"],
            "slice": int(row["slice"]),
            "md5": [row["md5"], partners[row["name"]]],
        }
        for row in _rows(manifest, first)
    ]
    return sorted(entries, key=lambda entry: (entry["subject"], entry["slice"]))


def _rows(manifest: Path, modality: str) -> Iterator[dict[str, str]]:
    with manifest.open(newline="") as stream:
        yield from (row for row in csv.DictReader(stream) if row["modality"] == modality)


def _write_index(path: Path, index: dict[str, Any]) -> None:
    """Write the index entry by entry, so that no text of all of it is ever in memory."""
    with path.open("w") as stream:
        json.dump(index, stream, indent=1)
        stream.write("\n")


def _pack_truth(truth: Path, entries: list[Entry], source: Source, target: Path) -> None:
    """Pack the phantom's ground-truth masks of the test pairs; other data has none."""
    if truth.is_dir():
        masks = {
            folder.name: np.stack([source.mask(folder / f"{entry['name']}.png") for entry in entries])
            for folder in sorted(truth.iterdir())
        }
        np.savez_compressed(target / "test_truth.npz", allow_pickle=False, **masks)

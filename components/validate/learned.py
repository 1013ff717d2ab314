"""The statistics of the images that a model folder learned from, kept beside its weights, so that drift can be told."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.register.record import STATISTICS_FILE
from components.validate.drift import summarise
from components.validate.measurements import measure_images
from model.errors import InputError
from model.images import write_atomically

_FACTS = "training.json"


def write_statistics(model: Path, data: str) -> dict[str, Any]:
    """Write `data_statistics.json` into a model folder, from the data that it learned from; returns what was written.

    `data` is as ingest takes it, and must be of the version that the folder's `training.json` names. Raises InputError
    if it is not, or if the folder does not tell what it learned from or cannot be written.
    """
    version, collection, _ = _learned_from(model)
    with TemporaryDirectory(prefix="atlas-fusion-") as scratch:
        ingest(data, version, PhantomConfig(), Path(scratch) / "dataset", collection)
        return write_statistics_of(model, Path(scratch) / "dataset")


def write_statistics_of(model: Path, dataset: Path) -> dict[str, Any]:
    """The same from the ingested folder `dataset`, of the subjects that the model was trained on alone."""
    version, collection, subjects = _learned_from(model)
    table = measure_images(dataset)
    seen = summarise(table[table["subject"].isin(subjects)])
    told = {"collection": collection, "version": version, "subjects": subjects, "modalities": seen}
    text = json.dumps(told, indent=1) + "\n"
    write_atomically(model / STATISTICS_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))
    return told


def read_statistics(model: Path) -> dict[str, Any]:
    """What `write_statistics` left in a model folder; empty where there is nothing, or nothing that can be read."""
    try:
        told = json.loads((model / STATISTICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("modalities"), dict) else {}


def _learned_from(model: Path) -> tuple[str, str, list[str]]:
    """The version of the data, the collection and the training subjects."""
    try:
        facts = json.loads((model / _FACTS).read_text(encoding="utf-8"))
        return str(facts["dataset_version"]), str(facts["collection"]), list(map(str, facts["subjects"]["train"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{model} does not tell what it learned from; name a model folder with the {_FACTS} that training wrote"
        ) from None

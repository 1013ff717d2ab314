"""The model of a batch: found, pinned to its version, and laid beside what is known of where it comes from."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.register.catalogue import choose
from components.register.fetch import resolve_model
from components.register.record import STATISTICS_FILE
from components.tracking import connected
from components.validate.learned import read_statistics
from model.fuser import CONFIG_FILE, SHIPPED_MODEL, WEIGHTS_FILE, Fuser, weights_sha256

_FACTS = "model.json"
_KEPT_TAGS = ("dataset_version", "collection", "git_commit", "code_version", "seed")
SHIPPED = "the shipped model"
A_FOLDER = "a model folder"  # its name is nobody's business


@dataclass(frozen=True)
class Chosen:
    """A model version: what it is called, its identity, and what it learned from as far as is known.

    `asked` is what the user named, `version` the registry's number, empty for a model that is in none. `statistics` are
    those of the images that it learned from, by modality; without them `missing` says why.
    """

    asked: str
    name: str
    version: str
    weights_sha256: str
    config: dict[str, Any]
    learned_from: dict[str, str]
    statistics: dict[str, Any] | None
    missing: str

    @property
    def title(self) -> str:
        """The model as a reader meets it, such as "ct-mri-fusion version 3"."""
        return f"{self.name} version {self.version}" if self.version else self.name

    def identity(self, collection: str) -> dict[str, Any]:
        """What two batches must have in common for their fused images to be the same."""
        return {"collection": collection, "weights_sha256": self.weights_sha256, "config": self.config}

    @classmethod
    def read(cls, folder: Path) -> Chosen:
        """The model in a folder that `choose_model` filled."""
        return cls(**json.loads((folder / _FACTS).read_text()))


@dataclass(frozen=True)
class _Origin:
    """Where a model is found, and what is known of it there; the fields are those of `Chosen`."""

    name: str
    version: str
    folder: Path
    learned_from: dict[str, str]
    statistics: dict[str, Any] | None
    missing: str


def choose_model(model: str, strategy: str, collection: str, target: Path, tracking_uri: str = "") -> Chosen:
    """Copy a model into the folder `target`, which `Fuser.load` then takes, and note what is known of it there.

    `model` is models:/NAME@ALIAS, models:/NAME/VERSION, a model folder, or empty for the one that ships; an alias is
    resolved once. An empty `strategy` leaves the model's own. Raises InputError if there is no such model or strategy.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        if model.startswith("models:"):
            origin = _registered(model, collection, tracking_uri, Path(cache))
        else:
            origin = _on_disk(Path(model) if model else SHIPPED_MODEL, SHIPPED if not model else A_FOLDER, collection)
        fuser = Fuser.load(origin.folder, strategy or None)
        shutil.copyfile(origin.folder / WEIGHTS_FILE, target / WEIGHTS_FILE)
    # Written whole, defaults too, since it is what two batches are compared by.
    text = json.dumps({key: value for key, value in asdict(fuser.config).items() if value is not None}, indent=2)
    (target / CONFIG_FILE).write_text(text + "\n")
    asked = model if origin.version else origin.name
    told = origin.learned_from, origin.statistics, origin.missing
    chosen = Chosen(asked, origin.name, origin.version, weights_sha256(target), json.loads(text), *told)
    (target / _FACTS).write_text(json.dumps(asdict(chosen), indent=1) + "\n")
    return chosen


def _on_disk(folder: Path, name: str, collection: str) -> _Origin:
    try:
        told = json.loads((folder / "training.json").read_text())
        learned = {key: str(told[key]) for key in ("dataset_version", "collection", "seed") if key in told}
    except (OSError, ValueError, TypeError):
        learned = {}
    kept, missing = read_statistics(folder), ""
    if not kept:
        missing = f"{name} carries no statistics of the images that it learned from"
    elif kept.get("collection") != collection:
        missing = f"{name} learned from {kept.get('collection')}"
    return _Origin(name, "", folder, learned, None if missing else kept["modalities"], missing)


def _registered(model: str, collection: str, tracking_uri: str, cache: Path) -> _Origin:
    """The version in the registry, fetched into the folder `cache`."""
    import mlflow

    with connected(tracking_uri) as client:
        found = choose(client, model)
    folder, name, number = resolve_model(found.uri, cache, tracking_uri), found.model, found.number
    with connected(tracking_uri) as client:
        version = client.get_model_version(name, number)
        learned = {tag: version.tags[tag] for tag in _KEPT_TAGS if version.tags.get(tag)}
        kept: dict[str, Any] = {}
        if STATISTICS_FILE in {logged.path for logged in client.list_artifacts(version.run_id)}:
            kept = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{STATISTICS_FILE}")
    missing = ""
    if not kept:
        missing = f"{name} version {number} was registered without statistics of its data"
    elif kept.get("collection") != collection:
        missing = f"{name} version {number} learned from {kept.get('collection')}"
    return _Origin(name, number, folder, learned, None if missing else kept["modalities"], missing)

"""Lineage both ways: from a version to all that it was made of, and from an image or a subject to all that saw it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.layout import COLLECTIONS, order
from components.ingest.version import file_md5
from components.register.catalogue import NAME_ANOTHER, Version, models, versions
from components.register.history import own_measures
from components.register.record import SPLIT_FILE
from components.tracking import find_run, shown
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SPLITS = ("train", "validation", "test")
CODE = ("git_commit", "code_version", "image")


@dataclass(frozen=True)
class Wanted:
    """Whom to look for: a `subject`, or an image by its pair's `name` or the `md5` of its file; in one `collection`."""

    subject: str = ""
    name: str = ""
    md5: str = ""
    collection: str = ""

    @classmethod
    def of(cls, subject: str | None, image: str | None, collection: str | None) -> Wanted:
        """What the command line's words ask for.

        An image is a pair's name (16003), its path in the dataset (CT-MRI/CT/16003.png), an MD5, or a file that is
        there, by its content. Raises InputError unless exactly one of subject and image is given, and for others.
        """
        if collection and collection not in COLLECTIONS:
            raise InputError(f"unknown collection {collection!r}; choose one of {', '.join(COLLECTIONS)}")
        if bool(subject) == bool(image):
            raise InputError("give a version or an alias, or one of --image and --subject")
        if subject:
            return cls(subject=subject, collection=collection or "")
        assert image is not None
        if re.fullmatch(r"[0-9a-fA-F]{32}", image):
            return cls(md5=image.lower(), collection=collection or "")
        return cls._of_place(image, collection or "")

    @classmethod
    def _of_place(cls, image: str, collection: str) -> Wanted:
        path = Path(image)
        try:
            if path.is_file():
                return cls(md5=file_md5(path), collection=collection)
        except OSError as error:
            raise InputError(f"cannot read {image}: {error.strerror}; name the pair, or give the file's MD5") from None
        parts = path.parts
        if len(parts) == 3 and parts[1] in COLLECTIONS.get(parts[0], ()) and collection in ("", parts[0]):
            return cls(name=path.stem, collection=parts[0])
        if len(parts) != 1:
            raise InputError(f"no file {image}; name a pair (16003), COLLECTION/MODALITY/NAME.png, an MD5 or a file")
        return cls(name=image.removesuffix(".png"), collection=collection)

    @property
    def title(self) -> str:
        """What is looked for, in words."""
        what = f"subject {self.subject}" if self.subject else f"pair {self.name}"
        if self.md5:
            what = f"the image with MD5 {self.md5}"
        return f"{what} of {self.collection}" if self.collection else what

    def matches(self, pair: dict[str, Any]) -> bool:
        """Whether a pair of a split is meant."""
        if self.subject:
            return str(pair["subject"]) == self.subject
        return self.md5 in pair["md5"] if self.md5 else str(pair["name"]) == self.name


@dataclass(frozen=True)
class Sighting:
    """What one version saw of what was looked for: the names of its pairs in each split, and why that is not known."""

    version: Version
    collection: str
    dataset_version: str
    pairs: dict[str, list[str]]
    unknown: str

    @property
    def seen(self) -> bool:
        """Whether any split holds it."""
        return any(self.pairs.values())


def who_saw(client: MlflowClient, wanted: Wanted, model_name: str | None = None) -> list[Sighting]:
    """Every version of every model (or of one), retired ones too, with the pairs that it saw, oldest first.

    A version of another collection than the one asked for saw nothing of it. Raises InputError if a file that tells of
    a split is there and cannot be read: an answer that leaves it out would be wrong.
    """
    return [
        _sighting(client, version, wanted)
        for model in models(client, model_name, NAME_ANOTHER)
        for version in versions(client, model)
        if wanted.collection in ("", version.tags.get("collection", wanted.collection))
    ]


def _sighting(client: MlflowClient, version: Version, wanted: Wanted) -> Sighting:
    split, why = read_split(client, version)
    if split is None:
        data = version.tags.get("dataset_version", "")
        return Sighting(version, version.tags.get("collection", ""), data, {}, why)
    unknown, pairs = [split["unknown"]] if split["unknown"] else [], {}
    for name, entries in split["splits"].items():
        if wanted.md5 and any("md5" not in entry for entry in entries or ()):
            unknown.append(f"its {name} split lists no MD5s of images; ask by name")
        else:
            pairs[name] = [str(entry["name"]) for entry in entries or () if wanted.matches(entry)]
    return Sighting(version, split["collection"], split["dataset_version"], pairs, "; ".join(unknown))


def read_split(client: MlflowClient, version: Version) -> tuple[dict[str, Any] | None, str]:
    """The pairs of each split of a version, as its run keeps them; None, and why, where it keeps none."""
    text, why = read_file(client, version, SPLIT_FILE)
    if text is None:
        return None, why
    try:
        split: dict[str, Any] = json.loads(text)
        if set(SPLITS) <= set(split["splits"]) and {"collection", "dataset_version", "unknown"} <= set(split):
            return split, ""
    except (ValueError, KeyError, TypeError):
        pass
    return None, f"{SPLIT_FILE} of its run is damaged"


def read_file(client: MlflowClient, version: Version, name: str) -> tuple[str | None, str]:
    """The text of a file of a version's run; None, and why, where there is none of that name.

    Raises InputError if the store of the files fails: that there is none is then not known.
    """
    if not version.run_id:
        return None, "it has no run"
    run = find_run(client, version.run_id, deleted=True)
    if not run:
        return None, f"its run {version.run_id} is gone"
    if away := _absent_store(run):
        return None, f"there is no folder {away}, where its run keeps its files; bring it back"
    text = _reading(f"{name} of {version.uri}", lambda: _artifact(client, version.run_id, name))
    if text is None:
        return None, f"its run has no {name}: registered by hand, or by a program older than that file"
    return text, ""


def _absent_store(run: Run) -> Path | None:
    """The folder of a run's experiment if it should lie here and does not; MLflow would call the run empty."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    uri = run.info.artifact_uri
    folder = Path(local_file_uri_to_path(uri)).parents[1] if uri.startswith(("/", "file:")) else None
    return folder if folder and not folder.is_dir() else None


def _reading(what: str, read: Callable[[], str | None]) -> str | None:
    """What `read` gives; InputError if the store of artifacts fails, whose errors are not MLflow's own."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return read()
    except (OSError, BotoCoreError, ClientError) as error:
        raise InputError(f"cannot read {what}: {error}; check the artifact store and try again") from None


def _artifact(client: MlflowClient, run_id: str, name: str) -> str | None:
    """The text of one of a run's files, None if there is none of that name."""
    import mlflow

    if name not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def trace(client: MlflowClient, version: Version) -> dict[str, Any]:
    """All that a version was made of, as plain values: data, code, configuration, parents, measures and runs.

    What was not recorded is "" or None. The first of `parents` was champion when the version was registered;
    `data.unknown` says why the split is not known.
    """
    run = find_run(client, version.run_id, deleted=True) if version.run_id else None
    split, why = read_split(client, version)
    measures = own_measures(run.data.metrics) if run else {}
    return {
        "model": version.model,
        "version": version.number,
        "uri": version.uri,
        "aliases": list(version.aliases),
        "retired": version.retired,
        "registered": version.created,
        "data": _data(version, split, why),
        "code": {name: version.tags.get(name, "") for name in CODE},
        "weights_sha256": version.tags.get("weights_sha256", ""),
        "seed": version.tags.get("seed", ""),
        "configuration": dict(run.data.params) if run else _json(version.tags.get("configuration", "")),
        "parents": parents(client, version) if "parent" in version.tags else None,
        "test_set": version.tags.get("test_set", ""),
        "measures": {name: value if value - value == 0 else None for name, value in sorted(measures.items())},
        "pipeline_run": version.tags.get("pipeline_run", ""),
        "mlflow_run": version.run_id,
        "mlflow": shown(client.tracking_uri),
    }


def parents(client: MlflowClient, version: Version) -> list[str]:
    """The champion when the version was registered, that one's, and so on; it ends where none was recorded."""
    (model,) = models(client, version.model)
    there = {each.number: each.tags.get("parent", "") for each in versions(client, model)}
    chain: list[str] = []
    parent = there.get(version.number, "")
    while parent and parent not in chain:
        chain.append(parent)
        parent = there.get(parent, "")
    return chain


def _data(version: Version, split: dict[str, Any] | None, why: str) -> dict[str, Any]:
    facts: dict[str, Any] = {key: version.tags.get(key, "") for key in ("dataset_version", "collection")}
    if split is None:
        return facts | {"source": "", "split": {}, "subjects": {}, "pairs": {}, "manifest": "", "unknown": why}
    return facts | {
        "source": split.get("source") or "",
        "split": split.get("split", {}),
        "subjects": {name: subjects(entries) for name, entries in split["splits"].items()},
        "pairs": {name: None if entries is None else len(entries) for name, entries in split["splits"].items()},
        "manifest": f"runs:/{version.run_id}/{SPLIT_FILE}",
        "unknown": split["unknown"],
    }


def subjects(entries: Iterable[dict[str, Any]] | None) -> list[str] | None:
    """The subjects of a split, 2 before 16; None if the split is not known."""
    return None if entries is None else sorted({str(entry["subject"]) for entry in entries}, key=order)


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

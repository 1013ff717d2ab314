"""Fetching a registered model for those who fuse with it: once, checked, and at hand when the registry is away."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.register.catalogue import choose
from components.register.packaging import INPUTS_FILE
from components.tracking import Away, connected, shown
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def resolve_model(uri: str, cache: Path, tracking_uri: str = "") -> Path:
    """The local model folder behind `models:/name/3`, `models:/name@champion` or a plain path.

    A version of the registry is fetched once into `cache` and checked against the SHA-256 and the configuration in its
    tags. When the server is away, what the URI stood for last is taken from the cache, and standard error says so.
    Raises InputError if there is no such model, version or alias, naming those there are.
    """
    if not uri.startswith("models:/"):
        return Path(uri)
    if not re.fullmatch(r"models:/[^/@]+(/\d+|@[\w.-]+)", uri):
        raise InputError(f"{uri!r} names no model version: write models:/NAME/VERSION or models:/NAME@ALIAS")
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    note = cache / f"{hashlib.sha256(f'{shown(server)} {uri}'.encode()).hexdigest()[:16]}.json"
    try:
        with connected(tracking_uri) as client:
            chosen = choose(client, uri)
            version = client.get_model_version(chosen.model, chosen.number)
            target = fetch_version(version, cache)
    except Away as away:
        return _remembered(note, uri, away)
    digest = version.tags["weights_sha256"]
    _write_note(note, {"folder": target.name, "version": str(version.version), "weights_sha256": digest})
    return target


def fetch_version(version: ModelVersion, cache: Path) -> Path:
    """The local model folder of a version, checked, from `cache` or else from the MLflow that one is connected to."""
    digest = version.tags.get("weights_sha256", "")
    if not digest:
        uri = f"models:/{version.name}/{version.version}"
        raise InputError(f"{uri} was not registered by this program; choose another version")
    target = cache / f"{version.name}-{version.version}-{digest[:12]}"
    if not _is_whole(target, digest):
        _download(version, target)
    return target


def _is_whole(folder: Path, digest: str) -> bool:
    from model.fuser import weights_sha256

    try:
        return (folder / INPUTS_FILE).is_file() and weights_sha256(folder) == digest
    except FileNotFoundError:
        return False


def _remembered(note: Path, uri: str, away: Away) -> Path:
    try:
        last = json.loads(note.read_text())
        folder = note.parent / str(last["folder"])
        when = datetime.fromtimestamp(note.stat().st_mtime, UTC)
        whole = _is_whole(folder, str(last["weights_sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise InputError(f"{away}; the cache does not hold {uri} either") from None
    print(f"{away}; taking {uri} as of {when:%Y-%m-%d %H:%M} UTC, version {last['version']}", file=sys.stderr)
    return folder


def _write_note(note: Path, value: dict[str, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=note.parent)
    with os.fdopen(handle, "w") as stream:
        json.dump(value, stream)
    Path(name).replace(note)


def _download(version: ModelVersion, target: Path) -> None:
    import mlflow

    from model.fuser import weights_sha256

    uri = f"models:/{version.name}/{version.version}"
    inputs = mlflow.models.get_model_info(uri).signature.inputs.input_names()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        local = Path(mlflow.artifacts.download_artifacts(f"{uri}/artifacts", dst_path=aside))
        folder = next((found.parent for found in local.glob("*/weights.safetensors")), None)
        if folder is None or weights_sha256(folder) != version.tags["weights_sha256"]:
            raise InputError(f"{uri} does not hold the weights that were registered; choose another version")
        _check_configuration(folder, version, uri)
        (folder / INPUTS_FILE).write_text(json.dumps(inputs) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        try:
            folder.rename(target)
        except OSError:  # Someone else may have fetched the same version meanwhile.
            if not target.exists():
                raise


def _check_configuration(folder: Path, version: ModelVersion, uri: str) -> None:
    registered = json.loads(version.tags.get("configuration", "{}"))
    try:
        there = json.loads((folder / "config.json").read_text())
        same = all(registered[name] == value for name, value in there.items()) or not registered
    except (OSError, ValueError, KeyError, AttributeError):
        same = not registered
    if not same:
        raise InputError(f"{uri} does not hold the configuration that was registered; choose another version")

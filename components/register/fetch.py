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
from components.register.lookup import Found, look_up
from components.register.packaging import INPUTS_FILE
from components.tracking import Away, check_reachable, connected, shown
from model.errors import InputError, one_line

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
        check_reachable(server)
        version: Found | ModelVersion | None = look_up(uri, server)
        target = None if version is None else _cached(version, cache)
        if version is None or target is None:
            with connected(server) as client:
                chosen = choose(client, uri)
                version = client.get_model_version(chosen.model, chosen.number)
                target = fetch_version(version, cache)
    except Away as away:
        return _remembered(note, uri, away)
    facts = {name: version.tags.get(name, "") for name in ("weights_sha256", "configuration")}
    _write_note(note, {"folder": target.name, "version": str(version.version)} | facts)
    return target


def fetch_version(version: ModelVersion, cache: Path) -> Path:
    """The local model folder of a version, checked, from `cache` or else from the MLflow that one is connected to."""
    digest = version.tags.get("weights_sha256", "")
    if not digest:
        uri = f"models:/{version.name}/{version.version}"
        raise InputError(f"{uri} was not registered by this program; choose another version")
    target = _cached(version, cache)
    if target is None:
        target = _place(version, cache)
        _download(version, target)
    return target


def _cached(version: Found | ModelVersion, cache: Path) -> Path | None:
    """The folder of a version in the cache, None if it is not there or not as it was registered."""
    digest = version.tags.get("weights_sha256", "")
    if digest and _is_whole(_place(version, cache), digest, version.tags.get("configuration", "")):
        return _place(version, cache)
    return None


def _place(version: Found | ModelVersion, cache: Path) -> Path:
    return cache / f"{version.name}-{version.version}-{version.tags['weights_sha256'][:12]}"


def _is_whole(folder: Path, digest: str, configuration: str) -> bool:
    """Whether a folder of the cache holds the weights and the configuration that were registered."""
    from model.fuser import weights_sha256

    try:
        whole = (folder / INPUTS_FILE).is_file() and weights_sha256(folder) == digest
    except FileNotFoundError:
        return False
    return whole and _is_configured(folder, configuration)


def _remembered(note: Path, uri: str, away: Away) -> Path:
    try:
        last = json.loads(note.read_text())
        folder = note.parent / str(last["folder"])
        when = datetime.fromtimestamp(note.stat().st_mtime, UTC)
        whole = _is_whole(folder, str(last["weights_sha256"]), str(last.get("configuration", "")))
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
    from model.fuser import weights_sha256

    uri = f"models:/{version.name}/{version.version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        folder, inputs = _fetch(uri, Path(aside))
        if weights_sha256(folder) != version.tags["weights_sha256"]:
            raise InputError(f"{uri} does not hold the weights that were registered; choose another version")
        if not _is_configured(folder, version.tags.get("configuration", "")):
            raise InputError(f"{uri} does not hold the configuration that was registered; choose another version")
        (folder / INPUTS_FILE).write_text(json.dumps(inputs) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        try:
            folder.rename(target)
        except OSError:  # Someone else may have fetched the same version meanwhile.
            if not target.exists():
                raise


def _fetch(uri: str, aside: Path) -> tuple[Path, list[str]]:
    """The model folder of a version, fetched into the folder `aside`, and the names of its inputs.

    Raises InputError if files of it are gone from the artifact store, naming them, and Away if that store fails.
    """
    import requests
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return _fetch_whole(uri, aside)
    except (requests.RequestException, BotoCoreError, ClientError) as error:
        raise Away(f"the artifact store of {uri} fails ({one_line(str(error))})") from None


def _fetch_whole(uri: str, aside: Path) -> tuple[Path, list[str]]:
    import mlflow

    from model.fuser import CONFIG_FILE, WEIGHTS_FILE

    try:
        inputs = mlflow.models.get_model_info(uri).signature.inputs.input_names()
        local = Path(mlflow.artifacts.download_artifacts(f"{uri}/artifacts", dst_path=str(aside)))
        folder = next((found.parent for found in local.glob(f"*/{WEIGHTS_FILE}")), None)
        if folder and (folder / CONFIG_FILE).is_file():
            return folder, inputs
        _check_files(uri)
    except mlflow.MlflowException:
        _check_files(uri)
        raise
    raise InputError(f"{uri} does not hold the model that was registered; choose another version")


def _check_files(uri: str) -> None:
    """Raise InputError if the artifact store can be asked, and a version's model is not there, or not whole."""
    import mlflow

    from model.fuser import CONFIG_FILE, WEIGHTS_FILE

    def names(folder: str = "") -> list[str]:
        found = mlflow.artifacts.list_artifacts(artifact_uri=f"{uri}{folder}")
        return [file.path.rpartition("/")[2] for file in found]

    there = names()
    missing = [name for name in ("MLmodel", "artifacts") if name not in there]
    if not missing:
        models = {name for folder in names("/artifacts") for name in names(f"/artifacts/{folder}")}
        missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if name not in models]
    if missing:
        name, _, number = uri.removeprefix("models:/").partition("/")
        place = shown(mlflow.MlflowClient().get_model_version_download_uri(name, number))
        gone = ", ".join(missing) if there else "all"
        raise InputError(
            f"{uri} is registered, but files of it are gone from {place} ({gone}); bring them back, "
            f"choose another version, or retire this one by `fusion models retire {uri} --reason ...`"
        )


def _is_configured(folder: Path, configuration: str) -> bool:
    """Whether a folder's configuration is the registered one, JSON of a tag; "" of an older version stands for any."""
    from model.fuser import CONFIG_FILE

    try:
        registered, there = json.loads(configuration or "{}"), json.loads((folder / CONFIG_FILE).read_text())
        return not registered or all(registered[name] == value for name, value in there.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return not configuration

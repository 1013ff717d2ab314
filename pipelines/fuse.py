"""Fuse two image files with a model from a folder, from the registry, or from the last run."""

import os
from pathlib import Path

from model.errors import InputError
from model.fuser import Fuser, check_pair
from model.images import read_grey, write_grey


def fuse_files(
    a: Path, b: Path, output: Path, model: str | None, strategy: str | None, batchnorm: str | None, runs: Path
) -> None:
    """Fuse images `a` and `b` and write the result to `output`; raises InputError for anything the user can mend."""
    first, second = read_grey(a), read_grey(b)
    if first.shape != second.shape:
        sizes = [f"{image.shape[2]}x{image.shape[1]}" for image in (first, second)]
        raise InputError(f"{a} is {sizes[0]}, {b} is {sizes[1]}; resample one to the other's size")
    check_pair(first[None], second[None])
    fuser = Fuser.load(_model_folder(model, runs), strategy, batchnorm)
    write_grey(output, fuser.fuse(first[None], second[None])[0])


def _model_folder(model: str | None, runs: Path) -> Path:
    if model is None:
        folder = runs / "latest" / "model"
        if not folder.is_dir():
            raise InputError(f"no model yet in {folder}; run `fusion run` first, or name one with --model")
        return folder
    if not model.startswith("models:"):
        return Path(model)
    from components.register.registry import resolve_model
    from pipelines.local import local_tracking_uri

    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server and not (runs / "mlflow.db").exists():
        raise InputError(f"no local MLflow store in {runs}; set MLFLOW_TRACKING_URI, or make one with `fusion run`")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "atlas-fusion" / "models"
    return resolve_model(model, cache, server or local_tracking_uri(runs))

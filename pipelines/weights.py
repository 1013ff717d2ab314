"""Weights as files: train those that ship with this program again, or convert the authors' published ones."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save

from components.train.recipes import RECIPES
from model.errors import InputError, unknown_choice
from model.fuser import CONFIG_FILE, WEIGHTS_FILE, Fuser, FuserConfig
from model.images import new_file_mode, same_file, write_atomically
from model.published import read_published
from pipelines.display import progress_bar
from pipelines.follow import follow

PUBLISHED_CONFIG = FuserConfig(strategy="sfnn", batchnorm="image", network="dilran")


def convert(published: Path, output: Path, force: bool = False) -> None:
    """Write the published weights as a model folder, or as one file if `output` ends in .safetensors.

    The folder says how the published figures were made: strategy SFNN, BatchNorm by the statistics of each image. What
    is there already is replaced only with `force`, and a folder only if it holds nothing but a model. Nothing is left
    half-written. Raises InputError for anything the user can mend.
    """
    network = read_published(published)
    if output.suffix == ".safetensors":
        if same_file(output, published):
            raise InputError(f"{output} is the published file itself; choose another name")
        if not force and _exists(output):
            raise InputError(f"{output} exists; choose another name, or replace it with --force")
        data = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
        write_atomically(output, lambda partial: partial.write_bytes(data))
        return
    _check_folder(output, published, force)
    try:
        _write_folder(Fuser(network, PUBLISHED_CONFIG), output)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {output}: {reason}; choose another place") from None


def train(names: Sequence[str], data: str, perceptual: str, output: Path) -> None:
    """Train the shipped weights of these names anew, each into the folder of its name in `output`.

    Raises InputError before anything is trained if a name is unknown or its folder exists, and for anything else the
    user can mend; RuntimeError if training fails otherwise.
    """
    for name in names:
        if name not in RECIPES:
            raise unknown_choice("recipe", name, RECIPES)
        if _exists(output / name):
            raise InputError(f"{output / name} exists; move it away, or choose another folder with --output")
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        command = [sys.executable, "-m", "components.train.recipes", name, data, perceptual, str(output / name)]
        with progress_bar(name) as advance:
            follow(command, advance)


def _check_folder(folder: Path, published: Path, force: bool) -> None:
    if not _exists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder, or a file ending in .safetensors")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; choose another place") from None
    if others := sorted(names - {WEIGHTS_FILE, CONFIG_FILE}):
        raise InputError(f"{folder} holds more than a model: {others[0]}; choose a new or empty folder")
    if names and not force:
        raise InputError(f"{folder} holds a model; choose another folder, or replace it with --force")
    if same_file(folder / WEIGHTS_FILE, published):
        raise InputError(f"{folder} holds the published file itself; choose another folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from None


def _write_folder(fuser: Fuser, folder: Path) -> None:
    """Write the model aside, on the same file system, then move it into place as a whole or file by file."""
    new = not folder.exists()
    aside = Path(tempfile.mkdtemp(prefix=".model.", dir=folder.parent if new else folder))
    try:
        fuser.save(aside)
        for path in aside.iterdir():
            path.chmod(new_file_mode(0o666))
        if new:
            aside.chmod(new_file_mode(0o777))
            aside.rename(folder)
        else:
            for name in (WEIGHTS_FILE, CONFIG_FILE):
                (aside / name).replace(folder / name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside)

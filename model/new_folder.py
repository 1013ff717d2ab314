"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import InputError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder aside to write to, which takes its name at the end; nothing is left of it where that fails.

    Raises InputError if `folder` is there and not empty, or cannot be written.
    """
    folder = folder.resolve()
    check_new_folder(folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        aside.mkdir()
        yield aside
        aside.replace(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Raise InputError unless a folder of that name can be made."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; name a new one")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"cannot write {folder}: there is no folder {folder.parent}; choose another place")

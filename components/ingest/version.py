"""The version of a data folder: the directory hash that DVC gives the same files."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from model.errors import InputError

# What file managers leave behind, in every folder that somebody looks into.
LITTER = frozenset({".DS_Store", "Thumbs.db", "thumbs.db", "ehthumbs.db", "Desktop.ini", "desktop.ini"})

_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_CHUNK = 1 << 20


def file_md5(path: Path) -> str:
    """The MD5 of a file's content, as DVC records it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_litter(path: Path) -> bool:
    """Whether a file is what an operating system's file manager left: by its name, and a `._` file by its content."""
    if not path.name.startswith("._"):
        return path.name in LITTER
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
    except OSError:
        return False


def data_files(folder: Path) -> list[Path]:
    """Every file under a data folder, sorted by relative path; hidden ones and `LITTER` are none of the data."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".") and name not in LITTER]
    for path in found:
        if not path.is_file():
            raise InputError(f"{path} is no file but a link to nothing, a pipe or a device; remove it")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def all_files(folder: Path) -> list[str]:
    """The relative path of everything under a folder that is neither folder nor litter, hidden or not, sorted."""
    walk = os.walk(folder, followlinks=True)
    found = (Path(parent, name) for parent, _, files in walk for name in files)
    return sorted(path.relative_to(folder).as_posix() for path in found if not is_litter(path))


def tree_version(md5s: Iterable[tuple[str, str]]) -> str:
    """DVC's directory hash `<md5>.dir` of (relative path, md5) entries: the MD5 of their JSON list sorted by path."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s, key=lambda entry: entry[0].split("/"))]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def folder_md5s(folder: Path, under: str = "") -> dict[str, str]:
    """Relative path -> MD5 of every file of a data folder; InputError for one that cannot be read or is gone meanwhile.

    With `under`, of those below that folder alone.
    """
    named = ((path.relative_to(folder).as_posix(), path) for path in data_files(folder))
    found = {}
    for name, path in named:
        try:
            if not under or name.startswith(f"{under}/"):
                found[name] = file_md5(path)
        except OSError as error:
            why = f"cannot read {path}: {error.strerror}"
            raise InputError(f"{why}; check its permissions, and that nothing is changing the folder") from None
    return found


def folder_version(folder: Path, under: str = "") -> str:
    """DVC's directory hash of everything in a data folder; with `under`, as if it held that folder below it alone."""
    return tree_version(folder_md5s(folder, under).items())

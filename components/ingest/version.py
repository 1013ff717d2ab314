"""The version of a data folder: the directory hash that DVC gives the same files."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from model.errors import InputError

_CHUNK = 1 << 20


def file_md5(path: Path) -> str:
    """The MD5 of a file's content, as DVC records it."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def data_files(folder: Path) -> list[Path]:
    """Every file under a data folder, sorted by relative path; hidden files and folders are none of the data."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    for path in found:
        if not path.is_file():
            raise InputError(f"{path} is no file but a link to nothing, a pipe or a device; remove it")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def all_files(folder: Path) -> list[str]:
    """The relative path of everything under a folder that is no folder, hidden or not, sorted."""
    walk = os.walk(folder, followlinks=True)
    return sorted(Path(parent, name).relative_to(folder).as_posix() for parent, _, files in walk for name in files)


def tree_version(md5s: Iterable[tuple[str, str]]) -> str:
    """DVC's directory hash `<md5>.dir` of (relative path, md5) entries: the MD5 of their JSON list sorted by path."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s, key=lambda entry: entry[0].split("/"))]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def folder_version(folder: Path, under: str = "") -> str:
    """DVC's directory hash of everything in a data folder; with `under`, as if it held that folder below it alone."""
    found = [(path, path.relative_to(folder).as_posix()) for path in data_files(folder)]
    return tree_version((name, file_md5(path)) for path, name in found if not under or name.startswith(f"{under}/"))

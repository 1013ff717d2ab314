"""DVC's listing of one version of a folder: which files it has, by relative path and MD5."""

import json
import re
from pathlib import Path
from typing import Any

from model.errors import InputError

_VERSION = re.compile(r"[0-9a-f]{32}\.dir")
_MD5 = re.compile(r"[0-9a-f]{32}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")


def check_version(version: str) -> str:
    """Return `version` if it is a directory hash as DVC names it; raise InputError otherwise."""
    if not _VERSION.fullmatch(version):
        raise InputError(f"{version!r} is no version of a folder; give <md5>.dir, as the .dvc file's md5 has it")
    return version


def read_listing(file: Path, version: str) -> dict[str, str]:
    """Relative path -> MD5 of every file of a version, from its listing on disk.

    Raises InputError if the listing is none, or names a file that would not lie in the folder.
    """
    try:
        entries: dict[str, str] = {}
        for entry in json.loads(file.read_bytes()):
            path, md5 = entry["relpath"], entry["md5"]
            _check_entry(path, md5, version)
            if path in entries:
                raise InputError(f"version {version} lists {path!r} twice; it is refused")
            entries[path] = md5
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"version {version} is no listing as DVC writes it; check the version") from None
    for path in entries:
        folder = path
        while folder := folder.rpartition("/")[0]:
            if folder in entries:
                raise InputError(f"version {version} has {folder!r} as a file and as a folder; it is refused")
    return entries


def part_of(entries: dict[str, str], under: str) -> dict[str, str]:
    """Of a listing, the files below the folder `under`; all of them if it is empty."""
    folder = under.strip("/")
    return {path: md5 for path, md5 in entries.items() if not folder or path.startswith(f"{folder}/")}


def _check_entry(path: Any, md5: Any, version: str) -> None:
    if not isinstance(path, str) or not isinstance(md5, str) or not _MD5.fullmatch(md5):
        raise ValueError(path)
    path.encode()  # JSON can spell text that no file name can; that, too, is a ValueError
    if _UNPRINTABLE.search(path) or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise InputError(f"version {version} lists the unsafe path {path!r}; it is refused")

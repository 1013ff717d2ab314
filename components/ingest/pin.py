"""The pinned version of the dataset: `data.dvc`, which DVC reads too, and `data.pairs.csv`, which names its images."""

import csv
import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.ingest.address import kept_address
from components.ingest.compare import pairs_by_collection
from components.ingest.layout import COLLECTIONS, image_path, order, pair_of
from components.ingest.version import tree_version
from model.errors import InputError

PIN, PAIRS, DATA = "data.dvc", "data.pairs.csv", "data"
_COLUMNS = ("collection", "pair", "first_md5", "second_md5")
_MD5 = re.compile(r"^[0-9a-f]{32}$")


@dataclass(frozen=True)
class Pin:
    """A pinned version: DVC's directory hash, its bytes and number of files, provenance, and relative path -> MD5."""

    version: str
    size: int
    nfiles: int
    meta: dict[str, Any]
    files: dict[str, str]

    @property
    def listed(self) -> bool:
        """Whether `files` is the listing of this very version."""
        return tree_version(self.files.items()) == self.version

    def pairs(self) -> str:
        """Such as "810 pairs (CT-MRI 184, PET-MRI 269, SPECT-MRI 357)"."""
        return counted_pairs(self.files)


def counted_pairs(listing: Mapping[str, str]) -> str:
    """The number of pairs in a listing, in all and by collection."""
    counts = pairs_by_collection(listing)
    parts = ", ".join(f"{collection} {count}" for collection, count in counts.items())
    total = sum(counts.values())
    return f"{total} pair{'' if total == 1 else 's'} ({parts})" if parts else "0 pairs"


def find_root(start: Path) -> Path:
    """The folder with `data.dvc`: `start` or the nearest one above it."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / PIN).is_file():
            return folder
    raise InputError(f"no {PIN} in {start.resolve()} or above it; run this in a checkout of atlas-fusion")


def read_pin(root: Path) -> Pin:
    """Read `data.dvc` and `data.pairs.csv`; raises InputError if either is missing or no such file."""
    where = root / PIN
    try:
        text = where.read_bytes()
    except OSError as error:
        raise _no_pin(where, error) from None
    version, size, nfiles, meta = _pinned(text, where)
    return Pin(version, size, nfiles, meta, _read_pairs(root / PAIRS))


def pinned_version(text: bytes, where: object) -> str:
    """The version that the content of a `data.dvc` pins, which lies at `where`; InputError if it pins none."""
    return _pinned(text, where)[0]


def _pinned(text: bytes, where: object) -> tuple[str, int, int, dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(text)
        (out,) = content["outs"]
        version, size, nfiles = str(out["md5"]), int(out["size"]), int(out["nfiles"])
        if out["path"] != DATA or not version.endswith(".dir") or not _MD5.match(version[:-4]):
            raise ValueError(f"it pins {out['path']!r} at {version!r}, no folder {DATA}")
        return version, size, nfiles, dict(content.get("meta") or {})
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise _no_pin(where, error) from None


def _no_pin(where: object, error: Exception) -> InputError:
    return InputError(f"{where} pins no dataset ({error}); restore it with `git checkout {PIN}`")


def require_listing(pin: Pin, root: Path) -> Pin:
    """Return `pin` if the listing beside it is of the same version; raises InputError otherwise."""
    if not pin.listed:
        raise InputError(
            f"{root / PAIRS} does not list version {pin.version} of {PIN}; restore both with `git checkout {PIN} "
            f"{PAIRS}`, or pin what lies in {DATA}/ with `fusion data import {DATA} --new-version`"
        )
    return pin


def _read_pairs(where: Path) -> dict[str, str]:
    files: dict[str, str] = {}
    try:
        with where.open(newline="", encoding="utf-8") as stream:
            rows = csv.reader(stream)
            if tuple(next(rows, ())) != _COLUMNS:
                raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
            for collection, pair, *md5s in rows:
                if len(md5s) != 2 or not all(_MD5.match(md5) for md5 in md5s):
                    raise ValueError(f"line {rows.line_num} holds no two MD5s")
                for modality, md5 in zip(COLLECTIONS[collection], md5s, strict=True):
                    files[image_path(collection, modality, pair)] = md5
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, KeyError) as error:
        raise InputError(f"{where} lists no pairs ({error}); restore it with `git checkout {PAIRS}`") from None
    return files


def pin_text(pin: Pin) -> str:
    """What `data.dvc` says of this version, laid out as DVC itself would write it."""
    from dvc.utils.serialize import dumps_yaml

    out = {"md5": pin.version, "size": pin.size, "nfiles": pin.nfiles, "hash": "md5", "path": DATA}
    return str(dumps_yaml({"outs": [out], "meta": pin.meta}))


def pairs_text(files: Mapping[str, str]) -> str:
    """What `data.pairs.csv` says of a listing: one line a pair, so that a diff of versions is a diff of pairs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for collection, pair in sorted({pair_of(path) for path in files}, key=lambda key: (key[0], order(key[1]))):
        md5s = (files[image_path(collection, modality, pair)] for modality in COLLECTIONS[collection])
        writer.writerow((collection, pair, *md5s))
    return text.getvalue()


def write_pin_aside(folder: Path, pin: Pin) -> None:
    """Write `data.pairs.csv` and `data.dvc` into the new folder `folder`, which appears with both of them."""
    partial = folder.with_name(f"{folder.name}.partial")
    for left in (partial, folder):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    for name, text in ((PAIRS, pairs_text(pin.files)), (PIN, pin_text(pin))):
        (partial / name).write_text(text, encoding="utf-8")
    partial.rename(folder)


def adopt_pin(folder: Path, root: Path) -> None:
    """Let the pin in `folder` take the place of the one in `root`, each file whole; or what is left of it."""
    for name in (PAIRS, PIN):
        if (folder / name).exists():
            (folder / name).replace(root / name)
    folder.rmdir()


def next_pin(old: Pin, files: Mapping[str, str], size: int, source: Mapping[str, str]) -> Pin:
    """The pin of a new version: title and terms stay, its source is named, the earlier one joins `meta.earlier`."""
    came = {key: kept_address(str(value)) for key, value in dict(old.meta.get("source") or {}).items()}
    earlier = {"version": old.version, **came}
    meta = old.meta | {
        "pairs": pairs_by_collection(files),
        "source": dict(source),
        "earlier": [*(old.meta.get("earlier") or []), earlier],
    }
    return Pin(tree_version(files.items()), size, len(files), meta, dict(files))

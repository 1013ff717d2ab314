"""How what is here of the dataset compares with its pin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.ingest.compare import FileDifference, SubjectDifference, compare_files, compare_pairs
from components.ingest.dvc_cache import is_cached
from components.ingest.dvc_config import cache_folder
from components.ingest.layout import is_image_path
from components.ingest.pin import DATA, Pin, read_pin, require_listing
from components.ingest.staging import is_at_work, listing, recover, worth_continuing


@dataclass(frozen=True)
class Status:
    """How what is here compares with the pin; `difference` is None without a data folder.

    `importing` is whether an import is at work at this moment, `interrupted` whether one that no longer is left what
    the next one would use, `linked` whether `data` is a link, `finished` whether an import was found cut off with its
    images in place, and then finished.
    """

    pin: Pin
    difference: FileDifference | None
    pairs: list[SubjectDifference]
    importing: bool
    interrupted: bool
    cached: bool
    linked: bool = False
    finished: bool = False


def look(root: Path) -> Status:
    """Compare what is here with the pin by hashing all of it."""
    finished, importing = recover(root), is_at_work(root)
    pin = require_listing(read_pin(root), root)
    target = root / DATA
    here = listing(target) if target.is_dir() else None
    return Status(
        pin,
        None if here is None else compare_files(pin.files, here),
        [] if here is None else compare_pairs(pin.files, _images(here)),
        importing,
        not importing and worth_continuing(root),
        (root / ".dvc").is_dir() and is_cached(cache_folder(root), pin.version),
        target.is_symlink(),
        finished,
    )


def _images(files: Mapping[str, str]) -> dict[str, str]:
    return {path: md5 for path, md5 in files.items() if is_image_path(path)}

"""Bringing a version in: every file aside and checked, then the whole folder into place by one rename."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.ingest.check import BadImage, ImageFacts, check_image
from components.ingest.layout import is_image_path, order, pair_of, partner, subject_of
from components.ingest.pin import DATA, Pin, adopt_pin, write_pin_aside
from components.ingest.source import Source
from components.ingest.version import data_files, file_md5
from model.errors import InputError

Advance = Callable[..., None]

_FEW = 0.005  # of the pixels; below it neither image shows bone
_PIN = "pin"  # in the staging folder: the pin of what is about to be put in place
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Staged:
    """A version aside: relative path -> MD5 of what was written, its bytes, and what is wrong with which image."""

    files: dict[str, str]
    size: int
    faults: dict[str, str]


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """The folder where a version is put together, beside `data`; InputError if another import is at work in it.

    What an interrupted import left there stays, so that the next one continues.
    """
    folder = root / f"{DATA}.partial"
    with full_disk_told(folder):
        folder.mkdir(exist_ok=True)
        with _locked(folder) as mine:
            if not mine:
                raise InputError(f"another import is at work in {folder}; wait for it to end")
            _recover(folder, root)
            try:
                yield folder
            finally:
                if not _worth_continuing(folder):
                    clear(folder)


def recover(root: Path) -> bool:
    """Finish an import that was cut off with its images in place, undo one that was before; whether one was finished.

    What another import is at work on is left to it.
    """
    folder = root / f"{DATA}.partial"
    if not (folder / "old").exists() and not (folder / _PIN).exists():
        return False
    with _locked(folder) as mine:
        finished = mine and _recover(folder, root)
        if mine and not _worth_continuing(folder):
            clear(folder)
        return finished


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _recover(folder: Path, root: Path) -> bool:
    """The tree leaves the staging folder with the second rename of `put_in_place`: before it the old pin holds."""
    target, pin = root / DATA, folder / _PIN
    if not target.exists() and (folder / "old").exists():
        (folder / "old").rename(target)
    if (folder / "tree").exists() or not target.exists() or not (pin.exists() or (folder / "old").exists()):
        shutil.rmtree(pin, ignore_errors=True)
        return False
    finished = pin.exists()
    if finished:
        adopt_pin(pin, root)
    for left in ("old", "source.git"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return finished


def clear(staged: Path) -> None:
    """Remove the staging folder with all that is in it."""
    shutil.rmtree(staged, ignore_errors=True)


def stage(
    source: Source, found: Mapping[str, str], pinned: Mapping[str, str], target: Path, advance: Advance
) -> Staged:
    """Write the images of `source` (`found`: relative path -> path in the source) into `target`, and check them.

    What an earlier attempt wrote and `pinned` vouches for (relative path -> MD5) is not read again; an image whose MD5
    is pinned needs no other check. Every other one must decode, suit its modality, and not be known as another's.
    """
    target.mkdir(exist_ok=True)
    files = _kept(found, pinned, target)
    size = sum((target / path).stat().st_size for path in files)
    facts: dict[str, ImageFacts] = {}
    faults: dict[str, str] = {}
    known = {md5: path for path, md5 in pinned.items()}
    advance(len(files), len(found))
    for path, content in source.read({path: where for path, where in found.items() if path not in files}):
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if pinned.get(path) != md5:
            try:
                _check_identity(path, known.get(md5))
                facts[path] = check_image(content, path.split("/")[1])
            except BadImage as error:
                faults[path] = str(error)
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target / path, content)
        files[path] = md5
        size += len(content)
        advance(len(files), len(found))
    return Staged(files, size, _with_pair_faults(files, facts, faults, target))


def put_pinned_in_place(staged: Path, root: Path, new: Pin | None) -> None:
    """Make what is staged the folder `data`, and `new` its pin; if the machine stops, the next command goes on."""
    if new:
        write_pin_aside(staged / _PIN, new)
    put_in_place(staged, staged / "tree", root / DATA)
    if new:
        adopt_pin(staged / _PIN, root)


def put_in_place(staged: Path, tree: Path, target: Path) -> None:
    """Make the complete folder `tree` the folder `target`; an older one is whole until then, and back on failure."""
    old = staged / "old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        try:
            target.rename(old)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            raise InputError(f"{target} is a mount point, which an import cannot replace; unmount it") from None
    try:
        tree.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def is_at_work(root: Path) -> bool:
    """Whether an import is at work in the staging folder at this moment."""
    try:
        with (root / f"{DATA}.partial" / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def worth_continuing(root: Path) -> bool:
    """Whether an interrupted import left what the next one would use."""
    return _worth_continuing(root / f"{DATA}.partial")


def _worth_continuing(staged: Path) -> bool:
    """Whether a later attempt would find anything to use: images, a fetched repository, the older data."""
    return any(
        next(staged.glob(kept), None) for kept in ("tree/*/*/*.png", "source.git/objects/pack/*.pack", "old", _PIN)
    )


@contextmanager
def full_disk_told(where: Path) -> Iterator[None]:
    """Turn a full disk into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"the disk is full at {where}; make room and run the same command again, it continues where it stopped"
        ) from None


def listing(folder: Path, advance: Advance = lambda *_: None) -> dict[str, str]:
    """Relative path -> MD5 of everything in a data folder, hidden files apart; raises InputError if it is none."""
    if not folder.is_dir():
        raise InputError(f"no such data folder: {folder}; `fusion data import` makes {DATA}/")
    try:
        paths = data_files(folder)
        found = {}
        for done, path in enumerate(paths, 1):
            found[path.relative_to(folder).as_posix()] = file_md5(path)
            advance(done, len(paths))
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from None
    return found


def _kept(found: Mapping[str, str], pinned: Mapping[str, str], target: Path) -> dict[str, str]:
    """What an earlier attempt left and is as pinned; the rest of it is removed."""
    kept = {}
    for path in [path for path in target.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]:
        path.unlink()
    for path in data_files(target):
        relative = path.relative_to(target).as_posix()
        if relative in found and relative in pinned and file_md5(path) == pinned[relative]:
            kept[relative] = pinned[relative]
        else:
            path.unlink()
    for path in target.rglob(".*.partial"):
        path.unlink()
    for parent, _, _ in os.walk(target, topdown=False):
        if parent != str(target) and not any(Path(parent).iterdir()):
            Path(parent).rmdir()
    return kept


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _check_identity(path: str, known: str | None) -> None:
    if known is not None and known.split("/")[1] != path.split("/")[1]:
        raise BadImage(f"mislabelled: the image that is pinned as {known}")


def _with_pair_faults(
    files: Mapping[str, str], facts: Mapping[str, ImageFacts], faults: dict[str, str], target: Path
) -> dict[str, str]:
    """The faults, and those that only show beside the partner or the rest of the collection."""
    found = dict(faults)
    usual = _usual_sizes(files, facts, target)
    for path, own in facts.items():
        width, height = usual[path.split("/")[0]]
        if own.size != (width, height):
            found.setdefault(path, f"{own.size[0]}x{own.size[1]} pixels, where the others have {width}x{height}")
        if files.get(partner(path)) == files[path]:
            found.setdefault(path, f"mislabelled: the same image as {partner(path)}")
    for path in _swapped(facts):
        found.setdefault(path, "mislabelled: most MRI of this subject have more bone-white than its CT, as if swapped")
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


def _usual_sizes(files: Mapping[str, str], facts: Mapping[str, ImageFacts], target: Path) -> dict[str, tuple[int, int]]:
    """The size that the images of each collection have: of a pinned one, or the most frequent among the new."""
    usual = {}
    for collection in {path.split("/")[0] for path in facts}:
        there = [path for path in sorted(files) if path.startswith(f"{collection}/")]
        known = next((path for path in there if path not in facts and is_image_path(path)), None)
        try:
            own = check_image((target / known).read_bytes(), known.split("/")[1]).size if known else None
        except BadImage:
            own = None
        usual[collection] = own or Counter(facts[path].size for path in there if path in facts).most_common(1)[0][0]
    return usual


def _swapped(facts: Mapping[str, ImageFacts]) -> list[str]:
    """The CT images that look swapped with their MRI, of subjects more than half of whose new pairs do.

    An MRI more than twice as bright as its CT does.

    Over the atlas (184 pairs) and the phantom every CT has at least twice the share of its MRI.
    """
    subjects: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for path, own in facts.items():
        other = facts.get(partner(path))
        if path.startswith("CT-MRI/CT/") and other is not None:
            subjects[subject_of(pair_of(path)[1])].append((path, other.bright > 2 * own.bright + _FEW))
    most = [pairs for pairs in subjects.values() if 2 * sum(swapped for _, swapped in pairs) > len(pairs)]
    return [path for pairs in most for path, swapped in pairs if swapped]

"""Two volumes of one head as slice pairs of a dataset: windowed, on one grid, 8-bit, named by subject and slice."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.ingest.layout import COLLECTIONS
from model.errors import InputError, unknown_choice
from model.images import read_luma_bytes
from model.modality import said_beside
from model.pairing import pair_volumes
from model.volumes import AIR_HU, CT, MR, NM, OTHER, PET, Volume, Window, display_range, read_volume, shown

# DICOM's codes of what may lie in the folder of a modality.
_CODES = {"CT": (CT,), "MRI": (MR,), "PET": (PET,), "SPECT": (NM,)}
MOST_SLICES = 999
# The same as what validation takes for background, and the share of an image that must not be.
EMPTY_LEVEL, LEAST_CONTENT = 5, 0.01

_SUBJECT = re.compile(r"[A-Za-z0-9_]{1,32}")

Levels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Imported:
    """What an import wrote: the pairs, how many slices it left out as empty, and how the two came to one grid."""

    pairs: int
    empty: int
    how: str


def import_volumes(
    first: Path,
    second: Path,
    folder: Path,
    subject: str,
    collection: str = "CT-MRI",
    window: Window | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Add the slices of two volumes of one head, the first's grid deciding, to a data folder as one more subject.

    They become `<folder>/<collection>/<modality>/<subject><3-digit slice>.png`, the lowest slice 001. A slice in which
    either modality is empty (under 1 % of it above level 5) is left out, for validation refuses blank images. The
    subject is added whole or not at all. Raises InputError if a volume cannot be read or is not of its modality, the
    two do not fit together, the folder has that subject or images of another size, or cannot be written.
    """
    if not _SUBJECT.fullmatch(subject):
        raise InputError(f"subject {subject!r} is no name for one; use up to 32 letters, digits and underscores")
    if collection not in COLLECTIONS:
        raise unknown_choice("collection", collection, COLLECTIONS)
    modalities = COLLECTIONS[collection]
    target = folder / collection
    _check_target(target, subject)
    volumes = [_read(path, name, collection) for path, name in zip((first, second), modalities, strict=True)]
    _check_names(first, second, modalities)
    limits = [display_range(volume, window) for volume in volumes]
    pair = pair_volumes(*volumes)
    if len(pair.first.pixels) > MOST_SLICES:
        raise InputError(f"{first} has {len(pair.first.pixels)} slices, names have room for {MOST_SLICES}; thin it out")
    depth, height, width = pair.first.pixels.shape
    _check_size(target, f"{width}x{height}", first)
    pairs = 0
    with _adding(folder, target) as aside:
        _check_target(target, subject)
        for name in modalities:
            (aside / name).mkdir(parents=True, exist_ok=True)
        for index in range(depth):
            images = [
                _levels(volume, index, each) for volume, each in zip((pair.first, pair.second), limits, strict=True)
            ]
            if not any(_empty(image) for image in images):
                for name, image in zip(modalities, images, strict=True):
                    Image.fromarray(image).save(aside / name / f"{subject}{index + 1:03d}.png", compress_level=6)
                pairs += 1
            progress(index + 1, depth)
        if not pairs:
            raise InputError(
                f"no slice of {first} and {second} shows anything in both; check the window and the pairing"
            )
    return Imported(pairs, depth - pairs, pair.how)


def _read(path: Path, name: str, collection: str) -> Volume:
    volume = read_volume(path, _CODES[name][0])
    if volume.modality not in (*_CODES[name], OTHER):
        raise InputError(
            f"{path} is {volume.modality}, where {collection} takes {name}; check the order and --collection"
        )
    if path.name.lower().endswith((".nii", ".nii.gz")) and path.is_file():
        _check_air(volume, path, name)
    return volume


def _check_air(volume: Volume, path: Path, name: str) -> None:
    """Refuse NIfTI, which does not tell its modality, where its least value is not of the one it is taken as."""
    least = float(volume.pixels.min())
    if name == "CT" and least > AIR_HU:
        raise InputError(
            f"{path} is taken as CT, but has no air ({AIR_HU} HU or less): its least value is {least:g}; check the "
            "order, or give Hounsfield units"
        )
    if name != "CT" and least <= AIR_HU:
        raise InputError(f"{path} is taken as {name}, but has values as low as {least:g}, as CT has; check the order")


def _check_names(first: Path, second: Path, modalities: tuple[str, str]) -> None:
    """Refuse two NIfTI files each of which is, by its sidecar or name, of the other one's modality."""
    told = [said_beside(path) for path in (first, second)]
    if told[0] in _CODES[modalities[1]] and told[1] in _CODES[modalities[0]]:
        raise InputError(
            f"{first} is {modalities[1]} and {second} {modalities[0]} by their names or sidecars; swap them, or rename "
            "them"
        )


def _levels(volume: Volume, index: int, limits: tuple[float, float]) -> Levels:
    return np.rint(shown(volume.pixels[index], limits) * 255).astype(np.uint8)


def _empty(image: Levels) -> bool:
    return float((image > EMPTY_LEVEL).mean()) < LEAST_CONTENT or image.min() == image.max()


def _check_target(target: Path, subject: str) -> None:
    """Refuse a subject that is there already, whichever modality has it."""
    mine = re.compile(re.escape(subject) + r"\d{3}\.png")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if any(mine.fullmatch(name) for _, _, names in os.walk(target) for name in names):
            raise InputError(f"{target} has a subject {subject}; choose another --subject, or remove its images")


def _check_size(target: Path, size: str, first: Path) -> None:
    there = next((path for path in sorted(target.glob("*/*.png")) if not path.name.startswith(".")), None)
    if there is None:
        return
    height, width = read_luma_bytes(there)[0].shape
    known = f"{width}x{height}"
    if known != size:
        raise InputError(
            f"the slices of {first} are {size}, those in {target} {known}; resample the volumes to one size"
        )


@contextmanager
def _adding(folder: Path, target: Path) -> Iterator[Path]:
    """A copy of the collection, by links, to add to; it takes the collection's place if nothing goes wrong."""
    aside, replaced = (target.with_name(f".{target.name}.{word}") for word in ("partial", "replaced"))
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with _alone(folder):
            _restore(target, aside, replaced)
            try:
                if target.exists():
                    shutil.copytree(target, aside, copy_function=os.link)
                yield aside
                if target.exists():
                    target.rename(replaced)
                aside.rename(target)
            finally:
                _restore(target, aside, replaced)
    except FileExistsError:
        raise InputError(f"{folder} is a file; name a folder") from None
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _restore(target: Path, aside: Path, replaced: Path) -> None:
    """Undo what a run that was cut short left behind; after one that was not, remove what it replaced."""
    if replaced.exists() and not target.exists():
        replaced.rename(target)
    for left in (aside, replaced):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"another process is adding to {folder}; try again when it is done") from None
    finally:
        os.close(handle)

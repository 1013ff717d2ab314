"""The pairs of a source: found by the names of their files, read and judged fit to be fused."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from components.batch.places import Place
from components.ingest.layout import COLLECTIONS, order
from components.ingest.version import LITTER
from components.validate.measurements import grey_statistics
from model.errors import InputError
from model.images import Picture, read_image, to_levels
from model.picture_pairs import check_pictures

_SUBJECT = re.compile(r"(?P<subject>\w+?)\d{3}", re.ASCII)


@dataclass(frozen=True)
class Pair:
    """Two images of one slice: the name that they share, and their files in the source."""

    name: str
    a: str
    b: str

    @property
    def subject(self) -> str:
        """16 of 16003, as the dataset names its slices; any other name is a subject of its own."""
        match = _SUBJECT.fullmatch(self.name)
        return match["subject"] if match else self.name

    def to_dict(self) -> dict[str, str]:
        """Its fields."""
        return asdict(self)


@dataclass(frozen=True)
class Fault:
    """A pair that cannot be fused, and in one line why."""

    pair: str
    problem: str


class UnfitPair(InputError):
    """A pair that cannot be fused, in a batch that such a pair stops; `skip` is how to tell it to go on."""

    def __init__(self, fault: Fault, skip: str = "on_error skip") -> None:
        super().__init__(f"pair {fault.pair}: {fault.problem}; mend it, or run with {skip}")
        self.fault = fault


def find_pairs(names: Iterable[str], collection: str, place: str) -> tuple[list[Pair], list[Fault]]:
    """The pairs among the files of a place, and the names that make none, both in the order of subjects and slices.

    They lie in <collection>/<modality>/ or in <modality>/, in capitals or not, and bear the same name but for its
    ending. Raises InputError if there is not one image of each modality, or if both layouts are there.
    """
    modalities = COLLECTIONS[collection]
    folders: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        path = PurePosixPath(name)
        above = tuple(part.lower() for part in path.parts[:-1])
        if path.name not in LITTER:
            folders[above][path.stem].append(name)
    nested, plain = (
        [folders.get((*above, modality.lower()), {}) for modality in modalities]
        for above in ((collection.lower(),), ())
    )
    if any(nested) and any(plain):
        raise InputError(f"{place} holds {collection}/{modalities[0]} and {modalities[0]} both; give one of them alone")
    found = nested if any(nested) else plain
    for modality, images in zip(modalities, found, strict=True):
        if not images:
            a, b = modalities
            raise InputError(
                f"{place} holds no {modality} images; it should hold {collection}/{a} and {collection}/{b}, or {a} and "
                f"{b}; check the address and the collection"
            )
    return _joined(found[0], found[1], modalities)


def _joined(
    first: dict[str, list[str]], second: dict[str, list[str]], modalities: tuple[str, str]
) -> tuple[list[Pair], list[Fault]]:
    pairs, faults = [], []
    for name in sorted(first.keys() | second.keys(), key=order):
        there = [images.get(name, []) for images in (first, second)]
        for modality, files in zip(modalities, there, strict=True):
            if len(files) != 1:
                what = f"no {modality} image has this name" if not files else f"{' and '.join(files)} have one name"
                faults.append(Fault(name, what))
                break
        else:
            pairs.append(Pair(name, there[0][0], there[1][0]))
    return pairs, faults


@dataclass(frozen=True, eq=False)
class Loaded:
    """A pair that is read: its pictures, the tags of its files, the statistics of each, as drift is told by them."""

    pair: Pair
    pictures: tuple[Picture, Picture]
    tags: tuple[str, str]
    statistics: list[dict[str, float]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of either luma."""
        return tuple(self.pictures[0].luma.shape)


@dataclass(frozen=True)
class Fetched:
    """A pair whose files are on this machine, with their tags."""

    pair: Pair
    tags: tuple[str, str]
    paths: tuple[Path, Path]


def fetch_pair(pair: Pair, tags: tuple[str, str], source: Place, scratch: Path) -> Fetched:
    """Bring the files of a pair to this machine, into the folder `scratch`; raises InputError for the place."""
    return Fetched(pair, tags, (source.fetch(pair.a, scratch), source.fetch(pair.b, scratch)))


def read_pair(fetched: Fetched, scratch: Path) -> Loaded | Fault:
    """Read a pair; a Fault if it cannot be fused, named by its files alone. Nothing of it stays in `scratch`."""
    pair, paths = fetched.pair, fetched.paths
    names = pair.a, pair.b
    try:
        a, b = (read_image(path) for path in paths)
        check_pictures(a, b, names)
    except InputError as error:
        problem = str(error)
        for path, name in zip(paths, names, strict=True):
            problem = problem.replace(str(path), name)
        return Fault(pair.name, problem)
    finally:
        for path in paths:
            if path.is_relative_to(scratch):
                path.unlink(missing_ok=True)
    return Loaded(pair, (a, b), fetched.tags, [_statistics(picture) for picture in (a, b)])


def _statistics(picture: Picture) -> dict[str, Any]:
    levels = to_levels(picture.luma[0], 8).astype(np.uint8, copy=False)
    return {name: round(value, 6) for name, value in grey_statistics(levels, levels).items()}

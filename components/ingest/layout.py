"""The layout of a dataset on disk, `<collection>/<modality>/<subject><3-digit slice>.png`, found in any source."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from components.ingest.version import LITTER
from model.errors import InputError

COLLECTIONS = {"CT-MRI": ("CT", "MRI"), "PET-MRI": ("PET", "MRI"), "SPECT-MRI": ("SPECT", "MRI")}
IN_COLOUR = frozenset({"PET", "SPECT"})
"""The modalities whose images are in colour: a scale that somebody gave the counts."""

_NAME = re.compile(r"^(?P<subject>[A-Za-z0-9_]+?)(?P<slice>[0-9]{3})\.png$", re.ASCII)


def image_path(collection: str, modality: str, pair: str) -> str:
    """The relative path of one image of a pair."""
    return f"{collection}/{modality}/{pair}.png"


def pair_of(path: str) -> tuple[str, str]:
    """The collection and the name of the pair that an image at this relative path belongs to."""
    place = PurePosixPath(path)
    return place.parts[0], place.stem


def is_image_path(path: str) -> bool:
    """Whether a relative path is one of the layout."""
    collection, modality, name = (*path.split("/"), "", "")[:3]
    return path.count("/") == 2 and modality in COLLECTIONS.get(collection, ()) and bool(_NAME.fullmatch(name))


def subject_of(pair: str) -> str:
    """The subject in a pair's name: 16 of 16003."""
    return pair[:-3]


def order(path: str) -> tuple[object, ...]:
    """A sorting key that puts subject 2 before subject 16."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path))


def find_images(paths: Iterable[str], source: str) -> dict[str, str]:
    """Find the collections wherever they lie in a source: relative path in the layout -> path in the source.

    Hidden files, `LITTER` and everything outside the collections' folders are left alone. Raises InputError if there is
    no collection, or two candidates for one.
    """
    candidates: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        *above, collection, modality, name = ("", "", *path.split("/"))[-max(3, path.count("/") + 1) :]
        if modality in COLLECTIONS.get(collection, ()) and not name.startswith(".") and name not in LITTER:
            candidates[collection]["/".join((*above, collection))].append((modality, path))
    if not candidates:
        wanted = ", ".join(f"{name}/{modality}" for name, both in COLLECTIONS.items() for modality in both)
        raise InputError(f"{source} holds none of the folders {wanted}; see the README, The dataset, on the layout")
    found: dict[str, str] = {}
    for collection in sorted(candidates):
        places = candidates[collection]
        if len(places) > 1:
            raise InputError(
                f"{source} holds {collection} {len(places)} times ({', '.join(sorted(places))}); give one of them alone"
            )
        for modality, path in next(iter(places.values())):
            name = path.rpartition("/")[2]
            found[f"{collection}/{modality}/{name}"] = path
    return found


def check_pairs(found: Mapping[str, str], source: str) -> None:
    """Raise InputError if a name in the layout is not <subject><3-digit slice>.png, or an image has no partner."""
    for path, where in found.items():
        if not _NAME.fullmatch(path.split("/")[2]):
            raise InputError(
                f"{where} in {source} does not follow <subject><3-digit slice>.png, as 16003.png does; rename it"
            )
    alone = sorted((path for path in found if partner(path) not in found), key=order)
    if alone:
        rest = f", and {len(alone) - 1} more are alone" if len(alone) > 1 else ""
        raise InputError(f"{source} has {alone[0]} without {partner(alone[0])}{rest}; add the partner or remove it")


def partner(path: str) -> str:
    """The path of the other image of the pair."""
    collection, modality, name = path.split("/")
    first, second = COLLECTIONS[collection]
    return f"{collection}/{second if modality == first else first}/{name}"

"""What DVC's cache holds of a version, and whether it is undamaged."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from components.ingest.pin import Pin
from components.ingest.version import file_md5, tree_version
from model.errors import InputError


class CacheSource:
    """A version in DVC's cache."""

    def __init__(self, cache: Path, version: str) -> None:
        self.name = f"the DVC cache {cache}"
        self._cache, self._version = cache, version
        self.files = read_cached(cache, version)

    def paths(self) -> list[str]:
        """The paths that the version lists."""
        return list(self.files)

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read the objects."""
        for key, path in wanted.items():
            place = object_place(self._cache, self.files[path])
            try:
                yield key, place.read_bytes()
            except OSError as error:
                raise InputError(
                    f"{place} is not in the DVC cache ({error.strerror}); run `fusion data pull`"
                ) from None

    def provenance(self) -> dict[str, str]:
        """Nothing: a version in the cache is pinned already."""
        return {}


def read_cached(cache: Path, version: str) -> dict[str, str]:
    """Relative path -> MD5 of a version in the cache, empty where it is not; InputError if it is damaged."""
    import json

    place = object_place(cache, version)
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(place.read_bytes())}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        files = {}
    if tree_version(files.items()) != version:
        raise damaged(place)
    return files


def is_cached(cache: Path, version: str) -> bool:
    """Whether the cache holds the version with every one of its objects."""
    files = read_cached(cache, version)
    return bool(files) and all(object_place(cache, md5).is_file() for md5 in files.values())


def object_place(cache: Path, md5: str) -> Path:
    """Where an object is in a cache or remote."""
    return cache / md5[:2] / md5[2:]


def damaged(place: Path) -> InputError:
    """The refusal of an object in the cache that is not what its name says."""
    return InputError(
        f"{place} in the DVC cache is damaged; remove it and run `fusion data pull`, or `fusion data import`"
    )


def damaged_objects(cache: Path, pin: Pin) -> list[Path]:
    """The objects of the version that are in the cache and are not what their names say."""
    objects = {md5: object_place(cache, md5) for md5 in (pin.version, *pin.files.values())}
    try:
        return [
            place for md5, place in objects.items() if place.is_file() and file_md5(place) != md5.removesuffix(".dir")
        ]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from None

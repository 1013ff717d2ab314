"""Where a dataset can be imported from: what every source offers, and a folder as one."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from model.errors import InputError

# A slice of 4096x4096 in colour compresses to less; a dataset of a hundred thousand slices of the atlas's size fits.
MAX_IMAGE_BYTES = 16 << 20
MAX_TOTAL_BYTES = 4 << 30
MAX_FILES = 200_000


class Source(Protocol):
    """Files by path, to be listed and read; `name` is what messages call it, `provenance` what the pin records."""

    name: str

    def paths(self) -> list[str]:
        """The paths of all regular files, with forward slashes."""
        ...

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read the files at the values of `wanted`; yields its keys with the contents, in any order."""
        ...

    def provenance(self) -> dict[str, str]:
        """Where the files come from, as `data.dvc` records it."""
        ...


def too_many(name: str) -> InputError:
    """The refusal of a source with more files than any dataset has."""
    return InputError(
        f"{name} holds more than {MAX_FILES} files; give the folder that holds CT-MRI, PET-MRI, SPECT-MRI"
    )


def too_large(path: str, name: str) -> InputError:
    """The refusal of a file that is larger than any slice."""
    return InputError(f"{path} in {name} is larger than {MAX_IMAGE_BYTES >> 20} MiB, the limit of an image; remove it")


class FolderSource:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder

    def paths(self) -> list[str]:
        """The paths of all files below the folder; hidden ones are none of the data."""
        found: list[str] = []
        for parent, folders, files in os.walk(self._folder, followlinks=True, onerror=_refuse_unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(parent, name).relative_to(self._folder).as_posix() for name in files]
            if len(found) > MAX_FILES:
                raise too_many(self.name)
        return found

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read the files one after another."""
        for key, path in wanted.items():
            try:
                if not stat.S_ISREG((self._folder / path).stat().st_mode):
                    raise InputError(f"{path} in {self.name} is a pipe or a device and no file; remove it")
                with (self._folder / path).open("rb") as stream:
                    content = stream.read(MAX_IMAGE_BYTES + 1)
            except OSError as error:
                raise InputError(f"cannot read {path} in {self.name}: {error.strerror}; check it") from None
            if len(content) > MAX_IMAGE_BYTES:
                raise too_large(path, self.name)
            yield key, content

    def provenance(self) -> dict[str, str]:
        """That it was a folder; its name may be a patient's, and where it lies is nobody's business."""
        return {"folder": "on this machine"}


class AddedSource:
    """Images of a source added to those of a folder; where both have one, the source's counts."""

    def __init__(self, added: Source, found: Mapping[str, str], kept: Source) -> None:
        """`found` says which images, by relative path, are the added ones."""
        self.name = added.name
        self._added, self._found, self._kept = added, found, kept

    def paths(self) -> list[str]:
        """The paths of both."""
        return [*self._added.paths(), *self._kept.paths()]

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read each image where it is."""
        yield from self._kept.read({key: path for key, path in wanted.items() if key not in self._found})
        yield from self._added.read({key: path for key, path in wanted.items() if key in self._found})

    def provenance(self) -> dict[str, str]:
        """Where the added ones come from; the pin's `earlier` says what they were added to."""
        return {f"added_{name}": value for name, value in self._added.provenance().items()}


def _refuse_unreadable(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

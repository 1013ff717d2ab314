"""Where the pairs of a batch lie and where its results go: a folder, or a prefix of a bucket on S3."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from components.exclusive import exclusive
from components.ingest.address import shown_address
from components.ingest.remote import SCHEME, parse_remote
from components.ingest.s3 import Bucket
from components.ingest.version import file_md5
from model.errors import InputError
from model.images import write_atomically

A_FOLDER = "a folder"  # what is recorded of one: its name may be a patient's


class Place(Protocol):
    """Files by relative name; `name` is what messages call the place, `recorded` what results say of it."""

    name: str
    recorded: str

    def names(self, under: str = "") -> list[str]:
        """The names of all files whose name begins with `under`, hidden ones apart; none if there is no such place."""
        ...

    def tag(self, name: str) -> str:
        """What changes with the content of a file."""
        ...

    def fetch(self, name: str, scratch: Path) -> Path:
        """The file on this machine, brought into the folder `scratch` if it is elsewhere."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        ...

    def alone(self, under: str) -> AbstractContextManager[None]:
        """Be the only process that writes below `under`, where others would be in the way."""
        ...


def open_place(address: str) -> Place:
    """The place at s3://bucket/prefix or in a folder, which need not be there; raises InputError for other addresses.

    Also raises InputError for AWS settings that fit no bucket.
    """
    if address.startswith(SCHEME):
        return BucketPlace(address)
    if not address or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        raise InputError(f"{shown_address(address)!r} is no place for images; give a folder or s3://bucket/prefix")
    return FolderPlace(Path(address))


@dataclass
class FolderPlace:
    """A folder on this machine."""

    folder: Path
    recorded: str = A_FOLDER
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = str(self.folder)

    def names(self, under: str = "") -> list[str]:
        """The relative paths of the files; InputError for a folder that is a file or may not be read."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; give a folder or s3://bucket/prefix")
        found: list[str] = []
        start = self.folder / under if under.endswith("/") else self.folder
        if not start.exists():
            return []
        for parent, folders, there in os.walk(start, followlinks=True, onerror=_refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            files = [Path(parent, name) for name in sorted(there) if not name.startswith(".")]
            found += [file.relative_to(self.folder).as_posix() for file in files if file.is_file()]
        return [name for name in found if name.startswith(under)]

    def tag(self, name: str) -> str:
        """The MD5 of the file; empty for one that cannot be read."""
        try:
            return file_md5(self.folder / name)
        except OSError:
            return ""

    def fetch(self, name: str, scratch: Path) -> Path:
        """The file where it is."""
        return self.folder / name

    def put(self, name: str, content: bytes) -> None:
        """Write the file aside, then move it into its place."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from None
        write_atomically(path, lambda partial: partial.write_bytes(content))

    @contextmanager
    def alone(self, under: str) -> Iterator[None]:
        """Be the only process that writes below `under`; what one that was killed left half-written goes."""
        refusal = f"another batch is writing to {self.folder / under}; wait for its end, or give another destination"
        lock = self.folder / under / ".lock"
        with exclusive(lock, refusal):
            self._sweep(under)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def _sweep(self, under: str) -> None:
        for ending in (".png", ".jsonl"):
            for partial in (self.folder / under).rglob(f".*{ending}.*{ending}"):
                with suppress(OSError):
                    partial.unlink()


@dataclass
class BucketPlace:
    """A prefix of a bucket, by the standard AWS environment; `tags` keeps the ETags of the last listing."""

    address: str
    name: str = field(init=False)
    recorded: str = field(init=False)
    tags: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            place = parse_remote(self.address)
        except InputError:
            raise InputError(f"{shown_address(self.address)!r} is no S3 address; give s3://bucket/prefix") from None
        self.name = self.recorded = str(place)
        self._start = f"{place.prefix}/" if place.prefix else ""
        self._bucket = Bucket(place.bucket)

    def names(self, under: str = "") -> list[str]:
        """The names of the objects below the prefix."""
        there = self._bucket.tags(self._start + under, "the images")
        self.tags |= {key.removeprefix(self._start): tag for key, tag in there.items()}
        names = [key.removeprefix(self._start) for key in there]
        return [name for name in names if not name.endswith("/") and not any(p[:1] == "." for p in name.split("/"))]

    def tag(self, name: str) -> str:
        """The ETag that the object had when it was listed."""
        if name not in self.tags:
            self.names(name)
        return self.tags.get(name, "")

    def fetch(self, name: str, scratch: Path) -> Path:
        """Fetch the object."""
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._bucket.fetch(self._start + name, path, name)
        return path

    def put(self, name: str, content: bytes) -> None:
        """Put the object, whole or not at all."""
        self._bucket.upload(self._start + name, content, name)

    @contextmanager
    def alone(self, under: str) -> Iterator[None]:
        """Nothing to keep others from: every object is put whole, and by any run of one model the same."""
        yield


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

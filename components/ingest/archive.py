"""Archives as sources, zip and tar, read without trusting anything they say of themselves."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from components.ingest.source import MAX_FILES, MAX_IMAGE_BYTES, MAX_TOTAL_BYTES, Source, too_large, too_many
from components.ingest.version import file_md5
from model.errors import InputError

_COMPRESSIONS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, UnicodeDecodeError),
)


def open_archive(path: Path) -> Source:
    """The archive in a file, told by its first bytes; raises InputError if it is none."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipSource(path)
    for magic, opened in _COMPRESSIONS.items():
        if head.startswith(magic):
            return TarSource(path, opened)
    if head[257:262] == b"ustar":
        return TarSource(path, open)
    raise InputError(f"{path} is no zip or tar archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz); give one, or a folder")


def check_member(name: str, archive: str) -> str:
    """The member's path, without a leading "./"; raises InputError if it would lead out of the archive."""
    windows = PureWindowsPath(name)
    if not name or name.startswith(("/", "\\")) or windows.drive or ".." in windows.parts or "\0" in name:
        raise InputError(f"{archive} holds {name!r}, a path that leads out of it; do not trust it")
    return PurePosixPath(name).as_posix()


class _ArchiveFile:
    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def provenance(self) -> dict[str, str]:
        """The archive's MD5; its name may be a patient's."""
        return {"archive": file_md5(self._path)}

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what the readers raise over bad archives into one line."""
        try:
            yield
        except _DAMAGE as error:
            raise InputError(f"{self.name} is damaged or encrypted ({error or 'cut short'}); fetch it again") from None


class ZipSource(_ArchiveFile):
    """A zip file."""

    def paths(self) -> list[str]:
        """The members, all of them checked."""
        with self._telling(), zipfile.ZipFile(self._path) as archive:
            return list(self._members(archive))

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read members; their sizes count as they are unpacked, whatever the archive says of them."""
        total = 0
        with self._telling(), zipfile.ZipFile(self._path) as archive:
            members = self._members(archive)
            for key, path in wanted.items():
                with archive.open(members[path]) as stream:
                    content = stream.read(MAX_IMAGE_BYTES + 1)
                total += len(content)
                if len(content) > MAX_IMAGE_BYTES:
                    raise too_large(path, self.name)
                if total > MAX_TOTAL_BYTES:
                    raise _bomb(self.name)
                yield key, content

    def _members(self, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        infos = archive.infolist()
        if len(infos) > MAX_FILES:
            raise too_many(self.name)
        found = {}
        for info in infos:
            # The name as it is stored: `filename` has had separators replaced and has been cut at a null byte. Some
            # programs on Windows store its backslashes, which a zip file has no other use for.
            name = check_member(info.orig_filename, self.name).replace("\\", "/")
            path = check_member(name, self.name)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(path, self.name)
            if not info.orig_filename.endswith(("/", "\\")):
                if path in found:
                    raise InputError(f"{self.name} holds {path} twice; pack it again")
                found[path] = info
        return found


class TarSource(_ArchiveFile):
    """A tar file, compressed or not."""

    def __init__(self, path: Path, opened: Any) -> None:
        super().__init__(path)
        self._opened = opened

    def paths(self) -> list[str]:
        """The members, all of them checked, which reads the archive once to its end."""
        found: set[str] = set()
        for path, _, _ in self._members():
            if path in found:
                raise InputError(f"{self.name} holds {path} twice; pack it again")
            found.add(path)
        return list(found)

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read members in the archive's own order."""
        keys = {path: key for key, path in wanted.items()}
        for path, archive, member in self._members():
            if path not in keys:
                continue
            with self._telling():
                stream = archive.extractfile(member)
                content = stream.read(MAX_IMAGE_BYTES + 1) if stream else b""
            if len(content) > MAX_IMAGE_BYTES:
                raise too_large(path, self.name)
            yield keys[path], content

    def _members(self) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
        with self._telling(), self._opened(self._path, "rb") as raw:
            limited = _Limited(raw, self.name)
            archive = tarfile.TarFile(fileobj=limited)
            count = 0
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every one
                count += 1
                if count > MAX_FILES:
                    raise too_many(self.name)
                path = check_member(member.name, self.name)
                if member.issparse() or not (member.isreg() or member.isdir()):
                    raise _special(path, self.name)
                if member.isreg():
                    yield path, archive, member
            # tarfile takes the end of the file for the end of the archive, wherever that is.
            if limited.last != bytes(tarfile.BLOCKSIZE):
                raise InputError(f"{self.name} is cut short, as no end is marked in it; fetch it again")


class _Limited(io.RawIOBase):
    """The unpacked bytes of a tar file, no more of them than any dataset has, no long read at once; the `last` ones."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        # tarfile reads a header of the size that the archive claims for it into memory, at once.
        if size < 0 or size > MAX_IMAGE_BYTES + 1 or self._stream.tell() + size > MAX_TOTAL_BYTES:
            raise _bomb(self._name)
        self.last = self._stream.read(size)
        return self.last

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > MAX_TOTAL_BYTES:
            raise _bomb(self._name)
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _bomb(name: str) -> InputError:
    return InputError(
        f"{name} unpacks to more than {MAX_TOTAL_BYTES >> 30} GiB in all or {MAX_IMAGE_BYTES >> 20} MiB a file, "
        "the limits, as a decompression bomb does; nothing was imported"
    )


def _special(path: str, name: str) -> InputError:
    return InputError(f"{name} holds {path}, which is a link or a device and no file; pack plain files")

"""Fetch one exact version of a dataset from a DVC remote on S3, without DVC: parallel, resumable, every file verified.

The remote's layout is DVC's: `<prefix>/files/md5/<2 digits>/<30 digits>` holds the file of that MD5, and the same with
`.dir` the listing of a version, whose own MD5 is the version: to verify that is to verify every byte of the data.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.ingest.address import shown_address
from components.ingest.listing import check_version, part_of, read_listing
from components.ingest.s3 import THREADS, Bucket, Stopped
from components.ingest.version import file_md5, is_litter
from components.progress import Progress
from model.errors import InputError

SCHEME = "s3://"
LATEST = "latest"
"""In place of a version on S3: the one that was pushed last, whose `data.dvc` lies at the remote's root."""

_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]{1,255})(?:/(?P<prefix>.*))?")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Remote:
    """A DVC remote: a bucket and the prefix below which the remote lies."""

    bucket: str
    prefix: str

    def key(self, name: str) -> str:
        """The key of the object that DVC names by `name`: an MD5, with `.dir` for a listing."""
        return "/".join(filter(None, (self.prefix, "files/md5", name[:2], name[2:])))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


def parse_remote(url: str) -> Remote:
    """The remote that an URL `s3://bucket/prefix` names; raises InputError for anything else."""
    match = _URL.fullmatch(url)
    if not match:
        raise InputError(
            f"{shown_address(url)!r} is no S3 address; give s3://bucket/prefix, as `dvc remote list` shows it"
        )
    return Remote(match["bucket"], (match["prefix"] or "").strip("/"))


def latest_version(remote: Remote) -> str:
    """The version that `fusion data push` stored last; raises InputError if it left no `data.dvc`, or that is none."""
    from components.ingest.pin import PIN, pinned_version

    key = "/".join(filter(None, (remote.prefix, PIN)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PIN
        what = f"the {PIN} of the latest version, which `fusion data push` puts there,"
        Bucket(remote.bucket).fetch(key, file, what)
        return pinned_version(file.read_bytes(), f"{remote}/{PIN}")


def list_version(remote: Remote, version: str) -> dict[str, str]:
    """Relative path -> MD5 of every file of a version; raises InputError if it is not there, not itself, or unsafe."""
    check_version(version)
    with tempfile.TemporaryDirectory() as folder:
        return _listing(remote, version, Bucket(remote.bucket), Path(folder))


def fetch_version(
    remote: Remote,
    version: str,
    target: Path,
    under: str = "",
    downloads: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, str]:
    """Bring a version, or of it what lies below the folder `under`, into the folder `target`; return path -> MD5.

    `target` appears, or becomes that version, whole or not at all. What was fetched before a failure is kept in a
    hidden folder beside it, or in the folder `downloads`, and not fetched again; nor is what `target` has already.
    Raises InputError for whatever a user or the remote's owner can mend; a `target` with other files is refused.
    """
    check_version(version)
    target = target.resolve()
    name = "-".join(filter(None, (version, under.strip("/").replace("/", "-")))) + ".partial"
    aside = downloads / name if downloads else target.with_name(f".{target.name}.{name}")
    with _telling_of_disk(aside), _alone(aside):
        bucket = Bucket(remote.bucket)
        wanted = part_of(_listing(remote, version, bucket, aside), under)
        if not wanted:
            raise InputError(f"version {version} in {remote} has no files under {under or 'it'}; check the version")
        _check_target(target, wanted, version)
        _Fetch(remote, bucket, wanted, aside, target, progress or Progress("ingest")).run()
        _put(aside / "tree", target)
        shutil.rmtree(aside)
    return wanted


def _listing(remote: Remote, version: str, bucket: Bucket, folder: Path) -> dict[str, str]:
    file = folder / version
    bucket.download(remote.key(version), version.removesuffix(".dir"), file, f"version {version}")
    return read_listing(file, version)


@dataclass
class _Fetch:
    """The files of one version on their way into `aside/tree`; each worker takes one MD5 after the other."""

    remote: Remote
    bucket: Bucket
    wanted: dict[str, str]
    aside: Path
    target: Path
    progress: Callable[[int, int, str], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done: int = 0
    _bytes: int = 0
    _failure: BaseException | None = None

    def run(self) -> None:
        """Complete the tree; raises the first failure once every worker has let go of its file."""
        paths: dict[str, list[str]] = {}
        for path, md5 in self.wanted.items():
            paths.setdefault(md5, []).append(path)
        work = iter(paths.items())
        # Daemons, since a pool would let an interrupt wait for a server that does not answer.
        workers = [threading.Thread(target=self._work, args=(work,), daemon=True) for _ in range(THREADS)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            self.bucket.stopped.set()
        if self._failure:
            raise self._failure

    def _work(self, work: Iterator[tuple[str, list[str]]]) -> None:
        try:
            self._take(work)
        except Stopped:
            pass
        except BaseException as failure:
            with self._lock:
                self._failure = self._failure or failure
            self.bucket.stopped.set()

    def _take(self, work: Iterator[tuple[str, list[str]]]) -> None:
        while not self.bucket.stopped.is_set():
            with self._lock:
                md5, paths = next(work, ("", []))
            if not paths:
                return
            received = self._place(md5, paths)
            with self._lock:
                self._done += len(paths)
                self._bytes += received
                self.progress(self._done, len(self.wanted), f"{self._bytes / 1e6:.1f} MB fetched")

    def _place(self, md5: str, paths: list[str]) -> int:
        """Put the file of this MD5 under all its paths; the bytes received for it."""
        lacking = [path for path in paths if not self._has(path, md5)]
        if not lacking:
            return 0
        part, received = self.aside / md5, 0
        there = [path for path in paths if path not in lacking]
        if there:
            shutil.copyfile(self.aside / "tree" / there[0], part)
        else:
            received = self.bucket.download(self.remote.key(md5), md5, part, f"{paths[0]} (md5 {md5})")
        first, *others = (self.aside / "tree" / path for path in lacking)
        for file in (first, *others):
            file.parent.mkdir(parents=True, exist_ok=True)
        part.rename(first)
        for file in others:
            shutil.copyfile(first, file)
        return received

    def _has(self, path: str, md5: str) -> bool:
        """Whether the tree has this file, if need be from a target that had it before."""
        file, before = self.aside / "tree" / path, self.target / path
        if file.is_file() and file_md5(file) == md5:
            return True
        if not before.is_file() or before.is_symlink() or file_md5(before) != md5:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        try:
            os.link(before, file)
        except OSError:
            shutil.copyfile(before, file)
        return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process only: a second fetch of the same version waits for the first."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as mine:
            if mine:
                try:
                    yield
                finally:
                    with suppress(OSError):  # what was fetched is kept, an empty folder is not
                        folder.rmdir()
                return


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; False if whoever held it before has taken the folder away."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another process is fetching the same version; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())
    finally:
        os.close(handle)


@contextmanager
def _telling_of_disk(aside: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = f"free space there, then run again; what was fetched is kept in {aside}"
            raise InputError(f"no space left for {error.filename or aside}: {error.strerror}; {remedy}") from None
        remedy = "check the place and its permissions"
        raise InputError(f"cannot write {error.filename or aside}: {error.strerror}; {remedy}") from None


def _check_target(target: Path, wanted: dict[str, str], version: str) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give a folder for version {version}")
    for file in target.rglob("*"):
        if not file.is_dir() and file.relative_to(target).as_posix() not in wanted and not is_litter(file):
            raise InputError(f"{file} is not part of version {version}; move it away, or choose another folder")


def _put(tree: Path, target: Path) -> None:
    """Let the finished tree take the place of `target` by renaming, also where it was made on another disk."""
    ready, before = target.with_name(f".{target.name}.ready"), target.with_name(f".{target.name}.before")
    for leftover in (ready, before):
        shutil.rmtree(leftover, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        tree.rename(ready)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(tree, ready)
    if target.exists():
        target.rename(before)
    ready.rename(target)
    shutil.rmtree(before, ignore_errors=True)

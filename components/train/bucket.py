"""Checkpoints of a training run on S3, as `model.checkpoint` keeps them in a folder; and which of the two a place is.

Each is one object, `<prefix>/step-00001200.safetensors`, put whole by one request. A bucket that stays away does not
end the training: the newest checkpoint then lies in a folder of this machine alone, which is said.
"""

import re
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from components.ingest.remote import SCHEME, Remote, parse_remote
from components.ingest.s3 import Bucket, Corrupted
from components.tracking import RUN_FILE
from model.checkpoint import (
    KEEP,
    Candidate,
    CheckpointFolder,
    Checkpoints,
    Report,
    file_name,
    newest,
    outdated,
    steps_in,
    told_on_stderr,
)
from model.checkpoint_format import Checkpoint, Damaged
from model.errors import InputError

# A server without a word holds the training up. Once asked to stop, torchrun gives its processes half a minute.
_SECONDS = 10
_ATTEMPTS = 2


def checkpoints(
    place: str | Path,
    identity: dict[str, Any],
    scratch: Path,
    keep: int = KEEP,
    report: Report = told_on_stderr,
) -> Checkpoints:
    """The checkpoints of the run `identity` at `place`: a folder, or s3://bucket/prefix with local copies in `scratch`.

    Raises InputError for any other place, and for AWS settings that fit no bucket.
    """
    if str(place).startswith(SCHEME):
        return CheckpointBucket(str(place), identity, scratch, keep, report)
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(place)):
        raise InputError(f"checkpoints cannot be kept at {scheme[0]}...; give a folder or s3://bucket/prefix")
    return CheckpointFolder(Path(place), identity, keep, report)


@dataclass
class CheckpointBucket:
    """The newest `keep` checkpoints of the run `identity` below `url` (s3://bucket/prefix), written by one process.

    Every checkpoint is also in the folder `scratch`, which outlives neither its machine nor its pod.
    """

    url: str
    identity: dict[str, Any]
    scratch: Path
    keep: int = KEEP
    report: Report = told_on_stderr
    _remote: Remote = field(init=False)
    _bucket: Bucket = field(init=False)
    _saving: Bucket = field(init=False)
    _local: CheckpointFolder = field(init=False)
    _away: bool = field(default=False, init=False)
    _along: str = field(default="", init=False)
    _refused: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        try:
            self._remote = parse_remote(self.url)
        except InputError:
            raise InputError(f"{self.url!r} is no S3 address; give s3://bucket/prefix for the checkpoints") from None
        self._local = CheckpointFolder(self.scratch, self.identity, self.keep, self.report)
        self._bucket = Bucket(self._remote.bucket, read_seconds=_SECONDS)
        self._saving = Bucket(self._remote.bucket, attempts=_ATTEMPTS, read_seconds=_SECONDS)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint to `scratch`, put it into the bucket, then remove older ones beyond `keep` there.

        A bucket that cannot be had is reported, and tried again, once, with the next save. Raises InputError if
        `scratch` cannot be written to.
        """
        self._local.save(checkpoint)
        path = self._local.path(checkpoint.step)
        # Who was away is asked once only, so that the training is held up little.
        bucket = Bucket(self._remote.bucket, attempts=1, read_seconds=_SECONDS) if self._away else self._saving
        try:
            bucket.upload(self._key(checkpoint.step), path.read_bytes(), _what(checkpoint.step))
        except InputError as error:
            self._away = True
            self.report(
                f"the checkpoint of step {checkpoint.step} is only on this machine, in {path}, not in {self._remote}: "
                f"{error}; training goes on, the next save tries again"
            )
            return
        if self._away:
            self.report(f"{self._remote} is back; it has the checkpoint of step {checkpoint.step}")
        self._away = False
        self._take_along()
        self._refused.discard(checkpoint.step)
        self._remove_outdated(checkpoint.step)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint of the bucket and `scratch`; None if there is none.

        A damaged one is reported, and the one before it taken. Raises InputError for another run's checkpoint, another
        version's, or a bucket that cannot be had.
        """
        steps = self._steps(self._bucket)
        there = [
            Candidate(step, f"s3://{self._remote.bucket}/{self._key(step)}", partial(self._read, step), self._refused)
            for step in steps
        ]
        # Sorting keeps the order of equals: what this machine has need not be fetched.
        candidates = sorted(self._local.candidates() + there, key=lambda candidate: -candidate.step)
        found = newest(candidates, self.identity, self.report)
        if found and found.step > max(steps, default=-1):
            self.report(f"going on from {self._local.path(found.step)}, which never reached {self._remote}")
        return found

    def bring(self, name: str) -> None:
        """Fetch the small file `name` that an earlier attempt left beside its checkpoints, unless `scratch` has it."""
        self._along = name
        if (self.scratch / name).exists() or not self._bucket.names(self._beside(name), name):
            return
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._bucket.download(self._beside(name), self._bucket.md5(self._beside(name), name), self.scratch / name, name)

    def clear(self) -> None:
        """Remove every checkpoint of the bucket, and what lies beside; what cannot be removed is reported."""
        try:
            for step in self._steps(self._bucket):
                self._bucket.remove(self._key(step), _what(step))
            for key in self._bucket.names(self._beside(RUN_FILE), RUN_FILE):
                self._bucket.remove(key, RUN_FILE)
        except InputError as error:
            self.report(f"checkpoints stay in {self._remote}: {error}")

    def _steps(self, bucket: Bucket) -> list[int]:
        """The steps of the checkpoints in the bucket."""
        start = self._key(0).removesuffix(file_name(0))
        names = bucket.names(start + "step-", f"checkpoints in {self._remote}")
        return steps_in(name.removeprefix(start) for name in names)

    def _read(self, step: int) -> bytes:
        key, what = self._key(step), _what(step)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / file_name(step)
            try:
                self._bucket.download(key, self._bucket.md5(key, what), part, what)
                return part.read_bytes()
            except Corrupted as error:
                raise Damaged(str(error)) from None
            except OSError as error:
                raise InputError(
                    f"cannot write {what} into {tempfile.gettempdir()}: {error.strerror}; free space there"
                ) from None

    def _take_along(self) -> None:
        """Put the file that `bring` was asked for beside the checkpoints, once it is there."""
        path = self.scratch / self._along
        if self._along and path.is_file():
            try:
                self._saving.upload(self._beside(self._along), path.read_bytes(), self._along)
                self._along = ""
            except InputError as error:
                self.report(f"{path} is only on this machine: {error}")

    def _beside(self, name: str) -> str:
        return "/".join(filter(None, (self._remote.prefix, name)))

    def _remove_outdated(self, saved: int) -> None:
        try:
            for step in outdated(self._steps(self._saving), saved, self._refused, self.keep):
                self._saving.remove(self._key(step), _what(step))
        except InputError as error:
            self.report(f"older checkpoints stay in {self._remote}: {error}")

    def _key(self, step: int) -> str:
        return "/".join(filter(None, (self._remote.prefix, file_name(step))))


def _what(step: int) -> str:
    return f"the checkpoint of step {step}"

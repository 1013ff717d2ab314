"""Checkpoints of a training run in a folder: each appears whole and durable or not at all, the newest whole one counts.

A process may be killed, or the machine lose its power, at any point of a save: the checkpoints from before it, or the
new one, are there. `components.train.bucket` does the same on S3.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from model.checkpoint_format import Checkpoint, Damaged, packed, unpacked
from model.errors import InputError

KEEP = 2

_NAME = re.compile(r"step-(\d{8,})\.safetensors")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Report = Callable[[str], None]


class Checkpoints(Protocol):
    """Where one run's checkpoints are kept."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint, whole or not at all, then drop those that it makes superfluous."""

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if there is none. Raises InputError for another run's."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be whole: its step, its place as told to the user, and how its bytes are had.

    `refused` are the steps at that place that turned out damaged, to be completed.
    """

    step: int
    place: str
    read: Callable[[], bytes]
    refused: set[int]


def told_on_stderr(line: str) -> None:
    """Print one line for the user beside whatever the program prints."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class CheckpointFolder:
    """The newest `keep` checkpoints of the run `identity` in a folder, one file each, made by one process at a time.

    `identity` is what makes checkpoints interchangeable, as JSON: network, configuration, dataset, processes. `report`
    takes one line for whatever the user should know without the training stopping.
    """

    folder: Path
    identity: dict[str, Any]
    keep: int = KEEP
    report: Report = told_on_stderr
    _refused: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InputError(f"keep is {self.keep}; keep at least 1 checkpoint")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, then remove older ones beyond `keep` and what killed saves left.

        Raises InputError if the folder cannot be written to; the checkpoints from before are still there then.
        """
        data = packed(checkpoint, self.identity)
        target = self.path(checkpoint.step)
        try:
            _make(self.folder)
            _write(target, data)
        except OSError as error:
            raise _not_written(target, error) from None
        self._refused.discard(checkpoint.step)
        old = outdated(self.steps(), checkpoint.step, self._refused, self.keep)
        self._remove([*map(self.path, old), *self.folder.glob("step-*.partial")])

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if there is none.

        A damaged one is reported, and the one before it taken. Raises InputError for another run's checkpoint, another
        version's, or a folder that may not be read.
        """
        return newest(self.candidates(), self.identity, self.report)

    def candidates(self) -> list[Candidate]:
        """What the folder holds, the newest first."""
        paths = {step: self.path(step) for step in sorted(self.steps(), reverse=True)}
        return [Candidate(step, str(path), partial(_read, path), self._refused) for step, path in paths.items()]

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, whole or damaged."""
        try:
            return steps_in(path.name for path in self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"cannot read the checkpoints in {self.folder}: {error.strerror}; check the place and its permissions"
            ) from None

    def path(self, step: int) -> Path:
        """The file of the checkpoint of a step."""
        return self.folder / file_name(step)

    def _remove(self, paths: list[Path]) -> None:
        try:
            for path in paths:
                path.unlink(missing_ok=True)
        except OSError as error:
            self.report(f"{error.filename} is not needed any more but cannot be removed: {error.strerror}")


def newest(candidates: Iterable[Candidate], identity: dict[str, Any], report: Report) -> Checkpoint | None:
    """The first candidate that is whole, each one before it reported; None if there is none."""
    refused = []
    for candidate in candidates:
        try:
            return unpacked(candidate.read(), identity, candidate.place)
        except FileNotFoundError:
            continue
        except Damaged as damage:
            refused.append(candidate.place)
            candidate.refused.add(candidate.step)
            report(f"the checkpoint {candidate.place} is refused: {damage}; an older one is looked for")
    if refused:
        report(f"no whole checkpoint is left beside {refused[-1]}; training starts from the beginning")
    return None


def outdated(steps: Iterable[int], saved: int, refused: set[int], keep: int) -> list[int]:
    """Of the steps with a checkpoint those that may go once `saved` is there: older than the `keep` newest whole ones.

    Damaged ones (`refused`) do not count towards `keep`.
    """
    steps = list(steps)
    whole = sorted((step for step in steps if step <= saved and step not in refused), reverse=True)
    return [step for step in steps if step < whole[:keep][-1]]


def file_name(step: int) -> str:
    """The name of the checkpoint of a step, such that names sort as steps do."""
    return f"step-{step:08d}.safetensors"


def steps_in(names: Iterable[str]) -> list[int]:
    """The steps of the names that are checkpoints'."""
    return [int(match[1]) for name in names if (match := _NAME.fullmatch(name)) and file_name(int(match[1])) == name]


def _make(folder: Path) -> None:
    """Make the folder and those above it, and make their names durable where they are new."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def _write(target: Path, data: bytes) -> None:
    aside = target.with_name(f"{target.name}.partial")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(target)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    sync(target.parent)


def sync(path: Path) -> None:
    """Let the content of a file, or the names in a folder, outlive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror}; check its permissions") from None
    except OSError as error:
        raise Damaged(f"it cannot be read ({error.strerror})") from None


def _not_written(target: Path, error: OSError) -> InputError:
    if error.errno in _FULL:
        return InputError(
            f"no space left for the checkpoint {target}: {error.strerror}; free space there and run again, to go "
            "on from the checkpoint before"
        )
    return InputError(
        f"cannot write the checkpoint {target}: {error.strerror}; check the place and its permissions and run again"
    )

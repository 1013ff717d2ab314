"""One process at a time: a lock that its holder's end gives back, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from model.errors import InputError

SECONDS_FOR_THE_LAST = 60.0
"""What was killed may still be saving, in a process that it had started."""


@contextmanager
def exclusive(file: Path, refusal: str) -> Iterator[int]:
    """Hold the lock `file`, as a file descriptor; the holder may remove it.

    Raises InputError with `refusal` if another process keeps it a minute, and if the file cannot be written.
    """
    end = time.monotonic() + SECONDS_FOR_THE_LAST
    while (lock := _held(file)) is None:
        if time.monotonic() > end:
            raise InputError(refusal)
        time.sleep(0.2)
    with lock:
        yield lock.fileno()


def _held(file: Path) -> IO[str] | None:
    """The file, locked; None while another process holds it, or has removed it meanwhile."""
    try:
        lock = _opened(file)
    except OSError as error:
        raise _unwritable(file, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have removed it: others would then lock a new file of this name.
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        lock.close()
        raise _unwritable(file, error) from None
    lock.close()
    return None


def _opened(file: Path) -> IO[str]:
    """The file, made with its folder.

    Who held it may remove both while they are made, which a second attempt mends; a place that takes no new files, such
    as /proc, says "no such file" to that one too.
    """
    try:
        return _made(file)
    except FileNotFoundError:
        return _made(file)


def _made(file: Path) -> IO[str]:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("w")


def _unwritable(file: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {file}: {error.strerror}; check the place and its permissions, or choose another")

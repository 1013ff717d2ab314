"""One process at a time: a lock that its holder's end gives back, however it ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import InputError

SECONDS_FOR_THE_LAST = 60.0
"""What was killed may still be saving, in a process that it had started."""


@contextmanager
def exclusive(file: Path, refusal: str) -> Iterator[int]:
    """Hold the lock `file`, as a file descriptor; InputError with `refusal` if another process keeps it a minute."""
    file.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + SECONDS_FOR_THE_LAST
    with file.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise InputError(refusal) from None
                time.sleep(0.2)
        yield lock.fileno()

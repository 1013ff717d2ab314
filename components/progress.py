"""Progress of long work as plain log lines, which the command line turns into a live bar."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

_LINE = re.compile(r"^\s*progress (?P<step>\S+) (?P<done>\d+)/(?P<total>\d+)(?: (?P<note>.*))?$")
_SECONDS_BETWEEN_LINES = 0.2

T = TypeVar("T")


@dataclass
class Progress:
    """Prints `progress <step> <done>/<total> <note>` lines, a few a second at most and always the last."""

    step: str
    _printed: float = field(default=0.0, init=False)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` units of work are finished."""
        now = time.monotonic()
        if done < total and now - self._printed < _SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        print(f"progress {self.step} {done}/{total} {note}".rstrip(), flush=True)

    def counted(self, items: Iterable[T], before: int, total: int) -> Iterator[T]:
        """The items as they are, each reported as it comes; `before` units were finished before the first."""
        for done, item in enumerate(items, before + 1):
            self(done, total)
            yield item


def parse(line: str) -> tuple[str, int, int, str] | None:
    """The step, done, total and note of a progress line; None for any other line."""
    match = _LINE.match(line)
    return (match["step"], int(match["done"]), int(match["total"]), match["note"] or "") if match else None

"""What a training run told of itself, as lines on disk, and how much of it MLflow has: it survives any kill.

A line is JSON: {"t": ms, "step": 3, "metrics": {"loss": 0.1}}, {"t", "step", "image": "pair 1", "file": "live/1.png"},
or {"t", "status": "RUNNING" | "FINISHED" | "FAILED" | "KILLED", ...}, which begins or ends an attempt.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

JOURNAL_FILE = "live.jsonl"
STATE_FILE = "live.state.json"

Event = dict[str, Any]


class Journal:
    """The file that events are appended to, one write each, so that a line is there whole whatever happens after."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_FILE
        self._file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def append(self, event: Event) -> None:
        """Append an event; raises OSError if the disk does not take it."""
        line = (b"\n" if self._torn else b"") + json.dumps(event).encode() + b"\n"
        self._torn = True
        if os.write(self._file, line) < len(line):
            raise OSError("the disk took half a line")
        self._torn = False

    def close(self) -> None:
        """Close the file; appending then raises OSError."""
        os.close(self._file)
        self._file = -1


def read_events(folder: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Every whole event after `offset`, with the offset that follows it; half a line of a full disk is passed over."""
    with (folder / JOURNAL_FILE).open("rb") as file:
        file.seek(offset)
        while (line := file.readline()).endswith(b"\n"):
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                event = {}
            yield event if isinstance(event, dict) else {}, offset


def points(event: Event) -> int:
    """How many metric values and images an event holds."""
    return len(event.get("metrics", ())) + ("image" in event)


@dataclass
class State:
    """How much of the journal the run has: all before `offset`; `sent` and `lost` count its points and images.

    `steps` holds the last step of each metric and image series: what a resumed training tells a second time is left
    out. `key` finds the run again if MLflow made it and its answer was lost.
    """

    run_id: str = ""
    key: str = ""
    offset: int = 0
    sent: int = 0
    lost: int = 0
    steps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "State":
        """Read what `write` wrote; a new one where there is none."""
        try:
            return cls(**json.loads((folder / STATE_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        write_whole(folder / STATE_FILE, json.dumps(asdict(self)))


def write_whole(path: Path, text: str) -> None:
    """Write a file aside, then rename it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)

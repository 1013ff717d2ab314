"""What a destination says of itself: which model its images are by, and which pairs are done, so that no run repeats.

Below the destination everything of a collection lies in one folder: `fused/<name>.png`, `progress/<number>.jsonl` with
a line a finished pair, `batch.json` with the model, and at the end the summary.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.batch.places import Place
from model.errors import InputError

IDENTITY = "batch.json"
FUSED = "fused"
PROGRESS = "progress"

Row = dict[str, Any]


class Journal:
    """The results of one collection in a destination."""

    def __init__(self, place: Place, collection: str, identity: Mapping[str, Any]) -> None:
        self.place, self._folder, self._identity = place, collection, dict(identity)
        self._number = 0

    def check(self) -> bool:
        """Whether results by this model are there; InputError if some are by another one, or nobody knows by which."""
        there = set(self.place.names(f"{self._folder}/"))
        if self.path(IDENTITY) in there:
            found = self._read(IDENTITY)
            if found != self._identity:
                other = found.get("weights_sha256", "unknown")[:12] if isinstance(found, dict) else "unknown"
                same = other == self._identity["weights_sha256"][:12]
                how = "by other settings" if same else f"by another model (weights {other})"
                raise InputError(f"{self.place.name} holds {self._folder} results {how}; give another destination")
            return True
        if any(name.startswith(self.path(f"{FUSED}/")) for name in there):
            raise InputError(
                f"{self.place.name} holds images in {self.path(FUSED)} and no {IDENTITY} that says by which model; "
                "give another destination"
            )
        return False

    def open(self) -> dict[str, Row]:
        """The rows of the pairs that earlier runs finished, by name, where their images still are; raises as `check`.

        Of several rows of a pair the last one counts. The destination then says whose results it holds.
        """
        rows: dict[str, Row] = {}
        if not self.check():
            self.put(IDENTITY, json.dumps(self._identity, indent=1) + "\n")
            return rows
        there = set(self.place.names(f"{self._folder}/"))
        for name in sorted(name for name in there if name.startswith(self.path(f"{PROGRESS}/"))):
            self._number = max(self._number, int(Path(name).stem) if Path(name).stem.isdecimal() else 0)
            rows |= {row["pair"]: row for row in self._lines(name)}
        return {name: row for name, row in rows.items() if self.path(row["fused"]) in there}

    def finish(self, rows: Sequence[Row]) -> None:
        """Note that these pairs are done; their images must be there."""
        self._number += 1
        self.put(f"{PROGRESS}/{self._number:06}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def put(self, name: str, content: bytes | str) -> None:
        """Write one of the results, whole or not at all."""
        self.place.put(self.path(name), content.encode() if isinstance(content, str) else content)

    def path(self, name: str) -> str:
        """Where one of the results lies in the destination."""
        return f"{self._folder}/{name}"

    def read(self, name: str) -> bytes:
        """One of the results; raises InputError if it cannot be had."""
        with tempfile.TemporaryDirectory() as scratch:
            path = self.place.fetch(self.path(name), Path(scratch))
            try:
                return path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror}; check it") from None

    def _read(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError:
            return None

    def _lines(self, name: str) -> list[Row]:
        try:
            lines = self.read(name.removeprefix(f"{self._folder}/")).splitlines()
            rows = [json.loads(line) for line in lines]
            return [row for row in rows if {"pair", "fused", "tags", "measures", "sha256"} <= row.keys()]
        except (ValueError, AttributeError):
            return []  # damaged: its pairs are fused again

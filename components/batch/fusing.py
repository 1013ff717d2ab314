"""Fusing the pairs of a batch, a few at a time: reading ahead and writing behind while the network works."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.batch.journal import FUSED, Journal, Row
from components.batch.pairs import Fault, Fetched, Loaded, Pair, UnfitPair, fetch_pair, read_pair
from components.batch.places import Place
from components.ingest.s3 import THREADS
from model.errors import InputError, unknown_choice
from model.fuser import Fuser
from model.images import Picture, encode_png
from model.metrics import MEASURES, measure
from model.picture_pairs import fused_picture

# Pairs in a step of the work; so many more are read ahead, and so many are still being written.
CHUNK = 8
ON_ERROR = ("skip", "stop")
DECIMALS = 6
# What the evaluation compares with the sources, and what looks at the fused image alone.
DEFAULT_MEASURES = ("psnr", "ssim", "mi", "fmi_edge", "scd", "vif", "qabf", "en", "sd", "sf", "ag")


@dataclass(frozen=True)
class Done:
    """What became of the pairs: the rows of those fused, how many were `kept` from earlier runs, and the faults."""

    rows: list[Row]
    kept: int
    faults: list[Fault]


def parse_measures(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list, "default" or "none"; InputError for an unknown one."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    if given in ([], ["none"]):
        return ()
    names = [name for part in given for name in (DEFAULT_MEASURES if part == "default" else (part,))]
    if unknown := [name for name in names if name not in MEASURES]:
        raise unknown_choice("measure", unknown, ("default", "none", *MEASURES))
    return tuple(dict.fromkeys(names))


def fuse_pairs(
    pairs: Sequence[Pair],
    source: Place,
    journal: Journal,
    fuser: Fuser,
    names: Sequence[str],
    on_error: str = "skip",
    progress: Callable[[int, int, str], object] = lambda *_: None,
) -> Done:
    """Fuse every pair into the journal's destination and judge it by the measures of these names.

    A pair is left as it is where an earlier run by the same model has fused the same two images and measured as much.
    One that cannot be fused is a Fault, or with `on_error` "stop" an InputError. Memory holds a few chunks of pairs,
    however many there are. Raises InputError also for a place that cannot be read or written.
    """
    before = journal.open()
    rows: list[Row] = []
    faults: list[Fault] = []
    kept = 0
    writing: deque[tuple[list[Row], Future[None]]] = deque()

    def tell(finished: Iterable[Row]) -> None:
        rows.extend(finished)
        notes = [f"{count} {what}" for count, what in ((kept, "fused before"), (len(faults), "skipped")) if count]
        progress(len(rows) + len(faults), len(pairs), ", ".join(notes))

    with tempfile.TemporaryDirectory() as scratch, _Pools() as pools:
        fetch = partial(_fetch, before=before, names=names, source=source, scratch=Path(scratch))
        ahead = pools.ahead(pairs, fetch, partial(_read, scratch=Path(scratch)))
        while chunk := list(islice(ahead, CHUNK)):
            for each in chunk:
                if isinstance(each, Fault) and on_error == "stop":
                    raise UnfitPair(each)
            faults += [each for each in chunk if isinstance(each, Fault)]
            there = [each for each in chunk if isinstance(each, dict)]
            kept += len(there)
            fresh = _fuse_chunk(fuser, [each for each in chunk if isinstance(each, Loaded)], names)
            while len(writing) > 1:
                _wait(writing, tell)
            tell(there)
            if fresh:
                writing.append(([row for row, _ in fresh], pools.encoding.submit(_write, journal, fresh, pools)))
        while writing:
            _wait(writing, tell)
    order = {pair.name: place for place, pair in enumerate(pairs)}
    return Done(sorted(rows, key=lambda row: order[row["pair"]]), kept, faults)


class _Pools:
    """Threads that fetch and threads that write; one that decodes, one that encodes and notes what was written.

    Decoding and encoding take a core, so more than one thread of each would only be in the network's way.
    """

    def __init__(self) -> None:
        self.fetching, self.writing = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(THREADS)
        self.decoding, self.encoding = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self.decoding, self.fetching, self.encoding, self.writing):
            pool.shutdown(cancel_futures=True)

    def ahead(
        self, pairs: Iterable[Pair], fetch: Callable[[Pair], Any], read: Callable[[Future[Any]], Any]
    ) -> Iterator[Any]:
        """Each pair fetched and read, in order, two chunks of them under way before they are asked for."""
        waiting: deque[Future[Any]] = deque()
        for pair in pairs:
            waiting.append(self.decoding.submit(read, self.fetching.submit(fetch, pair)))
            if len(waiting) > 2 * CHUNK:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _fetch(pair: Pair, before: dict[str, Row], names: Sequence[str], source: Place, scratch: Path) -> Fetched | Row:
    """The pair on this machine; or its row, if an earlier run was done with it."""
    tags = source.tag(pair.a), source.tag(pair.b)
    row = before.get(pair.name)
    if row and tuple(row["tags"]) == tags and set(names) <= row["measures"].keys():
        return row
    return fetch_pair(pair, tags, source, scratch)


def _read(fetched: Future[Fetched | Row], scratch: Path) -> Loaded | Fault | Row:
    found = fetched.result()
    return read_pair(found, scratch) if isinstance(found, Fetched) else found


def _fuse_chunk(fuser: Fuser, chunk: Sequence[Loaded], names: Sequence[str]) -> list[tuple[Row, Picture]]:
    """The row and the fused picture of each pair; those of one size are fused as one batch."""
    groups: dict[tuple[int, ...], list[Loaded]] = defaultdict(list)
    for each in chunk:
        groups[each.shape].append(each)
    made: list[tuple[Row, Picture]] = []
    for group in groups.values():
        a, b = (torch.stack([each.pictures[side].luma for each in group]) for side in (0, 1))
        fused = fuser.fuse(a, b).cpu()
        if not torch.isfinite(fused).all():
            raise InputError("the model gives values that are not finite, so its weights are useless; name another")
        measured = _measured(a, b, fused, names)
        for each, luma, values in zip(group, fused, measured, strict=True):
            made.append((_row(each, values), fused_picture(luma, *each.pictures)))
    return made


def _measured(a: Tensor, b: Tensor, fused: Tensor, names: Sequence[str]) -> list[dict[str, float | None]]:
    """The measures of each pair, their mean over both sources; None where there is none, or it is infinite."""
    side = min(fused.shape[-2:])
    values = measure(a.clamp(0, 1), b.clamp(0, 1), fused, [name for name in names if side >= MEASURES[name].smallest])
    columns = {name: (found["mean"] if isinstance(found, dict) else found).tolist() for name, found in values.items()}
    return [
        {name: _finite(columns[name][index]) if name in columns else None for name in names}
        for index in range(len(fused))
    ]


def _finite(value: float) -> float | None:
    return round(value, DECIMALS) if math.isfinite(value) else None


def _row(each: Loaded, values: dict[str, float | None]) -> Row:
    _, height, width = each.shape
    return {
        "pair": each.pair.name,
        "subject": each.pair.subject,
        "sources": [each.pair.a, each.pair.b],
        "tags": list(each.tags),
        "fused": f"{FUSED}/{each.pair.name}.png",
        "width": width,
        "height": height,
        "measures": values,
        "statistics": each.statistics,
    }


def _write(journal: Journal, fresh: Sequence[tuple[Row, Picture]], pools: _Pools) -> None:
    """Put the images of a chunk, then the note that they are done."""
    putting = []
    for row, picture in fresh:
        content = encode_png(picture)
        row["sha256"] = hashlib.sha256(content).hexdigest()
        putting.append(pools.writing.submit(journal.put, row["fused"], content))
    for put in putting:
        put.result()
    journal.finish([row for row, _ in fresh])


def _wait(writing: deque[tuple[list[Row], Future[None]]], tell: Callable[[Iterable[Row]], None]) -> None:
    rows, written = writing.popleft()
    written.result()
    tell(rows)

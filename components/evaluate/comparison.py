"""Methods side by side on the same pairs of a data folder: every value, how sure the means are, where they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.evaluate import poster
from components.evaluate.contenders import Contender, Protocol
from components.evaluate.evaluation import DECIMALS, Column, per_image, to_bytes
from components.evaluate.held_out import Pair, both_lesions, held_out_pairs, read_pair
from components.evaluate.pictures import Picture, choose
from components.ingest.dataset import COLLECTION
from components.ingest.version import folder_version
from model.errors import InputError
from model.fuser import Fuser
from model.methods import Fuse, Resources, Split
from model.metrics import PROTOCOLS, measure
from model.shares import shares_of_first
from model.statistics import bootstrap_interval, holm, sign_flip_test

REFERENCE: dict[Protocol, str] = {"standard": "dilran", "poster": poster.OURS}
SIGNIFICANT = 0.05
LEAST_SUBJECTS = 3
PICTURES = 4
BATCH = 2

Told = Callable[[int, int, str], None]


Team = list[tuple[Contender, Fuse]]
"""Contenders that are fused together: strategies of one network, which share its encodings, or one method alone."""


@dataclass(frozen=True)
class Row:
    """What became of one contender: its value of every measure on each pair, or why it did not run."""

    contender: Contender
    values: dict[str, list[float]] = field(default_factory=dict)
    reason: str = ""

    @property
    def ran(self) -> bool:
        """Whether there are values."""
        return not self.reason


@dataclass(frozen=True)
class Summary:
    """One cell of the table.

    `low` and `high` bound the 95 % interval of the mean by resampling pairs, `subject_low` and `subject_high` by
    resampling subjects. `difference` is the mean's distance from the reference's, `p` its significance, Holm-corrected
    over the methods. None where it does not apply.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    subject_low: float | None = None
    subject_high: float | None = None
    difference: float | None = None
    p: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the difference from the reference is more than chance, were the pairs independent."""
        return self.p is not None and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """Every contender on the same pairs under one protocol.

    `expected` is how many pairs the split has in the whole data, `data` where the images come from, `facts` what else
    stands behind the figures (code, machine, date), ready to show; `notes` hold for the table as a whole.
    """

    protocol: Protocol
    split: Split
    data: str
    data_version: str
    synthetic: bool
    expected: int
    pairs: list[Pair]
    measures: list[Column]
    rows: list[Row]
    pictures: list[Picture]
    facts: dict[str, str]
    notes: list[str]

    @property
    def subjects(self) -> list[str]:
        """The subjects of the pairs."""
        return sorted({pair.subject for pair in self.pairs}, key=lambda name: (len(name), name))

    @property
    def ran(self) -> list[Row]:
        """The rows with values."""
        return [row for row in self.rows if row.ran]

    @property
    def missing(self) -> dict[str, list[Row]]:
        """The rows without values, by the reason."""
        reasons: dict[str, list[Row]] = {}
        for row in self.rows:
            if not row.ran:
                reasons.setdefault(row.reason, []).append(row)
        return reasons

    @property
    def reference(self) -> Row | None:
        """The row that the others are tested against; None where it is not in the table or did not run."""
        return next((row for row in self.ran if row.contender.name == REFERENCE[self.protocol]), None)

    @property
    def printed(self) -> bool:
        """Whether the poster's printed figures belong beside these: its measures on its split."""
        return self.protocol == "poster" and self.split == "paper"

    @cached_property
    def summaries(self) -> dict[str, dict[str, Summary]]:
        """The cells of the table: by the name of the method and of the measure, for every row that ran."""
        values = {
            row.contender.name: np.array([row.values[column.name] for column in self.measures]).T for row in self.ran
        }
        tests = self._tests(values)
        return {
            name: {
                column.name: Summary(
                    mean=round(fmean(table[:, index]), DECIMALS),
                    **{end: float(each[index]) for end, each in self._ends(table).items()},
                    **tests.get((name, column.name), {}),
                )
                for index, column in enumerate(self.measures)
            }
            for name, table in values.items()
        }

    def _ends(self, table: np.ndarray) -> dict[str, np.ndarray]:
        ends: dict[str, np.ndarray] = {}
        if len(self.pairs) > 1:
            ends["low"], ends["high"] = bootstrap_interval(table)
        if len(self.subjects) >= LEAST_SUBJECTS:
            groups = [pair.subject for pair in self.pairs]
            ends["subject_low"], ends["subject_high"] = bootstrap_interval(table, groups)
        return ends

    def _tests(self, values: dict[str, np.ndarray]) -> dict[tuple[str, str], dict[str, Any]]:
        """Difference and corrected p-value of every other method against the reference, by measure."""
        if self.reference is None:
            return {}
        reference = self.reference.contender.name
        others = {name: table - values[reference] for name, table in values.items() if name != reference}
        p = {name: sign_flip_test(differences) for name, differences in others.items()}
        tests = {}
        for index, column in enumerate(self.measures):
            corrected = holm([float(p[name][index]) for name in others])
            for (name, differences), adjusted in zip(others.items(), corrected, strict=True):
                tests[name, column.name] = {
                    "difference": round(float(differences[:, index].mean()), DECIMALS),
                    "p": adjusted,
                }
        return tests


@dataclass
class _Look:
    """What the methods made of one pair that is shown, by name: fused images, and weights where a method decides."""

    fused: dict[str, np.ndarray] = field(default_factory=dict)
    shares: dict[str, np.ndarray] = field(default_factory=dict)


def compare(
    folder: Path,
    data: str,
    protocol: Protocol,
    resources: Resources,
    competing: Sequence[Contender],
    synthetic: bool = False,
    facts: dict[str, str] | None = None,
    progress: Told = lambda done, total, note: None,
) -> Comparison:
    """Fuse and measure the test pairs of a data folder by every contender.

    `data` is what to call the folder. `progress` is told the fusions judged, their number, and the method at work. A
    contender that cannot run keeps its row, with the reason. InputError if none runs, or an image cannot be read.
    """
    pairs, expected = held_out_pairs(folder, resources.split)
    images = [read_pair(folder, pair) for pair in pairs]
    side = min(min(a.shape[-2:]) for a, _ in images)
    columns = [
        Column(name, entry.title, entry.unit, entry.direction)
        for name, entry in PROTOCOLS[protocol].items()
        if entry.smallest <= side
    ]
    lesions = both_lesions(folder, pairs)
    shown = choose([vars(pair) for pair in pairs], lesions, PICTURES)
    found, teams = _teams(competing)
    looked = {position: _Look() for position in shown}
    total = len(competing) * len(pairs)
    with _workers() as pool:
        for team in teams:
            done, title = len(found) * len(pairs), team[0][0].title
            if len(team) > 1:
                title += f" and {len(team) - 1} more"
            progress(done, total, title)
            try:
                found |= _judge(
                    team,
                    pairs,
                    images,
                    [column.name for column in columns],
                    protocol,
                    looked,
                    pool,
                    lambda count, done=done, title=title: progress(done + count, total, title),  # type: ignore[misc]
                )
            except InputError as error:
                found |= {contender.name: Row(contender, reason=str(error)) for contender, _ in team}
    rows = [found[contender.name] for contender in competing]
    if not any(row.ran for row in rows):
        raise InputError(f"no method ran; {rows[0].contender.name}: {rows[0].reason}")
    pictures = [
        Picture(
            pair=pairs[position].name,
            subject=pairs[position].subject,
            slice=pairs[position].slice,
            both_lesions=bool(lesions is not None and lesions[position]),
            a=to_bytes(images[position][0][0, 0]),
            b=to_bytes(images[position][1][0, 0]),
            fused={row.contender.name: looked[position].fused[row.contender.name] for row in rows if row.ran},
            shares=looked[position].shares,
        )
        for position in shown
    ]
    version = folder_version(folder)
    left_out = [entry.title for entry in PROTOCOLS[protocol].values() if entry.smallest > side]
    notes = []
    if left_out:
        notes.append(f"Left out, because images of {side} pixels are too small for them: {', '.join(left_out)}.")
    ran = [row.contender for row in rows if row.ran]
    # Whoever trained on a folder with this collection alone had the same pairs.
    same = {"", version, folder_version(folder, COLLECTION)}
    elsewhere = [contender.title for contender in ran if contender.trained_on not in same]
    if elsewhere and not synthetic:
        notes.append(f"Trained on another version of the data, so perhaps on these pairs: {'; '.join(elsewhere)}.")
    if resources.split == "subject":
        notes += _leaks(ran, {pair.subject for pair in pairs})
    return Comparison(
        protocol=protocol,
        split=resources.split,
        data=data,
        data_version=version,
        synthetic=synthetic,
        expected=expected,
        pairs=pairs,
        measures=columns,
        rows=rows,
        pictures=pictures,
        facts=facts or {},
        notes=notes,
    )


def _leaks(ran: Sequence[Contender], subjects: set[str]) -> list[str]:
    """What to say of contenders whose weights have seen one of the test subjects, or do not tell."""
    leaks: dict[str, list[str]] = {}
    for contender in ran:
        if contender.seen is None:
            said = "Perhaps not held out, since the subjects of the training are not recorded"
        elif known := sorted(contender.seen & subjects):
            said = f"Not held out, so too good: trained on subject {' and '.join(known)}"
        else:
            continue
        leaks.setdefault(said, []).append(contender.title)
    return [f"{said}: {'; '.join(titles)}." for said, titles in leaks.items()]


def _teams(competing: Sequence[Contender]) -> tuple[dict[str, Row], list[Team]]:
    """The rows, by name, of the contenders that cannot be loaded, and the others in the order of their first."""
    rows: dict[str, Row] = {}
    teams: dict[tuple[str, ...], Team] = {}
    for contender in competing:
        try:
            fuse = contender.load()
        except InputError as error:
            rows[contender.name] = Row(contender, reason=str(error))
            continue
        same = isinstance(fuse, Fuser) and contender.weights and (contender.weights, fuse.batchnorm)
        teams.setdefault(same or (contender.name,), []).append((contender, fuse))
    return rows, list(teams.values())


def _fuse_each(team: Team, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The pairs fused by every member, by name; a network encodes them once for all its strategies."""
    fusers = {contender.name: fuse for contender, fuse in team if isinstance(fuse, Fuser)}
    if not fusers:
        return {contender.name: fuse(a, b) for contender, fuse in team}
    fused = next(iter(fusers.values())).fuse_each(a, b, [fuser.strategy for fuser in fusers.values()])
    return {name: fused[fuser.strategy] for name, fuser in fusers.items()}


def _judge(
    team: Team,
    pairs: Sequence[Pair],
    images: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str],
    protocol: Protocol,
    looked: dict[int, _Look],
    pool: ThreadPoolExecutor,
    told: Callable[[int], None],
) -> dict[str, Row]:
    """The rows of a team by name; `looked` takes what each one made of the pairs at its positions."""
    values = {contender.name: {name: [math.nan] * len(images) for name in names} for contender, _ in team}
    reasons: dict[str, str] = {}

    def work(batch: list[int]) -> int:
        a, b = (torch.cat([images[index][source] for index in batch]) for source in (0, 1))
        for method, fused in _fuse_each(team, a, b).items():
            try:
                measured = measure(a, b, fused.cpu(), names, protocol=protocol)
            except InputError as error:
                reasons[method] = str(error)
                continue
            for name, each in measured.items():
                for index, value in zip(batch, per_image(each), strict=True):
                    values[method][name][index] = value
            for row, index in enumerate(batch):
                if index in looked:
                    looked[index].fused[method] = to_bytes(fused[row, 0])
        for index in batch:
            if index in looked:
                shares = shares_of_first({contender.name: fuse for contender, fuse in team}, *images[index])
                looked[index].shares |= {name: share[0, 0].cpu().numpy() for name, share in shares.items()}
        return len(batch)

    futures = [pool.submit(work, batch) for batch in _batches(images)]
    judged = 0
    try:
        for future in as_completed(futures):
            judged += future.result() * len(team)
            told(judged)
    finally:
        for future in futures:
            future.cancel()
    return {
        contender.name: _row(contender, values[contender.name], pairs, reasons.get(contender.name, ""))
        for contender, _ in team
    }


def _row(contender: Contender, values: dict[str, list[float]], pairs: Sequence[Pair], reason: str) -> Row:
    """A contender's row; with the reason and no values where there is one, or where a value is infinite or missing."""
    for name, each in values.items():
        for value, pair in zip(each, pairs, strict=True):
            if not math.isfinite(value):
                blank = f"{name} is {value} on pair {pair.name}: is one of its images blank or a copy of the other?"
                return Row(contender, reason=reason or blank)
    return Row(contender, values)


def _batches(images: Sequence[tuple[Tensor, Tensor]]) -> Iterator[list[int]]:
    """Positions of neighbouring pairs of one size, at most BATCH together."""
    batch: list[int] = []
    for index, (a, _) in enumerate(images):
        if batch and (len(batch) == BATCH or images[batch[0]][0].shape != a.shape):
            yield batch
            batch = []
        batch.append(index)
    yield batch


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch may use, each computing alone: small images leave little to share within one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)

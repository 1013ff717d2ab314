"""Methods side by side on the same pairs of a data folder: every value, how sure the means are, where they differ."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from components.evaluate import poster
from components.evaluate.evaluation import DECIMALS, Column
from components.evaluate.pictures import Picture, choose
from components.ingest.dataset import COLLECTION, MODALITIES
from components.ingest.version import folder_version
from components.preprocess.splits import split_subjects
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.images import read_grey, read_grey_bytes
from model.methods import METHODS, Fuse, Method, Resources, Split, shipped_weights
from model.metrics import PROTOCOLS, measure
from model.published import read_published
from model.splits import PAPER_TEST_PAIRS
from model.statistics import bootstrap_interval, holm, sign_flip_test
from model.strategies import DEFAULT_STRATEGY

Protocol = Literal["standard", "poster"]
REFERENCE: dict[Protocol, str] = {"standard": "dilran", "poster": poster.OURS}
SPLIT_SEED = 0
SIGNIFICANT = 0.05
LEAST_SUBJECTS = 3
PICTURES = 4
BATCH = 2

_NAME = re.compile(r"^(?P<subject>\w+?)(?P<slice>\d{3})$")

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Pair:
    """One CT-MR pair of the data folder."""

    name: str
    subject: str
    slice: int


@dataclass(frozen=True)
class Contender:
    """A method that is to be compared, before it has run: where it stands in the table and how to have it.

    `weights` is the start of its weights' SHA-256, `trained_on` the version of the data they come from, `seen` the
    subjects of their training and validation (None: not recorded), `notes` what a reader must know of them; all empty
    where it has none or they are missing, which `load` then says.
    """

    name: str
    title: str
    group: str
    kind: str
    citation: str
    load: Callable[[], Fuse]
    weights: str = ""
    trained_on: str = ""
    seen: frozenset[str] | None = frozenset()
    notes: tuple[str, ...] = ()


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


def find_pairs(folder: Path) -> list[Pair]:
    """The pairs of a data folder, by subject and slice; an image without its partner is none.

    InputError if a file is misnamed or there is no pair.
    """
    names = [{path.stem for path in (folder / COLLECTION / each).glob("*.png")} for each in MODALITIES]
    pairs = []
    for name in names[0] & names[1]:
        match = _NAME.match(name)
        if match is None:
            raise InputError(
                f"{folder / COLLECTION / MODALITIES[0] / name}.png does not follow <subject><3-digit slice>.png; "
                "rename or remove it"
            )
        pairs.append(Pair(name, match["subject"], int(match["slice"])))
    if not pairs:
        raise InputError(f"no image in {folder / COLLECTION} has its partner; CT and MRI must bear the same names")
    return sorted(pairs, key=lambda pair: (len(pair.subject), pair.subject, pair.slice))


def held_out_pairs(folder: Path, split: Split) -> tuple[list[Pair], int]:
    """The test pairs of a data folder under a split, and how many the split has where all are there.

    InputError if the folder holds none of them, or too few subjects for a split by subject.
    """
    pairs = find_pairs(folder)
    if split == "paper":
        chosen = [pair for pair in pairs if pair.name in PAPER_TEST_PAIRS]
        if not chosen:
            raise InputError(f"{folder} holds none of the paper's 20 test pairs; give the atlas by --data")
        return chosen, len(PAPER_TEST_PAIRS)
    held_out = split_subjects((pair.subject for pair in pairs), SPLIT_SEED)["test"]
    chosen = [pair for pair in pairs if pair.subject in held_out]
    return chosen, len(chosen)


def contenders(
    protocol: Protocol, resources: Resources, names: Sequence[str] | None, published: Path | None
) -> list[Contender]:
    """The methods to compare, in the order of the table: those named, or the protocol's own.

    InputError if a name is unknown or the published weights cannot be read.
    """
    chosen = list(dict.fromkeys(names)) if names is not None else _default_names(protocol)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        said = f"unknown method {', '.join(unknown)}" if unknown else "no method given"
        raise InputError(f"{said}: choose from {', '.join(METHODS)}")
    found = {name: _contender(METHODS[name], protocol, resources) for name in METHODS if name in chosen}
    if published:
        found[poster.PUBLISHED_WEIGHTS] = _published(published, protocol, resources)
    if protocol == "standard":
        return sorted(found.values(), key=lambda each: each.kind != "network")
    order = [name for group in poster.GROUPS.values() for name in group]
    return sorted(found.values(), key=lambda each: order.index(each.name) if each.name in order else len(order))


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
    images = [_read_pair(folder, pair) for pair in pairs]
    side = min(min(a.shape[-2:]) for a, _ in images)
    columns = [
        Column(name, entry.title, entry.unit, entry.direction)
        for name, entry in PROTOCOLS[protocol].items()
        if entry.smallest <= side
    ]
    lesions = _both_lesions(folder, pairs)
    shown = choose([vars(pair) for pair in pairs], lesions, PICTURES)
    found, teams = _teams(competing)
    fused: dict[int, dict[str, np.ndarray]] = {position: {} for position in shown}
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
                    fused,
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
            a=_to_bytes(images[position][0][0, 0]),
            b=_to_bytes(images[position][1][0, 0]),
            fused={row.contender.name: fused[position][row.contender.name] for row in rows if row.ran},
        )
        for position in shown
    ]
    version = folder_version(folder)
    left_out = [entry.title for entry in PROTOCOLS[protocol].values() if entry.smallest > side]
    notes = []
    if left_out:
        notes.append(f"Left out, because images of {side} pixels are too small for them: {', '.join(left_out)}.")
    ran = [row.contender for row in rows if row.ran]
    elsewhere = [contender.title for contender in ran if contender.trained_on not in ("", version)]
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


def _default_names(protocol: Protocol) -> list[str]:
    if protocol == "standard":
        # `dilran` is this row already.
        return [name for name in METHODS if name != f"dilran-{DEFAULT_STRATEGY}"]
    return [name for group in poster.GROUPS.values() for name in group if name in METHODS]


def _contender(method: Method, protocol: Protocol, resources: Resources) -> Contender:
    titles = {"network": "This network", "baseline": "Baselines"}
    if protocol == "poster":
        group = next((title for title, names in poster.GROUPS.items() if method.name in names), "Not in the poster")
    else:
        group = titles[method.kind]
    weights, notes, strategy, trained_on = "", [], "", ""
    seen: frozenset[str] | None = frozenset()
    if method.trained:
        try:
            folder = shipped_weights(method.trained, resources.split)
            weights, training = _identity(*sorted(folder.glob("*.safetensors"))), _json(folder / "training.json")
            notes, trained_on = [poster.training_note(training, method.trained)], training.get("dataset_version", "")
            seen = _seen(training)
            strategy = str(_json(folder / "config.json").get("strategy", ""))
        except InputError:
            pass  # `load` says it again, where the row is made.
    elif method.needs != "nothing" and resources.vgg and resources.vgg.is_file():
        weights = _identity(resources.vgg)
    title = poster.TITLES.get(method.name, method.title) if protocol == "poster" else method.title
    if method.name == "dilran":
        title = f"{title}, default{f' ({strategy})' if strategy else ''}"
    return Contender(
        method.name,
        title,
        group,
        method.kind,
        method.citation,
        lambda: method.load(resources),
        weights,
        trained_on,
        seen,
        tuple(note for note in notes if note),
    )


def _seen(training: dict[str, Any]) -> frozenset[str] | None:
    """The subjects that training and validation saw, by its `training.json`; None if that does not say."""
    subjects = training.get("subjects", {})
    return frozenset().union(*(subjects[split] for split in ("train", "validation"))) if subjects else None


def _published(path: Path, protocol: Protocol, resources: Resources) -> Contender:
    fuser = Fuser(read_published(path), FuserConfig("sfnn", "image"), resources.device, fast=resources.fast)
    notes = []
    if resources.split != "paper":
        notes.append(
            "trained by the authors on every pair of the atlas outside the paper's 20 test pairs, so on most of these"
        )
    return Contender(
        poster.PUBLISHED_WEIGHTS,
        "Published weights, SFNN",
        "The authors' published weights" if protocol == "poster" else "This network",
        "network",
        METHODS[poster.OURS].citation,
        lambda: fuser,
        _identity(path),
        notes=tuple(notes),
    )


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
    shown: dict[int, dict[str, np.ndarray]],
    pool: ThreadPoolExecutor,
    told: Callable[[int], None],
) -> dict[str, Row]:
    """The rows of a team by name; `shown` takes each one's fused image of the pairs at its positions."""
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
                for index, value in zip(batch, _per_image(each), strict=True):
                    values[method][name][index] = value
            for row, index in enumerate(batch):
                if index in shown:
                    shown[index][method] = _to_bytes(fused[row, 0])
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


def _read_pair(folder: Path, pair: Pair) -> tuple[Tensor, Tensor]:
    a, b = (read_grey(folder / COLLECTION / each / f"{pair.name}.png")[None] for each in MODALITIES)
    if a.shape != b.shape:
        sizes = " and ".join(f"{image.shape[3]}x{image.shape[2]}" for image in (a, b))
        raise InputError(f"the two images of pair {pair.name} are {sizes}; resample one to the other's size")
    return a, b


def _both_lesions(folder: Path, pairs: Sequence[Pair]) -> np.ndarray | None:
    """Which pairs show a CT and an MRI lesion, bool (N,); None where there is no ground truth."""
    truth = [folder / COLLECTION / "truth" / name for name in ("ct_lesion", "mri_lesion")]
    if not all(each.is_dir() for each in truth):
        return None
    return np.array([all((read_grey_bytes(each / f"{pair.name}.png") > 127).any() for each in truth) for pair in pairs])


def _per_image(measured: dict[str, Tensor] | Tensor) -> list[float]:
    per_image = measured["mean"] if isinstance(measured, dict) else measured
    return [round(float(value), DECIMALS) for value in per_image]


def _to_bytes(image: Tensor) -> np.ndarray:
    array: np.ndarray = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return array


def _identity(*paths: Path) -> str:
    """The first 12 hex digits of the SHA-256 of the files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

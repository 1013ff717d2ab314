"""Judging a trained network beside every baseline, pair by pair, on the subjects held out for the test."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from torch import Tensor

from components.evaluate.floors import measure_floors
from components.evaluate.pictures import Picture, both_lesions, choose, take
from components.evaluate.report import render_report
from components.register.aliases import CHAMPION
from model.errors import InputError, unknown_choice
from model.fuser import Fuser
from model.methods import CLASSICAL, METHODS, Fuse, Resources, strategy_title
from model.metrics import MEASURES, measure
from model.pairs import PackedPairs
from model.shares import share_of_first
from model.strategies import DEFAULT_STRATEGY, STRATEGIES

DECIMALS = 6
# What the step's table shows: cheap enough to judge every method on every pair, few enough to read on a phone.
REPORTED = ("psnr", "ssim", "mi", "fmi_edge", "en", "scd", "vif", "qabf")


Kind = Literal["network", "champion", "baseline"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Champion:
    """The current champion of the registry: its version there, and the model itself."""

    version: str
    fuser: Fuser

    @property
    def title(self) -> str:
        """What it is called in the table."""
        return f"Champion, version {self.version}"


@dataclass(frozen=True)
class Column:
    """One measure of the table, as a reader meets it."""

    name: str
    title: str
    unit: str
    direction: str


@dataclass(frozen=True)
class MethodResult:
    """What one method reached: for every measure its value on each pair, in the order of the pairs."""

    name: str
    title: str
    kind: Kind
    per_pair: dict[str, list[float]]

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Its row of the table as plain JSON values, with the means of the measures named."""
        means = {name: self.mean(name) for name in names}
        return {"name": self.name, "title": self.title, "kind": self.kind, "means": means, "per_pair": self.per_pair}

    def mean(self, name: str) -> float:
        """Mean of a measure over the pairs."""
        return round(fmean(self.per_pair[name]), DECIMALS)


@dataclass(frozen=True)
class Evaluation:
    """Every method on every held-out pair, with the pictures of a few.

    `splits` counts the pairs and subjects of each split, `batchnorm` is whose statistics the network used, `synthetic`
    says that the pairs come with a ground truth, which only the phantom has, `colour` that the first modality is in
    colour, of which the luma is fused and measured. `floors` is what `measure_floors` found of the candidate,
    `champion` the version of the current champion where it is one of the methods, `prepared` in words what was done to
    the images before they were packed.
    """

    dataset_version: str
    collection: str
    modalities: tuple[str, str]
    splits: dict[str, dict[str, int]]
    synthetic: bool
    batchnorm: str
    pairs: list[str]
    subjects: list[str]
    measures: list[Column]
    candidate: str
    methods: list[MethodResult]
    pictures: list[Picture]
    floors: dict[str, Any]
    champion: str | None = None
    colour: bool = False
    protocol: str = "standard"
    headline: str = "qabf"
    prepared: dict[str, str] = field(default_factory=dict)

    def method(self, name: str) -> MethodResult:
        """The result of the method of that name; KeyError where there is none."""
        return {method.name: method for method in self.methods}[name]

    def margin(self, over: str) -> float:
        """How far the candidate's mean headline measure lies above another method's; negative where it lies below."""
        ours, theirs = self.method(self.candidate), self.method(over)
        return round(ours.mean(self.headline) - theirs.mean(self.headline), DECIMALS)

    def candidate_metrics(self) -> dict[str, float]:
        """The candidate's means by measure, and `<headline>_margin_over_average`."""
        means = {column.name: self.method(self.candidate).mean(column.name) for column in self.measures}
        return means | {f"{self.headline}_margin_over_average": self.margin("average")}

    def to_dict(self) -> dict[str, Any]:
        """The table as plain JSON values: measures, methods, their means and their value on each pair."""
        names = [column.name for column in self.measures]
        return {
            "protocol": self.protocol,
            "dataset_version": self.dataset_version,
            "split": "test",
            "pairs": self.pairs,
            "subjects": self.subjects,
            "measures": [asdict(column) for column in self.measures],
            "candidate": self.candidate,
            "champion": self.champion,
            "methods": [method.to_dict(names) for method in self.methods],
        }


def parse_strategies(text: str) -> list[str]:
    """Names from a comma-separated list, each once and in order; InputError where one is unknown or none is given.

    "default" stands for DEFAULT_STRATEGY.
    """
    given = [DEFAULT_STRATEGY if part.strip() == "default" else part.strip() for part in text.split(",")]
    names = list(dict.fromkeys(name for name in given if name))
    _check_strategies(names)
    return names


def evaluate(
    model_folder: Path,
    packed_folder: Path,
    strategies: Sequence[str],
    batch: int = 8,
    progress: Progress | None = None,
    measures: Sequence[str] = (),
    champion: Champion | None = None,
) -> Evaluation:
    """Fuse and measure every test pair by the network, once for each strategy, and by every classical method.

    The first strategy is the candidate: the row that is to be registered. `measures` are judged beside those that are
    reported always; the current `champion` takes part like any other method. `progress` is told the pairs done and
    their total after every batch. InputError where a strategy or measure is unknown, the test split is empty, or a
    value is not finite.
    """
    _check_strategies(strategies)
    names = _measures(measures)
    pairs = _test_pairs(packed_folder)
    loaded = Fuser.load(model_folder)
    fuser = _as_packed(loaded)
    titles = {f"network-{name}": f"This network, {strategy_title(name)}" for name in strategies}
    kinds: dict[str, Kind] = dict.fromkeys(titles, "network")
    others = {name: METHODS[name].load(Resources()) for name in CLASSICAL}
    if champion:
        titles[CHAMPION] = champion.title
        kinds[CHAMPION] = "champion"
        others[CHAMPION] = _as_packed(champion.fuser)
    titles |= {name: METHODS[name].title for name in CLASSICAL}

    def fuse(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        fused = {f"network-{name}": image for name, image in fuser.fuse_each(a, b, strategies).items()}
        return fused | {name: method(a, b) for name, method in others.items()}

    lesions = both_lesions(packed_folder)
    shown = choose(pairs.entries, lesions)
    values, kept = _judge(pairs, fuse, list(titles), names, shown, batch, progress)
    return Evaluation(
        dataset_version=pairs.index["dataset_version"],
        collection=pairs.index["collection"],
        modalities=tuple(pairs.index["modalities"]),
        colour=pairs.chroma is not None,
        splits={name: _count(entries) for name, entries in pairs.index["splits"].items()},
        synthetic=lesions is not None,
        batchnorm=fuser.batchnorm,
        pairs=[str(entry["name"]) for entry in pairs.entries],
        subjects=[str(subject) for subject in pairs.subjects],
        measures=[_column(name) for name in names],
        candidate=next(iter(titles)),
        champion=champion.version if champion else None,
        methods=[
            MethodResult(name, title, kinds.get(name, "baseline"), values[name]) for name, title in titles.items()
        ],
        pictures=[
            take(pairs, position, lesions, kept, _shares(fuser, strategies, others, *pairs.batch([position])))
            for position in shown
        ],
        floors=measure_floors(loaded, pairs.index["collection"], strategies[0]),
        prepared=dict(pairs.index.get("prepared", {})),
    )


def judge_champion(champion: Champion, packed_folder: Path, measures: Sequence[str], batch: int = 8) -> MethodResult:
    """The champion's values of the measures on every test pair; InputError as `evaluate` raises it."""
    pairs, fuser = _test_pairs(packed_folder), _as_packed(champion.fuser)
    values, _ = _judge(pairs, lambda a, b: {CHAMPION: fuser.fuse(a, b)}, [CHAMPION], measures, [], batch, None)
    return MethodResult(CHAMPION, champion.title, "champion", values[CHAMPION])


def _measures(more: Sequence[str]) -> list[str]:
    """Those reported always and `more`, in the order of all there are."""
    unknown = [name for name in more if name not in MEASURES]
    if unknown:
        raise unknown_choice("measure", unknown, MEASURES)
    extra = [name for name in MEASURES if name in more and name not in REPORTED]
    return [*REPORTED, *extra]


def _test_pairs(packed_folder: Path) -> PackedPairs:
    pairs = PackedPairs.open(packed_folder, "test").verified()
    if not len(pairs):
        raise InputError(f"no test pairs in {packed_folder}: hold out at least one subject when preprocessing")
    return pairs


def _as_packed(fuser: Fuser) -> Fuser:
    """The fuser for packed images, which are normalised already."""
    return Fuser(fuser.network, replace(fuser.config, levels=None))


def _judge(
    pairs: PackedPairs,
    fuse: Callable[[Tensor, Tensor], dict[str, Tensor]],
    methods: Sequence[str],
    names: Sequence[str],
    shown: Sequence[int],
    batch: int,
    progress: Progress | None,
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[int, np.ndarray]]]:
    """Every method's values of the measures on each pair, and its fused image of the pairs at the positions `shown`."""
    values: dict[str, dict[str, list[float]]] = {method: {name: [] for name in names} for method in methods}
    kept: dict[str, dict[int, np.ndarray]] = {method: {} for method in methods}
    for start in range(0, len(pairs), batch):
        indices = list(range(start, min(start + batch, len(pairs))))
        a, b = pairs.batch(indices)
        for method, fused in fuse(a, b).items():
            for name, measured in measure(a, b, fused, names).items():
                numbers = per_image(measured)
                _check_finite(numbers, f"{name} of {method}", pairs.entries[start : start + batch])
                values[method][name] += numbers
            kept[method] |= {index: to_bytes(fused[index - start, 0]) for index in shown if index in indices}
        if progress:
            progress(indices[-1] + 1, len(pairs), f"pairs, {len(methods)} methods")
    return values, kept


def read_training(model_folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The curves and the settings that a trained model carries; InputError where its folder lacks them."""
    try:
        texts = [(model_folder / name).read_text() for name in ("curves.json", "training.json")]
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: give the folder that the train step wrote") from error
    curves, training = (json.loads(text) for text in texts)
    return curves, training


def write_evaluation(
    evaluation: Evaluation, curves: Sequence[dict[str, Any]], training: dict[str, Any], folder: Path
) -> None:
    """Write the evaluation into the folder.

    `table.json`, `table.csv` (means), `per_pair.csv` (one value a row), `floors.json` (what the gate asks beside them;
    its seconds are of this machine) and `report.html`.
    """
    names = [column.name for column in evaluation.measures]
    means = [[m.name, m.title, m.kind, *(m.mean(name) for name in names)] for m in evaluation.methods]
    long = [
        [method.name, name, pair, value]
        for method in evaluation.methods
        for name in names
        for pair, value in zip(evaluation.pairs, method.per_pair[name], strict=True)
    ]
    texts = {
        "table.json": json.dumps(evaluation.to_dict(), indent=1) + "\n",
        "floors.json": json.dumps(evaluation.floors, indent=1) + "\n",
        "table.csv": csv_text(["method", "title", "kind", *names], means),
        "per_pair.csv": csv_text(["method", "measure", "name", "value"], long),
        "report.html": render_report(evaluation, curves, training),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        aside = folder / f".{name}.partial"
        aside.write_text(text, encoding="utf-8", newline="")
        aside.replace(folder / name)


def _shares(
    fuser: Fuser, strategies: Sequence[str], baselines: Mapping[str, Fuse], a: Tensor, b: Tensor
) -> dict[str, np.ndarray]:
    """The weight of `a` in one pair under every method that decides it, (H, W) in [0, 1], by the method's name."""
    found = {f"network-{name}": share for name, share in fuser.share_each(a, b, strategies).items()}
    found |= {name: share for name, fuse in baselines.items() if (share := share_of_first(fuse, a, b)) is not None}
    return {name: share[0, 0].cpu().numpy() for name, share in found.items()}


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file with a header, its lines ended as on Unix."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def _check_strategies(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        raise unknown_choice("fusion strategy", unknown, STRATEGIES)


def per_image(measured: dict[str, Tensor] | Tensor) -> list[float]:
    """The value of a measure on each image, its mean over both sources where it looks at them, rounded."""
    per_image = measured["mean"] if isinstance(measured, dict) else measured
    return [round(float(value), DECIMALS) for value in per_image]


def _check_finite(numbers: Sequence[float], what: str, entries: Sequence[dict[str, Any]]) -> None:
    """A mean over infinity would hide the other pairs, and JSON knows no infinity: name the pair instead."""
    for number, entry in zip(numbers, entries, strict=True):
        if not math.isfinite(number):
            raise InputError(
                f"{what} is {number} on pair {entry['name']}: is one of its images blank or a copy of the other?"
            )


def _column(name: str) -> Column:
    entry = MEASURES[name]
    return Column(name, entry.title, entry.unit, entry.direction)


def _count(entries: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {"pairs": len(entries), "subjects": len({entry["subject"] for entry in entries})}


def to_bytes(image: Tensor) -> np.ndarray:
    """An image in [0, 1] of any shape as whole grey levels, uint8."""
    array: np.ndarray = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return array

"""Which trainings a search consists of: every combination of the values given, or some of them drawn by a seed."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from typing import Any

from components.train.launch import training_config
from model.errors import InputError
from model.training_config import TrainingConfig

NUMBERS_AND_CHOICES: dict[str, type] = {
    "network": str,
    "width": int,
    "epochs": int,
    "batch": int,
    "accumulate": int,
    "crop": int,
    "learning_rate": float,
    "schedule": str,
    "gradient_weight": float,
    "perceptual_weight": float,
    "statistics": str,
    "precision": str,
    "clip": float,
    "ema": float,
    "patience": int,
}
"""What can be searched over, and of which type its values are."""

LOSS = "loss"
CHANGING_THE_LOSS = ("gradient_weight", "perceptual_weight", "crop")
MOST_TRIALS = 1000

Axes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Trial:
    """One training of a search: its `number` from 1, what it was given of the searched values, and all its settings.

    `settings` are the loop's, flat, as the pipeline's parameters are. `parent` is the MLflow run of the search, "" for
    none.
    """

    number: int
    choices: dict[str, Any]
    settings: dict[str, Any]
    parent: str = ""

    @property
    def name(self) -> str:
        """The searched values in words."""
        return " ".join(f"{name}={shown(value)}" for name, value in self.choices.items())

    @property
    def config(self) -> TrainingConfig:
        """The loop's configuration; raises InputError for one that cannot work."""
        choices = dict(self.settings)
        return training_config(choices.pop("gradient_weight"), choices.pop("perceptual_weight"), choices)

    def to_json(self) -> str:
        """The trial as text, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Trial":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def parse_axes(text: str) -> dict[str, tuple[Any, ...]]:
    """The axes in a text such as "learning_rate=1e-4,1e-3 width=32,64"; raises InputError for anything else."""
    axes: dict[str, tuple[Any, ...]] = {}
    for part in text.split():
        name, equals, values = part.partition("=")
        if not equals or name not in NUMBERS_AND_CHOICES:
            raise InputError(f"search {part!r}: write NAME=VALUE,VALUE with a name of {', '.join(NUMBERS_AND_CHOICES)}")
        if name in axes:
            raise InputError(f"search names {name} twice; give all its values at once")
        axes[name] = parse_values(name, values)
    return axes


def parse_values(name: str, text: str) -> tuple[Any, ...]:
    """The values of one axis, comma-separated, each once; raises InputError where one is not of the axis's type."""
    kind, parts = NUMBERS_AND_CHOICES[name], [part.strip() for part in text.split(",")]
    try:
        values = [kind(part) for part in parts if part]
    except ValueError:
        expected = {int: "whole numbers", float: "numbers", str: "words"}[kind]
        raise InputError(f"{name} is {text!r}; give {expected}, separated by commas") from None
    if not values or len(values) < len(parts):
        raise InputError(f"{name} is {text!r}; give a value, or several separated by commas")
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{name} has the value {shown(value)} twice; leave one out")
    return tuple(values)


def plan(base: Mapping[str, Any], axes: Axes, count: int = 0, seed: int = 0, measure: str = "") -> list[Trial]:
    """The trials of a search: the grid of the axes' values, or `count` of its points drawn at random by `seed`.

    `base` holds every setting of the loop, flat; `axes` replace some of them. Trials come in the order of the grid, the
    last axis changing fastest. Raises InputError for a grid with nothing to search, for a combination that cannot be
    trained, and where the `measure` would compare what cannot be compared.
    """
    searched = {name: values for name, values in axes.items() if len(values) > 1}
    if not searched:
        raise InputError("nothing to search: give an option several values, such as --learning-rate 1e-4,1e-3")
    size = prod(len(values) for values in searched.values())
    _check_count(size, count)
    if measure == LOSS and (changing := [name for name in CHANGING_THE_LOSS if name in searched]):
        raise InputError(
            f"measure is loss, but trials that differ in {changing[0]} have losses of different meaning; choose qabf or"
            " another measure of the fused images"
        )
    grid = list(product(*searched.values()))
    chosen = sorted(random.Random(seed).sample(range(size), count)) if count else range(size)
    fixed = {**base, **{name: values[0] for name, values in axes.items() if len(values) == 1}}
    trials = []
    for number, at in enumerate(chosen, 1):
        choices = dict(zip(searched, grid[at], strict=True))
        trial = Trial(number, choices, {**fixed, **choices})
        try:
            _ = trial.config
        except InputError as error:
            raise InputError(f"the trial {trial.name}: {error}") from None
        trials.append(trial)
    return trials


def _check_count(size: int, count: int) -> None:
    if count < 0 or count > size:
        raise InputError(f"trials is {count}, the grid has {size}; give 1 to {size}, or leave trials out for all")
    if (count or size) > MOST_TRIALS:
        raise InputError(f"{count or size} trials are more than {MOST_TRIALS}; draw some of them with trials")


def shown(value: Any) -> str:
    """A value as people write it: 0.001, 1e-05, 64, cosine."""
    return f"{value:g}" if isinstance(value, float) else str(value)

"""What a trained model is worth on the validation pairs: a measure of its fused images there, or its loss."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from components.sweep.grid import LOSS
from model.errors import InputError
from model.fuser import Fuser
from model.metrics import MEASURES, measure
from model.pairs import PackedPairs

SPLIT = "validation"
BATCH = 8
DEFAULT_MEASURE = "qabf"
"""It judges the fused image (the loss judges single images, by weights that a search may change) and needs no truth."""


def check_measure(name: str) -> None:
    """Raise InputError for a measure that a search cannot choose by."""
    if name != LOSS and name not in MEASURES:
        raise InputError(f"unknown measure {name!r}; choose {LOSS} or one of {', '.join(MEASURES)}")


def direction(name: str) -> str:
    """Whether the "higher" or the "lower" value of a measure is the better one."""
    return "lower" if name == LOSS else MEASURES[name].direction


def title(name: str) -> str:
    """A measure as a reader meets it."""
    return "validation loss" if name == LOSS else MEASURES[name].title


def score(model: Path, packed: Path, name: str) -> float:
    """The mean of a measure over the validation pairs, fused by the model's own strategy, or its validation loss.

    Raises InputError if the measure is unknown, there is no validation pair, or a value is not finite.
    """
    check_measure(name)
    if name == LOSS:
        return validation_loss(model)
    # The test pairs are not so much as opened: whoever chooses by them could not be judged by them.
    pairs = PackedPairs.open(packed, SPLIT).verified()
    if not len(pairs):
        raise InputError(f"no validation pairs in {packed}; a search chooses by them")
    loaded = Fuser.load(model)
    fuser = Fuser(loaded.network, replace(loaded.config, levels=None))  # packed images are normalised already
    values: list[float] = []
    for start in range(0, len(pairs), BATCH):
        a, b = pairs.batch(list(range(start, min(start + BATCH, len(pairs)))))
        measured = measure(a, b, fuser.fuse(a, b), [name])[name]
        values += (measured["mean"] if isinstance(measured, dict) else measured).tolist()
    for value, entry in zip(values, pairs.entries, strict=True):
        if not math.isfinite(value):
            raise InputError(f"{name} is {value} on the validation pair {entry['name']}; choose another measure")
    return fmean(values)


def validation_loss(model: Path) -> float:
    """The validation loss of the weights in a model folder: the last epoch's, with patience the best one's."""
    curves, training = (json.loads((model / f"{name}.json").read_text()) for name in ("curves", "training"))
    losses: list[float] = [record["validation"]["total"] for record in curves]
    return min(losses) if training.get("patience") else losses[-1]


def facts(model: Path) -> dict[str, Any]:
    """What a table of trials says of a finished one beside its measure."""
    training = json.loads((model / "training.json").read_text())
    return {"loss": validation_loss(model), "steps": training["steps"], "seconds": training["seconds"]}

"""What became of the trials of a search, which of them is the best, and both as files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.sweep.grid import Trial
from components.sweep.score import SPLIT, direction
from model.errors import InputError
from model.images import write_atomically

SWEEP_FILE = "sweep.json"
TABLE_FILE = "trials.csv"


@dataclass(frozen=True)
class Outcome:
    """A trial that has ended: with the `value` of the measure, or without, for the `reason`.

    `facts` are its validation loss, steps and seconds, `run_id` its run in MLflow, `model` its folder.
    """

    trial: Trial
    value: float | None = None
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    model: str = ""

    @property
    def status(self) -> str:
        """Whether it "finished" or "failed"."""
        return "failed" if self.value is None else "finished"


@dataclass(frozen=True)
class Search:
    """A search as a whole: how it chooses, what it was over, and its trials so far in their order.

    `grid` holds the values of every axis, `drawn` how many of its points were drawn at random by `seed`, 0 for all.
    """

    measure: str
    grid: Mapping[str, Sequence[Any]]
    drawn: int
    seed: int
    outcomes: Sequence[Outcome]

    @property
    def best(self) -> Outcome:
        """The trial with the best value, of equal ones the first; InputError if none has a value."""
        finished = [outcome for outcome in self.outcomes if outcome.value is not None]
        if not finished:
            reason = self.outcomes[0].reason if self.outcomes else "there was none"
            raise InputError(f"no trial finished; the first: {reason}")
        sign = 1 if direction(self.measure) == "higher" else -1
        return max(finished, key=lambda outcome: (sign * (outcome.value or 0.0), -outcome.trial.number))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        done = any(outcome.value is not None for outcome in self.outcomes)
        return {
            "measure": self.measure,
            "direction": direction(self.measure),
            "split": SPLIT,
            "grid": {name: list(values) for name, values in self.grid.items()},
            "drawn": self.drawn,
            "seed": self.seed,
            "best": self.best.trial.number if done else None,
            "trials": [
                {
                    "number": outcome.trial.number,
                    "choices": outcome.trial.choices,
                    "status": outcome.status,
                    "value": outcome.value,
                    **outcome.facts,
                    "reason": outcome.reason,
                    "run_id": outcome.run_id,
                    "model": outcome.model,
                    "settings": outcome.trial.settings,
                }
                for outcome in self.outcomes
            ],
        }

    def write(self, folder: Path) -> None:
        """Write `sweep.json` and `trials.csv`, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {SWEEP_FILE: json.dumps(self.to_dict(), indent=1) + "\n", TABLE_FILE: self._table()}
        for name, text in texts.items():
            write_atomically(folder / name, lambda partial, text=text: partial.write_text(text))  # type: ignore[misc]

    def summary(self) -> str:
        """The trials as a Markdown table, the best one's in bold."""
        axes = [name for name, values in self.grid.items() if len(values) > 1]
        lines = [
            f"# {len(self.outcomes)} trials by {self.measure} on the validation subjects",
            "",
            "| trial | " + " | ".join([*axes, self.measure, "loss"]) + " |",
            "|--:|" + "--:|" * (len(axes) + 2),
        ]
        for outcome in self.outcomes:
            mark = "**" if outcome is self.best else ""
            loss = outcome.facts.get("loss")
            value = "failed: " + outcome.reason if outcome.value is None else f"{mark}{outcome.value:.4f}{mark}"
            cells = [str(outcome.trial.number), *(str(outcome.trial.choices[name]) for name in axes)]
            lines.append("| " + " | ".join([*cells, value, "" if loss is None else f"{loss:.4g}"]) + " |")
        return "\n".join(lines) + "\n"

    def _table(self) -> str:
        axes = [name for name, values in self.grid.items() if len(values) > 1]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        measure = self.measure if self.measure != "loss" else "value"
        writer.writerow(["trial", *axes, measure, "loss", "steps", "seconds", "status", "reason"])
        for outcome in self.outcomes:
            choices = (outcome.trial.choices[name] for name in axes)
            told = (outcome.facts.get(name) for name in ("loss", "steps", "seconds"))
            writer.writerow([outcome.trial.number, *choices, outcome.value, *told, outcome.status, outcome.reason])
        return buffer.getvalue()

"""What the components of a search do: the trials as text, each one's model and score as files, the best one's copy."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.sweep.grid import Trial, parse_axes, plan
from components.sweep.outcome import Outcome, Search
from components.sweep.runs import close_search, open_search
from components.sweep.score import check_measure, facts, score
from components.sweep.trial import TRIAL_FILE, Request, train_trial
from components.tracking import noted_run
from model.errors import InputError, one_line

FAILURE_FILE = "failed.json"


def plan_step(search: str, count: int, measure: str, base: Mapping[str, Any], experiment: str) -> list[str]:
    """The trials of a search as JSON, below a new run in the MLflow of MLFLOW_TRACKING_URI if that names one.

    Raises InputError for a search that cannot be.
    """
    check_measure(measure)
    axes = parse_axes(search)
    trials = plan(base, axes, count, int(base["seed"]), measure)
    parent = ""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        told = {"measure": measure, "drawn": str(count), "seed": str(base["seed"])}
        told |= {name: ",".join(map(str, values)) for name, values in axes.items()}
        parent = open_search(uri, experiment, "sweep", None, told, {"mlflow.source.name": "components.sweep"})
    print(f"plan: {len(trials)} trials")
    return [replace(trial, parent=parent).to_json() for trial in trials]


def train_trial_step(
    trial: str,
    perceptual: str,
    processes: int,
    packed: Path,
    model: Path,
    workspace: str,
    checkpoint_every: int,
    experiment: str,
    code_version: str,
) -> str:
    """Train one trial into the folder `model`; the reason if that cannot be, which the folder then holds instead.

    Exits with RESUMABLE if it was stopped.
    """
    planned = Trial.from_json(trial)
    places = model.parent, packed, "", perceptual, processes, workspace, checkpoint_every
    try:
        train_trial(Request(planned, *places, experiment, code_version), model)
    except (InputError, RuntimeError) as error:
        # The other trials go on; the worker's own word on it stands in the lines above.
        reason = one_line(str(error))
        model.mkdir(parents=True, exist_ok=True)
        (model / TRIAL_FILE).write_text(trial + "\n")
        (model / FAILURE_FILE).write_text(json.dumps({"reason": reason}) + "\n")
        print(f"failed: {reason}", flush=True)
        return reason
    return ""


def score_step(model: Path, packed: Path, measure: str, target: Path) -> dict[str, Any]:
    """Write what a trial's model is worth to the file `target`; what of it a reader of the metadata wants to know."""
    trial = Trial.from_json((model / TRIAL_FILE).read_text())
    found: dict[str, Any] = {"trial": asdict(trial), "run_id": noted_run(model) or ""}
    if (model / FAILURE_FILE).is_file():
        found |= {"value": None, "facts": {}} | json.loads((model / FAILURE_FILE).read_text())
    else:
        found |= {"value": score(model, packed, measure), "facts": facts(model), "reason": ""}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n")
    return {"trial": trial.name, measure: found["value"]} if found["value"] is not None else {"trial": trial.name}


def choose_step(
    models: Sequence[Path], scores: Sequence[Path], about: tuple[str, int, str, int], model: Path, table: Path
) -> Search:
    """Copy the best trial's model to `model`, write the table of all, and end the search's run in MLflow.

    `about` is the search as text, how many trials were drawn, the measure and the seed. Raises InputError if no trial
    finished.
    """
    text, drawn, measure, seed = about
    folders = {Trial.from_json((each / TRIAL_FILE).read_text()).number: each for each in models}
    outcomes = sorted((_outcome(json.loads(each.read_text()), folders) for each in scores), key=_number)
    search = Search(measure, parse_axes(text), drawn, seed, outcomes)
    search.write(table)
    parent, uri = outcomes[0].trial.parent, os.environ.get("MLFLOW_TRACKING_URI", "")
    if parent and uri:
        close_search(uri, parent, search, table)
    shutil.copytree(folders[search.best.trial.number], model)
    return search


def _outcome(found: Mapping[str, Any], folders: Mapping[int, Path]) -> Outcome:
    trial = Trial(**found["trial"])
    place = "" if found["value"] is None else str(folders[trial.number])
    return Outcome(trial, found["value"], found["reason"], found["facts"], found["run_id"], place)


def _number(outcome: Outcome) -> int:
    return outcome.trial.number

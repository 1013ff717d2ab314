"""One trial of a search in a process of its own: train, then measure on the validation pairs.

python -m components.sweep.trial request.json
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from components.sweep.grid import Trial
from components.sweep.score import facts, score
from components.train.launch import train_step
from components.train.orphan import end_with
from components.train.settings import Live
from model.errors import InputError
from model.images import write_atomically

TRIAL_FILE = "trial.json"


@dataclass(frozen=True)
class Request:
    """What one trial is asked to do; `folder` gets its model and its scores, `workspace` as in training.

    `parent_process` is the process whose end is to end this one too.
    """

    trial: Trial
    folder: Path
    packed: Path
    measure: str
    perceptual: str
    processes: int
    workspace: str
    checkpoint_every: int
    experiment: str
    code_version: str
    parent_process: int = 0

    @property
    def model(self) -> Path:
        """The trained model, there whole or not at all."""
        return self.folder / "model"

    @property
    def score(self) -> Path:
        """What the model is worth, there whole or not at all."""
        return self.folder / f"score-{self.measure}.json"

    @property
    def failure(self) -> Path:
        """Why the trial cannot be trained, if that is known."""
        return self.folder / "failed.json"

    def write(self, path: Path) -> None:
        """Write the request as JSON."""
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> "Request":
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        folders = {name: Path(raw[name]) for name in ("folder", "packed")}
        return cls(**raw | folders | {"trial": Trial(**raw["trial"])})


def run_trial(request: Request) -> None:
    """Train unless the model is there, going on where an earlier attempt ended; then write its score.

    Exits with RESUMABLE if it was stopped; raises what training and measuring raise.
    """
    if not request.model.is_dir():
        train_trial(request, request.model)
    found = {"measure": request.measure, "value": score(request.model, request.packed, request.measure)}
    text = json.dumps(found | facts(request.model), indent=1) + "\n"
    write_atomically(request.score, lambda partial: partial.write_text(text))


def train_trial(request: Request, model: Path) -> None:
    """Train a trial as the train step does, shown in MLflow below the run of its search."""
    trial = request.trial
    tags = {"mlflow.parentRunId": trial.parent} if trial.parent else {}
    parameters = {name: str(value) for name, value in trial.settings.items()}
    live = Live(request.experiment, trial.name, tags, parameters)
    shared = request.workspace or os.environ.get("FUSION_WORKSPACE", "")
    # Trials that differ in epochs alone may go on with one another's checkpoints: none may meet another's.
    own = f"{shared.rstrip('/')}/trial-{trial.number:03}" if shared else ""
    places = request.packed, model, own, request.checkpoint_every
    how = request.experiment, request.code_version
    train_step(trial.config, request.perceptual, request.processes, *places, *how, shown=live)
    (model / TRIAL_FILE).write_text(trial.to_json() + "\n")


if __name__ == "__main__":
    asked = Request.read(Path(sys.argv[1]))
    if asked.parent_process:
        end_with(asked.parent_process)
    try:
        run_trial(asked)
    except InputError as refusal:
        print(f"InputError: {refusal}", file=sys.stderr, flush=True)
        sys.exit(2)

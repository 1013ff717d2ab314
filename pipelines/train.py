"""Train on this machine without the pipeline around it: fetch and pack the data, train, go on where it was ended.

python -m pipelines.train '{"parameters": {...}, "output": "model", "checkpoints": ""}'
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.exclusive import exclusive
from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.ingest.remote import SCHEME
from components.preprocess.packing import pack
from components.preprocess.preparation import Preparation
from components.train.bucket import checkpoints as checked_place
from components.train.launch import exiting_when_stopped, forget, tidy, train_model, training_config
from components.train.orphan import end_with
from components.train.settings import Live, Settings
from model.errors import InputError, unfit_places_refused
from model.training_config import TrainingConfig
from pipelines.follow import follow
from pipelines.parameters import Parameters


def train(
    parameters: Parameters, output: Path, checkpoints: str, tell: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Train by `parameters` into the model folder `output`, and return the facts in its `training.json`.

    Raises InputError for what the user can mend, and Stopped if SIGTERM or Ctrl-C asked for an end after which the same
    call goes on.
    """
    _check_places(output, checkpoints)
    job = {"parameters": asdict(parameters), "output": str(output), "checkpoints": checkpoints}
    follow([sys.executable, "-m", "pipelines.train", json.dumps(job)], tell)
    facts: dict[str, Any] = json.loads((output / "training.json").read_text())
    return facts


def _check_places(output: Path, checkpoints: str) -> None:
    """Refuse a model that is there already, and checkpoints in a folder that this training makes and replaces."""
    if os.path.lexists(output) or output.name == "..":
        raise InputError(f"{output} is there already; move it away, or choose another folder with --output")
    made = {output.with_name(output.name + end).resolve() for end in ("", ".partial", ".work")}
    place = Path(checkpoints).resolve()
    if checkpoints and "://" not in checkpoints and made & {place, *place.parents}:
        raise InputError(
            f"checkpoints in {checkpoints} would lie inside what training writes itself, as the model {output}; name a "
            "folder elsewhere"
        )


def packed_data(parameters: Parameters, folder: Path) -> Path:
    """The dataset that `parameters` name, fetched and packed anew below `folder`."""
    dataset, packed = folder / "dataset", folder / "packed"
    for old in (dataset, packed):
        shutil.rmtree(old, ignore_errors=True)
    p = parameters
    phantom = PhantomConfig(subjects=p.phantom_subjects, slices=p.phantom_slices, seed=p.seed)
    ingest(p.data, p.data_version, phantom, dataset, p.collection)
    pack(dataset, p.split, p.split_seed, packed, Preparation(p.size, p.normalise, p.register_pairs))
    shutil.rmtree(dataset)
    return packed


def configuration(parameters: Parameters) -> TrainingConfig:
    """The training loop's configuration among the parameters."""
    choices = {name: getattr(parameters, name) for name in TrainingConfig.__dataclass_fields__ if name != "loss"}
    return training_config(parameters.gradient_weight, parameters.perceptual_weight, choices)


def main(parameters: Parameters, output: Path, checkpoints: str) -> None:
    """What the child process does: everything."""
    work, config = output.with_name(output.name + ".work"), configuration(parameters)
    # What needs no data is refused before any is fetched.
    config.torch_device(parameters.processes - 1)
    if checkpoints:
        checked_place(checkpoints, {}, work)
    with exclusive(work / "train.lock", f"another training into {output} is running; wait for its end, or end it"):
        try:
            _check_places(output, checkpoints)  # another training may have ended while this one waited
            settings = Settings(
                config,
                parameters.perceptual,
                parameters.processes,
                packed_data(parameters, work),
                output,
                checkpoints or str(work / "checkpoints"),
                parameters.checkpoint_every,
                Live(parameters.experiment, output.name),
                parameters.code_version,
            )
            with exiting_when_stopped():
                train_model(settings)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # the model is there: only tidying is left
        except (InputError, OSError):
            if not list(work.glob("checkpoints/step-*")):
                shutil.rmtree(work, ignore_errors=True)
            raise
        if not checkpoints:
            forget(settings)
        elif checkpoints.startswith(SCHEME):
            tidy(settings)
        shutil.rmtree(work / "packed")
        (work / "train.lock").unlink()
        with suppress(OSError):  # another training waits there
            work.rmdir()


if __name__ == "__main__":
    end_with(os.getppid())
    job = json.loads(sys.argv[1])
    try:
        with unfit_places_refused():
            main(Parameters(**job["parameters"]), Path(job["output"]), job["checkpoints"])
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr, flush=True)
        sys.exit(2)

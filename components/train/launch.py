"""Start torchrun for one training run on this machine and see it to its end.

python -m components.train.launch settings.json
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from components.ingest.remote import SCHEME
from components.train.bucket import CheckpointBucket, checkpoints
from components.train.delivery import Deliverer
from components.train.settings import Live, Settings
from model.errors import RESUMABLE, InputError, Stopped
from model.losses import LossWeights
from model.pairs import PackedPairs
from model.training import sampler
from model.training_config import TrainingConfig
from model.vgg import feature_stack

# What DDP has to say about itself is known, and would stand among the lines for the user.
_QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}


@dataclass(frozen=True)
class Nodes:
    """How many machines train, and what each gives: 1 is this one, more are those of a TrainJob on Kubernetes.

    `memory` is an amount such as 16Gi; `deadline` in seconds ends the TrainJob, 0 for none.
    """

    count: int = 1
    gpus: int = 0
    cpus: int = 4
    memory: str = "16Gi"
    deadline: int = 0


def train_step(
    training: TrainingConfig,
    perceptual: str,
    processes: int,
    packed: Path,
    model: Path,
    workspace: str,
    checkpoint_every: int,
    experiment: str,
    code_version: str,
    nodes: Nodes | None = None,
    shown: Live | None = None,
) -> None:
    """Train as a pipeline's step: shown live in MLflow, and going on where an earlier attempt at the same was ended.

    `processes` are those of each node. Checkpoints are below the `workspace` (else FUSION_WORKSPACE, else beside the
    model) until the model is there. Exits with RESUMABLE if it was stopped; raises what `train_model` raises.
    """
    live, nodes = shown or Live(experiment), nodes or Nodes()
    world = processes * nodes.count
    settings = Settings(training, perceptual, world, packed, model, "", checkpoint_every, live, code_version)
    if nodes.count != 1:
        _train_on(nodes, settings, workspace)
        return
    shared = workspace or os.environ.get("FUSION_WORKSPACE") or str(model.with_name(model.name + ".checkpoints"))
    settings = replace(settings, checkpoints=own_place(shared, settings))
    with exiting_when_stopped():
        train_model(settings)
    forget(settings)


def _train_on(nodes: Nodes, settings: Settings, workspace: str) -> None:
    """Train by a TrainJob whose nodes meet this step at the workspace, an s3://bucket/prefix."""
    from components.image import IMAGE, own_image
    from components.train.job_watch import Patience
    from components.train.trainjob import RUNTIME, JobSpec, run_trainjob

    if nodes.count < 1 or nodes.deadline < 0:
        raise InputError(f"num_nodes is {nodes.count}, deadline {nodes.deadline}; give at least 1 node and 0 seconds")
    check_data(settings)
    spec = JobSpec(
        "",
        nodes.count,
        settings.processes // nodes.count,
        nodes.gpus,
        own_image() or IMAGE,
        RUNTIME,
        workspace,
        json.loads(settings.json()),
        cpus_per_node=nodes.cpus,
        memory_per_node=nodes.memory,
    )
    run_trainjob(spec, settings.packed, settings.model, Patience(deadline=nodes.deadline or None))


@contextmanager
def exiting_when_stopped() -> Iterator[None]:
    """Within, a training that was stopped ends the process with one line and the exit code RESUMABLE."""
    try:
        yield
    except Stopped as error:
        print(f"Stopped: {error}; run it again to go on", file=sys.stderr, flush=True)
        sys.exit(RESUMABLE)


def train_model(settings: Settings) -> None:
    """Train by torchrun on this machine; the folder `settings.model` appears whole or not at all.

    A training that was stopped or killed goes on from the newest of its checkpoints. Raises InputError for settings
    that cannot work, Stopped if SIGTERM or Ctrl-C asked for an end and a checkpoint was saved, and RuntimeError if a
    process fails.
    """
    if settings.model.exists() and any(settings.model.iterdir()):
        raise InputError(f"{settings.model} is there already; move it away, or name another place for the model")
    check(settings)
    file = settings.model.with_name(settings.model.name + ".settings.json")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        settings.write(file)
        _torchrun(settings, file)
        if not settings.model.is_dir():
            raise RuntimeError("training ended without a model; see the lines above")
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(settings.partial, ignore_errors=True)
        if not settings.checkpoints:
            shutil.rmtree(settings.live_folder, ignore_errors=True)


def forget(settings: Settings) -> None:
    """Remove the checkpoints of a training whose model is there, and what `tidy` removes."""
    folder = settings.live_folder
    if settings.checkpoints.startswith(SCHEME):
        CheckpointBucket(settings.checkpoints, {}, folder).clear()
    for path in folder.glob("step-*.safetensors"):
        path.unlink()
    tidy(settings)


def tidy(settings: Settings) -> None:
    """Remove the copies of checkpoints and MLflow's journal of a training that is done, if MLflow has all of it."""
    folder = settings.live_folder
    if not settings.tracking_uri or not Deliverer(folder).waiting():
        shutil.rmtree(folder, ignore_errors=True)
    beside = settings.model.with_name(settings.model.name + ".checkpoints")
    if folder.parent == beside and not any(beside.iterdir()):
        beside.rmdir()


def check(settings: Settings) -> None:
    """Refuse here, once, what every process would stumble over; fetch the feature stack's weights before they race."""
    settings.training.torch_device(settings.processes - 1)
    if settings.checkpoints:
        checkpoints(settings.checkpoints, {}, settings.live_folder)
    check_data(settings)
    if settings.training.loss.perceptual:
        feature_stack(settings.perceptual)


def check_data(settings: Settings) -> None:
    """Raise InputError unless the packed data is whole and fills the steps of the training."""
    splits = [PackedPairs.open(settings.packed, split).verified() for split in ("train", "validation")]
    sampler(settings.training, splits[0], settings.processes)


def own_place(shared: str, settings: Settings) -> str:
    """A place for the checkpoints of this training alone, below a folder or s3://bucket/prefix that others share."""
    index = PackedPairs.open(settings.packed, "train").index
    whole = asdict(settings.training), settings.identity(index), settings.code_version
    return f"{shared.rstrip('/')}/{hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]}"


def _torchrun(wanted: Settings, settings: Path) -> None:
    """Run torchrun to its end; Stopped if a signal ended it, RuntimeError if it failed, unless the model is there."""
    processes = wanted.processes
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "components.train.torchrun", str(os.getpid())]
    command += ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    stopped = settings.with_suffix(".stopped")
    stopped.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*command, "-m", "components.train.worker", str(settings)],
        env={"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1", **_QUIET},
    )
    with passed_on(process) as passed:
        code = process.wait()
    unsaved = "stopped before it had begun, or could save where it stood" if passed and code else ""
    message = stopped.read_text() if stopped.exists() else unsaved
    stopped.unlink(missing_ok=True)
    if wanted.model.is_dir() and any(wanted.model.iterdir()):
        return  # A signal that came after the last step only made torchrun call it a failure.
    if message:
        raise Stopped(message)
    if code < 0:
        raise RuntimeError(f"torchrun was killed by {signal.Signals(-code).name}")
    if code:
        raise RuntimeError(f"torchrun ended with exit code {code}; the lines above say why")


@contextmanager
def passed_on(process: "subprocess.Popen[Any]") -> Iterator[list[int]]:
    """Within, SIGTERM, SIGINT and SIGHUP of this process end `process`, once its workers have saved; which came."""
    passed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        passed.append(number)
        # torchrun's workers are told of a terminal that is gone as of any other wish to stop.
        process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    if threading.current_thread() is not threading.main_thread():
        yield passed  # Only the main thread may handle signals.
        return
    # Under nohup a hang-up is to be ignored.
    hang_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, *hang_up)}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def training_config(gradient_weight: float, perceptual_weight: float, choices: Mapping[str, Any]) -> TrainingConfig:
    """The loop's configuration from the pipeline's flat parameters; InputError for what cannot work."""
    return TrainingConfig(loss=LossWeights(gradient=gradient_weight, perceptual=perceptual_weight), **choices)


if __name__ == "__main__":
    try:
        with exiting_when_stopped():
            train_model(Settings.read(Path(sys.argv[1])))
    except InputError as refusal:
        print(f"InputError: {refusal}", file=sys.stderr, flush=True)
        sys.exit(2)

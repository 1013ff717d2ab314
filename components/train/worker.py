"""One training process; torchrun starts as many as asked for.

torchrun --standalone --nproc-per-node 2 -m components.train.worker settings.json

SIGTERM or SIGINT let it save a checkpoint after the step it is at and end with the exit code 75: started again with the
same settings, it goes on.
"""

import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed

from components.exclusive import exclusive
from components.tracking import RUN_FILE
from components.train.bucket import CheckpointBucket, checkpoints
from components.train.live import SECONDS_WHEN_STOPPED, LiveRun
from components.train.orphan import end_with
from components.train.settings import Settings
from components.train.telemetry import Telemetry
from model.checkpoint import Checkpoints, Report, sync, told_on_stderr
from model.errors import RESUMABLE, InputError, Stopped, unfit_places_refused
from model.fuser import Fuser, FuserConfig
from model.memory import keep_freed_memory
from model.networks import NETWORKS
from model.pairs import PackedPairs
from model.processes import local_rank, rank_and_world
from model.training import train
from model.training_callbacks import Callbacks, Keeping, Trained
from model.vgg import feature_stack

LIBRARIES = ("torch", "numpy", "safetensors")


def main(path: Path) -> None:
    """Train by the settings file at `path`; rank 0 writes the model folder, whole or not at all.

    Raises InputError for whatever the settings or the data do not allow, and Stopped if a signal asked for an end.
    """
    # torchrun's workers outlive it if it is killed; this one saves then, and ends.
    end_with(os.getppid())
    settings = Settings.read(path)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != settings.processes:
        raise InputError(f"{world} processes were started, the settings are for {settings.processes}; start as many")
    device = settings.training.torch_device(local_rank())
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    keep_freed_memory()
    with _asked_to_stop() as asked:
        if world > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            _train(settings, asked)
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _train(settings: Settings, asked: set[int]) -> None:
    rank, _ = rank_and_world()
    training, validation = (PackedPairs.open(settings.packed, split) for split in ("train", "validation"))
    # A perceptual weight of 0 never looks at its features, so it must not need weights either.
    features = feature_stack(settings.perceptual if settings.training.loss.perceptual else "random")
    device = settings.training.torch_device(local_rank())
    keeping = Keeping(_checkpoints(settings, training, device, rank), settings.checkpoint_every, lambda: bool(asked))
    if rank:
        train(settings.training, training, validation, features, Callbacks(), keeping)
        return
    fusing = _fuser_config(settings, training.index)
    with _alone(settings), _live(settings) as live:
        telemetry = Telemetry(live, fusing, validation, settings.training.epochs, device)
        trained = train(settings.training, training, validation, features, telemetry.callbacks, keeping)
        shutil.rmtree(settings.partial, ignore_errors=True)
        with _writing(settings):
            _save(settings, trained, fusing, training.index, features.name)
    with _writing(settings):
        with suppress(FileNotFoundError):  # MLflow was not told, or has not answered
            shutil.copyfile(settings.live_folder / RUN_FILE, settings.partial / RUN_FILE)
        # The checkpoints go once the model is there: by then it must outlive a loss of power.
        for path in (*settings.partial.iterdir(), settings.partial):
            sync(path)
        settings.partial.rename(settings.model)
        sync(settings.model.parent)


@contextmanager
def _writing(settings: Settings) -> Iterator[None]:
    """Within, a model that its place does not take becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the model {settings.model}: {error.strerror}; make room or check the place, and run again to"
            " go on from the last checkpoint"
        ) from None


def _checkpoints(settings: Settings, training: PackedPairs, device: torch.device, rank: int) -> Checkpoints | None:
    """Where this training's checkpoints are kept; rank 0 alone tells of damaged ones."""
    if not settings.checkpoints:
        return None
    report: Report = told_on_stderr if rank == 0 else lambda line: None
    identity = settings.identity(training.index) | {"device": device.type}
    place = checkpoints(settings.checkpoints, identity, settings.live_folder, report=report)
    if rank == 0 and isinstance(place, CheckpointBucket):
        # The run in MLflow goes on too, where the training does so on another machine.
        place.bring(RUN_FILE)
    return place


def _alone(settings: Settings) -> AbstractContextManager[object]:
    """The training's own place for what it goes on from, which no other may change meanwhile."""
    if not settings.checkpoints:
        return nullcontext()
    folder = settings.live_folder
    return exclusive(
        folder / "training.lock", f"another training keeps its checkpoints in {folder}; wait for its end, or end it"
    )


@contextmanager
def _live(settings: Settings) -> Iterator[LiveRun | None]:
    """The run in MLflow that shows this training, ended in the way that the training ends; None without an MLflow."""
    shown = settings.live
    if not shown or not settings.tracking_uri:
        yield None
        return
    about = shown.tags, shown.parameters
    live = LiveRun(settings.tracking_uri, shown.experiment, shown.name, settings.live_folder, *about)
    try:
        yield live
    except Stopped:
        live.close(stopped=True, seconds=SECONDS_WHEN_STOPPED)
        raise
    except BaseException:
        live.close(failed=True)
        raise
    live.close()


def _save(settings: Settings, trained: Trained, fusing: FuserConfig, index: dict[str, Any], stack: str) -> None:
    config, steps = settings.training, trained.curves[-1]["step"]
    facts = asdict(config) | {
        "perceptual": stack if config.loss.perceptual else "none",
        "processes": settings.processes,
        "code_version": settings.code_version,
        "steps": steps,
        "resumed_at_step": trained.resumed,
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(len(trained.curves) * 2 * len(index["splits"]["train"]) / trained.seconds, 2),
        "dataset_version": index["dataset_version"],
        "collection": index["collection"],
        "modalities": index["modalities"],
        "split": index["split"],
        "preparation": index.get("preparation", {}) | index.get("prepared", {}),
        "pairs": {split: len(entries) for split, entries in index["splits"].items()},
        "subjects": {split: sorted({e["subject"] for e in entries}) for split, entries in index["splits"].items()},
        "hardware": _hardware(next(trained.network.parameters()).device),
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
    }
    Fuser(trained.network, fusing).save(settings.partial)
    (settings.partial / "curves.json").write_text(json.dumps(trained.curves, indent=1) + "\n")
    (settings.partial / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def _fuser_config(settings: Settings, index: dict[str, Any]) -> FuserConfig:
    """How the trained network is to fuse: by its own strategy, images normalised by the levels of the packed ones."""
    network = settings.training.network
    # Levels are kept as shares of 255.
    levels: Any = index.get("levels") and [[level / 255 for level in levels] for levels in index["levels"]]
    return FuserConfig(NETWORKS[network].strategy, network=network, levels=levels)


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def _asked_to_stop() -> Iterator[set[int]]:
    """Within, SIGTERM and SIGINT do no more than to add themselves to the set."""
    asked: set[int] = set()

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.add(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    try:
        with unfit_places_refused():
            main(Path(sys.argv[1]))
    except (InputError, Stopped) as error:
        # One write, so that two processes failing together do not mix their lines.
        os.write(sys.stderr.fileno(), f"{type(error).__name__}: {error}\n".encode())
        if isinstance(error, Stopped) and os.environ.get("RANK", "0") == "0":
            Path(sys.argv[1]).with_suffix(".stopped").write_text(str(error))
        sys.exit(RESUMABLE if isinstance(error, Stopped) else 2)

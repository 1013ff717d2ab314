"""Start torchrun for one training run on this machine and see it to its end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from components.train.settings import Settings
from model.errors import InputError
from model.losses import LossWeights
from model.pairs import PackedPairs
from model.training import TrainingConfig, steps_an_epoch
from model.vgg import feature_stack


def train_model(training: TrainingConfig, perceptual: str, processes: int, packed: Path, model: Path) -> None:
    """Train with `processes` processes on the packed dataset; the folder `model` appears whole or not at all.

    Raises InputError for settings that cannot work, and RuntimeError if a process fails.
    """
    _check(training, perceptual, processes, packed)
    partial, settings = (model.with_name(model.name + ending) for ending in (".partial", ".settings.json"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        settings.parent.mkdir(parents=True, exist_ok=True)
        Settings(training, perceptual, processes, packed, partial).write(settings)
        _torchrun(processes, settings)
        if not partial.is_dir():
            raise RuntimeError("training ended without a model; see the lines above")
        partial.rename(model)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        settings.unlink(missing_ok=True)


def _check(training: TrainingConfig, perceptual: str, processes: int, packed: Path) -> None:
    """Refuse here, once, what every process would stumble over; fetch the feature stack's weights before they race."""
    if processes < 1:
        raise InputError(f"processes is {processes}; give at least 1")
    training.torch_device(processes - 1)
    splits = [PackedPairs.open(packed, split).verified() for split in ("train", "validation")]
    steps_an_epoch(training, splits[0], processes)
    if training.loss.perceptual:
        feature_stack(perceptual)


def _torchrun(processes: int, settings: Path) -> None:
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    code = subprocess.call(
        [*command, f"--nproc-per-node={processes}", "-m", "components.train.worker", str(settings)],
        env={"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"},
    )
    if code:
        raise RuntimeError(f"torchrun ended with exit code {code}; the lines above say why")


def training_config(
    network: str,
    epochs: int,
    batch: int,
    crop: int,
    learning_rate: float,
    schedule: str,
    gradient: float,
    perceptual: float,
    seed: int,
) -> TrainingConfig:
    """The loop's configuration from the pipeline's flat parameters."""
    weights = LossWeights(gradient=gradient, perceptual=perceptual)
    return TrainingConfig(epochs, batch, crop, learning_rate, seed, weights, schedule, network)

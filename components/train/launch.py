"""Start torchrun for one training run on this machine and see it to its end."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from components.train.settings import Settings
from model.errors import InputError
from model.losses import LossWeights
from model.pairs import PackedPairs
from model.training import TrainingConfig
from model.vgg import feature_stack


def train_model(training: TrainingConfig, perceptual: str, processes: int, packed: Path, model: Path) -> None:
    """Train with `processes` processes on the packed dataset; the folder `model` appears whole or not at all.

    Raises InputError for settings that cannot work, and RuntimeError if a process fails.
    """
    _check(training, perceptual, processes, packed)
    partial = model.with_name(model.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix="fusion-train-") as scratch:
            settings = Path(scratch) / "settings.json"
            Settings(training, perceptual, processes, packed, partial).write(settings)
            _torchrun(processes, settings)
        if not partial.is_dir():
            raise RuntimeError("training ended without a model; see the lines above")
        partial.rename(model)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(training: TrainingConfig, perceptual: str, processes: int, packed: Path) -> None:
    """Refuse here, once, what every process would stumble over; fetch the feature stack's weights before they race."""
    if processes < 1:
        raise InputError(f"processes is {processes}; give at least 1")
    pairs = PackedPairs.open(packed, "train")
    if 2 * len(pairs) < training.batch * processes:
        raise InputError(
            f"{2 * len(pairs)} training images do not fill batches of {training.batch} in {processes} processes;"
            " lower the batch"
        )
    if training.crop > min(pairs.images.shape[-2:]):
        raise InputError(f"crop is {training.crop}, the images are {pairs.images.shape[-2:]}; give a smaller crop")
    if training.loss.perceptual:
        feature_stack(perceptual)


def _torchrun(processes: int, settings: Path) -> None:
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    code = subprocess.call(
        [*command, "-m", "components.train.worker", str(settings)],
        env={"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"},
    )
    if code:
        raise RuntimeError(f"torchrun ended with exit code {code}; the lines above say why")


def training_config(
    epochs: int, batch: int, crop: int, learning_rate: float, gradient: float, perceptual: float, seed: int
) -> TrainingConfig:
    """The loop's configuration from the pipeline's flat parameters."""
    weights = LossWeights(gradient=gradient, perceptual=perceptual)
    return TrainingConfig(epochs, batch, crop, learning_rate, seed, weights)

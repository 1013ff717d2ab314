"""One training process; torchrun starts as many as asked for.

torchrun --standalone --nproc-per-node 2 -m components.train.worker settings.json
"""

import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from components.progress import Progress
from components.train.settings import Settings
from model.errors import InputError
from model.fuser import Fuser, FuserConfig
from model.network import Autoencoder
from model.pairs import PackedPairs
from model.training import train
from model.vgg import feature_stack


def main(path: Path) -> None:
    """Train by the settings file at `path`; rank 0 writes the model folder."""
    settings = Settings.read(path)
    device = settings.training.torch_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        _train(settings)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _train(settings: Settings) -> None:
    training, validation = (PackedPairs.open(settings.packed, split) for split in ("train", "validation"))
    # A perceptual weight of 0 never looks at its features, so it must not need weights either.
    features = feature_stack(settings.perceptual if settings.training.loss.perceptual else "random")
    curves: list[dict[str, Any]] = []
    progress, start = Progress("train"), time.monotonic()
    network = train(
        settings.training,
        training,
        validation,
        features,
        on_step=lambda step, steps, loss: progress(step, steps, f"loss {loss:.4f}"),
        on_epoch=curves.append,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        _save(settings, network, curves, time.monotonic() - start, training.index, features.name)


def _save(
    settings: Settings,
    network: Autoencoder,
    curves: list[dict[str, Any]],
    seconds: float,
    index: dict[str, Any],
    stack: str,
) -> None:
    config = settings.training
    seen = curves[-1]["step"] * config.batch * settings.processes
    facts = asdict(config) | {
        "perceptual": stack if config.loss.perceptual else "none",
        "processes": settings.processes,
        "seconds": round(seconds, 1),
        "images_per_second": round(seen / seconds, 2),
        "dataset_version": index["dataset_version"],
        "collection": index["collection"],
        "modalities": index["modalities"],
        "split": index["split"],
        "preparation": index.get("preparation", {}) | index.get("prepared", {}),
        "pairs": {split: len(entries) for split, entries in index["splits"].items()},
        "subjects": {split: sorted({e["subject"] for e in entries}) for split, entries in index["splits"].items()},
        "hardware": _hardware(next(network.parameters()).device),
        "libraries": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    levels = _levels(index)
    Fuser(network, FuserConfig(network.strategy, network=config.network, levels=levels)).save(settings.model)
    (settings.model / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    (settings.model / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def _levels(index: dict[str, Any]) -> Any:
    """The levels by which the packed images were normalised, as shares of 255, so that fusion normalises alike."""
    return index.get("levels") and [[level / 255 for level in levels] for levels in index["levels"]]


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        # One write, so that two processes failing together do not mix their lines.
        os.write(sys.stderr.fileno(), f"InputError: {error}\n".encode())
        sys.exit(2)

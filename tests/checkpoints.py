"""Checkpoints of a training that tests make up, and what a folder holds of them."""

from pathlib import Path

import torch

from model.checkpoint_format import Checkpoint

IDENTITY = {"network": "dilran", "loss": {"gradient": 0.2}, "processes": 2}


def checkpoint(step: int, size: int = 50) -> Checkpoint:
    tensors = {"weights": torch.full((size,), float(step)), "random": torch.get_rng_state()[:80]}
    return Checkpoint(step, tensors, {"sampler": {"epoch": 1, "position": step}, "best": 0.1})


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.step, found.facts, set(found.tensors)) == (expected.step, expected.facts, set(expected.tensors))
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor), name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())

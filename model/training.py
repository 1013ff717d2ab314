"""The training loop: an autoencoder over single images, one process or many under torchrun.

    torchrun --nproc-per-node 2 -m components.train.worker settings.json

Every process sees its share of each epoch's shuffled images; DDP averages the gradients. What happens leaves the loop
through the `on_step` and `on_epoch` callbacks of rank 0.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from model.errors import InputError
from model.losses import TERMS, FusionLoss, LossWeights
from model.network import FusionNetwork
from model.pairs import PackedPairs
from model.vgg import FeatureStack


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are the published experiment's.

    `batch` counts single images a process and step, `crop` is the side of the random square crops in pixels (0: whole
    images), `learning_rate` is Adam's.
    """

    epochs: int = 100
    batch: int = 4
    crop: int = 0
    learning_rate: float = 1e-4
    seed: int = 3407
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        for name, value, least in (("epochs", self.epochs, 1), ("batch", self.batch, 1), ("crop", self.crop, 0)):
            if value < least:
                raise InputError(f"{name} is {value}; give at least {least}")
        if self.crop % 2 or 0 < self.crop < 16:
            raise InputError(f"crop is {self.crop}; give 0 for whole images or an even number from 16 up")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning rate is {self.learning_rate}; give a number between 0 and 1")


@dataclass(frozen=True)
class Singles:
    """Both modalities of a split, pooled into one set of single images: image 2i is CT of pair i, 2i + 1 its MRI."""

    pairs: PackedPairs

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def crops(self, indices: Tensor, corners: Tensor, size: int) -> Tensor:
        """Square crops (n, 1, size, size) in [0, 1] of the images at `indices`, top left at `corners` (n, 2)."""
        pixels = np.stack(
            [
                self.pairs.images[i // 2, i % 2, y : y + size, x : x + size]
                for i, (y, x) in zip(indices.tolist(), corners.tolist(), strict=True)
            ]
        )
        return torch.from_numpy(pixels)[:, None].float().div_(255)


StepCallback = Callable[[int, int, float], None]
EpochCallback = Callable[[dict[str, Any]], None]


def train(
    config: TrainingConfig,
    training: PackedPairs,
    validation: PackedPairs,
    features: FeatureStack,
    on_step: StepCallback = lambda step, steps, loss: None,
    on_epoch: EpochCallback = lambda record: None,
) -> FusionNetwork:
    """Train a network; the same configuration, data and number of processes give the same weights on one machine.

    `on_step(step, steps, loss)` and `on_epoch({"epoch", "step", "train": losses, "validation": losses})` are called on
    rank 0. Raises InputError if the data is too small for the crop or the batch, or if the loss is no longer finite.
    """
    rank, world = _rank_and_world()
    singles, size = Singles(training), config.crop or min(training.images.shape[-2:])
    if size > min(training.images.shape[-2:]):
        raise InputError(f"crop is {size}, the images have {training.images.shape[-2:]}; give a smaller crop")
    steps_an_epoch = len(singles) // (config.batch * world)
    if steps_an_epoch == 0:
        raise InputError(
            f"{len(singles)} training images do not fill one batch of {config.batch} in {world} processes;"
            " lower the batch"
        )
    with _determinism(config.seed):
        network = FusionNetwork()
        model: nn.Module = DistributedDataParallel(network) if world > 1 else network
        criterion = FusionLoss(config.loss, features)
        optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        for epoch in range(1, config.epochs + 1):
            sums = torch.zeros(len(TERMS))
            for step, batch in enumerate(_batches(config, singles, size, epoch, rank, world), 1):
                losses = criterion(model(batch), batch)
                optimiser.zero_grad()
                losses["total"].backward()
                optimiser.step()
                values = torch.stack([losses[term].detach() for term in TERMS])
                sums += values
                done = (epoch - 1) * steps_an_epoch + step
                _check_finite(values, done)
                if rank == 0:
                    on_step(done, config.epochs * steps_an_epoch, float(values[0]))
            record = {
                "epoch": epoch,
                "step": epoch * steps_an_epoch,
                "train": _averaged(sums / steps_an_epoch, world),
                "validation": _validate(network, criterion, Singles(validation), size, config.batch),
            }
            if rank == 0:
                on_epoch(record)
    return network


def _batches(
    config: TrainingConfig, singles: Singles, size: int, epoch: int, rank: int, world: int
) -> Iterator[Tensor]:
    """The batches of one epoch for one process: its share of a common shuffle, cropped and flipped."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(singles), generator=generator)
    height, width = singles.pairs.images.shape[-2:]
    corners = torch.stack(
        [torch.randint(0, side - size + 1, (len(singles),), generator=generator) for side in (height, width)], dim=1
    )
    flips = torch.rand(len(singles), generator=generator) < 0.5
    mine = order[rank::world]
    for start in range(0, len(singles) // (config.batch * world) * config.batch, config.batch):
        chosen = mine[start : start + config.batch]
        crops = singles.crops(chosen, corners[chosen], size)
        yield torch.where(flips[chosen][:, None, None, None], crops.flip(-1), crops)


@torch.no_grad()
def _validate(
    network: FusionNetwork, criterion: FusionLoss, singles: Singles, size: int, batch: int
) -> dict[str, float]:
    """The mean losses over the central crops of the validation images, normalised image by image as in fusion."""
    height, width = singles.pairs.images.shape[-2:]
    centre = torch.tensor([[(height - size) // 2, (width - size) // 2]])
    sums = torch.zeros(len(TERMS))
    for start in range(0, len(singles), batch):
        indices = torch.arange(start, min(start + batch, len(singles)))
        target = singles.crops(indices, centre.expand(len(indices), 2), size)
        losses = criterion(network(target, "image"), target)
        sums += torch.stack([losses[term] for term in TERMS]) * len(indices)
    return _named(sums / len(singles))


def _check_finite(values: Tensor, step: int) -> None:
    if not torch.isfinite(values).all():
        bad = next(
            term
            for term, value in zip(TERMS[1:] + TERMS[:1], values.roll(-1).tolist(), strict=True)
            if not math.isfinite(value)
        )
        raise InputError(f"the {bad} loss is no longer finite at step {step}; lower the learning rate")


def _averaged(values: Tensor, world: int) -> dict[str, float]:
    if world > 1:
        distributed.all_reduce(values)
        values /= world
    return _named(values)


def _named(values: Tensor) -> dict[str, float]:
    return dict(zip(TERMS, values.tolist(), strict=True))


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def _determinism(seed: int) -> Iterator[None]:
    """Seed torch for what follows, and leave its generator as it was found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

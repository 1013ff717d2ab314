"""The training loop: an autoencoder over single images, one process or many under torchrun.

    torchrun --nproc-per-node 2 -m components.train.worker settings.json

Every process sees its share of each epoch's shuffled images; DDP averages the gradients. What happens leaves the loop
through the `on_step` and `on_epoch` callbacks of rank 0. BatchNorm learns from each process's own batch; the statistics
that it stores are those of rank 0.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from model.errors import InputError
from model.losses import TERMS, FusionLoss, LossWeights
from model.network import Autoencoder
from model.networks import NETWORKS
from model.pairs import PackedPairs
from model.vgg import FeatureStack

SCHEDULES = ("constant", "cosine")
STATISTICS = ("batch", "image")
DEVICES = ("auto", "cpu", "cuda")
WARM_UP = 0.05


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are the published experiment's.

    `batch` counts single images a process and step, `crop` is the side of the random square crops in pixels (0: whole
    images), `learning_rate` is Adam's. `schedule` "constant" keeps it; "cosine" raises it linearly over the first
    twentieth of the steps and lets it fall to zero along half a cosine. `network` is a name in NETWORKS. `statistics`
    says whose mean and variance BatchNorm uses: those of the "batch", as published, or of each "image", as in fusion.
    `device` is "cpu", "cuda" (each process takes the GPU of its local rank) or "auto", a GPU where there is one.
    """

    epochs: int = 100
    batch: int = 4
    crop: int = 0
    learning_rate: float = 1e-4
    seed: int = 3407
    loss: LossWeights = field(default_factory=LossWeights)
    schedule: str = "constant"
    network: str = "dilran"
    statistics: Literal["batch", "image"] = "batch"
    device: str = "auto"

    def __post_init__(self) -> None:
        for what, chosen, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("network", self.network, tuple(NETWORKS)),
            ("statistics", self.statistics, STATISTICS),
            ("device", self.device, DEVICES),
        ):
            if chosen not in known:
                raise InputError(f"unknown {what} {chosen!r}; choose one of {', '.join(known)}")
        for name, value, least in (("epochs", self.epochs, 1), ("batch", self.batch, 1), ("crop", self.crop, 0)):
            if value < least:
                raise InputError(f"{name} is {value}; give at least {least}")
        multiple = max(2, NETWORKS[self.network].multiple)
        if self.crop % multiple or 0 < self.crop < 16:
            raise InputError(f"crop is {self.crop}; give 0 for whole images or a multiple of {multiple} from 16 up")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning rate is {self.learning_rate}; give a number between 0 and 1")

    def torch_device(self, local_rank: int = 0) -> torch.device:
        """The device of the process `local_rank` of this machine; raises InputError if it has no such GPU."""
        count = torch.cuda.device_count() if self.device != "cpu" else 0
        if local_rank < count:
            return torch.device("cuda", local_rank)
        if self.device == "cuda" or count:
            needed = f"{local_rank + 1} GPUs are needed, one a process, and {count} found"
            raise InputError(f"{needed}; lower processes, or set device to cpu")
        return torch.device("cpu")


@dataclass(frozen=True)
class Singles:
    """Both modalities of a split, pooled into a set of single images: 2i is the first of pair i, 2i + 1 its second."""

    pairs: PackedPairs

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image."""
        height, width = self.pairs.images.shape[-2:]
        return height, width

    def crops(self, indices: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
        """Crops (n, 1, *size), on the CPU in [0, 1], of the images at `indices`, top left at `corners` (n, 2)."""
        height, width = size
        pixels = np.stack(
            [
                self.pairs.images[i // 2, i % 2, y : y + height, x : x + width]
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
) -> Autoencoder:
    """Train a network; the same configuration, data and number of processes give the same weights on one machine.

    `on_step(step, steps, loss)` and `on_epoch({"epoch", "step", "train": losses, "validation": losses})` are called on
    rank 0. Raises InputError if the data is too small for the crop or the batch, or if the loss is no longer finite.
    """
    rank, world = _rank_and_world()
    device = config.torch_device(int(os.environ.get("LOCAL_RANK", "0")))
    steps = steps_an_epoch(config, training, world)
    singles, size = Singles(training), crop_size(config, training)
    with _determinism(config.seed):
        network: Autoencoder = NETWORKS[config.network]()
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model: nn.Module = DistributedDataParallel(network) if world > 1 else network
        criterion = FusionLoss(config.loss, features.to(device))
        optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(config.schedule, config.epochs * steps))
        for epoch in range(1, config.epochs + 1):
            sums = torch.zeros(len(TERMS), device=device)
            for step, batch in enumerate(_batches(config, singles, size, epoch, rank, world), 1):
                batch = batch.to(device)
                losses = criterion(model(batch, config.statistics), batch)
                optimiser.zero_grad()
                losses["total"].backward()
                optimiser.step()
                scheduler.step()
                values = torch.stack([losses[term].detach() for term in TERMS])
                sums += values
                done = (epoch - 1) * steps + step
                _check_finite(values, done)
                if rank == 0:
                    on_step(done, config.epochs * steps, float(values[0]))
            record = {
                "epoch": epoch,
                "step": epoch * steps,
                "train": _named(_summed(sums / steps, world) / world),
                "validation": _validate(network, criterion, Singles(validation), size, config.batch, rank, world),
            }
            if rank == 0:
                on_epoch(record)
    return network


def steps_an_epoch(config: TrainingConfig, training: PackedPairs, world: int) -> int:
    """How many steps each of `world` processes takes an epoch; raises InputError if the data is too small."""
    crop_size(config, training)
    images = 2 * len(training)
    if steps := images // (config.batch * world):
        return steps
    raise InputError(
        f"{images} training images do not fill batches of {config.batch} in {world} processes; lower the batch"
    )


def crop_size(config: TrainingConfig, pairs: PackedPairs) -> tuple[int, int]:
    """Height and width of a training crop; whole images lose the rows and columns that the network cannot divide."""
    height, width = pairs.images.shape[-2:]
    if config.crop > min(height, width):
        raise InputError(f"crop is {config.crop}, the images are {width}x{height}; give a smaller crop")
    if config.crop:
        return config.crop, config.crop
    multiple = max(2, NETWORKS[config.network].multiple)
    return height // multiple * multiple, width // multiple * multiple


def _schedule(name: str, steps: int) -> Callable[[int], float]:
    """The share of the learning rate at each step from 0."""
    if name == "constant":
        return lambda step: 1.0
    rising = max(1, round(steps * WARM_UP))
    return lambda step: min((step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0)))


def _batches(
    config: TrainingConfig, singles: Singles, size: tuple[int, int], epoch: int, rank: int, world: int
) -> Iterator[Tensor]:
    """The batches of one epoch for one process: its share of a common shuffle, cropped and flipped."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(singles), generator=generator)
    height, width = singles.size
    corners = torch.stack(
        [
            torch.randint(0, side - crop + 1, (len(singles),), generator=generator)
            for side, crop in zip((height, width), size, strict=True)
        ],
        dim=1,
    )
    flips = torch.rand(len(singles), generator=generator) < 0.5
    mine = order[rank::world]
    for start in range(0, len(singles) // (config.batch * world) * config.batch, config.batch):
        chosen = mine[start : start + config.batch]
        crops = singles.crops(chosen, corners[chosen], size)
        yield torch.where(flips[chosen][:, None, None, None], crops.flip(-1), crops)


@torch.no_grad()
def _validate(
    network: Autoencoder,
    criterion: FusionLoss,
    singles: Singles,
    size: tuple[int, int],
    batch: int,
    rank: int,
    world: int,
) -> dict[str, float]:
    """The mean losses over the central crops of the validation images, normalised image by image as in fusion."""
    network.eval()
    device = next(network.parameters()).device
    centre = torch.tensor([[(side - crop) // 2 for side, crop in zip(singles.size, size, strict=True)]])
    sums, mine = torch.zeros(len(TERMS), device=device), torch.arange(rank, len(singles), world)
    for start in range(0, len(mine), batch):
        indices = mine[start : start + batch]
        target = singles.crops(indices, centre.expand(len(indices), 2), size).to(device)
        losses = criterion(network(target, "image"), target)
        sums += torch.stack([losses[term] for term in TERMS]) * len(indices)
    network.train()
    return _named(_summed(sums, world) / len(singles))


def _check_finite(values: Tensor, step: int) -> None:
    if not torch.isfinite(values).all():
        bad = next(
            term
            for term, value in zip(TERMS[1:] + TERMS[:1], values.roll(-1).tolist(), strict=True)
            if not math.isfinite(value)
        )
        raise InputError(f"the {bad} loss is no longer finite at step {step}; lower the learning rate")


def _summed(values: Tensor, world: int) -> Tensor:
    if world > 1:
        distributed.all_reduce(values)
    return values


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

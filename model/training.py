"""The training loop: an autoencoder over single images, one process or many under torchrun.

    torchrun --nproc-per-node 2 -m components.train.worker settings.json

Every process takes its share of each step's images; DDP averages the gradients, so that N processes do what one does
with batches N times as large. (BatchNorm by the "batch" is the exception: it normalises by each process's own images.)
A training can be stopped at any step and go on later, from a checkpoint, as if nothing had been. What happens leaves
the loop through the callbacks, on rank 0.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from model.checkpoint_format import Checkpoint
from model.errors import InputError, Stopped
from model.losses import TERMS, FusionLoss
from model.network import Autoencoder
from model.networks import NETWORKS, make_network
from model.pairs import PackedPairs
from model.processes import check_same_step, distribute, local_rank, rank_and_world
from model.sampling import Sampler, Share, Singles, crops, read_ahead
from model.training_callbacks import Callbacks, Keeping, Record, StepReport, Trained
from model.training_config import TrainingConfig
from model.training_state import flatten, load_optimiser, random_state, restore, set_random_state
from model.vgg import FeatureStack

STEPS_BETWEEN_READS = {"cpu": 1, "cuda": 10}
"""A GPU computes ahead of the program; asking it for the losses at every step would make both wait for each other."""


def train(
    config: TrainingConfig,
    training: PackedPairs,
    validation: PackedPairs,
    features: FeatureStack,
    callbacks: Callbacks | None = None,
    keeping: Keeping | None = None,
) -> Trained:
    """Train a network; the same configuration, data and number of processes give the same weights on one machine.

    It goes on from the newest checkpoint if there is one. Raises Stopped once `keeping.stop` of any process says so and
    a checkpoint is saved; InputError if the data is too small for the crop or the processes, if the checkpoint is of
    another training, or if a loss or weight is no longer finite.
    """
    rank, world = rank_and_world()
    with _seeded(config.seed):
        run = _Training(config, training, validation, features, rank, world, keeping or Keeping())
        return run.to_the_end(callbacks or Callbacks())


def sampler(config: TrainingConfig, training: PackedPairs, world: int) -> Sampler:
    """What deals the training images out; raises InputError if they are too small or too few for `world` processes."""
    size, (height, width) = crop_size(config, training), training.images.shape[-2:]
    images, slack = 2 * len(training), (height - size[0], width - size[1])
    if images >= config.batch * world * config.accumulate:
        return Sampler(images, config.batch, world, config.accumulate, slack, config.seed)
    raise InputError(
        f"{images} training images do not fill one step: batches of {config.batch}, {config.accumulate} a step, in"
        f" {world} processes; lower the batch"
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


@dataclass
class _Progress:
    """Where the training stands, beyond the weights: all of it goes into a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    curves: list[Record] = field(default_factory=list)
    best: float = math.inf
    waited: int = 0
    """Epochs since the best validation loss."""


class _Training:
    """One process of a training: the network, its optimiser, and where both stand."""

    def __init__(
        self,
        config: TrainingConfig,
        training: PackedPairs,
        validation: PackedPairs,
        features: FeatureStack,
        rank: int,
        world: int,
        keeping: Keeping,
    ) -> None:
        self.config, self.rank, self.world, self.keeping = config, rank, world, keeping
        self.device = config.torch_device(local_rank())
        self.singles, self.validation = Singles(training), Singles(validation)
        self.size, self.sampler = crop_size(config, training), sampler(config, training, world)
        self.steps = config.epochs * self.sampler.steps
        self.rate = config.rate(self.steps)
        self.network: Autoencoder = make_network(config.network, config.width)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights: list[Tensor] = list(self.network.parameters())
        self.model = distribute(self.network) if world > 1 else self.network
        self.criterion = FusionLoss(config.loss, features.to(self.device))
        self.optimiser = torch.optim.Adam(self.weights, lr=config.learning_rate, fused=True)
        self.average = [weight.detach().clone() for weight in self.weights] if config.ema else []
        self.best: list[Tensor] = []
        self.progress = _Progress()
        self.sums = torch.zeros(len(TERMS), device=self.device, dtype=torch.float64)
        self.unread: list[Tensor] = []

    def to_the_end(self, callbacks: Callbacks) -> Trained:
        resumed = self._resume()
        while not self._is_over():
            self._epoch(callbacks)
        if self.best:
            _copy(self.best, self._validated())
        if self.average:
            _copy(self.average, self.weights)
        return Trained(self.network, self.progress.curves, self.progress.seconds, resumed)

    def _epoch(self, callbacks: Callbacks) -> None:
        """Train from where the progress stands to the end of that epoch, and validate."""
        finished, first = divmod(self.progress.step, self.sampler.steps)
        epoch = finished + 1
        if not first:
            self.sums.zero_()
        shares: Iterator[list[Share]] = self.sampler.epoch(epoch, self.rank, first)
        clock = _Clock(self.progress.seconds)
        for batches in read_ahead(self.singles, shares, self.device, self.size):
            self._step(batches)
            last = self.progress.step % self.sampler.steps == 0
            due = self._is_due()
            if last or due or len(self.unread) >= STEPS_BETWEEN_READS[self.device.type]:
                stopping = self._read(callbacks, epoch, clock)
                self.progress.seconds = clock.total()
                if (due or stopping) and not last:
                    self._save()
                if stopping and not last:
                    raise Stopped(f"stopped at step {self.progress.step} of {self.steps}")
        self._end_epoch(epoch, callbacks, clock)
        if self._is_due() or self.keeping.every == 0 or stopping or self._is_over():
            self._save()
        if stopping and not self._is_over():
            raise Stopped(f"stopped after epoch {epoch} of {self.config.epochs}")

    def _step(self, batches: list[tuple[Tensor, float]]) -> None:
        """One step of the optimiser over this process's batches; what it leaves on the device is read later."""
        losses = torch.zeros(len(TERMS), device=self.device)
        for number, (batch, weight) in enumerate(batches, 1):
            with self._without_averaging() if number < len(batches) else nullcontext():
                with self.config.autocast(self.device):
                    terms = self.criterion(self.model(batch, self.config.statistics).float(), batch)
                (terms["total"] * weight).backward()
            losses += torch.stack([terms[term].detach() for term in TERMS]) * weight
        norm = nn.utils.clip_grad_norm_(self.weights, self.config.clip) if self.config.clip else losses.new_zeros(())
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.progress.step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average:
            # At first it follows more closely, so that it soon forgets the random weights of the beginning.
            decay = min(self.config.ema, (1 + self.progress.step) / (10 + self.progress.step))
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        told = self._shared(losses, norm)
        self.sums += told[: len(TERMS)].double() * self.sampler.images_of(self.progress.step % self.sampler.steps)
        self.unread.append(told)
        self.progress.step += 1

    def _shared(self, losses: Tensor, norm: Tensor) -> Tensor:
        """The losses' mean over processes, the gradient's norm, and whether any process is to stop, in one exchange.

        The statistics that BatchNorm stores become their mean over processes by the way.
        """
        told = torch.cat((losses, norm[None].to(losses), losses.new_full((1,), float(self.keeping.stop()))))
        if self.world == 1:
            return told
        stored = [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]
        together = torch.cat((told, *(buffer.flatten() for buffer in stored)))
        distributed.all_reduce(together)
        together /= self.world
        parts = torch.split(together, [len(told), *(buffer.numel() for buffer in stored)])
        _copy([part.view_as(buffer) for part, buffer in zip(parts[1:], stored, strict=True)], stored)
        return parts[0]

    def _read(self, callbacks: Callbacks, epoch: int, clock: "_Clock") -> bool:
        """Fetch what the device was told since the last time, check and report it; whether it is time to stop."""
        rows = torch.stack(self.unread).tolist()
        first, self.unread = self.progress.step - len(rows), []
        for number, row in enumerate(rows, 1):
            _check_finite(row[: len(TERMS)], first + number)
        if self.rank == 0:
            counts = [self.sampler.images_of((first + number) % self.sampler.steps) for number in range(len(rows))]
            means = [
                sum(row[term] * n for row, n in zip(rows, counts, strict=True)) / sum(counts)
                for term in range(len(TERMS))
            ]
            losses, rate = dict(zip(TERMS, means, strict=True)), self.rate(self.progress.step - 1)
            speed = sum(counts) / clock.lap()
            callbacks.step(StepReport(self.progress.step, self.steps, epoch, losses, rate, rows[-1][-2], speed))
        return any(row[-1] > 0 for row in rows)

    def _end_epoch(self, epoch: int, callbacks: Callbacks, clock: "_Clock") -> None:
        with self._as_validated() as network:
            record: Record = {
                "epoch": epoch,
                "step": self.progress.step,
                "train": _named(self.sums / self.sampler.images),
                "validation": self._validate(),
            }
            self.progress.curves.append(record)
            if self.rank == 0:
                callbacks.epoch(record, network)
        self._judge(record["validation"]["total"])
        self.progress.seconds = clock.total()

    def _judge(self, loss: float) -> None:
        """Remember the weights if they are the best so far; meaningful only where somebody has patience."""
        if not self.config.patience:
            return
        self.progress.waited += 1
        if loss < self.progress.best:
            self.progress.best, self.progress.waited = loss, 0
            self.best = [weight.detach().clone() for weight in self._validated()]

    def _is_over(self) -> bool:
        return self.progress.step >= self.steps or 0 < self.config.patience <= self.progress.waited

    def _is_due(self) -> bool:
        """Whether a checkpoint is to be kept at this step."""
        return self.keeping.every > 0 and self.progress.step % self.keeping.every == 0

    def _validated(self) -> list[Tensor]:
        """The weights that are validated and kept: the moving average if there is one."""
        return self.average or self.weights

    @contextmanager
    def _as_validated(self) -> Iterator[Autoencoder]:
        """The network in eval mode with the weights that are validated."""
        trained = [weight.detach().clone() for weight in self.weights] if self.average else []
        if self.average:
            _copy(self.average, self.weights)
        self.network.eval()
        yield self.network
        self.network.train()
        if trained:
            _copy(trained, self.weights)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The mean losses over the central crops of the validation images, normalised image by image as in fusion."""
        singles, sums = self.validation, torch.zeros(len(TERMS), device=self.device, dtype=torch.float64)
        centre = torch.tensor([[(side - crop) // 2 for side, crop in zip(singles.size, self.size, strict=True)]])
        for indices in torch.split(torch.arange(self.rank, len(singles), self.world), self.config.batch):
            pixels, unflipped = singles.pixels(indices).to(self.device), torch.zeros(len(indices), dtype=torch.bool)
            corners = centre.expand(len(indices), 2)
            target = crops(pixels, corners.to(self.device), unflipped.to(self.device), self.size)
            with self.config.autocast(self.device):
                losses = self.criterion(self.network(target, "image").float(), target)
            sums += torch.stack([losses[term] for term in TERMS]).double() * len(indices)
        if self.world > 1:
            distributed.all_reduce(sums)
        return _named(sums / len(singles))

    def _without_averaging(self) -> Any:
        """The context in which gradients only add up in this process."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _save(self) -> None:
        """Keep a checkpoint, if anyone asked for them and the weights are worth it."""
        if self.keeping.checkpoints is None:
            return
        if not all(bool(torch.isfinite(weight).all()) for weight in self.weights):
            raise InputError(f"the weights are no longer finite at step {self.progress.step}; lower the learning rate")
        if self.rank == 0:
            self.keeping.checkpoints.save(self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "best": self.best,
            "sums": self.sums,
            "random": random_state(self.device),
        }
        return Checkpoint(self.progress.step, flatten("state", state), asdict(self.progress))

    def _resume(self) -> int:
        """Take the newest checkpoint up, if there is one; the step it is of."""
        found = self.keeping.checkpoints.latest() if self.keeping.checkpoints else None
        step = found.step if found else 0
        if self.world > 1:
            check_same_step(step, self.world, self.device)
        if found:
            state = restore("state", found.tensors)
            self.network.load_state_dict(state["network"])
            load_optimiser(self.optimiser, state["optimiser"])
            _copy(state["average"], self.average)
            self.best = [weight.to(self.device) for weight in state["best"]]
            self.sums.copy_(state["sums"])
            set_random_state(state["random"], self.device)
            self.progress = _Progress(**found.facts)
        if step > self.steps:
            raise InputError(
                f"the checkpoint is of step {step}, this training ends after {self.steps}; raise epochs, or name"
                " another folder for checkpoints"
            )
        return step


class _Clock:
    """Seconds of training, those before a resume counted in, and of the laps between reports."""

    def __init__(self, before: float) -> None:
        self._before, self._start = before, time.monotonic()
        self._lap = self._start

    def total(self) -> float:
        return self._before + time.monotonic() - self._start

    def lap(self) -> float:
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return max(seconds, 1e-9)


def _check_finite(values: list[float], step: int) -> None:
    by_term = dict(zip(TERMS, values, strict=True))
    # The terms before their sum, which says nothing about where it comes from.
    for term in (*TERMS[1:], TERMS[0]):
        if not math.isfinite(by_term[term]):
            raise InputError(f"the {term} loss is no longer finite at step {step}; lower the learning rate")


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _named(values: Tensor) -> dict[str, float]:
    return dict(zip(TERMS, values.tolist(), strict=True))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch for what follows, and leave its generator as it was found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield

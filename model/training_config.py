"""How to train: every choice of a training run, checked where it is made."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from model.errors import InputError, unknown_choice
from model.losses import LossWeights
from model.network import CHANNELS
from model.networks import NETWORKS, check_width

SCHEDULES = ("constant", "cosine")
STATISTICS = ("batch", "image")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
WARM_UP = 0.05


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the defaults are the published experiment's.

    `batch` counts single images a process and pass through the network; a step of the optimiser takes `accumulate` such
    batches of every process. `crop` is the side of the random square crops in pixels (0: whole images), `learning_rate`
    is Adam's. `schedule` "constant" keeps it; "cosine" raises it linearly over the first twentieth of the steps and
    lets it fall to zero along half a cosine. `network` is a name in NETWORKS. `statistics` says whose mean and variance
    BatchNorm uses: those of the "batch", as published, or of each "image", as in fusion. `device` is "cpu", "cuda"
    (each process takes the GPU of its local rank) or "auto", a GPU where there is one. `precision` of the passes
    through the networks is "float32", "bfloat16" (weights, losses and optimiser stay float32) or "auto", bfloat16 on a
    GPU that has it. `clip` bounds the norm of the gradient, `ema` is the decay of the moving average of the weights
    that is validated and kept in their place, `patience` how many epochs may pass without a better validation loss
    before the training stops and goes back to the best weights; 0 switches each of the three off. `width` counts the
    channels of dilran's encodings: a multiple of 8 from 8 to 256; other networks come in 64 only.
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
    precision: str = "float32"
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.0
    patience: int = 0
    width: int = CHANNELS

    def __post_init__(self) -> None:
        for what, chosen, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("network", self.network, tuple(NETWORKS)),
            ("statistics", self.statistics, STATISTICS),
            ("device", self.device, DEVICES),
            ("precision", self.precision, PRECISIONS),
        ):
            if chosen not in known:
                raise unknown_choice(what, chosen, known)
        for name, least in (("epochs", 1), ("batch", 1), ("accumulate", 1), ("crop", 0), ("patience", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}; give a whole number from 0 to {2**32 - 1}")
        check_width(self.network, self.width)
        multiple = max(2, NETWORKS[self.network].multiple)
        if self.crop % multiple or 0 < self.crop < 16:
            raise InputError(f"crop is {self.crop}; give 0 for whole images or a multiple of {multiple} from 16 up")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning rate is {self.learning_rate}; give a number between 0 and 1")
        if not 0 <= self.clip < math.inf:
            raise InputError(f"clip is {self.clip}; give the greatest norm of the gradient, or 0 for no bound")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema}; give a decay from 0 (no average) to below 1, such as 0.999")

    def torch_device(self, local_rank: int = 0) -> torch.device:
        """The device of the process `local_rank` of this machine; raises InputError if it has no such GPU."""
        count = torch.cuda.device_count() if self.device != "cpu" else 0
        if local_rank < count:
            return torch.device("cuda", local_rank)
        if self.device == "cuda" or count:
            needed = f"{local_rank + 1} GPUs are needed, one a process, and {count} found"
            raise InputError(f"{needed}; lower processes, or set device to cpu")
        return torch.device("cpu")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which the networks compute, which lowers their precision if that was asked for."""
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        lowered = self.precision == "bfloat16" or (self.precision == "auto" and able)
        return torch.autocast(device.type, torch.bfloat16, enabled=lowered)

    def rate(self, steps: int) -> Callable[[int], float]:
        """The learning rate of each step from 0 in a training of `steps` steps."""
        if self.schedule == "constant":
            return lambda step: self.learning_rate
        rising = max(1, round(steps * WARM_UP))
        return lambda step: (
            self.learning_rate * min((step + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1.0)))
        )

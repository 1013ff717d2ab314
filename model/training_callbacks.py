"""What goes into a training and out of it beside the data: callbacks, checkpoints, a call to stop, the result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.checkpoint import Checkpoints
from model.network import Autoencoder


@dataclass(frozen=True)
class StepReport:
    """How the training stands after `step` of `steps`: the mean losses of the images since the last report.

    `rate` is the learning rate, `norm` the gradient's before it was clipped (0 without `clip`), `images_per_second`
    counts all processes.
    """

    step: int
    steps: int
    epoch: int
    losses: dict[str, float]
    rate: float
    norm: float
    images_per_second: float


Record = dict[str, Any]
"""An epoch: {"epoch", "step", "train": losses, "validation": losses}."""


@dataclass(frozen=True)
class Callbacks:
    """What rank 0 tells while it trains; `epoch` gets the network as validated, in eval mode, to be left as it is."""

    step: Callable[[StepReport], None] = lambda report: None
    epoch: Callable[[Record, Autoencoder], None] = lambda record, network: None


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go, after every `every` steps (0: after each epoch), and who says that it is time to stop."""

    checkpoints: Checkpoints | None = None
    every: int = 0
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Trained:
    """A finished training: the network, one record an epoch, and the seconds of all its parts together.

    `resumed` is the step it went on from in this process, 0 if it began here.
    """

    network: Autoencoder
    curves: list[Record]
    seconds: float
    resumed: int

"""What a training tells while it runs: progress lines, live curves, and fused images of a few validation pairs."""

import copy
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil
import torch

from components.progress import Progress
from components.train.live import LiveRun
from model.fuser import Fuser, FuserConfig
from model.network import Autoencoder
from model.pairs import PackedPairs
from model.training_callbacks import Callbacks, Record, StepReport

PREVIEWS = 3
PREVIEW_SHARE = 0.02
"""Images are fused again only after so long that it takes no more of the time than this."""
SECONDS_BETWEEN_POINTS = 1.0


@dataclass
class Telemetry:
    """Follows one training of `epochs` epochs on `device` and tells of it, to MLflow too with `live`; for rank 0 alone.

    `config` says how the fused images are made: as whoever loads the model will make them.
    """

    live: LiveRun | None
    config: FuserConfig
    validation: PackedPairs
    epochs: int
    device: torch.device
    _progress: Progress = field(default_factory=lambda: Progress("train"), init=False)
    _pointed: float = field(default=0.0, init=False)
    _preview_due: float = field(default=0.0, init=False)
    _busy: Callable[[], float | None] = field(init=False)

    def __post_init__(self) -> None:
        self._busy = _utilisation(self.device)

    @property
    def callbacks(self) -> Callbacks:
        """What the training loop calls."""
        return Callbacks(step=self._step, epoch=self._epoch)

    def _step(self, report: StepReport) -> None:
        loss = f"loss {report.losses['total']:.4f}"
        try:
            self._progress(report.step, report.steps, f"{loss}, {report.images_per_second:.1f} images/s")
        except BrokenPipeError:  # whoever started the training is gone: it saves, and ends
            signal.raise_signal(signal.SIGTERM)
        now = time.monotonic()
        if not self.live or (report.step < report.steps and now - self._pointed < SECONDS_BETWEEN_POINTS):
            return
        self._pointed = now
        values = {f"step/{term}": value for term, value in report.losses.items()}
        values |= {"learning_rate": report.rate, "images_per_second": report.images_per_second}
        if report.norm:
            values["gradient_norm"] = report.norm
        if (busy := self._busy()) is not None:
            values["device_utilisation_percent"] = busy
        values["device_memory_mib"] = _memory(self.device) / 2**20
        self.live.metrics(values, report.step)

    def _epoch(self, record: Record, network: Autoencoder) -> None:
        if not self.live:
            return
        losses = {
            f"loss/{split}/{term}": value for split in ("train", "validation") for term, value in record[split].items()
        }
        self.live.metrics(losses | {"epoch": float(record["epoch"])}, record["step"])
        begin = time.monotonic()
        if begin >= self._preview_due or record["epoch"] == self.epochs:
            self._preview(self.live, record["step"], network)
            self._preview_due = begin + (time.monotonic() - begin) / PREVIEW_SHARE

    @torch.no_grad()
    def _preview(self, live: LiveRun, step: int, network: Autoencoder) -> None:
        fuser = Fuser(copy.deepcopy(network), self.config, device=str(self.device))
        for index in np.unique(np.linspace(0, len(self.validation) - 1, PREVIEWS).round().astype(int)):
            a, b = self.validation.batch([int(index)])
            fused = fuser.fuse(a, b).cpu().clamp(0, 1)
            side_by_side = torch.cat((a, b, fused), dim=-1)[0, 0]
            live.image(self.validation.entries[index]["name"], (side_by_side * 255).round().byte().numpy(), step)


def _memory(device: torch.device) -> float:
    """The most bytes that the training has held at once on the device: a GPU's, else the process's own now."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _utilisation(device: torch.device) -> Callable[[], float | None]:
    """What tells how busy the device was since it was last asked, in percent; None where that cannot be known."""
    if device.type == "cuda":
        return lambda: _gpu_utilisation(device)
    process, cores = psutil.Process(), torch.get_num_threads()
    process.cpu_percent()
    return lambda: process.cpu_percent() / cores


def _gpu_utilisation(device: torch.device) -> float | None:
    with suppress(Exception):  # the driver's library has many ways not to be there
        return float(torch.cuda.utilization(device))
    return None

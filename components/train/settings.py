"""What one training run is asked to do, as a file that every process of it reads."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model.errors import InputError
from model.losses import LossWeights
from model.training_config import TrainingConfig


@dataclass(frozen=True)
class Live:
    """How a run is shown while it trains, by the MLflow that MLFLOW_TRACKING_URI names: its experiment and its name.

    The address stands in no file, since it may hold a password. `tags` and `parameters` are the run's from its start,
    such as the run of the search that it is a part of.
    """

    experiment: str = "atlas-fusion"
    name: str = "training"
    tags: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A training run: the loop's configuration, the perceptual feature stack, its input and output folders.

    `processes` counts those of all nodes. `checkpoints` is a folder or s3://bucket/prefix of this run alone, "" for
    none; one is kept every `checkpoint_every` steps, 0 for each epoch. `live` is None for a training that MLflow need
    not know of. `code_version` is told with the model.
    """

    training: TrainingConfig
    perceptual: str
    processes: int
    packed: Path
    model: Path
    checkpoints: str = ""
    checkpoint_every: int = 0
    live: Live | None = None
    code_version: str = ""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise InputError(f"processes is {self.processes}; give at least 1")
        if self.checkpoint_every < 0:
            raise InputError(f"checkpoint_every is {self.checkpoint_every}; give steps, or 0 for every epoch")

    def json(self) -> str:
        """The settings as text."""
        return json.dumps(asdict(self), default=str)

    def write(self, path: Path) -> None:
        """Write the settings as JSON."""
        path.write_text(self.json())

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        training = TrainingConfig(**raw["training"] | {"loss": LossWeights(**raw["training"]["loss"])})
        folders = {name: Path(raw[name]) for name in ("packed", "model")}
        return cls(**raw | folders | {"training": training, "live": raw["live"] and Live(**raw["live"])})

    @property
    def tracking_uri(self) -> str:
        """The MLflow that this training is shown by; "" for none."""
        return os.environ.get("MLFLOW_TRACKING_URI", "") if self.live else ""

    @property
    def partial(self) -> Path:
        """Where the model folder is written before it takes its name."""
        return self.model.with_name(self.model.name + ".partial")

    @property
    def live_folder(self) -> Path:
        """What goes on with the training on this machine: MLflow's journal, and the checkpoints or copies of them."""
        if self.checkpoints and "://" not in self.checkpoints:
            return Path(self.checkpoints)
        return self.model.with_name(self.model.name + ".live")

    def identity(self, index: dict[str, Any]) -> dict[str, Any]:
        """What makes two trainings on packed data with this `index` the same: one may go on where the other ended.

        A training that keeps its learning rate may be given more epochs.
        """
        training = asdict(self.training)
        free = ("patience", "epochs") if self.training.schedule == "constant" else ("patience",)
        data = {key: index.get(key) for key in ("dataset_version", "collection", "split", "preparation", "levels")}
        return {
            "training": {name: value for name, value in training.items() if name not in free},
            "data": data,
            "perceptual": self.perceptual if self.training.loss.perceptual else "none",
            "processes": self.processes,
        }

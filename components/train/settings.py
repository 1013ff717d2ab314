"""What one training run is asked to do, as a file that every process of it reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from model.losses import LossWeights
from model.training import TrainingConfig


@dataclass(frozen=True)
class Settings:
    """A training run: the loop's configuration, the perceptual feature stack, its input and output folders."""

    training: TrainingConfig
    perceptual: str
    processes: int
    packed: Path
    model: Path

    def write(self, path: Path) -> None:
        """Write the settings as JSON."""
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        training = TrainingConfig(**raw["training"] | {"loss": LossWeights(**raw["training"]["loss"])})
        return cls(training, raw["perceptual"], raw["processes"], Path(raw["packed"]), Path(raw["model"]))

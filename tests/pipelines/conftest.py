"""The command line as tests call it, in this process and in the test's own folder; a model and a pair to fuse."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from model.fuser import Fuser
from model.network import FusionNetwork
from pipelines.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def fusion(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["fusion", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def refused(fusion):
    """Run the command line and give the one line with which it refuses its input."""

    def call(*arguments: object) -> str:
        done = fusion(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr

    return call


@pytest.fixture
def folder(tmp_path):
    """A model and a pair of 20x18 images."""
    torch.manual_seed(0)
    Fuser(FusionNetwork()).save(tmp_path / "model")
    for seed, name in enumerate(("ct.png", "mr.png")):
        levels = np.random.default_rng(seed).integers(0, 256, (18, 20), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / name)
    return tmp_path

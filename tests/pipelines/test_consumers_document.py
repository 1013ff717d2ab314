"""The examples of docs/consumers.md, run as they stand there: Python on a registered model, curl on `fusion serve`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.ingest.phantom import PhantomConfig, write_phantom
from model.fuser import Fuser
from tests.registered import make_folders, register

ROOT = Path(__file__).parents[2]


def examples(language):
    found = re.findall(r"<!-- (\w+) -->\n```\w+\n(.*?)```", (ROOT / "docs" / "consumers.md").read_text(), re.DOTALL)
    blocks = [code for kind, code in found if kind == language]
    assert len(blocks) == 2
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A local registry whose ct-mri-fusion has a champion."""
    root = tmp_path_factory.mktemp("store")
    folders = make_folders(root / "made")
    register(folders, f"sqlite:///{root}/mlflow.db", "ct-mri-fusion")
    return root


@pytest.fixture
def desk(tmp_path):
    """A folder with ct.png, mri.png and pet.png, all 64x64."""
    write_phantom(tmp_path / "heads", PhantomConfig(subjects=1, slices=1, size=64, seed=5))
    for modality, name in (("CT", "ct"), ("MRI", "mri")):
        (path,) = (tmp_path / "heads" / "CT-MRI" / modality).iterdir()
        shutil.move(path, tmp_path / f"{name}.png")
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "pet.png")
    return tmp_path


@pytest.fixture
def fused(store, desk):
    a, b = (torch.from_numpy(np.array(Image.open(desk / f"{name}.png")) / 255).float() for name in ("ct", "mri"))
    return Fuser.load(store / "made" / "model").fuse(a[None, None], b[None, None])[0, 0].numpy() * 255


def environment(store):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "OMP_NUM_THREADS": "1"}


@pytest.mark.integration
def test_the_python_examples(store, desk, fused):
    quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", examples("python")],
        cwd=desk,
        env=environment(store) | quiet,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert np.abs(np.array(Image.open(desk / "fused.png")) - fused).max() <= 0.51


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on this machine")
@pytest.mark.integration
def test_the_curl_examples(store, desk, fused):
    server = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", "models:/ct-mri-fusion@champion", "--port", "0"],
        env=environment(store) | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(desk / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = server.stdout.readline().split(" at ")[1].split("/invocations")[0]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", examples("shell")],
            cwd=desk,
            env=os.environ | {"URL": address},
            capture_output=True,
            text=True,
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    assert np.abs(np.array(Image.open(desk / "fused-rest.png")) - fused).max() <= 0.51
    grey, colour = json.loads((desk / "batch.json").read_text())["predictions"]
    assert np.shape(grey) == (64, 64) and np.shape(colour) == (64, 64, 3) and np.max(grey) > 255

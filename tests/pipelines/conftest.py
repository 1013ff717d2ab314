"""The command line as tests call it, in this process and the test's own folder; a pair to fuse, a dataset to import."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.ingest.pin import PAIRS, PIN, Pin, pairs_text, pin_text
from components.ingest.staging import listing
from components.ingest.version import tree_version
from model.fuser import Fuser
from model.network import FusionNetwork
from pipelines.cli import main
from tests.datasets import ask, git, write_tree

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def tree(tmp_path):
    """Five pairs of three subjects, as they might lie on a disk."""
    return write_tree(tmp_path / "elsewhere" / "images")


@pytest.fixture
def public(tmp_path, tree):
    """A git repository with those images deep inside, a hook and a link; returns its address and commit."""
    folder = tmp_path / "public"
    shutil.copytree(tree, folder / "Havard-Medical-Image-Fusion-Datasets")
    (folder / "README.md").write_text("images")
    (folder / "link").symlink_to("/etc/passwd")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "images")
    return f"file://{folder}", git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path, tree, public, monkeypatch, fusion):
    """A fresh clone that pins those images, which it does not have."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "ATLAS_FUSION", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    folder = tmp_path / "checkout"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    files = listing(tree)
    size = sum((tree / path).stat().st_size for path in files)
    meta = {"terms": "Free for research.", "source": {"git": public[0], "commit": public[1]}}
    (folder / PAIRS).write_text(pairs_text(files))
    (folder / PIN).write_text(pin_text(Pin(tree_version(files.items()), size, len(files), meta, files)))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "pin")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def uncached(monkeypatch):
    """Leave DVC's cache alone, which takes a process of DVC."""
    monkeypatch.setattr("components.ingest.importing.into_cache", lambda root: None)


@pytest.fixture
def bucket(s3_server, checkout, monkeypatch):
    """An empty server with one bucket, and the environment that leads there; yields the bucket's address."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    ask(f"{s3_server}/moto-api/reset")
    import boto3

    boto3.client("s3").create_bucket(Bucket="ours")
    return "s3://ours/at/dvc"

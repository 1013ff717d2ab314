"""The command line: its help, its parameters, and one line with exit code 2 for whatever is wrong with the input."""

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.fuser import Fuser
from model.network import FusionNetwork
from pipelines.cli import main
from pipelines.compile import compile_pipeline
from pipelines.parameters import PROFILES, Parameters, described

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


def test_every_pipeline_parameter_is_an_option_of_run(fusion, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = fusion("run", "--help").stdout
    for name, *_ in described():
        if name not in ("code_version", "git_commit"):
            assert f"--{name.replace('_', '-')} " in said, name


def test_the_pipeline_takes_exactly_the_described_parameters():
    from pipelines.training import training_pipeline

    signature = inspect.signature(training_pipeline.pipeline_func)
    described_defaults = {name: default for name, _, default, _ in described()}
    assert {name: p.default for name, p in signature.parameters.items()} == described_defaults
    for name, _, _, text in described():
        assert f"{name}: {text}" in training_pipeline.pipeline_func.__doc__


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_names_itself_and_only_known_parameters(profile: str):
    assert Parameters(**PROFILES[profile]).profile == profile


def test_the_committed_pipeline_is_the_compiled_one_byte_for_byte(tmp_path):
    for name in ("first.yaml", "second.yaml"):
        compile_pipeline(tmp_path / name)
    first = (tmp_path / "first.yaml").read_bytes()
    assert first == (tmp_path / "second.yaml").read_bytes()
    assert first == (ROOT / "pipelines" / "training.yaml").read_bytes(), "run `make compile` and commit the result"


def test_fuse_writes_the_fused_image_at_the_size_of_its_sources(folder, fusion):
    done = fusion("fuse", "ct.png", "mr.png", "-o", "out.png", "--model", "model")
    assert done.returncode == 0, done.stderr
    fused = Image.open(folder / "out.png")
    assert (fused.size, fused.mode) == ((20, 18), "L")
    other = fusion("fuse", "ct.png", "mr.png", "-o", "fer.png", "--model", "model", "--strategy", "fer")
    assert other.returncode == 0, other.stderr
    assert (folder / "fer.png").read_bytes() != (folder / "out.png").read_bytes()


def test_bad_input_to_fuse_is_one_line_and_writes_nothing(folder, refused):
    Image.new("L", (20, 20)).save(folder / "other.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (18, 20, 3), dtype=np.uint8)).save(folder / "colour.png")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "ct.png").read_bytes()[:200])
    before = sorted(folder.rglob("*"))
    model = ("--model", "model")
    cases = {
        ("ct.png", "absent.png", "-o", "o.png", *model): "no such image: absent.png",
        ("ct.png", "other.png", "-o", "o.png", *model): "ct.png is 20x18, other.png is 20x20",
        ("ct.png", "colour.png", "-o", "o.png", *model): "colour.png is in colour",
        ("text.png", "mr.png", "-o", "o.png", *model): "text.png is not an image",
        ("cut.png", "mr.png", "-o", "o.png", *model): "cut.png is damaged",
        ("ct.png", "mr.png", "-o", "nowhere/o.png", *model): "cannot write nowhere/o.png",
        ("ct.png", "mr.png", "-o", "/proc/o.png", *model): "cannot write /proc/o.png",
        ("ct.png", "mr.png", "-o", "o.png", "--model", "absent"): "absent holds no model",
        ("ct.png", "mr.png", "-o", "o.png"): "no model yet",
        ("ct.png", "mr.png", "-o", "o.png", "--model", "models:/none/1"): "no local MLflow store in runs",
        ("ct.png", "mr.png", "-o", "o.png", *model, "--strategy", "best"): "unknown fusion strategy 'best'",
        ("ct.png", "mr.png", "-o", "o.png", *model, "--batchnorm", "train"): "unknown BatchNorm statistics 'train'",
    }
    for arguments, words in cases.items():
        assert words in refused("fuse", *arguments)
    assert sorted(folder.rglob("*")) == before


def test_bad_input_to_run_is_one_line_before_anything_starts(tmp_path, fusion, refused):
    (tmp_path / "empty" / "CT-MRI" / "CT").mkdir(parents=True)
    (tmp_path / "file").touch()
    cases = {
        ("--data", "absent"): "no such data folder: absent",
        ("--data", "file"): "file is a file",
        ("--data", "empty"): "CT is empty",
        ("--profile", "slow"): "no profile 'slow'; choose one of quick, atlas",
        ("--strategies", "sfnn,best"): "unknown strategy best",
        ("--epochs", "0"): "epochs is 0",
        ("--learning-rate", "nan"): "learning rate is nan",
        ("--perceptual-weight", "-1"): "loss weights",
        ("--perceptual", "absent.safetensors"): "no feature stack 'absent.safetensors'",
        ("--processes", "0"): "processes is 0",
        ("--phantom-subjects", "0"): "subjects is 0",
        ("--model-name", "a/b"): "model name 'a/b'",
        ("--experiment", ""): "experiment has no name",
        ("--profile", "atlas"): "no such data folder: data",
    }
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in cases.items():
        assert words in refused("run", *arguments)
    assert sorted(tmp_path.rglob("*")) == before
    assert fusion("run", "--epochs", "many").returncode == 2
    assert "cannot write" in refused("run", "--runs", "file/runs")


def test_a_server_that_is_down_is_told_before_anything_starts(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("os.environ", os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert "http://127.0.0.1:9 does not answer" in refused("run")
    assert not list(tmp_path.iterdir())


def test_the_phantom_is_written_once_and_never_over_something_else(tmp_path, fusion, refused):
    small = ("--subjects", 1, "--slices", 2, "--size", 64)
    done = fusion("data", "phantom", "heads", *small)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote 2 pairs of 1 subjects to heads\n"
    assert len(list((tmp_path / "heads" / "CT-MRI" / "MRI").iterdir())) == 2
    assert "heads" in refused("data", "phantom", "heads", *small)
    assert "subjects" in refused("data", "phantom", "more", "--subjects", 0)


def test_the_installed_command_answers_help_and_refuses_like_any_program(tmp_path):
    command = Path(sys.executable).parent / "fusion"
    said = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(word in said for word in ("run", "compile", "fuse", "ui", "data"))
    done = subprocess.run(
        [command, "run", "--data", "absent"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: no such data folder: absent; check --data\n")


def test_ui_without_a_store_says_what_makes_one(tmp_path, refused):
    assert "`fusion run` makes one" in refused("ui")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_text("no database")
    assert "mlflow.db is no database" in refused("ui")

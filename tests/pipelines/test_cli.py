"""The command line: its help, its parameters, and one line with exit code 2 for whatever is wrong with the input."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.compile import compile_pipeline
from pipelines.parameters import PROFILES, Parameters, described

ROOT = Path(__file__).parents[2]


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

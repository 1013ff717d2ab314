"""The command line: its help, its parameters, and one line with exit code 2 for whatever is wrong with the input."""

import errno
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.cli import app
from pipelines.parameters import PROFILES, Parameters, described, with_profile

ROOT = Path(__file__).parents[2]


def test_every_pipeline_parameter_is_an_option_of_run(fusion, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = fusion("run", "--help").stdout
    for name, *_ in described():
        if name not in ("code_version", "git_commit"):
            assert f"--{name.replace('_', '-')} " in said, name


@pytest.mark.parametrize("group", [(), ("data",), ("models",), ("weights",), ("schedule",), ("runs",)])
def test_help_says_what_each_command_does_in_a_whole_sentence(fusion, monkeypatch, group):
    monkeypatch.setenv("COLUMNS", "80")
    lines = fusion(*group, "--help").stdout.partition("and exit.\n\n")[2].splitlines()
    commands = [line for line in lines if line and not line.endswith(":")]
    assert commands and all(line.startswith("  ") and line.endswith(".") for line in commands)
    assert not any("..." in line for line in commands)


def test_the_help_has_every_command_once_and_those_of_kubeflow_together(fusion):
    lines = fusion("--help").stdout.partition("and exit.\n\n")[2].splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("  ")]
    registered = [each.name or each.callback.__name__ for each in app.registered_commands]
    assert sorted(commands) == sorted([*registered, *(each.name for each in app.registered_groups)])
    begin = lines.index("Run on a cluster:")
    assert [line.split()[0] for line in lines[begin + 1 : begin + 5]] == ["compile", "submit", "schedule", "runs"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_names_itself_and_only_known_parameters(profile: str):
    assert Parameters(**PROFILES[profile]).profile == profile


def test_a_model_is_named_after_its_collection_unless_it_is_given_a_name():
    assert with_profile("quick", {"collection": "PET-MRI"}).model_name == "pet-mri-fusion-quick"
    assert with_profile("atlas", {}).model_name == "ct-mri-fusion"
    assert with_profile("atlas", {"collection": "PET-MRI", "model_name": "mine"}).model_name == "mine"


def test_bad_input_to_run_is_one_line_before_anything_starts(tmp_path, fusion, refused):
    (tmp_path / "empty" / "CT-MRI" / "CT").mkdir(parents=True)
    (tmp_path / "file").touch()
    cases = {
        ("--data", "absent"): "no such data folder: absent",
        ("--data", "file"): "file is a file",
        ("--data", "empty"): "CT is empty",
        ("--profile", "slow"): "unknown profile 'slow'; choose one of quick, atlas",
        ("--strategies", "sfnn,best"): "unknown fusion strategy 'best'; choose one of",
        ("--epochs", "0"): "epochs is 0",
        ("--learning-rate", "nan"): "learning rate is nan",
        ("--perceptual-weight", "-1"): "loss weights",
        ("--perceptual", "absent.safetensors"): "no feature stack 'absent.safetensors'",
        ("--processes", "0"): "processes is 0",
        ("--gpus", "two"): "gpus is 'two'; give a whole number, 0 for none",
        ("--gpus=-1",): "gpus is '-1'",
        ("--phantom-subjects", "0"): "subjects is 0",
        ("--model-name", "a/b"): "model name 'a/b'",
        ("--split", "fold:6/5"): "no fold 6 of 5",
        ("--split", "slices"): "unknown split 'slices'; choose subject, fold:K/N",
        ("--collection", "CT"): "unknown collection 'CT'",
        ("--collection", "PET-MRI"): "the phantom has CT-MRI pairs only",
        ("--collection", "SPECT-MRI", "--data", "absent", "--split", "paper"): "the paper split is of CT-MRI alone",
        ("--size", "8"): "size is 8",
        ("--size", "32"): "crop is 64, but size brings the images to 32x32",
        ("--normalise", "z-score"): "unknown normalise 'z-score'",
        ("--experiment", ""): "experiment has no name",
        ("--data-version", "latest"): "data_version is latest, which only s3://bucket/prefix has",
        ("--scheduled", "--data-version", "latest"): "data_version is latest, which only s3://bucket/prefix has",
        ("--data-version", "123"): "'123' is no version of a folder",
        ("--workspace", "s3://"): "'s3://' is no S3 address",
        ("--profile", "atlas"): "no such data folder: data",
    }
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in cases.items():
        assert words in refused("run", *arguments)
    assert sorted(tmp_path.rglob("*")) == before
    assert fusion("run", "--epochs", "many").returncode == 2
    assert "cannot write" in refused("run", "--runs", "file/runs")
    assert fusion("run", "--runs", "file/runs").stdout == ""


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
    environment = os.environ | {"MLFLOW_TRACKING_URI": ""}
    done = subprocess.run(
        [command, "run", "--data", "absent"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: no such data folder: absent; check --data\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "phantom", "n" * 300),
        ("data", "phantom", "file/heads"),
        ("ui", "--runs", "n" * 300),
        ("run", "--runs", "n" * 300),
        ("table", "--methods", "average", "-o", "n" * 300),
        ("weights", "train", "dilran-subject", "-o", "file/weights"),
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_a_place_that_cannot_be_used_is_named_with_the_reason(arguments, tmp_path, refused):
    (tmp_path / "file").touch()
    said = refused(*arguments)
    assert arguments[-1] in said
    assert ("File name too long" if "n" * 300 in arguments else "Not a directory") in said


def test_a_locked_folder_is_one_line(tmp_path, refused, monkeypatch):
    exists = Path.exists

    def locked(path, **options):
        if path.name == "heads":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", locked)
    assert f"cannot use {tmp_path}/locked/heads: Permission denied" in refused("data", "phantom", "locked/heads")


def test_a_defect_of_ours_keeps_its_traceback(fusion, monkeypatch):
    def lost(*arguments):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a file of ours")

    monkeypatch.setattr("pipelines.measure.measure_files", lost)
    with pytest.raises(FileNotFoundError):
        fusion("measure", "a.png", "b.png", "fused.png")


def test_a_line_break_in_a_name_is_shown_escaped(refused):
    said = refused("run", "--data", "a\nb\x1b[2J")
    assert said == "error: no such data folder: a\\nb\\x1b[2J; check --data\n"


PRINTS = ("-c", "from pipelines import cli; cli.app = lambda: print('done'); cli.main()")


@pytest.mark.parametrize("arguments", [("-m", "pipelines.cli", "--help"), ("-m", "pipelines.cli", "methods"), PRINTS])
def test_a_reader_that_has_left_ends_it_silently(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [("-m", "pipelines.cli", "--help"), PRINTS])
def test_a_full_disk_behind_standard_output_is_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: cannot write: No space left on device; make room, or write to another place\n"


def test_ui_without_a_store_says_what_makes_one(tmp_path, refused):
    assert "`fusion run` makes one" in refused("ui")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_text("no database")
    assert "mlflow.db is no database" in refused("ui")


def test_the_version_is_told_with_the_commit_in_under_a_third_of_a_second(tmp_path):
    command = [sys.executable, "-m", "pipelines.cli", "--version"]
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.3, seconds
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    known = f" (commit {commit})" if commit else ""
    assert done.stdout.replace("-dirty", "") == f"atlas-fusion {version('atlas-fusion')}{known}\n"

"""`fusion train`: a model by one command, which goes on where it was ended, and says what it cannot do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from model.errors import RESUMABLE
from tests.processes import at_work

FUSION = str(Path(sys.executable).parent / "fusion")
SMALL = ["--phantom-subjects", "3", "--phantom-slices", "2", "--crop", "32", "--batch", "2", "--processes", "1"]
ENVIRONMENT = os.environ | {"MLFLOW_TRACKING_URI": ""}


def fusion(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FUSION, *arguments], cwd=cwd, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def started(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    """A training that has a checkpoint."""
    command = [FUSION, "train", *SMALL, *arguments]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not list((cwd / "model.work").glob("checkpoints/step-*.safetensors")):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    return process


@pytest.mark.integration
def test_a_torchrun_that_is_killed_takes_its_worker_along_and_is_told_in_one_line(tmp_path):
    process = started("--epochs", "1000", "-o", "model", cwd=tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    (torchrun,) = [member for member in family if "components.train.torchrun" in member.cmdline()]
    torchrun.kill()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    last = "a process was killed by SIGKILL (out of memory?); the same command goes on from its last checkpoint"
    assert said.splitlines()[-1] == f"error: training failed: {last}"
    assert "Traceback (most recent call last):\n  File" not in said.partition("error:")[2]
    assert not psutil.wait_procs(family, timeout=300)[1]
    assert not (tmp_path / "model").exists()


@pytest.mark.integration
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGHUP, RESUMABLE)])
def test_a_command_that_is_killed_or_loses_its_terminal_leaves_a_checkpoint_and_no_process(tmp_path, number, code):
    command = [FUSION, "train", *SMALL, "--epochs", "1000", "--checkpoint-every", "9999", "-o", "model"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    kept = tmp_path / "model.work" / "checkpoints"
    while not (kept / "training.lock").exists():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert process.wait() == code
    assert len(list(kept.glob("step-*.safetensors"))) == 1


def importing(process: int, folder: Path) -> bool:
    return any("torch" in mapped.path for mapped in psutil.Process(process).memory_maps())


def beginning(process: int, folder: Path) -> bool:
    return (folder / "model.settings.json").exists()


@pytest.mark.parametrize("moment", [importing, beginning])
def test_a_signal_before_the_first_step_is_no_failure(tmp_path, moment: Callable[[int, Path], bool]):
    command = [FUSION, "train", *SMALL, "--epochs", "1000", "-o", "model"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not moment(process.pid, tmp_path):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == RESUMABLE, said
    assert "stopped" in said.splitlines()[-1] and "run it again" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.integration
def test_a_training_interrupted_goes_on_by_the_same_command_to_the_same_model(tmp_path):
    arguments = ["--epochs", "12", "-o"]
    process = started(*arguments, "model", cwd=tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == RESUMABLE, said
    assert "stopped a" in said and "run it again to go on" in said
    assert "Traceback" not in said
    assert not at_work(family)
    assert not (tmp_path / "model").exists()

    for name in ("model", "straight"):
        done = fusion("train", *SMALL, *arguments, name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"wrote {name}; use it with `fusion fuse A B -o OUT --model {name}`" in done.stdout
    resumed, straight = (load_file(tmp_path / name / "weights.safetensors") for name in ("model", "straight"))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert 0 < facts["resumed_at_step"] < facts["steps"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "straight"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--crop", "512"], "crop is 512"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "cuda"], "1 GPUs are needed, one a process, and 0 found; lower processes, or set device to cpu"),
        (["--batch", "5000"], "lower the batch"),
        (["--precision", "half"], "unknown precision 'half'; choose one of auto, float32, bfloat16"),
        (["--checkpoints", "gs://bucket/prefix"], "give a folder or s3://bucket/prefix"),
        (["--checkpoint-every", "-1"], "checkpoint_every is -1"),
        (["--checkpoints", "model/kept"], "checkpoints in model/kept would lie inside what training writes itself"),
        (["--checkpoints", "model.work"], "name a folder elsewhere"),
        (["-o", "file/model"], "cannot write file/model.work/train.lock: Not a directory"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_no_model(tmp_path, arguments: list[str], said: str):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "file").touch()
    done = fusion("train", *SMALL, "--epochs", "1", "-o", "model", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said in lines[0]
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("there", [Path.mkdir, lambda model: model.symlink_to("nowhere")])
def test_a_model_that_is_there_is_not_overwritten(tmp_path, there: Callable[[Path], None]):
    there(tmp_path / "model")
    done = fusion("train", "-o", "model", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: model is there already; move it away, or choose another folder with --output\n",
    )

"""A training that is killed or stopped goes on as if nothing had been: same weights, bit for bit, and same curves."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.exclusive import exclusive
from components.progress import parse
from components.train.settings import Settings
from model.errors import RESUMABLE, InputError
from model.pairs import PackedPairs
from model.training import train
from model.training_config import TrainingConfig
from model.vgg import feature_stack

CONFIG = TrainingConfig(epochs=3, batch=2, learning_rate=1e-3, seed=4, statistics="image", ema=0.9, patience=9)
STEPS = 18  # 12 images: 6 steps an epoch
LONG = 600  # seconds that only bound a hang
ROOT = Path(__file__).parents[2]
SIGNALLED = """
import os, runpy, sys
from components.train.telemetry import Telemetry
step, number = map(int, sys.argv[2:])
tell = Telemetry._step
def told(self, report):
    tell(self, report)
    if report.step == step:
        os.kill(os.getpid(), number)
Telemetry._step = told
runpy.run_module("components.train.worker", run_name="__main__")
"""


def start(module: str, settings: Settings, file: Path) -> "subprocess.Popen[str]":
    return started(["-m", module, str(file)], settings, file)


def signalled(settings: Settings, file: Path, step: int, number: signal.Signals) -> int:
    """The exit code of a worker that gets the signal at that very step."""
    process = started(["-c", SIGNALLED, str(file), str(step), str(int(number))], settings, file)
    process.communicate(timeout=LONG)
    return process.returncode


def started(arguments: list[str], settings: Settings, file: Path) -> "subprocess.Popen[str]":
    settings.write(file)
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def signal_at(process: "subprocess.Popen[str]", step: int, number: signal.Signals) -> tuple[int, str]:
    """Send the signal once the training has done `step` steps; its exit code and what it said."""
    assert process.stdout is not None
    for line in process.stdout:
        found = parse(line)
        if found and found[0] == "train" and found[1] >= step:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=LONG)
    return process.returncode, errors


def same(a: Path, b: Path) -> bool:
    one, other = (load_file(folder / "weights.safetensors") for folder in (a, b))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def end(process: "subprocess.Popen[str]") -> str:
    _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.integration
@pytest.mark.parametrize("every", [0, 4])
def test_a_training_killed_anywhere_ends_with_the_weights_of_one_never_killed(packed, tmp_path, every: int):
    worker = "components.train.worker"
    straight = Settings(CONFIG, "random", 1, packed, tmp_path / "straight")
    end(start(worker, straight, tmp_path / "straight.json"))
    killed = Settings(CONFIG, "random", 1, packed, tmp_path / "killed", str(tmp_path / "kept"), every)
    for step in (2, 9):
        assert signalled(killed, tmp_path / "killed.json", step, signal.SIGKILL) == -signal.SIGKILL
        assert not killed.model.exists()
    end(start(worker, killed, tmp_path / "killed.json"))
    assert same(straight.model, killed.model)
    assert json.loads((killed.model / "curves.json").read_text()) == json.loads(
        (straight.model / "curves.json").read_text()
    )
    facts = json.loads((killed.model / "training.json").read_text())
    assert facts["steps"] == STEPS
    assert 0 < facts["resumed_at_step"] < STEPS


@pytest.mark.integration
def test_two_processes_asked_to_stop_save_and_go_on_and_equal_one_with_the_twofold_batch(packed, tmp_path):
    launch = "components.train.launch"
    straight = Settings(CONFIG, "random", 2, packed, tmp_path / "straight")
    end(start(launch, straight, tmp_path / "straight.json"))
    stopped = Settings(CONFIG, "random", 2, packed, tmp_path / "stopped", str(tmp_path / "kept"), 100)
    code, errors = signal_at(start(launch, stopped, tmp_path / "stopped.json"), 1, signal.SIGTERM)
    assert code == RESUMABLE
    assert "Stopped: stopped a" in errors and "run it again to go on" in errors
    assert not stopped.model.exists()
    assert len(list((tmp_path / "kept").glob("step-*.safetensors"))) == 1
    end(start(launch, stopped, tmp_path / "stopped.json"))
    assert same(straight.model, stopped.model)

    # Sums are rounded in another order, which Adam's division magnifies where a gradient is next to nothing.
    config = TrainingConfig(epochs=3, batch=4, learning_rate=1e-3, seed=4, statistics="image", ema=0.9, patience=9)
    splits = [PackedPairs.open(packed, split) for split in ("train", "validation")]
    alone = train(config, *splits, feature_stack("random")).curves
    together = json.loads((straight.model / "curves.json").read_text())
    assert [record["step"] for record in together] == [record["step"] for record in alone] == [3, 6, 9]
    for one, two in zip(alone, together, strict=True):
        assert two["train"]["total"] == pytest.approx(one["train"]["total"], rel=0.01)
        assert two["validation"]["total"] == pytest.approx(one["validation"]["total"], rel=0.01)


@pytest.mark.integration
def test_another_trainings_checkpoint_is_refused_by_what_differs(packed, tmp_path):
    first = Settings(CONFIG, "random", 1, packed, tmp_path / "model", str(tmp_path / "kept"), 1)
    assert signalled(first, tmp_path / "s.json", 1, signal.SIGTERM) == RESUMABLE
    other = TrainingConfig(epochs=3, batch=2, learning_rate=1e-4, seed=4, statistics="image", ema=0.9, patience=9)
    process = start(
        "components.train.worker",
        Settings(other, "random", 1, packed, tmp_path / "model", str(tmp_path / "kept"), 1),
        tmp_path / "s.json",
    )
    _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 2
    assert "InputError:" in errors and "training.learning_rate is 0.001 there and 0.0001 here" in errors


def test_a_model_that_its_place_does_not_take_is_told_in_one_line_and_loses_no_checkpoint(packed, tmp_path):
    kept = tmp_path / "kept"
    settings = Settings(CONFIG, "random", 1, packed, tmp_path / ("m" * 250), str(kept))
    process = start("components.train.worker", settings, tmp_path / "s.json")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    (told,) = [line for line in errors.splitlines() if line.startswith("InputError: ")]
    assert "cannot write the model" in told and "run again to go on" in told and "Traceback" not in errors
    assert f"step-{STEPS:08d}.safetensors" in [path.name for path in kept.iterdir()]


def test_a_lock_that_its_holder_removes_lets_one_other_in(tmp_path, monkeypatch):
    file = tmp_path / "training.lock"
    with ExitStack() as holder:
        holder.enter_context(exclusive(file, "first"))

        def leave(seconds: float) -> None:
            file.unlink()
            holder.close()

        monkeypatch.setattr("components.exclusive.time.sleep", leave)
        with exclusive(file, "second"):
            monkeypatch.setattr("components.exclusive.SECONDS_FOR_THE_LAST", -1.0)
            with pytest.raises(InputError, match="third"), exclusive(file, "third"):
                pass


def test_as_many_processes_as_the_settings_are_for_must_be_started(packed, tmp_path):
    process = start("components.train.worker", Settings(CONFIG, "random", 2, packed, tmp_path / "m"), tmp_path / "s")
    assert "1 processes were started, the settings are for 2" in process.communicate(timeout=LONG)[1]
    assert process.returncode == 2

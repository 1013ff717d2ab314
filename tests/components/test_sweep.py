"""A search: its trials follow from its options, each is trained once however often it is interrupted, the best wins."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.exclusive import exclusive
from components.sweep.grid import NUMBERS_AND_CHOICES, Trial, parse_axes, parse_values, plan
from components.sweep.outcome import Outcome, Search
from components.sweep.running import Processes, check_parallel, run_trials
from components.sweep.runs import close_search, open_search
from components.sweep.score import check_measure
from components.sweep.steps import choose_step, plan_step, score_step, train_trial_step
from components.sweep.trial import Request
from components.tracking import connected
from model.errors import InputError
from model.fuser import Fuser, weights_sha256
from model.losses import LossWeights
from model.metrics import measure
from model.training_config import TrainingConfig

BASE = {name: getattr(TrainingConfig(), name) for name in NUMBERS_AND_CHOICES if not name.endswith("_weight")}
BASE |= {"gradient_weight": 0.2, "perceptual_weight": 0.0, "device": "cpu", "seed": 1}
ROOT = Path(__file__).resolve().parents[2]


class TestGrid:
    def test_a_grid_is_every_combination_in_order(self):
        trials = plan(BASE, parse_axes("learning_rate=1e-4,1e-3 width=32,64 gradient_weight=0.5"))
        assert [trial.choices for trial in trials] == [
            {"learning_rate": rate, "width": width} for rate in (1e-4, 1e-3) for width in (32, 64)
        ]
        assert [trial.number for trial in trials] == [1, 2, 3, 4]
        assert trials[2].name == "learning_rate=0.001 width=32"
        assert {trial.config.loss for trial in trials} == {LossWeights(gradient=0.5, perceptual=0.0)}
        assert trials[1].config.width == 64 and trials[1].config.learning_rate == 1e-4

    @given(st.integers(1, 12), st.integers(0, 2**32))
    def test_a_draw_is_of_the_grid_without_repeats_and_the_same_for_the_same_seed(self, count: int, seed: int):
        axes = parse_axes("learning_rate=1e-4,3e-4,1e-3 width=32,64 batch=2,4")
        grid = [trial.choices for trial in plan(BASE, axes)]
        drawn = [trial.choices for trial in plan(BASE, axes, count, seed)]
        assert drawn == [trial.choices for trial in plan(BASE, axes, count, seed)]
        assert len(drawn) == count and [choices for choices in grid if choices in drawn] == drawn

    def test_another_seed_draws_others(self):
        axes = parse_axes("learning_rate=1e-4,3e-4,1e-3 width=32,64 batch=2,4")
        assert len({str([t.choices for t in plan(BASE, axes, 3, seed)]) for seed in range(10)}) > 5

    def test_a_trial_survives_being_written(self):
        (trial, _) = plan(BASE, parse_axes("schedule=constant,cosine"))
        assert Trial.from_json(trial.to_json()) == trial

    @pytest.mark.parametrize(
        ("search", "said"),
        [
            ("", "nothing to search"),
            ("width=32", "nothing to search"),
            ("width=32,", "give a value, or several separated by commas"),
            ("width=", "give a value"),
            ("width=32,wide", "width is '32,wide'; give whole numbers"),
            ("learning_rate=1e-3,0.001", "learning_rate has the value 0.001 twice"),
            ("width=8,16 width=24,32", "names width twice"),
            ("depth=1,2", "search 'depth=1,2': write NAME=VALUE,VALUE with a name of network, width"),
            ("width", "write NAME=VALUE,VALUE"),
            ("network=dilran,msrpan width=32", "the trial network=msrpan: width is 32, but msrpan comes in 64 only"),
            ("width=32,33", "the trial width=33: width is 33; give a multiple of 8"),
            ("learning_rate=0.1,2", "learning rate is 2.0"),
        ],
    )
    def test_a_search_that_cannot_be_is_refused(self, search: str, said: str):
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            plan(BASE, parse_axes(search))

    @pytest.mark.parametrize("count", [-1, 5])
    def test_more_trials_than_the_grid_has_are_refused(self, count: int):
        with pytest.raises(InputError, match=f"trials is {count}, the grid has 4; give 1 to 4"):
            plan(BASE, parse_axes("width=8,16 batch=2,4"), count)

    @pytest.mark.parametrize("axis", ["gradient_weight=0.1,0.2", "perceptual_weight=0,0.2", "crop=32,64"])
    def test_the_loss_chooses_nothing_whose_meaning_it_changes(self, axis: str):
        with pytest.raises(InputError, match="losses of different meaning; choose qabf"):
            plan(BASE, parse_axes(axis), measure="loss")
        assert len(plan(BASE, parse_axes(axis), measure="qabf")) == 2

    def test_what_is_searched_over_are_the_loop_s_numbers_and_choices(self):
        from pipelines.parameters import SEARCHED, Parameters

        fields = set(TrainingConfig.__dataclass_fields__) - {"loss", "device", "seed"}
        assert set(NUMBERS_AND_CHOICES) == fields | {"gradient_weight", "perceptual_weight"}
        assert tuple(NUMBERS_AND_CHOICES) == SEARCHED
        assert all(type(getattr(Parameters(), name)) is kind for name, kind in NUMBERS_AND_CHOICES.items())
        assert parse_values("clip", "0, 1") == (0.0, 1.0)

    def test_a_measure_that_is_none_is_refused_with_those_there_are(self):
        with pytest.raises(InputError, match="unknown measure 'beauty'; choose loss or one of psnr, ssim"):
            check_measure("beauty")


def searched(values: Sequence[float | None], measure: str = "qabf") -> Search:
    trials = plan(BASE, {"width": [8 * (number + 1) for number in range(len(values))]})
    outcomes = [
        Outcome(trial, value, "" if value is not None else "it broke", {} if value is None else {"loss": 0.1})
        for trial, value in zip(trials, values, strict=True)
    ]
    return Search(measure, {"width": [trial.choices["width"] for trial in trials]}, 0, 1, outcomes)


class TestChoice:
    def test_the_best_has_the_highest_value_or_the_lowest_loss_and_of_equals_the_first(self):
        assert searched([0.1, None, 0.3, 0.3]).best.trial.number == 3
        assert searched([0.1, None, 0.3, 0.05], "loss").best.trial.number == 4
        assert searched([-2.0, -1.0]).best.trial.number == 2
        assert searched([0.0, -1.0]).best.trial.number == 1

    def test_a_search_of_which_nothing_is_left_says_why(self):
        with pytest.raises(InputError, match="no trial finished; the first: it broke"):
            _ = searched([None, None]).best

    def test_the_files_tell_of_every_trial(self, tmp_path: Path):
        searched([0.1, None]).write(tmp_path)
        told = json.loads((tmp_path / "sweep.json").read_text())
        assert (told["best"], told["split"], told["direction"]) == (1, "validation", "higher")
        assert [(trial["status"], trial["value"]) for trial in told["trials"]] == [("finished", 0.1), ("failed", None)]
        rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
        assert [(row["width"], row["qabf"], row["reason"]) for row in rows] == [
            ("8", "0.1", ""),
            ("16", "", "it broke"),
        ]
        searched([None, None]).write(tmp_path)
        assert json.loads((tmp_path / "sweep.json").read_text())["best"] is None
        assert "| 2 | 16 | failed: it broke |" in searched([0.1, None]).summary()


class TestParallel:
    def test_more_than_the_machine_has_is_said(self):
        cpus = len(os.sched_getaffinity(0))
        assert check_parallel(1, cpus + 1, "cpu") == [""]
        assert check_parallel(cpus, 1, "cpu") == [""] * cpus
        with pytest.raises(InputError, match=f"{cpus + 1} trials of 1 process need {cpus + 1} CPUs, and {cpus} found"):
            check_parallel(cpus + 1, 1, "cpu")
        with pytest.raises(InputError, match="parallel is 0; give at least 1"):
            check_parallel(0, 1, "cpu")

    def test_each_trial_has_gpus_of_its_own(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert check_parallel(2, 2, "auto") == ["0,1", "2,3"]
        with pytest.raises(InputError, match="3 trials of 2 processes need 6 GPUs, and 4 found"):
            check_parallel(3, 2, "cuda")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
        assert check_parallel(4, 1, "cuda") == ["7", "5", "3", "1"]


def requests(folder: Path, packed: Path, parent: str) -> list[Request]:
    """Three trials: a short one, one that must fail, since its crop is larger than the images, and a longer one."""
    base = BASE | {"epochs": 1, "batch": 2, "crop": 32, "learning_rate": 1e-3}
    trials = [
        Trial(number, choices, base | choices, parent)
        for number, choices in enumerate(
            ({"width": 8, "epochs": 1}, {"width": 128, "crop": 128}, {"width": 16, "epochs": 30}), 1
        )
    ]
    rest = "ssim", "random", 1, "", 0, "search", "", os.getpid()
    return [Request(trial, folder / f"{trial.number:03}", packed, *rest) for trial in trials]


RUN = """
import sys
from pathlib import Path
from components.exclusive import exclusive
from components.sweep.running import Processes, run_trials
from tests.components.test_sweep import requests

folder, packed, uri, parent = sys.argv[1:]
with exclusive(Path(folder) / "sweep.lock", "running") as lock:
    run_trials(
        requests(Path(folder), Path(packed), parent), [""], Processes(lock, uri),
        lambda number: lambda step, done, total, note: print(f"{number} at {done} of {total}", flush=True),
        lambda outcome: print(f"ended {outcome.trial.number} {outcome.status}", flush=True),
    )
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, packed: Path) -> SimpleNamespace:
    """A search that was killed in its third trial, and the same one again."""
    folder = tmp_path_factory.mktemp("search")
    uri = f"sqlite:///{folder}/mlflow.db"
    parent = open_search(uri, "search", "sweep-test", folder, {"width": "8,16"}, {})
    command = [sys.executable, "-c", RUN, str(folder), str(packed), uri, parent]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    before = []
    for line in first.stdout:
        before.append(line)
        if line.startswith("3 at"):
            first.kill()
            break
    first.wait()
    first.stdout.close()
    files = {path: path.stat().st_mtime_ns for path in folder.glob("001/**/*") if path.is_file()}
    outcomes: list[Outcome] = []
    with exclusive(folder / "sweep.lock", "running") as lock:
        run_trials(
            requests(folder, packed, parent),
            [""],
            Processes(lock, uri),
            lambda number: lambda *progress: None,
            outcomes.append,
        )
    search = Search("ssim", {"width": [8, 16, 128]}, 0, 1, sorted(outcomes, key=lambda each: each.trial.number))
    search.write(folder)
    close_search(uri, parent, search, folder)
    return SimpleNamespace(folder=folder, uri=uri, parent=parent, before=before, files=files, search=search)


@pytest.mark.integration
def test_a_finished_trial_is_not_trained_again_and_a_half_trained_one_goes_on(twice: SimpleNamespace):
    ended = [line.split()[1:] for line in twice.before if line.startswith("ended")]
    assert ended == [["1", "finished"], ["2", "failed"]]
    assert twice.files and {path: path.stat().st_mtime_ns for path in twice.files} == twice.files
    first, third = (json.loads((twice.folder / f"00{n}/model/training.json").read_text()) for n in (1, 3))
    assert first["resumed_at_step"] == 0
    assert 0 < third["resumed_at_step"] < third["steps"] == 30 * 6


@pytest.mark.integration
def test_a_failed_trial_is_told_with_its_reason_and_ends_nothing_else(twice: SimpleNamespace):
    assert [outcome.status for outcome in twice.search.outcomes] == ["finished", "failed", "finished"]
    assert twice.search.outcomes[1].reason == "crop is 128, the images are 64x64; give a smaller crop"


@pytest.mark.integration
def test_the_best_is_best_by_the_measure_of_the_fused_validation_pairs(twice: SimpleNamespace, packed: Path):
    pairs = torch.from_numpy(np.load(packed / "validation.npy")).float() / 255
    values = {}
    for outcome in (twice.search.outcomes[0], twice.search.outcomes[2]):
        fuser = Fuser.load(Path(outcome.model), fast=False)
        assert fuser.network.width == outcome.trial.choices["width"]
        fused = [fuser.fuse(pair[None, :1], pair[None, 1:]) for pair in pairs]
        each = [
            float(measure(pair[None, :1], pair[None, 1:], image, ["ssim"])["ssim"]["mean"])
            for pair, image in zip(pairs, fused, strict=True)
        ]
        values[outcome.trial.number] = fmean(each)
        assert outcome.value == pytest.approx(fmean(each), abs=1e-4)
    assert twice.search.best.trial.number == max(values, key=lambda number: values[number])


@pytest.mark.integration
def test_every_trial_is_a_run_below_the_search_s(twice: SimpleNamespace):
    with connected(twice.uri) as client:
        parent = client.get_run(twice.parent)
        children = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{twice.parent}'", order_by=["start_time"]
        )
        assert [run.info.run_id for run in children] == [
            outcome.run_id for outcome in twice.search.outcomes if outcome.run_id
        ]
        assert [run.data.params["width"] for run in children] == ["8", "16"]
        assert [run.info.status for run in children] == ["FINISHED", "FINISHED"]
        for run, outcome in zip(children, (twice.search.outcomes[0], twice.search.outcomes[2]), strict=True):
            assert run.data.metrics["validation/ssim"] == outcome.value
            curve = client.get_metric_history(run.info.run_id, "loss/validation/total")
            assert len(curve) == outcome.trial.settings["epochs"] == len({point.step for point in curve})
        assert parent.data.metrics["validation/ssim"] == twice.search.best.value
        assert parent.data.metrics["trials_failed"] == 1
        assert parent.data.tags["best_run_id"] == twice.search.best.run_id
        assert parent.info.status == "FINISHED"
        assert {file.path for file in client.list_artifacts(twice.parent)} == {"sweep.json", "trials.csv"}


@pytest.mark.integration
def test_a_pipeline_s_failed_trial_is_passed_on_as_such_and_the_best_is_copied(
    twice: SimpleNamespace, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    base = BASE | {"batch": 2, "epochs": 1}
    texts = plan_step("crop=32,128", 0, "ssim", base, "search")
    broken = tmp_path / "broken"
    reason = train_trial_step(texts[1], "random", 1, packed, broken, "", 0, "search", "")
    assert reason == "crop is 128, the images are 64x64; give a smaller crop"
    whole = Path(shutil.copytree(twice.folder / "001" / "model", tmp_path / "whole"))
    (whole / "trial.json").write_text(texts[0])
    models, scores = [broken, whole], [tmp_path / "1.json", tmp_path / "0.json"]
    told = [score_step(model, packed, "ssim", file) for model, file in zip(models, scores, strict=True)]
    assert told == [{"trial": "crop=128"}, {"trial": "crop=32", "ssim": twice.search.outcomes[0].value}]
    best = choose_step(models, scores, ("crop=32,128", 0, "ssim", 1), tmp_path / "best", tmp_path / "table")
    assert best.best.trial.choices == {"crop": 32}
    assert weights_sha256(tmp_path / "best") == weights_sha256(whole)
    told_of = json.loads((tmp_path / "table" / "sweep.json").read_text())["trials"]
    assert [(trial["status"], trial["reason"]) for trial in told_of] == [("finished", ""), ("failed", reason)]


def test_the_same_search_cannot_run_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("components.exclusive.SECONDS_FOR_THE_LAST", 0.0)
    lock = tmp_path / "sweep.lock"
    with exclusive(lock, "no"), pytest.raises(InputError, match="it is running"), exclusive(lock, "it is running"):
        pass
    with exclusive(lock, "the first has given it back"):
        pass


@pytest.mark.parametrize("place", ["/proc/new/sweep.lock", "/proc/sweep.lock"])
def test_a_place_that_takes_no_new_files_is_not_taken_for_a_search_that_runs(place: str):
    """/proc answers "no such file" of any new name, as a lock does that its holder removes meanwhile."""
    refused = pytest.raises(InputError, match=f"cannot write {place}: No such file .*choose another")
    with refused, exclusive(Path(place), "it is running"):
        pass

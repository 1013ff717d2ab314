"""`fusion runs`: what runs, how it went, and what can be done about it."""

import json
import signal
from contextlib import suppress

import pytest
from kfp_server import API
from wire import Fault, step

from pipelines.kubeflow.runs_display import duration
from pipelines.kubeflow.waiting import interruptible

BEGAN, ENDED = "2026-11-23T12:00:00Z", "2026-11-23T12:03:20Z"
PULL = 'Back-off pulling image "atlas-fusion:0.1.0"'


@pytest.fixture
def start(fusion, server):
    """Start a run and return its id."""

    def call(*options: str) -> str:
        done = fusion("submit", "--json", *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["run"]

    return call


def listed(fusion, *options: str) -> list[str]:
    done = fusion("runs", "list", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [run["id"] for run in json.loads(done.stdout)["runs"]]


def test_runs_are_listed_the_newest_first_by_experiment_and_state(fusion, server, start):
    first, second = start("--name", "first"), start("--name", "second", "--kfp-experiment", "trials")
    server.play(first, "FAILED", finished=ENDED)
    assert listed(fusion) == [second, first]
    assert listed(fusion, "--experiment", "trials") == [second]
    assert listed(fusion, "--state", "failed") == [first]
    assert listed(fusion, "--state", "RUNNING") == []
    table = fusion("runs", "list").stdout
    (line,) = [line for line in table.splitlines() if line.startswith(f"{first[:8]} ")]
    assert [word for word in ("failed", "first", "atlas-fusion") if word in line] == ["failed", "first", "atlas-fusion"]


def test_the_beginning_of_an_id_is_enough(fusion, server, start, refused):
    first, second = start(), start()
    assert json.loads(fusion("runs", "show", first[:8], "--json").stdout)["id"] == first
    assert fusion("runs", "stop", second[:8].upper()).stdout == f"run {second} is being stopped\n"
    server.runs["aaaa1"], server.runs["aaaa2"] = server.runs.pop(first), server.runs.pop(second)
    for id_ in ("aaaa1", "aaaa2"):
        server.runs[id_].run_id = id_
    assert "2 runs begin with aaaa; give more of the id" in refused("runs", "delete", "aaaa", "--yes")
    assert "no run '' at" in refused("runs", "delete", "", "--yes")
    assert len(server.runs) == 2


def test_an_archived_run_is_not_listed(fusion, server, start):
    run = start()
    server.runs[run].storage_state = "ARCHIVED"
    assert listed(fusion) == []


def test_pages(fusion, server, start):
    runs = [start() for _ in range(3)][::-1]
    assert listed(fusion, "--limit", "2") == runs[:2]
    assert "there are more" in fusion("runs", "list", "--limit", "2").stdout
    begun = json.loads(fusion("runs", "list", "--json", "--limit", "2").stdout)["next_page"]
    assert listed(fusion, "--limit", "2", "--page", begun) == runs[2:]
    # A server that gives less at a time than it is asked for.
    server.page_size = 1
    assert listed(fusion) == runs
    assert fusion("submit").returncode == 0, "its experiment and version are found on whatever page"
    assert len(server.experiments) == len(server.versions) == 1


def test_a_run_is_shown_with_parameters_steps_and_page(fusion, server, start):
    run = start("--epochs", "3")
    server.play(
        run,
        "RUNNING",
        {"task_id": "w", "display_name": "atlas-fusion-training-x7k2p", "state": "RUNNING"},
        {"task_id": "r", "display_name": "root", "state": "RUNNING", "start_time": BEGAN},
        {"task_id": "rd", "display_name": "root-driver", "state": "SUCCEEDED", "start_time": BEGAN},
        *step("validate", "RUNNING", ENDED),
        *step("ingest", "SUCCEEDED", BEGAN, ENDED, executor="SKIPPED"),
        {"task_id": "d", "display_name": "train-driver", "state": "SUCCEEDED"},
    )
    told = json.loads(fusion("runs", "show", run, "--json").stdout)
    assert [(each["name"], each["state"], each["from_cache"]) for each in told["steps"]] == [
        ("ingest", "succeeded", True),
        ("validate", "running", False),
        ("train", "pending", False),
    ]
    assert told["steps"][0]["seconds"] == 200
    assert told["parameters"]["epochs"] == 3
    shown = fusion("runs", "show", run).stdout
    assert f"page       {server.url}/#/runs/details/{run}" in shown
    assert "experiment atlas-fusion" in shown and "3 min 20 s" in shown


def test_the_message_of_an_image_that_cannot_be_pulled_is_passed_up(fusion, server, start):
    run = start()
    server.play(run, "RUNNING", *step("ingest", "RUNNING", BEGAN, error=PULL))
    told = json.loads(fusion("runs", "show", run, "--json").stdout)
    assert told["errors"] == [{"step": "ingest", "message": PULL}]
    assert f"error      ingest: {PULL}" in fusion("runs", "show", run).stdout


def test_the_message_of_a_run_or_of_an_unknown_part_of_it_is_passed_up(fusion, server, start):
    run = start()
    lost = {"task_id": "x", "display_name": "executor", "state": "FAILED", "error": {"message": "OOMKilled"}}
    server.play(run, "FAILED", *step("train", "FAILED", BEGAN, ENDED), lost, error="driver failed: no such secret")
    messages = [each["message"] for each in json.loads(fusion("runs", "show", run, "--json").stdout)["errors"]]
    assert messages == ["OOMKilled", "driver failed: no such secret"]


def test_of_a_failure_without_a_message_it_is_told_how_to_look_closer(fusion, server, start):
    run = start()
    server.play(run, "FAILED", *step("ingest", "SUCCEEDED", BEGAN, ENDED), *step("train", "FAILED", BEGAN, ENDED))
    command = f"kubectl describe pods --namespace kubeflow --selector pipeline/runid={run}"
    assert f"more       {command}\n" in fusion("runs", "show", run).stdout
    done = fusion("runs", "wait", run, "--poll", "0")
    assert done.returncode == 1
    assert done.stderr == f"error: run {run} failed: train failed, Kubeflow does not say why; `{command}` may\n"


def test_handlers_conditions_and_loops_are_no_steps(fusion, server, start):
    run = start("--pipeline", "retraining")
    names = ("exit-handler-1", "condition-2", "for-loop-3", "iteration", "iteration-item", "change", "train")
    server.play(run, "RUNNING", *(task for name in names for task in step(name, "RUNNING", BEGAN)))
    steps = json.loads(fusion("runs", "show", run, "--json").stdout)["steps"]
    assert [each["name"] for each in steps] == ["change", "train"]


def test_what_kubeflow_says_cannot_break_the_line_or_the_terminal(fusion, server, start):
    run = start("--name", "evil \x1b[31m\nname")
    server.play(run, "FAILED", *step("train", "FAILED", BEGAN, ENDED, error="one\ntwo\x1b]0;"))
    shown = fusion("runs", "show", run).stdout + fusion("runs", "list").stdout
    assert "\x1b" not in shown and "one\\ntwo" in shown


def test_a_loop_s_iterations_are_steps_of_their_own(fusion, server, start):
    run = start("--pipeline", "sweep")
    server.play(run, "RUNNING", *step("train-trial", "SUCCEEDED", BEGAN, ENDED), *step("train-trial", "RUNNING", ENDED))
    steps = json.loads(fusion("runs", "show", run, "--json").stdout)["steps"]
    assert [each["state"] for each in steps] == ["succeeded", "running"]


def test_stopping(fusion, server, start):
    run = start()
    assert "is being stopped" in fusion("runs", "stop", run).stdout
    assert server.runs[run].state == "CANCELING"
    server.play(run, "CANCELED", finished=ENDED)
    assert "has ended already: canceled" in fusion("runs", "stop", run).stdout


def test_a_failed_run_is_tried_again_and_a_good_one_not(fusion, server, start, refused):
    run = start()
    server.play(run, "FAILED", finished=ENDED)
    assert "is tried again" in fusion("runs", "retry", run).stdout
    assert server.runs[run].state == "RUNNING"
    server.play(run, "SUCCEEDED", finished=ENDED)
    assert "only failed or canceled ones" in refused("runs", "retry", run)


def test_deleting_asks_unless_told_not_to(fusion, server, start, refused):
    run = start()
    assert "say so with --yes" in refused("runs", "delete", run)
    assert run in server.runs
    # The answer to the first attempt is lost, and the second finds nothing: it is deleted.
    server.faults.append(Fault("DELETE", f"{API}/runs/.*", after=True))
    assert fusion("runs", "delete", run, "--yes").stdout == f"run {run} is deleted\n"
    assert not server.runs


@pytest.mark.parametrize("verb", ["show", "stop", "retry", "delete", "wait"])
def test_a_run_that_is_not_there(refused, nowhere, server, verb: str):
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert "no run 'abc'" in refused("runs", verb, "abc")


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--state", "lost"], "unknown state 'lost'; choose one of"), (["--experiment", "x"], "no experiment 'x'")],
)
def test_a_filter_that_fits_nothing(refused, nowhere, server, options: list[str], said: str):
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert said in refused("runs", "list", *options)


def test_of_a_filter_that_finds_nothing_it_is_not_said_that_there_are_no_runs(fusion, start):
    start()
    assert fusion("runs", "list", "--state", "failed").stdout == "no such runs\n"


def test_the_ui_may_be_elsewhere(fusion, nowhere, server, start):
    nowhere.setenv("FUSION_KFP_UI", "https://kubeflow.example.org/pipeline/")
    run = start()
    told = json.loads(fusion("runs", "show", run, "--json").stdout)
    assert told["page"] == f"https://kubeflow.example.org/pipeline/#/runs/details/{run}"


def test_durations():
    assert [duration(each) for each in (None, 0.4, 59.6, 200, 7500)] == [
        "-",
        "0 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]


def test_a_ctrl_c_that_python_drops_ends_the_waiting_at_the_next_pause():
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started this in the background
    with interruptible() as pause:
        pause(0.0)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            pause(0.0)
    assert signal.getsignal(signal.SIGINT) is before

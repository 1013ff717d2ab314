"""`fusion schedule`: when runs start, that one name is one schedule whatever happens, and what is told of it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import kfp_server_api as kfp
import pytest
from kfp_server import API
from wire import COMMIT, Fault

from components.code import code_version
from pipelines.kubeflow import packages, schedules
from pipelines.kubeflow.access import Access
from pipelines.kubeflow.client import Kubeflow
from pipelines.kubeflow.cron import Cron
from pipelines.kubeflow.schedules import When, replace

ROOT = Path(__file__).parents[2]
WEEKLY = ("--cron", "30 2 * * mon")


def only(things: dict):
    (thing,) = things.values()
    return thing


def create(fusion, name: str, *options: str):
    done = fusion("schedule", "create", name, *options)
    assert done.returncode == 0, done.stderr
    return done


def test_a_schedule_runs_this_commit_by_the_clock(fusion, server):
    done = create(fusion, "weekly", *WEEKLY, "--epochs", "3")
    schedule, version = only(server.schedules), only(server.versions)
    assert schedule.trigger.cron_schedule.cron == "0 30 2 * * 1"
    assert schedule.status == "ENABLED"
    assert (schedule.max_concurrency, schedule.no_catchup) == ("1", True)
    assert schedule.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert schedule.runtime_config.parameters == {"epochs": 3, "git_commit": COMMIT, "code_version": code_version()}
    assert "runs       at 02:30 on every Monday\n" in done.stdout
    assert "is created\n" in done.stdout
    told = json.loads(create(fusion, "weekly", *WEEKLY, "--epochs", "3", "--json").stdout)
    assert (told["version"], told["done"], told["id"]) == (COMMIT[:12], "unchanged", schedule.recurring_run_id)
    times = [line.split()[1:5] for line in done.stdout.splitlines() if line.startswith("next")]
    assert [(day, time, zone) for day, _, time, zone in times] == [("Mon", "02:30:00", "UTC")] * 3
    dates = [datetime.fromisoformat(f"{date}T{time}+00:00") for _, date, time, _ in times]
    assert [(after - before).days for before, after in pairwise(dates)] == [7, 7]
    assert datetime.now(UTC) < dates[0]


def test_the_next_times_are_told_in_the_scheduler_s_zone_and_in_utc(fusion, server):
    done = create(fusion, "weekly", "--cron", "30 2 1 7 *", "--time-zone", "Europe/Berlin")
    assert "02:30:00 CEST (" in done.stdout and "00:30:00 UTC)" in done.stdout


def test_an_interval(fusion, server):
    done = create(fusion, "daily", "--every", "24h")
    schedule = only(server.schedules)
    assert (schedule.trigger.periodic_schedule.interval_second, schedule.trigger.cron_schedule) == ("86400", None)
    assert "runs       every 24 hours" in done.stdout


def test_following_the_latest_leaves_version_and_code_to_it(fusion, server, monkeypatch):
    create(fusion, "latest", *WEEKLY, "--follow-latest", "--epochs", "3")
    reference = only(server.schedules).pipeline_version_reference
    assert reference.pipeline_id and not reference.pipeline_version_id
    # These would keep the cache of the version that was the latest when the schedule was made.
    assert only(server.schedules).runtime_config.parameters == {"epochs": 3}
    monkeypatch.setattr(packages, "git_commit", lambda: "f" * 40)
    assert fusion("submit", "--pipeline", "retraining", "--upload-only").returncode == 0
    monkeypatch.setattr(packages, "git_commit", lambda: "e" * 40)
    done = create(fusion, "latest", *WEEKLY, "--follow-latest", "--epochs", "3")
    assert "the latest version, now ffffffffffff" in done.stdout, "an older checkout does not become the latest"
    assert "is unchanged" in done.stdout


def test_a_checkout_with_changes_may_follow_the_latest_version_that_is_there(fusion, server, monkeypatch):
    monkeypatch.setattr(packages, "git_commit", lambda: f"{COMMIT}-dirty")
    done = fusion("schedule", "create", "latest", *WEEKLY, "--follow-latest")
    assert done.returncode == 2 and "the checkout has changes that no commit holds" in done.stderr
    assert not server.versions and not server.schedules, "what is refused is the first version"
    monkeypatch.setattr(packages, "git_commit", lambda: COMMIT)
    assert fusion("submit", "--pipeline", "retraining", "--upload-only").returncode == 0
    monkeypatch.setattr(packages, "git_commit", lambda: f"{COMMIT}-dirty")
    create(fusion, "latest", *WEEKLY, "--follow-latest")
    assert only(server.versions).name == COMMIT[:12], "nothing of the checkout is used"
    assert only(server.schedules).runtime_config.parameters in (None, {})
    assert fusion("schedule", "create", "weekly", *WEEKLY).returncode == 2


def test_parameters_must_fit_the_latest_version(fusion, server):
    create(fusion, "latest", *WEEKLY, "--follow-latest")
    inputs = only(server.versions).pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    del inputs["epochs"]
    done = fusion("schedule", "create", "latest", *WEEKLY, "--follow-latest", "--epochs", "3")
    assert done.returncode == 2
    assert "has no parameter epochs" in done.stderr


def test_the_same_again_changes_nothing(fusion, server):
    create(fusion, "weekly", *WEEKLY, "--gradient-weight", "1")
    before = list(server.schedules)
    assert "is unchanged" in create(fusion, "weekly", *WEEKLY, "--gradient-weight", "1").stdout
    assert list(server.schedules) == before


def test_another_account_replaces_it(fusion, server):
    create(fusion, "weekly", *WEEKLY)
    done = create(fusion, "weekly", *WEEKLY, "--service-account", "pipeline-runner")
    assert "is replaced" in done.stdout
    assert only(server.schedules).service_account == "pipeline-runner"
    assert "is unchanged" in create(fusion, "weekly", *WEEKLY, "--service-account", "pipeline-runner").stdout


def test_another_time_replaces_it_with_never_two_at_work(fusion, server):
    create(fusion, "weekly", *WEEKLY)
    (old,) = server.schedules
    server.history.clear()
    assert "is replaced" in create(fusion, "weekly", "--cron", "0 3 * * *").stdout
    schedule = only(server.schedules)
    assert schedule.recurring_run_id != old and schedule.trigger.cron_schedule.cron == "0 0 3 * * *"
    states = [[enabled for _, enabled in each] for each in server.history]
    assert states == [[True, False], [False, False], [False, True], [True]]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("POST", "/.*:disable"), ("POST", "/.*:enable"), ("DELETE", "/.*")],
)
@pytest.mark.parametrize("after", [False, True], ids=["not done", "done"])
def test_a_replacement_that_ends_half_way_leaves_at_most_one_and_is_finished_by_the_next(
    fusion, server, method: str, path: str, after: bool
):
    create(fusion, "weekly", *WEEKLY)
    server.history.clear()
    server.faults.append(Fault(method, f"{API}/recurringruns{path}", 500, {"message": "down"}, 1, after=after))
    done = fusion("schedule", "create", "weekly", "--cron", "0 3 * * *")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert len(server.active) <= 1
    create(fusion, "weekly", "--cron", "0 3 * * *")
    assert only(server.schedules).trigger.cron_schedule.cron == "0 0 3 * * *"
    assert len(server.active) == 1
    assert all(sum(enabled for _, enabled in each) <= 1 for each in server.history)


@pytest.mark.integration
@pytest.mark.parametrize("path", [":disable", ":enable"])
def test_a_replacement_that_is_killed_leaves_at_most_one_and_is_finished_by_the_next(fusion, server, path: str):
    create(fusion, "weekly", *WEEKLY)
    server.requests.clear()
    # The server does what it is asked for, and its answer finds nobody.
    server.faults.append(Fault("POST", f"{API}/recurringruns/.*{path}", after=True, hang=True))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "schedule", "create", "weekly", "--every", "24h", "--allow-dirty"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FUSION_KFP_HOST": server.url},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    assert server.until(lambda: server.asked("POST", f"/recurringruns/.*{path}"))
    process.kill()
    process.wait(60)
    assert len(server.active) <= 1
    assert "is replaced" in create(fusion, "weekly", "--every", "12h").stdout
    assert only(server.schedules).trigger.periodic_schedule.interval_second == "43200"
    assert len(server.active) == 1


def test_who_is_left_with_a_half_replaced_schedule_is_told_so(fusion, server):
    create(fusion, "weekly", *WEEKLY)
    server.faults.append(Fault("POST", f"{API}/recurringruns/.*:enable", 403, {"message": "no"}))
    done = fusion("schedule", "create", "weekly", "--cron", "0 3 * * *")
    assert "the schedule weekly is half replaced; the same command again finishes it" in done.stderr


def test_a_time_that_is_about_to_come_is_let_pass_first(server, fusion, monkeypatch):
    monkeypatch.setattr(schedules, "_QUIET", 40.0)
    create(fusion, "often", "--cron", "* * * * * *")
    old = only(server.schedules)
    paused, seen = [], []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        seen.append(len(server.schedules))

    wanted = kfp.V2beta1RecurringRun(
        display_name="often",
        experiment_id=old.experiment_id,
        pipeline_version_reference=old.pipeline_version_reference,
        runtime_config=kfp.V2beta1RuntimeConfig(parameters={}),
        trigger=When(Cron.parse("0 3 * * *")).trigger(),
        max_concurrency="1",
        no_catchup=True,
    )
    replace(Kubeflow(Access(server.url)), wanted, enabled=True, pause=pause)
    assert seen == [1], "it waits before anything is changed"
    assert 40 <= paused[0] <= 41.1


def test_who_waits_for_such_a_time_is_told_so(fusion, server, monkeypatch):
    create(fusion, "often", "--cron", "* * * * * *")
    waited = []
    monkeypatch.setattr(schedules, "_QUIET", 40.0)
    monkeypatch.setattr("time.sleep", waited.append)
    done = create(fusion, "often", "--every", "24h")
    assert f"a run is about to start; the schedule is changed after it, in {waited[0]:.0f} s" in done.stderr


def test_another_s_schedule_stays(fusion, server):
    create(fusion, "weekly", *WEEKLY)
    create(fusion, "weekly-2", *WEEKLY)
    assert len(server.active) == 2


def test_pause_and_resume(fusion, server):
    create(fusion, "weekly", *WEEKLY, "--disabled")
    assert not server.active
    for verb, active in (("resume", 1), ("resume", 1), ("pause", 0), ("pause", 0)):
        assert fusion("schedule", verb, "weekly").returncode == 0
        assert len(server.active) == active


def test_of_two_with_one_name_none_is_resumed_and_both_are_deleted(fusion, server):
    create(fusion, "weekly", *WEEKLY, "--disabled")
    create(fusion, "other", *WEEKLY, "--disabled")
    for each in server.schedules.values():
        each.display_name = "weekly"
    done = fusion("schedule", "resume", "weekly")
    assert done.returncode == 2 and "2 schedules are called weekly" in done.stderr
    done = fusion("schedule", "show", "weekly", "--json")
    assert (done.returncode, done.stdout) == (2, ""), "two values one behind the other are no JSON"
    assert not server.active
    done = fusion("schedule", "delete", "weekly")
    assert done.returncode == 2 and "say so with --yes" in done.stderr and len(server.schedules) == 2
    assert fusion("schedule", "delete", "weekly", "--yes").returncode == 0
    assert not server.schedules


def test_list_and_show(fusion, server):
    assert "no schedules" in fusion("schedule", "list").stdout
    create(fusion, "weekly", *WEEKLY, "--epochs", "3")
    create(fusion, "paused", "--every", "7d", "--disabled", "--follow-latest")
    listed = fusion("schedule", "list").stdout
    (weekly,) = [line for line in listed.splitlines() if line.startswith("weekly ")]
    (paused,) = [line for line in listed.splitlines() if line.startswith("paused ")]
    assert " on " in weekly and "at 02:30 on every Monday" in weekly and "02:30" in weekly
    assert "every week" in paused and "latest" in paused
    told = {each["name"]: each for each in json.loads(fusion("schedule", "list", "--json").stdout)}
    assert (told["weekly"]["cron"], told["weekly"]["max_concurrency"]) == ("0 30 2 * * 1", 1)
    assert not told["weekly"]["catches_up"] and told["weekly"]["enabled"] and not told["paused"]["enabled"]
    assert told["paused"]["interval_seconds"] == 7 * 86400 and told["paused"]["follows_latest"]
    shown = fusion("schedule", "show", "weekly").stdout
    assert "parameter  epochs = 3" in shown and shown.count("next ") == 3
    assert "cron       0 30 2 * * 1 (seconds first)" in shown


def test_a_schedule_that_somebody_else_made_is_listed_too(fusion, server):
    create(fusion, "theirs", *WEEKLY)
    only(server.schedules).trigger.cron_schedule.cron = "0 0 0 L * ?"
    assert "0 0 0 L * ?" in fusion("schedule", "list").stdout
    assert fusion("schedule", "show", "theirs").returncode == 0


def test_a_dry_run_says_when_and_asks_nobody(run_command):
    done = run_command("schedule", "create", "weekly", *WEEKLY, "--dry-run")
    assert "weekly would run atlas-fusion-retraining at 02:30 on every Monday" in done.stdout
    assert done.stdout.count("next ") == 3
    told = json.loads(run_command("schedule", "create", "daily", "--every", "24h", "--dry-run", "--json").stdout)
    assert (told["when"], len(told["next_utc"])) == ("every 24 hours", 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --cron EXPRESSION or --every INTERVAL"),
        ([*WEEKLY, "--every", "24h"], "one of the two"),
        (["--cron", "30 2 * *"], "has 4 fields"),
        (["--cron", "0 0 31 2 *"], "never comes true"),
        (["--every", "10s"], "--every 10s is no interval from a minute on"),
        ([*WEEKLY, "--time-zone", "Europe/Atlantis"], "no time zone 'Europe/Atlantis'"),
        ([*WEEKLY, "--epochz", "3"], "did you mean --epochs?"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(refused, nowhere, server, options: list[str], said: str):
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert said in refused("schedule", "create", "weekly", *options)
    assert not server.requests


def test_options_before_the_name_are_not_taken_for_it(refused):
    assert "'--epochs' is no name of a schedule; give the name first" in refused(
        "schedule", "create", "--epochs", "3", "weekly", *WEEKLY
    )


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "delete"])
def test_a_schedule_that_is_not_there(refused, nowhere, server, verb: str):
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert "no schedule 'weekly'" in refused("schedule", verb, "weekly")

"""`fusion submit`: what arrives at Kubeflow, what is checked before, and that twice is as once."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from kfp_server import API
from wire import COMMIT, Fault, step

from components.code import code_version
from pipelines.compile import PIPELINES
from pipelines.kubeflow import packages
from pipelines.kubeflow.access import Access
from pipelines.kubeflow.client import Kubeflow
from pipelines.kubeflow.waiting import follow

ROOT = Path(__file__).parents[2]
VERSION = COMMIT[:12]


def only(things: dict):
    (thing,) = things.values()
    return thing


def test_a_run_of_this_commit_is_started(fusion, server):
    done = fusion("submit", "--epochs", "3", "--learning-rate=1e-4", "--register-pairs", "--workspace", "s3://b/p")
    assert done.returncode == 0, done.stderr
    pipeline, version, run = only(server.pipelines), only(server.versions), only(server.runs)
    assert (pipeline.name, version.name) == ("atlas-fusion-training", VERSION)
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert only(server.experiments).display_name == "atlas-fusion"
    assert run.runtime_config.parameters == {
        "epochs": 3,
        "learning_rate": 1e-4,
        "register_pairs": True,
        "workspace": "s3://b/p",
        "git_commit": COMMIT,
        "code_version": code_version(),
    }
    assert f"run     {run.run_id} in experiment atlas-fusion" in done.stdout
    assert f"page    {server.url}/#/runs/details/{run.run_id}" in done.stdout


def test_the_steps_run_as_the_account_that_is_named(fusion, server):
    assert fusion("submit", "--service-account", "pipeline-runner").returncode == 0
    assert only(server.runs).service_account == "pipeline-runner"


def test_a_version_knows_its_code_and_its_image_when_it_is_run_from_the_ui(fusion, server):
    image = "registry.example.org/team/atlas-fusion:1.2"
    assert fusion("submit", "--image", image).returncode == 0
    spec = only(server.versions).pipeline_spec["pipeline_spec"]
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert inputs["git_commit"]["defaultValue"] == COMMIT
    assert inputs["code_version"]["defaultValue"] == code_version()
    images = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert images == {image}
    compiled = list(yaml.safe_load_all((ROOT / "pipelines/training.yaml").read_text()))
    assert only(server.versions).pipeline_spec["platform_spec"] == compiled[1]


def test_the_same_commit_is_uploaded_once(fusion, server):
    for _ in range(2):
        assert fusion("submit").returncode == 0
    assert len(server.versions) == len(server.pipelines) == len(server.experiments) == 1
    assert len(server.runs) == 2
    assert "there already" in fusion("submit", "--upload-only").stdout
    assert len(server.runs) == 2


def test_another_content_of_the_same_name_is_refused(fusion, server, refused):
    assert fusion("submit").returncode == 0
    told = refused("submit", "--image", "registry.example.org/other:2")
    assert f"version {VERSION} of atlas-fusion-training is there already with another content" in told
    assert "--version-name" in told
    assert len(server.runs) == 1
    assert fusion("submit", "--image", "registry.example.org/other:2", "--version-name", "other").returncode == 0
    assert {version.name for version in server.versions.values()} == {VERSION, "other"}


def test_a_checkout_with_changes_is_refused_or_named_so(fusion, server, refused, monkeypatch):
    monkeypatch.setattr(packages, "git_commit", lambda: f"{COMMIT}-dirty")
    assert "the checkout has changes that no commit holds" in refused("submit")
    assert not server.requests
    assert fusion("submit", "--allow-dirty").returncode == 0
    assert only(server.versions).name.startswith(f"{VERSION}-dirty-")
    monkeypatch.setattr(packages, "code_version", lambda: "another state")
    assert fusion("submit", "--allow-dirty").returncode == 0
    assert len({version.name for version in server.versions.values()}) == 2


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_can_be_submitted(fusion, server, pipeline: str):
    assert fusion("submit", "--pipeline", pipeline).returncode == 0
    assert only(server.runs).display_name == f"{pipeline} {VERSION}"


def test_a_profile_gives_its_values_and_the_options_override_them(fusion, server):
    version = "0" * 32 + ".dir"
    data = ("--data", "s3://bucket/dvc", "--data-version", version, "--perceptual", "random", "--collection", "PET-MRI")
    assert fusion("submit", "--profile", "atlas", *data, "--epochs", "7").returncode == 0
    given = only(server.runs).runtime_config.parameters
    assert (given["schedule"], given["crop"], given["epochs"], given["profile"]) == ("cosine", 0, 7, "atlas")
    assert given["model_name"] == "pet-mri-fusion"


def test_a_retraining_may_be_forced_and_follow_the_latest_data(fusion, server):
    data = ("--data", "s3://bucket/dvc", "--data-version", "latest")
    assert fusion("submit", "--pipeline", "retraining", "--force", *data).returncode == 0
    given = only(server.runs).runtime_config.parameters
    assert (given["force"], given["data_version"]) == (True, "latest")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epoch", "3"], "the pipeline training has no parameter --epoch; did you mean --epochs?"),
        (["--iamge", "x"], "no parameter --iamge; did you mean --image?"),
        (["--frobnicate", "3"], "no parameter --frobnicate; --parameters lists them"),
        (["--epochs", "three"], "--epochs is 'three'; give a whole number"),
        (["--epochs", "3.5"], "--epochs is '3.5'; give a whole number"),
        (["--epochs"], "--epochs is 'true'; give a whole number"),
        (["--learning-rate", "fast"], "--learning-rate is 'fast'; give a number"),
        (["--learning-rate", "nan"], "--learning-rate is 'nan'; give a number"),
        (["--register-pairs", "maybe"], "--register-pairs is 'maybe'; give true or false"),
        (["--epochs", "3", "--epochs=4"], "--epochs is given twice"),
        (["--code-version", "abc"], "--code-version is filled in from the code itself"),
        (["extra"], "'extra' is no option"),
        (["--split", "thirds"], "thirds"),
        (["--gate-margin", "-0.25"], "gate_margin is -0.25; give a number from 0 on"),
        (["--data", "my-data"], "data is 'my-data', a folder of this machine"),
        (["--data", "s3://bucket/dvc"], "data_version"),
        (["--data", "s3://bucket/dvc", "--data-version", "latest"], "only the pipeline retraining looks for"),
        (["--profile", "huge"], "unknown profile 'huge'"),
        (["--pipeline", "trainig"], "no pipeline 'trainig'; choose one of training, retraining"),
        (["--pipeline", "batch_fusion", "--profile", "atlas"], "has no profiles"),
        (["--pipeline", "batch_fusion", "--epochs", "3"], "the pipeline batch_fusion has no parameter --epochs"),
        (["--image", "not an image"], "'not an image' names no image"),
        (["--version-name", "a b"], "--version-name is 'a b'"),
        (["--upload-only", "--epochs", "3"], "--upload-only starts no run"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(refused, nowhere, server, options: list[str], said: str):
    nowhere.setenv("FUSION_KFP_HOST", server.url)
    assert said in refused("submit", *options)
    assert not server.requests


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(fusion, server, nowhere):
    done = fusion("submit", "--dry-run", "--epochs", "3")
    assert f"version    {VERSION} (new: uploaded)" in done.stdout
    assert "parameter  epochs = 3" in done.stdout
    assert {method for method, _ in server.requests} == {"GET"}
    assert fusion("submit").returncode == 0
    assert "(there already: used again)" in fusion("submit", "--dry-run").stdout
    nowhere.delenv("FUSION_KFP_HOST")
    offline = fusion("submit", "--dry-run")
    assert offline.returncode == 0 and "Kubeflow was not asked" in offline.stdout


def test_the_parameters_are_listed_with_type_and_default(run_command):
    done = run_command("submit", "--pipeline", "sweep", "--parameters")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("--trials ")]
    assert "a whole number [0" in line
    assert "--code-version" not in done.stdout
    assert (
        json.loads(run_command("submit", "--parameters", "--json").stdout)["epochs"]["parameterType"]
        == "NUMBER_INTEGER"
    )


def test_json_is_all_that_stands_on_standard_output(fusion, server):
    told = json.loads(fusion("submit", "--json").stdout)
    assert told["run"] == only(server.runs).run_id
    assert told["version_id"] == only(server.versions).pipeline_version_id


def test_with_json_the_steps_that_are_waited_for_stand_beside_it(fusion, server):
    ending(server, "SUCCEEDED", *step("train", "SUCCEEDED", "2026-11-23T12:00:00Z", "2026-11-23T12:00:12Z"))
    done = fusion("submit", "--wait", "--poll", "0", "--json")
    told = json.loads(done.stdout)
    assert (told["run"], told["version"]) == (only(server.runs).run_id, VERSION)
    assert "train        done in 12 s\n" in done.stderr and done.stderr.endswith(f"run {told['run']} succeeded\n")


def test_a_dry_run_is_told_to_programs_too(fusion, server):
    told = json.loads(fusion("submit", "--dry-run", "--json", "--epochs", "3").stdout)
    assert (told["version"], told["reused"], told["parameters"]["epochs"]) == (VERSION, False, 3)
    assert not server.runs and not server.versions


def test_two_who_upload_the_same_at_once_end_with_one(fusion, server):
    # The other one's upload comes between the look and ours, which is then refused by 409.
    server.faults.append(Fault("POST", f"{API}/pipelines/upload_version", 409, {"error_message": "exists"}, after=True))
    assert fusion("submit").returncode == 0
    assert len(server.versions) == 1
    assert only(server.runs).pipeline_version_reference.pipeline_version_id in server.versions


def test_an_upload_whose_answer_was_lost_is_found_again(fusion, server):
    server.faults.append(Fault("POST", f"{API}/pipelines/upload_version", after=True))
    assert fusion("submit").returncode == 0
    assert server.asked("POST", "/pipelines/upload_version") == 1
    assert len(server.versions) == len(server.runs) == 1


@pytest.mark.parametrize("what", ["pipelines", "experiments"])
def test_who_makes_the_same_thing_meanwhile_does_not_disturb(fusion, server, what: str):
    server.faults.append(Fault("POST", f"{API}/{what}", 409, {"message": "exists"}, after=True))
    assert fusion("submit").returncode == 0
    assert len(server.runs) == 1


def test_a_run_is_never_started_twice_by_a_lost_answer(fusion, server):
    server.faults.append(Fault("POST", f"{API}/runs", after=True))
    told = fusion("submit")
    assert told.returncode == 2
    assert "it may have been done all the same: look before you try again" in told.stderr
    assert server.asked("POST", "/runs") == 1 and len(server.runs) == 1


def test_an_archived_experiment_is_refused(fusion, server):
    assert fusion("submit").returncode == 0
    only(server.experiments).storage_state = "ARCHIVED"
    done = fusion("submit")
    assert done.returncode == 2
    assert "experiment atlas-fusion is in the archive" in done.stderr


def ending(server, state: str, *tasks: dict, error: str = "") -> None:
    """Let each run end as soon as somebody has looked at it once."""
    begun = step("ingest", "RUNNING", "2026-11-23T12:00:00Z")
    server.on_run = lambda run: server.play(run.run_id, "RUNNING", *begun)
    server.on_look = lambda run: server.play(run.run_id, state, *tasks, error=error)


def test_waiting_shows_the_steps_and_ends_with_the_run(fusion, server):
    done_at = {"start": "2026-11-23T12:00:00Z", "end": "2026-11-23T12:00:12Z"}
    tasks = [*step("ingest", "SUCCEEDED", executor="SKIPPED", **done_at), *step("train", "SUCCEEDED", **done_at)]
    ending(server, "SUCCEEDED", *tasks)
    done = fusion("submit", "--wait", "--poll", "0")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ingest", "train"))]
    assert lines == ["ingest       running", "ingest       unchanged, from the cache", "train        done in 12 s"]
    assert done.stdout.rstrip().endswith(f"run {only(server.runs).run_id} succeeded")


def test_waiting_for_a_run_that_fails_ends_with_1_and_says_why(fusion, server):
    pull = 'Back-off pulling image "atlas-fusion:0.1.0"'
    ending(server, "FAILED", *step("ingest", "FAILED", "2026-11-23T12:00:00Z", "2026-11-23T12:01:05Z", error=pull))
    done = fusion("submit", "--wait", "--poll", "0")
    assert done.returncode == 1
    assert f"ingest       failed after 1 min 5 s: {pull}" in done.stdout
    assert done.stderr == f"error: run {only(server.runs).run_id} failed: ingest: {pull}\n"


def test_waiting_outlasts_a_gateway_that_restarts(fusion, server):
    ending(server, "SUCCEEDED")
    server.faults.append(Fault("GET", f"{API}/runs/.*", 503, "no healthy upstream", times=4))
    done = fusion("submit", "--wait", "--poll", "0")
    assert done.returncode == 0, done.stderr
    assert "is not ready (HTTP 503): no healthy upstream; try again later; still waiting" in done.stderr


def test_waiting_outlasts_a_port_forward_that_is_started_again(fusion, make_server, server):
    assert fusion("submit").returncode == 0
    (run_id,) = server.runs
    server.play(run_id, "RUNNING")
    told = []

    def pause(seconds: float) -> None:
        if not told and not server.closing.is_set():
            # The connection breaks, and then nobody listens.
            server.faults.append(Fault("GET", f"{API}/runs/.*"))
            server.close()
        elif told:
            again = make_server(port=server.server.server_port, runs=server.runs, experiments=server.experiments)
            again.play(run_id, "SUCCEEDED")

    run = follow(Kubeflow(Access(server.url), lambda seconds: None), run_id, 0, lambda step: None, told.append, pause)
    assert run.state == "SUCCEEDED"
    assert len(told) == 1 and "Connection refused" in told[0]


@pytest.mark.integration
def test_ctrl_c_ends_the_waiting_and_not_the_run(server, nowhere):
    looked = threading.Event()
    server.on_look = lambda run: looked.set()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "submit", "--wait", "--poll", "0.01", "--allow-dirty"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "FUSION_KFP_HOST": server.url},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert looked.wait(300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    run = only(server.runs)
    assert process.returncode == 130
    assert err.endswith(f"the run goes on: `fusion runs wait {run.run_id}`, `fusion runs stop {run.run_id}`\n")
    assert server.asked("POST", ".*:terminate") == 0

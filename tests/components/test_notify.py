"""What is told of a run that ended: to a real HTTP server, in words and in fields, and never a secret."""

import json
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import pytest

from components.change.decision import CHECKED
from components.notify.ending import tell
from components.register import registry, webhook
from tests.mlflow_servers import Quiet, serving
from tests.registered import ORIGIN, make_folders


@pytest.fixture
def hook(monkeypatch):
    """A server at a secret address; what it was posted."""
    made = SimpleNamespace(posts=[], status=200)

    class Handler(Quiet):
        def do_POST(self):  # noqa: N802
            made.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(made.status)
            self.end_headers()

    monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
    monkeypatch.delenv("FUSION_PIPELINE_RUN", raising=False)
    with serving(Handler) as address:
        monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", f"http://{address}/T0/s3cret")
        yield made


def test_a_failed_run_is_told_with_its_error_and_without_its_secrets(hook, capsys):
    tell("FAILED", "cannot reach http://me:pass@s3/x?token=abc\nTraceback <b>", "m", "run-1", "")
    (said,) = hook.posts
    assert said["event"] == "run_failed" and said["run"] == "run-1"
    assert said["text"].startswith("m, run run-1: failed: cannot reach http://***@s3/x?***")
    assert "pass" not in str(said) and "abc" not in str(said) and "&lt;b&gt;" in said["text"]
    assert "s3cret" not in "".join(capsys.readouterr())


def test_a_run_that_made_a_version_is_told_with_the_gates_word(hook, store):
    store.client.set_model_version_tag("ct-mri", "1", "pipeline_run", "run-2")
    tell("SUCCEEDED", "", "ct-mri", "run-2", store.uri)
    (said,) = hook.posts
    assert (said["event"], said["version"]) == ("run_succeeded", "1")
    assert said["text"].startswith("ct-mri, run run-2: version 1 promoted: vif 0.5000 beats ")


def test_a_run_that_came_to_the_same_weights_is_told_of_the_version_that_is_there(hook, store, tmp_path):
    folders = make_folders(tmp_path)
    three = (folders.model, folders.evaluation, folders.packed)
    for run in ("run-5", "run-6"):
        origin = replace(ORIGIN, pipeline_run=run)
        registry.register(*three, origin, tracking_uri=store.uri, experiment="fusion", model_name="same")
        tell("RUNNING", "", "same", run, store.uri)
    first, second = (post for post in hook.posts if "outcome" in post)  # the promotion itself is told too
    assert first["event"] == second["event"] == "run_succeeded"
    assert first["outcome"] == second["outcome"] and second["outcome"].startswith("version 1 promoted")


def test_a_version_that_the_gate_did_not_come_to_judge_is_a_failure(hook, store):
    store.client.create_registered_model("unjudged")
    source = store.client.get_model_version("ct-mri", "1").source
    store.client.create_model_version("unjudged", source, tags={"pipeline_run": "run-2"})
    tell("RUNNING", "", "unjudged", "run-2", store.uri)
    (said,) = hook.posts
    assert (said["event"], said["version"]) == ("run_failed", "1")
    assert "version 1 was registered, but the gate did not decide" in said["outcome"]


def test_a_run_that_found_nothing_new_says_why(hook, store):
    looked = {"run": "run-3", "train": False, "reason": "version 1 is of this data"}
    store.client.set_registered_model_tag("ct-mri", CHECKED, json.dumps(looked))
    tell("SUCCEEDED", "", "ct-mri", "run-3", store.uri)
    tell("SUCCEEDED", "", "ct-mri", "run-4", store.uri)
    told, other = hook.posts
    assert told["event"] == "nothing_new"
    assert told["text"] == "ct-mri, run run-3: nothing new, no training: version 1 is of this data"
    assert other["event"] == "run_succeeded" and "registered no new version" in other["text"]


@pytest.mark.parametrize("state", ["COMPLETE", "CACHED", "RUNNING"])
def test_kubeflows_own_words_for_success_are_no_failure(hook, store, state: str):
    store.client.set_model_version_tag("ct-mri", "1", "pipeline_run", f"run-{state}")
    tell(state, "", "ct-mri", f"run-{state}", store.uri)
    assert hook.posts[0]["text"].startswith(f"ct-mri, run run-{state}: version 1 promoted")


def test_an_end_that_kubeflow_did_not_note_and_that_left_nothing_is_rather_told_as_failed(hook, store):
    for state, event in (("RUNNING", "run_failed"), ("COMPLETE", "run_succeeded"), ("CANCELED", "run_failed")):
        tell(state, "", "ct-mri", "run-9", store.uri)
        assert hook.posts[-1]["event"] == event
    assert "Kubeflow did not note its end (running), and registered no new version" in hook.posts[0]["text"]


def test_a_registry_that_is_away_keeps_nobody_from_hearing(hook, capsys):
    tell("SUCCEEDED", "", "m", "run-5", "http://127.0.0.1:9")
    assert hook.posts[0]["text"] == "m, run run-5: succeeded"
    assert "the registry could not be asked" in capsys.readouterr().out


def test_a_webhook_that_fails_is_told_and_ends_nothing(hook, capsys):
    hook.status = 404
    tell("FAILED", "", "m", "run-6", "")
    said = capsys.readouterr()
    assert "webhook not told (HTTP 404)" in said.err and "s3cret" not in said.err


def test_an_answer_whose_body_never_ends_has_the_message_sent_once(monkeypatch, capsys):
    posts, done = [], Event()

    class Endless(Quiet):
        def do_POST(self):  # noqa: N802
            posts.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            done.wait(10)

    monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(webhook, "SECONDS_TO_ANSWER", (5.0, 0.5))
    with serving(Endless) as address:
        monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", f"HTTP://{address}/hook")
        tell("FAILED", "", "m", "run-8", "")
        done.set()
    assert len(posts) == 1 and "not told" not in capsys.readouterr().err


def test_without_a_webhook_the_log_says_that_nobody_was_told(monkeypatch, capsys):
    monkeypatch.delenv("ATLAS_FUSION_WEBHOOK", raising=False)
    tell("FAILED", "", "m", "run-7", "")
    assert capsys.readouterr().out == "m, run run-7: failed; ATLAS_FUSION_WEBHOOK names nobody to tell\n"

"""A TrainJob from its creation to the model: found again, attached to, followed through cuts, cancelled."""

import json
import os
import re
import signal
import threading
from dataclasses import replace

import pytest
from api_server import ANY, JOBS, LONG, PODS, Cut, Fault, refusal
from stories import complaint, failing

from components.train.job_watch import Patience
from components.train.trainjob import SPECIFICATION, run_trainjob


def test_a_job_is_created_followed_and_deleted_and_leaves_the_model(well, api, spec, dataset, model, cluster, capfd):
    run_trainjob(spec, dataset, model, cluster=cluster)
    assert sorted(path.name for path in model.iterdir()) == ["training.json", "weights.safetensors"]
    assert (model / "weights.safetensors").read_bytes() == b"weights"
    out = capfd.readouterr().out
    assert re.findall(r"progress train \d/3", out) == ["progress train 1/3", "progress train 2/3", "progress train 3/3"]
    assert "of node 1" not in out
    assert "hush-hush" not in out
    assert api.objects[JOBS] == {} and api.asked("DELETE", ANY) == 1


def test_packed_data_that_are_there_are_not_sent_again_unless_damaged(
    well, api, spec, dataset, model, cluster, s3, workspace, tmp_path, capfd
):
    run_trainjob(spec, dataset, model, cluster=cluster)
    capfd.readouterr()
    run_trainjob(replace(spec, run="run-8"), dataset, tmp_path / "again", cluster=cluster)
    assert "upload 2/2 there already" in capfd.readouterr().out
    bucket = workspace.data.bucket
    (big,) = (o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"] if o["Size"] == 6000)
    s3.put_object(Bucket=bucket, Key=big, Body=b"p" * 6000)
    run_trainjob(replace(spec, run="run-9"), dataset, tmp_path / "third", cluster=cluster)
    assert s3.get_object(Bucket=bucket, Key=big)["Body"].read() == b"pixels" * 1000


def test_the_job_is_deleted_with_the_workflow_and_named_after_its_run(well, api, spec, dataset, model, cluster):
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "wf", "uid": "u1", "controller": True}
    metadata = {"name": "launcher", "uid": "u2", "ownerReferences": [owner], "labels": {"pipeline/runid": "4711"}}
    api.put(PODS, {"metadata": metadata})
    run_trainjob(replace(spec, run=""), dataset, model, cluster=replace(cluster, pod="launcher"))
    (made,) = {
        t["metadata"]["uid"]: t for _, kind, event, t in api.history if (kind, event) == (JOBS, "ADDED")
    }.values()
    assert made["metadata"]["name"].startswith("train-4711-")
    del owner["controller"]
    assert made["metadata"]["ownerReferences"] == [owner]


def test_a_pod_without_a_workflow_owns_the_job_itself(api, cluster):
    api.put(PODS, {"metadata": {"name": "launcher", "uid": "u2"}})
    found = replace(cluster, pod="launcher").launcher()
    assert found.owner == {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "u2"}


def test_without_any_run_the_job_has_no_name(spec, dataset, model, cluster):
    assert "outside a cluster give one" in complaint(replace(spec, run=""), dataset, model, cluster)


def test_a_second_attempt_attaches_to_the_job_of_the_first(api, well, spec, dataset, model, cluster, capfd):
    begun, go_on = threading.Event(), threading.Event()
    api.on_create = lambda job: (begun.set(), go_on.wait(LONG), well(job))
    first = replace(cluster, patience=0.05)
    away = Fault("GET", JOBS, 503, "upgrading", times=10**6)

    def lose_the_server() -> None:
        begun.wait(LONG)
        api.faults += [away, Fault("GET", JOBS, 503, "upgrading", times=10**6, watch=True)]

    threading.Thread(target=lose_the_server).start()
    api.faults.append(Fault("GET", JOBS, 410, refusal(410, "Expired", "too old"), times=10**6, watch=True))
    assert "does not answer (503" in complaint(spec, dataset, model, first)
    api.faults.clear()
    # The job goes on only once the second attempt looks at it: of one that has left its model it would take that.
    second, find = replace(cluster), cluster.find
    second.find = lambda name: (go_on.set(), find(name))[1]
    run_trainjob(spec, dataset, model, cluster=second)
    assert model.is_dir()
    assert "attached to it" in capfd.readouterr().out
    assert sum(event == "ADDED" and kind == JOBS for _, kind, event, _ in api.history) == 1


def test_a_lost_answer_to_the_creation_makes_no_second_job(well, api, spec, dataset, model, cluster):
    create = api.create

    def create_and_lose_the_answer(job):
        create(job)
        raise Cut

    api.create = create_and_lose_the_answer
    run_trainjob(spec, dataset, model, cluster=cluster)
    assert model.is_dir()
    assert api.asked("POST", JOBS) == 2
    assert sum(event == "ADDED" and kind == JOBS for _, kind, event, _ in api.history) == 1


def test_a_failed_job_of_an_attempt_before_is_replaced_once_it_is_gone(well, api, spec, dataset, model, cluster, capfd):
    api.on_create = failing(api, lambda pod: api.end_pod(pod, 1))
    complaint(spec, dataset, model, cluster)
    (name,) = api.objects[JOBS]
    api.on_create = well
    api.may_go.clear()
    find = cluster.find

    def find_and_let_go(name):
        job = find(name)
        if job and "deletionTimestamp" in job["metadata"]:
            api.may_go.set()
        return job

    cluster.find = find_and_let_go
    run_trainjob(spec, dataset, model, cluster=cluster)
    assert model.is_dir() and name not in api.objects[JOBS]
    assert "replacing it" in capfd.readouterr().out


def test_a_model_that_is_there_needs_no_job(well, api, spec, dataset, model, cluster, tmp_path):
    run_trainjob(spec, dataset, model, cluster=cluster)
    run_trainjob(spec, dataset, tmp_path / "again", cluster=cluster)
    assert api.asked("POST", JOBS) == 1
    assert (tmp_path / "again" / "weights.safetensors").is_file()


def test_a_foreign_job_of_that_name_is_left_alone(api, spec, dataset, model, cluster):
    complaint(spec, dataset, model, cluster, Patience(deadline=0.1))
    (name,) = {thing["metadata"]["name"] for _, kind, _, thing in api.history if kind == JOBS}
    api.put(JOBS, {"metadata": {"name": name, "uid": "theirs", "labels": {SPECIFICATION: "other"}}}, "ADDED")
    assert f"another TrainJob {name}; delete it" in complaint(spec, dataset, model, cluster)
    assert api.objects[JOBS][name]["metadata"]["uid"] == "theirs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cancelling_deletes_the_job(api, spec, dataset, model, cluster, number, capfd):
    def cancel_when_it_runs(job) -> None:
        api.run_pod(api.add_pod(job["metadata"]["name"], 0))
        os.kill(os.getpid(), number)

    api.on_create = cancel_when_it_runs
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        run_trainjob(spec, dataset, model, cluster=cluster)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert "deleted" in capfd.readouterr().out
    assert api.asked("DELETE", ANY) == 1


def test_each_line_is_shown_once_however_often_the_log_is_cut(api, leave_model, spec, dataset, model, cluster, capfd):
    api.cut_logs += [0, 5, 40, 31, 75, 200]

    def train(job) -> None:
        pod = api.add_pod(job["metadata"]["name"], 0)
        api.run_pod(pod)
        for number in range(4):
            api.write_log(pod, f"line {number}", "2026-11-23T12:00:00.000000007Z")
        api.write_log(pod, "line 4", "2026-11-23T12:00:00.000000071Z")
        api.until(lambda: not api.cut_logs)
        api.write_log(pod, "line 5", "2026-11-23T12:00:01.5Z")
        leave_model(job)
        api.end_pod(pod)
        api.set_condition(job["metadata"]["name"], "Complete", "JobsCompleted", "done")

    api.on_create = train
    run_trainjob(spec, dataset, model, cluster=cluster)
    assert re.findall(r"line \d", capfd.readouterr().out) == [f"line {number}" for number in range(6)]


def test_watches_that_are_cut_gone_or_unanswered_end_nothing(well, api, spec, dataset, model, cluster):
    expired = json.dumps({"type": "ERROR", "object": refusal(410, "Expired", "too old resource version")}) + "\n"
    api.faults += [
        Fault("GET", JOBS, 200, expired, watch=True),
        Fault("GET", PODS, 410, refusal(410, "Expired", "too old"), watch=True),
        Fault("GET", JOBS, 503, "no endpoints", times=2),
        Fault("GET", PODS),
        Fault("POST", JOBS, 429, refusal(429, "TooManyRequests", "later")),
        Fault("GET", f"{PODS}/.*/log", 500, "kubelet away"),
    ]
    run_trainjob(spec, dataset, model, cluster=replace(cluster, seconds=(LONG, 1.0)))
    assert model.is_dir()

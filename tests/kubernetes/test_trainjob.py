"""A TrainJob from its creation to the model: found again, followed, cancelled; every failure told in one line."""

import json
import os
import re
import signal
import threading
from dataclasses import replace

import pytest
from api_server import FORBIDDEN, JOBS, PODS, Fault, refusal

from components.train.cluster import Cluster
from components.train.job_watch import Patience
from components.train.trainjob import SPECIFICATION, JobSpec, run_trainjob
from model.errors import InputError

ANY = ".*"


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    (folder / "train.npy").write_bytes(b"pixels" * 1000)
    return folder


@pytest.fixture
def model(tmp_path):
    return tmp_path / "out" / "model"


@pytest.fixture
def spec(workspace):
    return JobSpec("run-7", 2, 1, 0, "atlas-fusion:0.1.0", "atlas-fusion", workspace.url, {"perceptual": "random"})


@pytest.fixture
def leave_model(workspace, tmp_path):
    """What node 0 does at its end."""
    folder = tmp_path / "node-0"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "training.json").write_text("{}")
    return lambda job: workspace.put_model(job["metadata"]["name"], folder)


@pytest.fixture
def well(api, leave_model):
    """A controller under which all goes well."""

    def train(job) -> None:
        name = job["metadata"]["name"]
        pods = [api.add_pod(name, node) for node in (0, 1)]
        for pod in pods:
            api.run_pod(pod)
        for step in (1, 2, 3):
            api.write_log(pods[0], f"progress train {step}/3")
            api.write_log(pods[1], "of node 1")
        leave_model(job)
        for pod in pods:
            api.end_pod(pod)
        api.set_condition(name, "Complete", "JobsCompleted", "done")

    api.on_create = train
    return train


def failing(api, *states, attempts: int = 1):
    """A controller whose pod of node 1 ends as told, in each attempt, before the TrainJob fails."""

    def fail(job) -> None:
        name = job["metadata"]["name"]
        for attempt in range(attempts):
            leading, other = (api.add_pod(name, node, attempt) for node in (0, 1))
            api.run_pod(leading)
            api.write_log(leading, f"attempt {attempt}")
            states[min(attempt, len(states) - 1)](other)
            api.end_pod(leading, 1, message="RuntimeError: [gloo] Connection closed by peer")
        api.set_condition(name, "Failed")

    return fail


def complaint(spec, packed, model, cluster, patience=None) -> str:
    with pytest.raises(InputError) as refused:
        run_trainjob(spec, packed, model, patience, cluster)
    assert not model.exists()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_job_is_created_followed_and_deleted_and_leaves_the_model(well, api, spec, packed, model, cluster, capfd):
    run_trainjob(spec, packed, model, cluster=cluster)
    assert sorted(path.name for path in model.iterdir()) == ["training.json", "weights.safetensors"]
    assert (model / "weights.safetensors").read_bytes() == b"weights"
    out = capfd.readouterr().out
    assert re.findall(r"progress train \d/3", out) == ["progress train 1/3", "progress train 2/3", "progress train 3/3"]
    assert "of node 1" not in out
    assert "hush-hush" not in out
    assert api.objects[JOBS] == {} and api.asked("DELETE", ANY) == 1


def test_packed_data_that_are_there_are_not_sent_again_unless_damaged(
    well, api, spec, packed, model, cluster, s3, workspace, tmp_path, capfd
):
    run_trainjob(spec, packed, model, cluster=cluster)
    capfd.readouterr()
    run_trainjob(replace(spec, run="run-8"), packed, tmp_path / "again", cluster=cluster)
    assert "upload 2/2 there already" in capfd.readouterr().out
    bucket = workspace.data.bucket
    (big,) = (o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"] if o["Size"] == 6000)
    s3.put_object(Bucket=bucket, Key=big, Body=b"p" * 6000)
    run_trainjob(replace(spec, run="run-9"), packed, tmp_path / "third", cluster=cluster)
    assert s3.get_object(Bucket=bucket, Key=big)["Body"].read() == b"pixels" * 1000


def test_the_job_is_deleted_with_the_workflow_and_named_after_its_run(well, api, spec, packed, model, cluster):
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "wf", "uid": "u1", "controller": True}
    metadata = {"name": "launcher", "uid": "u2", "ownerReferences": [owner], "labels": {"pipeline/runid": "4711"}}
    api.put(PODS, {"metadata": metadata})
    run_trainjob(replace(spec, run=""), packed, model, cluster=replace(cluster, pod="launcher"))
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


def test_without_any_run_the_job_has_no_name(spec, packed, model, cluster):
    assert "outside a cluster give one" in complaint(replace(spec, run=""), packed, model, cluster)


def test_a_second_attempt_attaches_to_the_job_of_the_first(api, well, spec, packed, model, cluster, capfd):
    begun, go_on = threading.Event(), threading.Event()
    api.on_create = lambda job: (begun.set(), go_on.wait(20), well(job))
    first = replace(cluster, patience=0.05)
    away = Fault("GET", JOBS, 503, "upgrading", times=10**6)

    def lose_the_server() -> None:
        begun.wait(20)
        api.faults += [away, Fault("GET", JOBS, 503, "upgrading", times=10**6, watch=True)]

    threading.Thread(target=lose_the_server).start()
    api.faults.append(Fault("GET", JOBS, 410, refusal(410, "Expired", "too old"), times=10**6, watch=True))
    assert "does not answer (503" in complaint(spec, packed, model, first)
    api.faults.clear()
    go_on.set()
    run_trainjob(spec, packed, model, cluster=cluster)
    assert model.is_dir()
    assert "attached to it" in capfd.readouterr().out
    assert sum(event == "ADDED" and kind == JOBS for _, kind, event, _ in api.history) == 1


def test_a_lost_answer_to_the_creation_makes_no_second_job(well, api, spec, packed, model, cluster):
    create, lost = api.create, []

    def create_and_hang(job):
        made = create(job)
        if not lost:
            lost.append(job)
            api.closing.wait(1)
        return made

    api.create = create_and_hang
    run_trainjob(spec, packed, model, cluster=replace(cluster, seconds=(5.0, 0.5)))
    assert api.asked("POST", JOBS) >= 2
    assert sum(event == "ADDED" and kind == JOBS for _, kind, event, _ in api.history) == 1


def test_a_failed_job_of_an_earlier_attempt_is_replaced_once_it_is_gone(well, api, spec, packed, model, cluster, capfd):
    api.on_create = failing(api, lambda pod: api.end_pod(pod, 1))
    complaint(spec, packed, model, cluster)
    (name,) = api.objects[JOBS]
    api.on_create = well
    api.may_go.clear()
    timer = threading.Timer(0.2, api.may_go.set)
    timer.start()
    run_trainjob(spec, packed, model, cluster=cluster)
    assert model.is_dir() and name not in api.objects[JOBS]
    assert "replacing it" in capfd.readouterr().out


def test_a_model_that_is_there_needs_no_job(well, api, spec, packed, model, cluster, tmp_path):
    run_trainjob(spec, packed, model, cluster=cluster)
    run_trainjob(spec, packed, tmp_path / "again", cluster=cluster)
    assert api.asked("POST", JOBS) == 1
    assert (tmp_path / "again" / "weights.safetensors").is_file()


def test_a_foreign_job_of_that_name_is_left_alone(api, spec, packed, model, cluster):
    complaint(spec, packed, model, cluster, Patience(deadline=0.1))
    (name,) = {thing["metadata"]["name"] for _, kind, _, thing in api.history if kind == JOBS}
    api.put(JOBS, {"metadata": {"name": name, "uid": "theirs", "labels": {SPECIFICATION: "other"}}}, "ADDED")
    assert f"another TrainJob {name}; delete it" in complaint(spec, packed, model, cluster)
    assert api.objects[JOBS][name]["metadata"]["uid"] == "theirs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_cancelling_deletes_the_job(api, spec, packed, model, cluster, number, capfd):
    def cancel_when_it_runs(job) -> None:
        api.run_pod(api.add_pod(job["metadata"]["name"], 0))
        os.kill(os.getpid(), number)

    api.on_create = cancel_when_it_runs
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        run_trainjob(spec, packed, model, cluster=cluster)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert "deleted" in capfd.readouterr().out
    assert api.asked("DELETE", ANY) == 1


def test_each_line_is_shown_once_however_often_the_log_is_cut(api, leave_model, spec, packed, model, cluster, capfd):
    api.cut_logs += [0, 5, 40, 31, 75, 200]

    def train(job) -> None:
        pod = api.add_pod(job["metadata"]["name"], 0)
        api.run_pod(pod)
        for number in range(4):
            api.write_log(pod, f"line {number}", "2026-11-23T12:00:00.000000007Z")
        api.write_log(pod, "line 4", "2026-11-23T12:00:00.000000071Z")
        while api.cut_logs:
            api.closing.wait(0.01)
        api.write_log(pod, "line 5", "2026-11-23T12:00:01.5Z")
        leave_model(job)
        api.end_pod(pod)
        api.set_condition(job["metadata"]["name"], "Complete", "JobsCompleted", "done")

    api.on_create = train
    run_trainjob(spec, packed, model, cluster=cluster)
    assert re.findall(r"line \d", capfd.readouterr().out) == [f"line {number}" for number in range(6)]


def test_watches_that_are_cut_gone_or_unanswered_end_nothing(well, api, spec, packed, model, cluster):
    expired = json.dumps({"type": "ERROR", "object": refusal(410, "Expired", "too old resource version")}) + "\n"
    api.faults += [
        Fault("GET", JOBS, 200, expired, watch=True),
        Fault("GET", PODS, 410, refusal(410, "Expired", "too old"), watch=True),
        Fault("GET", JOBS, 503, "no endpoints", times=2),
        Fault("GET", PODS),
        Fault("POST", JOBS, 429, refusal(429, "TooManyRequests", "later")),
        Fault("GET", f"{PODS}/.*/log", 500, "kubelet away"),
    ]
    run_trainjob(spec, packed, model, cluster=replace(cluster, seconds=(5.0, 0.5)))
    assert model.is_dir()


EVICTED = "The node was low on resource: ephemeral-storage."


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (
            lambda api, pod: api.end_pod(pod, 2, message="step 1\nInputError: the loss is NaN in step 7\nbye"),
            "node 1: failed, exit code 2: InputError: the loss is NaN in step 7",
        ),
        (
            lambda api, pod: api.end_pod(pod, 137, "OOMKilled"),
            "node 1: OOMKilled, exit code 137 (out of memory: raise memory_per_node, or lower the batch)",
        ),
        (
            lambda api, pod: api.set_pod(pod, "Failed", reason="Evicted", message=EVICTED),
            f"node 1: Evicted: {EVICTED}",
        ),
        (
            lambda api, pod: api.set_pod(
                pod,
                "Failed",
                {"terminated": {"exitCode": 75, "reason": "Error", "finishedAt": "2026-11-23T12:00:00Z"}},
                conditions=[
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "PreemptionByScheduler",
                        "message": "preempting to accommodate a higher priority pod",
                    }
                ],
            ),
            "node 1: PreemptionByScheduler, exit code 75: preempting to accommodate a higher priority pod",
        ),
    ],
    ids=["bad input", "out of memory", "evicted", "preempted"],
)
def test_the_node_that_failed_first_and_why_is_passed_up(api, spec, packed, model, cluster, end, told: str):
    api.on_create = failing(api, lambda pod: end(api, pod))
    assert complaint(spec, packed, model, cluster).endswith(f" failed: {told}")
    assert len(api.objects[JOBS]) == 1, "the failed job stays, to be looked at"


def test_of_several_attempts_the_last_one_counts_and_all_are_told(api, spec, packed, model, cluster, capfd):
    ends = [lambda pod: api.end_pod(pod, 137, "OOMKilled"), lambda pod: api.end_pod(pod, 9)]
    api.on_create = failing(api, *ends, attempts=2)
    assert "failed: node 1: failed, exit code 9" in complaint(spec, packed, model, cluster)
    out = capfd.readouterr().out
    assert "node 1: OOMKilled" in out
    assert out.index("attempt 0") < out.index("attempt 1")


def test_a_job_that_fails_without_pods_says_what_the_trainer_says(api, spec, packed, model, cluster):
    api.on_create = lambda job: api.set_condition(
        job["metadata"]["name"], "Failed", "TrainingRuntimeNotSupported", "no runtime atlas-fusion"
    )
    told = complaint(spec, packed, model, cluster)
    assert told.endswith("TrainingRuntimeNotSupported: no runtime atlas-fusion")


WAITING = {
    "ImagePullBackOff": lambda api, pod: api.set_pod(
        pod, "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "atlas:1"'}}
    ),
    "Unschedulable": lambda api, pod: api.set_pod(
        pod,
        "Pending",
        conditions=[
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
            }
        ],
    ),
}


@pytest.mark.parametrize("reason", WAITING)
def test_a_node_that_cannot_start_is_told_at_once_and_given_up_in_the_end(
    api, spec, packed, model, cluster, reason: str, capfd
):
    api.on_create = lambda job: WAITING[reason](api, api.add_pod(job["metadata"]["name"], 1))
    told = complaint(spec, packed, model, cluster, Patience(image=0.2, room=0.3))
    assert f"node 1 cannot start: {reason}: " in told
    assert f"node 1 waits: {reason}: " in capfd.readouterr().out
    assert api.asked("DELETE", ANY) == 1, "it would hold its place for ever"


def test_a_node_that_starts_in_the_end_is_not_given_up(well, api, spec, packed, model, cluster):
    def late(job) -> None:
        name = api.add_pod(job["metadata"]["name"], 1, attempt=0)
        WAITING["Unschedulable"](api, name)
        api.run_pod(name)
        api.closing.wait(0.4)
        well(job)

    api.on_create = late
    run_trainjob(spec, packed, model, Patience(image=0.2, room=0.2), cluster)
    assert model.is_dir()


def test_a_job_that_takes_longer_than_allowed_is_ended(api, spec, packed, model, cluster):
    told = complaint(spec, packed, model, cluster, Patience(deadline=0.2))
    assert "is not complete after 0.2 s; raise deadline_seconds" in told
    assert api.asked("DELETE", ANY) == 1


def test_a_job_that_vanishes_is_an_error(api, spec, packed, model, cluster):
    def vanish(job) -> None:
        api.run_pod(api.add_pod(job["metadata"]["name"], 0))
        api.delete(job["metadata"]["name"])

    api.on_create = vanish
    assert "was deleted from namespace team while it ran" in complaint(spec, packed, model, cluster)


def test_a_job_that_vanishes_while_nobody_watches_is_an_error_even_if_another_takes_its_place(
    api, spec, packed, model, cluster
):
    def exchange(job) -> None:
        other = json.loads(json.dumps(job))
        other["metadata"]["uid"] = "other"
        api.put(JOBS, other)

    api.on_create = exchange
    assert "was deleted from namespace team while it ran" in complaint(spec, packed, model, cluster)


def test_a_complete_job_without_a_model_is_an_error(api, spec, packed, model, cluster):
    api.on_create = lambda job: api.set_condition(job["metadata"]["name"], "Complete", "JobsCompleted", "done")
    assert "is complete but left no model" in complaint(spec, packed, model, cluster)


DENIED = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: runtime not found'


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            Fault("POST", JOBS, 403, FORBIDDEN),
            "this service account may not create trainjobs in namespace team (403); apply infra/training there and "
            "bind its Role fusion-trainjobs to the service account that runs the pipeline",
        ),
        (Fault("POST", JOBS, 403, refusal(403, "Forbidden", DENIED)), DENIED),
        (
            Fault("POST", JOBS, 401, refusal(401, "Unauthorized", "Unauthorized")),
            "does not accept the credentials (401",
        ),
        (Fault("POST", JOBS, 404, "404 page not found\n"), "Kubeflow Trainer 2 is not installed there"),
        (Fault("GET", PODS, 403, FORBIDDEN, times=99), "may not list pods in namespace team (403)"),
        (Fault("GET", PODS, 403, FORBIDDEN, times=99, watch=True), "may not watch pods in namespace team (403)"),
        (Fault("POST", JOBS, times=99), "does not answer (ReadTimeoutError, asked to create trainjobs for"),
        (Fault("POST", JOBS, 500, "etcdserver: leader changed", times=99), "does not answer (500"),
    ],
    ids=["403", "webhook", "401", "no CRD", "list pods", "watch pods", "time-out", "500"],
)
def test_what_the_server_refuses_is_told_in_one_line(api, spec, packed, model, cluster, fault, told: str):
    api.faults.append(fault)
    assert told in complaint(spec, packed, model, replace(cluster, patience=0.5, seconds=(1.0, 0.3)))


def test_logs_that_may_not_be_read_are_told_and_end_no_training(well, api, spec, packed, model, cluster, capfd):
    api.faults.append(Fault("GET", f"{PODS}/.*/log", 403, FORBIDDEN, times=99))
    run_trainjob(spec, packed, model, cluster=cluster)
    assert model.is_dir()
    assert "the log of node 0" in (out := capfd.readouterr().out) and "cannot be shown" in out


def test_an_existing_model_is_not_overwritten(api, spec, packed, model, cluster):
    model.mkdir(parents=True)
    with pytest.raises(InputError, match="exists; move it away"):
        run_trainjob(spec, packed, model, cluster=cluster)
    assert api.requests == []


def test_a_server_that_is_not_there_is_told(cluster, api):
    api.close()
    with pytest.raises(InputError, match=r"the Kubernetes API at http://127.0.0.1:\d+ does not answer \(\w+"):
        replace(cluster, patience=0.1).find("x")


def test_without_any_cluster_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no Kubernetes cluster to train on several nodes .*train on one node"):
        Cluster.connect(service_account=tmp_path / "none")


def test_in_a_pod_the_service_account_says_where(tmp_path, monkeypatch):
    for name, content in (("token", "t0ken"), ("namespace", "team\n"), ("ca.crt", "certificate")):
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KFP_POD_NAME", "launcher")
    found = Cluster.connect(service_account=tmp_path)
    assert (found.namespace, found.pod, found.client.configuration.host) == ("team", "launcher", "https://10.0.0.1:443")

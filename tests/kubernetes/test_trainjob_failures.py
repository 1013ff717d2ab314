"""Every way in which a TrainJob, its nodes or the API server can fail is told in one line, and never a success."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from api_server import ANY, FORBIDDEN, JOBS, LONG, PODS, Fault, refusal
from stories import complaint, failing

from components.train import job_watch
from components.train.cluster import Cluster
from components.train.job_watch import Patience
from components.train.pods import stuck
from components.train.trainjob import run_trainjob
from model.errors import InputError

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
def test_the_node_that_failed_first_and_why_is_passed_up(api, spec, dataset, model, cluster, end, told: str):
    api.on_create = failing(api, lambda pod: end(api, pod))
    assert complaint(spec, dataset, model, cluster).endswith(f" failed: {told}")
    assert len(api.objects[JOBS]) == 1, "the failed job stays, to be looked at"


def test_of_several_attempts_the_last_one_counts_and_all_are_told(api, spec, dataset, model, cluster, capfd):
    ends = [lambda pod: api.end_pod(pod, 137, "OOMKilled"), lambda pod: api.end_pod(pod, 9)]
    api.on_create = failing(api, *ends, attempts=2)
    assert "failed: node 1: failed, exit code 9" in complaint(spec, dataset, model, cluster)
    out = capfd.readouterr().out
    assert "node 1: OOMKilled" in out
    assert out.index("attempt 0") < out.index("attempt 1")


def test_a_job_that_fails_without_pods_says_what_the_trainer_says(api, spec, dataset, model, cluster):
    api.on_create = lambda job: api.set_condition(
        job["metadata"]["name"], "Failed", "TrainingRuntimeNotSupported", "no runtime atlas-fusion"
    )
    told = complaint(spec, dataset, model, cluster)
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
    api, spec, dataset, model, cluster, reason: str, capfd
):
    api.on_create = lambda job: WAITING[reason](api, api.add_pod(job["metadata"]["name"], 1))
    told = complaint(spec, dataset, model, cluster, Patience(image=0.2, room=0.3))
    assert f"node 1 cannot start: {reason}: " in told
    assert f"node 1 waits: {reason}: " in capfd.readouterr().out
    assert api.asked("DELETE", ANY) == 1, "it would hold its place for ever"


def test_a_node_that_starts_in_the_end_is_not_given_up(well, api, spec, dataset, model, cluster, monkeypatch, capfd):
    now, looked = [0.0], threading.Event()
    monkeypatch.setattr(job_watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(job_watch, "stuck", lambda pod: (looked.set(), stuck(pod))[1])

    def late(job) -> None:
        first, second = (api.add_pod(job["metadata"]["name"], node) for node in (0, 1))
        WAITING["Unschedulable"](api, second)
        looked.clear()
        api.set_pod(first, "Pending")
        looked.wait(LONG)
        api.run_pod(second)
        api.run_pod(first)
        # Whoever asks for the log of the first has seen that the second runs.
        api.until(lambda: api.asked("GET", f"{PODS}/{first}/log"))
        now[0] = 2 * LONG
        for pod in (first, second):
            api.end_pod(pod)
        well(job)

    api.on_create = late
    run_trainjob(spec, dataset, model, Patience(image=LONG, room=LONG), cluster)
    assert model.is_dir()
    assert "node 1 waits: Unschedulable" in capfd.readouterr().out


def test_a_job_that_takes_longer_than_allowed_is_ended(api, spec, dataset, model, cluster):
    told = complaint(spec, dataset, model, cluster, Patience(deadline=0.2))
    assert "is not complete after 0.2 s; raise deadline_seconds" in told
    assert api.asked("DELETE", ANY) == 1


def test_a_job_that_vanishes_is_an_error(api, spec, dataset, model, cluster):
    def vanish(job) -> None:
        api.run_pod(api.add_pod(job["metadata"]["name"], 0))
        api.delete(job["metadata"]["name"])

    api.on_create = vanish
    assert "was deleted from namespace team while it ran" in complaint(spec, dataset, model, cluster)


def test_a_job_that_vanishes_while_nobody_watches_is_an_error_even_if_another_takes_its_place(
    api, spec, dataset, model, cluster
):
    def exchange(job) -> None:
        other = json.loads(json.dumps(job))
        other["metadata"]["uid"] = "other"
        api.put(JOBS, other)

    api.on_create = exchange
    assert "was deleted from namespace team while it ran" in complaint(spec, dataset, model, cluster)


def test_a_complete_job_without_a_model_is_an_error(api, spec, dataset, model, cluster):
    api.on_create = lambda job: api.set_condition(job["metadata"]["name"], "Complete", "JobsCompleted", "done")
    assert "is complete but left no model" in complaint(spec, dataset, model, cluster)


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
def test_what_the_server_refuses_is_told_in_one_line(api, spec, dataset, model, cluster, fault, told: str):
    api.faults.append(fault)
    word = LONG if fault.status else 0.3
    assert told in complaint(spec, dataset, model, replace(cluster, patience=0.5, seconds=(LONG, word)))


def test_logs_that_may_not_be_read_are_told_and_end_no_training(well, api, spec, dataset, model, cluster, capfd):
    api.faults.append(Fault("GET", f"{PODS}/.*/log", 403, FORBIDDEN, times=99))
    run_trainjob(spec, dataset, model, cluster=cluster)
    assert model.is_dir()
    assert "the log of node 0" in (out := capfd.readouterr().out) and "cannot be shown" in out


def test_an_existing_model_is_not_overwritten(api, spec, dataset, model, cluster):
    model.mkdir(parents=True)
    (model / "weights.safetensors").touch()
    with pytest.raises(InputError, match="exists; move it away"):
        run_trainjob(spec, dataset, model, cluster=cluster)
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

"""A fake Kubernetes API server as a kubeconfig names it, and a workspace on the S3 server of the tests."""

import json
import threading
import uuid
from dataclasses import replace

import boto3
import pytest
from api_server import LONG, ApiServer

from components.train.cluster import Cluster
from components.train.trainjob import JobSpec
from components.train.workspace import Workspace


@pytest.fixture
def api():
    server = ApiServer()
    yield server
    server.close()
    assert not server.errors


@pytest.fixture
def kubeconfig(api, tmp_path, monkeypatch):
    def named(name: str, **rest) -> list:
        return [{"name": "test", name: rest}]

    context = named("context", cluster="test", user="test", namespace="team")
    config = {"contexts": context, "current-context": "test", "clusters": named("cluster", server=api.url)}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config | {"users": named("user", token="t0ken")}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


@pytest.fixture
def cluster(kubeconfig, tmp_path):
    """The cluster of that server, asked again at once; the time-outs only bound a hang."""
    connected = Cluster.connect(service_account=tmp_path / "none")
    return replace(connected, patience=LONG, pause=0.01, seconds=(LONG, LONG), stopped=threading.Event())


@pytest.fixture
def s3(s3_server, aws):
    """A client of the S3 server, which the environment names too."""
    return boto3.client("s3", endpoint_url=s3_server)


@pytest.fixture
def workspace(s3):
    """A prefix of a bucket of its own."""
    bucket = f"train-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    return Workspace(f"s3://{bucket}/team")


@pytest.fixture
def dataset(tmp_path):
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

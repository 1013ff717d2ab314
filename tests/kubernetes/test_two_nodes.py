"""The whole way of a training on two nodes: the server really starts torchrun twice on this machine, S3 is between."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import socket

import pytest
import torch
from api_server import JOBS
from safetensors.torch import load_file

from components.train.launch import train_model
from components.train.node import Work
from components.train.settings import Settings
from components.train.trainjob import JobSpec, run_trainjob
from model.losses import LossWeights
from model.training_config import TrainingConfig

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = TrainingConfig(epochs=1, batch=2, crop=16, learning_rate=1e-3, seed=4, loss=LossWeights(perceptual=0.0))


def free_port() -> int:
    with closing(socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def kubelet(api, job: dict) -> None:
    """Start the nodes of a TrainJob as processes with what Kubeflow Trainer puts into a pod's environment."""
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    unescaped = [argument.replace("$$", "$") for argument in trainer["args"]]
    python, *rest = trainer["command"]
    assert python == "python"
    port, nodes = free_port(), []
    for node in range(trainer["numNodes"]):
        given = {entry["name"]: entry["value"] for entry in trainer["env"] if "value" in entry}
        torchrun = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        process = subprocess.Popen(
            [sys.executable, *rest, *unescaped],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **given, **torchrun},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        nodes.append((api.add_pod(name, node), process))
        api.run_pod(nodes[-1][0])
    codes = []
    for pod, process in nodes:
        for line in process.stdout:
            api.write_log(pod, line.rstrip("\n"))
        codes.append(process.wait(600))
        api.end_pod(pod, codes[-1], message=b"".join(api.logs[pod][-20:]).decode())
    reason = ("Failed", "JobsFailed", "failed") if any(codes) else ("Complete", "JobsCompleted", "done")
    api.set_condition(name, *reason)


def test_two_nodes_train_what_two_processes_of_one_train(api, cluster, workspace, packed, tmp_path, capfd):
    api.on_create = lambda job: kubelet(api, job)
    settings = Settings(CONFIG, "random", 2, packed, tmp_path / "none")
    settings.write(tmp_path / "settings.json")
    spec = JobSpec(
        run="run-7",
        nodes=2,
        processes_per_node=1,
        gpus_per_node=0,
        image="atlas-fusion:0.1.0",
        runtime="atlas-fusion",
        workspace=workspace.url,
        settings=json.loads((tmp_path / "settings.json").read_text()),
        cpus_per_node=1,
    )
    run_trainjob(spec, packed, tmp_path / "model", cluster=cluster)
    assert "progress train 3/3" in capfd.readouterr().out
    assert api.objects[JOBS] == {}
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert facts["processes"] == 2
    train_model(replace(settings, model=tmp_path / "alone"))
    alone = load_file(tmp_path / "alone" / "weights.safetensors")
    for name, tensor in load_file(tmp_path / "model" / "weights.safetensors").items():
        assert torch.equal(tensor, alone[name]), name


def test_bad_input_on_the_nodes_ends_with_its_line(api, cluster, workspace, packed, tmp_path):
    work = {"workspace": workspace.url, "job": "train-1", "packed": "0" * 32 + ".dir", "settings": {}}
    command = [sys.executable, "-m", "components.train.node", json.dumps(work)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "InputError: version 00000000000000000000000000000000.dir is missing in the remote" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_node_that_is_asked_to_stop_saves_and_ends_resumable(workspace, packed, tmp_path, s3):
    settings = Settings(replace(CONFIG, epochs=10**6), "random", 1, packed, tmp_path / "none", checkpoint_every=10**9)
    settings.write(tmp_path / "settings.json")
    version = workspace.put_data(packed)
    work = Work(workspace.url, "train-1", version, json.loads((tmp_path / "settings.json").read_text()))
    process = subprocess.Popen(
        [sys.executable, "-m", "components.train.node", work.to_json()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PET_NPROC_PER_NODE": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "progress train" in line:
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=600)
    assert process.returncode == 75
    bucket = workspace.data.bucket
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix="team/jobs/train-1/")["Contents"]]
    assert len(keys) == 1 and "/checkpoints/step-" in keys[0]
    workspace.forget_checkpoints("train-1")
    assert s3.list_objects_v2(Bucket=bucket, Prefix="team/jobs/train-1/")["KeyCount"] == 0

"""What stands in infra/training and what the train step sends: by Kubeflow Trainer's schema, and no right too many."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from components.train.cluster import Launcher
from components.train.node import Work
from components.train.trainjob import JobSpec, manifest
from model.errors import InputError

HERE = Path(__file__).parent
INFRA = HERE.parent.parent / "infra"
TRAINING = INFRA / "training"
VERSION = "0" * 32 + ".dir"


def schema(kind: str) -> dict:
    place = HERE if kind == "trainjob" else INFRA / "kubernetes" / "schemas"
    return json.loads((place / f"{kind}.schema.json").read_text())


def in_infra(name: str) -> list[dict]:
    return list(yaml.safe_load_all((TRAINING / name).read_text()))


def spec(**changes) -> JobSpec:
    usual = {
        "run": "Run 7_a",
        "nodes": 2,
        "processes_per_node": 4,
        "gpus_per_node": 4,
        "image": "registry.example/atlas-fusion:1",
        "runtime": "atlas-fusion",
        "workspace": "s3://bucket/team",
        "settings": {"training": {"epochs": 3}, "perceptual": "random", "packed": "/tmp/a", "model": "/tmp/b"},
    }
    return JobSpec(**usual | changes)


def test_the_runtime_is_what_the_trainer_accepts():
    (runtime,) = in_infra("runtime.yaml")
    jsonschema.validate(runtime, schema("trainingruntime"))
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "node", "the only name that Kubeflow Trainer gives torchrun's variables to"
    assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
    assert "medium" not in volumes[mounts["/tmp"]] and volumes[mounts["/dev/shm"]]["medium"] == "Memory"
    accounts = [thing["metadata"]["name"] for thing in in_infra("access.yaml") if thing["kind"] == "ServiceAccount"]
    assert accounts == [pod["serviceAccountName"]]


@pytest.mark.parametrize(
    "harm",
    [
        lambda runtime: runtime["spec"]["mlPolicy"].update(numProcPerNode=2),
        lambda runtime: runtime["spec"]["mlPolicy"]["torch"].update(elasticPolicy={}),
        lambda runtime: runtime.update(kind="ClusterTrainingRuntime"),
    ],
)
def test_the_schema_refuses_what_the_trainer_would_refuse(harm):
    (runtime,) = in_infra("runtime.yaml")
    harm(runtime)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(runtime, schema("trainingruntime"))


def test_the_role_allows_what_the_code_asks_for_and_nothing_else():
    roles = [thing for thing in in_infra("access.yaml") if thing["kind"] == "Role"]
    rights = {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rights == {
        *(("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "get", "list", "watch", "delete")),
        *(("", "pods", verb) for verb in ("get", "list", "watch")),
        ("", "pods/log", "get"),
    }


def test_every_field_of_a_trainjob_is_one_that_the_trainer_knows():
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-7", "uid": "u"}
    job = manifest(spec(environment={"NCCL_DEBUG": "INFO"}), VERSION, "team", Launcher(owner))
    jsonschema.validate(job, schema("trainjob"))
    assert job["metadata"]["ownerReferences"] == [owner]
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "4"
    assert job["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert trainer["env"][0] == {"name": "OMP_NUM_THREADS", "value": "1"}


def test_credentials_are_in_a_trainjob_by_reference_only():
    job = manifest(spec(secret="s3-keys"), VERSION, "team")
    values = {entry["name"]: entry.get("value") for entry in job["spec"]["trainer"]["env"]}
    references = {entry["name"]: entry.get("valueFrom", {}) for entry in job["spec"]["trainer"]["env"]}
    assert values["AWS_SECRET_ACCESS_KEY"] is None
    assert references["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "s3-keys"


def test_the_name_follows_from_run_and_specification():
    def name(job_spec, version=VERSION):
        return manifest(job_spec, version, "team")["metadata"]["name"]

    elsewhere = spec().settings | {"packed": "/another/pod", "model": "/another/model"}
    assert name(spec()) == name(spec(settings=elsewhere)), "a second attempt has other folders"
    names = [name(spec()), name(spec(run="run 8")), name(spec(nodes=3)), name(spec(), "1" * 32 + ".dir")]
    assert len(set(names)) == 4
    assert names[0].startswith("train-run-7-a-") and len(names[0]) < 40
    jsonschema.validate(manifest(spec(run="-" * 90 + "Ü"), VERSION, "team"), schema("trainjob"))


def test_the_nodes_read_what_the_launcher_wrote_whatever_is_in_it():
    job = manifest(spec(settings={"perceptual": "random", "note": '$(HOME) $$ "ü"\n'}), VERSION, "team")
    (argument,) = job["spec"]["trainer"]["args"]
    work = Work.from_json(argument.replace("$$", "$"))
    assert work.settings == {"perceptual": "random", "note": '$(HOME) $$ "ü"\n', "processes": 8}
    assert (work.workspace, work.job) == ("s3://bucket/team", job["metadata"]["name"])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nodes": 0}, "nodes is 0; give at least 1"),
        ({"processes_per_node": 2}, "2 processes a node do not fit 4 GPUs"),
        ({"workspace": "/mnt/shared"}, "workspace '/mnt/shared' is no S3 address"),
        ({"memory_per_node": "16 GB"}, "memory_per_node is '16 GB'; give an amount such as 16Gi"),
        ({"environment": {"MY_PASSWORD": "hush"}}, "MY_PASSWORD cannot be in environment"),
        ({"environment": {"PET_NNODES": "3"}}, "PET_NNODES cannot be in environment"),
        ({"settings": {"perceptual": "weights/vgg.safetensors"}}, "which the nodes do not have"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes, complaint: str):
    with pytest.raises(InputError) as refusal:
        spec(**changes)
    assert complaint in str(refusal.value)
    assert "hush" not in str(refusal.value)

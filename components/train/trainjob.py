"""Train on several nodes: a TrainJob of Kubeflow Trainer, from creating or finding it to the model it leaves.

The job's name follows from the pipeline run and the specification, so that a step that is tried again finds it again.
Data, checkpoints and the model travel by S3.
"""

import hashlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from components.train.cluster import GROUP, VERSION, Cluster, Launcher
from components.train.job_watch import JobHopeless, JobWatch, Patience
from components.train.node import Work
from components.train.workspace import Workspace
from model.errors import InputError

RUNTIME = "atlas-fusion"
"""The TrainingRuntime of infra/training."""
SPECIFICATION = "atlas-fusion/specification"

_FROM_SECRET = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
_FROM_CONFIG_MAP = ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "MLFLOW_TRACKING_URI")
_MEMORY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY")
_ATTEMPTS = 3
_GONE_SECONDS = 300.0
_CANCEL_SECONDS = 15.0


@dataclass(frozen=True)
class JobSpec:
    """What a training on several nodes is asked to do.

    `run` names the pipeline run ("": as this pod's labels say); `settings` is what `Settings.write` writes, the same in
    every attempt, whose folders are replaced; `workspace` is s3://bucket/prefix; `secret` and `config_map` name what
    the nodes take credentials and addresses from, by reference. Raises InputError for what cannot work.
    """

    run: str
    nodes: int
    processes_per_node: int
    gpus_per_node: int
    image: str
    runtime: str
    workspace: str
    settings: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    secret: str = "atlas-fusion"
    config_map: str = "atlas-fusion"
    cpus_per_node: int = 4
    memory_per_node: str = "16Gi"

    def __post_init__(self) -> None:
        Workspace(self.workspace)
        for name, least in (("nodes", 1), ("processes_per_node", 1), ("gpus_per_node", 0), ("cpus_per_node", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}")
        if self.gpus_per_node not in (0, self.processes_per_node):
            raise InputError(
                f"{self.processes_per_node} processes a node do not fit {self.gpus_per_node} GPUs; give each its own"
            )
        if not _MEMORY.fullmatch(self.memory_per_node):
            raise InputError(f"memory_per_node is {self.memory_per_node!r}; give an amount such as 16Gi")
        if (stack := Path(str(self.settings.get("perceptual", "")))).suffix:
            raise InputError(
                f"perceptual is {str(stack)!r}, which the nodes do not have; name vgg16-bn, vgg19 or random"
            )
        for name in self.environment:
            if name.startswith("PET_") or _SECRET.search(name):
                raise InputError(f"{name} cannot be in environment: torchrun's are set, secrets come from the Secret")


def run_trainjob(
    spec: JobSpec, packed: Path, model: Path, patience: Patience | None = None, cluster: Cluster | None = None
) -> None:
    """Train on the nodes of a cluster; the folder `model` appears whole or not at all.

    SIGTERM and SIGINT delete the job and end this process. Raises InputError in one line: which node failed and why,
    that the job vanished or takes too long, or what the cluster or S3 refuses.
    """
    if model.exists() and any(model.iterdir()):
        raise InputError(f"{model} exists; move it away, or choose another folder")
    cluster, workspace = cluster or Cluster.connect(), Workspace(spec.workspace)
    launcher = cluster.launcher()
    spec = replace(spec, run=spec.run or launcher.run)
    if not spec.run:
        raise InputError("no pipeline run to name the TrainJob after; outside a cluster give one")
    with _cancelling() as cancelled:
        version = workspace.put_data(packed)
        job = manifest(spec, version, cluster.namespace, launcher)
        name = job["metadata"]["name"]
        try:
            if not workspace.model_version(name):
                _see_through(cluster, job, patience or Patience())
            left = workspace.model_version(name)
            if not left:
                raise InputError(f"TrainJob {name} is complete but left no model in {spec.workspace}; see its log")
            workspace.fetch_model(left, model)
            workspace.forget_checkpoints(name)
        except BaseException as error:
            if cancelled.is_set() or isinstance(error, JobHopeless):
                _delete(cluster, job, _CANCEL_SECONDS)
            raise
        _delete(cluster, job)


def manifest(spec: JobSpec, packed: str, namespace: str, launcher: Launcher | None = None) -> dict[str, Any]:
    """The TrainJob that trains by `spec` on the packed dataset of that version, as the SDK's models accept it."""
    from kubeflow_trainer_api import models

    spec = replace(spec, settings=_settings(spec))
    digest = hashlib.sha256(json.dumps([asdict(spec), packed], sort_keys=True).encode()).hexdigest()
    slug = re.sub(r"[^a-z0-9]+", "-", spec.run.lower())[:20].strip("-")
    name = "-".join(filter(None, ("train", slug, digest[:10])))
    owner = launcher and launcher.owner
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {"app.kubernetes.io/name": "atlas-fusion", SPECIFICATION: digest[:32]},
        "annotations": {"atlas-fusion/run": spec.run},
    } | ({"ownerReferences": [owner]} if owner else {})
    job = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": spec.runtime},
            "trainer": _trainer(spec, Work(spec.workspace, name, packed, spec.settings)),
        },
    }
    # Kubernetes' own models have no types.
    checked: dict[str, Any] = models.TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    return checked


def _settings(spec: JobSpec) -> dict[str, Any]:
    """The settings as JSON has them, without the folders of this machine."""
    plain: dict[str, Any] = json.loads(json.dumps(spec.settings, default=str))
    kept = {name: value for name, value in plain.items() if name not in ("packed", "model", "checkpoints")}
    return kept | {"processes": spec.nodes * spec.processes_per_node}


def _trainer(spec: JobSpec, work: Work) -> dict[str, Any]:
    resources = {"cpu": str(spec.cpus_per_node), "memory": spec.memory_per_node}
    # Kubernetes replaces $(NAME) in arguments and values, and $$ by $.
    plain = {"OMP_NUM_THREADS": str(max(1, spec.cpus_per_node // spec.processes_per_node))} | spec.environment
    return {
        "image": spec.image,
        "command": ["python", "-m", "components.train.node"],
        "args": [work.to_json().replace("$", "$$")],
        "numNodes": spec.nodes,
        "numProcPerNode": spec.processes_per_node,
        # It takes the place of all that the runtime asks for, not only of what it names.
        "resourcesPerNode": {
            "requests": resources,
            "limits": {"memory": spec.memory_per_node}
            | ({"nvidia.com/gpu": str(spec.gpus_per_node)} if spec.gpus_per_node else {}),
        },
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in plain.items()]
        + [_reference("secretKeyRef", spec.secret, name) for name in _FROM_SECRET if spec.secret]
        + [_reference("configMapKeyRef", spec.config_map, name) for name in _FROM_CONFIG_MAP if spec.config_map],
    }


def _reference(kind: str, source: str, name: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {kind: {"name": source, "key": name, "optional": True}}}


def _see_through(cluster: Cluster, job: dict[str, Any], patience: Patience) -> None:
    """Create the job or attach to it, and see it to its end."""
    there = _started(cluster, job)["metadata"]
    JobWatch(replace(cluster, stopped=threading.Event()), there["name"], there["uid"], patience).to_end()


def _started(cluster: Cluster, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it is in the cluster: created, or found from an earlier attempt; a failed one is replaced."""
    name = job["metadata"]["name"]
    for _ in range(_ATTEMPTS):
        if made := cluster.create(job):
            print(f"TrainJob {name} created in namespace {cluster.namespace}", flush=True)
            return made
        there = cluster.find(name)
        if there is None:
            continue
        if not _is_ours(there, job):
            raise InputError(
                f"namespace {cluster.namespace} has another TrainJob {name}; delete it (kubectl delete trainjob {name})"
            )
        if not _is_over(there):
            print(f"TrainJob {name} is there already; attached to it", flush=True)
            return there
        print(f"TrainJob {name} of an earlier attempt has failed or is being deleted; replacing it", flush=True)
        cluster.delete(name, there["metadata"]["uid"])
        if not cluster.await_gone(name, there["metadata"]["uid"], _GONE_SECONDS):
            break
    raise InputError(f"TrainJob {name} of an earlier attempt does not go away; see kubectl describe trainjob {name}")


def _is_ours(there: dict[str, Any], job: dict[str, Any]) -> bool:
    own, label = job["metadata"]["labels"][SPECIFICATION], there["metadata"].get("labels", {}).get(SPECIFICATION)
    return bool(own == label)


def _is_over(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    failed = any(c["type"] == "Failed" and c["status"] == "True" for c in conditions)
    return failed or "deletionTimestamp" in job["metadata"]


def _delete(cluster: Cluster, job: dict[str, Any], seconds: float = 60.0) -> None:
    """Delete the job if it is there and ours; a cluster that refuses is told of, since the work is done or lost."""
    name, cluster = job["metadata"]["name"], replace(cluster, patience=min(cluster.patience, seconds))
    try:
        there = cluster.find(name)
        if there and _is_ours(there, job):
            cluster.delete(name, there["metadata"]["uid"])
            print(f"TrainJob {name} deleted", flush=True)
    except InputError as error:
        print(f"TrainJob {name} may still be there: {error}", flush=True)


@contextmanager
def _cancelling() -> Iterator[threading.Event]:
    """Let SIGTERM and SIGINT end the work by SystemExit, once; the event says that one came."""
    cancelled, before = threading.Event(), {}

    def cancel(number: int, _: FrameType | None) -> None:
        if not cancelled.is_set():
            cancelled.set()
            print(f"cancelled by {signal.Signals(number).name}", flush=True)
            raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, cancel) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield cancelled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

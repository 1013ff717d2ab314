"""What a step is given on a cluster: a title, resources, environment, retries, and an account that is not root.

Under the local runner only the titles count.
"""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components.image import IMAGE, IMAGE_VARIABLE
from components.register.webhook import WEBHOOK_VARIABLE

# The ConfigMap and the Secret that the steps' environment comes from, and what of it each purpose needs.
SETTINGS = "atlas-fusion"
_S3 = ("AWS_ENDPOINT_URL_S3", "AWS_REGION")
_S3_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_REGISTRY = ("MLFLOW_TRACKING_URI",)
_REGISTRY_CREDENTIALS = tuple(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))

LONGEST = "720h"
"""Of all tries of a step together: what KFP calls the longest backoff, Argo counts from the first try's start."""
USER = 1000
"""The account of the image, `infra/Dockerfile`."""
GPU = "nvidia.com/gpu"
SHARED_MEMORY = "2Gi"
"""Of /dev/shm in the train step: the 64 MiB that a container has otherwise are too few for NCCL."""


@dataclass(frozen=True)
class Needs:
    """What a step needs: CPUs and memory that are reserved for it and its memory's bound, as Kubernetes writes them.

    `tries` is how often it is started at most: what reaches out to S3 or MLflow may fail and work a minute later. `s3`
    and `registry` ask for their environment, without which the step cannot work if `registry` is "must"; `tells` for
    that of the webhook. `own_image` tells the step the name of its image, as lineage and for the nodes that it starts.
    What `cached` is False asks the world outside, so that no earlier answer stands for today's.
    """

    cpus: str
    memory: str
    most_memory: str
    tries: int = 1
    s3: bool = False
    registry: str = ""
    tells: bool = False
    own_image: bool = False
    cached: bool = True


NOTE = Needs("100m", "256Mi", "1Gi")
LOOK = Needs("500m", "1Gi", "4Gi", tries=3, s3=True, registry="may", cached=False)
FETCH = Needs("1", "1Gi", "4Gi", tries=3, s3=True)
JUDGE_DATA = Needs("1", "2Gi", "8Gi", tries=2, registry="may")
PACK = Needs("1", "2Gi", "8Gi")
TRAIN = Needs("2", "8Gi", "16Gi", tries=3, s3=True, registry="may", own_image=True)
CHOOSE = Needs("500m", "1Gi", "4Gi", registry="may")
SCORE = Needs("2", "4Gi", "16Gi")
FIND_CHAMPION = Needs("500m", "1Gi", "4Gi", tries=3, registry="may", cached=False)
EVALUATE = Needs("2", "4Gi", "16Gi", tries=2, registry="may")
REGISTER = Needs("1", "2Gi", "8Gi", tries=3, registry="must", tells=True, own_image=True, cached=False)
TELL = Needs("500m", "512Mi", "2Gi", registry="may", tells=True, cached=False)
SUM_UP = Needs("500m", "1Gi", "4Gi", tries=3, s3=True, cached=False)
FUSE = Needs("2", "4Gi", "16Gi", tries=3, s3=True, cached=False)


def place(task: dsl.PipelineTask, title: str, needs: Needs) -> dsl.PipelineTask:
    """Give a step its title in the UI and what it needs of a cluster; the step itself."""
    task.set_display_name(title)
    task.set_cpu_request(needs.cpus)
    task.set_memory_request(needs.memory).set_memory_limit(needs.most_memory)
    if needs.tries > 1:
        task.set_retry(needs.tries - 1, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration=LONGEST)
    task.set_caching_options(needs.cached)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", SETTINGS)
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "step")
    if needs.s3:
        _from_config(task, _S3)
        _from_secret(task, _S3_CREDENTIALS)
    if needs.registry:
        _from_config(task, _REGISTRY, optional=needs.registry != "must")
        _from_secret(task, _REGISTRY_CREDENTIALS)
    if needs.tells:
        _from_secret(task, (WEBHOOK_VARIABLE,))
    if needs.own_image:
        task.set_env_variable(IMAGE_VARIABLE, IMAGE)
    return task


def with_gpus(task: dsl.PipelineTask, gpus: str) -> None:
    """Ask for GPUs, as many as the pipeline's parameter says (0 runs anywhere), and memory that processes share.

    The parameter must be an input of the step too: the compiler hands nothing else on into an exit handler's group. It
    must be text: of a number the back end's driver reads no count, and the step would get no GPU without a word.
    """
    task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)


def _from_config(task: dsl.PipelineTask, names: tuple[str, ...], optional: bool = True) -> None:
    kubernetes.use_config_map_as_env(task, SETTINGS, {name: name for name in names}, optional=optional)


def _from_secret(task: dsl.PipelineTask, names: tuple[str, ...]) -> None:
    kubernetes.use_secret_as_env(task, SETTINGS, {name: name for name in names}, optional=True)

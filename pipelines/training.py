"""The training pipeline: from a dataset version to a judged, registered model.

1. ingest: bring the exact version of the data in (or make the phantom)
2. validate: judge it by Great Expectations, with Data Docs
3. preprocess: refuse what failed critically; split by subject, pack for training
4. train: the network, by torchrun
5. champion: name the version that the model is to succeed
6. evaluate: every strategy, baseline and that champion on the held-out subjects
7. register: log to MLflow, create the model version, let the gate decide on the champion
"""

from typing import NamedTuple

from kfp import dsl, kubernetes

from components.evaluate.component import evaluate as evaluate_step
from components.ingest.component import ingest as ingest_step
from components.preprocess.component import preprocess as preprocess_step
from components.register.component import champion as champion_step
from components.register.component import register as register_step
from components.register.record import IMAGE_VARIABLE
from components.register.webhook import WEBHOOK_VARIABLE
from components.train.component import train as train_step
from components.validate.component import validate as validate_step

# The ConfigMap and the Secret that the steps' environment comes from on a cluster, and what of it S3 needs.
CLUSTER_SETTINGS = "atlas-fusion"
S3_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_REGION")
S3_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
STEP_USER = 1000  # of the image


class Results(NamedTuple):
    """What a run leaves for whoever started it."""

    data_docs: dsl.HTML
    model: dsl.Model
    evaluation: dsl.Dataset
    registration: dsl.Artifact


def let_reach_registry(task: dsl.PipelineTask, optional: bool) -> None:
    """Give a step the environment that names the MLflow registry; the Secret is optional always."""
    address, credentials = "MLFLOW_TRACKING_URI", ("USERNAME", "PASSWORD", "TOKEN")
    kubernetes.use_config_map_as_env(task, CLUSTER_SETTINGS, {address: address}, optional=optional)
    names = {f"MLFLOW_TRACKING_{name}": f"MLFLOW_TRACKING_{name}" for name in credentials}
    kubernetes.use_secret_as_env(task, CLUSTER_SETTINGS, names, optional=True)


def let_announce(task: dsl.PipelineTask) -> None:
    """Give the step that registers the environment that names its image, and whom to tell of a promotion."""
    kubernetes.use_config_map_as_env(task, CLUSTER_SETTINGS, {IMAGE_VARIABLE: IMAGE_VARIABLE}, optional=True)
    kubernetes.use_secret_as_env(task, CLUSTER_SETTINGS, {WEBHOOK_VARIABLE: WEBHOOK_VARIABLE}, optional=True)


def let_reach_s3(task: dsl.PipelineTask) -> None:
    """Give a step the environment that S3 needs, where the cluster has it."""
    kubernetes.use_config_map_as_env(task, CLUSTER_SETTINGS, {name: name for name in S3_SETTINGS}, optional=True)
    kubernetes.use_secret_as_env(task, CLUSTER_SETTINGS, {name: name for name in S3_CREDENTIALS}, optional=True)


def run_unprivileged(*tasks: dsl.PipelineTask) -> None:
    """Run steps as the image's user, never as root: a namespace that enforces `restricted` takes no others."""
    for task in tasks:
        kubernetes.set_security_context(task, run_as_user=STEP_USER, run_as_group=STEP_USER, run_as_non_root=True)


@dsl.pipeline(
    name="atlas-fusion-training",
    description="Train, judge and register the attention-based multi-scale network that fuses pairs of medical images.",
)
def training_pipeline(
    data: str = "phantom",
    data_version: str = "",
    collection: str = "CT-MRI",
    phantom_subjects: int = 8,
    phantom_slices: int = 8,
    min_pairs: int = 16,
    split: str = "subject",
    split_seed: int = 0,
    size: int = 0,
    normalise: str = "none",
    register_pairs: bool = False,
    network: str = "dilran",
    width: int = 64,
    epochs: int = 12,
    batch: int = 4,
    accumulate: int = 1,
    crop: int = 64,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    gradient_weight: float = 0.2,
    perceptual_weight: float = 0.2,
    perceptual: str = "random",
    statistics: str = "image",
    precision: str = "float32",
    clip: float = 0.0,
    ema: float = 0.0,
    patience: int = 0,
    device: str = "auto",
    processes: int = 2,
    workspace: str = "",
    checkpoint_every: int = 0,
    num_nodes: int = 1,
    gpus_per_node: int = 0,
    cpus_per_node: int = 4,
    memory_per_node: str = "16Gi",
    deadline_seconds: int = 0,
    seed: int = 3407,
    strategies: str = "default,sfnn,fl1n,fer,average,maximum",
    gate_measures: str = "vif",
    gate_margin: float = 0.0,
    gate_lesions: float = 0.5,
    gate_seconds: float = 4.0,
    experiment: str = "atlas-fusion",
    model_name: str = "ct-mri-fusion-quick",
    profile: str = "quick",
    git_commit: str = "unknown",
    code_version: str = "",
) -> Results:
    """Train, judge and register a fusion network.

    Args:
        data: A folder holding CT-MRI/CT and CT-MRI/MRI, s3://bucket/prefix, or "phantom" for the built-in generator.
        data_version: The version the data must have, <md5>.dir as DVC names it; empty accepts any folder; S3 needs it.
        collection: Which pairs: CT-MRI, PET-MRI or SPECT-MRI; the phantom has CT-MRI.
        phantom_subjects: How many subjects the phantom has.
        phantom_slices: How many slices each phantom subject has.
        min_pairs: Fewer pairs than this stop the run.
        split: Split: subject (whole subjects held out), fold:K/N (one of N folds of subjects) or paper (leaks).
        split_seed: Which subjects are held out follows from this seed.
        size: Side in pixels that every image is brought to; 0 leaves them as they are, all of one size.
        normalise: Levels: none, or percentile (stretched by modality, from the training subjects).
        register_pairs: Move the second image of each pair onto the first where that gains mutual information.
        network: What is trained: dilran (the poster's network), msrpan or msdra.
        width: Channels of dilran's encodings: a multiple of 8 from 8 to 256; the others have 64.
        epochs: How often every training image is seen.
        batch: Single images that a process takes through the network at once.
        accumulate: Such batches of every process that make one step of the optimiser.
        crop: Side of the random square training crops in pixels; 0 trains on whole images.
        learning_rate: Adam's learning rate.
        schedule: Of the learning rate: constant, or cosine (falls to zero).
        gradient_weight: Weight of the gradient loss beside the L2 loss.
        perceptual_weight: Weight of the perceptual loss beside the L2 loss.
        perceptual: Feature stack of the perceptual loss: vgg16-bn, vgg19, random, or a VGG safetensors file.
        statistics: BatchNorm's in training: of each image, as in fusion, or of the batch.
        precision: Of training: float32, bfloat16, or auto (bfloat16 on a GPU that has it).
        clip: Greatest norm of the gradient; 0 sets no bound.
        ema: Decay of the moving average of the weights that is kept, such as 0.999; 0 for none.
        patience: Epochs without a better validation loss that end the training; 0 trains to the end.
        device: What trains: cpu, cuda (a GPU a process), or auto, GPUs where there are any.
        processes: How many training processes torchrun starts on each node.
        workspace: A lasting folder or s3://bucket/prefix for checkpoints; empty keeps them beside the model.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps one every epoch.
        num_nodes: Machines that train: 1 is this step itself, more are the nodes of a TrainJob (workspace must be S3).
        gpus_per_node: GPUs of each node of a TrainJob, one a process; 0 trains on its CPUs.
        cpus_per_node: CPUs of each node of a TrainJob.
        memory_per_node: Memory of each node of a TrainJob.
        deadline_seconds: Seconds after which a TrainJob is ended; 0 for no limit.
        seed: Seed of the phantom, of the initial weights, of shuffling and crops.
        strategies: Fusion strategies to judge; the first is the candidate's.
        gate_measures: Measures a champion must be better in than every classical method and the last, comma-separated.
        gate_margin: By how much it must be better in each of them.
        gate_lesions: Least share of the contrast of the phantom's lesions that a champion must keep.
        gate_seconds: Most seconds that a champion may take for a pair of 256x256.
        experiment: MLflow experiment.
        model_name: Name of the model in the MLflow registry; `fusion run` names it after the collection.
        profile: The profile these parameters started from; a tag of the model version.
        git_commit: The commit of the code; a tag of the model version.
        code_version: The version of the code, part of every step's cache key.
    """
    ingested = ingest_step(
        data=data,
        data_version=data_version,
        collection=collection,
        phantom_subjects=phantom_subjects,
        phantom_slices=phantom_slices,
        seed=seed,
        code_version=code_version,
    )
    let_reach_s3(ingested)
    dataset = ingested.outputs["dataset"]
    validated = validate_step(
        dataset=dataset, min_pairs=min_pairs, size=size, model_name=model_name, code_version=code_version
    )
    let_reach_registry(validated, optional=True)
    preprocessed = preprocess_step(
        dataset=dataset,
        validation=validated.outputs["report"],
        split=split,
        split_seed=split_seed,
        size=size,
        normalise=normalise,
        register_pairs=register_pairs,
        code_version=code_version,
    )
    packed = preprocessed.outputs["packed"]
    trained = train_step(
        packed=packed,
        network=network,
        width=width,
        epochs=epochs,
        batch=batch,
        accumulate=accumulate,
        crop=crop,
        learning_rate=learning_rate,
        schedule=schedule,
        gradient_weight=gradient_weight,
        perceptual_weight=perceptual_weight,
        perceptual=perceptual,
        statistics=statistics,
        precision=precision,
        clip=clip,
        ema=ema,
        patience=patience,
        device=device,
        processes=processes,
        workspace=workspace,
        checkpoint_every=checkpoint_every,
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_node=cpus_per_node,
        memory_per_node=memory_per_node,
        deadline_seconds=deadline_seconds,
        experiment=experiment,
        seed=seed,
        code_version=code_version,
    )
    let_reach_registry(trained, optional=True)
    let_reach_s3(trained)
    model = trained.outputs["model"]
    found = champion_step(model=model, model_name=model_name)
    # Another may have become champion since; what evaluation takes from the cache follows the answer.
    found.set_caching_options(False)
    let_reach_registry(found, optional=True)
    evaluated = evaluate_step(
        dataset=packed,
        model=model,
        strategies=strategies,
        gate_measures=gate_measures,
        champion=found.output,
        code_version=code_version,
    )
    let_reach_registry(evaluated, optional=True)
    evaluation = evaluated.outputs["evaluation"]
    registered = register_step(
        dataset=packed,
        model=model,
        evaluation=evaluation,
        validation=validated.outputs["report"],
        experiment=experiment,
        model_name=model_name,
        gate_measures=gate_measures,
        gate_margin=gate_margin,
        gate_lesions=gate_lesions,
        gate_seconds=gate_seconds,
        profile=profile,
        git_commit=git_commit,
        code_version=code_version,
        pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    # The registry may have changed since; the step itself finds a version that is there already.
    registered.set_caching_options(False)
    let_reach_registry(registered, optional=False)
    let_announce(registered)
    run_unprivileged(ingested, validated, preprocessed, trained, found, evaluated, registered)
    return Results(
        data_docs=validated.outputs["data_docs"],
        model=model,
        evaluation=evaluation,
        registration=registered.outputs["registration"],
    )

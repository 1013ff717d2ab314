"""The search pipeline: from a dataset version to the best of many trainings, judged and registered.

1. ingest, validate, preprocess: as in the training pipeline, once
2. plan: the trials, a grid or some of it drawn at random
3. train and score each trial, a few at a time, on the validation subjects
4. choose: the best trial
5. evaluate, register: as in the training pipeline, the best one alone

No exit handler stands around them: Kubeflow's back end fails a loop inside one (kubeflow/pipelines#12390).
"""

from typing import NamedTuple

from kfp import dsl

from components.evaluate.component import evaluate as evaluate_step
from components.ingest.component import ingest as ingest_step
from components.preprocess.component import preprocess as preprocess_step
from components.register.component import champion as champion_step
from components.register.component import register as register_step
from components.sweep.component import choose as choose_step
from components.sweep.component import plan as plan_step
from components.sweep.component import score as score_step
from components.sweep.component import train_trial as train_trial_step
from components.validate.component import validate as validate_step
from pipelines import cluster

# Kubeflow takes a constant here.
TRIALS_AT_ONCE = 2


class SearchResults(NamedTuple):
    """What a search leaves for whoever started it."""

    data_docs: dsl.HTML
    model: dsl.Model
    trials: dsl.Dataset
    evaluation: dsl.Dataset
    registration: dsl.Artifact


@dsl.pipeline(
    name="atlas-fusion-sweep",
    description="Search over how the network is trained; judge and register the best by the validation subjects.",
)
def sweep_pipeline(
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
    search: str = "learning_rate=1e-4,1e-3 gradient_weight=0.1,0.2",
    trials: int = 0,
    measure: str = "qabf",
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
    gpus: str = "0",
    workspace: str = "",
    checkpoint_every: int = 0,
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
) -> SearchResults:
    """Search for the best training of a fusion network, judge and register it.

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
        search: The values to try, such as "learning_rate=1e-4,1e-3 width=32,64"; they replace the values below.
        trials: How many combinations of them are drawn at random, by the seed; 0 tries all.
        measure: What the best is chosen by, on the validation subjects: a measure of the fused images, or loss.
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
        gpus: GPUs that the training of each trial asks for, one a process; 0 leaves device and processes to say.
        workspace: A lasting folder or s3://bucket/prefix for checkpoints; empty keeps them beside the model.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps one every epoch.
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
    cluster.place(ingested, "Bring the data in", cluster.FETCH)
    dataset = ingested.outputs["dataset"]
    validated = validate_step(
        dataset=dataset, min_pairs=min_pairs, size=size, model_name=model_name, code_version=code_version
    )
    cluster.place(validated, "Validate the data", cluster.JUDGE_DATA)
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
    cluster.place(preprocessed, "Split by subject and pack", cluster.PACK)
    packed = preprocessed.outputs["packed"]
    planned = plan_step(
        search=search,
        trials=trials,
        measure=measure,
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
        statistics=statistics,
        precision=precision,
        clip=clip,
        ema=ema,
        patience=patience,
        device=device,
        seed=seed,
        experiment=experiment,
        code_version=code_version,
    )
    cluster.place(planned, "Plan the trials", cluster.CHOOSE)
    with dsl.ParallelFor(items=planned.output, parallelism=TRIALS_AT_ONCE) as trial:
        trained = train_trial_step(
            packed=packed,
            trial=trial,
            perceptual=perceptual,
            processes=processes,
            gpus=gpus,
            workspace=workspace,
            checkpoint_every=checkpoint_every,
            experiment=experiment,
            code_version=code_version,
        )
        cluster.place(trained, "Train a trial", cluster.TRAIN)
        cluster.with_gpus(trained, gpus)
        scored = score_step(packed=packed, model=trained.outputs["model"], measure=measure, code_version=code_version)
        cluster.place(scored, "Score it on the validation subjects", cluster.SCORE)
    chosen = choose_step(
        models=dsl.Collected(trained.outputs["model"]),
        scores=dsl.Collected(scored.outputs["scored"]),
        search=search,
        trials=trials,
        measure=measure,
        seed=seed,
        code_version=code_version,
    )
    cluster.place(chosen, "Choose the best", cluster.CHOOSE)
    model = chosen.outputs["model"]
    found = champion_step(model=model, model_name=model_name)
    cluster.place(found, "Find the champion", cluster.FIND_CHAMPION)
    evaluated = evaluate_step(
        dataset=packed,
        model=model,
        strategies=strategies,
        gate_measures=gate_measures,
        champion=found.output,
        code_version=code_version,
    )
    cluster.place(evaluated, "Compare on held-out subjects", cluster.EVALUATE)
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
    cluster.place(registered, "Register, and let the gate decide", cluster.REGISTER)
    return SearchResults(
        data_docs=validated.outputs["data_docs"],
        model=model,
        trials=chosen.outputs["table"],
        evaluation=evaluation,
        registration=registered.outputs["registration"],
    )

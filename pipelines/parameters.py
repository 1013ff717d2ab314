"""The training pipeline's parameters, named, typed and described once, with the defaults of each profile."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from model.errors import unknown_choice


def _parameter(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Parameters:
    """What one run of the training pipeline is asked to do; the defaults are the quick profile's."""

    data: str = _parameter(
        "phantom",
        'A folder holding CT-MRI/CT and CT-MRI/MRI, s3://bucket/prefix, or "phantom" for the built-in generator.',
    )
    data_version: str = _parameter(
        "", "The version the data must have, <md5>.dir as DVC names it; empty accepts any folder; S3 needs it."
    )
    collection: str = _parameter("CT-MRI", "Which pairs: CT-MRI, PET-MRI or SPECT-MRI; the phantom has CT-MRI.")
    phantom_subjects: int = _parameter(8, "How many subjects the phantom has.")
    phantom_slices: int = _parameter(8, "How many slices each phantom subject has.")
    min_pairs: int = _parameter(16, "Fewer pairs than this stop the run.")
    split: str = _parameter(
        "subject",
        "Split: subject (whole subjects held out), fold:K/N (one of N folds of subjects) or paper (leaks).",
    )
    split_seed: int = _parameter(0, "Which subjects are held out follows from this seed.")
    size: int = _parameter(
        0, "Side in pixels that every image is brought to; 0 leaves them as they are, all of one size."
    )
    normalise: str = _parameter(
        "none", "Levels: none, or percentile (stretched by modality, from the training subjects)."
    )
    register_pairs: bool = _parameter(
        False, "Move the second image of each pair onto the first where that gains mutual information."
    )
    network: str = _parameter("dilran", "What is trained: dilran (the poster's network), msrpan or msdra.")
    width: int = _parameter(64, "Channels of dilran's encodings: a multiple of 8 from 8 to 256; the others have 64.")
    epochs: int = _parameter(12, "How often every training image is seen.")
    batch: int = _parameter(4, "Single images that a process takes through the network at once.")
    accumulate: int = _parameter(1, "Such batches of every process that make one step of the optimiser.")
    crop: int = _parameter(64, "Side of the random square training crops in pixels; 0 trains on whole images.")
    learning_rate: float = _parameter(1e-3, "Adam's learning rate.")
    schedule: str = _parameter("constant", "Of the learning rate: constant, or cosine (falls to zero).")
    gradient_weight: float = _parameter(0.2, "Weight of the gradient loss beside the L2 loss.")
    perceptual_weight: float = _parameter(0.2, "Weight of the perceptual loss beside the L2 loss.")
    perceptual: str = _parameter(
        "random",
        "Feature stack of the perceptual loss: vgg16-bn, vgg19, random, or a VGG safetensors file.",
    )
    statistics: str = _parameter("image", "BatchNorm's in training: of each image, as in fusion, or of the batch.")
    precision: str = _parameter("float32", "Of training: float32, bfloat16, or auto (bfloat16 on a GPU that has it).")
    clip: float = _parameter(0.0, "Greatest norm of the gradient; 0 sets no bound.")
    ema: float = _parameter(0.0, "Decay of the moving average of the weights that is kept, such as 0.999; 0 for none.")
    patience: int = _parameter(0, "Epochs without a better validation loss that end the training; 0 trains to the end.")
    device: str = _parameter("auto", "What trains: cpu, cuda (a GPU a process), or auto, GPUs where there are any.")
    processes: int = _parameter(2, "How many training processes torchrun starts on each node.")
    # Text, since Kubeflow's back end passes over a number where it fills in what a pod asks for.
    gpus: str = _parameter(
        "0", "GPUs that the train step asks for, one a process; 0 leaves device and processes to say what trains."
    )
    workspace: str = _parameter(
        "", "A lasting folder or s3://bucket/prefix for checkpoints; empty keeps them beside the model."
    )
    num_nodes: int = _parameter(
        1, "Machines that train: 1 is this step itself, more are the nodes of a TrainJob (workspace must be S3)."
    )
    gpus_per_node: int = _parameter(0, "GPUs of each node of a TrainJob, one a process; 0 trains on its CPUs.")
    cpus_per_node: int = _parameter(4, "CPUs of each node of a TrainJob.")
    memory_per_node: str = _parameter("16Gi", "Memory of each node of a TrainJob.")
    deadline_seconds: int = _parameter(0, "Seconds after which a TrainJob is ended; 0 for no limit.")
    checkpoint_every: int = _parameter(0, "Steps from one checkpoint to the next; 0 keeps one every epoch.")
    seed: int = _parameter(3407, "Seed of the phantom, of the initial weights, of shuffling and crops.")
    strategies: str = _parameter(
        "default,sfnn,fl1n,fer,average,maximum", "Fusion strategies to judge; the first is the candidate's."
    )
    gate_measures: str = _parameter(
        "vif", "Measures a champion must be better in than every classical method and the last, comma-separated."
    )
    gate_margin: float = _parameter(0.0, "By how much it must be better in each of them.")
    gate_lesions: float = _parameter(
        0.5, "Least share of the contrast of the phantom's lesions that a champion must keep."
    )
    gate_seconds: float = _parameter(4.0, "Most seconds that a champion may take for a pair of 256x256.")
    experiment: str = _parameter("atlas-fusion", "MLflow experiment.")
    model_name: str = _parameter(
        "ct-mri-fusion-quick", "Name of the model in the MLflow registry; `fusion run` names it after the collection."
    )
    profile: str = _parameter("quick", "The profile these parameters started from; a tag of the model version.")
    git_commit: str = _parameter("unknown", "The commit of the code; a tag of the model version.")
    code_version: str = _parameter("", "The version of the code, part of every step's cache key.")


MAKES_THE_MODEL = frozenset(
    {
        *("collection", "min_pairs", "split", "split_seed", "size", "normalise", "register_pairs", "network", "width"),
        *("epochs", "batch", "accumulate", "crop", "learning_rate", "schedule", "gradient_weight", "perceptual_weight"),
        *("perceptual", "statistics", "precision", "clip", "ema", "patience", "processes", "gpus", "num_nodes"),
        *("gpus_per_node", "seed", "strategies"),
    }
)
"""The parameters that decide, beside data and code, which model comes out."""

# What `fusion sweep` searches over: the loop's numbers and choices.
SEARCHED = (
    *("network", "width", "epochs", "batch", "accumulate", "crop", "learning_rate", "schedule", "gradient_weight"),
    *("perceptual_weight", "statistics", "precision", "clip", "ema", "patience"),
)

# What each profile sets otherwise than the defaults above.
PROFILES: dict[str, dict[str, Any]] = {
    "quick": {},
    "atlas": {
        "profile": "atlas",
        "model_name": "ct-mri-fusion",
        "data": "data",
        "epochs": 100,
        "processes": 1,
        "crop": 0,
        "schedule": "cosine",
        "perceptual": "vgg16-bn",
    },
}


TRAINING = (
    *("data", "data_version", "collection", "phantom_subjects", "phantom_slices", "split", "split_seed", "size"),
    *("normalise", "register_pairs", "network", "epochs", "batch", "accumulate", "crop", "learning_rate", "schedule"),
    *("gradient_weight", "perceptual_weight", "perceptual", "statistics", "precision", "clip", "ema", "patience"),
    *("device", "processes", "checkpoint_every", "experiment", "seed"),
)
"""The pipeline's parameters that training by itself takes."""


def with_profile(profile: str, given: dict[str, Any]) -> Parameters:
    """The parameters of a profile, overridden by those given; raises InputError for an unknown profile.

    A model name that is not given follows the collection, so that a champion is judged against its like.
    """
    if profile not in PROFILES:
        raise unknown_choice("profile", profile, PROFILES)
    chosen = Parameters(**PROFILES[profile] | given)
    if "model_name" in given:
        return chosen
    return replace(chosen, model_name=chosen.model_name.replace("ct-mri", chosen.collection.lower()))


@dataclass(frozen=True)
class RetrainingParameters(Parameters):
    """What one run of the retraining pipeline is asked to do: the same, if there is anything new."""

    force: bool = _parameter(False, "Train even if nothing is new.")


def described() -> list[tuple[str, type, Any, str]]:
    """Each parameter's name, type, default and description."""
    return [(f.name, f.type, f.default, f.metadata["help"]) for f in fields(Parameters)]  # type: ignore[misc]

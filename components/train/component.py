"""The train step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    network: str,
    width: int,
    epochs: int,
    batch: int,
    accumulate: int,
    crop: int,
    learning_rate: float,
    schedule: str,
    gradient_weight: float,
    perceptual_weight: float,
    perceptual: str,
    statistics: str,
    precision: str,
    clip: float,
    ema: float,
    patience: int,
    device: str,
    processes: int,
    gpus: str,
    workspace: str,
    checkpoint_every: int,
    num_nodes: int,
    gpus_per_node: int,
    cpus_per_node: int,
    memory_per_node: str,
    deadline_seconds: int,
    experiment: str,
    seed: int,
    code_version: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Train the fusion network by torchrun on the training subjects.

    Args:
        packed: The packed dataset.
        network: dilran (the poster's), msrpan or msdra.
        width: Channels of dilran's encodings, a multiple of 8; the others have 64.
        epochs: How often every training image is seen.
        batch: Single images that a process takes through the network at once.
        accumulate: Such batches of every process that make one step of the optimiser.
        crop: Side of the random square crops in pixels; 0 trains on whole images.
        learning_rate: Adam's learning rate.
        schedule: Of the learning rate: constant, or cosine (falls to zero).
        gradient_weight: Weight of the gradient loss beside the L2 loss.
        perceptual_weight: Weight of the perceptual loss beside the L2 loss.
        perceptual: Feature stack of the perceptual loss: vgg16-bn, vgg19, random, or a VGG safetensors file.
        statistics: BatchNorm's in training: of each image, as in fusion, or of the batch.
        precision: Of training: float32, bfloat16, or auto (bfloat16 on a GPU that has it).
        clip: Greatest norm of the gradient; 0 sets no bound.
        ema: Decay of the moving average of the weights that is kept; 0 for none.
        patience: Epochs without a better validation loss that end the training; 0 trains to the end.
        device: What trains: cpu, cuda (a GPU a process), or auto, GPUs where there are any.
        processes: How many processes torchrun starts, where gpus is 0.
        gpus: GPUs of this step, one a process; 0 leaves device and processes to say what trains.
        workspace: A folder or s3://bucket/prefix for checkpoints; empty keeps them beside the model.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps one every epoch.
        num_nodes: Machines that train: 1 is this step itself, more are the nodes of a TrainJob (workspace must be S3).
        gpus_per_node: GPUs of each node of a TrainJob, one a process; 0 trains on its CPUs.
        cpus_per_node: CPUs of each node of a TrainJob.
        memory_per_node: Memory of each node of a TrainJob.
        deadline_seconds: Seconds after which a TrainJob is ended; 0 for no limit.
        experiment: MLflow experiment that shows the training while it runs, where MLFLOW_TRACKING_URI names a server.
        seed: Seed of initial weights, shuffling and crops.
        code_version: The version of the code, part of the cache key.
        model: Weights, configuration, loss curves and every setting.
    """
    from pathlib import Path

    from components.train.launch import Nodes, train_step, training_config

    size = {"epochs": epochs, "batch": batch, "accumulate": accumulate, "crop": crop, "seed": seed}
    rate = {"learning_rate": learning_rate, "schedule": schedule, "clip": clip, "ema": ema, "patience": patience}
    how = {"network": network, "width": width, "statistics": statistics, "precision": precision}
    how["device"] = "cuda" if int(gpus) else device
    config = training_config(gradient_weight, perceptual_weight, size | rate | how)
    places = Path(packed.path), Path(model.path), workspace
    nodes = Nodes(num_nodes, gpus_per_node, cpus_per_node, memory_per_node, deadline_seconds)
    train_step(config, perceptual, int(gpus) or processes, *places, checkpoint_every, experiment, code_version, nodes)
    model.metadata.update({"epochs": epochs, "seed": seed, "framework": "pytorch"})

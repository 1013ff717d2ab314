"""The step that notes what makes the model, as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def settings(
    collection: str,
    min_pairs: int,
    split: str,
    split_seed: int,
    size: int,
    normalise: str,
    register_pairs: bool,
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
    processes: int,
    gpus: str,
    num_nodes: int,
    gpus_per_node: int,
    seed: int,
    strategies: str,
    code_version: str,
) -> str:
    """Note the parameters that decide, beside data and code, which model comes out.

    Each is an input of its own, since not every release of Kubeflow fills in a text of several.

    Args:
        collection: Which pairs.
        min_pairs: Fewer pairs than this stop the run.
        split: How the pairs are split into training, validation and test.
        split_seed: Which subjects are held out follows from it.
        size: Side in pixels that every image is brought to.
        normalise: How the levels are normalised.
        register_pairs: Whether the second image of each pair is moved onto the first.
        network: What is trained.
        width: Channels of the network's encodings.
        epochs: How often every training image is seen.
        batch: Single images that a process takes through the network at once.
        accumulate: Such batches of every process that make one step of the optimiser.
        crop: Side of the random training crops in pixels.
        learning_rate: Adam's learning rate.
        schedule: Of the learning rate.
        gradient_weight: Weight of the gradient loss.
        perceptual_weight: Weight of the perceptual loss.
        perceptual: Feature stack of the perceptual loss.
        statistics: Whose statistics BatchNorm takes in training.
        precision: Of training.
        clip: Greatest norm of the gradient.
        ema: Decay of the moving average of the weights.
        patience: Epochs without a better validation loss that end the training.
        processes: Training processes on each node.
        gpus: GPUs of the train step.
        num_nodes: Machines that train.
        gpus_per_node: GPUs of each node of a TrainJob.
        seed: Seed of the initial weights, of shuffling and crops.
        strategies: Fusion strategies to judge; the first is the candidate's.
        code_version: The version of the code, part of the cache key.

    Returns:
        All but the version of the code, as a JSON object.
    """
    made_by = {name: value for name, value in locals().items() if name != "code_version"}
    import json

    return json.dumps(made_by, sort_keys=True)

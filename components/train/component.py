"""The train step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    network: str,
    epochs: int,
    batch: int,
    crop: int,
    learning_rate: float,
    schedule: str,
    gradient_weight: float,
    perceptual_weight: float,
    perceptual: str,
    processes: int,
    seed: int,
    code_version: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Train the fusion network by torchrun on the training subjects.

    Args:
        packed: The packed dataset.
        network: dilran (the poster's), msrpan or msdra.
        epochs: How often every training image is seen.
        batch: Single images a process and step.
        crop: Side of the random square crops in pixels; 0 trains on whole images.
        learning_rate: Adam's learning rate.
        schedule: Of the learning rate: constant, or cosine (falls to zero).
        gradient_weight: Weight of the gradient loss beside the L2 loss.
        perceptual_weight: Weight of the perceptual loss beside the L2 loss.
        perceptual: Feature stack of the perceptual loss: vgg16-bn, vgg19, random, or a VGG safetensors file.
        processes: How many processes torchrun starts.
        seed: Seed of initial weights, shuffling and crops.
        code_version: The version of the code, part of the cache key.
        model: Weights, configuration, loss curves and every setting.
    """
    from pathlib import Path

    from components.train.launch import train_model, training_config

    weights = gradient_weight, perceptual_weight
    config = training_config(network, epochs, batch, crop, learning_rate, schedule, *weights, seed)
    train_model(config, perceptual, processes, Path(packed.path), Path(model.path))
    model.metadata.update({"epochs": epochs, "seed": seed, "framework": "pytorch"})

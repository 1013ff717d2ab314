"""The train step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    packed: dsl.Input[dsl.Dataset],
    epochs: int,
    batch: int,
    crop: int,
    learning_rate: float,
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
        epochs: How often every training image is seen.
        batch: Single images a process and step.
        crop: Side of the random square crops in pixels; 0 trains on whole images.
        learning_rate: Adam's learning rate.
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

    config = training_config(epochs, batch, crop, learning_rate, gradient_weight, perceptual_weight, seed)
    train_model(config, perceptual, processes, Path(packed.path), Path(model.path))
    model.metadata.update({"epochs": epochs, "seed": seed, "framework": "pytorch"})

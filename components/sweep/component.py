"""The steps of a search as pipeline components: plan the trials, train and score each, choose the best."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(
    search: str,
    trials: int,
    measure: str,
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
    statistics: str,
    precision: str,
    clip: float,
    ema: float,
    patience: int,
    device: str,
    seed: int,
    experiment: str,
    code_version: str,
) -> list[str]:
    """List the trials of a search: every combination of its values, or some drawn at random.

    Args:
        search: The values to try, such as "learning_rate=1e-4,1e-3 width=32,64"; they replace the values below.
        trials: How many combinations are drawn at random, by the seed; 0 takes all.
        measure: What the best will be chosen by: a measure of the fused validation images, or loss.
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
        statistics: BatchNorm's in training: of each image, as in fusion, or of the batch.
        precision: Of training: float32, bfloat16, or auto (bfloat16 on a GPU that has it).
        clip: Greatest norm of the gradient; 0 sets no bound.
        ema: Decay of the moving average of the weights that is kept; 0 for none.
        patience: Epochs without a better validation loss that end the training; 0 trains to the end.
        device: What trains: cpu, cuda (a GPU a process), or auto, GPUs where there are any.
        seed: Seed of initial weights, shuffling and crops, and of the draw.
        experiment: MLflow experiment of the search's run, where MLFLOW_TRACKING_URI names a server.
        code_version: The version of the code, part of the cache key.

    Returns:
        The trials, each as JSON.
    """
    from components.sweep.steps import plan_step

    size = {"network": network, "width": width, "epochs": epochs, "batch": batch, "accumulate": accumulate}
    rate = {"learning_rate": learning_rate, "schedule": schedule, "clip": clip, "ema": ema, "patience": patience}
    loss = {"gradient_weight": gradient_weight, "perceptual_weight": perceptual_weight, "crop": crop}
    how = {"statistics": statistics, "precision": precision, "device": device, "seed": seed}
    return plan_step(search, trials, measure, size | rate | loss | how, experiment)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_trial(
    packed: dsl.Input[dsl.Dataset],
    trial: str,
    perceptual: str,
    processes: int,
    gpus: str,
    workspace: str,
    checkpoint_every: int,
    experiment: str,
    code_version: str,
    model: dsl.Output[dsl.Model],
) -> None:
    """Train one trial of a search by torchrun; one that cannot be trained is noted as failed and ends nothing else.

    Args:
        packed: The packed dataset.
        trial: The trial as JSON, from the plan.
        perceptual: Feature stack of the perceptual loss: vgg16-bn, vgg19, random, or a VGG safetensors file.
        processes: How many processes torchrun starts, where gpus is 0.
        gpus: GPUs of this step, one a process.
        workspace: A folder or s3://bucket/prefix for checkpoints; empty keeps them beside the model.
        checkpoint_every: Steps from one checkpoint to the next; 0 keeps one every epoch.
        experiment: MLflow experiment that shows the training while it runs, where MLFLOW_TRACKING_URI names a server.
        code_version: The version of the code, part of the cache key.
        model: Weights, configuration, loss curves and every setting; or why there are none.
    """
    from pathlib import Path

    from components.sweep.steps import train_trial_step

    places = Path(packed.path), Path(model.path), workspace, checkpoint_every
    failure = train_trial_step(trial, perceptual, int(gpus) or processes, *places, experiment, code_version)
    model.metadata.update({"status": "failed" if failure else "finished", "reason": failure})


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    packed: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    measure: str,
    code_version: str,
    scored: dsl.Output[dsl.Metrics],
) -> None:
    """Measure a trial's model on the validation pairs, fused by its own strategy.

    Args:
        packed: The packed dataset; its test split is not opened.
        model: The trained model of a trial, or the note that there is none.
        measure: A measure of the fused images, or loss.
        code_version: The version of the code, part of the cache key.
        scored: The trial with its value.
    """
    from pathlib import Path

    from components.sweep.steps import score_step

    scored.metadata.update(score_step(Path(model.path), Path(packed.path), measure, Path(scored.path)))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def choose(
    models: dsl.Input[list[dsl.Model]],
    scores: dsl.Input[list[dsl.Metrics]],
    search: str,
    trials: int,
    measure: str,
    seed: int,
    code_version: str,
    model: dsl.Output[dsl.Model],
    table: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Choose the best trial of a search.

    Args:
        models: The models of all trials.
        scores: What each is worth.
        search: The values that were tried.
        trials: How many of their combinations were drawn at random; 0 for all.
        measure: What the scores measure.
        seed: The seed of the draw.
        code_version: The version of the code, part of the cache key.
        model: The best trial's model.
        table: Every trial, as sweep.json and trials.csv.
        summary: The same in words.
    """
    from pathlib import Path

    from components.sweep.steps import choose_step

    folders, files = [Path(each.path) for each in models], [Path(each.path) for each in scores]
    best = choose_step(folders, files, (search, trials, measure, seed), Path(model.path), Path(table.path))
    Path(summary.path).write_text(best.summary())
    model.metadata.update({"trial": best.best.trial.name, measure: best.best.value, "framework": "pytorch"})

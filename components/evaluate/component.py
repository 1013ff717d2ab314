"""The evaluate step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    strategies: str,
    code_version: str,
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Fuse and measure the held-out pairs by the network and by every baseline.

    Args:
        dataset: Packed pairs from the preprocess step; its test split is used.
        model: Trained network from the train step.
        strategies: Fusion strategies, comma-separated; the first one makes the candidate.
        code_version: Version of the code, so that a cached result is not reused after a change.
        evaluation: Folder with the table (JSON, CSV), every single value and the report.
        metrics: Means of the candidate and its margin over the average in Q^AB/F.
        report: Table, pictures, loss curves and lineage as one page.
    """
    import json
    import shutil
    from pathlib import Path

    from components.evaluate import evaluation as step
    from components.progress import Progress

    curves, training = step.read_training(Path(model.path))
    names, progress = step.parse_strategies(strategies), Progress("evaluate")
    result = step.evaluate(Path(model.path), Path(dataset.path), names, progress=progress)
    step.write_evaluation(result, curves, training, Path(evaluation.path))
    shutil.copyfile(Path(evaluation.path) / "report.html", report.path)
    metrics.metadata.update(result.candidate_metrics())
    # KFP's local cache looks for a file behind every artifact.
    Path(metrics.path).write_text(json.dumps(metrics.metadata))

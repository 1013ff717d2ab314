"""The evaluate step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    strategies: str,
    gate_measures: str,
    champion: str,
    code_version: str,
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Fuse and measure the held-out pairs by the network, by every baseline and by the current champion.

    Args:
        dataset: Packed pairs from the preprocess step; its test split is used.
        model: Trained network from the train step.
        strategies: Fusion strategies, comma-separated; the first one makes the candidate.
        gate_measures: Measures that the gate asks for, comma-separated; judged beside those of every report.
        champion: Address of the model to succeed in the registry, such as models:/ct-mri-fusion/3; empty for none.
        code_version: Version of the code, so that a cached result is not reused after a change.
        evaluation: Folder with the table (JSON, CSV), every single value, what the floors ask for, and the report.
        metrics: Means of the candidate and its margin over the average in Q^AB/F.
        report: Table, pictures, loss curves and lineage as one page.
    """
    from pathlib import Path

    from components.evaluate import evaluation as step
    from components.progress import Progress
    from components.register.champion import fetch_champion
    from components.register.gate import parse_measures

    trained = step.read_training(Path(model.path))
    names, measures, progress = step.parse_strategies(strategies), parse_measures(gate_measures), Progress("evaluate")
    folders, rival = (Path(model.path), Path(dataset.path)), fetch_champion(champion)
    result = step.evaluate(*folders, names, progress=progress, measures=measures, champion=rival)
    step.write_evaluation(result, *trained, Path(evaluation.path))
    Path(report.path).write_bytes((Path(evaluation.path) / "report.html").read_bytes())
    metrics.metadata.update(result.candidate_metrics())
    Path(metrics.path).touch()  # KFP's local cache looks for a file behind every artifact.

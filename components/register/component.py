"""The register step as a pipeline component, and the one before evaluation that finds whom to succeed."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def champion(model: dsl.Input[dsl.Model], model_name: str) -> str:
    """Name the champion that the model is to succeed, so that evaluation judges it on the same pairs.

    Args:
        model: The trained model.
        model_name: Name of the model in the registry.

    Returns:
        The champion's address, such as models:/ct-mri-fusion/3; empty where there is none, or it has the same weights.
    """
    from pathlib import Path

    from components.register.champion import find_champion

    return find_champion(model_name, Path(model.path))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    experiment: str,
    model_name: str,
    gate_measures: str,
    gate_margin: float,
    gate_lesions: float,
    gate_seconds: float,
    profile: str,
    git_commit: str,
    code_version: str,
    registration: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    pipeline_run: str = "",
    settings: str = "",
) -> None:
    """Register the model in the MLflow of MLFLOW_TRACKING_URI, and make it the champion if the gate lets it.

    Args:
        dataset: The packed dataset that the model was trained and judged on.
        model: The trained model.
        evaluation: Its evaluation beside the baselines on the held-out subjects.
        validation: The validation's report, whose statistics of the data are kept with the model.
        experiment: MLflow experiment that the run is logged to.
        model_name: Name of the model in the registry.
        gate_measures: Measures that a champion must be better in than all baselines and the last one, comma-separated.
        gate_margin: By how much it must be better in each.
        gate_lesions: Least share of the phantom's lesions' contrast that it must keep.
        gate_seconds: Most seconds that it may take for a pair of 256x256.
        profile: Name of the settings that were run, kept as a tag.
        git_commit: Commit of the code, kept as a tag.
        code_version: The version of the code, kept as a tag and part of the cache key.
        registration: The version that was made, whether it is the champion, and every check, as JSON.
        summary: The outcome in words.
        pipeline_run: The run of the pipeline, kept as a tag.
        settings: What decided, beside data and code, which model came out; a scheduled training compares its own.
    """
    from pathlib import Path

    from components.register import registry
    from components.register.gate import Rules
    from components.register.record import Origin

    rules = Rules.parse(gate_measures, gate_margin, gate_lesions, gate_seconds)
    folders, report = (Path(model.path), Path(evaluation.path), Path(dataset.path)), Path(validation.path)
    origin = Origin.here(profile, git_commit, code_version, pipeline_run, settings)
    made = registry.register(
        *folders, origin, experiment=experiment, model_name=model_name, validation=report, rules=rules
    )
    Path(registration.path).write_text(made.to_json())
    Path(summary.path).write_text(registry.summarise(made))
    registration.metadata.update({"version": made.version, "standing": made.standing, "uri": made.uri})

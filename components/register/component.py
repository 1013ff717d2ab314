"""The register step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    experiment: str,
    model_name: str,
    profile: str,
    git_commit: str,
    code_version: str,
    registration: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
    pipeline_run: str = "",
) -> None:
    """Register the model in the MLflow of MLFLOW_TRACKING_URI, and make it the champion if the gate lets it.

    Args:
        dataset: The packed dataset that the model was trained and judged on.
        model: The trained model.
        evaluation: Its evaluation beside the baselines on the held-out subjects.
        validation: The validation's report, whose statistics of the data are kept with the model.
        experiment: MLflow experiment that the run is logged to.
        model_name: Name of the model in the registry.
        profile: Name of the settings that were run, kept as a tag.
        git_commit: Commit of the code, kept as a tag.
        code_version: The version of the code, kept as a tag and part of the cache key.
        registration: The version that was made, whether it is the champion, and every check, as JSON.
        summary: The outcome in words.
        pipeline_run: The run of the pipeline, kept as a tag.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from components.register import registry
    from components.register.record import Origin

    folders = (Path(model.path), Path(evaluation.path), Path(dataset.path))
    origin = Origin.here(profile, git_commit, code_version, pipeline_run)
    made = registry.register(
        *folders, origin, experiment=experiment, model_name=model_name, validation=Path(validation.path)
    )
    Path(registration.path).write_text(json.dumps(asdict(made), indent=2) + "\n")
    Path(summary.path).write_text(registry.summarise(made))
    registration.metadata.update({"version": made.version, "standing": made.standing, "uri": made.uri})

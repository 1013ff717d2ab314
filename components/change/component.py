"""The step that thinks before a scheduled training, as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def change(
    data: str,
    data_version: str,
    collection: str,
    phantom_subjects: int,
    phantom_slices: int,
    seed: int,
    model_name: str,
    settings: str,
    code_version: str,
    force: bool,
    version: dsl.OutputPath(str),  # type: ignore[valid-type]
    decision: dsl.Output[dsl.Markdown],
    pipeline_run: str = "",
) -> bool:
    """Decide whether a training would make anything new.

    Args:
        data: A folder holding CT-MRI/CT and CT-MRI/MRI, s3://bucket/prefix, or "phantom" for the built-in generator.
        data_version: The version of the data; "latest" is the one that was pushed last to S3.
        collection: Which pairs: CT-MRI, PET-MRI or SPECT-MRI.
        phantom_subjects: How many subjects the phantom has.
        phantom_slices: How many slices each phantom subject has.
        seed: The seed of the phantom.
        model_name: Name of the model in the registry of MLFLOW_TRACKING_URI.
        settings: What decides, beside data and code, which model comes out.
        code_version: The version of the code.
        force: Train in any case.
        version: The exact version of the data.
        decision: The decision and its reason.
        pipeline_run: The run of the pipeline, which the registry keeps beside the decision.

    Returns:
        Whether to train.
    """
    from pathlib import Path

    from components.change.decision import Source, decide
    from components.ingest.phantom import PhantomConfig

    phantom = PhantomConfig(subjects=phantom_subjects, slices=phantom_slices, seed=seed)
    source = Source(data, data_version, collection, phantom)
    decided = decide(source, model_name, settings, code_version, force=force, run=pipeline_run)
    print(decided.reason, flush=True)
    Path(version).write_text(decided.data_version)
    Path(decision.path).write_text(decided.markdown())
    decision.metadata.update({"train": decided.train, "reason": decided.reason})
    return decided.train

"""The validate step as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    dataset: dsl.Input[dsl.Dataset],
    min_pairs: int,
    size: int,
    model_name: str,
    code_version: str,
    data_docs: dsl.Output[dsl.HTML],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Judge the ingested pairs with Great Expectations.

    The step itself succeeds, since Kubeflow keeps no artifact of a step that fails and the Data Docs are wanted most
    then; after a critical failure the preprocess step refuses the dataset and the run ends there.

    Args:
        dataset: The ingested pairs with their manifest.
        min_pairs: The fewest complete pairs worth training on.
        size: The side that images will be brought to; 0 if they are left as they are and must have one size.
        model_name: Name of the model whose champion's training data this data is compared with, in the MLflow of
            MLFLOW_TRACKING_URI. The comparison is of the day when this version of the data was first judged.
        code_version: The version of the code, so that the cache follows it.
        data_docs: What was expected, what was found, and the files at fault, as one page.
        report: The same findings as JSON.
        metrics: How many images, pairs, subjects, critical failures and warnings there are.
    """
    import json
    from pathlib import Path

    from components.validate.measurements import read_facts
    from components.validate.reference import find_reference
    from components.validate.suite import validate_dataset

    reference = find_reference(model_name, read_facts(Path(dataset.path)).get("collection", ""))
    found = validate_dataset(Path(dataset.path), Path(data_docs.path), Path(report.path), min_pairs, reference, size)
    for name in ("images", "pairs", "subjects"):
        metrics.log_metric(name, getattr(found, name))
    metrics.log_metric("critical_failures", len(found.critical_failures))
    metrics.log_metric("warnings", len(found.warnings))
    # KFP's local cache looks for a file behind every artifact.
    Path(metrics.path).write_text(json.dumps(metrics.metadata))

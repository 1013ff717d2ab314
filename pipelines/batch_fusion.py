"""The batch pipeline: from the pairs below a prefix to their fused images, measured and summed up.

1. check: find the pairs and the model version, refuse what cannot be done
2. fuse: every pair, a few at a time, with its measures; what is done already is kept
3. report: measures, drift, one page, and a manifest

Nothing of it is taken from the cache: images, alias and destination may have changed. The steps themselves find what is
done already.
"""

from typing import NamedTuple

from kfp import dsl

from components.batch.component import check as check_step
from components.batch.component import fuse as fuse_step
from components.batch.component import report as report_step
from pipelines import cluster


class BatchResults(NamedTuple):
    """What a batch leaves for whoever started it."""

    fused: dsl.Dataset
    summary: dsl.Dataset
    page: dsl.HTML


@dsl.pipeline(
    name="atlas-fusion-batch",
    description="Fuse every pair of a prefix by one model version; measure them, tell drift, and write a summary.",
)
def batch_pipeline(
    source: str = "phantom",
    destination: str = "",
    collection: str = "CT-MRI",
    model: str = "",
    strategy: str = "",
    measures: str = "default",
    on_error: str = "skip",
    device: str = "auto",
    phantom_subjects: int = 3,
    phantom_slices: int = 4,
    seed: int = 3407,
    git_commit: str = "unknown",
    code_version: str = "",
) -> BatchResults:
    """Fuse every pair of a source, measure them and sum them up.

    Args:
        source: s3://bucket/prefix or a folder that holds CT-MRI/CT and CT-MRI/MRI (or CT and MRI), or "phantom".
        destination: s3://bucket/prefix or a folder for the results; empty keeps them as this run's artifacts.
        collection: Which pairs: CT-MRI, PET-MRI or SPECT-MRI; the phantom has CT-MRI.
        model: models:/NAME@champion, models:/NAME/VERSION or a model folder; empty is the model that ships.
        strategy: Fusion strategy, such as local-saliency or sfnn; empty is the model's own.
        measures: Measures by name, separated by commas; default, or none.
        on_error: What a pair that cannot be fused does: skip (it is reported) or stop.
        device: What fuses: cpu, cuda, or auto, a GPU where there is one.
        phantom_subjects: How many subjects the phantom has.
        phantom_slices: How many slices each phantom subject has.
        seed: The seed of the phantom.
        git_commit: The commit of the code, for the manifest.
        code_version: The version of the code, for the manifest.
    """
    checked = check_step(
        source=source,
        destination=destination,
        collection=collection,
        model=model,
        strategy=strategy,
        measures=measures,
        on_error=on_error,
        phantom_subjects=phantom_subjects,
        phantom_slices=phantom_slices,
        seed=seed,
        code_version=code_version,
    )
    cluster.place(checked, "Find the pairs and the model", cluster.LOOK)
    plan, chosen = checked.outputs["plan"], checked.outputs["chosen"]
    fused = fuse_step(plan=plan, chosen=chosen, destination=destination, device=device, code_version=code_version)
    cluster.place(fused, "Fuse every pair", cluster.FUSE)
    reported = report_step(
        plan=plan,
        chosen=chosen,
        fused=fused.outputs["fused"],
        destination=destination,
        git_commit=git_commit,
        code_version=code_version,
    )
    cluster.place(reported, "Sum up", cluster.SUM_UP)
    return BatchResults(
        fused=fused.outputs["fused"], summary=reported.outputs["summary"], page=reported.outputs["page"]
    )

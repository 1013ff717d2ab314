"""The retraining pipeline, to be run on a schedule: it thinks first.

1. settings, change: compare data, code and settings with what the registered versions were made of
2. if anything is new, all steps of the training pipeline on the data as it is now

However they end, notify tells of it: also that nothing was new, which is a success.
"""

from dataclasses import replace

from kfp import dsl

from components.change.component import change as change_step
from pipelines import cluster
from pipelines.parameters import RetrainingParameters
from pipelines.signature import with_parameters
from pipelines.training import note_settings, tell_of_the_end, train_judge_register


@dsl.pipeline(
    name="atlas-fusion-retraining",
    description="If data, code or settings are new since the last training: train, judge and register; else end.",
)
@with_parameters(RetrainingParameters)
def retraining_pipeline(p: RetrainingParameters) -> None:
    """Train, judge and register a fusion network if there is anything new."""
    with dsl.ExitHandler(tell_of_the_end(p), name="Train if anything is new"):
        settings = note_settings(p)
        changed = change_step(
            data=p.data,
            data_version=p.data_version,
            collection=p.collection,
            phantom_subjects=p.phantom_subjects,
            phantom_slices=p.phantom_slices,
            seed=p.seed,
            model_name=p.model_name,
            settings=settings,
            code_version=p.code_version,
            force=p.force,
            pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        )
        cluster.place(changed, "Is anything new?", cluster.LOOK)
        with dsl.If(changed.outputs["Output"] == True, name="Something is new"):  # noqa: E712
            train_judge_register(replace(p, data_version=changed.outputs["version"]), settings)

"""The step that tells how a run ended, as a pipeline component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(
    model_name: str,
    status: dsl.PipelineTaskFinalStatus,
    pipeline_run: str = "",
) -> None:
    """Tell how the run ended: in the log, and to the webhook of ATLAS_FUSION_WEBHOOK, which Slack can be.

    Args:
        model_name: Name of the model in the registry, which knows what came of the run.
        status: How the steps ended, from Kubeflow.
        pipeline_run: The run of the pipeline.
    """
    from components.notify.ending import tell

    tell(status.state or "", status.error_message or "", model_name, pipeline_run)

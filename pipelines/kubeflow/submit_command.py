"""The `fusion submit` command."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import InputError, one_line
from pipelines.kubeflow.options import (
    AllowDirty,
    AsJson,
    Ca,
    Host,
    Image,
    KfpExperiment,
    Namespace,
    Pipeline,
    Profile,
    Timeout,
    VersionName,
    connect,
    own_options,
)

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kubeflow
    from pipelines.kubeflow.packages import Package
    from pipelines.kubeflow.submission import Uploaded


def submit(
    context: typer.Context,
    pipeline: Pipeline = "training",
    profile: Profile = "quick",
    image: Image = "",
    kfp_experiment: KfpExperiment = "atlas-fusion",
    name: Annotated[str, typer.Option(show_default=False, help="Name of the run; default: pipeline and version.")] = "",
    version_name: VersionName = "",
    allow_dirty: AllowDirty = False,
    upload_only: Annotated[bool, typer.Option("--upload-only", help="Upload the version, and start no run.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end; exit with 1 if it fails.")] = False,
    poll: Annotated[float, typer.Option(min=0.0, help="Seconds from one look at the run to the next.")] = 10.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; change nothing, and ask Kubeflow only if named.")
    ] = False,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="List the pipeline's parameters, and do nothing else.")
    ] = False,
    as_json: AsJson = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Run the pipeline on a cluster, by Kubeflow Pipelines.

    The pipeline's parameters are options, too, such as --epochs 30 or --register-pairs; --parameters lists them. It is
    compiled and uploaded as a version named by the git commit, or the version that is there is used again. Where
    Kubeflow is, and who asks, the environment says: docs/kubeflow.md.
    """
    from pipelines.kubeflow.packages import packaged, read_options, typed
    from pipelines.kubeflow.submission import ensure_version, run_parameters, warn

    given = read_options(context.args)
    with packaged(pipeline, image, version_name, allow_dirty or dry_run or parameters) as package:
        if parameters:
            _print_parameters(package, as_json)
            return
        if upload_only and (given or wait or name):
            raise InputError("--upload-only starts no run; leave the parameters, --name and --wait out")
        notes: list[str] = []
        asked = typed(given, package.inputs, pipeline, own_options(context))
        values = run_parameters(pipeline, profile, asked, package.inputs, notes.append)
        values |= {own: package.inputs[own]["defaultValue"] for own in ("git_commit", "code_version")}
        title = name or f"{pipeline} {package.version}"
        if dry_run:
            reached = connect(host, namespace, ca, timeout) if host else None
            _print_plan(package, kfp_experiment, title, values, reached, allow_dirty)
            return
        kubeflow = connect(host, namespace, ca, timeout)
        uploaded = ensure_version(kubeflow, package)
    _say(as_json, f"version {uploaded.name} of {package.name}{', there already' if uploaded.reused else ', uploaded'}")
    _say(as_json, f"image   {package.image}")
    for note in notes:
        warn(note)
    if upload_only:
        if as_json:
            _print_json(vars(uploaded))
        return
    run_id = _start(kubeflow, uploaded, kfp_experiment, title, values)
    if as_json:
        _print_json({"run": run_id, "page": kubeflow.run_page(run_id), **vars(uploaded)})
    else:
        typer.echo(one_line(f"run     {run_id} in experiment {kfp_experiment}"))
        typer.echo(one_line(f"page    {kubeflow.run_page(run_id)}"))
    if wait:
        from pipelines.kubeflow.runs_command import wait_for

        wait_for(kubeflow, run_id, poll)


def _start(kubeflow: "Kubeflow", uploaded: "Uploaded", experiment: str, title: str, values: dict[str, Any]) -> str:
    import kfp_server_api as kfp

    reference = kfp.V2beta1PipelineVersionReference(uploaded.pipeline_id, uploaded.version_id)
    run = kfp.V2beta1Run(
        experiment_id=kubeflow.ensure_experiment(experiment).experiment_id,
        display_name=title,
        pipeline_version_reference=reference,
        runtime_config=kfp.V2beta1RuntimeConfig(parameters=values),
    )
    return str(kubeflow.create_run(run).run_id)


def _print_plan(
    package: "Package",
    experiment: str,
    title: str,
    values: dict[str, Any],
    kubeflow: "Kubeflow | None",
    allow_dirty: bool,
) -> None:
    from pipelines.kubeflow.packages import is_dirty
    from pipelines.kubeflow.submission import find_version

    there = "Kubeflow was not asked; name it with --host"
    if kubeflow is not None:
        there = "there already: used again" if find_version(kubeflow, package) else "new: uploaded"
    refused = "; refused without --allow-dirty" if is_dirty(package) and not allow_dirty else ""
    lines = {
        "pipeline": package.name,
        "version": f"{package.version} ({there}{refused})",
        "image": package.image,
        "experiment": experiment,
        "run": title,
    }
    for head, text in lines.items():
        typer.echo(one_line(f"{head:<11}{text}"))
    for name, value in sorted(values.items()):
        typer.echo(one_line(f"{'parameter':<11}{name} = {value}"))
    typer.echo("nothing was sent" if kubeflow is None else "nothing was changed")


def _print_parameters(package: "Package", as_json: bool) -> None:
    from pipelines.kubeflow.packages import KINDS, OWN_PARAMETERS

    inputs = {name: each for name, each in package.inputs.items() if name not in OWN_PARAMETERS}
    if as_json:
        _print_json(inputs)
        return
    for name, each in inputs.items():
        option = f"--{name.replace('_', '-')}"
        what = f"{KINDS[each['parameterType']]} [{each.get('defaultValue')!r}]"
        typer.echo(one_line(f"{option:<22} {what}: {each.get('description', '')}"))


def _say(as_json: bool, line: str) -> None:
    # With --json, standard output is for the program.
    typer.echo(one_line(line), err=as_json)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

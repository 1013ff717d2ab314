"""The `fusion submit` command."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import InputError, one_line
from pipelines.kubeflow.options import (
    AllowDirty,
    AsJson,
    Connect,
    Image,
    KfpExperiment,
    Pipeline,
    Profile,
    ServiceAccount,
    VersionName,
    check_access,
    connecting,
    own_options,
    print_json,
)

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kubeflow
    from pipelines.kubeflow.packages import Package
    from pipelines.kubeflow.submission import Uploaded


@connecting
def submit(
    context: typer.Context,
    connect: Connect,
    pipeline: Pipeline = "training",
    profile: Profile = "quick",
    image: Image = "",
    kfp_experiment: KfpExperiment = "atlas-fusion",
    service_account: ServiceAccount = "",
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
) -> None:
    """Run the pipeline on a cluster, by Kubeflow Pipelines.

    The pipeline's parameters are options, too, such as --epochs 30 or --register-pairs; --parameters lists them. It is
    compiled and uploaded as a version named by the git commit, or the version that is there is used again. Where
    Kubeflow is, and who asks, the environment says: docs/kubeflow.md.
    """
    from pipelines.kubeflow.packages import packaged, read_options
    from pipelines.kubeflow.submission import ensure_version, own_values, run_parameters, warn

    if not (dry_run or parameters):
        check_access(context)
    given = read_options(context.args)
    with packaged(pipeline, image, version_name, allow_dirty or dry_run or parameters) as package:
        if parameters:
            _print_parameters(package, as_json)
            return
        if upload_only and (given or wait or name):
            raise InputError("--upload-only starts no run; leave the parameters, --name and --wait out")
        values, notes = run_parameters(pipeline, profile, given, package, own_options(context))
        values |= own_values(package)
        title = name or f"{pipeline} {package.version}"
        if dry_run:
            plan = {"experiment": kfp_experiment, "run": title, "parameters": dict(sorted(values.items()))}
            _print_plan(package, plan, connect() if context.params["host"] else None, allow_dirty, as_json)
            return
        kubeflow = connect()
        uploaded = ensure_version(kubeflow, package)
    how = "there already" if uploaded.reused else "uploaded"
    _say(as_json, f"version {uploaded.version} of {package.name}, {how}")
    _say(as_json, f"image   {package.image}")
    for note in notes:
        warn(note)
    if upload_only:
        if as_json:
            print_json(vars(uploaded))
        return
    run_id = _start(kubeflow, uploaded, kfp_experiment, title, values, service_account)
    if as_json:
        print_json({"run": run_id, "page": kubeflow.run_page(run_id), **vars(uploaded)})
    else:
        typer.echo(one_line(f"run     {run_id} in experiment {kfp_experiment}"))
        typer.echo(one_line(f"page    {kubeflow.run_page(run_id)}"))
    if wait:
        from pipelines.kubeflow.waiting import wait_for

        # With --json, standard output is for the program.
        wait_for(kubeflow, run_id, poll, err=as_json)


def _start(
    kubeflow: "Kubeflow", uploaded: "Uploaded", experiment: str, title: str, values: dict[str, Any], account: str
) -> str:
    import kfp_server_api as kfp

    run = kfp.V2beta1Run(
        experiment_id=kubeflow.ensure_experiment(experiment).experiment_id,
        display_name=title,
        pipeline_version_reference=uploaded.reference(),
        runtime_config=kfp.V2beta1RuntimeConfig(parameters=values),
        service_account=account or None,
    )
    return str(kubeflow.create_run(run).run_id)


def _print_plan(
    package: "Package", plan: dict[str, Any], kubeflow: "Kubeflow | None", allow_dirty: bool, as_json: bool
) -> None:
    from pipelines.kubeflow.submission import find_version

    there = find_version(kubeflow, package) is not None if kubeflow else None
    named = {"pipeline": package.name, "version": package.version, "image": package.image}
    if as_json:
        print_json(named | {"reused": there} | plan)
        return
    how = {None: "Kubeflow was not asked; name it with --host", True: "there already: used again"}
    refused = "; refused without --allow-dirty" if package.commit.endswith("-dirty") and not allow_dirty else ""
    named["version"] += f" ({how.get(there, 'new: uploaded')}{refused})"
    parameters = plan.pop("parameters")
    for head, text in (named | plan).items():
        typer.echo(one_line(f"{head:<11}{text}"))
    for name, value in parameters.items():
        typer.echo(one_line(f"{'parameter':<11}{name} = {value}"))
    typer.echo("nothing was changed" if kubeflow else "nothing was sent")


def _print_parameters(package: "Package", as_json: bool) -> None:
    from pipelines.kubeflow.packages import KINDS, OWN_PARAMETERS

    inputs = {name: each for name, each in package.inputs.items() if name not in OWN_PARAMETERS}
    if as_json:
        print_json(inputs)
        return
    for name, each in inputs.items():
        option = f"--{name.replace('_', '-')}"
        default = each.get("defaultValue")
        if isinstance(default, float) and each["parameterType"] == "NUMBER_INTEGER":
            default = int(default)
        what = f"{KINDS[each['parameterType']]} [{default!r}]"
        typer.echo(one_line(f"{option:<22} {what}: {each.get('description', '')}"))


def _say(as_json: bool, line: str) -> None:
    # With --json, standard output is for the program.
    typer.echo(one_line(line), err=as_json)

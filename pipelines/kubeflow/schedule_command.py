"""The `fusion schedule` commands: runs that Kubeflow starts by the clock."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import InputError, one_line
from pipelines.asking import ask
from pipelines.kubeflow.options import (
    PASSES_ON,
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
    Yes,
    connect,
    own_options,
)

if TYPE_CHECKING:
    import kfp_server_api as kfp

    from pipelines.kubeflow.client import Kubeflow
    from pipelines.kubeflow.packages import Package

app = typer.Typer(
    help="Let Kubeflow start runs by the clock.\n\nFUSION_KFP_HOST and its like say where it is: docs/kubeflow.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(help="Name of the schedule, or its id.")]
TimeZone = Annotated[
    str, typer.Option(envvar="FUSION_KFP_TIME_ZONE", help="That of the cluster's scheduler, whose clock a cron means.")
]


@app.command(context_settings=PASSES_ON)
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name; a schedule of that name is replaced.")],
    cron: Annotated[
        str | None,
        typer.Option(show_default=False, help="When: minute hour day month weekday, or these after the second."),
    ] = None,
    every: Annotated[str | None, typer.Option(show_default=False, help="Or how often: 90m, 24h, 7d.")] = None,
    time_zone: TimeZone = "UTC",
    follow_latest: Annotated[
        bool, typer.Option("--follow-latest", help="Run the version that is the latest then; default: this one.")
    ] = False,
    disabled: Annotated[bool, typer.Option("--disabled", help="Start no runs until `fusion schedule resume`.")] = False,
    pipeline: Pipeline = "retraining",
    profile: Profile = "quick",
    image: Image = "",
    kfp_experiment: KfpExperiment = "atlas-fusion",
    version_name: VersionName = "",
    allow_dirty: AllowDirty = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say when it would run; ask Kubeflow for nothing.")
    ] = False,
    as_json: AsJson = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Start the pipeline by the clock, or change when.

    The pipeline's parameters are options, too, as of `fusion submit`. At most one run is under way at a time; of
    several times that were missed meanwhile only the last is run. The same command again changes nothing.
    """
    from pipelines.kubeflow.packages import packaged, read_options, typed
    from pipelines.kubeflow.schedules import When, next_lines, replace, zone_named
    from pipelines.kubeflow.submission import run_parameters, warn

    if name.startswith("-") or not name.strip():
        raise InputError(f"{name!r} is no name of a schedule; give the name first, then options")
    when, zone = When.asked(cron, every), zone_named(time_zone)
    given = read_options(context.args)
    with packaged(pipeline, image, version_name, allow_dirty or dry_run) as package:
        notes: list[str] = []
        asked = typed(given, package.inputs, pipeline, own_options(context))
        values = run_parameters(pipeline, profile, asked, package.inputs, notes.append)
        if dry_run:
            typer.echo(one_line(f"{name} would run {package.name} {when.words()}"))
            next_lines(when, None, zone, lambda line: typer.echo(f"next       {line}"))
            return
        kubeflow = connect(host, namespace, ca, timeout)
        reference, version = _reference(kubeflow, package, follow_latest, values)
    wanted = _wanted(name, reference, values, package)
    wanted.experiment_id = kubeflow.ensure_experiment(kfp_experiment).experiment_id
    wanted.trigger = when.trigger()
    made, what = replace(kubeflow, wanted, not disabled, zone)
    for note in notes:
        warn(note)
    page = kubeflow.schedule_page(made.recurring_run_id)
    if as_json:
        _print_json(_told(made, page) | {"done": what, "version": version})
        return
    typer.echo(one_line(f"schedule   {name} ({made.recurring_run_id}) is {what}"))
    typer.echo(f"runs       {when.words()}{', once it is resumed' if disabled else ''}")
    next_lines(when, made, zone, lambda line: typer.echo(f"next       {line}"))
    typer.echo(one_line(f"pipeline   {package.name}, {version}"))
    typer.echo(f"page       {page}")


def _reference(
    kubeflow: "Kubeflow", package: "Package", follow_latest: bool, values: dict[str, Any]
) -> tuple["kfp.V2beta1PipelineVersionReference", str]:
    """What is to be run, and how to call it; the parameters must fit the version that would run now."""
    import kfp_server_api as kfp

    from pipelines.kubeflow.packages import OWN_PARAMETERS
    from pipelines.kubeflow.submission import ensure_version, latest_inputs

    if follow_latest and (latest := latest_inputs(kubeflow, package)):
        pipeline_id, version, inputs = latest
        if unknown := sorted(set(values) - set(inputs)):
            raise InputError(
                f"the latest version, {version}, has no parameter {unknown[0]}; leave it out, or upload one"
            )
        return kfp.V2beta1PipelineVersionReference(pipeline_id=pipeline_id), f"the latest version, now {version}"
    uploaded = ensure_version(kubeflow, package)
    if follow_latest:
        now = f"the latest version, now {uploaded.name}"
        return kfp.V2beta1PipelineVersionReference(pipeline_id=uploaded.pipeline_id), now
    values |= {own: package.inputs[own]["defaultValue"] for own in OWN_PARAMETERS}
    return kfp.V2beta1PipelineVersionReference(uploaded.pipeline_id, uploaded.version_id), f"version {uploaded.name}"


def _wanted(
    name: str, reference: "kfp.V2beta1PipelineVersionReference", values: dict[str, Any], package: "Package"
) -> "kfp.V2beta1RecurringRun":
    import kfp_server_api as kfp

    return kfp.V2beta1RecurringRun(
        display_name=name,
        description=f"{package.name}, by fusion schedule",
        pipeline_version_reference=reference,
        runtime_config=kfp.V2beta1RuntimeConfig(parameters=values),
        max_concurrency="1",
        no_catchup=True,
    )


@app.command("list")
def list_(
    as_json: AsJson = False,
    time_zone: TimeZone = "UTC",
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """List the schedules. Says in words when they run, and whether they do."""
    from pipelines.kubeflow.schedules import zone_named
    from pipelines.kubeflow.schedules_display import print_schedules

    zone = zone_named(time_zone)
    kubeflow = connect(host, namespace, ca, timeout)
    found = kubeflow.schedules()
    if as_json:
        _print_json([_told(each, kubeflow.schedule_page(each.recurring_run_id)) for each in found])
    else:
        print_schedules(found, zone)


@app.command()
def show(
    name: Name,
    as_json: AsJson = False,
    time_zone: TimeZone = "UTC",
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Show a schedule. Says when it runs next, what, and with which parameters."""
    from pipelines.kubeflow.schedules import zone_named
    from pipelines.kubeflow.schedules_display import print_schedule

    zone = zone_named(time_zone)
    kubeflow = connect(host, namespace, ca, timeout)
    for each in _named(kubeflow, name):
        page = kubeflow.schedule_page(each.recurring_run_id)
        if as_json:
            _print_json(_told(each, page))
        else:
            print_schedule(each, page, zone)


@app.command()
def pause(name: Name, host: Host = None, namespace: Namespace = None, ca: Ca = None, timeout: Timeout = 30.0) -> None:
    """Let a schedule start no runs until it is resumed."""
    kubeflow = connect(host, namespace, ca, timeout)
    for each in _named(kubeflow, name):
        kubeflow.act_on_schedule(each.recurring_run_id, "disable")
    typer.echo(one_line(f"{name} starts no runs; `fusion schedule resume` lets it go on"))


@app.command()
def resume(name: Name, host: Host = None, namespace: Namespace = None, ca: Ca = None, timeout: Timeout = 30.0) -> None:
    """Let a schedule start runs again. If it missed any meanwhile, Kubeflow runs one at once."""
    kubeflow = connect(host, namespace, ca, timeout)
    found = _named(kubeflow, name)
    if len(found) > 1:
        ids = ", ".join(each.recurring_run_id for each in found)
        raise InputError(f"{len(found)} schedules are called {name} ({ids}); create it again, which leaves one of them")
    kubeflow.act_on_schedule(found[0].recurring_run_id, "enable")
    typer.echo(one_line(f"{name} starts runs again"))


@app.command()
def delete(
    name: Name,
    yes: Yes = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Delete a schedule. The runs that it started stay."""
    kubeflow = connect(host, namespace, ca, timeout)
    found = _named(kubeflow, name)
    ask(f"delete the schedule {name} ({', '.join(each.recurring_run_id for each in found)})?", yes)
    for each in found:
        kubeflow.act_on_schedule(each.recurring_run_id, "delete")
    typer.echo(one_line(f"the schedule {name} is deleted"))


def _named(kubeflow: "Kubeflow", name: str) -> list["kfp.V2beta1RecurringRun"]:
    """The schedules of that name or id; more than one where a replacement was ended half-way."""
    found = kubeflow.schedules(name)
    if not found:
        raise InputError(f"no schedule {name!r} at {kubeflow.access.host}; `fusion schedule list` lists them")
    return found


def _told(schedule: "kfp.V2beta1RecurringRun", page: str) -> dict[str, Any]:
    from pipelines.kubeflow.schedules_display import told

    return told(schedule) | {"page": page}


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

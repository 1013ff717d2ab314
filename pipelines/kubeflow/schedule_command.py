"""The `fusion schedule` commands: runs that Kubeflow starts by the clock."""

import time
from datetime import tzinfo
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import InputError, one_line
from pipelines.asking import ask
from pipelines.kubeflow.options import (
    PASSES_ON,
    AllowDirty,
    AsJson,
    Connect,
    Image,
    KfpExperiment,
    Pipeline,
    Profile,
    ServiceAccount,
    VersionName,
    Yes,
    check_access,
    connecting,
    own_options,
    print_json,
)

if TYPE_CHECKING:
    import kfp_server_api as kfp

    from pipelines.kubeflow.client import Kubeflow
    from pipelines.kubeflow.packages import Package
    from pipelines.kubeflow.schedules import When
    from pipelines.kubeflow.submission import Uploaded

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
@connecting
def create(
    context: typer.Context,
    connect: Connect,
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
    service_account: ServiceAccount = "",
    version_name: VersionName = "",
    allow_dirty: AllowDirty = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say when it would run; ask Kubeflow for nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the pipeline by the clock, or change when.

    The pipeline's parameters are options, too, as of `fusion submit`. At most one run is under way at a time; of
    several times that were missed meanwhile only the last is run. The same command again changes nothing.
    """
    from pipelines.kubeflow.packages import packaged, read_options
    from pipelines.kubeflow.schedules import When, next_lines, replace, zone_named
    from pipelines.kubeflow.schedules_display import told
    from pipelines.kubeflow.submission import own_values, run_parameters, warn

    if name.startswith("-") or not name.strip():
        raise InputError(f"{name!r} is no name of a schedule; give the name first, then options")
    when, zone = When.asked(cron, every), zone_named(time_zone)
    if not dry_run:
        check_access(context)
    given = read_options(context.args)
    with packaged(pipeline, image, version_name, allow_dirty or dry_run or follow_latest) as package:
        values, notes = run_parameters(pipeline, profile, given, package, own_options(context))
        if dry_run:
            _print_plan(name, package, when, values, zone, as_json)
            return
        kubeflow = connect()
        version = _version(kubeflow, package, values, follow_latest, allow_dirty)
    if not follow_latest:
        values |= own_values(package)
    wanted = _wanted(name, version.reference(latest=follow_latest), values, package)
    wanted.experiment_id = kubeflow.ensure_experiment(kfp_experiment).experiment_id
    wanted.trigger, wanted.service_account = when.trigger(), service_account or None
    made, what = replace(kubeflow, wanted, not disabled, zone, _wait_aloud)
    for note in notes:
        warn(note)
    page = kubeflow.schedule_page(made.recurring_run_id)
    if as_json:
        print_json(told(made, page) | {"done": what, "version": version.version})
        return
    typer.echo(one_line(f"schedule   {name} ({made.recurring_run_id}) is {what}"))
    typer.echo(f"runs       {when.words()}{', once it is resumed' if disabled else ''}")
    next_lines(when, made, zone, lambda line: typer.echo(f"next       {line}"))
    latest = "the latest version, now" if follow_latest else "version"
    typer.echo(one_line(f"pipeline   {package.name}, {latest} {version.version}"))
    typer.echo(f"page       {page}")


def _wait_aloud(seconds: float) -> None:
    from pipelines.kubeflow.submission import warn

    warn(f"a run is about to start; the schedule is changed after it, in {seconds:.0f} s (Ctrl-C leaves it as it is)")
    time.sleep(seconds)


def _print_plan(
    name: str, package: "Package", when: "When", values: dict[str, Any], zone: tzinfo, as_json: bool
) -> None:
    from pipelines.kubeflow.schedules import next_lines

    if as_json:
        plan = {"name": name, "pipeline": package.name, "when": when.words(), "next_utc": when.next_utc()}
        print_json(plan | {"parameters": values})
        return
    typer.echo(one_line(f"{name} would run {package.name} {when.words()}"))
    next_lines(when, None, zone, lambda line: typer.echo(f"next       {line}"))


def _version(
    kubeflow: "Kubeflow", package: "Package", values: dict[str, Any], follow_latest: bool, allow_dirty: bool
) -> "Uploaded":
    """The version to be run, uploaded if need be; of the latest one that is there nothing of the checkout is used."""
    from pipelines.kubeflow.packages import check_clean
    from pipelines.kubeflow.submission import ensure_version, latest_version

    if follow_latest:
        if latest := latest_version(kubeflow, package, values):
            return latest
        if not allow_dirty:
            check_clean(package.commit)
    return ensure_version(kubeflow, package)


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
@connecting
def list_(connect: Connect, as_json: AsJson = False, time_zone: TimeZone = "UTC") -> None:
    """List the schedules. Says in words when they run, and whether they do."""
    from pipelines.kubeflow.schedules import zone_named
    from pipelines.kubeflow.schedules_display import print_schedules, told

    zone = zone_named(time_zone)
    kubeflow = connect()
    found = kubeflow.schedules()
    if as_json:
        print_json([told(each, kubeflow.schedule_page(each.recurring_run_id)) for each in found])
    else:
        print_schedules(found, zone)


@app.command()
@connecting
def show(connect: Connect, name: Name, as_json: AsJson = False, time_zone: TimeZone = "UTC") -> None:
    """Show a schedule. Says when it runs next, what, and with which parameters."""
    from pipelines.kubeflow.schedules import zone_named
    from pipelines.kubeflow.schedules_display import print_schedule, told

    zone = zone_named(time_zone)
    kubeflow = connect()
    if as_json:
        only = _only(kubeflow, name)
        print_json(told(only, kubeflow.schedule_page(only.recurring_run_id)))
        return
    for each in _named(kubeflow, name):
        print_schedule(each, kubeflow.schedule_page(each.recurring_run_id), zone)


@app.command()
@connecting
def pause(connect: Connect, name: Name) -> None:
    """Let a schedule start no runs until it is resumed."""
    kubeflow = connect()
    for each in _named(kubeflow, name):
        kubeflow.act_on_schedule(each.recurring_run_id, "disable")
    typer.echo(one_line(f"{name} starts no runs; `fusion schedule resume` lets it go on"))


@app.command()
@connecting
def resume(connect: Connect, name: Name) -> None:
    """Let a schedule start runs again. If it missed any meanwhile, Kubeflow runs one at once."""
    kubeflow = connect()
    kubeflow.act_on_schedule(_only(kubeflow, name).recurring_run_id, "enable")
    typer.echo(one_line(f"{name} starts runs again"))


@app.command()
@connecting
def delete(connect: Connect, name: Name, yes: Yes = False) -> None:
    """Delete a schedule. The runs that it started stay."""
    kubeflow = connect()
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


def _only(kubeflow: "Kubeflow", name: str) -> "kfp.V2beta1RecurringRun":
    """The schedule of that name or id; raises InputError where there are more."""
    found = _named(kubeflow, name)
    if len(found) > 1:
        ids = ", ".join(each.recurring_run_id for each in found)
        raise InputError(f"{len(found)} schedules are called {name} ({ids}); create it again, which leaves one of them")
    return found[0]

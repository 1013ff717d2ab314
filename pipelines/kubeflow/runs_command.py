"""The `fusion runs` commands: what runs at Kubeflow, and how it went."""

from typing import Annotated

import typer

from model.errors import InputError, unknown_choice
from pipelines.asking import ask
from pipelines.kubeflow.options import AsJson, Connect, Yes, connecting, print_json
from pipelines.kubeflow.runs import ENDED, STATES, state_of

app = typer.Typer(
    help="See, stop and delete runs at Kubeflow.\n\nFUSION_KFP_HOST and its like say where it is: docs/kubeflow.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the first signs of it.")]


@app.command("list")
@connecting
def list_(
    connect: Connect,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", "--kfp-experiment", show_default=False, help="Only this Kubeflow experiment's."),
    ] = None,
    state: Annotated[str, typer.Option(show_default=False, help=f"Only these: {', '.join(STATES)}.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    page: Annotated[str, typer.Option(show_default=False, help="Where to begin: next_page of --json.")] = "",
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first. Says their state, experiment and how long they took."""
    from pipelines.kubeflow.runs_display import print_runs, told_run

    if state and state.lower() not in STATES:
        raise unknown_choice("state", state, STATES)
    kubeflow = connect()
    experiments = kubeflow.experiments()
    wanted = ""
    if experiment is not None:
        found = [id_ for id_, name in experiments.items() if experiment in (name, id_)]
        if not found:
            known = ", ".join(sorted(experiments.values())) or "none"
            raise InputError(f"no experiment {experiment!r}; there is {known}")
        wanted = found[0]
    runs, more = kubeflow.runs(page, limit, wanted, state.upper())
    if not as_json:
        print_runs(runs, experiments, bool(more), chosen=bool(state or experiment))
        return
    rows = [told_run(run, kubeflow.run_page(run.run_id), experiments.get(run.experiment_id, "")) for run in runs]
    print_json({"runs": rows, "next_page": more})


@app.command()
@connecting
def show(connect: Connect, run_id: RunId, as_json: AsJson = False) -> None:
    """Show one run. Says its parameters, its steps with state and duration, and what went wrong."""
    from pipelines.kubeflow.runs_display import print_run, told_run, told_steps

    kubeflow = connect()
    run = kubeflow.run(run_id)
    experiment, page = kubeflow.experiments().get(run.experiment_id, ""), kubeflow.run_page(run.run_id)
    if as_json:
        print_json(told_run(run, page, experiment) | told_steps(run))
    else:
        print_run(run, experiment, page, kubeflow.access.namespace)


@app.command()
@connecting
def wait(
    connect: Connect,
    run_id: RunId,
    poll: Annotated[float, typer.Option(min=0.0, help="Seconds from one look to the next.")] = 10.0,
) -> None:
    """Wait for the end of a run. Exits with 0 if it succeeded, with 1 if not."""
    from pipelines.kubeflow.waiting import wait_for

    kubeflow = connect()
    wait_for(kubeflow, kubeflow.run(run_id).run_id, poll)


@app.command()
@connecting
def stop(connect: Connect, run_id: RunId) -> None:
    """Stop a run. What its steps have finished stays."""
    kubeflow = connect()
    run = kubeflow.run(run_id)
    run_id, state = run.run_id, state_of(run)
    if state in ENDED:
        typer.echo(f"run {run_id} has ended already: {state}")
        return
    kubeflow.act_on_run(run_id, "terminate")
    typer.echo(f"run {run_id} is being stopped")


@app.command()
@connecting
def retry(connect: Connect, run_id: RunId) -> None:
    """Run the failed steps of a run again."""
    kubeflow = connect()
    run = kubeflow.run(run_id)
    run_id, state = run.run_id, state_of(run)
    if state not in ("failed", "canceled"):
        raise InputError(f"the state of run {run_id} is {state}; only failed or canceled ones are tried again")
    kubeflow.act_on_run(run_id, "retry")
    typer.echo(f"run {run_id} is tried again; {kubeflow.run_page(run_id)}")


@app.command()
@connecting
def delete(connect: Connect, run_id: RunId, yes: Yes = False) -> None:
    """Delete a run from Kubeflow. A model version that it registered stays."""
    kubeflow = connect()
    run = kubeflow.run(run_id)
    run_id = run.run_id
    ask(f"delete run {run_id} ({run.display_name}, {state_of(run)})?", yes)
    kubeflow.act_on_run(run_id, "delete")
    typer.echo(f"run {run_id} is deleted")

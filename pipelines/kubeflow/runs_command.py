"""The `fusion runs` commands: what runs at Kubeflow, and how it went."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from model.errors import InputError, unknown_choice
from pipelines.asking import ask
from pipelines.kubeflow.options import AsJson, Ca, Host, Namespace, Timeout, Yes, connect
from pipelines.kubeflow.runs import ENDED, STATES, state_of

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kubeflow

app = typer.Typer(
    help="See, stop and delete runs at Kubeflow.\n\nFUSION_KFP_HOST and its like say where it is: docs/kubeflow.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the first signs of it.")]


@app.command("list")
def list_(
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", "--kfp-experiment", show_default=False, help="Only this Kubeflow experiment's."),
    ] = None,
    state: Annotated[str, typer.Option(show_default=False, help=f"Only these: {', '.join(STATES)}.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    page: Annotated[str, typer.Option(show_default=False, help="Where to begin: next_page of --json.")] = "",
    as_json: AsJson = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """List runs, the newest first. Says their state, experiment and how long they took."""
    from pipelines.kubeflow.runs_display import print_runs, told_run

    if state and state.lower() not in STATES:
        raise unknown_choice("state", state, STATES)
    kubeflow = connect(host, namespace, ca, timeout)
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
        print_runs(runs, experiments, bool(more))
        return
    rows = [told_run(run, kubeflow.run_page(run.run_id), experiments.get(run.experiment_id, "")) for run in runs]
    _print_json({"runs": rows, "next_page": more})


@app.command()
def show(
    run_id: RunId,
    as_json: AsJson = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Show one run. Says its parameters, its steps with state and duration, and what went wrong."""
    from pipelines.kubeflow.runs_display import print_run, told_run, told_steps

    kubeflow = connect(host, namespace, ca, timeout)
    run = kubeflow.run(run_id)
    experiment, page = kubeflow.experiments().get(run.experiment_id, ""), kubeflow.run_page(run.run_id)
    if as_json:
        _print_json(told_run(run, page, experiment) | told_steps(run))
    else:
        print_run(run, experiment, page, kubeflow.access.namespace)


@app.command()
def wait(
    run_id: RunId,
    poll: Annotated[float, typer.Option(min=0.0, help="Seconds from one look to the next.")] = 10.0,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Wait for the end of a run. Exits with 0 if it succeeded, with 1 if not."""
    kubeflow = connect(host, namespace, ca, timeout)
    wait_for(kubeflow, kubeflow.run(run_id).run_id, poll)


@app.command()
def stop(run_id: RunId, host: Host = None, namespace: Namespace = None, ca: Ca = None, timeout: Timeout = 30.0) -> None:
    """Stop a run. What its steps have finished stays."""
    kubeflow = connect(host, namespace, ca, timeout)
    run = kubeflow.run(run_id)
    run_id, state = run.run_id, state_of(run)
    if state in ENDED:
        typer.echo(f"run {run_id} has ended already: {state}")
        return
    kubeflow.act_on_run(run_id, "terminate")
    typer.echo(f"run {run_id} is being stopped")


@app.command()
def retry(
    run_id: RunId, host: Host = None, namespace: Namespace = None, ca: Ca = None, timeout: Timeout = 30.0
) -> None:
    """Run the failed steps of a run again."""
    kubeflow = connect(host, namespace, ca, timeout)
    run = kubeflow.run(run_id)
    run_id, state = run.run_id, state_of(run)
    if state not in ("failed", "canceled"):
        raise InputError(f"run {run_id} is {state}; only failed or canceled ones are tried again")
    kubeflow.act_on_run(run_id, "retry")
    typer.echo(f"run {run_id} is tried again; {kubeflow.run_page(run_id)}")


@app.command()
def delete(
    run_id: RunId,
    yes: Yes = False,
    host: Host = None,
    namespace: Namespace = None,
    ca: Ca = None,
    timeout: Timeout = 30.0,
) -> None:
    """Delete a run from Kubeflow. A model version that it registered stays."""
    kubeflow = connect(host, namespace, ca, timeout)
    run = kubeflow.run(run_id)
    run_id = run.run_id
    ask(f"delete run {run_id} ({run.display_name}, {state_of(run)})?", yes)
    kubeflow.act_on_run(run_id, "delete")
    typer.echo(f"run {run_id} is deleted")


@contextmanager
def interruptible() -> Iterator[Callable[[float], None]]:
    """Within, Ctrl-C ends the waiting at the next pause even where Python drops it, as in the end of an object's life.

    What is handed over is `time.sleep` that minds it.
    """
    pressed = Event()

    def interrupt(number: int, frame: Any) -> NoReturn:  # noqa: ARG001
        pressed.set()
        raise KeyboardInterrupt

    def pause(seconds: float) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        time.sleep(seconds)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(kubeflow: "Kubeflow", run_id: str, poll: float) -> None:
    """Show a run's steps until it ends; end the program with 1 unless it succeeded, with 130 after Ctrl-C."""
    from pipelines.kubeflow.runs import errors_of, follow, look_closer, steps_of
    from pipelines.kubeflow.runs_display import print_step
    from pipelines.kubeflow.submission import warn

    try:
        with interruptible() as pause:
            run = follow(kubeflow, run_id, poll, print_step, warn, pause)
    except KeyboardInterrupt:
        warn(f"no longer waiting; the run goes on: `fusion runs wait {run_id}`, `fusion runs stop {run_id}`")
        sys.exit(130)
    state = state_of(run)
    if state in ("succeeded", "skipped"):
        typer.echo(f"run {run_id} succeeded")
        return
    told = [f"{name}: {message}" if name else message for name, message in errors_of(run)]
    failed = ", ".join(step.name for step in steps_of(run) if step.state == "failed") or "it"
    silent = f"{failed} failed, Kubeflow does not say why; `{look_closer(run, kubeflow.access.namespace)}` may"
    why = told[0] if told else silent if state == "failed" else "it was stopped"
    sys.exit(f"error: run {run_id} {state}: {InputError(why)}")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))

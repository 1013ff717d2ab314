"""What a person or a program is told of runs at Kubeflow: `fusion runs` and `fusion submit --wait`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from model.errors import one_line
from pipelines.kubeflow.display import new_console, new_table, print_lines, settings_of
from pipelines.kubeflow.runs import Step, errors_of, look_closer, moment, state_of, steps_of

if TYPE_CHECKING:
    import kfp_server_api as kfp

UTC_TIME = "began (UTC)"
_SHORT = 8  # signs of an id, enough to tell runs apart
COLOURS = {"succeeded": "green", "failed": "red", "running": "cyan", "canceled": "yellow", "canceling": "yellow"}


def duration(seconds: float | None) -> str:
    """Such as 12 s, 3 min 20 s or 2 h 5 min."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _written(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at else ""


def _seconds(run: "kfp.V2beta1Run", now: datetime) -> float | None:
    began, ended = moment(run.created_at), moment(run.finished_at)
    return ((ended or now) - began).total_seconds() if began else None


def told_run(run: "kfp.V2beta1Run", page: str, experiment: str = "") -> dict[str, Any]:
    """A run without its steps, as plain values."""
    settings = settings_of(run)
    return {
        "id": run.run_id,
        "name": run.display_name or "",
        "state": state_of(run),
        "created": _written(moment(run.created_at)),
        "finished": _written(moment(run.finished_at)),
        "experiment": experiment,
        "experiment_id": run.experiment_id or "",
        "pipeline_id": settings.pipeline_id,
        "version_id": settings.version_id,
        "schedule_id": run.recurring_run_id or "",
        "page": page,
    }


def told_steps(run: "kfp.V2beta1Run") -> dict[str, Any]:
    """The parameters, steps and errors of a run, as plain values."""
    now = datetime.now(UTC)
    return {
        "parameters": settings_of(run).parameters,
        "steps": [
            {
                "name": step.name,
                "state": step.state,
                "from_cache": step.cached,
                "seconds": step.seconds(now),
                "started": _written(step.started),
                "ended": _written(step.ended),
                "error": step.error,
            }
            for step in steps_of(run)
        ],
        "errors": [{"step": name, "message": message} for name, message in errors_of(run)],
    }


def print_runs(
    runs: Sequence["kfp.V2beta1Run"],
    experiments: Mapping[str, str],
    more: bool,
    chosen: bool = False,
    console: Console | None = None,
) -> None:
    """A table of runs, the newest first; `chosen` says that others may be left out."""
    console = console or new_console()
    if not runs:
        console.print("no such runs" if chosen else "no runs; `fusion submit` starts one")
        return
    columns = ("run", "state", "name", "experiment", UTC_TIME, "took")
    table = new_table(*columns, whole=("run", "state", UTC_TIME), right=("took",))
    now = datetime.now(UTC)
    for run in runs:
        state, began = state_of(run), moment(run.created_at)
        year = "" if began and began.year == now.year else "%Y "
        started = began.strftime(f"{year}%b %d %H:%M") if began else "-"
        experiment = experiments.get(run.experiment_id, run.experiment_id or "-")
        took = duration(_seconds(run, now))
        shown = (one_line(text) for text in (run.display_name or "-", experiment))
        table.add_row(run.run_id[:_SHORT], _coloured(state), *shown, started, took)
    console.print(table)
    if more:
        console.print("there are more; --limit N shows more of them, --json says where the next page begins")


def print_run(
    run: "kfp.V2beta1Run", experiment: str, page: str, namespace: str = "", console: Console | None = None
) -> None:
    """One run, line by line: state, parameters, steps, what went wrong or how to find out, and its page."""
    console = console or new_console()
    facts = told_steps(run)
    took = duration(_seconds(run, datetime.now(UTC)))
    print_lines(console, run=run.run_id, name=run.display_name or "-", experiment=experiment or "-", page=page)
    console.print(f"{'state':<11}", _coloured(state_of(run)), f", {took}", sep="", soft_wrap=True)
    if facts["parameters"]:
        table = new_table("parameter", "value")
        for name, value in facts["parameters"].items():
            table.add_row(name, one_line(str(value)))
        console.print("", table)
    if facts["steps"]:
        table = new_table("step", "state", "took", whole=("state",), right=("took",))
        for step in facts["steps"]:
            table.add_row(
                step["name"],
                _coloured(step["state"], " (cache)" if step["from_cache"] else ""),
                duration(step["seconds"]),
            )
        console.print("", table)
    for number, error in enumerate(facts["errors"]):
        if not number:
            console.print()
        where = f"{error['step']}: " if error["step"] else ""
        console.print(f"{'error':<11}{one_line(where + error['message'])}", soft_wrap=True, style="red")
    if not facts["errors"] and state_of(run) not in ("succeeded", "skipped", "canceled"):
        console.print(f"\n{'more':<11}{look_closer(run, namespace)}", soft_wrap=True)


def print_step(step: Step, err: bool = False) -> None:
    """A step whose state has changed, in one line; on standard error if `err`."""
    took = step.seconds(datetime.now(UTC))
    how = {
        "succeeded": "unchanged, from the cache" if step.cached else f"done in {duration(took)}",
        "failed": f"failed after {duration(took)}",
    }.get(step.state, step.state)
    why = f": {one_line(step.error)}" if step.error else ""
    new_console(err).print(f"{step.name:<12} {how}{why}", soft_wrap=True)


def _coloured(state: str, more: str = "") -> Any:
    from rich.text import Text

    return Text(f"{state}{more}", style=COLOURS.get(state, ""))

"""What a person or a program is told of runs at Kubeflow: `fusion runs` and `fusion submit --wait`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.errors import one_line
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
    reference = run.pipeline_version_reference
    return {
        "id": run.run_id,
        "name": run.display_name or "",
        "state": state_of(run),
        "created": _written(moment(run.created_at)),
        "finished": _written(moment(run.finished_at)),
        "experiment": experiment,
        "experiment_id": run.experiment_id or "",
        "pipeline_id": (reference.pipeline_id or "") if reference else "",
        "version_id": (reference.pipeline_version_id or "") if reference else "",
        "schedule_id": run.recurring_run_id or "",
        "page": page,
    }


def told_steps(run: "kfp.V2beta1Run") -> dict[str, Any]:
    """The parameters, steps and errors of a run, as plain values."""
    now = datetime.now(UTC)
    config = run.runtime_config
    return {
        "parameters": dict(sorted(((config.parameters if config else None) or {}).items())),
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
    runs: Sequence["kfp.V2beta1Run"], experiments: Mapping[str, str], more: bool, console: Console | None = None
) -> None:
    """A table of runs, the newest first."""
    console = console or _console()
    if not runs:
        console.print("no runs; `fusion submit` starts one")
        return
    table = _table("run", "state", "name", "experiment", UTC_TIME, "took", right=("took",))
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
    console = console or _console()
    facts = told_steps(run)
    took = duration(_seconds(run, datetime.now(UTC)))
    for head, text in (
        ("run", run.run_id),
        ("name", run.display_name or "-"),
        ("experiment", experiment or "-"),
        ("page", page),
    ):
        console.print(f"{head:<11}{one_line(text)}", soft_wrap=True)
    console.print(f"{'state':<11}", _coloured(state_of(run)), f", {took}", sep="", soft_wrap=True)
    if facts["parameters"]:
        table = _table("parameter", "value")
        for name, value in facts["parameters"].items():
            table.add_row(name, one_line(str(value)))
        console.print("", table)
    if facts["steps"]:
        table = _table("step", "state", "took", right=("took",))
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


def print_step(step: Step) -> None:
    """A step whose state has changed, in one line."""
    took = step.seconds(datetime.now(UTC))
    how = {
        "succeeded": "unchanged, from the cache" if step.cached else f"done in {duration(took)}",
        "failed": f"failed after {duration(took)}",
    }.get(step.state, step.state)
    why = f": {one_line(step.error)}" if step.error else ""
    _console().print(f"{step.name:<12} {how}{why}", soft_wrap=True)


def _coloured(state: str, more: str = "") -> Any:
    from rich.text import Text

    return Text(f"{state}{more}", style=COLOURS.get(state, ""))


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in ("run", "state", UTC_TIME, "took"),
        )
    return table

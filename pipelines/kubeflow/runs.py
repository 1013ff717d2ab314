"""A run at Kubeflow as its user thinks of it: steps, their states, durations and what went wrong."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import kfp_server_api as kfp

STATES = ("pending", "running", "succeeded", "skipped", "failed", "canceling", "canceled", "paused")
ENDED = ("succeeded", "skipped", "failed", "canceled")
_DRIVER = "-driver"
_INNER = ("root", "executor")
# What the compiler calls handlers, conditions and loops; their steps stand for them.
_CONTROL = re.compile(r"(exit-handler|condition(-branches)?|for-loop|iteration(-item|-iterations)?)(-\d+|\(.*\))*")


@dataclass(frozen=True)
class Step:
    """One step of a run; `seconds` is None before it has started."""

    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    error: str
    cached: bool = False

    def seconds(self, now: datetime) -> float | None:
        """How long it took, or has taken."""
        return ((self.ended or now) - self.started).total_seconds() if self.started else None


def state_of(thing: Any) -> str:
    """The state of a run or a task in lower case; pending for one that has none yet."""
    state = (thing.state or "").lower()
    return state if state in STATES else "pending"


def moment(value: datetime | None) -> datetime | None:
    """A time of the API in UTC; its zeros mean that there is none."""
    if value is None or value.year <= 1970:
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def steps_of(run: "kfp.V2beta1Run") -> list[Step]:
    """The steps in the order in which they started.

    Kubeflow lists more than steps: a driver before each, an executor within it, the graph around them.
    """
    tasks = (run.run_details.task_details if run.run_details else None) or []
    drivers = [task for task in tasks if task.display_name and task.display_name.endswith(_DRIVER)]
    names = {driver.display_name.removesuffix(_DRIVER) for driver in drivers} - set(_INNER)
    names = {name for name in names if not _CONTROL.fullmatch(name)}
    named = [task for task in tasks if task.display_name and _is_step(task.display_name, names)]
    begun = {task.display_name for task in named}
    early = [driver for driver in drivers if driver.display_name.removesuffix(_DRIVER) in names - begun]
    found = [_step(task, tasks, drivers) for task in (*named, *early)]
    return sorted(found, key=lambda step: step.started or datetime.max.replace(tzinfo=UTC))


def _is_step(name: str, names: set[str]) -> bool:
    # An engine without drivers lists the steps alone.
    inner = name in _INNER or name.endswith(_DRIVER) or _CONTROL.fullmatch(name)
    return name in names if names else not inner


def _step(task: Any, tasks: list[Any], drivers: list[Any]) -> Step:
    name = task.display_name.removesuffix(_DRIVER)
    within = _within(task, tasks)
    own_driver = [driver for driver in drivers if driver.display_name == f"{name}{_DRIVER}"]
    state = state_of(task)
    if task.display_name.endswith(_DRIVER) and state == "succeeded":
        state = "pending"
    error = next(filter(None, map(_message, (task, *within, *own_driver))), "")
    cached = state == "succeeded" and any(
        each.display_name == "executor" and state_of(each) == "skipped" for each in within
    )
    return Step(name, state, moment(task.start_time), moment(task.end_time), error, cached)


def _within(task: Any, tasks: list[Any]) -> list[Any]:
    children = {name for child in task.child_tasks or [] for name in (child.pod_name, child.task_id) if name}
    return [
        each
        for each in tasks
        if each is not task
        and (children & {each.task_id, each.pod_name} or (each.parent_task_id and each.parent_task_id == task.task_id))
    ]


def _message(thing: Any) -> str:
    """What Kubeflow says of a task or a run that went wrong, such as an image that cannot be pulled."""
    past = [status.error for status in reversed(thing.state_history or [])]
    return next((error.message for error in (thing.error, *past) if error and error.message), "")


def errors_of(run: "kfp.V2beta1Run") -> list[tuple[str, str]]:
    """Every message of what went wrong, with the step that it is of ("" where that is not known), each once."""
    found = {step.error: step.name for step in steps_of(run) if step.error}
    tasks = (run.run_details.task_details if run.run_details else None) or []
    for thing in (*tasks, run):
        if message := _message(thing):
            found.setdefault(message, "")
    return [(name, message) for message, name in found.items()]


def look_closer(run: "kfp.V2beta1Run", namespace: str) -> str:
    """The command that says more of a run whose failure Kubeflow gives no reason for."""
    where = namespace or "kubeflow"
    return f"kubectl describe pods --namespace {where} --selector pipeline/runid={run.run_id}"

"""Wait for the end of a run at Kubeflow."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from model.errors import InputError
from pipelines.kubeflow.errors import Refused
from pipelines.kubeflow.runs import ENDED, Step, errors_of, look_closer, state_of, steps_of
from pipelines.kubeflow.submission import warn

if TYPE_CHECKING:
    import kfp_server_api as kfp

    from pipelines.kubeflow.client import Kubeflow

_LOST = 600  # seconds without an answer after which a wait is given up


def wait_for(kubeflow: "Kubeflow", run_id: str, poll: float, err: bool = False) -> None:
    """Show a run's steps until it ends, on standard error if `err`.

    Ends the program with 1 unless it succeeded, with 130 after Ctrl-C.
    """
    from pipelines.kubeflow.runs_display import print_step

    try:
        with interruptible() as pause:
            run = follow(kubeflow, run_id, poll, partial(print_step, err=err), warn, pause)
    except KeyboardInterrupt:
        warn(f"no longer waiting; the run goes on: `fusion runs wait {run_id}`, `fusion runs stop {run_id}`")
        sys.exit(130)
    state = state_of(run)
    if state in ("succeeded", "skipped"):
        typer.echo(f"run {run_id} succeeded", err=err)
        return
    told = [f"{name}: {message}" if name else message for name, message in errors_of(run)]
    failed = ", ".join(step.name for step in steps_of(run) if step.state == "failed") or "it"
    silent = f"{failed} failed, Kubeflow does not say why; `{look_closer(run, kubeflow.access.namespace)}` may"
    why = told[0] if told else silent if state == "failed" else "it was stopped"
    sys.exit(f"error: run {run_id} {state}: {InputError(why)}")


def follow(
    kubeflow: "Kubeflow",
    run_id: str,
    poll: float,
    tell: Callable[[Step], None],
    warn: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> "kfp.V2beta1Run":
    """Wait for the end of a run, `tell` hearing of every step whose state or error changes; return the run then.

    What passes, such as a gateway that restarts, is waited for ten minutes; anything else raises InputError.
    """
    told: dict[tuple[str, int], tuple[str, str]] = {}
    lost = 0.0
    while True:
        try:
            run = kubeflow.run(run_id)
            lost = 0.0
        except Refused as failure:
            lost += poll
            if not failure.passing or lost > _LOST:
                raise
            warn(f"{failure}; still waiting")
        else:
            _tell_changes(steps_of(run), told, tell)
            if state_of(run) in ENDED:
                return run
        pause(poll)


def _tell_changes(
    steps: list[Step], told: dict[tuple[str, int], tuple[str, str]], tell: Callable[[Step], None]
) -> None:
    seen: dict[str, int] = {}
    for step in steps:
        seen[step.name] = seen.get(step.name, 0) + 1
        key, now = (step.name, seen[step.name]), (step.state, step.error)
        if told.get(key) != now:
            told[key] = now
            tell(step)


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

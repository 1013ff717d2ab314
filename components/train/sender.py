"""The process that sends a training's journal to MLflow while the training goes on.

MLFLOW_TRACKING_URI=... python -m components.train.sender FOLDER --seconds 60    # what an ended training could not send
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import signal
import time
from pathlib import Path

from components.tracking import check_reachable, connected
from components.train.delivery import Deliverer
from components.train.journal import read_events
from model.errors import InputError, one_line, without_credentials

SECONDS_BETWEEN_BATCHES = 1.0
LONGEST_PAUSE = 8.0
SECONDS_AS_ORPHAN = 10.0


class Control:
    """The word of the training on this process's standard input: nothing while it goes on, then a line of seconds.

    The end of the input without that line means that the training is gone. `deadline` is then when to give up.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.orphaned = False
        self._parent = os.getppid()

    @property
    def expired(self) -> bool:
        """Whether it is time to give up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the training ends or the deadline."""
        if self.deadline is not None:
            time.sleep(max(0.0, min(seconds, 0.5, self.deadline - time.monotonic())))
            return
        told = select.select([0], [], [], seconds)[0]
        if told or os.getppid() != self._parent:
            line = os.read(0, 64) if told else b""
            self.orphaned = not line
            self.deadline = time.monotonic() + (float(line) if line else SECONDS_AS_ORPHAN)


def send(folder: Path, control: Control, session: str = "") -> bool:
    """Send the journal in `folder` to MLFLOW_TRACKING_URI until the training ends; whether everything was sent."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    pause, down, complete = SECONDS_BETWEEN_BATCHES, False, False
    deliverer = Deliverer(folder)
    while not complete and not control.expired:
        try:
            with connected(uri) as client:
                deliverer.open(client)
                while not complete and not control.expired:
                    more = deliverer.deliver(client)
                    if down:
                        say(f"MLflow answers again; what waited in {deliverer.path} is being sent")
                    pause, down = SECONDS_BETWEEN_BATCHES, False
                    ending = control.deadline is not None
                    complete = ending and not more and not deliverer.waiting()
                    if not more and not complete:
                        control.wait(SECONDS_BETWEEN_BATCHES)
                if complete and control.orphaned:
                    deliverer.abandon(client, session)
        except Exception as error:  # whatever ails MLflow, its storage or the way there, it may pass
            if not down:
                say(f"{_cause(uri, error)[:400]}; training goes on, its metrics wait in {deliverer.path}")
            complete, down = False, True
            control.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
    return complete


def _cause(uri: str, error: Exception) -> str:
    """What to say of a failure: that the server is away, if it is, which MLflow tells in many words."""
    try:
        check_reachable(uri)
    except InputError as away:
        return str(away)
    told = str(error) if isinstance(error, InputError) else f"MLflow fails: {type(error).__name__}: {error}"
    return without_credentials(one_line(told))


def say(line: str) -> None:
    """Write one line to the log, at once."""
    os.write(2, f"{without_credentials(one_line(line))}\n".encode())


def main() -> int:
    """Send until the training ends, or for some seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where live.jsonl lies")
    parser.add_argument("--seconds", type=float, help="give up after so many seconds; without it, when training ends")
    parser.add_argument("--session", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not (given.folder / "live.jsonl").is_file():
        say(f"no live.jsonl in {given.folder}; name the folder of a training")
        return 2
    if given.seconds is None:
        _step_back()
    with (given.folder / "live.lock").open("w") as lock:
        # One at a time: the one of an attempt that was killed may still be sending.
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = send(given.folder, Control(given.seconds), given.session)
    if given.seconds is not None:
        left = sum(1 for _ in read_events(given.folder, Deliverer(given.folder).state.offset))
        say("everything is sent" if complete else f"{left} lines of {given.folder / 'live.jsonl'} are not sent")
    return 0 if complete else 1


def _step_back() -> None:
    """Give way to the training, outlive what stops it, and let MLflow write nothing where results are expected."""
    os.nice(10)  # at 19 a training that fills every core would leave MLflow without curves for minutes
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.dup2(2, 1)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


if __name__ == "__main__":
    raise SystemExit(main())

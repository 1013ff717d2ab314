"""Live logging of a training run to MLflow, which the training never waits for.

    with LiveRun(tracking_uri, "fusion", "quick", folder, parameters={"seed": "1"}) as live:
        live.metrics({"loss/train/total": 0.1}, step=1)

Every event is a line in `live.jsonl` first; a process of its own (`components.train.sender`), at low priority, sends
the lines. It is no thread, because importing MLflow in one takes the interpreter away from the training for seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from components.tracking import noted_run, shown
from components.train.journal import Event, Journal, State, points, read_events
from model.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np

ROOT = Path(__file__).parents[2]
SECONDS_WHEN_STOPPED = 10.0


@dataclass(frozen=True)
class Delivery:
    """How many metric values and images of the run, earlier attempts included, MLflow has, and how many it has not."""

    sent: int
    lost: int


class LiveRun:
    """One run in MLflow that curves and images go to while the training lasts; a context manager.

    `folder` must outlive a kill (the checkpoints'): the run noted there in `mlflow_run.json` goes on, and what
    `live.jsonl` holds and MLflow has not is sent. Steps of a metric rise: a point at a step that the run has already is
    left out, so that what a resumed training repeats is not doubled. Where the run is deleted or of another server, a
    new one gets the whole journal. An empty `tracking_uri` only writes the journal. Raises InputError if `folder`
    cannot be written; nothing after that raises.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        name: str,
        folder: Path,
        tags: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self._uri, self._folder = tracking_uri, folder.absolute()
        self._lost = 0
        self._delivery: Delivery | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        try:
            (self._folder / "live").mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._folder)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None
        begin = {"experiment": experiment, "name": name, "tags": dict(tags or {}), "parameters": dict(parameters or {})}
        self._session = uuid.uuid4().hex
        self._append(lambda: {"status": "RUNNING", "session": self._session, **begin})
        self._start()

    @property
    def run_id(self) -> str | None:
        """The run's id, None until MLflow has answered for the first time."""
        return noted_run(self._folder)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note the values of `step`; it costs one line to a file. Numbers of a GPU's tensors make it wait for them."""
        self._append(
            lambda: {"step": int(step), "metrics": {str(k): float(v) for k, v in values.items()}}, max(1, len(values))
        )

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Note an image (H, W), uint8, of the series `name`, which MLflow shows with a slider over the steps."""
        self._append(lambda: {"step": int(step), "image": name, "file": self._write_image(pixels)})

    def close(self, failed: bool = False, seconds: float = 30.0, *, stopped: bool = False) -> Delivery:
        """End the run as FINISHED, FAILED or (`stopped`) KILLED, wait `seconds` at most, and say what was not sent.

        KILLED is for a training that may be resumed: whoever looks sees that it stands still, and resuming it makes
        it RUNNING again.
        """
        if self._delivery is None:
            status = "FAILED" if failed else "KILLED" if stopped else "FINISHED"
            self._append(lambda: {"status": status})
            self._journal.close()
            if self._uri:
                self._stop(seconds)
            self._delivery = self._count()
        return self._delivery

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # Exiting with a code is how a training stops that was asked to: it saved itself and may be resumed.
        stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and bool(error.code))
        failed = error is not None and not stopped and not isinstance(error, SystemExit)
        if stopped:
            self.close(stopped=True, seconds=SECONDS_WHEN_STOPPED)
        else:
            self.close(failed=failed)

    def _append(self, event: Callable[[], Event], count: int = 1) -> None:
        """Append what `event` makes; where that fails, say so once and count it as lost."""
        try:
            self._journal.append({"t": int(time.time() * 1000), **event()})
        except Exception as error:  # whatever is wrong with a disk or a value, the training goes on
            if not self._lost:
                _say(f"{self._journal.path} does not take what training tells MLflow ({error}); training goes on")
            self._lost += count

    def _write_image(self, pixels: np.ndarray) -> str:
        import numpy as np
        from PIL import Image

        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise ValueError(f"an image is (H, W) and uint8, not {pixels.shape} and {pixels.dtype}")
        name = f"live/{uuid.uuid4().hex}.png"
        Image.fromarray(pixels).save(self._folder / name, compress_level=1)
        return name

    def _start(self) -> None:
        if not self._uri:
            return
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"MLFLOW_TRACKING_URI": self._uri, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "components.train.sender", str(self._folder), "--session", self._session]
        try:
            # A session of its own: what stops the training must not stop the sending of its last points.
            self._sender = subprocess.Popen(
                command, stdin=subprocess.PIPE, env=os.environ | environment, start_new_session=True
            )
        except OSError as error:
            _say(f"MLflow is told nothing for now: no process can be started ({error}); training goes on")

    def _stop(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        if self._sender is None or self._sender.poll() is not None:
            self._start()
        if self._sender is None:
            return
        try:
            self._sender.communicate(f"{seconds}\n".encode(), timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._sender.kill()
            self._sender.wait()

    def _count(self) -> Delivery:
        if not self._uri:
            return Delivery(0, self._lost)
        state, path = State.read(self._folder), self._journal.path
        try:
            left = [event for event, _ in read_events(self._folder, state.offset)]
        except OSError:
            left = []
        waiting = sum(map(points, left))
        if waiting or any("status" in event for event in left):
            later = f"MLFLOW_TRACKING_URI=... {sys.executable} -m components.train.sender {self._folder} --seconds 60"
            what = f"{waiting} points" if waiting else "the end of the run"
            _say(f"MLflow {shown(self._uri)} did not get {what}; kept in {path} and sent on resuming, or by `{later}`")
        lost = state.lost + self._lost
        if lost:
            _say(f"MLflow {shown(self._uri)} refused, or the disk did not take, {lost} points; they are lost")
        return Delivery(state.sent, lost + waiting)


def _say(line: str) -> None:
    # One write, so that several processes do not mix their lines.
    os.write(2, f"{one_line(line)}\n".encode())

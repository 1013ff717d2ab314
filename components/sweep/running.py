"""Trials of a search side by side, each in a process of its own, and how a search that was ended goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from components.progress import parse
from components.sweep.outcome import Outcome
from components.sweep.trial import Request
from components.tracking import noted_run
from model.errors import RESUMABLE, InputError, one_line
from model.images import write_atomically

ROOT = Path(__file__).resolve().parents[2]
SECONDS_FOR_THE_LAST = 60.0
_INPUT_ERROR = re.compile(r"(?:^|[\s.])InputError: (.+)$")
_EXCEPTION = re.compile(r"^(?:\[rank\d+\]: )?(?:\w+\.)*\w*(?:Error|Exception)\b.*$")

Told = Callable[[str, int, int, str], None]
"""Is told the step, done, total and note of progress, from any thread."""


@dataclass
class Ended:
    """How a process ended: its exit code, the input that it refused, and what else it died of; "" for neither."""

    code: int = 0
    refused: str = ""
    died: str = ""


@dataclass
class Processes:
    """Processes of a search: each has its log, all end when asked to, and hold its lock while they live.

    `tracking_uri` is the MLflow that they are told of.
    """

    lock: int = -1
    tracking_uri: str = ""
    _running: set["subprocess.Popen[str]"] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _stopping: bool = False

    def follow(self, module: str, request: Path, log: Path, tell: Told, environment: dict[str, str]) -> Ended:
        """Run a module on a request to its end; its output goes to `log`, its progress to `tell`."""
        ended = Ended()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        settings = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **environment}
        settings["MLFLOW_TRACKING_URI"] = self.tracking_uri
        with self._guard:
            if self._stopping:
                return Ended(RESUMABLE)
            # A session of its own: Ctrl-C reaches this process, which lets each trial save in order.
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(request)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=settings,
                start_new_session=True,
                pass_fds=(self.lock,) if self.lock >= 0 else (),
            )
            self._running.add(process)
        assert process.stdout is not None
        with process.stdout, log.open("a") as file:
            for line in process.stdout:
                file.write(line)
                if found := parse(line):
                    tell(*found)
                elif match := _INPUT_ERROR.search(line.strip()):
                    ended.refused = ended.refused or match[1]
                elif match := _EXCEPTION.match(line.strip()):
                    ended.died = match[0]
        ended.code = process.wait()
        with self._guard:
            self._running.discard(process)
        return ended

    def stop(self) -> None:
        """Ask every process to save and end, and start no more."""
        with self._guard:
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def check_parallel(parallel: int, processes: int, device: str) -> list[str]:
    """The GPUs of each of `parallel` trials, as CUDA_VISIBLE_DEVICES names them ("" where they share the CPUs).

    Raises InputError if the machine has fewer CPUs or GPUs than they need.
    """
    import torch

    if parallel < 1:
        raise InputError(f"parallel is {parallel}; give at least 1")
    cpus, needed = len(os.sched_getaffinity(0)), parallel * processes
    each = f"{parallel} trials of {processes} process{'es' if processes > 1 else ''}"
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if parallel > 1 and gpus:
        if needed > gpus:
            raise InputError(f"{each} need {needed} GPUs, and {gpus} found; lower parallel or processes")
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else None
        names = named or [str(number) for number in range(gpus)]
        return [",".join(names[at * processes : (at + 1) * processes]) for at in range(parallel)]
    if parallel > 1 and needed > cpus:
        raise InputError(f"{each} need {needed} CPUs, and {cpus} found; lower parallel or processes")
    return [""] * parallel


def run_trials(
    requests: Sequence[Request],
    gpus: Sequence[str],
    processes: Processes,
    tell: Callable[[int], Told],
    ended: Callable[[Outcome], None],
) -> None:
    """Run the trials that have not ended yet, as many at once as there are places in `gpus`.

    `tell` gives what is told of the progress of the trial of a number, `ended` hears of every outcome, of those
    of an earlier attempt first. On an exception, such as KeyboardInterrupt, running trials save and end first.
    """
    left = []
    for request in requests:
        outcome = earlier(request)
        if outcome:
            ended(outcome)
        else:
            left.append(request)
    places: SimpleQueue[str] = SimpleQueue()
    for place in gpus:
        places.put(place)
    with ThreadPoolExecutor(len(gpus)) as pool:
        futures = [pool.submit(_run, request, places, len(gpus), processes, tell) for request in left]
        try:
            for future in as_completed(futures):
                ended(future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            processes.stop()
            pool.shutdown(wait=True)
            signal.signal(signal.SIGINT, before)
            raise


def earlier(request: Request) -> Outcome | None:
    """How a trial ended in an earlier attempt at the same search; None if it is still to be trained or measured."""
    if request.failure.is_file() and not request.model.is_dir():
        return Outcome(request.trial, reason=json.loads(request.failure.read_text())["reason"])
    return _finished(request) if request.score.is_file() and request.model.is_dir() else None


def _run(
    request: Request,
    places: "SimpleQueue[str]",
    parallel: int,
    processes: Processes,
    tell: Callable[[int], Told],
) -> Outcome:
    request.folder.mkdir(parents=True, exist_ok=True)
    file, log, gpus = request.folder / "request.json", request.folder / "trial.log", places.get()
    environment = {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    if parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
        cpus = len(os.sched_getaffinity(0))
        environment["OMP_NUM_THREADS"] = str(max(1, cpus // (parallel * request.processes)))
    try:
        request.write(file)
        how = processes.follow("components.sweep.trial", file, log, tell(request.trial.number), environment)
    finally:
        places.put(gpus)
    if how.code == 0 and request.score.is_file():
        return _finished(request)
    return _failed(request, how, log)


def _failed(request: Request, how: Ended, log: Path) -> Outcome:
    """The outcome of a trial that did not finish; the same input would be refused again, all else may pass."""
    if how.refused and not request.model.is_dir():
        about: dict[str, Any] = {"reason": how.refused}
        write_atomically(request.failure, lambda partial: partial.write_text(json.dumps(about) + "\n"))
    stopped = "stopped; the same search goes on with it" if how.code == RESUMABLE else ""
    reason = how.refused or stopped or one_line(f"{how.died or f'exit code {how.code}'}; see {log}")
    return Outcome(request.trial, reason=reason)


def _finished(request: Request) -> Outcome:
    found = json.loads(request.score.read_text())
    facts = {name: found[name] for name in ("loss", "steps", "seconds")}
    run_id = noted_run(request.model) or ""
    return Outcome(request.trial, found["value"], "", facts, run_id, str(request.model))

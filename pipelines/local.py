"""Run the training pipeline on this machine: KFP's local runner in a process of its own, its log told as progress.

python -m pipelines.local '{"epochs": 1}' runs
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from components.progress import parse
from components.register.record import RUN_VARIABLE
from components.tracking import sqlite_path
from model.errors import InputError
from pipelines.parameters import Parameters

_OUTPUTS = "pipeline outputs "
_COLOUR = re.compile(r"\x1b\[\d+m")
_STARTED = re.compile(r"Executing task '([\w-]+)'")
_CACHED = re.compile(r"Task '?([\w-]+)'? cache hit \(key=(\w+)\)")
_FINISHED = re.compile(r"Task '([\w-]+)' finished with status (\w+)")
_INPUT_ERROR = re.compile(r"(?:^|[\s.])InputError: (.+)$")
_EXCEPTION = re.compile(r"^(?:\[rank\d+\]: )?(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*$")
_GRACE_SECONDS = 10


class StepFailed(Exception):
    """A step ended in a defect of the program, not of its input; the message says where the log is."""


@dataclass(frozen=True)
class Event:
    """What happened to a step: "started", "progress", "cached" or "finished"."""

    kind: str
    step: str
    done: int = 0
    total: int = 0
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class RunResult:
    """A finished run: the folder with its reports, and the model version that it made."""

    folder: Path
    table: dict[str, Any]
    registration: dict[str, Any]
    cached: list[str]
    seconds: float


@dataclass
class _Log:
    """Reads the runner's output: keeps it in a file, turns it into events, remembers what went wrong."""

    file: TextIO
    tell: Callable[[Event], None]
    step: str = ""
    started: float = 0.0
    cached: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    input_error: str = ""
    exception: str = ""

    def read(self, raw: str) -> None:
        self.file.write(raw)
        line = _COLOUR.sub("", raw).strip()
        if line.startswith(_OUTPUTS):
            self.outputs = json.loads(line.removeprefix(_OUTPUTS))
        elif found := parse(line):
            self.tell(Event("progress", *found))
        elif match := _STARTED.search(line):
            self.step, self.started = match[1], time.monotonic()
            self.tell(Event("started", self.step))
        elif match := _CACHED.search(line):
            self.cached[match[1]] = match[2]
            self.tell(Event("cached", match[1]))
        elif match := _FINISHED.search(line):
            if match[2] == "SUCCESS":
                self.tell(Event("finished", match[1], seconds=time.monotonic() - self.started))
        elif match := _INPUT_ERROR.search(line):
            self.input_error = self.input_error or match[1]
        elif match := _EXCEPTION.match(line):
            self.exception = self.exception or match[0]


def run_locally(parameters: Parameters, runs: Path, tell: Callable[[Event], None]) -> RunResult:
    """Run the pipeline with everything it writes below the folder `runs`; `tell` hears of each step.

    The reports stand in `runs/<time>` when it ends, `runs/latest` points there. Raises InputError for input that a step
    refused, StepFailed for anything else that went wrong; KeyboardInterrupt ends every process first.
    """
    begin = time.monotonic()
    folder = _new_folder(runs)
    with (folder / "run.log").open("w") as file:
        log = _Log(file, tell)
        before = set(_stored(runs))
        with _runner(parameters, runs, folder.name) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.read(line)
            code = process.wait()
    if code or not log.outputs:
        docs = _keep_data_docs(runs, folder, before, log.cached.get("validate"))
        if log.input_error:
            more = f"; Data Docs: {docs}" if docs and log.step == "preprocess" else ""
            raise InputError(f"{log.step}: {log.input_error}{more}")
        raise StepFailed(
            f"step {log.step or 'start'} failed: {log.exception or f'exit code {code}'}; see {folder / 'run.log'}"
        )
    table, registration = _collect(log.outputs, folder)
    _point_latest(folder)
    return RunResult(folder, table, registration, list(log.cached), time.monotonic() - begin)


def _new_folder(runs: Path) -> Path:
    folder = runs / datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --runs folder") from None
    return folder


@contextmanager
def _runner(parameters: Parameters, runs: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """The runner in a session of its own, so that an interrupt ends it and every process it started, in order."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri(runs),
        # Each run has folders of its own; what one of them fetched before it failed serves the next.
        "FUSION_DOWNLOADS": os.environ.get("FUSION_DOWNLOADS") or str((runs / "downloads").resolve()),
        RUN_VARIABLE: name,
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "PYTHONUNBUFFERED": "1",
        # A training that was ended goes on in the next run with the same settings.
        "FUSION_WORKSPACE": os.environ.get("FUSION_WORKSPACE") or str((runs / "workspace").resolve()),
        # A module of the user's own in the current folder must not stand in for one of ours.
        "PYTHONSAFEPATH": "1",
    }
    command = [sys.executable, "-m", "pipelines.local", json.dumps(asdict(parameters)), str(runs)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End the runner and everything it started; torchrun's workers have sessions of their own, so each is named."""
    if process.poll() is not None:
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            _signal(member, psutil.Process.terminate)
        for member in psutil.wait_procs(family, timeout=_GRACE_SECONDS)[1]:
            _signal(member, psutil.Process.kill)
        process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def _signal(member: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        send(member)


def local_tracking_uri(runs: Path) -> str:
    """The MLflow store below `runs` that serves where MLFLOW_TRACKING_URI names no other."""
    return f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def registry_uri(runs: Path) -> str:
    """The MLflow of MLFLOW_TRACKING_URI, or the store below `runs`; InputError if there is neither."""
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server and not (runs / "mlflow.db").exists():
        raise InputError(f"no local MLflow store in {runs}; set MLFLOW_TRACKING_URI, or make one with `fusion run`")
    database = sqlite_path(server or "")
    if database and not database.exists():  # MLflow would make it, and a mistyped path look like an empty registry.
        raise InputError(f"no MLflow store at {database}; mend MLFLOW_TRACKING_URI, or make one with `fusion run`")
    return server or local_tracking_uri(runs)


def _collect(outputs: dict[str, str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put what a person looks at into the run's folder, under names with endings."""
    from components.register.registry import Registration, summarise

    shutil.copyfile(outputs["data_docs"], folder / "data-docs.html")
    shutil.copyfile(outputs["registration"], folder / "registration.json")
    for path in Path(outputs["evaluation"]).iterdir():
        shutil.copyfile(path, folder / path.name)
    table, registration = (json.loads((folder / f"{name}.json").read_text()) for name in ("table", "registration"))
    (folder / "gate.md").write_text(summarise(Registration(**registration)))
    shutil.copytree(outputs["model"], folder / "model")
    # The model fuses by the strategy that was judged, here as in the registry.
    config = folder / "model" / "config.json"
    strategy = table["candidate"].removeprefix("network-")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"strategy": strategy}, indent=2) + "\n")
    return table, registration


def _stored(runs: Path) -> Iterator[Path]:
    return (runs / "store").glob("atlas-fusion-training-*")


def _keep_data_docs(runs: Path, folder: Path, before: set[Path], cache_key: str | None) -> Path | None:
    """After a failure, keep the Data Docs if the run got so far as to have them, of its own or from the cache."""
    made = [path / "validate" / "data_docs" for path in set(_stored(runs)) - before]
    if cache_key:
        entries = (runs / "cache").glob(f"{cache_key}*.json")
        made = [Path(json.loads(entry.read_text())["data_docs"]["uri"]) for entry in entries]
    for path in made:
        if path.is_file():
            return Path(shutil.copyfile(path, folder / "data-docs.html"))
    return None


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    partial = folder.parent / f".latest.{os.getpid()}"
    partial.symlink_to(folder.name)
    partial.replace(link)


def run_pipeline(pipeline: Callable[..., Any], parameters: dict[str, Any], runs: Path) -> dict[str, str]:
    """Run a pipeline under KFP's local runner in this process, its store and cache below `runs`: its outputs' paths."""
    import logging

    from kfp import local
    from kfp.local import subprocess_task_handler

    # KFP tells of a cached step outside the logging that it sets up for a running one.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    # KFP would put this interpreter's path, unquoted, in place of every "python3" in a step's command, the names of its
    # folders included. Found first on the PATH, the interpreter needs no replacing.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    subprocess_task_handler.replace_python_executable = lambda command, _: command
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(runs / "store"),
        enable_caching=True,
        cache_root=str(runs / "cache"),
    )
    outputs = pipeline(**parameters).outputs
    return {name: artifact.path for name, artifact in outputs.items()}


def main(parameters: dict[str, Any], runs: Path) -> None:
    """Run the training pipeline and print where its outputs are; the child process of `run_locally`."""
    from pipelines.training import training_pipeline

    print(_OUTPUTS + json.dumps(run_pipeline(training_pipeline, parameters, runs)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))

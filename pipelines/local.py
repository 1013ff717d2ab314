"""Run the training pipeline on this machine: KFP's local runner in a process of its own, its log told as progress.

python -m pipelines.local training '{"epochs": 1}' runs
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
from typing import Any, NoReturn, TextIO

import psutil

from components.progress import parse
from components.register.record import RUN_VARIABLE
from components.tracking import sqlite_path
from model.errors import InputError
from pipelines.parameters import Parameters, RetrainingParameters

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
    """A finished run: the folder with its reports, and the model version that it made.

    `why` says what was new, of a run that thought first.
    """

    folder: Path
    table: dict[str, Any]
    registration: dict[str, Any]
    cached: list[str]
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class NothingNew:
    """A run that found nothing new to train on, and why."""

    reason: str
    seconds: float


@dataclass
class _Log:
    """Reads the runner's output: keeps it in a file, turns it into events, remembers what went wrong."""

    file: TextIO
    tell: Callable[[Event], None]
    step: str = ""
    started: float = 0.0
    failed: str = ""
    cached: dict[str, str] = field(default_factory=dict)
    input_error: str = ""
    exception: str = ""

    def read(self, raw: str) -> None:
        self.file.write(raw)
        line = _COLOUR.sub("", raw).strip()
        if found := parse(line):
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
            else:
                self.failed = self.failed or match[1]
        elif match := _INPUT_ERROR.search(line):
            self.input_error = self.input_error or match[1]
        elif match := _EXCEPTION.match(line):
            self.exception = self.exception or match[0]


def run_locally(parameters: Parameters, runs: Path, tell: Callable[[Event], None]) -> RunResult | NothingNew:
    """Run the pipeline with everything it writes below the folder `runs`; `tell` hears of each step.

    It is the retraining pipeline where the parameters are its own, which may find nothing new. The reports stand in
    `runs/<time>` when it ends, `runs/latest` points there. Raises InputError for input that a step refused, StepFailed
    for anything else that went wrong; KeyboardInterrupt ends every process first.
    """
    begin = time.monotonic()
    folder = _new_folder(runs)
    with (folder / "run.log").open("w") as file:
        log = _Log(file, tell)
        with _runner(parameters, runs, folder.name) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.read(line)
            code = process.wait()
    outputs = _Outputs(runs, folder.name, log.cached)
    train, why = _decision(outputs)
    if not code and not train:
        return NothingNew(why, time.monotonic() - begin)
    if code or not outputs.find("register", "registration").is_file():
        _refuse(log, outputs, folder, code)
    table, registration = _collect(outputs, folder)
    _point_latest(folder)
    return RunResult(folder, table, registration, list(log.cached), time.monotonic() - begin, why)


@dataclass(frozen=True)
class _Outputs:
    """Where the runner keeps what the steps of a run put out, of their own or from the cache."""

    runs: Path
    name: str
    cached: dict[str, str]

    def find(self, step: str, output: str) -> Path:
        """The path of an output; nothing is there if the step did not come so far."""
        for entry in (self.runs / "cache").glob(f"{self.cached[step]}*.json") if step in self.cached else ():
            return Path(json.loads(entry.read_text())[output]["uri"])
        return self.runs / "store" / self.name / step / output


def _decision(outputs: _Outputs) -> tuple[bool, str]:
    """Whether the run was to train, and why, if it thought about that."""
    told = outputs.find("change", "executor_output.json")
    if not told.is_file():
        return True, ""
    decision = json.loads(told.read_text())
    (artifact,) = decision["artifacts"]["decision"]["artifacts"]
    return bool(decision["parameterValues"]["Output"]), str(artifact["metadata"]["reason"])


def _refuse(log: _Log, outputs: _Outputs, folder: Path, code: int) -> NoReturn:
    """Raise what ended a run; the Data Docs are kept if it got so far as to have them."""
    step = log.failed or log.step
    made = outputs.find("validate", "data_docs")
    docs = Path(shutil.copyfile(made, folder / "data-docs.html")) if made.is_file() else None
    if log.input_error:
        more = f"; Data Docs: {docs}" if docs and step == "preprocess" else ""
        raise InputError(f"{step}: {log.input_error}{more}")
    raise StepFailed(f"step {step or 'start'} failed: {log.exception or f'exit code {code}'}; see {folder / 'run.log'}")


def _new_folder(runs: Path) -> Path:
    folder = runs / datetime.now().strftime("%Y-%m-%d-%H%M%S-%f")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write to {runs}: {error.strerror}; choose another --runs folder") from None
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
    pipeline = "retraining" if isinstance(parameters, RetrainingParameters) else "training"
    command = [sys.executable, "-m", "pipelines.local", pipeline, json.dumps(asdict(parameters)), str(runs)]
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


def _collect(outputs: _Outputs, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Put what a person looks at into the run's folder, under names with endings."""
    from components.register.registry import Registration, summarise

    shutil.copyfile(outputs.find("validate", "data_docs"), folder / "data-docs.html")
    shutil.copyfile(outputs.find("register", "registration"), folder / "registration.json")
    for path in outputs.find("evaluate", "evaluation").iterdir():
        shutil.copyfile(path, folder / path.name)
    table, registration = (json.loads((folder / f"{name}.json").read_text()) for name in ("table", "registration"))
    (folder / "gate.md").write_text(summarise(Registration(**registration)))
    shutil.copytree(outputs.find("train", "model"), folder / "model")
    # The model fuses by the strategy that was judged, here as in the registry.
    config = folder / "model" / "config.json"
    strategy = table["candidate"].removeprefix("network-")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"strategy": strategy}, indent=2) + "\n")
    return table, registration


def _point_latest(folder: Path) -> None:
    link = folder.parent / "latest"
    partial = folder.parent / f".latest.{os.getpid()}"
    partial.symlink_to(folder.name)
    partial.replace(link)


def run_pipeline(pipeline: Any, parameters: dict[str, Any], runs: Path, name: str = "") -> dict[str, str]:
    """Run a pipeline under KFP's local runner in this process, its store and cache below `runs`: its outputs' paths.

    With a `name`, what its steps put out is in `store/<name>`. No step is tried again: what fails here fails again.
    """
    import logging

    from kfp import local
    from kfp.local import executor_input_utils, subprocess_task_handler

    # KFP tells of a cached step outside the logging that it sets up for a running one.
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    # KFP would put this interpreter's path, unquoted, in place of every "python3" in a step's command, the names of its
    # folders included. Found first on the PATH, the interpreter needs no replacing.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    subprocess_task_handler.replace_python_executable = lambda command, _: command
    if name:
        executor_input_utils.get_local_pipeline_resource_name = lambda _: name
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(runs / "store"),
        enable_caching=True,
        cache_root=str(runs / "cache"),
    )
    _fit(pipeline.pipeline_spec)
    outputs = pipeline(**parameters).outputs
    return {name: artifact.path for name, artifact in outputs.items()}


def _fit(pipeline: Any) -> None:
    """Take out what is for a cluster alone and yet minded here: tries, and the environment of a container."""
    for executor in pipeline.deployment_spec["executors"].values():
        if "env" in executor["container"]:
            del executor["container"]["env"]
    for group in (pipeline.root, *pipeline.components.values()):
        for task in group.dag.tasks.values():
            task.ClearField("retry_policy")


def main(pipeline: str, parameters: dict[str, Any], runs: Path) -> None:
    """Run the pipeline of that name; the child process of `run_locally`."""
    from pipelines.compile import pipeline_named

    run_pipeline(pipeline_named(pipeline), parameters, runs, os.environ[RUN_VARIABLE])


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))

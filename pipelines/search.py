"""Search for the best training on this machine: data once, a training for each trial, the best judged on test pairs."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from components.evaluate import evaluation as judging
from components.exclusive import exclusive
from components.register.champion import fetch_champion, find_champion
from components.register.gate import Rules, parse_measures
from components.register.record import Origin
from components.register.registry import register
from components.sweep.data import DataRequest
from components.sweep.grid import Trial, parse_values, plan
from components.sweep.outcome import Outcome, Search
from components.sweep.running import Processes, Told, check_parallel, run_trials
from components.sweep.runs import close_search, log_values, open_search
from components.sweep.score import check_measure
from components.sweep.trial import Request
from components.tracking import check_reachable
from model.errors import InputError, one_line
from pipelines.local import StepFailed, local_tracking_uri
from pipelines.parameters import SEARCHED, Parameters
from pipelines.prepare import prepare

NOT_OF_THE_TRIALS = ("git_commit", "strategies", "model_name", "profile", "workspace", "checkpoint_every")


@dataclass(frozen=True)
class Plan:
    """A search before it runs: the pipeline's parameters, the values of each axis, and what it chooses by.

    `key` is the same for the same trials on the same data by the same code: such a search goes on where it ended.
    """

    parameters: Parameters
    axes: dict[str, tuple[Any, ...]]
    trials: list[Trial]
    drawn: int
    measure: str
    parallel: int

    @property
    def key(self) -> str:
        """Twelve hex digits."""
        told = {name: value for name, value in asdict(self.parameters).items() if name not in NOT_OF_THE_TRIALS}
        told["trials"] = [trial.settings for trial in self.trials]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def search(self, outcomes: Mapping[int, Outcome]) -> Search:
        """The search with the trials that have ended so far."""
        ended = [outcomes[number] for number in sorted(outcomes)]
        return Search(self.measure, self.axes, self.drawn, self.parameters.seed, ended)


@dataclass(frozen=True)
class SearchResult:
    """A finished search: its folder, all trials, the evaluation's table, and the registration if one was asked for."""

    folder: Path
    search: Search
    table: dict[str, Any]
    registration: dict[str, Any] | None
    seconds: float


class Watcher(Protocol):
    """Who is told how a search goes."""

    def step(self, step: str, done: int, total: int, note: str) -> None:
        """Hear how far a step beside the trials is."""

    def trial(self, number: int) -> Told:
        """What hears how far the trial of that number is."""

    def ended(self, outcome: Outcome, so_far: int) -> None:
        """Hear how a trial ended."""

    def say(self, line: str) -> None:
        """Hear something else that a person should know."""


def plan_search(profile: str, given: dict[str, Any], measure: str, trials: int, parallel: int) -> Plan:
    """The plan of a search; `given` holds texts for what is in SEARCHED, values for other parameters.

    Raises InputError for whatever can be seen to be wrong without training.
    """
    check_measure(measure)
    axes = {name: parse_values(name, text) for name, text in given.items() if name in SEARCHED}
    parameters = prepare(profile, given | {name: values[0] for name, values in axes.items()})
    names = (*SEARCHED, "device", "seed")
    base = {name: getattr(parameters, name) for name in names}
    planned = plan(base, axes, trials, parameters.seed, measure)
    check_parallel(parallel, parameters.processes, parameters.device)
    return Plan(parameters, axes, planned, trials, measure, parallel)


def search_locally(planned: Plan, runs: Path, told: Watcher, registering: bool) -> SearchResult:
    """Run a search with everything it writes below the folder `runs`; the same search again goes on where it ended.

    Raises InputError for input that a step refused or if every trial failed, StepFailed for other failures beside the
    trials; KeyboardInterrupt lets every running trial save first.
    """
    begin = time.monotonic()
    folder = _folder(runs, planned.key)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri(runs)
    check_reachable(uri)
    running = f"the same search is running in {folder}; wait for it, or end it"
    with exclusive(folder / "sweep.lock", running) as lock:
        processes = Processes(lock, uri)
        data = _prepare_data(planned.parameters, folder, processes, told)
        with _search_run(planned, folder, uri, told) as (run_id, outcomes):
            requests = [_request(planned, trial, folder, run_id, data.packed) for trial in planned.trials]
            search = _run_trials(planned, requests, folder, processes, told, outcomes, uri)
            best = search.best
        table = _evaluate(planned.parameters, Path(best.model), data.packed, folder, told, uri if registering else "")
        made = _register(planned.parameters, folder, data, uri) if registering else None
    return SearchResult(folder, search, table, made, time.monotonic() - begin)


def _folder(runs: Path, key: str) -> Path:
    folder = (runs / "sweeps" / key).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --runs folder") from None
    return folder


def _prepare_data(p: Parameters, folder: Path, processes: Processes, told: Watcher) -> DataRequest:
    names = [name for name in DataRequest.__dataclass_fields__ if name != "folder"]
    request = DataRequest(folder / "data", **{name: getattr(p, name) for name in names})
    if request.packed.is_dir():
        return request
    request.folder.mkdir(exist_ok=True)
    file, log = folder / "data.json", folder / "data.log"
    request.write(file)
    environment = {
        "FUSION_DOWNLOADS": os.environ.get("FUSION_DOWNLOADS") or str(folder.parent.parent / "downloads"),
    }
    try:
        ended = processes.follow("components.sweep.data", file, log, told.step, environment)
    except BaseException:
        processes.stop()
        raise
    if ended.refused:
        docs = request.folder / "data-docs.html"
        raise InputError(f"data: {ended.refused}" + (f"; Data Docs: {docs}" if docs.is_file() else ""))
    if ended.code:
        raise StepFailed(f"preparing the data failed: {ended.died or f'exit code {ended.code}'}; see {log}")
    return request


@contextmanager
def _search_run(planned: Plan, folder: Path, uri: str, told: Watcher) -> Iterator[tuple[str, dict[int, Outcome]]]:
    """The run of the search in MLflow, ended as the search ends; what cannot be logged is said."""
    p, outcomes = planned.parameters, dict[int, Outcome]()
    facts = {"measure": planned.measure, "drawn": str(planned.drawn), "seed": str(p.seed), "data": p.data}
    facts |= {name: ",".join(map(str, values)) for name, values in planned.axes.items()}
    tags = {"mlflow.source.name": "fusion sweep", "mlflow.source.git.commit": p.git_commit, "sweep": planned.key}
    run_id = open_search(uri, p.experiment, f"sweep-{planned.key}", folder, facts, tags)

    def close(status: str) -> None:
        try:
            close_search(uri, run_id, planned.search(outcomes), folder, status)
        except Exception as error:  # whatever ails MLflow, the trials are there
            told.say(f"MLflow was not told how the search ended: {one_line(str(error))}")

    try:
        yield run_id, outcomes
    except KeyboardInterrupt:
        close("KILLED")
        raise
    except BaseException:
        close("FAILED")
        raise
    close("FINISHED")


def _request(planned: Plan, trial: Trial, folder: Path, run_id: str, packed: Path) -> Request:
    p = planned.parameters
    workspace = p.workspace or os.environ.get("FUSION_WORKSPACE", "")
    return Request(
        trial=replace(trial, parent=run_id),
        folder=folder / "trials" / f"{trial.number:03}",
        packed=packed,
        measure=planned.measure,
        perceptual=p.perceptual,
        processes=p.processes,
        workspace=f"{workspace.rstrip('/')}/{planned.key}" if workspace else "",
        checkpoint_every=p.checkpoint_every,
        experiment=p.experiment,
        code_version=p.code_version,
        parent_process=os.getpid(),
    )


def _run_trials(
    planned: Plan,
    requests: list[Request],
    folder: Path,
    processes: Processes,
    told: Watcher,
    outcomes: dict[int, Outcome],
    uri: str,
) -> Search:
    gpus = check_parallel(planned.parallel, planned.parameters.processes, planned.parameters.device)

    def ended(outcome: Outcome) -> None:
        outcomes[outcome.trial.number] = outcome
        search = planned.search(outcomes)
        search.write(folder)
        told.ended(outcome, len(outcomes))
        try:
            log_values(uri, search)
        except Exception as error:  # whatever ails MLflow, it is told again when the search ends
            told.say(f"MLflow was not told of trial {outcome.trial.number}: {one_line(str(error))}")

    run_trials(requests, gpus, processes, told.trial, ended)
    return planned.search(outcomes)


def _evaluate(p: Parameters, model: Path, packed: Path, folder: Path, told: Watcher, uri: str) -> dict[str, Any]:
    """Judge the best model on the test pairs, by the evaluate step's code, and put it and its table into `folder`.

    The champion of the registry `uri` takes part, if one is named.
    """
    curves, training = judging.read_training(model)

    def progress(done: int, total: int, note: str) -> None:
        told.step("evaluate", done, total, note)

    champion = fetch_champion(find_champion(p.model_name, model, uri), uri) if uri else None
    names, measures = judging.parse_strategies(p.strategies), parse_measures(p.gate_measures)
    result = judging.evaluate(model, packed, names, progress=progress, measures=measures, champion=champion)
    judging.write_evaluation(result, curves, training, folder / "evaluation")
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial)
    # As after `fusion run`, the model fuses by the strategy that was judged.
    config, strategy = partial / "config.json", result.candidate.removeprefix("network-")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"strategy": strategy}, indent=2) + "\n")
    shutil.rmtree(folder / "model", ignore_errors=True)
    partial.rename(folder / "model")
    return result.to_dict()


def _register(p: Parameters, folder: Path, data: DataRequest, uri: str) -> dict[str, Any]:
    origin = Origin.here(p.profile, p.git_commit, p.code_version, f"sweeps/{folder.name}")
    places = folder / "model", folder / "evaluation", data.packed
    names = {"experiment": p.experiment, "model_name": p.model_name, "tracking_uri": uri}
    rules = Rules.parse(p.gate_measures, p.gate_margin, p.gate_lesions, p.gate_seconds)
    made = asdict(register(*places, origin, validation=data.report, rules=rules, **names))  # type: ignore[arg-type]
    (folder / "registration.json").write_text(json.dumps(made, indent=2) + "\n")
    return made

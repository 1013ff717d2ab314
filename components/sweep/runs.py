"""A search in MLflow: one run for the search, and below it a run for each trial, which its training logs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.sweep.outcome import SWEEP_FILE, TABLE_FILE, Search
from components.tracking import RUN_FILE, connected, experiment_id, find_run, noted_run, shown
from model.images import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "validation/"
"""What the measure's name follows in the runs: that of the test pairs has the bare one."""


def open_search(
    tracking_uri: str,
    experiment: str,
    name: str,
    folder: Path | None,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
) -> str:
    """The run of the search whose `folder` this is, running: the one noted there, else a new one; its id.

    Without a folder it is always a new one.

    Raises InputError if MLflow cannot be used.
    """
    with connected(tracking_uri) as client:
        noted = noted_run(folder) if folder else None
        run = find_run(client, noted) if noted else None
        if run:
            client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        made = client.create_run(experiment_id(client, experiment), run_name=name, tags=dict(tags))
        run_id = str(made.info.run_id)
        for key, value in parameters.items():
            client.log_param(run_id, key, value)
        about = {"run_id": run_id, "experiment": experiment, "tracking_uri": shown(client.tracking_uri)}
        text = json.dumps(about, indent=2) + "\n"
        if folder:
            write_atomically(folder / RUN_FILE, lambda partial: partial.write_text(text))
        return run_id


def log_values(tracking_uri: str, search: Search) -> None:
    """Log the measure of every finished trial to its run, each once; raises InputError if MLflow cannot be used."""
    with connected(tracking_uri) as client:
        _log_values(client, search)


def close_search(tracking_uri: str, run_id: str, search: Search, folder: Path, status: str = "FINISHED") -> None:
    """Log the table of a search (files in `folder`) and its best trial to its run, and end that as `status`."""
    with connected(tracking_uri) as client:
        _log_values(client, search)
        for name in (SWEEP_FILE, TABLE_FILE):
            if (folder / name).is_file():
                client.log_artifact(run_id, str(folder / name))
        failed = sum(outcome.value is None for outcome in search.outcomes)
        if failed < len(search.outcomes):
            best = search.best
            client.log_metric(run_id, f"{PREFIX}{search.measure}", best.value or 0.0)
            for key, value in {"best_trial": best.trial.name, "best_run_id": best.run_id}.items():
                client.set_tag(run_id, key, value)
        client.log_metric(run_id, "trials", len(search.outcomes))
        client.log_metric(run_id, "trials_failed", failed)
        client.set_terminated(run_id, status)


def _log_values(client: MlflowClient, search: Search) -> None:
    for outcome in search.outcomes:
        run = find_run(client, outcome.run_id) if outcome.run_id and outcome.value is not None else None
        if run and run.data.metrics.get(f"{PREFIX}{search.measure}") != outcome.value:
            client.log_metric(run.info.run_id, f"{PREFIX}{search.measure}", outcome.value)

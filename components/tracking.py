"""The connection to MLflow: which server or file, whether it answers, and no chatter of MLflow's own."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import InputError, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunData

VARIABLE = "MLFLOW_TRACKING_URI"
RUN_FILE = "mlflow_run.json"
SQLITE = "sqlite:///"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow would try a lost server for four minutes; a pipeline step is retried as a whole.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


class Away(InputError):
    """The MLflow server does not answer, or only that it cannot."""


@contextmanager
def connected(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client of the MLflow server (http, https) or file (sqlite), which MLflow's own functions use meanwhile too.

    An empty `tracking_uri` stands for the environment's MLFLOW_TRACKING_URI. Raises InputError if neither is given, the
    server refuses, or the file is no database, and Away if the server does not answer; what MLflow refuses later
    becomes an InputError too.
    """
    uri = tracking_uri or os.environ.get(VARIABLE, "")
    check_reachable(uri)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    # Without the environment, what MLflow itself was told to use shows.
    named = os.environ.pop(VARIABLE, None)
    previous = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    os.environ[VARIABLE] = uri
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield mlflow.MlflowClient()
    except mlflow.MlflowException as error:
        status = error.get_http_status_code()
        kind = Away if status >= 500 and uri.startswith("http") else InputError
        raise kind(_refusal(uri, str(error), status)) from error
    except ValueError as error:
        if not str(error).startswith("MLFLOW_"):  # a setting of the environment that MLflow cannot read
            raise
        raise InputError(f"{error}; mend it in the environment") from None
    finally:
        mlflow.set_tracking_uri(previous)
        os.environ.pop(VARIABLE, None)
        if named is not None:
            os.environ[VARIABLE] = named


def sqlite_path(uri: str) -> Path | None:
    """The database file of an sqlite URI, None for a server."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def shown(uri: str) -> str:
    """The URI without the user, password and query it may carry."""
    return without_credentials(uri)


def experiment_id(client: MlflowClient, name: str, artifact_folder: Path | None = None) -> str:
    """The id of the experiment, made if there is none; InputError if it was deleted.

    With an sqlite URI a new one keeps its files in `artifact_folder` (default: `artifacts` beside the database).
    """
    if found := client.get_experiment_by_name(name):
        if found.lifecycle_stage != "active":
            restore = f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            raise InputError(f"experiment {name!r} is deleted in MLflow; restore it by {restore} or name another")
        return str(found.experiment_id)
    database = sqlite_path(client.tracking_uri)
    location = (artifact_folder or database.parent / "artifacts").absolute().as_uri() if database else None
    return str(client.create_experiment(name, artifact_location=location))


def noted_run(folder: Path) -> str | None:
    """The run id in the `mlflow_run.json` of a training's or a model's folder; None without a readable one."""
    try:
        return str(json.loads((folder / RUN_FILE).read_text())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_run(client: MlflowClient, run_id: str, deleted: bool = False) -> Run | None:
    """The run, None if this MLflow does not know it; one that is deleted, but not purged, only with `deleted`."""
    from mlflow import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)):
            return None
        raise
    return run if deleted or run.info.lifecycle_stage == "active" else None


def latest_steps(data: RunData) -> dict[str, int]:
    """The last step of every metric of a run."""
    return {metric.key: int(metric.step) for metric in data.to_proto().metrics}


def check_reachable(uri: str) -> None:
    """Raise InputError unless `uri` names an MLflow server that answers or a database file that can be one."""
    if not uri:
        raise InputError(
            "no MLflow named: set MLFLOW_TRACKING_URI to a server's http://... or sqlite:////absolute/path/mlflow.db"
        )
    if file := sqlite_path(uri):
        _check_database(file)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)
    else:
        raise InputError(f"MLflow at {shown(uri)!r}: give a server's http://... or sqlite:////absolute/path/mlflow.db")


def _check_database(file: Path) -> None:
    # MLflow tries a broken database ten times over a hundred seconds; sqlite itself knows at once.
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{file} is no database MLflow can use ({error}); name a new or an MLflow file") from None


def _check_server(uri: str) -> None:
    import requests

    try:
        status = requests.get(uri.rstrip("/") + "/health", timeout=5).status_code
    except requests.exceptions.SSLError:
        return  # It answers; MLflow has its own settings for certificates and its own word on them.
    except requests.RequestException:
        raise Away(f"MLflow server {shown(uri)} does not answer: start it or unset MLFLOW_TRACKING_URI") from None
    if status in (401, 403) or status >= 500:
        raise (Away if status >= 500 else InputError)(_refusal(uri, "its health check fails", status))


def _refusal(uri: str, message: str, status: int) -> str:
    line = message.strip().splitlines()[0][:300]
    if status in (401, 403):
        advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to who may"
        return f"MLflow server {shown(uri)} refuses ({status}): {line}; {advice}"
    if status == 404 and "API request to endpoint" in line:
        return f"{shown(uri)} answers, but not as MLflow does (404); mend MLFLOW_TRACKING_URI"
    if " failed with exception " in line:
        cause = line.partition(" failed with exception ")[2]
        return f"the connection to MLflow {shown(uri)} breaks off ({cause}); check the network, then run again"
    return f"MLflow {shown(uri)} answers {status}: {line}"

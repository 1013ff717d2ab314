"""Which version an address of the registry stands for, asked without MLflow, whose import alone takes seconds."""

from __future__ import annotations

import os
import re
import sqlite3
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from components.tracking import sqlite_path

ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>(?=\D)[\w.-]+))")
SCHEMA = "dc11669786a5"
"""The revision of MLflow's tables that the queries here are for; of another one nothing is read."""
SECONDS_TO_ANSWER = (5.0, 10.0)  # to connect, and then between bytes
ONLY_MLFLOW = (
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_WORKSPACE",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_ALLOW_HTTP_REDIRECTS",
)
"""Settings of the environment under which only MLflow's own client knows whom to ask and how."""


@dataclass(frozen=True)
class Found:
    """A version of the registry: its model's `name`, its number `version` and its tags, as MLflow's own has them."""

    name: str
    version: str
    tags: Mapping[str, str]


def look_up(address: str, server: str) -> Found | None:
    """The version that models:/NAME/3 or models:/NAME@ALIAS stands for in the MLflow `server` (http, https, sqlite).

    None is no answer: whatever is unusual, missing or refused is left to MLflow's own client, and to its words.
    """
    match = ADDRESS.fullmatch(address)
    if not match or any(os.environ.get(name) for name in ONLY_MLFLOW):
        return None
    ask = _ask_database if sqlite_path(server) else _ask_server
    try:
        return ask(server, match["name"], match["number"], match["alias"])
    except (OSError, sqlite3.Error, ValueError, LookupError, TypeError, AttributeError):
        return None


def _ask_server(server: str, name: str, number: str | None, alias: str | None) -> Found | None:
    import requests

    what = "model-versions/get" if number else "registered-models/alias"
    asked = {"name": name} | ({"version": str(int(number))} if number else {"alias": alias})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Whoever set MLFLOW_TRACKING_INSECURE_TLS knows.
        answer = requests.get(
            f"{server.rstrip('/')}/api/2.0/mlflow/{what}", asked, timeout=SECONDS_TO_ANSWER, **_credentials()
        )
    answer.raise_for_status()
    version = answer.json()["model_version"]
    # "latest" is an alias that the server makes up.
    if version["name"] != name or not (number or alias in version.get("aliases", ())):
        return None
    return Found(name, str(int(version["version"])), {tag["key"]: tag["value"] for tag in version.get("tags", ())})


def _credentials() -> dict[str, Any]:
    """Who asks, and how the server proves itself, as MLflow's client takes it from the environment."""
    import base64

    user, password, token, certificates, insecure, own = (
        os.environ.get(f"MLFLOW_TRACKING_{name}")
        for name in ("USERNAME", "PASSWORD", "TOKEN", "SERVER_CERT_PATH", "INSECURE_TLS", "CLIENT_CERT_PATH")
    )
    unsafe = {"": False, "false": False, "0": False, "true": True, "1": True}[(insecure or "").lower()]
    if unsafe and certificates:
        raise ValueError("only one of the two can be meant")
    headers = {}
    if user and password:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return {"headers": headers, "verify": False if unsafe else certificates or True, "cert": own}


def _ask_database(server: str, name: str, number: str | None, alias: str | None) -> Found | None:
    with closing(sqlite3.connect(f"file:{quote(str(sqlite_path(server)))}?mode=ro", uri=True)) as database:
        if database.execute("SELECT version_num FROM alembic_version").fetchall() != [(SCHEMA,)]:
            return None
        if alias:
            query = "SELECT version FROM registered_model_aliases WHERE (workspace, name, alias) = ('default', ?, ?)"
            ((number,),) = database.execute(query, (name, alias))
        where, which = "WHERE (workspace, name, version) = ('default', ?, ?)", (name, int(number or ""))
        ((stage,),) = database.execute(f"SELECT current_stage FROM model_versions {where}", which)
        tags = dict(database.execute(f"SELECT key, value FROM model_version_tags {where}", which))
    return Found(name, str(which[1]), tags) if stage != "Deleted_Internal" else None

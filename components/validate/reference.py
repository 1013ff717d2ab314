"""What the data is compared with for drift: the statistics that the registry keeps of the champion's training data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.register.registry import champion_statistics
from components.tracking import sqlite_path
from model.errors import InputError, one_line


@dataclass(frozen=True)
class Reference:
    """The champion's name, such as "ct-mri-fusion version 3", and its statistics; without them, `missing` says why."""

    champion: str = ""
    statistics: Mapping[str, Any] | None = None
    missing: str = ""


def find_reference(model_name: str, collection: str) -> Reference:
    """Fetch the champion's statistics from the MLflow of MLFLOW_TRACKING_URI; never raises, since data can do without.

    Statistics of another collection count as none.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri or not model_name:
        return Reference(missing="no registry was named" if not uri else "no model was named")
    database = sqlite_path(uri)
    if database and not database.exists():
        return Reference(missing=f"{model_name} has no champion yet")
    try:
        version, statistics = champion_statistics(model_name, uri)
    except InputError as error:
        return Reference(missing=f"the registry could not be asked: {error}")
    except Exception as error:  # whatever ails the registry or its storage, the data is not at fault
        return Reference(missing=f"the registry could not be asked: {one_line(str(error))}")
    if not version:
        return Reference(missing=f"{model_name} has no champion yet")
    champion = f"{model_name} version {version}"
    if statistics is None:
        return Reference(champion, missing=f"{champion} was registered without statistics of its data")
    if statistics.get("collection") != collection:
        return Reference(champion, missing=f"{champion} learned from {statistics.get('collection')}")
    return Reference(champion, statistics["modalities"])

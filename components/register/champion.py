"""The current champion as the one to beat: which version it is, and the model itself, fetched from the registry."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.register.fetch import resolve_model
from components.register.registry import champion_version
from components.tracking import sqlite_path
from model.errors import one_line

if TYPE_CHECKING:
    from components.evaluate.evaluation import Champion


def find_champion(model_name: str, folder: Path, tracking_uri: str = "") -> str:
    """The address of the champion that the model in `folder` is to beat, such as models:/ct-mri-fusion/3.

    "" where there is none, or it has the very same weights: to judge it beside itself says nothing. Never raises, since
    the register step asks again: what ails the registry of `tracking_uri` (MLFLOW_TRACKING_URI if empty) is printed.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    database = sqlite_path(uri)
    if not uri or (database and not database.exists()):
        return ""
    try:
        champion = champion_version(model_name, uri)
    except Exception as error:
        print(f"the registry could not be asked for its champion: {one_line(str(error))}", flush=True)
        return ""
    if champion is None:
        return ""
    from model.fuser import weights_sha256

    same = champion.tags.get("weights_sha256") == weights_sha256(folder)
    return "" if same else f"models:/{model_name}/{champion.version}"


def fetch_champion(address: str, tracking_uri: str = "") -> Champion | None:
    """The champion at an address that `find_champion` gave, None for "".

    None too if it cannot be fetched, which is printed: the register step tries again and says what ails it.
    """
    if not address:
        return None
    from components.evaluate.evaluation import Champion
    from model.fuser import Fuser

    try:
        with tempfile.TemporaryDirectory() as aside:
            fuser = Fuser.load(resolve_model(address, Path(aside), tracking_uri))
    except Exception as error:
        print(f"the champion {address} cannot be judged: {one_line(str(error))}", flush=True)
        return None
    return Champion(address.rpartition("/")[2], fuser)

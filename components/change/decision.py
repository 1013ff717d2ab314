"""Whether training again would make anything new: data, code and settings beside those of the registered versions."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from components import code
from components.ingest.dataset import PHANTOM, check_collection, check_folder, check_remote, ingest
from components.ingest.phantom import PhantomConfig, write_phantom
from components.ingest.remote import LATEST, SCHEME, latest_version, parse_remote
from components.ingest.version import folder_version
from components.register.aliases import CHAMPION, GATE_TAG
from components.register.recipe import recipe_tag, values
from components.register.record import RUN_VARIABLE
from components.tracking import connected, sqlite_path
from components.validate.drift import bounds, summarise
from components.validate.measurements import measure_images
from components.validate.reference import find_reference
from model.errors import InputError, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from components.register.catalogue import Version

CHECKED = "retraining.checked"
"""The tag of a registered model that tells of the last look: when, in which run, what came of it and why."""
_LISTED = 6


@dataclass(frozen=True)
class Source:
    """Where the training data comes from, as the pipeline's parameters name it; `version` may be "latest" on S3."""

    data: str
    version: str
    collection: str
    phantom: PhantomConfig

    def current(self) -> str:
        """The version that it has now, <md5>.dir; InputError if there is none, or it is not the one asked for."""
        check_collection(self.collection, self.data)
        if self.data.startswith(SCHEME):
            if self.version == LATEST:
                return latest_version(parse_remote(self.data))
            check_remote(self.data, self.version)
            return self.version
        if self.data == PHANTOM:
            with tempfile.TemporaryDirectory() as folder:
                write_phantom(Path(folder, PHANTOM), self.phantom)
                found = folder_version(Path(folder, PHANTOM))
        else:
            found = folder_version(check_folder(Path(self.data), self.collection))
        if self.version not in ("", LATEST, found):
            raise InputError(f"{self.data} is version {found}, not {self.version}; restore it or drop the version")
        return found


@dataclass(frozen=True)
class Decision:
    """Whether to train, why, and the version of the data to train on."""

    train: bool
    reason: str
    data_version: str

    def markdown(self) -> str:
        """What the UI shows of it."""
        title = "Training: there is something new" if self.train else "No training: nothing is new"
        return f"# {title}\n\n{self.reason}\n\nData version: `{self.data_version}`\n"


def decide(
    source: Source,
    model_name: str,
    settings: str,
    code_version: str,
    *,
    force: bool = False,
    run: str = "",
    tracking_uri: str = "",
) -> Decision:
    """Compare what a training would start from with what the versions of the model were made of.

    There is nothing new where a version was made of the same data, code and settings, be it the champion, one that the
    gate refused, or one that is retired: training again would make the same. Otherwise what differs from the champion
    is told, and of new data how far it drifted. `force` trains all the same. The decision is kept as a tag of the
    registered model, with the `run` of the pipeline, where the registry lets it. Raises InputError if the data or the
    registry cannot be asked, or the settings are none. An empty `code_version` is that of the code that runs here.
    """
    values(settings)
    code_version = code_version or code.code_version()
    version = source.current()
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    database = sqlite_path(uri)
    if database and not database.exists():
        return Decision(True, f"{model_name} has no version yet", version)
    with connected(uri) as client:
        made = _versions(client, model_name)
        now = {"dataset_version": version, "code_version": code_version, "settings": settings}
        decision = _compare(made, model_name, now, source)
        if force and not decision.train:
            decision = Decision(True, f"forced, though {decision.reason}", version)
        if made:
            _note(client, model_name, decision, os.environ.get(RUN_VARIABLE) or run)
    return decision


def last_look(client: MlflowClient, model_name: str, run: str) -> str:
    """Why the run ended without a training, as the decision in it was; "" where it was to train, or is not the last."""
    found = client.search_registered_models(f"name = '{model_name}'")
    try:
        looked = json.loads(found[0].tags[CHECKED]) if found else {}
    except (KeyError, ValueError):
        return ""
    return str(looked["reason"]) if looked.get("run") == run and not looked.get("train") else ""


def _versions(client: MlflowClient, model_name: str) -> list[Version]:
    from components.register.catalogue import models, versions

    found = [model for model in models(client) if model.name == model_name]
    return versions(client, found[0]) if found else []


def _compare(made: Sequence[Version], model_name: str, now: dict[str, str], source: Source) -> Decision:
    version = now["dataset_version"]
    for each in reversed(made):
        # One without a word of the gate was cut short while it was registered: a run finishes it.
        if GATE_TAG in each.tags and recipe_tag(**now) in each.tags:
            return Decision(False, _made_before(each), version)
    champion = next((each for each in made if CHAMPION in each.aliases), None)
    if champion is None:
        return Decision(True, f"{model_name} has no champion", version)
    differs = [text for name, value in now.items() if (text := _told(name, champion.tags.get(name, ""), value))]
    if champion.tags.get("dataset_version") != version:
        differs.append(_drift(source, version, model_name))
    since = "; ".join(differs) or "it does not tell what it was made of"
    return Decision(True, f"since version {champion.number}, the champion: {since}", version)


def _made_before(version: Version) -> str:
    of_this = f"version {version.number} was made of this data, code and settings"
    if CHAMPION in version.aliases:
        return f"{of_this} and is the champion"
    if version.retired:
        why = version.tags.get("retired_reason", "")
        return f"{of_this} already, and is retired" + (f": {why}" if why else "")
    if version.tags.get("gate") == "promoted":
        again = f"`fusion models promote {version.number}` brings it back"
        return f"{of_this} already; it was promoted, and is the champion no more: {again}"
    why = version.tags.get("gate_reason", "")
    return f"{of_this} already" + (f", and the gate refused it: {why}" if why else "")


def _told(name: str, before: str, now: str) -> str:
    """What changed, in words; "" for nothing."""
    if name != "settings":
        what = "data" if name == "dataset_version" else "code"
        return f"the {what} changed from {before or 'unknown'} to {now}" if before != now else ""
    try:
        old, new = values(before), values(now)
    except InputError:
        old = {}  # Of a version from before settings were JSON.
    if not old:
        return "its settings are not known"
    differ = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    changed = [f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}" for key in differ]
    more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
    return f"settings changed ({', '.join(changed[:_LISTED])}{more})" if changed else ""


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _drift(source: Source, version: str, model_name: str) -> str:
    """How far the data drifted from the champion's, in words; never raises, since the data is judged later anyway."""
    reference = find_reference(model_name, source.collection)
    if reference.statistics is None:
        return f"drift not compared ({reference.missing})"
    try:
        with tempfile.TemporaryDirectory() as folder:
            ingest(source.data, version, source.phantom, Path(folder, "dataset"), source.collection)
            current = summarise(measure_images(Path(folder, "dataset")))
    except InputError as error:
        return f"drift not compared ({error})"
    expected = bounds(reference.statistics, current)
    if not expected:
        return "drift not compared (too few subjects)"
    moved = [
        f"{each.statistic} of {each.modality}"
        for each in expected
        if each.drifted(current[each.modality][each.statistic]["mean"])
    ]
    return f"drift in {', '.join(moved)}" if moved else "no drift in its statistics"


def _note(client: MlflowClient, model_name: str, decision: Decision, run: str) -> None:
    from mlflow.exceptions import MlflowException

    looked = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run,
        "train": decision.train,
        "reason": one_line(decision.reason)[:400],
    }
    try:
        client.set_registered_model_tag(model_name, CHECKED, json.dumps(looked))
    except MlflowException as error:
        print(f"the registry did not take the note of this decision: {one_line(str(error))}", flush=True)

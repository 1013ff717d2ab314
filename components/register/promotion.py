"""From a verdict to an alias: the champion measured where it was not, and judged again where it changed meanwhile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.evaluate.evaluation import Champion, judge_champion
from components.register import gate
from components.register.aliases import GATE_TAG, champion, living_claims, named
from components.register.catalogue import RETIRED_TAG
from components.register.fetch import fetch_version
from components.register.gate import Rules, Verdict
from components.register.history import PROMOTED, written
from components.register.succession import Overtaken, challenge, crown
from components.tracking import Away
from model.errors import InputError
from model.fuser import Fuser

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from components.register.record import Judged

RULES_TAG = "gate_rules"
"""The tag of a version with the rules that it was last judged by."""
REFUSED = "refused"
LONGEST_RUN_TAG = 5000


def judge_beside(client: MlflowClient, name: str, judged: Judged, rules: Rules) -> Verdict:
    """The gate's verdict on a candidate beside the champion of this moment, which is measured if it was not before."""
    rival = champion(client, name)
    row = gate.champion_row(judged.table, rival) if rival else None
    if rival and not (row and set(rules.measures) <= set(row["means"])):
        judged = _with_champion(client, name, rival, judged)
    return judged.verdict(rules, rival)


def judge_again(client: MlflowClient, version: ModelVersion, judged: Judged, rules: Rules) -> Verdict:
    """The verdict of this moment on a version that is there, kept with its run in the place of the one before."""
    verdict = judge_beside(client, version.name, judged, rules)
    log_verdict(client, version.run_id, verdict)
    client.set_model_version_tag(version.name, version.version, RULES_TAG, rules_text(rules))
    return verdict


def log_verdict(client: MlflowClient, run_id: str, verdict: Verdict) -> None:
    """Keep a verdict with its run, as gate.json and, to read, gate.md."""
    client.log_dict(run_id, asdict(verdict), "gate.json")
    lines = [f"# {word(verdict).capitalize()}", "", f"{verdict.reason}.", "", *gate.markdown(verdict.checks)]
    client.log_text(run_id, "\n".join(lines) + "\n", "gate.md")


def settle(
    client: MlflowClient, version: ModelVersion, verdict: Verdict, judge_again: Callable[[], Verdict]
) -> Verdict:
    """Give a version the alias that its verdict earns; the verdict that counted in the end.

    Where another version became champion since, `judge_again` judges it beside that one, and so on. May be called again
    for a version where it was cut short: one that was promoted before, whoever is champion now, is not promoted again.
    """
    name, number = version.name, str(version.version)
    while verdict.promoted:
        if any(event.action == PROMOTED and event.version == number for event in written(client, name)):
            living_claims(client, name)  # which clears the one away that was left if it was cut short right after
            break
        try:
            crown(client, name, number, over=verdict.over or None, reason=verdict.reason, by="gate")
            break
        except Overtaken:
            if _was_champion(client, name, number):
                break  # Cut short after its promotion, and succeeded since.
            verdict = judge_again()
    else:
        challenge(client, name, number, verdict.reason)
    return verdict


def refused_by_others(client: MlflowClient, version: ModelVersion, rules: Rules) -> bool:
    """Whether the gate refused a version by other rules than these, and nobody promoted or retired it since."""
    tags = version.tags
    if tags.get(GATE_TAG) != REFUSED or tags.get(RULES_TAG) == rules_text(rules) or RETIRED_TAG in tags:
        return False
    return not was_promoted(client, version)


def was_promoted(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether a version is the champion or was, written down or not; it is not to be judged beside itself."""
    name, number = version.name, str(version.version)
    if champion(client, name) == number or _was_champion(client, name, number):
        return True
    return any(event.action == PROMOTED and event.version == number for event in written(client, name))


def conclude(client: MlflowClient, version: ModelVersion, verdict: Verdict, description: str) -> None:
    """Write the verdict that counted into the tags and descriptions of version and run; its tag `gate` comes last."""
    client.update_model_version(version.name, version.version, description=description)
    client.set_tag(version.run_id, "mlflow.note.content", description)
    for key, value in ((f"{GATE_TAG}_reason", verdict.reason), (GATE_TAG, word(verdict))):
        client.set_tag(version.run_id, key, value[:LONGEST_RUN_TAG])
        client.set_model_version_tag(version.name, version.version, key, value)


def word(verdict: Verdict) -> str:
    """The verdict in one word."""
    return "promoted" if verdict.promoted else REFUSED


def rules_text(rules: Rules) -> str:
    """The rules as the version's tag has them."""
    return json.dumps(asdict(rules), sort_keys=True)


def _with_champion(client: MlflowClient, name: str, version: str, judged: Judged) -> Judged:
    """The same with the champion's row in its table, or with the reason why the champion cannot be measured.

    A connection that fails is no such reason: the registration ends there, and goes on when it is run again.
    """
    names = [column["name"] for column in judged.table["measures"]]
    table = gate.without_champion(judged.table)
    try:
        with tempfile.TemporaryDirectory() as aside:
            folder = fetch_version(client.get_model_version(name, version), Path(aside))
            rival = Champion(version, Fuser.load(folder))
        row = judge_champion(rival, judged.packed, names).to_dict(names)
    except Away:
        raise
    except InputError as error:
        return replace(judged, table=table | {"champion_failure": str(error)})
    return replace(judged, table=table | {"champion": version, "methods": [*table["methods"], row]})


def _was_champion(client: MlflowClient, name: str, number: str) -> bool:
    """Whether a later version was promoted over this one."""
    condition = f"{named(name)} AND tags.promoted_over = '{number}'"
    return bool(client.search_model_versions(condition, max_results=1))

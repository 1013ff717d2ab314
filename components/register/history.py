"""Who was champion of a registered model, in order: a log in tags of the model, one a change, never rewritten."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.register.webhook import announce
from components.tracking import find_run, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "history."
"""The tags of a registered model that begin so are its events, by time."""
PROMOTED, ROLLED_BACK, RETIRED, RESTORED = "promoted", "rolled back", "retired", "restored"


@dataclass(frozen=True)
class Event:
    """One change: `version` was promoted, was gone back to ("rolled back"), was retired or was restored.

    `over` is the champion before a new one, None without one; `at` is ISO, UTC; `by` is "gate" or a user's name.
    """

    action: str
    version: str
    over: str | None
    reason: str
    by: str
    at: str


def note(client: MlflowClient, name: str, action: str, version: str, *, over: str | None, reason: str, by: str) -> None:
    """Write an event down, and announce a new champion to the webhook of the environment, if there is one."""
    now = datetime.now(UTC)
    event = Event(action, version, over, reason, by, now.isoformat(timespec="seconds"))
    key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}.{uuid.uuid4().hex[:8]}"
    client.set_registered_model_tag(name, key, json.dumps(asdict(event)))
    if action in (PROMOTED, ROLLED_BACK):
        announce(name, asdict(event), measures(client, name, version), shown(client.tracking_uri))


def measures(client: MlflowClient, name: str, version: str) -> dict[str, float]:
    """The candidate's measures on the test images, as its run has them; nothing where the run is gone."""
    run = find_run(client, client.get_model_version(name, version).run_id or "")
    return own_measures(run.data.metrics) if run else {}


def own_measures(metrics: dict[str, float]) -> dict[str, float]:
    """Of a run's metrics the candidate's measures: those that some method has, too, such as average/qabf."""
    named = (name.partition("/") for name in metrics)
    judged = {measure for method, _, measure in named if method not in ("training", "loss")}
    return {name: value for name, value in metrics.items() if name in judged}


def events(client: MlflowClient, name: str) -> list[Event]:
    """The events of a model, oldest first; a tag that is none of ours is left out."""
    tags = client.get_registered_model(name).tags
    found = []
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            found.append(Event(**json.loads(tags[key])))
        except (ValueError, TypeError):
            continue
    return found


def champions(log: Iterable[Event], promoted_before: Iterable[str], champion: str | None) -> list[str]:
    """The champions that a rollback goes back through, the latest last: whoever was gone back from is not among them.

    `promoted_before` are the versions that the gate had promoted, oldest first; those that no event tells of come from
    before there was a log. A `champion` that someone set otherwise, in MLflow's own page, counts as promoted last.
    """
    log = [event for event in log if event.action in (PROMOTED, ROLLED_BACK)]
    told = {event.version for event in log if event.action == PROMOTED}
    order = [version for version in promoted_before if version not in told]
    for event in log:
        if event.action == ROLLED_BACK:
            while order and order[-1] != event.version:
                order.pop()
        elif event.over and order[-1:] != [event.over]:
            order.append(event.over)
        if order[-1:] != [event.version]:
            order.append(event.version)
    if champion and order[-1:] != [champion]:
        order.append(champion)
    return order

"""Who was champion of a registered model, in order: a log in tags of the model, one a change, never rewritten."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.register.aliases import CHAMPION, aliases
from components.register.webhook import announce
from components.tracking import find_run, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "history."
"""The tags of a registered model that begin so are its events, by time."""
PROMOTED, ROLLED_BACK, RETIRED, RESTORED = "promoted", "rolled back", "retired", "restored"


INTENT_TAG = "promotion_event"
"""The tag of a version with the event that making it champion is, and that event's key: written before the alias."""


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
    at: str = ""


@dataclass(frozen=True)
class Intent:
    """An event with the key of the tag that it has in the history, or will have."""

    key: str
    event: Event

    @classmethod
    def now(cls, event: Event) -> Intent:
        """The event as one of this moment."""
        now = datetime.now(UTC)
        key = f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}.{uuid.uuid4().hex[:8]}"
        return cls(key, replace(event, at=now.isoformat(timespec="seconds")))

    def tags(self) -> dict[str, str]:
        """The tags of a version that is about to become champion; the intent comes last."""
        event = self.event
        record = {"promoted_at": event.at, "promoted_over": event.over or "", "promoted_by": event.by}
        return record | {"promotion_reason": event.reason, INTENT_TAG: json.dumps([self.key, asdict(event)])}


def note(client: MlflowClient, name: str, event: Event) -> None:
    """Write an event of this moment down."""
    write(client, name, Intent.now(event))


def write(client: MlflowClient, name: str, intent: Intent) -> None:
    """Write an event down; once more is the same."""
    client.set_registered_model_tag(name, intent.key, json.dumps(asdict(intent.event)))


def announced(client: MlflowClient, name: str, event: Event) -> None:
    """Tell the webhook of the environment, if there is one, of a new champion."""
    announce(name, asdict(event), measures(client, name, event.version), shown(client.tracking_uri))


def unwritten(client: MlflowClient, name: str) -> Intent | None:
    """What made today's champion, if that is not in the history: whoever did it was cut short, or is about to write."""
    model = client.get_registered_model(name)
    champion = aliases(model).get(CHAMPION)
    if champion is None:
        return None
    try:
        key, fields = json.loads(client.get_model_version(name, champion).tags[INTENT_TAG])
        intent = Intent(key, Event(**fields))
    except (ValueError, TypeError, KeyError):
        return None
    return None if key in model.tags else intent


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
    """The events of a model, oldest first, the one that made its champion too where that is still to be written."""
    found, missing = written(client, name), unwritten(client, name)
    return [*found, missing.event] if missing else found


def written(client: MlflowClient, name: str) -> list[Event]:
    """The events in the history of a model, oldest first; a tag that is none of ours is left out."""
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

"""From one champion to the next: moved under the only claim, written down last, and finished where it was cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from components.register.aliases import CHALLENGER, CHAMPION, PREVIOUS, Claim, aliases, claimed
from components.register.catalogue import models, versions
from components.register.history import PROMOTED, Event, Intent, announced, champions, events, unwritten, write
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Overtaken(InputError):
    """Another version became champion since this one was judged."""


def crown(
    client: MlflowClient,
    name: str,
    version: str,
    *,
    over: str | None,
    reason: str,
    by: str,
    action: str = PROMOTED,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Make `version` the champion and the one before it `previous`, if the champion still is `over` (None: no one).

    Kept in its tags: promoted_at (ISO, UTC), promoted_over, promoted_by ("gate" or a user's name), promotion_reason;
    then in the model's history, and told to the webhook. The champion itself is left as it is, so that a call cut short
    may be made again. `check` may raise, with the claim held. Raises Overtaken where the champion is another than
    `over`.
    """
    with claimed(client, name, version) as claim:
        finished = finish(client, name)
        check()
        _move(claim, Intent.now(Event(action, version, over, reason, by)))
        event = finish(client, name) or finished
    if event and event.version == version:
        announced(client, name, event)


def finish(client: MlflowClient, name: str) -> Event | None:
    """Write down who is champion since a change that was cut short before that; None if all is written.

    To be called with the claim held. `previous` is pointed first: once the event is there, the change is complete.
    """
    intent = unwritten(client, name)
    if intent is None:
        return None
    point_previous(client, name)
    write(client, name, intent)
    return intent.event


def _move(claim: Claim, intent: Intent) -> None:
    """Move the aliases, with the intent in the version's tags before."""
    client, name, event = claim.client, claim.name, intent.event
    now = aliases(client.get_registered_model(name))
    if now.get(CHAMPION) not in (event.version, event.over):
        there = f"version {now[CHAMPION]} became champion" if CHAMPION in now else f"{name} lost its champion"
        raise Overtaken(f"{there} since version {event.version} of {name} was judged; judge it again")
    if now.get(CHAMPION) != event.version:
        for key, value in intent.tags().items():
            client.set_model_version_tag(name, event.version, key, value)
        if event.over:
            claim.check()
            client.set_registered_model_alias(name, PREVIOUS, event.over)
        claim.check()
        client.set_registered_model_alias(name, CHAMPION, event.version)
    if now.get(CHALLENGER) == event.version:
        client.delete_registered_model_alias(name, CHALLENGER)


def challenge(client: MlflowClient, name: str, version: str, reason: str) -> None:
    """Let `version`, which was refused for `reason`, be the challenger, unless a newer version is it already.

    The reason is kept in its tag gate_reason.
    """
    client.set_model_version_tag(name, version, "gate_reason", reason)
    if int(aliases(client.get_registered_model(name)).get(CHALLENGER, 0)) < int(version):
        client.set_registered_model_alias(name, CHALLENGER, version)


def earlier_champions(client: MlflowClient, name: str) -> list[str]:
    """The champions before today's that a rollback may go back to, the latest last; retired ones are passed over."""
    (model,) = models(client, name)
    there = {version.number: version for version in versions(client, model)}
    promoted = [number for number, version in there.items() if version.tags.get("gate") == "promoted"]
    now = aliases(model).get(CHAMPION)
    order = champions(events(client, name), promoted, now)
    return [number for number in order if number != now and number in there and not there[number].retired]


def point_previous(client: MlflowClient, name: str) -> None:
    """Let the alias `previous` name the version that a rollback would go to; no version where there is none."""
    earlier, now = earlier_champions(client, name)[-1:], aliases(client.get_registered_model(name)).get(PREVIOUS)
    if earlier and now != earlier[0]:
        client.set_registered_model_alias(name, PREVIOUS, earlier[0])
    elif not earlier and now:
        client.delete_registered_model_alias(name, PREVIOUS)

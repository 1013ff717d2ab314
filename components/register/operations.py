"""What a person does to the registry by hand: promote, roll back, retire, restore; each is written down with a name."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.register.aliases import CHAMPION, PREVIOUS, crown
from components.register.catalogue import NAME_ANOTHER, RETIRED_TAG, Version, aliases, choose, models, versions
from components.register.history import PROMOTED, RESTORED, RETIRED, ROLLED_BACK, champions, events, note
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETIRED_TAGS = (RETIRED_TAG, "retired_by", "retired_reason")


def user() -> str:
    """Whom to write down: MLflow's user of the environment, or else the machine's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"  # a container's, which has no name


def champion(client: MlflowClient, name: str) -> str | None:
    """The champion's number, None without one."""
    return aliases(models(client, name, NAME_ANOTHER)[0]).get(CHAMPION)


def promote(client: MlflowClient, version: Version, *, over: str | None, reason: str, by: str) -> None:
    """Make a version the champion in place of `over`; InputError if it is retired, Overtaken if `over` is no more."""
    check_promotable(_today(client, version))
    crown(client, version.model, version.number, over=over, reason=reason, by=by)
    note(client, version.model, PROMOTED, version.number, over=over, reason=reason, by=by)
    point_previous(client, version.model)


def _today(client: MlflowClient, version: Version) -> Version:
    """The version as it is now: while its user was asked, another may have promoted or retired it."""
    return choose(client, version.number, version.model)


def check_promotable(version: Version) -> None:
    """Raise InputError if a version is retired."""
    if version.retired:
        why = version.tags.get("retired_reason", "")
        raise InputError(
            f"version {version.number} of {version.model} is retired ({why}); bring it back by `fusion models retire "
            f"{version.uri} --undo --reason ...`, or promote another"
        )


def earlier_champions(client: MlflowClient, name: str) -> list[str]:
    """The champions before today's that a rollback may go back to, the latest last; retired ones are passed over."""
    (model,) = models(client, name)
    there = {version.number: version for version in versions(client, model)}
    promoted = [number for number, version in there.items() if version.tags.get("gate") == "promoted"]
    now = aliases(model).get(CHAMPION)
    order = champions(events(client, name), promoted, now)
    return [number for number in order if number != now and number in there and not there[number].retired]


def rollback(client: MlflowClient, name: str, *, over: str | None, to: str, reason: str, by: str) -> None:
    """Make `to`, an earlier champion, the champion again in place of `over`.

    Raises Overtaken if `over` is champion no more, InputError if `to` was retired meanwhile.
    """
    check_promotable(choose(client, to, name))
    crown(client, name, to, over=over, reason=reason, by=by)
    note(client, name, ROLLED_BACK, to, over=over, reason=reason, by=by)
    point_previous(client, name)


def point_previous(client: MlflowClient, name: str) -> None:
    """Let the alias `previous` name the version that a rollback would go to; no version where there is none."""
    earlier, now = earlier_champions(client, name)[-1:], aliases(models(client, name)[0]).get(PREVIOUS)
    if earlier and now != earlier[0]:
        client.set_registered_model_alias(name, PREVIOUS, earlier[0])
    elif not earlier and now:
        client.delete_registered_model_alias(name, PREVIOUS)


def retire(client: MlflowClient, version: Version, *, without_champion: bool, reason: str, by: str) -> None:
    """Take all aliases from a version and mark it as retired; its files and its lineage stay.

    Raises InputError for the champion, unless the model may be left without one.
    """
    check_retirable(_today(client, version), without_champion)
    name, number = version.model, version.number
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for key, value in zip(RETIRED_TAGS, (now, by, reason), strict=True):
        client.set_model_version_tag(name, number, key, value)
    for alias, holder in aliases(models(client, name)[0]).items():
        if holder == number and (alias != CHAMPION or without_champion):
            client.delete_registered_model_alias(name, alias)
    note(client, name, RETIRED, number, over=None, reason=reason, by=by)
    point_previous(client, name)


def check_retirable(version: Version, without_champion: bool) -> None:
    """Raise InputError if a version is retired already, or is the champion and must not go."""
    if version.retired:
        raise InputError(f"version {version.number} of {version.model} is retired already, {version.tags[RETIRED_TAG]}")
    if CHAMPION in version.aliases and not without_champion:
        raise InputError(
            f"version {version.number} is the champion of {version.model}: run `fusion models rollback` or promote "
            "another first, or leave the model without a champion by --no-champion"
        )


def restore(client: MlflowClient, version: Version, *, reason: str, by: str) -> None:
    """Undo a retirement: the version may be promoted again; it gets no alias back."""
    version = _today(client, version)
    check_restorable(version)
    for key in RETIRED_TAGS:
        if key in version.tags:
            client.delete_model_version_tag(version.model, version.number, key)
    note(client, version.model, RESTORED, version.number, over=None, reason=reason, by=by)
    point_previous(client, version.model)


def check_restorable(version: Version) -> None:
    """Raise InputError if a version is not retired."""
    if not version.retired:
        raise InputError(f"version {version.number} of {version.model} is not retired; there is nothing to undo")

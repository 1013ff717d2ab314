"""What a person does to the registry by hand: promote, roll back, retire, restore; each is written down with a name."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.register.aliases import CHAMPION, aliases, claimed
from components.register.catalogue import RETIRED_TAG, Version, choose
from components.register.history import (
    RESTORED,
    RETIRED,
    ROLLED_BACK,
    Event,
    announced,
    note,
    unwritten,
    written,
)
from components.register.succession import crown, finish, point_previous
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETIRED_TAGS = ("retired_by", "retired_reason", RETIRED_TAG)
"""Set in this order, and taken away in the other: the last one decides."""


def user() -> str:
    """Whom to write down: MLflow's user of the environment, or else the machine's."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"  # a container's, which has no name


def promote(client: MlflowClient, version: Version, *, over: str | None, reason: str, by: str) -> None:
    """Make a version the champion in place of `over`; InputError if it is retired, Overtaken if `over` is no more."""
    crown(
        client,
        version.model,
        version.number,
        over=over,
        reason=reason,
        by=by,
        check=lambda: check_promotable(_today(client, version)),
    )


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


def rollback(client: MlflowClient, name: str, *, over: str | None, to: str, reason: str, by: str) -> None:
    """Make `to`, an earlier champion, the champion again in place of `over`.

    Raises Overtaken if `over` is champion no more, InputError if `to` was retired meanwhile.
    """
    crown(
        client,
        name,
        to,
        over=over,
        reason=reason,
        by=by,
        action=ROLLED_BACK,
        check=lambda: check_promotable(choose(client, to, name)),
    )


def complete(client: MlflowClient, name: str, action: str) -> bool:
    """Complete a promotion or a rollback that was cut short after the champion's alias had moved; False without one."""
    intent = unwritten(client, name)
    if intent is None or intent.event.action != action:
        return False
    with claimed(client, name, intent.event.version):
        event = finish(client, name)
    if event is None:
        return False  # whoever was at it has done it
    announced(client, name, event)
    return True


def retire(client: MlflowClient, version: Version, *, without_champion: bool, reason: str, by: str) -> None:
    """Take all aliases from a version and mark it as retired; its files and its lineage stay.

    Raises InputError for the champion, unless the model may be left without one. What was cut short goes on.
    """
    name, number = version.model, version.number
    with claimed(client, name, number) as claim:
        finish(client, name)
        check_retirable(client, _today(client, version), without_champion)
        for alias, holder in aliases(client.get_registered_model(name)).items():
            if holder == number:
                claim.check()
                client.delete_registered_model_alias(name, alias)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for key, value in zip(RETIRED_TAGS, (by, reason, now), strict=True):
            client.set_model_version_tag(name, number, key, value)
        point_previous(client, name)
        note(client, name, Event(RETIRED, number, None, reason, by))


def check_retirable(client: MlflowClient, version: Version, without_champion: bool) -> None:
    """Raise InputError if a version is retired already, or is the champion and must not go."""
    if version.retired and _last_word(client, version) == RETIRED:
        raise InputError(f"version {version.number} of {version.model} is retired already, {version.tags[RETIRED_TAG]}")
    if CHAMPION in version.aliases and not without_champion:
        raise InputError(
            f"version {version.number} is the champion of {version.model}: run `fusion models rollback` or promote "
            "another first, or leave the model without a champion by --no-champion"
        )


def restore(client: MlflowClient, version: Version, *, reason: str, by: str) -> None:
    """Undo a retirement: the version may be promoted again; it gets no alias back."""
    name, number = version.model, version.number
    with claimed(client, name, number):
        finish(client, name)
        version = _today(client, version)
        check_restorable(client, version)
        for key in reversed(RETIRED_TAGS):
            if key in version.tags:
                client.delete_model_version_tag(name, number, key)
        point_previous(client, name)
        note(client, name, Event(RESTORED, number, None, reason, by))


def check_restorable(client: MlflowClient, version: Version) -> None:
    """Raise InputError if a version is not retired."""
    if not version.retired and _last_word(client, version) != RETIRED:
        raise InputError(f"version {version.number} of {version.model} is not retired; there is nothing to undo")


def _last_word(client: MlflowClient, version: Version) -> str:
    """The last that the history says of a version's use: retired, restored or "". It is written after it is done."""
    told = (event for event in written(client, version.model) if event.version == version.number)
    return next((event.action for event in reversed([*told]) if event.action in (RETIRED, RESTORED)), "")

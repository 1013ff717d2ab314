"""What the registry holds, read: its models and versions, with the aliases, tags and measures of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from components.register.aliases import CHAMPION, aliases, named
from components.register.gate import HEADLINE
from components.register.history import own_measures
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

RETIRED_TAG = "retired_at"
RUNS_A_REQUEST = 100
NAME_ANOTHER = "; name one by --model-name"
"""The advice where the name of a model that is not there came from that option or its default."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model: its number, aliases, tags and run, and when it was made (ISO, UTC)."""

    model: str
    number: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    created: str

    @property
    def uri(self) -> str:
        """The address that consumers load it by."""
        return f"models:/{self.model}/{self.number}"

    @property
    def retired(self) -> bool:
        """Whether it was taken out of use."""
        return bool(self.tags.get(RETIRED_TAG))

    @property
    def standing(self) -> str:
        """Its aliases, and whether it is retired, in words; "" for neither."""
        return ", ".join((*self.aliases, *(("retired",) if self.retired else ())))

    @classmethod
    def of(cls, found: ModelVersion, aliases: dict[str, str]) -> Version:
        """A version as MLflow tells it, beside all aliases of its model."""
        number = str(found.version)
        return cls(
            model=found.name,
            number=number,
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
            tags={key: str(value) for key, value in found.tags.items()},
            run_id=found.run_id or "",
            created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        )


def models(client: MlflowClient, name: str | None = None, advice: str = "") -> list[RegisteredModel]:
    """Every registered model, by name, or the one of that name; InputError, with the advice, if there is none."""
    found = sorted(
        all_pages(lambda token: client.search_registered_models(page_token=token)), key=lambda model: str(model.name)
    )
    chosen = [model for model in found if name in (None, model.name)]
    if name is not None and not chosen:
        known = ", ".join(model.name for model in found) or "none"
        raise InputError(f"no model {name} in the registry; it has {known}{advice}")
    return chosen


def versions(client: MlflowClient, model: RegisteredModel) -> list[Version]:
    """Every version of a model, the oldest first."""
    found = all_pages(lambda token: client.search_model_versions(named(model.name), page_token=token))
    return [Version.of(each, aliases(model)) for each in sorted(found, key=lambda each: int(each.version))]


def choose(client: MlflowClient, text: str, model_name: str = "") -> Version:
    """The version that `text` names: 3, an alias, models:/NAME/3 or models:/NAME@ALIAS; `model_name` where it has none.

    Raises InputError if it names none, or there is no such model, version or alias, telling those there are.
    """
    match = re.fullmatch(r"(?:models:/(?P<name>[^/@]+)(?:/(?=\d)|@(?=\D)))?(?P<chosen>[\w.-]+)", text)
    if not match:
        raise InputError(f"{text!r} names no version; write a number, an alias, models:/NAME/3 or models:/NAME@ALIAS")
    (model,) = models(client, match["name"]) if match["name"] else models(client, model_name, NAME_ANOTHER)
    chosen, named = match["chosen"], aliases(model)
    if chosen.isdecimal():
        chosen = str(int(chosen))
    elif chosen in named:
        chosen = named[chosen]
    else:
        advice = "; `fusion models promote` makes a version the champion" if chosen == CHAMPION else ""
        raise InputError(f"no alias {chosen} of {model.name}; it has {', '.join(sorted(named)) or 'none'}{advice}")
    there = versions(client, model)
    for version in there:
        if version.number == chosen:
            return version
    numbers = ", ".join(version.number for version in there) or "none"
    raise InputError(f"no version {chosen} of {model.name}; it has {numbers}")


def measures_of(client: MlflowClient, chosen: Iterable[Version]) -> dict[str, dict[str, float]]:
    """The measures of each version's run, by run id, in few requests; of a run that is gone the one in the tags."""
    chosen = list(chosen)
    found = {version.run_id: headline(version) for version in chosen}
    ids = [version.run_id for version in chosen if version.run_id]
    experiments = [each.experiment_id for each in all_pages(lambda token: client.search_experiments(page_token=token))]
    for start in range(0, len(ids) if experiments else 0, RUNS_A_REQUEST):
        some = ", ".join(f"'{run}'" for run in ids[start : start + RUNS_A_REQUEST])
        for run in client.search_runs(experiments, f"attributes.run_id IN ({some})", max_results=RUNS_A_REQUEST):
            found[run.info.run_id] |= own_measures(run.data.metrics)
    return found


def headline(version: Version) -> dict[str, float]:
    """The measure that the tags of a version hold; none where they do not."""
    try:
        return {HEADLINE: float(version.tags[HEADLINE])}
    except (KeyError, ValueError):
        return {}


def all_pages(ask: Callable[[str | None], Any]) -> list[Any]:
    """Everything that a search of MLflow finds, which tells it page by page."""
    found, token = [], None
    while True:
        page = ask(token)
        found += page
        token = page.token
        if not token:
            return found

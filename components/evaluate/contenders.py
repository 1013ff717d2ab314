"""Who takes part in a comparison of methods: each with its weights, and what a reader must know of them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.evaluate import poster
from model.errors import InputError, unknown_choice
from model.fuser import Fuser, FuserConfig
from model.methods import METHODS, Fuse, Method, Resources, shipped_weights
from model.published import read_published
from model.strategies import DEFAULT_STRATEGY

Protocol = Literal["standard", "poster"]


@dataclass(frozen=True)
class Contender:
    """A method that is to be compared, before it has run: where it stands in the table and how to have it.

    `weights` is the start of its weights' SHA-256, `trained_on` the version of the data they come from, `seen` the
    subjects of their training and validation (None: not recorded), `notes` what a reader must know of them; all empty
    where it has none or they are missing, which `load` then says.
    """

    name: str
    title: str
    group: str
    kind: str
    citation: str
    load: Callable[[], Fuse]
    weights: str = ""
    trained_on: str = ""
    seen: frozenset[str] | None = frozenset()
    notes: tuple[str, ...] = ()


def contenders(
    protocol: Protocol, resources: Resources, names: Sequence[str] | None, published: Path | None
) -> list[Contender]:
    """The methods to compare, in the order of the table: those named, or the protocol's own.

    InputError if a name is unknown or the published weights cannot be read.
    """
    chosen = list(dict.fromkeys(names)) if names is not None else _default_names(protocol)
    unknown = [name for name in chosen if name not in METHODS]
    if unknown or not chosen:
        raise unknown_choice("method", unknown, METHODS)
    found = {name: _contender(METHODS[name], protocol, resources) for name in METHODS if name in chosen}
    if published:
        found[poster.PUBLISHED_WEIGHTS] = _published(published, protocol, resources)
    if protocol == "standard":
        return sorted(found.values(), key=lambda each: each.kind != "network")
    order = [name for group in poster.GROUPS.values() for name in group]
    return sorted(found.values(), key=lambda each: order.index(each.name) if each.name in order else len(order))


def _default_names(protocol: Protocol) -> list[str]:
    if protocol == "standard":
        # `dilran` is this row already.
        return [name for name in METHODS if name != f"dilran-{DEFAULT_STRATEGY}"]
    return [name for group in poster.GROUPS.values() for name in group if name in METHODS]


def _contender(method: Method, protocol: Protocol, resources: Resources) -> Contender:
    titles = {"network": "This network", "baseline": "Baselines"}
    if protocol == "poster":
        group = next((title for title, names in poster.GROUPS.items() if method.name in names), "Not in the poster")
    else:
        group = titles[method.kind]
    weights, notes, strategy, trained_on = "", [], "", ""
    seen: frozenset[str] | None = frozenset()
    if method.trained:
        try:
            folder = shipped_weights(method.trained, resources.split)
            weights, training = _identity(*sorted(folder.glob("*.safetensors"))), _json(folder / "training.json")
            notes, trained_on = [poster.training_note(training, method.trained)], training.get("dataset_version", "")
            seen = _seen(training)
            strategy = str(_json(folder / "config.json").get("strategy", ""))
        except InputError:
            pass  # `load` says it again, where the row is made.
    elif method.needs != "nothing" and resources.vgg and resources.vgg.is_file():
        weights = _identity(resources.vgg)
    title = poster.TITLES.get(method.name, method.title) if protocol == "poster" else method.title
    if method.name == "dilran":
        title = f"{title}, default{f' ({strategy})' if strategy else ''}"
    return Contender(
        method.name,
        title,
        group,
        method.kind,
        method.citation,
        lambda: method.load(resources),
        weights,
        trained_on,
        seen,
        tuple(note for note in notes if note),
    )


def _seen(training: dict[str, Any]) -> frozenset[str] | None:
    """The subjects that training and validation saw, by its `training.json`; None if that does not say."""
    subjects = training.get("subjects", {})
    return frozenset().union(*(subjects[split] for split in ("train", "validation"))) if subjects else None


def _published(path: Path, protocol: Protocol, resources: Resources) -> Contender:
    fuser = Fuser(read_published(path), FuserConfig("sfnn", "image"), resources.device, fast=resources.fast)
    notes = []
    if resources.split != "paper":
        notes.append(
            "trained by the authors on every pair of the atlas outside the paper's 20 test pairs, so on most of these"
        )
    return Contender(
        poster.PUBLISHED_WEIGHTS,
        "Published weights, SFNN",
        "The authors' published weights" if protocol == "poster" else "This network",
        "network",
        METHODS[poster.OURS].citation,
        lambda: fuser,
        _identity(path),
        notes=tuple(notes),
    )


def _identity(*paths: Path) -> str:
    """The first 12 hex digits of the SHA-256 of the files' contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""The gate before the registry: whether a judged model may become the champion, and why."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import InputError

HEADLINE = "qabf"
BY_HAND = "to promote it by hand, give this version the alias `champion` in the registry"

Rule = tuple[dict[str, Any], str]  # a check, and what to say where it fails


@dataclass(frozen=True)
class Verdict:
    """What the gate decided: `promoted`, the `reason` in one line, and every check.

    A check is {"name", "candidate", "other", "passed", "required"}; a value that is not a number is None.
    """

    promoted: bool
    reason: str
    checks: list[dict[str, Any]]


def judge(table: Mapping[str, Any], champion: Mapping[str, Any] | None, trained_on: Iterable[str] = ()) -> Verdict:
    """Decide whether the candidate of an evaluation table may become the champion.

    It may if every one of its measures is a finite number, no test subject is among `trained_on` (the subjects of the
    training pairs), its mean Q^AB/F exceeds that of the baseline `average`, and is at least the champion's on the same
    test images; how it stands against `maximum` is reported only. `champion` is None or has "version", "test_set" and
    "qabf", as the registry's tags record them. Raises InputError if the table lacks its own candidate.
    """
    own = method(table, table["candidate"])
    if own is None:
        raise InputError(f"the evaluation table has no row for its candidate {table['candidate']!r}; evaluate again")
    ours = _value(own["means"])
    rules = [_finite(own), _held_out(table, trained_on)]
    rules += [_above(table, ours, name, required=name == "average") for name in ("average", "maximum")]
    if champion is not None:
        rules.append(_not_below(champion, ours, image_set(table)))
    checks = [check for check, _ in rules]
    complaints = [complaint for check, complaint in rules if check["required"] and not check["passed"]]
    return Verdict(not complaints, "; ".join(complaints) or _success(ours, checks), checks)


def method(table: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The row of a method in an evaluation table, None where it has none."""
    return next((row for row in table["methods"] if row["name"] == name), None)


def image_set(table: Mapping[str, Any]) -> str:
    """The identity of the images a table was measured on: 32 hex digits of dataset version, split and pair names."""
    parts = [table["dataset_version"], table["split"], sorted(table["pairs"])]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def _finite(own: Mapping[str, Any]) -> Rule:
    values = [(HEADLINE, [own["means"].get(HEADLINE)])]
    values += [(name, [value]) for name, value in own["means"].items()]
    values += own["per_pair"].items()
    broken = {name: None for name, column in values if not all(map(_is_finite, column))}
    return _check("measures that are not finite", len(broken), 0, not broken), (
        f"not every value of the candidate's {', '.join(broken)} is a finite number"
    )


def _held_out(table: Mapping[str, Any], trained_on: Iterable[str]) -> Rule:
    seen = sorted(set(map(str, trained_on)) & set(map(str, table["subjects"])))
    return _check("test subjects seen in training", len(seen), 0, not seen), (
        f"test subjects {', '.join(seen)} are in the training set too; {BY_HAND}"
    )


def _above(table: Mapping[str, Any], ours: float, name: str, required: bool) -> Rule:
    row = method(table, name)
    other = _value(row["means"]) if row else math.nan
    beaten = f"is not above the {name} baseline's {other:.4f}" if row else f"has no {name} baseline beside it"
    return _check(f"{HEADLINE} above {name}", ours, other, ours > other, required), f"{HEADLINE} {ours:.4f} {beaten}"


def _not_below(champion: Mapping[str, Any], ours: float, images: str) -> Rule:
    comparable = champion.get("test_set") == images
    theirs = _value(champion) if comparable else math.nan
    title = f"the champion's (version {champion['version']})"
    complaint = f"{HEADLINE} {ours:.4f} is below {title} {theirs:.4f}"
    if not comparable:
        complaint = f"the champion (version {champion['version']}) was judged on other images; {BY_HAND}"
    return _check(f"{HEADLINE} at least {title}", ours, theirs, ours >= theirs), complaint


def _success(ours: float, checks: list[dict[str, Any]]) -> str:
    compared = [check for check in checks if check["required"] and check["name"].startswith(HEADLINE)]
    return f"{HEADLINE} {ours:.4f} is " + " and ".join(
        f"{check['name'].removeprefix(HEADLINE).strip()}, {check['other']:.4f}" for check in compared
    )


def _check(name: str, candidate: float, other: float, passed: bool, required: bool = True) -> dict[str, Any]:
    values = {"candidate": candidate, "other": other}
    finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return {"name": name, **finite, "passed": passed, "required": required}


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _value(measures: Mapping[str, Any]) -> float:
    value = measures.get(HEADLINE)
    return math.nan if value is None else float(value)

"""The gate before the registry: whether a judged model may become the champion, and why."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from components.register.aliases import CHAMPION
from model.errors import InputError, unknown_choice
from model.statistics import signed_rank_test

HEADLINE = "qabf"
SIGNIFICANT = 0.05
LEAST_PAIRS = 5
"""With fewer, the signed-rank test cannot reach p < 0.05 even if every pair is better: 1 / 2^4 is above it."""
BY_HAND = "to promote it by hand, run `fusion models promote`"


@dataclass(frozen=True)
class Rules:
    """What a candidate must reach.

    It must be better by more than `margin` in each of `measures`, keep `lesions` of the contrast of the phantom's
    lesions on average, and take at most `seconds` for a pair of 256x256.
    """

    measures: tuple[str, ...] = ("vif",)
    margin: float = 0.0
    lesions: float = 0.5
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise InputError(f"gate_margin is {self.margin}; give a number from 0 on")
        if not 0 <= self.lesions <= 1:
            raise InputError(f"gate_lesions is {self.lesions}; give a share from 0 to 1")
        if not self.seconds > 0:
            raise InputError(f"gate_seconds is {self.seconds}; give a number above 0")

    @classmethod
    def parse(cls, measures: str, margin: float, lesions: float, seconds: float) -> Rules:
        """The rules with measures from a comma-separated list; InputError where one makes no sense."""
        return cls(parse_measures(measures), margin, lesions, seconds)


def parse_measures(text: str) -> tuple[str, ...]:
    """Names of measures from a comma-separated list, each once; InputError where one is unknown or none is given."""
    from model.metrics import MEASURES

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise unknown_choice("measure of the gate", unknown, MEASURES)
    return names


@dataclass(frozen=True)
class Verdict:
    """What the gate decided: `promoted`, the `reason` in one line, and every check.

    `over` is the champion that it was judged against, "" without one. A check is {"name", "candidate", "other",
    "passed", "required"}, one over pairs has their number "n" and its "p" too; a value that is not a number is None.
    """

    promoted: bool
    reason: str
    checks: list[dict[str, Any]]
    over: str = ""


@dataclass
class _Checks:
    """The checks so far, and what to say of those that failed."""

    made: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        candidate: float,
        other: float,
        passed: bool,
        complaint: str,
        required: bool = True,
        **more: float,
    ) -> None:
        """Add a check; the complaint counts if it is required and failed, and is not empty."""
        values = {"candidate": candidate, "other": other, **more}
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self.made.append({"name": name, **finite, "passed": passed, "required": required})
        if required and not passed and complaint:
            self.complaints.append(complaint)


def judge(
    table: Mapping[str, Any],
    floors: Mapping[str, Any] | None,
    rules: Rules,
    champion: str | None,
    trained_on: Iterable[str] = (),
) -> Verdict:
    """Decide whether the candidate of an evaluation table may become the champion.

    It may if every one of its measures is a finite number, no test subject is among `trained_on` (the subjects of the
    training pairs), it is better than every classical baseline and than the current `champion` (its version, None
    without one) in every measure of the rules, and it passes the `floors` that evaluation measured. Better means
    p < 0.05 in a one-sided signed-rank test over the pairs and a better mean, both after the margin is taken off; all
    comparisons must hold, so their number needs no correction (Berger, Technometrics 24:295, 1982). How it stands in
    Q^AB/F is reported. Raises InputError if the table lacks its own candidate.
    """
    from model.methods import CLASSICAL

    own = method(table, table["candidate"])
    if own is None:
        raise InputError(f"the evaluation table has no row for its candidate {table['candidate']!r}; evaluate again")
    checks = _Checks()
    _finite(checks, own)
    _held_out(checks, table, trained_on)
    enough = _enough(checks, table)
    rivals = [(name, name, method(table, name)) for name in CLASSICAL]
    if champion and _champion_measured(checks, table, champion):
        rivals.append((CHAMPION, f"the champion (version {champion})", champion_row(table, champion)))
    signs = {column["name"]: -1 if column["direction"] == "lower" else 1 for column in table["measures"]}
    won = [_compare(checks, own, rivals, name, signs.get(name, 1), rules.margin, enough) for name in rules.measures]
    if HEADLINE not in rules.measures:
        _compare(checks, own, rivals, HEADLINE, signs.get(HEADLINE, 1), 0.0, enough, required=False)
    _floors(checks, floors, rules)
    reason = "; ".join(checks.complaints or won)
    return Verdict(not checks.complaints, reason, checks.made, champion or "")


def method(table: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The row of a method in an evaluation table, None where it has none."""
    return next((row for row in table["methods"] if row["name"] == name), None)


def champion_row(table: Mapping[str, Any], version: str) -> Mapping[str, Any] | None:
    """The row of a champion in an evaluation table, None if it is not there or another version's."""
    return method(table, CHAMPION) if table.get("champion") == version else None


def without_champion(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as it is whoever was champion when it was made."""
    rows = [row for row in table["methods"] if row["name"] != CHAMPION]
    return {key: value for key, value in table.items() if key != "champion"} | {"methods": rows}


def image_set(table: Mapping[str, Any]) -> str:
    """The identity of the images a table was measured on: 32 hex digits of dataset version, split and pair names."""
    parts = [table["dataset_version"], table["split"], sorted(table["pairs"])]
    return hashlib.md5(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()


def markdown(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table of checks, also of those that older versions have."""
    lines = ["| Check | Candidate | Other | Pairs | p | Passed |", "|---|---:|---:|---:|---:|---|"]
    for check in checks:
        numbers = (check.get(key) for key in ("candidate", "other", "n", "p"))
        cells = ["-" if value is None else f"{value:.4g}" for value in numbers]
        passed = ("yes" if check["passed"] else "no") + ("" if check["required"] else " (information only)")
        lines.append(f"| {check['name']} | {' | '.join(cells)} | {passed} |")
    return lines


def _finite(checks: _Checks, own: Mapping[str, Any]) -> None:
    values = [(name, [value]) for name, value in own["means"].items()]
    values += own["per_pair"].items()
    broken = {name: None for name, column in values if not all(map(_is_finite, column))}
    complaint = f"not every value of the candidate's {', '.join(broken)} is a finite number"
    checks.add("measures that are not finite", len(broken), 0, not broken, complaint)


def _held_out(checks: _Checks, table: Mapping[str, Any], trained_on: Iterable[str]) -> None:
    seen = sorted(set(map(str, trained_on)) & set(map(str, table["subjects"])))
    complaint = f"test subjects {', '.join(seen)} are in the training set too; {BY_HAND}"
    checks.add("test subjects seen in training", len(seen), 0, not seen, complaint)


def _enough(checks: _Checks, table: Mapping[str, Any]) -> bool:
    count = len(table["pairs"])
    complaint = (
        f"{count} held-out pairs are too few: were every one better, p would not be below {SIGNIFICANT}; hold out"
        f" {LEAST_PAIRS} or more"
    )
    checks.add("held-out pairs", count, LEAST_PAIRS, count >= LEAST_PAIRS, complaint)
    return count >= LEAST_PAIRS


def _champion_measured(checks: _Checks, table: Mapping[str, Any], champion: str) -> bool:
    measured = champion_row(table, champion) is not None
    why = table.get("champion_failure", "the evaluation does not hold it")
    complaint = f"the champion (version {champion}) could not be measured on these pairs ({why}); {BY_HAND}"
    checks.add("champion measured on these pairs", int(measured), 1, measured, complaint)
    return measured


def _compare(
    checks: _Checks,
    own: Mapping[str, Any],
    rivals: Sequence[tuple[str, str, Mapping[str, Any] | None]],
    name: str,
    sign: int,
    margin: float,
    enough: bool,
    required: bool = True,
) -> str:
    """Check one measure, of which more (`sign` 1) or less (-1) is better, against every rival: what to say of a win."""
    ours, beaten, unbeaten, missing, worst = own["means"].get(name), [], [], [], 0.0
    above, by = "above" if sign > 0 else "below", f" by {margin:g}" if margin else ""
    for rival, title, row in rivals:
        p, gap, count = _test(own, row, name, sign, margin)
        theirs = row["means"].get(name) if row else None
        passed = p < SIGNIFICANT and gap > 0
        label = f"{name} {above} {title}" + by
        checks.add(label, _value(ours), _value(theirs), passed, "", required, n=count, p=p)
        if theirs is None:
            missing.append(title)
        elif passed:
            beaten.append(f"{rival} {theirs:.4f}")
            worst = max(worst, p)
        else:
            unbeaten.append(f"{title} ({_value(theirs):.4f}, p {p:.2g})")
    if required and missing:
        checks.complaints.append(f"{name} of {_joined(missing)} was not measured on these pairs; evaluate again")
    if required and unbeaten and enough:
        checks.complaints.append(f"{name} {_value(ours):.4f} is not {above} {_joined(unbeaten)}{by}")
    return f"{name} {_value(ours):.4f} beats {_joined(beaten)}{by} on {len(own['per_pair'].get(name, []))} pairs" + (
        f" (p <= {worst:.2g})"
    )


def _test(
    own: Mapping[str, Any], row: Mapping[str, Any] | None, name: str, sign: int, margin: float
) -> tuple[float, float, int]:
    """The p of being better by more than the margin, the mean of what is left of the gap, and the number of pairs."""
    ours, theirs = (each["per_pair"].get(name, []) if each else [] for each in (own, row))
    if not ours or len(ours) != len(theirs) or not all(map(_is_finite, (*ours, *theirs))):
        return math.nan, math.nan, min(len(ours), len(theirs))
    # The values have six decimals; what is beyond is the subtraction's.
    gaps = [round(sign * (a - b) - margin, 9) for a, b in zip(ours, theirs, strict=True)]
    return signed_rank_test(gaps), fmean(gaps), len(gaps)


def _floors(checks: _Checks, floors: Mapping[str, Any] | None, rules: Rules) -> None:
    if floors is None:
        checks.add("floors measured", 0, 1, False, "the evaluation is from before floors were measured; evaluate again")
        return
    for shown_by, kept in (floors["lesions"] or {}).items():
        share = _value(kept)
        complaint = f"it keeps {share:.2f} of the contrast of lesions that {shown_by} shows, {rules.lesions:g} is due"
        checks.add(f"contrast kept of {shown_by} lesions", share, rules.lesions, share >= rules.lesions, complaint)
    seconds = _value(floors["seconds"])
    complaint = f"it takes {seconds:.3g} s for a pair of 256x256, {rules.seconds:g} s are allowed"
    checks.add("seconds for a pair of 256x256", seconds, rules.seconds, seconds <= rules.seconds, complaint)


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _value(value: float | None) -> float:
    return math.nan if value is None else float(value)

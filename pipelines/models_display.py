"""What a person or a program is told of registered models: `fusion models`."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.errors import one_line

if TYPE_CHECKING:
    from components.register.catalogue import Version
    from components.register.lineage import Sighting, Wanted

# What fits in 80 columns beside the rest; `show` has every measure.
LISTED = {"qabf": "Q^AB/F", "ssim": "SSIM", "vif": "VIF"}
HASH, NAMES = 8, 10
SPLITS = ("train", "validation", "test")


def told(version: "Version", measures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A version as plain values; `measures` by run id."""
    tags = version.tags
    return {
        "model": version.model,
        "version": version.number,
        "uri": version.uri,
        "aliases": list(version.aliases),
        "registered": version.created,
        "gate": tags.get("gate", ""),
        "gate_reason": tags.get("gate_reason", ""),
        "promoted": {key: tags.get(f"promoted_{key}", "") for key in ("at", "over", "by")}
        | {"reason": tags.get("promotion_reason", "")},
        "retired": {key: tags.get(f"retired_{key}", "") for key in ("at", "by", "reason")} if version.retired else None,
        "collection": tags.get("collection", ""),
        "dataset_version": tags.get("dataset_version", ""),
        "profile": tags.get("profile", ""),
        "measures": {key: value for key, value in sorted(measures[version.run_id].items()) if value - value == 0},
        "run_id": version.run_id,
    }


def print_list(found: Mapping[str, Sequence["Version"]], measures: Mapping[str, Mapping[str, float]]) -> None:
    """A table of versions for each model, the newest first."""
    console = _console()
    if not found:
        console.print("the registry has no model; `fusion run` makes one")
    for place, (model, versions) in enumerate(found.items()):
        console.print(f"{chr(10) if place else ''}{model}: {len(versions)} version{'' if len(versions) == 1 else 's'}")
        table = _table("", "standing", "gate", *LISTED.values(), "data", "registered", right=("", *LISTED.values()))
        for version in reversed(versions):
            values = measures[version.run_id]
            data = f"{version.tags.get('collection', '-')} {version.tags.get('dataset_version', '')[:HASH]}".strip()
            shown = (_number(values.get(key), 3) for key in LISTED)
            gate = version.tags.get("gate", "-")
            table.add_row(version.number, version.standing or "-", gate, *shown, data, version.created[:10])
        console.print(table)


def print_version(facts: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> None:
    """One version, line by line, and the events of the model's history that name it."""
    standing = ", ".join((*facts["aliases"], *(("retired",) if facts["retired"] else ()))) or "no alias"
    gate = facts["gate"] or "not judged"
    _say("version", f"{facts['model']} version {facts['version']} ({standing})")
    _say("load it", facts["uri"])
    _say("registered", facts["registered"])
    _say("gate", f"{gate}: {facts['gate_reason']}" if facts["gate_reason"] else gate)
    if facts["retired"]:
        retired = facts["retired"]
        _say("retired", f"{retired['at']} by {retired['by']}: {retired['reason']}")
    _say("data", f"{facts['collection'] or 'not recorded'} {facts['dataset_version']}".strip())
    _say("MLflow run", facts["run_id"] or "none")
    if facts["measures"]:
        table = _table("measure", "mean over the test pairs", right=("mean over the test pairs",))
        for name, value in facts["measures"].items():
            table.add_row(name, _number(value))
        _console().print("", table)
    if log:
        table = _table("when", "what", "by", "why")
        for event in log:
            table.add_row(
                event["at"][:16].replace("T", " "), _what(event), one_line(event["by"]), one_line(event["reason"])
            )
        _console().print("", table)
    _say("\nmore", f"`fusion models lineage {facts['uri']}`, `fusion models card {facts['uri']}`")


def _what(event: Mapping[str, Any]) -> str:
    version, action, over = event["version"], event["action"], event["over"]
    place = f" over {over}" if over and action in ("promoted", "rolled back") else ""
    return f"rolled back to {version}{place}" if action == "rolled back" else f"{version} {action}{place}"


def print_lineage(facts: Mapping[str, Any]) -> None:
    """What a version was made of: facts, the subjects of each split, settings, measures."""
    data, code = facts["data"], facts["code"]
    standing = ", ".join((*facts["aliases"], *(("retired",) if facts["retired"] else ()))) or "no alias"
    _say("version", f"{facts['model']} version {facts['version']} ({standing}), registered {facts['registered']}")
    _say("dataset", f"{data['collection'] or 'not recorded'} {data['dataset_version']}".strip())
    _say("source", data["source"] or "not recorded")
    _say("manifest", data["manifest"] or "none")
    _say("split", ", ".join(f"{key} {value}" for key, value in data["split"].items()) or "not recorded")
    if data["unknown"]:
        _say("", f"unknown: {data['unknown']}")
    for name, text in (("git commit", "git_commit"), ("code", "code_version"), ("image", "image")):
        _say(name, code[text] or "not recorded")
    _say("seed", facts["seed"] or "not recorded")
    _say("parents", _parents(facts["parents"]))
    _say("pipeline", facts["pipeline_run"] or "not recorded")
    _say("MLflow", f"run {facts['mlflow_run'] or 'none'} in {facts['mlflow']}")
    _say("weights", f"SHA-256 {facts['weights_sha256'] or 'not recorded'}")
    if data["pairs"]:
        table = _table("split", "pairs", "subjects", right=("pairs",))
        for name in data["pairs"]:
            who = data["subjects"][name]
            count = "?" if who is None else str(data["pairs"][name])
            table.add_row(name, count, "not known" if who is None else ", ".join(map(one_line, who)))
        _console().print("", table)
    _print_values("configuration", facts["configuration"])
    _print_values("measure", {key: _number(value) for key, value in facts["measures"].items()})


def _parents(chain: Sequence[str] | None) -> str:
    if chain is None:
        return "not recorded"
    return f"version {', then '.join(chain)}" if chain else "none: there was no champion when it was registered"


def told_sightings(found: Sequence["Sighting"]) -> dict[str, list[dict[str, Any]]]:
    """Who saw it, of whom that is not known (a version may be both), and who did not, as plain values."""

    def row(sighting: "Sighting") -> dict[str, Any]:
        version = sighting.version
        facts: dict[str, Any] = {"model": version.model, "version": version.number, "aliases": list(version.aliases)}
        facts |= {"retired": version.retired, "registered": version.created, "collection": sighting.collection}
        return facts | {"dataset_version": sighting.dataset_version, "pairs": sighting.pairs, "why": sighting.unknown}

    return {
        "saw": [row(each) for each in found if each.seen],
        "unknown": [row(each) for each in found if each.unknown],
        "did_not": [row(each) for each in found if not each.seen and not each.unknown],
    }


def print_sightings(found: Sequence["Sighting"], wanted: "Wanted") -> None:
    """A table of the versions that saw what was wanted, then those of which it is not known, then how many did not."""
    console, told_of = _console(), told_sightings(found)
    count = len(told_of["saw"])
    head = one_line(f"{count or 'no'} version{'s' if count > 1 else ''} saw {wanted.title}")
    console.print(head + (":" if count else ""), soft_wrap=True)
    for model, rows in groupby(told_of["saw"], key=lambda row: row["model"]):
        table = _table("", "standing", "split", "pairs", "data")
        for row in rows:
            standing = ", ".join((*row["aliases"], *(("retired",) if row["retired"] else ()))) or "-"
            data = f"{row['collection']} {row['dataset_version'][:HASH]}"
            for split in (split for split in SPLITS if row["pairs"].get(split)):
                table.add_row(row["version"], standing, split, _names(row["pairs"][split]), data)
        console.print(f"\n{model}")
        console.print(table)
    if told_of["unknown"]:
        console.print("\nnot known, so they may have seen it:")
    for row in told_of["unknown"]:
        console.print(one_line(f"  {row['model']} version {row['version']}: {row['why']}"), soft_wrap=True)
    if other := len(told_of["did_not"]):
        console.print(f"\n{other} version{'' if other == 1 else 's'} did not, by the record of every pair")


def print_difference(difference: Mapping[str, Any]) -> None:
    """What differs between two versions, a table for each kind."""
    console = _console()
    a, b = (f"{difference[key]['model']} {difference[key]['version']}" for key in ("a", "b"))
    _say("from", f"{a}, registered {difference['a']['registered']}")
    _say("to", f"{b}, registered {difference['b']['registered']}" + _same_weights(difference))
    data = difference["data"]
    _print_changes("data", data["changed"])
    if data["pairs"] is None:
        console.print(one_line(f"\npairs: not known; {data['unknown']}"), soft_wrap=True)
    elif not data["pairs"]:
        console.print("\npairs: the same in every split")
    else:
        table = _table("subject", "added", "removed", "changed", "moved to another split")
        for row in data["pairs"]:
            moved = sorted({f"{each['from']} to {each['to']}" for each in row["moved"]})
            words = f"{_names([each['name'] for each in row['moved']])} ({', '.join(moved)})" if moved else ""
            table.add_row(row["subject"], *(_names(row[key]) for key in ("added", "removed", "changed")), words)
        console.print("", table)
    _print_changes("code", difference["code"])
    _print_changes("configuration", difference["configuration"])
    if difference["measures"]:
        table = _table("measure", a, b, "difference", right=(a, b, "difference"))
        for name, row in difference["measures"].items():
            gain = row["difference"]
            table.add_row(name, _number(row["a"]), _number(row["b"]), "-" if gain is None else f"{gain:+.4f}")
        console.print("", table)
        if not difference["same_test_images"]:
            console.print("measured on other test images: the difference says little")


def _same_weights(difference: Mapping[str, Any]) -> str:
    return "; the weights are the same" if difference["same_weights"] else ""


def _print_changes(title: str, changes: Mapping[str, Sequence[Any]]) -> None:
    if not changes:
        _console().print(f"\n{title}: the same")
        return
    table = _table(title, "from", "to")
    for name, values in changes.items():
        table.add_row(name, *("-" if value in (None, "") else one_line(str(value)) for value in values))
    _console().print("", table)


def _print_values(title: str, values: Mapping[str, Any]) -> None:
    if not values:
        return
    table = _table(title, "value")
    for name, value in sorted(values.items()):
        table.add_row(name, one_line(str(value)))
    _console().print("", table)


def _names(pairs: Sequence[str]) -> str:
    """How many, and the first of their names."""
    if not pairs:
        return ""
    more = f" and {len(pairs) - NAMES} more" if len(pairs) > NAMES else ""
    return one_line(f"{len(pairs)}: {', '.join(pairs[:NAMES])}{more}")


def _number(value: float | None, decimals: int = 4) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _say(head: str, text: str) -> None:
    line = f"{head:<10} {one_line(text)}"
    _console().print(line, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table

"""What differs between two registered versions: data by subject, code, configuration, measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.ingest.layout import order
from components.register.catalogue import Version
from components.register.lineage import CODE, read_split, trace

if TYPE_CHECKING:
    from mlflow import MlflowClient

TOLD_ELSEWHERE = {"dataset_version", "collection", "modalities", "inputs", "split", "pairs", "subjects", "code_version"}


def compare(client: MlflowClient, a: Version, b: Version) -> dict[str, Any]:
    """What version `b` has otherwise than `a`, as plain values; what is the same is left out.

    `data.pairs` has a row for each subject with pairs added, removed, changed (other images under the same name) or
    moved (to another split); None, with the reason in `data.unknown`, where a split is not known. `measures` has every
    measure that either has, and `same_test_images` says whether they may be compared.
    """
    left, right = trace(client, a), trace(client, b)
    return {
        "a": {key: left[key] for key in ("model", "version", "aliases", "registered")},
        "b": {key: right[key] for key in ("model", "version", "aliases", "registered")},
        "data": _data(client, a, b, left["data"], right["data"]),
        "code": _changed(left["code"], right["code"], CODE),
        "configuration": _changed(_settings(left), _settings(right)),
        "same_weights": left["weights_sha256"] == right["weights_sha256"],
        "same_test_images": bool(left["test_set"]) and left["test_set"] == right["test_set"],
        "measures": _measures(left["measures"], right["measures"]),
    }


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what the data and the code say of themselves."""
    return {key: value for key, value in facts["configuration"].items() if key.partition(".")[0] not in TOLD_ELSEWHERE}


def _data(
    client: MlflowClient, a: Version, b: Version, left: Mapping[str, Any], right: Mapping[str, Any]
) -> dict[str, Any]:
    changed = _changed(left, right, ("dataset_version", "collection", "source"))
    changed |= _changed(left["split"], right["split"])
    splits = [read_split(client, version) for version in (a, b)]
    reasons = [
        f"version {version.number}: {why or (split and split['unknown'])}"
        for version, (split, why) in zip((a, b), splits, strict=True)
        if why or (split and split["unknown"])
    ]
    if reasons:
        return {"changed": changed, "pairs": None, "unknown": "; ".join(reasons)}
    before, after = (_places(split["splits"]) for split, _ in splits if split)
    return {"changed": changed, "pairs": _by_subject(before, after), "unknown": ""}


def _places(splits: Mapping[str, list[dict[str, Any]]]) -> dict[tuple[str, str], tuple[str, Any]]:
    """For each subject and pair the split it is in, and its images' MD5."""
    return {
        (str(entry["subject"]), str(entry["name"])): (name, entry.get("md5"))
        for name, entries in splits.items()
        for entry in entries
    }


def _by_subject(
    before: Mapping[tuple[str, str], tuple[str, Any]], after: Mapping[tuple[str, str], tuple[str, Any]]
) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for subject, name in sorted(before.keys() | after.keys(), key=lambda pair: (order(pair[0]), order(pair[1]))):
        was, now = before.get((subject, name)), after.get((subject, name))
        row = rows.setdefault(subject, {"subject": subject, "added": [], "removed": [], "changed": [], "moved": []})
        if was is None or now is None:
            row["added" if was is None else "removed"].append(name)
            continue
        if was[1] and now[1] and was[1] != now[1]:
            row["changed"].append(name)
        if was[0] != now[0]:
            row["moved"].append({"name": name, "from": was[0], "to": now[0]})
    return [row for row in rows.values() if any(value for key, value in row.items() if key != "subject")]


def _changed(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """Name -> [of a, of b] of what is not the same; None for what one of them has not."""
    keys = names or tuple(sorted(a.keys() | b.keys()))
    return {key: [a.get(key), b.get(key)] for key in keys if a.get(key) != b.get(key)}


def _measures(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    rows = {}
    for name in sorted(a.keys() | b.keys()):
        was, now = a.get(name), b.get(name)
        gain = None if was is None or now is None else now - was
        rows[name] = {"a": was, "b": now, "difference": gain}
    return rows

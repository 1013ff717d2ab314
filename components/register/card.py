"""The model card: what a registered model learned from, how good it is, what it is for and what not; Markdown, HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluate.curves import draw_curve
from components.evaluate.page import counted, render
from components.evaluate.report import SETTINGS, TERMS, plain
from components.ingest.dataset import PHANTOM
from components.ingest.layout import order
from components.ingest.pin import PIN, read_pin
from components.register.gate import Verdict
from components.register.record import Judged
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MARKDOWN_FILE, HTML_FILE = "card.md", "card.html"
ROOT = Path(__file__).parents[2]
SUBJECTS_SHOWN = 200
PROVENANCE = {
    "git_commit": "Git commit",
    "code_version": "Code version",
    "image": "Container image",
    "pipeline_run": "Pipeline run",
    "profile": "Profile",
    "parent": "Champion when it was registered",
    "weights_sha256": "SHA-256 of the weights",
}
CHECKED = ("Check", "Candidate", "Other", "Pairs", "p", "Passed")
ABSENT = {"parent": "none"}
CHECKED = ("Check", "Candidate", "Other", "Pairs", "p", "Passed")
ABSENT = {"parent": "none"}


def log_card(client: MlflowClient, version: ModelVersion, judged: Judged, verdict: Verdict) -> None:
    """Log `card.md` and `card.html` of a version to its run."""
    card = contents(f"{version.name} version {version.version}", judged, verdict, version.tags)
    client.log_text(version.run_id, markdown(card), MARKDOWN_FILE)
    client.log_text(version.run_id, render("card.html.j2", Path(__file__).parent, card=card), HTML_FILE)


def contents(title: str, judged: Judged, verdict: Verdict, tags: Mapping[str, str]) -> dict[str, Any]:
    """What both forms of the card say, as texts and rows of texts."""
    kept = judged.split()
    unknown = kept["unknown"]
    splits = {name: entries for name, entries in kept["splits"].items() if entries is not None}
    return {
        "title": title,
        "inputs": judged.inputs,
        "verdict": f"{'promoted' if verdict.promoted else 'refused'} by the gate: {verdict.reason}",
        "use": _use(judged, unknown),
        "data": [
            ("Collection", str(judged.index["collection"])),
            ("Dataset version", str(judged.index["dataset_version"])),
            ("Source and terms", source(judged.index)),
            ("Split", plain(judged.index.get("split") or "not recorded")),
            *((name.capitalize(), _size(entries)) for name, entries in splits.items()),
            *((("Training and validation", f"not known: {unknown}"),) if unknown else ()),
        ],
        "subjects": _subjects(splits),
        "training": _training(judged),
        "curves": [_curve(judged.curves, term, title) for term, title in TERMS.items()],
        "losses": _losses(judged.curves),
        "columns": [column["title"] for column in judged.table["measures"]],
        "measures": _measures(judged.table),
        "checked": CHECKED,
        "checks": [_check(check) for check in verdict.checks],
        "provenance": [(label, tags.get(key) or ABSENT.get(key, "not recorded")) for key, label in PROVENANCE.items()],
    }


def source(index: Mapping[str, Any]) -> str:
    """Where the data comes from and on what terms, as far as that is known."""
    if index.get("source") == PHANTOM:
        return "drawn by this program's phantom generator: artificial heads of no patient, free of terms"
    if (ROOT / PIN).is_file():
        try:
            pin = read_pin(ROOT)
        except InputError:
            pin = None
        if pin and pin.version == index["dataset_version"]:
            came = plain(pin.meta.get("source") or "not recorded")
            return f"{pin.meta.get('title', 'untitled')}. {pin.meta.get('terms', 'Terms not recorded.')} Source: {came}"
    where = index.get("source") or "not recorded"
    return f"{where}; whose images they are and on what terms is not recorded: find out before you pass the model on"


def markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    blocks = [f"# Model card: {card['title']}", f"{card['verdict']}.", "## Intended use and limits"]
    blocks += card["use"]
    blocks += ["## Data", _table(("", ""), card["data"])]
    if card["subjects"]:
        blocks.append(_table(("Split", "Subject", "Pairs"), card["subjects"], "llr"))
    blocks += ["## Training", _table(("Setting", "Value"), card["training"])]
    if card["losses"]:
        blocks.append(_table(("Epoch", "Training loss", "Validation loss"), card["losses"], "rrr"))
    columns = ("Method", *card["columns"])
    blocks += ["## Measures, means over the test pairs", _table(columns, card["measures"], "l" + "r" * len(columns))]
    head = ("Check", "Candidate", "Other", "Passed")
    blocks += [
        "## The gate",
        _table(head, card["checks"], "lrrl"),
        "## Provenance",
        _table(("", ""), card["provenance"]),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    rules = ["---:" if side == "r" else "---" for side in align.ljust(len(head), "l")[: len(head)]]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (head, rules, *rows))


def _use(judged: Judged, unknown: str) -> list[str]:
    splits, table = judged.index["splits"], judged.table
    trained = "subjects that were not recorded"
    if not unknown:
        trained = counted(len({entry["subject"] for entry in splits["train"]}), "subject")
    a, b = map(str, judged.index["modalities"])
    return [
        f"**For** research on image fusion, and for trying this software: it fuses a {a} slice and a registered {b} "
        "slice of the same head into one image.",
        f"**Not a medical device.** It was trained on {trained} and judged on "
        f"{counted(len(table['pairs']), 'pair')} of {counted(len(set(table['subjects'])), 'subject')}; no reader has "
        "checked its images, and the measures only compare images: they do not show that one is fit for diagnosis. It "
        "must not guide care.",
        "**Limits.** Other scanners, sequences, resolutions, ages and diseases than those of its data were not tried. "
        "Pairs that are not in register fuse to a blur. A fusion may hide what one of the sources shows: look at both.",
    ]


def _size(entries: Sequence[Mapping[str, Any]]) -> str:
    who = {entry["subject"] for entry in entries}
    return f"{counted(len(entries), 'pair')} of {counted(len(who), 'subject')}"


def _subjects(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, str, str]]:
    """Split, subject and its pairs; nothing where they are too many to read."""
    rows = []
    for name, entries in splits.items():
        counts = Counter(str(entry["subject"]) for entry in entries)
        rows += [(name, subject, str(counts[subject])) for subject in sorted(counts, key=order)]
    return rows if len(rows) <= SUBJECTS_SHOWN else []


def _training(judged: Judged) -> list[tuple[str, str]]:
    rows = [("Network", str(judged.config.get("network", "not recorded")))]
    rows += [("Fusion strategy", str(judged.config["strategy"]))]
    rows += [("BatchNorm statistics", str(judged.config.get("batchnorm", "not recorded")))]
    rows += [(label, plain(judged.training[key])) for key, label in SETTINGS.items() if key in judged.training]
    known = {
        *SETTINGS,
        "network",
        "subjects",
        "pairs",
        "libraries",
        "collection",
        "dataset_version",
        "split",
        "modalities",
    }
    return rows + [
        (key.replace("_", " ").capitalize(), plain(value))
        for key, value in judged.training.items()
        if key not in known and value not in ({}, None, "")
    ]


def _curve(curves: Sequence[Mapping[str, Any]], term: str, title: str) -> dict[str, Any]:
    return draw_curve(
        title, [(row["epoch"], _loss(row, "train", term), _loss(row, "validation", term)) for row in curves]
    )


def _losses(curves: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Epoch and total losses, of ten epochs evenly spread at the most."""
    every = max(1, -(-len(curves) // 10))
    chosen = [row for place, row in enumerate(curves, 1) if place % every == 0 or place in (1, len(curves))]
    both = ("train", "validation")
    return [(str(row["epoch"]), *(f"{_loss(row, split, 'total'):.4g}" for split in both)) for row in chosen]


def _loss(row: Mapping[str, Any], split: str, term: str) -> float:
    value = (row.get(split) or {}).get(term)
    return float("nan") if value is None else float(value)


def _measures(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    names = [column["name"] for column in table["measures"]]
    rows = []
    for method in table["methods"]:
        title = f"{method['title']} (this model)" if method["name"] == table["candidate"] else str(method["title"])
        rows.append((title, *(_number(method["means"].get(name)) for name in names)))
    return rows


def _check(check: Mapping[str, Any]) -> tuple[str, ...]:
    passed = ("yes" if check["passed"] else "no") + ("" if check["required"] else " (information only)")
    return (str(check["name"]), *(_number(check.get(key)) for key in ("candidate", "other", "n", "p")), passed)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

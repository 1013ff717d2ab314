"""A comparison written down: Markdown for a repository's page, CSV and JSON for programs, HTML with pictures."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from components.evaluate import poster
from components.evaluate.comparison import Comparison, Row
from components.evaluate.evaluation import Column, csv_text
from components.evaluate.page import ARROWS, number, raised
from components.evaluate.table_facts import cells_of, chunks, decimals_of, is_best, mark, notes, origin, title
from components.evaluate.table_page import html
from model.errors import InputError

FILES = ("table.md", "table.csv", "per_pair.csv", "table.json", "table.html")


def check_target(folder: Path) -> None:
    """Raise InputError unless a table may be written to `folder`: it is new, empty, or holds an older table alone."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {folder}: {above} is no folder that may be written to; choose another place")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the table")
    try:
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; choose another place") from None
    if foreign:
        raise InputError(f"{folder} holds {foreign[0]}, which is no part of a table; name a new or empty folder")


def write_table(comparison: Comparison, folder: Path) -> None:
    """Write `table.md`, `table.csv` (means), `per_pair.csv`, `table.json` and `table.html` into `folder`, all or none.

    An earlier table there is replaced. InputError if the place cannot be written or holds something else.
    """
    check_target(folder)
    target = folder.resolve()
    texts = [make(comparison) for make in (markdown, means_csv, per_pair_csv, as_json, html)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as aside:
            made, old = Path(aside) / "new", Path(aside) / "old"
            made.mkdir()
            for name, text in zip(FILES, texts, strict=True):
                (made / name).write_text(text, encoding="utf-8", newline="")
            if target.exists():
                target.rename(old)
            made.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another place") from None


def markdown(comparison: Comparison) -> str:
    """The table as Markdown, at most eight measures wide, with what did not run and why."""
    lines = [f"# {title(comparison)}", ""]
    lines += [f"- {label}: {_cell(text)}" for label, text in origin(comparison)]
    for columns in chunks(comparison):
        lines += ["", *_markdown_table(comparison, columns)]
    lines += ["", "## Notes", "", *(f"- {note}" for note in notes(comparison))]
    said: dict[str, list[str]] = {}
    for row in comparison.rows:
        for note in row.contender.notes:
            said.setdefault(note, []).append(row.contender.title)
    lines += [f"- {'; '.join(titles)}: {_cell(note)}." for note, titles in said.items()]
    if comparison.missing:
        lines += ["", "## Not run", ""]
        for reason, rows in comparison.missing.items():
            lines.append(f"- {'; '.join(row.contender.title for row in rows)}: {_cell(reason)}")
    return "\n".join(lines) + "\n"


def means_csv(comparison: Comparison) -> str:
    """The means, one method a row; empty where it did not run, with the reason in the last column."""
    names = [column.name for column in comparison.measures]
    printed = names if comparison.printed else []
    rows = []
    for row in comparison.rows:
        cells = cells_of(comparison, row)
        figures = poster.PRINTED.get(row.contender.name, {})
        rows.append(
            [
                *(row.contender.name, row.contender.title, row.contender.kind),
                *(cells[name].mean if row.ran else "" for name in names),
                *(figures.get(name, "") for name in printed),
                *(row.contender.weights, row.reason and f"not run: {row.reason}"),
            ]
        )
    header = ["method", "title", "kind", *names, *(f"printed_{name}" for name in printed), "weights", "not_run"]
    return csv_text(header, rows)


def per_pair_csv(comparison: Comparison) -> str:
    """Every value, one a row; one row without values for a method that did not run."""
    rows: list[list[object]] = []
    for row in comparison.rows:
        name = row.contender.name
        if not row.ran:
            rows.append([name, "", "", "", "", f"not run: {row.reason}"])
        for column in comparison.measures if row.ran else ():
            values = zip(comparison.pairs, row.values[column.name], strict=True)
            rows += [[name, column.name, pair.name, pair.subject, value, ""] for pair, value in values]
    return csv_text(["method", "measure", "pair", "subject", "value", "not_run"], rows)


def as_json(comparison: Comparison) -> str:
    """Everything but the pictures, as JSON."""
    reference = comparison.reference
    table = {
        "protocol": comparison.protocol,
        "split": comparison.split,
        "data": comparison.data,
        "data_version": comparison.data_version,
        "facts": comparison.facts,
        "notes": notes(comparison),
        "subjects": comparison.subjects,
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "measures": [asdict(column) for column in comparison.measures],
        "reference": reference.contender.name if reference else None,
        "methods": [
            {
                "name": row.contender.name,
                "title": row.contender.title,
                "group": row.contender.group,
                "kind": row.contender.kind,
                "citation": row.contender.citation,
                "weights": row.contender.weights,
                "notes": row.contender.notes,
                "not_run": row.reason or None,
                "summaries": {name: asdict(cell) for name, cell in cells_of(comparison, row).items()},
                "printed": poster.PRINTED.get(row.contender.name, {}) if comparison.printed else {},
                "per_pair": row.values,
            }
            for row in comparison.rows
        ],
    }
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def _markdown_table(comparison: Comparison, columns: Sequence[Column]) -> list[str]:
    head, rows = ["Method"], []
    for column in columns:
        unit = f", {column.unit}" if column.unit else ""
        name = f"{raised(column.title)}{unit} {ARROWS[column.direction][0]}"
        head += [f"{name}<br>printed", "<br>measured"] if comparison.printed else [name]
    for group, members in groupby(comparison.rows, key=lambda row: row.contender.group):
        rows.append([f"*{group}*", *[""] * (len(head) - 1)])
        for row in members:
            cells = [_cell(row.contender.title)]
            for column in columns:
                if comparison.printed:
                    figure = poster.PRINTED.get(row.contender.name, {}).get(column.name)
                    cells.append("" if figure is None else number(figure, 3))
                cells.append(_markdown_figure(comparison, row, column.name))
            if not row.ran:
                cells[2 if comparison.printed else 1] = "not run"
            rows.append(cells)
    ruler = [":--", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (head, ruler, *rows)]


def _markdown_figure(comparison: Comparison, row: Row, name: str) -> str:
    if not row.ran:
        return ""
    cell = comparison.summaries[row.contender.name][name]
    figure = number(cell.mean, decimals_of(comparison, name))
    shown = f"**{figure}**" if is_best(comparison, name, cell) else figure
    return shown + mark(comparison, name, cell)[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

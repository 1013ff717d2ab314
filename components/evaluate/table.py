"""A comparison written down: Markdown for a repository's page, CSV and JSON for programs, HTML with pictures."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from components.evaluate import poster
from components.evaluate.comparison import LEAST_SUBJECTS, Comparison, Row, Summary
from components.evaluate.evaluation import Column
from components.evaluate.page import ARROWS, counted, number, raised, render
from components.evaluate.pictures import for_page
from components.evaluate.viewer.scene import scene_of_pictures
from components.ingest.dataset import MODALITIES
from model.errors import InputError
from model.statistics import EXACT_UP_TO

FILES = ("table.md", "table.csv", "per_pair.csv", "table.json", "table.html")
BETTER = ("\N{SUPERSCRIPT PLUS SIGN}", "significantly better")
WORSE = ("\N{SUPERSCRIPT MINUS}", "significantly worse")
SPLITS = {"subject": "split by subject", "paper": "the paper's split"}
COLUMNS_A_TABLE = 8
BESIDE_PICTURES = {"standard": ("qabf", "vif", "ssim", "psnr"), "poster": ("psnr", "ssim", "fmi", "fsim")}


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


def title(comparison: Comparison) -> str:
    """What the figures are of: protocol, split, pairs and subjects."""
    counts = f"{counted(len(comparison.pairs), 'pair')} of {counted(len(comparison.subjects), 'subject')}"
    return f"{comparison.protocol.capitalize()} protocol, {SPLITS[comparison.split]}, {counts}"


def origin(comparison: Comparison) -> list[tuple[str, str]]:
    """What the figures were made from, as labelled facts: data, weights, code, machine and date."""
    weights = {row.contender.weights: row.contender.name for row in reversed(comparison.ran) if row.contender.weights}
    return [
        ("Subjects", ", ".join(comparison.subjects)),
        ("Data", f"{comparison.data_version} ({comparison.data})"),
        ("Weights", ", ".join(f"{name} {digest}" for digest, name in reversed(weights.items())) or "none"),
        *comparison.facts.items(),
    ]


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table rightly."""
    rows, pairs, subjects = comparison.ran, len(comparison.pairs), len(comparison.subjects)
    said = ["Means over the pairs; measures against a source are means over CT and MRI. The best of a column is bold."]
    if comparison.reference and len(rows) > 1:
        kind = "exact" if pairs <= EXACT_UP_TO else "Monte Carlo"
        said.append(
            f"{BETTER[0]} and {WORSE[0]} mark what is significantly better and worse than "
            f'"{comparison.reference.contender.title}": p < 0.05 in a two-sided sign-flip permutation test '
            f"over the pairs ({kind}), Holm-corrected over the methods of a column."
        )
    elif len(rows) > 1:
        said.append("The method to test against did not run, so no difference is tested.")
    if pairs > subjects:
        said.append(
            f"Slices of one subject resemble each other, so the {pairs} pairs are fewer than {pairs} independent ones: "
            f"intervals by pairs are too narrow and p-values too small for what they would say of new subjects."
        )
    if subjects >= LEAST_SUBJECTS:
        said.append(
            "Intervals by resampling subjects are in table.html and table.json; by so few subjects they still cover "
            "the mean less often than 95 % (81 % with three subjects, 90 % with seven)."
        )
    elif subjects > 1:
        said.append("Two subjects are too few for intervals by subject.")
    if comparison.split == "paper":
        said.append("Other slices of these subjects were trained on: the paper's split leaks, here as in the poster.")
    if comparison.protocol == "poster":
        said += poster.MEASURE_NOTES
        if not comparison.printed:
            said.append("The poster's printed figures are of the paper's split and stand beside no other.")
    if len(comparison.pairs) < comparison.expected:
        said.append(f"The data holds {pairs} of the {comparison.expected} test pairs; printed figures are of all.")
    if comparison.synthetic:
        said.append("These are artificial heads drawn by the phantom: no image shows a patient.")
    return said + comparison.notes


def markdown(comparison: Comparison) -> str:
    """The table as Markdown, at most eight measures wide, with what did not run and why."""
    lines = [f"# {title(comparison)}", ""]
    lines += [f"- {label}: {_cell(text)}" for label, text in origin(comparison)]
    for columns in _chunks(comparison):
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
        cells = _cells(comparison, row)
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
    return _csv(header, rows)


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
    return _csv(["method", "measure", "pair", "subject", "value", "not_run"], rows)


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
                "summaries": {name: asdict(cell) for name, cell in _cells(comparison, row).items()},
                "printed": poster.PRINTED.get(row.contender.name, {}) if comparison.printed else {},
                "per_pair": row.values,
            }
            for row in comparison.rows
        ],
    }
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def html(comparison: Comparison) -> str:
    """The page: findings in words, the table with its intervals, the tests, the pictures and the lineage."""
    decimals = {column.name: _decimals(comparison, column.name) for column in comparison.measures}
    shown = [name for name in BESIDE_PICTURES[comparison.protocol] if name in decimals]
    titles = {column.name: (raised(column.title), column.unit) for column in comparison.measures}
    positions = {pair.name: position for position, pair in enumerate(comparison.pairs)}
    methods = [(row.contender.name, row.contender.title) for row in comparison.ran]
    values = {
        picture.pair: {
            row.contender.name: [number(row.values[name][positions[picture.pair]], decimals[name]) for name in shown]
            for row in comparison.ran
        }
        for picture in comparison.pictures
    }
    return render(
        "table.html.j2",
        comparison=comparison,
        title=title(comparison),
        origin=origin(comparison),
        notes=notes(comparison),
        found=_found(comparison),
        sheets=[_sheet(comparison, columns) for columns in _chunks(comparison)],
        by_subject=len(comparison.subjects) >= LEAST_SUBJECTS,
        tested=[row for row in comparison.ran if row is not comparison.reference] if comparison.reference else [],
        methods=[row.contender for row in comparison.ran],
        candidate=(comparison.reference or comparison.ran[0]).contender.name,
        synthetic=comparison.synthetic,
        modalities=MODALITIES,
        colour=False,
        pictures=[for_page(picture, methods) for picture in comparison.pictures],
        shown=[titles[name] for name in shown],
        pair_values=values,
        scene=scene_of_pictures(
            title(comparison), MODALITIES, methods, comparison.pictures, [titles[name][0] for name in shown], values
        ),
    )


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
    figure = number(cell.mean, _decimals(comparison, name))
    shown = f"**{figure}**" if _is_best(comparison, name, cell) else figure
    return shown + _mark(comparison, name, cell)[0]


def _chunks(comparison: Comparison) -> list[list[Column]]:
    """The measures in equal parts, each of a table narrow enough to be seen whole."""
    parts = -(-len(comparison.measures) // COLUMNS_A_TABLE)
    size = -(-len(comparison.measures) // parts)
    return [comparison.measures[start : start + size] for start in range(0, len(comparison.measures), size)]


def _sheet(comparison: Comparison, columns: Sequence[Column]) -> dict[str, Any]:
    """One table of the page: some of the measures for every row."""
    return {
        "columns": [_column(column) for column in columns],
        "first": columns[0] is comparison.measures[0],
        "groups": [
            {"title": group, "rows": [_html_row(comparison, row, columns) for row in rows]}
            for group, rows in groupby(comparison.rows, key=lambda row: row.contender.group)
        ],
    }


def _html_row(comparison: Comparison, row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    cells = []
    for column in columns:
        name, figure = column.name, poster.PRINTED.get(row.contender.name, {}).get(column.name)
        shown: dict[str, Any] = {"printed": "" if figure is None else number(figure, 3)}
        if row.ran:
            cell, decimals = comparison.summaries[row.contender.name][name], _decimals(comparison, name)
            shown |= {
                "mean": number(cell.mean, decimals),
                "best": _is_best(comparison, name, cell),
                "mark": _mark(comparison, name, cell),
                "interval": _interval(cell.low, cell.high, decimals),
                "by_subject": _interval(cell.subject_low, cell.subject_high, decimals),
                "difference": "" if cell.difference is None else number(cell.difference, decimals, sign=True),
                "p": _p(cell.p),
            }
        cells.append(shown)
    return {"row": row, "contender": row.contender, "reference": row is comparison.reference, "cells": cells}


def _column(column: Column) -> dict[str, Any]:
    arrow, meaning = ARROWS[column.direction]
    return {"title": raised(column.title), "unit": column.unit, "arrow": arrow, "meaning": meaning}


def _found(comparison: Comparison) -> dict[str, Any]:
    """What the page says first: who leads in how many measures, and how the reference compares with the maximum."""
    names = [column.name for column in comparison.measures]
    leads = {
        row.contender.name: sum(
            comparison.summaries[row.contender.name][name].mean == _best(comparison, name) for name in names
        )
        for row in comparison.ran
    }
    leader = max(comparison.ran, key=lambda row: leads[row.contender.name])
    found: dict[str, Any] = {
        "leader": leader.contender.title,
        "leads": leads[leader.contender.name],
        "reference": None,
        "rival": None,
        "printed": [],
    }
    if comparison.reference:
        found |= {"reference": comparison.reference.contender.title, "own": leads[comparison.reference.contender.name]}
        rival = next((row for row in comparison.ran if row.contender.name == "maximum"), None)
        if rival:
            cells = comparison.summaries["maximum"]
            marks = [_mark(comparison, name, cells[name])[1] for name in names]
            # The rival is marked against the reference: its loss is the reference's win.
            found["rival"] = {
                "title": rival.contender.title,
                "better": marks.count(WORSE[1]),
                "worse": marks.count(BETTER[1]),
            }
    if comparison.printed:
        rows = [row for row in comparison.ran if row.contender.name in poster.PRINTED]
        found["printed"] = [_deviation(comparison, row) for row in rows]
    return found


def _deviation(comparison: Comparison, row: Row) -> dict[str, str]:
    """Where a row lies furthest from what the poster printed of it, relative to the printed figure."""
    figures, cells = poster.PRINTED[row.contender.name], comparison.summaries[row.contender.name]
    relative = {name: abs(cells[name].mean / figures[name] - 1) for name in cells}
    name = max(relative, key=lambda key: relative[key])
    measure = next(column.title for column in comparison.measures if column.name == name)
    return {"title": row.contender.title, "measure": measure, "percent": f"{100 * relative[name]:.1f}"}


def _cells(comparison: Comparison, row: Row) -> dict[str, Summary]:
    """The cells of a row by measure; none where it did not run."""
    return comparison.summaries.get(row.contender.name, {})


def _best(comparison: Comparison, name: str) -> float:
    direction = next(column.direction for column in comparison.measures if column.name == name)
    return (max if direction == "higher" else min)(cells[name].mean for cells in comparison.summaries.values())


def _is_best(comparison: Comparison, name: str, cell: Summary) -> bool:
    """Whether a mean is the best of its column as far as its digits show."""
    decimals = _decimals(comparison, name)
    return number(cell.mean, decimals) == number(_best(comparison, name), decimals)


def _mark(comparison: Comparison, name: str, cell: Summary) -> tuple[str, str]:
    """The sign beside a figure that differs significantly from the reference's, and its meaning; empty otherwise."""
    if not cell.significant or not cell.difference:
        return "", ""
    higher = next(column.direction for column in comparison.measures if column.name == name) == "higher"
    return BETTER if (cell.difference > 0) == higher else WORSE


def _decimals(comparison: Comparison, name: str) -> int:
    if comparison.protocol == "poster":
        return 3
    return 2 if max(abs(cells[name].mean) for cells in comparison.summaries.values()) >= 10 else 3


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    if low is None or high is None:
        return ""
    return f"{number(low, decimals)}\N{EN DASH}{number(high, decimals)}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()

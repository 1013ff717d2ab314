"""A comparison as an HTML page: findings in words, tables with intervals and tests, pictures, lineage."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from components.evaluate import poster
from components.evaluate.comparison import LEAST_SUBJECTS, Comparison, Row
from components.evaluate.evaluation import Column
from components.evaluate.page import ARROWS, number, raised, render
from components.evaluate.pictures import for_page
from components.evaluate.table_facts import (
    BETTER,
    WORSE,
    best,
    chunks,
    decimals_of,
    is_best,
    mark,
    notes,
    origin,
    title,
)
from components.evaluate.viewer.scene import scene_of_pictures
from components.ingest.dataset import MODALITIES

BESIDE_PICTURES = {"standard": ("qabf", "vif", "ssim", "psnr"), "poster": ("psnr", "ssim", "fmi", "fsim")}


def html(comparison: Comparison) -> str:
    """The page: findings in words, the table with its intervals, the tests, the pictures and the lineage."""
    decimals = {column.name: decimals_of(comparison, column.name) for column in comparison.measures}
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
        sheets=[_sheet(comparison, columns) for columns in chunks(comparison)],
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
            cell, decimals = comparison.summaries[row.contender.name][name], decimals_of(comparison, name)
            shown |= {
                "mean": number(cell.mean, decimals),
                "best": is_best(comparison, name, cell),
                "mark": mark(comparison, name, cell),
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
            comparison.summaries[row.contender.name][name].mean == best(comparison, name) for name in names
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
            marks = [mark(comparison, name, cells[name])[1] for name in names]
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


def _interval(low: float | None, high: float | None, decimals: int) -> str:
    if low is None or high is None:
        return ""
    return f"{number(low, decimals)}\N{EN DASH}{number(high, decimals)}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"

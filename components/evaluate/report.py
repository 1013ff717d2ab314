"""The evaluation as one self-contained HTML page: findings in words, table, pictures, loss curves and lineage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from components.evaluate.curves import draw_curve
from components.evaluate.page import ARROWS, counted, number, raised, render
from components.evaluate.pictures import for_page
from components.evaluate.viewer.scene import scene_of_pictures
from components.register.aliases import CHAMPION

if TYPE_CHECKING:
    from components.evaluate.evaluation import Evaluation, MethodResult

TERMS = {"total": "Total loss", "l2": "L2", "gradient": "Gradient", "perceptual": "Perceptual"}
BESIDE_PICTURES = ("qabf", "vif", "ssim", "psnr")
SETTINGS = {
    "seed": "Seed",
    "epochs": "Epochs",
    "batch": "Batch, images a process",
    "crop": "Crop, pixels",
    "learning_rate": "Learning rate",
    "loss": "Loss weights",
    "perceptual": "Perceptual feature stack",
    "processes": "Processes",
    "seconds": "Training time, seconds",
    "images_per_second": "Images a second",
}


def render_report(evaluation: Evaluation, curves: Sequence[dict[str, Any]], training: dict[str, Any]) -> str:
    """The page as HTML text that loads nothing from anywhere; the same input gives the same text.

    `curves` has one `{"epoch", "train", "validation"}` a row, `training` the settings of the run that made the network.
    """
    same_data = training.get("dataset_version", evaluation.dataset_version) == evaluation.dataset_version
    whom = "subjects the network never saw" if same_data else "the test subjects"
    shown = [name for name in BESIDE_PICTURES if name in {column.name for column in evaluation.measures}]
    heading, values = f"{evaluation.collection} fusion on {whom}", _pair_values(evaluation, shown)
    titles = [(method.name, method.title) for method in evaluation.methods]
    as_seen = _as_seen(evaluation)
    return render(
        "report.html.j2",
        evaluation=evaluation,
        methods=evaluation.methods,
        candidate=evaluation.candidate,
        synthetic=evaluation.synthetic,
        modalities=evaluation.modalities,
        colour=evaluation.colour,
        heading=heading,
        same_data=same_data,
        columns=[_column(evaluation, column.name) for column in evaluation.measures],
        groups=_groups(evaluation),
        headline=_headline(evaluation),
        rivals=[_rival(evaluation, name) for name in ("average", "maximum", CHAMPION) if _has(evaluation, name)],
        perceptual=str(training.get("perceptual", "unknown")),
        pictures=[for_page(picture, titles, evaluation.candidate) for picture in evaluation.pictures],
        pair_values=values,
        shown=[(column["title"], column["unit"]) for column in map(partial(_column, evaluation), shown)],
        scene=scene_of_pictures(
            heading,
            evaluation.modalities,
            titles,
            evaluation.pictures,
            [_title(evaluation, name) for name in shown],
            values,
            [as_seen] if as_seen else [],
        ),
        as_seen=as_seen,
        curves=[
            draw_curve(title, [(row["epoch"], row["train"][term], row["validation"][term]) for row in curves])
            for term, title in TERMS.items()
        ],
        settings=_settings(evaluation, training),
    )


def _has(evaluation: Evaluation, name: str) -> bool:
    return any(method.name == name for method in evaluation.methods)


def _title(evaluation: Evaluation, name: str) -> Markup:
    return raised(next(column.title for column in evaluation.measures if column.name == name))


def _column(evaluation: Evaluation, name: str) -> dict[str, Any]:
    column = next(column for column in evaluation.measures if column.name == name)
    arrow, meaning = ARROWS[column.direction]
    return {"name": name, "title": _title(evaluation, name), "unit": column.unit, "arrow": arrow, "meaning": meaning}


def _decimals(evaluation: Evaluation, name: str) -> int:
    return 2 if max(abs(method.mean(name)) for method in evaluation.methods) >= 10 else 3


def _groups(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows of the table under their two headings; the best of a column is marked, together with its ties."""
    best = {}
    for column in evaluation.measures:
        pick = max if column.direction == "higher" else min
        best[column.name] = pick(method.mean(column.name) for method in evaluation.methods)

    def row(method: MethodResult) -> dict[str, Any]:
        cells = []
        for column in evaluation.measures:
            mean, decimals = method.mean(column.name), _decimals(evaluation, column.name)
            deviation = number(pstdev(method.per_pair[column.name]), decimals)
            is_best = mean == best[column.name]
            cells.append({"mean": number(mean, decimals), "deviation": deviation, "best": is_best})
        return {"title": method.title, "candidate": method.name == evaluation.candidate, "cells": cells}

    titles = {"network": "The trained network", "champion": "The model to succeed", "baseline": "Baselines"}
    return [
        {"title": titles[kind], "rows": [row(method) for method in methods]}
        for kind, methods in groupby(evaluation.methods, key=lambda method: method.kind)
    ]


def _as_seen(evaluation: Evaluation) -> str:
    """What was done to the images that are shown before any method fused them; empty where nothing was."""
    meaning = {"normalised": "normalised (what became black and white: {})", "resampled": "resampled ({})"}
    done = [meaning.get(what, f"{what} ({{}})").format(how) for what, how in evaluation.prepared.items()]
    return f"The images are shown as every method took them: {', '.join(done)}." if done else ""


def _headline(evaluation: Evaluation) -> dict[str, Any]:
    """Who leads in the headline measure, and where the candidate stands."""
    name = evaluation.headline
    ranking = sorted(evaluation.methods, key=lambda method: -method.mean(name))
    candidate = evaluation.method(evaluation.candidate)
    decimals = _decimals(evaluation, name)
    rank = 1 + sum(method.mean(name) > candidate.mean(name) for method in ranking)
    return {
        "title": _title(evaluation, name),
        "winner": ranking[0].title,
        "winner_value": number(ranking[0].mean(name), decimals),
        "candidate": candidate.title,
        "value": number(candidate.mean(name), decimals),
        "rank": rank,
        "count": len(ranking),
        "wins": rank == 1,
    }


def _rival(evaluation: Evaluation, name: str) -> dict[str, Any]:
    """The candidate against one baseline in the headline measure, in the mean and pair by pair."""
    key = evaluation.headline
    margin, rival = evaluation.margin(name), evaluation.method(name)
    ours = evaluation.method(evaluation.candidate).per_pair[key]
    decimals = _decimals(evaluation, key)
    word = "above" if margin > 0 else "below" if margin < 0 else "level with"
    return {
        "title": rival.title,
        "margin": number(margin, decimals, sign=True),
        "words": f"{number(abs(margin), decimals)} {word}" if margin else word,
        "better": sum(a > b for a, b in zip(ours, rival.per_pair[key], strict=True)),
    }


def _pair_values(evaluation: Evaluation, shown: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """For each pictured pair and method, the values of the measures shown beside the picture, ready to print."""
    return {
        picture.pair: {
            method.name: [
                number(method.per_pair[name][evaluation.pairs.index(picture.pair)], _decimals(evaluation, name))
                for name in shown
            ]
            for method in evaluation.methods
        }
        for picture in evaluation.pictures
    }


def _settings(evaluation: Evaluation, training: dict[str, Any]) -> list[tuple[str, str]]:
    """What went in, as rows to read: data first, then the known settings, then whatever else the training recorded."""
    rows = [("Collection", evaluation.collection), ("Dataset version", evaluation.dataset_version)]
    for split, count in evaluation.splits.items():
        rows.append(
            (
                f"{split.capitalize()} split",
                f"{counted(count['pairs'], 'pair')} of {counted(count['subjects'], 'subject')}",
            )
        )
    rows += [("Measures", f"{evaluation.protocol} protocol"), ("BatchNorm statistics", evaluation.batchnorm)]
    rows += [(label, plain(training[key])) for key, label in SETTINGS.items() if key in training]
    if training.get("dataset_version", evaluation.dataset_version) != evaluation.dataset_version:
        rows.append(("Trained on another dataset version", str(training["dataset_version"])))
    known = {*SETTINGS, "dataset_version", "libraries"}
    rows += [(key.replace("_", " ").capitalize(), plain(value)) for key, value in training.items() if key not in known]
    rows += [(f"Library {name}", str(version)) for name, version in training.get("libraries", {}).items()]
    return rows


def plain(value: object) -> str:
    """A setting as text to read: numbers short, what holds several as a list of them."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)

"""What a batch leaves beside its images: a table of measures, the drift, one page to look at, and the manifest."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from components.batch.chosen import Chosen
from components.batch.drift import find_drift
from components.batch.journal import Journal, Row
from components.batch.pairs import Fault
from components.batch.places import Place
from components.evaluate.page import ARROWS, number, png, raised, render
from model.errors import InputError
from model.images import Picture, join_colour, read_image, to_levels
from model.metrics import MEASURES

MANIFEST = "manifest.json"
SHOWN = 3
_LARGEST = 512


@dataclass(frozen=True)
class Batch:
    """A batch that is done: where from, by which model, and what became of every pair."""

    source: str
    collection: str
    modalities: tuple[str, str]
    model: Chosen
    measures: tuple[str, ...]
    rows: Sequence[Row]
    kept: int
    faults: Sequence[Fault]
    git_commit: str
    code_version: str


def write_summary(batch: Batch, source: Place, journal: Journal, folder: Path) -> dict[str, Any]:
    """Write `measures.csv`, `measures.json`, `drift.json`, `report.html` and, last, `manifest.json`; the manifest.

    They go into `folder` and into the journal's destination. Raises InputError if that cannot be written.
    """
    drift = find_drift(batch.rows, batch.modalities, batch.model)
    manifest = _manifest(batch, drift)
    texts = {
        "measures.csv": _csv(batch),
        "measures.json": json.dumps(_measures(batch), indent=1) + "\n",
        "drift.json": json.dumps(drift, indent=1) + "\n",
        "report.html": _page(batch, drift, manifest, _pictures(batch, source, journal)),
        MANIFEST: json.dumps(manifest, indent=1) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        journal.put(name, text)
    return manifest


def _manifest(batch: Batch, drift: Mapping[str, Any]) -> dict[str, Any]:
    model = batch.model
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": batch.source,
        "collection": batch.collection,
        "model": {
            "asked": model.asked,
            "name": model.name,
            "version": model.version,
            "uri": f"models:/{model.name}/{model.version}" if model.version else "",
            "weights_sha256": model.weights_sha256,
            "config": model.config,
            "learned_from": model.learned_from,
        },
        "code": {
            "version": version("atlas-fusion"),
            "git_commit": batch.git_commit,
            "code_version": batch.code_version,
        },
        "measures": list(batch.measures),
        "pairs": {"fused": len(batch.rows), "kept": batch.kept, "skipped": len(batch.faults)},
        "skipped": [asdict(fault) for fault in batch.faults],
        "drift": {key: drift[key] for key in ("compared_with", "missing", "drifted")},
        "images": [
            {
                "pair": row["pair"],
                "fused": row["fused"],
                "sha256": row["sha256"],
                "sources": dict(zip(row["sources"], row["tags"], strict=True)),
            }
            for row in batch.rows
        ],
    }


def _csv(batch: Batch) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["pair", "fused", "width", "height", *batch.measures])
    for row in batch.rows:
        values = ["" if row["measures"][name] is None else row["measures"][name] for name in batch.measures]
        writer.writerow([row["pair"], row["fused"], row["width"], row["height"], *values])
    return buffer.getvalue()


def _measures(batch: Batch) -> dict[str, Any]:
    """The table as plain JSON values; a measure that an image is too small for, or that is infinite, is null."""
    return {
        "protocol": "standard",
        "measures": [
            {"name": name, "title": MEASURES[name].title, "unit": MEASURES[name].unit} | _spread(batch, name)
            for name in batch.measures
        ],
        "pairs": {row["pair"]: {name: row["measures"][name] for name in batch.measures} for row in batch.rows},
    }


def _spread(batch: Batch, name: str) -> dict[str, Any]:
    values = [row["measures"][name] for row in batch.rows if row["measures"][name] is not None]
    if not values:
        return {"direction": MEASURES[name].direction, "pairs": 0, "mean": None, "least": None, "most": None}
    ends = {"mean": round(fmean(values), 6), "least": min(values), "most": max(values)}
    return {"direction": MEASURES[name].direction, "pairs": len(values), **ends}


def _page(batch: Batch, drift: Mapping[str, Any], manifest: Mapping[str, Any], pictures: list[dict[str, Any]]) -> str:
    measures = [
        each
        | {"title": raised(each["title"]), "arrow": ARROWS[each["direction"]]}
        | {key: "-" if each[key] is None else number(each[key], 4) for key in ("mean", "least", "most")}
        for each in _measures(batch)["measures"]
    ]
    findings = [
        finding | {key: number(finding[key], 4) for key in ("mean", "centre", "margin")}
        for finding in drift["findings"]
    ]
    return render(
        "batch.html.j2",
        Path(__file__).parent,
        batch=batch,
        manifest=manifest,
        made=f"{datetime.fromisoformat(manifest['made']):%Y-%m-%d %H:%M} UTC",
        measures=measures,
        drift=drift,
        findings=findings,
        pictures=pictures,
    )


def _pictures(batch: Batch, source: Place, journal: Journal) -> list[dict[str, Any]]:
    """A few pairs, spread over the batch, with their fused image."""
    places = sorted({round(place) for place in np.linspace(0, len(batch.rows) - 1, SHOWN)})
    shown = []
    for row in (batch.rows[place] for place in places):
        with tempfile.TemporaryDirectory() as scratch:
            files = [source.fetch(name, Path(scratch)) for name in row["sources"]]
            fused = Path(scratch) / "fused.png"
            fused.write_bytes(journal.read(row["fused"]))
            titles = (batch.modalities[0], "Fused", batch.modalities[1])
            try:
                images = [png(_eight_bit(read_image(path))) for path in (files[0], fused, files[1])]
            except InputError:
                continue  # changed since it was fused
        shown.append({"pair": row["pair"], "images": list(zip(titles, images, strict=True))})
    return shown


def _eight_bit(picture: Picture) -> np.ndarray:
    """The picture as uint8, (H, W) or (H, W, 3), no larger than a page shows it."""
    shown = picture.luma[0]
    if picture.chroma is not None:
        shown = join_colour(picture.luma, picture.chroma).movedim(0, -1)
    image = Image.fromarray(to_levels(shown, 8))
    image.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(image)

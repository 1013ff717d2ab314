"""Judge one fused image file beside its two sources: what `fusion measure` prints."""

import math
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.errors import InputError, unknown_choice
from model.images import read_image
from model.metrics import PROTOCOLS, Measure, measure

_ARROWS = {"higher": "\u2191", "lower": "\u2193"}


def measure_files(a: Path, b: Path, fused: Path, protocol: str = "standard") -> dict[str, Any]:
    """All measures of a protocol for the fused image, as plain JSON values; of colour images the luma is judged.

    `measures` holds for each name {"mean", "sum"} over both sources, or one number where the sources are judged
    together or not at all. A value that does not exist or is infinite is None, and `notes` says why, by name. Raises
    InputError for a file that cannot be read, sizes that differ, or an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown_choice("protocol", protocol, PROTOCOLS)
    paths = (a, b, fused)
    lumas = [read_image(path).luma.clamp(0, 1) for path in paths]
    sizes = [f"{luma.shape[2]}x{luma.shape[1]}" for luma in lumas]
    for path, size in zip(paths[1:], sizes[1:], strict=True):
        if size != sizes[0]:
            raise InputError(f"{a} is {sizes[0]}, {path} is {size}; resample one to the other's size")
    side, entries = min(lumas[0].shape[1:]), PROTOCOLS[protocol]
    possible = [name for name, entry in entries.items() if side >= entry.smallest]
    first, second, result = (luma[None] for luma in lumas)
    judged = measure(first, second, result, possible, protocol)
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for name, entry in entries.items():
        if name not in judged:
            values[name] = {"mean": None, "sum": None} if entry.per_source else None
            notes[name] = f"needs at least {entry.smallest}x{entry.smallest} pixels; these images have {sizes[0]}"
            continue
        values[name], infinite = _plain(judged[name])
        if infinite:
            notes[name] = f"infinite: the fused image equals {_equal(lumas, paths)}"
    if protocol == "poster":
        notes["en"] = "over the values in the file; the poster's were those of floats before they were stored"
    return {"protocol": protocol, "measures": values, "notes": notes}


def print_measures(result: dict[str, Any]) -> None:
    """The table of what `measure_files` gives, its notes below; made for 80 columns."""
    console = Console(highlight=False)
    table = Table(title=f"{result['protocol']} protocol", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("measure", "", "mean", "sum", "unit"):
        table.add_column(heading, justify="right" if heading in ("mean", "sum") else "left", no_wrap=True)
    notes = result["notes"]
    marks = {name: f"[{number}]" for number, name in enumerate(notes, start=1)}
    for name, entry in PROTOCOLS[result["protocol"]].items():
        value = result["measures"][name]
        pair = (value["mean"], value["sum"]) if isinstance(value, dict) else (value, "")
        mean, total = (part if isinstance(part, str) else _shown(part) for part in pair)
        table.add_row(_title(entry, marks.get(name, "")), _ARROWS[entry.direction], mean, total, entry.unit)
    console.print(table, markup=False)
    console.print("\u2191 higher is better; mean and sum are over the two sources, one number judges both or neither")
    for name, note in notes.items():
        console.print(f"{marks[name]} {note}", soft_wrap=True, markup=False)


def _title(entry: Measure, mark: str) -> str:
    return f"{entry.title} {mark}".rstrip()


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _plain(measured: dict[str, Tensor] | Tensor) -> tuple[Any, bool]:
    """The numbers of one pair, None for infinite ones, and whether there were any."""
    if isinstance(measured, dict):
        numbers = {key: _finite(value) for key, value in measured.items()}
        return numbers, None in numbers.values()
    number = _finite(measured)
    return number, number is None


def _finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None


def _equal(lumas: list[Tensor], paths: tuple[Path, ...]) -> str:
    *sources, fused = lumas
    same = [str(path) for path, source in zip(paths, sources, strict=False) if torch.equal(source, fused)]
    return " and ".join(same)

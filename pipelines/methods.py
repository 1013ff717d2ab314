"""What a person or a program is told of the fusion methods: `fusion methods`."""

from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.errors import InputError
from model.methods import METHODS, SPLITS, Method, Resources, Split

_VGG = "VGG19 does not ship: it comes from the model zoo, once and checked, or from a safetensors file that you give"
_WORDS = {True: "yes", False: "no", None: "-"}


def describe() -> list[dict[str, Any]]:
    """Every method in the order of tables: name, title, kind, citation, needs, and for each split whether its weights
    ship: true, false with the reason, or null where it needs none."""
    return [
        {
            "name": method.name,
            "title": method.title,
            "kind": method.kind,
            "citation": method.citation,
            "needs": method.needs,
            "weights": {
                split: dict(zip(("shipped", "reason"), _shipped(method, split), strict=True)) for split in SPLITS
            },
        }
        for method in METHODS.values()
    ]


def _shipped(method: Method, split: Split) -> tuple[bool | None, str]:
    if method.needs == "nothing":
        return None, ""
    if not method.trained:
        return False, _VGG
    try:
        method.load(Resources(split=split))
    except InputError as error:
        return False, str(error)
    return True, ""


def print_methods(methods: list[dict[str, Any]]) -> None:
    """The table of what `describe` gives, with the reasons and the references below it; made for 80 columns."""
    console = Console(highlight=False)
    sources = list(dict.fromkeys(method["citation"] for method in methods))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("method")
    for split in SPLITS:
        table.add_column(split)
    table.add_column("ref.", justify="right")
    for needs, group in groupby(methods, key=lambda method: method["needs"]):
        table.add_section()
        table.add_row(f"needs {needs}", style="bold")
        for method in group:
            words = (_WORDS[method["weights"][split]["shipped"]] for split in SPLITS)
            table.add_row(method["name"], method["title"], *words, str(sources.index(method["citation"]) + 1))
    console.print("Fusion methods; which weights ship, by the split they were trained on\n", style="bold")
    console.print(table)
    reasons = dict.fromkeys(method["weights"][split]["reason"] for method in methods for split in SPLITS)
    _print_list(console, "No weights", {"-": [reason for reason in reasons if reason]})
    _print_list(console, "References", {str(number): [source] for number, source in enumerate(sources, 1)})


def _print_list(console: Console, title: str, entries: dict[str, list[str]]) -> None:
    if not any(entries.values()):
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right")
    grid.add_column()
    for mark, lines in entries.items():
        for line in lines:
            grid.add_row(mark, line)
    console.print(f"\n{title}", style="bold")
    console.print(grid)

"""How runs and schedules at Kubeflow are shown: tables, lines with a head, and the settings that both have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from model.errors import one_line

if TYPE_CHECKING:
    import kfp_server_api as kfp


@dataclass(frozen=True)
class Settings:
    """What is run; `version_id` is "" for the latest version, the ids are "" where Kubeflow names none."""

    pipeline_id: str
    version_id: str
    parameters: dict[str, Any]


def settings_of(thing: "kfp.V2beta1Run | kfp.V2beta1RecurringRun") -> Settings:
    """The settings of a run or a schedule, its parameters by name."""
    reference, config = thing.pipeline_version_reference, thing.runtime_config
    parameters = dict(sorted(((config.parameters if config else None) or {}).items()))
    if not reference:
        return Settings("", "", parameters)
    return Settings(reference.pipeline_id or "", reference.pipeline_version_id or "", parameters)


def new_console(err: bool = False) -> Console:
    """A console that prints text as it is, on standard error if `err`."""
    return Console(highlight=False, markup=False, stderr=err)


def new_table(*columns: str, whole: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    """A table of these columns; those `whole` or `right` are never folded, those `right` end at the right."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in (*whole, *right),
        )
    return table


def print_lines(console: Console, **lines: str) -> None:
    """A line for each, behind its name."""
    for head, text in lines.items():
        console.print(f"{head:<11}{one_line(text)}", soft_wrap=True)

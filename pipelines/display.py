"""What a person sees of a run: live bars while it goes, and a short summary at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.local import Event, RunResult

BAR_COLUMNS = (
    TextColumn("{task.description:<12}"),
    BarColumn(bar_width=30),
    MofNCompleteColumn(),
    TextColumn("{task.fields[note]}"),
    TimeElapsedColumn(),
)

# What fits beside the methods' names in 80 columns; the report and table.csv have every measure.
SUMMARISED = ("ssim", "scd", "vif", "qabf")


class LiveSteps:
    """Shows each step of a run as it goes: a live bar on a terminal, one line a step elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        live = self._console.is_terminal
        self._progress = Progress(*BAR_COLUMNS, console=self._console, transient=True, disable=not live)
        self._task: TaskID | None = None

    def __enter__(self) -> "LiveSteps":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def tell(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "started":
            self._task = self._progress.add_task(event.step, total=None, note="")
        elif event.kind == "progress" and self._task is not None:
            self._progress.update(self._task, completed=event.done, total=event.total, note=event.note)
        elif event.kind in ("finished", "cached"):
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            how = "unchanged, from the cache" if event.kind == "cached" else f"done in {event.seconds:.1f} s"
            self._console.print(f"{event.step:<12} {how}")


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[..., None]]:
    """A live bar for work that reports `(done, total)`, or `(done, total, note)`."""
    console = Console(stderr=True)
    with Progress(*BAR_COLUMNS, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None, note="")
        yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)


def print_summary(result: RunResult) -> None:
    """The table, the gate's word, and where everything is."""
    console = Console(highlight=False)
    table, made = result.table, result.registration
    grid = Table(
        title=f"Held-out subjects {', '.join(table['subjects'])}: {len(table['pairs'])} pairs", title_justify="left"
    )
    grid.add_column("method", no_wrap=True)
    measures = [measure for measure in table["measures"] if measure["name"] in SUMMARISED]
    for measure in measures:
        grid.add_column(measure["title"], justify="right")
    for method in table["methods"]:
        style = "bold" if method["name"] == table["candidate"] else None
        values = (method["means"][measure["name"]] for measure in measures)
        grid.add_row(method["title"], *(f"{value:.3f}" for value in values), style=style)
    console.print(grid)
    standing = " and ".join(made["aliases"]) or "no alias"
    again = ", registered before" if made["already_registered"] else ""
    if result.why:
        console.print(f"new       {result.why}", soft_wrap=True, markup=False)
    console.print(f"gate      {'promoted' if made['promoted'] else 'not promoted'}: {made['reason']}", soft_wrap=True)
    console.print(f"model     {made['model_name']} version {made['version']} ({standing}{again})")
    for name, place in (
        ("checks", result.folder / "gate.md"),
        ("report", result.folder / "report.html"),
        ("data docs", result.folder / "data-docs.html"),
        ("MLflow", f"{made['tracking_uri']} (`fusion ui` or `make ui` shows it)"),
    ):
        console.print(f"{name:<9} {place}", soft_wrap=True, markup=False)
    cached = f", {len(result.cached)} steps from the cache" if result.cached else ""
    console.print(f"all done in {result.seconds:.0f} s{cached}")

"""What a person sees of a search: a live bar for each trial that runs, and the table of all at its end."""

from threading import Lock
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from components.sweep.grid import shown
from components.sweep.outcome import Outcome
from components.sweep.running import Told
from components.sweep.score import title
from pipelines.display import BAR_COLUMNS
from pipelines.search import SearchResult


class LiveTrials:
    """Shows a search as it goes: live bars on a terminal, one line a trial everywhere."""

    def __init__(self, trials: int) -> None:
        self._console, self._trials, self._guard = Console(highlight=False), trials, Lock()
        live = self._console.is_terminal
        self._progress = Progress(*BAR_COLUMNS, console=self._console, transient=True, disable=not live)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "LiveTrials":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, step: str, done: int, total: int, note: str) -> None:
        """Show how far a step beside the trials is."""
        self._show(step, done, total, note)
        if done >= total:
            self._remove(step)

    def trial(self, number: int) -> Told:
        """What shows how far the trial of that number is."""
        return lambda step, done, total, note: self._show(f"trial {number}", done, total, note)

    def ended(self, outcome: Outcome, so_far: int) -> None:
        """Say how a trial ended."""
        self._remove(f"trial {outcome.trial.number}")
        told = f"failed: {outcome.reason}" if outcome.value is None else f"{outcome.value:.4f}"
        line = f"trial {outcome.trial.number:<4} {outcome.trial.name}: {told} ({so_far} of {self._trials})"
        self._console.print(line, soft_wrap=True, markup=False)

    def say(self, line: str) -> None:
        """Say something else."""
        self._console.print(line, soft_wrap=True, markup=False)

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        with self._guard:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, note="")
            self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def _remove(self, name: str) -> None:
        with self._guard:
            if (task := self._tasks.pop(name, None)) is not None:
                self._progress.remove_task(task)


def print_search(result: SearchResult) -> None:
    """Every trial, which is the best, what it reached on the test subjects, and where everything is."""
    console, search = Console(highlight=False), result.search
    axes = [name for name, values in search.grid.items() if len(values) > 1]
    grid = Table(title=f"Trials by {title(search.measure)} on the validation subjects", title_justify="left")
    grid.add_column("trial", justify="right")
    for name in axes:
        grid.add_column(name, justify="right")
    for name in (title(search.measure), "loss", "seconds"):
        grid.add_column(name, justify="right")
    for outcome in search.outcomes:
        cells = [str(outcome.trial.number), *(shown(outcome.trial.choices[name]) for name in axes)]
        if outcome.value is None:
            cells += ["failed", "", ""]
        else:
            cells += [f"{outcome.value:.4f}", f"{outcome.facts['loss']:.4g}", f"{outcome.facts['seconds']:.0f}"]
        grid.add_row(*cells, style="bold" if outcome is search.best else None)
    console.print(grid)
    for outcome in search.outcomes:
        if outcome.value is None:
            console.print(f"trial {outcome.trial.number:<4} failed: {outcome.reason}", soft_wrap=True, markup=False)
    candidate = next(each for each in result.table["methods"] if each["name"] == result.table["candidate"])
    means = ", ".join(f"{name} {candidate['means'][name]:.4f}" for name in ("qabf", "ssim", "vif", "scd"))
    console.print(f"best      trial {search.best.trial.number}: {search.best.trial.name}", soft_wrap=True, markup=False)
    console.print(f"test      subjects {', '.join(result.table['subjects'])}: {means}", soft_wrap=True, markup=False)
    if made := result.registration:
        console.print(
            f"gate      {'promoted' if made['promoted'] else 'not promoted'}: {made['reason']}", soft_wrap=True
        )
        standing = " and ".join(made["aliases"]) or "no alias"
        console.print(f"registry  {made['model_name']} version {made['version']} ({standing})", soft_wrap=True)
    places = {"trials": "trials.csv", "model": "model", "report": "evaluation/report.html"}
    for name, place in places.items():
        console.print(f"{name:<9} {result.folder / place}", soft_wrap=True, markup=False)
    console.print(f"all done in {result.seconds:.0f} s")

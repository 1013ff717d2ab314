"""Draw the picture of `fusion runs` in the documentation: its tables of made-up runs, by headless Chromium.

python -m benchmarks.runs_picture -o docs/runs.png
"""

import argparse
import io
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kfp_server_api as kfp
from PIL import Image
from rich.console import Console

from model.images import write_atomically
from pipelines.kubeflow.runs_display import print_run, print_runs

WIDTH, HEIGHT, COLUMNS = 1240, 860, 116
COLOURS = 48  # as many as keep the picture small
BEGAN = datetime(2026, 11, 23, 2, 30, tzinfo=UTC)
EXPERIMENT = "5b1f0a52-8f5e-4d0e-9d0b-2f3c1a7e6b90"
KILLED = "OOMKilled (exit code 137)"
PAGE = "https://kubeflow.example.org/pipeline/#/runs/details/"


def task(name: str, state: str, begin: int, seconds: int, children: str = "", error: str = "") -> Any:
    """A task as Kubeflow lists it, from `begin` seconds after the run's own begin."""
    at = BEGAN + timedelta(seconds=begin)
    return kfp.V2beta1PipelineTaskDetail(
        task_id=f"{name}-{begin}",
        display_name=name,
        state=state,
        start_time=at,
        end_time=at + timedelta(seconds=seconds),
        child_tasks=[kfp.PipelineTaskDetailChildTask(task_id=children)] if children else None,
        error=kfp.GoogleRpcStatus(message=error) if error else None,
    )


def run(number: int, state: str, days: int, seconds: int, tasks: list[Any] | None = None) -> Any:
    """A run of some days ago that took so many seconds."""
    began = BEGAN - timedelta(days=days)
    return kfp.V2beta1Run(
        run_id=f"7c9e{number:04d}-41d3-4b0f-8a55-0c1d2e3f4a5b",
        display_name="training 69132be0c5d1",
        experiment_id=EXPERIMENT,
        state=state,
        created_at=began,
        finished_at=began + timedelta(seconds=seconds),
        runtime_config=kfp.V2beta1RuntimeConfig(parameters={"epochs": 30, "collection": "CT-MRI", "split": "fold:2/5"}),
        run_details=kfp.V2beta1RunDetails(task_details=tasks),
    )


def drawn() -> str:
    """Both tables as SVG."""
    failed = [
        *(task(f"{name}-driver", "SUCCEEDED", 0, 4) for name in ("ingest", "validate", "preprocess", "train")),
        task("ingest", "SUCCEEDED", 4, 21, "executor-5"),
        task("executor", "SKIPPED", 5, 1),
        task("validate", "SUCCEEDED", 26, 44),
        task("preprocess", "SUCCEEDED", 72, 18),
        task("train", "FAILED", 92, 310, error=KILLED),
    ]
    runs = [
        run(4, "FAILED", 0, 402, failed),
        run(3, "SUCCEEDED", 7, 5520),
        run(2, "CANCELED", 9, 130),
        run(1, "SUCCEEDED", 14, 5410),
    ]
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), highlight=False, markup=False, force_terminal=True
    )
    console.print("$ fusion runs list")
    print_runs(runs, {EXPERIMENT: "atlas-fusion"}, more=False, console=console)
    console.print(f"\n$ fusion runs show {runs[0].run_id}")
    print_run(runs[0], "atlas-fusion", f"{PAGE}{runs[0].run_id}", console=console)
    return console.export_svg(title="fusion runs")


def photograph(svg: str, executable: str) -> Image.Image:
    """The SVG as a browser shows it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        opened.set_content(f'<body style="margin:0">{svg}</body>')
        shot = Image.open(io.BytesIO(opened.locator("svg").first.screenshot()))
        browser.close()
    return shot.convert("RGB").quantize(COLOURS)


def main() -> None:
    """Read the command line, draw, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    executable = shutil.which("chromium")
    if not executable:
        sys.exit("error: no Chromium on the PATH; install it (apt-get install chromium)")
    shot = photograph(drawn(), executable)
    write_atomically(given.output, lambda partial: shot.save(partial, optimize=True))
    print(f"wrote {given.output}")


if __name__ == "__main__":
    main()

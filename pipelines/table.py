"""Compare fusion methods on a data folder and write the table: `fusion table`."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console

from components.code import code_version, git_commit
from components.evaluate.comparison import compare
from components.evaluate.contenders import Protocol, contenders
from components.evaluate.table import check_target, write_table
from components.evaluate.table_facts import title
from components.ingest.dataset import COLLECTION, PHANTOM, check_folder
from components.ingest.phantom import PhantomConfig, write_phantom
from model.errors import InputError, unknown_choice
from model.methods import Resources, Split
from pipelines.display import progress_bar

_DATA = Path("data")
_SPLIT_OF: dict[Protocol, Split] = {"standard": "subject", "poster": "paper"}


def make_table(
    output: Path,
    protocol: str,
    data: str | None,
    methods: str | None,
    split: str | None,
    vgg: Path | None,
    published: Path | None,
) -> None:
    """Compare the methods and write their table to the folder `output`; raises InputError for what the user can mend.

    `methods` is comma-separated (None: the protocol's own), `data` a folder or "phantom" (None: `data/` if it holds the
    atlas, else the phantom).
    """
    start, console = time.monotonic(), Console(stderr=True, highlight=False)
    if protocol not in get_args(Protocol):
        raise unknown_choice("protocol", protocol, get_args(Protocol))
    # The poster's EN counts distinct floats, so it sees rounding that differs from pixel to pixel.
    fast = protocol != "poster"
    resources = Resources(split or _SPLIT_OF[protocol], vgg, fast=fast)  # type: ignore[index, arg-type]
    names = [name.strip() for name in methods.split(",") if name.strip()] if methods is not None else None
    competing = contenders(protocol, resources, names, published)  # type: ignore[arg-type]
    check_target(output)
    given = data or (str(_DATA) if (_DATA / COLLECTION).is_dir() else PHANTOM)
    name = "the phantom" if given == PHANTOM else given
    with _data_folder(given, resources.split) as folder, progress_bar("table") as advance:
        if data is None:
            console.print(f"no --data given: comparing on {name}", markup=False)
        result = compare(
            folder,
            name,
            protocol,  # type: ignore[arg-type]
            resources,
            competing,
            synthetic=given == PHANTOM,
            facts={
                "Code": f"{code_version()} (commit {git_commit()})",
                "Machine": _machine(),
                "Date": str(date.today()),
            },
            progress=advance,
        )
    write_table(result, output)
    print(f"{title(result)}: {len(result.ran)} of {len(result.rows)} methods in {time.monotonic() - start:.0f} s")
    for reason, rows in result.missing.items():
        print(f"not run: {', '.join(row.contender.name for row in rows)}: {reason}")
    print(f"wrote {output / 'table.html'} (and table.md, table.csv, per_pair.csv, table.json beside it)")


@contextmanager
def _data_folder(data: str, split: Split) -> Iterator[Path]:
    """The folder with the images; the phantom's exists only while it is used."""
    if data != PHANTOM:
        yield check_folder(Path(data))
        return
    if split == "paper":
        raise InputError("the phantom holds none of the paper's test pairs; give the folder of the atlas by --data")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / PHANTOM
        with progress_bar("phantom") as advance:
            write_phantom(folder, PhantomConfig(), advance)
        yield folder


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()

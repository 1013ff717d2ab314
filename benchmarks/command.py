"""`fusion fuse` of one 256x256 pair: the whole process, and what it does beside the network.

python -m benchmarks.command [--json] [--model FOLDER]

In one process and in turn: the network alone on images in memory, and everything from the two files to the third;
`ratio` is the median of the second over that of the first. Then the command itself, from its start to its end.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.fusion import phantom
from model.fuser import SHIPPED_MODEL, Fuser
from model.images import Picture, read_image, write_image
from pipelines.fuse import fuse_files

ROUNDS = 15
PROCESSES = 5


def seconds(work: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(folder: Path, model: Path) -> dict[str, Any]:
    """The figures, of a pair that is written to `folder` first."""
    a, b, out = (folder / f"{name}.png" for name in ("ct", "mri", "fused"))
    for path, image in zip((a, b), phantom(1), strict=True):
        write_image(path, Picture(image[0], None, 8))
    pair, fuser = [read_image(path).luma[None] for path in (a, b)], Fuser.load(model)
    sides = {
        "network": lambda: fuser.fuse(*pair),
        "files": lambda: fuse_files(a, b, out, str(model), None, None, folder),
    }
    for work in sides.values():
        work()
    rounds = [{name: seconds(work) for name, work in sides.items()} for _ in range(ROUNDS)]
    medians = {name: median(round_[name] for round_ in rounds) for name in sides}
    command = [sys.executable, "-m", "pipelines.cli", "fuse", str(a), str(b), "-o", str(out), "--model", str(model)]
    whole = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(PROCESSES)]
    return {
        "network_ms": medians["network"] * 1e3,
        "files_ms": medians["files"] * 1e3,
        "ratio": median(round_["files"] / round_["network"] for round_ in rounds),
        "process_s": {"fastest": min(whole), "median": median(whole), "slowest": max(whole)},
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL, help="model folder; default: the one that ships")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.model)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    process = result["process_s"]
    print(f"fusion fuse of one 256x256 pair, {result['threads']} threads ({result['machine']})")
    print(f"  network alone            {result['network_ms']:7.1f} ms")
    print(f"  from files to a file     {result['files_ms']:7.1f} ms   {result['ratio']:.2f} times the network")
    print(
        f"  the command as a whole   {process['median']:7.2f} s    {process['fastest']:.2f} to {process['slowest']:.2f}"
        f" of {PROCESSES}"
    )


if __name__ == "__main__":
    main()

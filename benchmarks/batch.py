"""A folder of pairs fused by `fusion batch`, against the network alone on the same pairs in memory.

python -m benchmarks.batch [--json] [--pairs 184] [--rounds 3] [--model FOLDER] [--device cpu]

Both run in turn in one process, on the threads that torch takes; `ratio` is the batch's rate over the network's, of the
median of the rounds; `processor ratio` is the same of processor seconds, which other work on the machine disturbs less.
The batch reads PNG files, fuses, writes PNG files and notes what is done, without measures;
`with measures` also judges every pair by the default ones.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch

from components.batch.fusing import DEFAULT_MEASURES, fuse_pairs
from components.batch.journal import Journal
from components.batch.pairs import find_pairs
from components.batch.places import FolderPlace
from components.ingest.phantom import PhantomConfig, write_phantom
from model.fuser import SHIPPED_MODEL, Fuser
from model.images import read_grey

SLICES = 23


def compare(folder: Path, pairs: int, rounds: int, fuser: Fuser) -> dict[str, Any]:
    """Pairs a second of the network alone, of the batch, and of the batch with measures."""
    write_phantom(folder / "in", PhantomConfig(subjects=-(-pairs // SLICES), slices=SLICES))
    source = FolderPlace(folder / "in")
    found = find_pairs(source.names("CT-MRI/"), "CT-MRI", "here")[0][:pairs]
    a, b = (torch.stack([read_grey(folder / "in" / getattr(pair, side)) for pair in found]) for side in "ab")

    def batch(names: tuple[str, ...]) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        fuse_pairs(found, source, Journal(FolderPlace(folder / "out"), "CT-MRI", {}), fuser, names)

    seconds, processor = _medians(
        {
            "network alone": lambda: fuser.fuse(a, b).cpu(),
            "batch": partial(batch, ()),
            "batch with measures": partial(batch, DEFAULT_MEASURES),
        },
        rounds,
    )
    return {
        "ratio": seconds["network alone"] / seconds["batch"],
        "processor ratio": processor["network alone"] / processor["batch"],
        "pairs a second": {name: len(found) / value for name, value in seconds.items()},
        "pairs": len(found),
        "rounds": rounds,
        "device": str(fuser.device),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def _medians(functions: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The median seconds and processor seconds of each function, all in turn each round; the first one warms up."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start, busy = perf_counter(), process_time()
            function()
            if number:
                spent[name].append((perf_counter() - start, process_time() - busy))
    seconds, processor = (
        {name: median(values[clock] for values in rounds) for name, rounds in spent.items()} for clock in (0, 1)
    )
    return seconds, processor


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--pairs", type=int, default=184, help="how many pairs of 256x256 pixels")
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds count")
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL, help="model folder; default: the shipped model")
    parser.add_argument("--device", default="cpu", help="where to run: cpu or cuda")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        result = compare(Path(folder), given.pairs, given.rounds, Fuser.load(given.model, device=given.device))
    if given.json:
        print(json.dumps(result, indent=2))
        return
    where = f"{result['device']}, {result['threads']} threads ({result['machine']})"
    print(f"{result['pairs']} pairs of 256x256, {result['rounds']} rounds on {where}")
    for name, value in result["pairs a second"].items():
        print(f"  {name:<24}{value:8.2f} pairs/s")
    print(f"  {'batch / network alone':<24}{result['ratio']:8.3f}")
    print(f"  {'of processor seconds':<24}{result['processor ratio']:8.3f}")


if __name__ == "__main__":
    main()

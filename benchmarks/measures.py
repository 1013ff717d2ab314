"""Time every measure on one 256x256 pair and on a batch of 20, and tell the memory that they take.

python -m benchmarks.measures [--json] [--protocol poster] [--device cuda]

The measured pairs are slices of a phantom head and their average. One pair is judged alone and as a share of the batch
in turn, in one process, on the threads that torch takes.
"""

import argparse
import json
import platform
import resource
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.fusion import SIZE, medians, phantom
from model.metrics import PROTOCOLS, measure

BATCH = 20
ROUNDS = 5


def compare(protocol: str, device: str) -> dict[str, Any]:
    """Seconds of each measure, of all for one pair and for a pair of a batch, and the memory that a batch adds."""
    a, b = (images.to(device) for images in phantom(BATCH))
    fused = (a + b) / 2
    one = a[:1], b[:1], fused[:1]
    before = time.perf_counter()
    measure(*one, protocol=protocol)
    first = time.perf_counter() - before
    names = list(PROTOCOLS[protocol])
    functions = {name: partial(measure, *one, [name], protocol) for name in names}
    functions |= {"one pair": partial(measure, *one, None, protocol)}
    functions |= {"batch": partial(measure, a, b, fused, None, protocol)}
    seconds = medians(functions, ROUNDS)
    return {
        "seconds": {name: seconds[name] for name in names},
        "one pair": seconds["one pair"],
        "a pair of a batch": seconds["batch"] / BATCH,
        "batch": BATCH,
        "first call": first,
        "memory of the batch MB": round(_added_memory(functions["batch"], device) / 2**20),
        "protocol": protocol,
        "size": SIZE,
        "device": device,
        "threads": torch.get_num_threads(),
        "peak memory MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def _added_memory(work: partial[Any], device: str) -> int:
    """How many bytes more than before are held at the worst moment of the work."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    held, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            held.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(held) - held[0]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="standard", help="whose definitions")
    parser.add_argument("--device", default="cpu", help="where to run: cpu or cuda")
    given = parser.parse_args()
    result = compare(given.protocol, given.device)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{given.protocol} measures of one {SIZE}x{SIZE} pair on {given.device}, {result['threads']} threads "
        f"({result['machine']})"
    )
    for name, value in result["seconds"].items():
        print(f"  {name:<24}{value * 1e3:9.1f} ms")
    print(f"  {'all, one pair':<24}{result['one pair'] * 1e3:9.1f} ms")
    print(f"  {f'all, a pair of {BATCH}':<24}{result['a pair of a batch'] * 1e3:9.1f} ms")
    print(f"  {'all, first call':<24}{result['first call'] * 1e3:9.1f} ms, with the tables and filters that are kept")
    print(f"  {f'memory of {BATCH} pairs':<24}{result['memory of the batch MB']:9d} MB beside the images")
    print(f"  {'peak memory':<24}{result['peak memory MB']:9d} MB, torch included")


if __name__ == "__main__":
    main()

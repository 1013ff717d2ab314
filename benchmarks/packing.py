"""Time and memory of packing, by the number of pairs, and of reading packed pairs beside decoding their PNG files.

python -m benchmarks.packing [--json] [--pairs 1000 10000 100000] [--folder DIR]

The pairs are 64x64, of 100 subjects: hard links to 64 drawings of heads, written anew for each number of pairs into a
folder that is removed afterwards (100,000 pairs take 0.9 GB). Each number of pairs is packed in a process of its own,
whose peak memory is told beside that of one which has only imported what packing needs.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from components.ingest.dataset import MANIFEST_COLUMNS
from components.ingest.phantom import PhantomConfig, write_phantom
from components.preprocess.registration import register_rigid
from model.images import read_grey_bytes
from model.pairs import PackedPairs

SIZE = 64
SUBJECTS = 100
DRAWINGS = 64
READ = 4096
BATCH = 8
MODALITIES = ("CT", "MRI")

# The last line of its output is [seconds of the clock, of a processor, bytes]; progress lines come before.
_CHILD = """
import json, sys, time
from pathlib import Path
from benchmarks.packing import peak_memory
from components.preprocess.packing import pack
start, used = time.perf_counter(), time.process_time()
if len(sys.argv) > 1:
    pack(Path(sys.argv[1]), "subject", 0, Path(sys.argv[2]))
print(json.dumps([time.perf_counter() - start, time.process_time() - used, peak_memory()]))
"""


def write_pairs(count: int, folder: Path) -> None:
    """An ingested dataset of `count` pairs in `folder`; its images are links to few files, whose content does not
    matter here."""
    drawn = folder.with_name("drawn")
    if not drawn.exists():
        write_phantom(drawn, PhantomConfig(subjects=8, slices=DRAWINGS // 8, size=SIZE))
    with _created(folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        for modality in MODALITIES:
            sources = sorted((drawn / "CT-MRI" / modality).iterdir())
            home = folder / "CT-MRI" / modality
            home.mkdir(parents=True)
            for number in range(count):
                subject, place = 1000 + number % SUBJECTS, number // SUBJECTS
                name = f"{subject}{place:04d}"
                os.link(sources[number % DRAWINGS], home / f"{name}.png")
                writer.writerow(
                    (f"CT-MRI/{modality}/{name}.png", "CT-MRI", modality, name, subject, place, 0, "0" * 32)
                )
    facts = {"version": "0" * 32 + ".dir", "source": "made up", "collection": "CT-MRI", "modalities": MODALITIES}
    (folder / "dataset.json").write_text(json.dumps(facts))


def measure(count: int, scratch: Path, baseline: int) -> dict[str, Any]:
    """Pack `count` pairs in a process of its own, then read some of them both ways; what it took."""
    with TemporaryDirectory(dir=scratch) as parent:
        dataset, packed = Path(parent) / "dataset", Path(parent) / "packed"
        write_pairs(count, dataset)
        seconds, used, peak = run_alone(str(dataset), str(packed))
        index = packed / "index.json"
        shards = [path.stat().st_size for path in packed.glob("*.npy")]
        return {
            "pairs": count,
            "seconds": seconds,
            "CPU ms a pair": used / count * 1e3,
            "peak memory MB": (peak - baseline) / 2**20,
            "bytes of names a pair": index.stat().st_size / count,
            "packed MB": sum(shards) / 2**20,
            "shards": len(shards),
            **read_both(dataset, packed),
        }


def read_both(dataset: Path, packed: Path) -> dict[str, float]:
    """Microseconds of a processor that a random training pair takes: in batches by memory map, and decoded from PNG.

    Both are in the memory of the system, as they are from the second epoch on.
    """
    pairs = PackedPairs.open(packed, "train")
    order = np.random.default_rng(0).permutation(len(pairs))[:READ].tolist()
    folders = [dataset / "CT-MRI" / modality for modality in MODALITIES]

    def mapped() -> None:
        for start in range(0, len(order), BATCH):
            pairs.batch(order[start : start + BATCH])

    def decoded() -> None:
        for at in order:
            np.stack([read_grey_bytes(folder / f"{pairs.entries[at]['name']}.png") for folder in folders])

    seconds = {}
    for name, read in (("mapped us a pair", mapped), ("decoded us a pair", decoded)):
        read()
        start = time.process_time()
        read()
        seconds[name] = (time.process_time() - start) / len(order) * 1e6
    return seconds


def register_seconds(scratch: Path, size: int = 256) -> float:
    """Seconds of a processor that registering a pair of phantom slices takes, the mean over eight."""
    write_phantom(scratch / "heads", PhantomConfig(subjects=2, slices=4, size=size))
    homes = [sorted((scratch / "heads" / "CT-MRI" / modality).iterdir()) for modality in MODALITIES]
    slices = [(read_grey_bytes(a), read_grey_bytes(b)) for a, b in zip(*homes, strict=True)]
    register_rigid(*slices[0])
    start = time.process_time()
    for pair in slices:
        register_rigid(*pair)
    return (time.process_time() - start) / len(slices)


def run_alone(*arguments: str) -> tuple[float, float, int]:
    """Seconds of the clock and of a processor, and peak bytes, that packing takes in a process of its own.

    Without arguments it only imports what packing needs.
    """
    done = subprocess.run([sys.executable, "-c", _CHILD, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    seconds, used, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, used, peak


def peak_memory() -> int:
    """The most memory in bytes that this process has held; the kernel's ru_maxrss would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _created(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10000], help="numbers of pairs")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    given = parser.parse_args()
    _, _, baseline = run_alone()
    if not given.json:
        print(f"Packing pairs of {SIZE}x{SIZE}; memory is beyond the {baseline / 2**20:.0f} MB of the imports")
        print(
            "     pairs  seconds  CPU ms a pair  peak MB  index bytes a pair  packed MB  shards  read: mapped  decoded"
        )
    rows = []
    with TemporaryDirectory(dir=given.folder) as scratch:
        for count in given.pairs:
            rows.append(measure(count, Path(scratch), baseline))
            if not given.json:
                print(_line(rows[-1]), flush=True)
        registration = register_seconds(Path(scratch))
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        facts = {"imports MB": baseline / 2**20, "size": SIZE, "machine": machine, "register CPU s": registration}
        print(json.dumps(facts | {"rows": rows}, indent=2))
    else:
        print(f"Registering a pair of 256x256, on request: {registration:.2f} CPU s")


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['pairs']:10d}{row['seconds']:9.1f}{row['CPU ms a pair']:15.3f}{row['peak memory MB']:9.1f}"
        f"{row['bytes of names a pair']:20.0f}{row['packed MB']:11.0f}{row['shards']:8d}"
        f"{row['mapped us a pair']:11.1f} us{row['decoded us a pair']:6.0f} us"
    )


if __name__ == "__main__":
    main()

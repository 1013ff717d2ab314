"""`fusion fuse` of 256x256 pairs: the whole process of one, and what it does beside the network for one and for many.

python -m benchmarks.command [--json] [--model FOLDER] [--pairs 184]

In one process and in turn: the network alone on images in memory, warm and for the first pair after it was loaded, and
everything from the two files to the third, loading included; `ratio` is the median of the last over the second, since a
command fuses one pair. Then the command itself, from its start to its end, with the model folder and, in turn, with the
same model as the champion of a local registry, fetched before; and two
folders of pairs beside the same pairs in memory, as one batch, whose pairs a second they reach a share of.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.fusion import phantom
from model.fuser import SHIPPED_MODEL, Fuser
from model.images import Picture, read_image, write_image
from pipelines.fuse import fuse_files
from pipelines.fuse_folders import fuse_folders
from pipelines.local import local_tracking_uri

ROUNDS = 15
PROCESSES = 5
FOLDER_ROUNDS = 3
SLICES = 24  # of the phantom; more pairs are these again


def seconds(work: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_folders(folder: Path, model: Path, count: int) -> dict[str, Any]:
    """Pairs a second of two folders of `count` pairs, and of the same images in memory; the folders' share of those."""
    images, fuser = phantom(min(count, SLICES)), Fuser.load(model)
    for name, stack in zip(("a", "b"), images, strict=True):
        (folder / name).mkdir()
        for index in range(count):
            write_image(folder / name / f"{index}.png", Picture(stack[index % len(stack)], None, 8))
    pair = [stack[torch.arange(count) % len(stack)] for stack in images]
    fuser.fuse(*(stack[:1] for stack in pair))

    def fuse_into(out: Path) -> None:
        fuse_folders(folder / "a", folder / "b", out, lambda: fuser, lambda *_: None)

    batch, files = [], []
    for number in range(FOLDER_ROUNDS):
        batch.append(seconds(lambda: fuser.fuse(*pair)))
        files.append(seconds(partial(fuse_into, folder / f"out-{number}")))
    shares = [alone / both for alone, both in zip(batch, files, strict=True)]
    return {"pairs": count, "batch_s": median(batch), "folders_s": median(files), "share": median(shares)}


def register_champion(model: Path, runs: Path) -> str:
    """Make a model folder the champion of a new local registry in `runs`; its address."""
    import mlflow

    from components.register.packaging import packaged
    from components.tracking import connected
    from model.fuser import weights_sha256

    runs.mkdir()
    with connected(local_tracking_uri(runs)) as client, packaged(model, ("ct", "mri"), code=False) as parts:
        mlflow.set_experiment(experiment_id=client.create_experiment("fusion", (runs / "artifacts").as_uri()))
        logged = mlflow.pyfunc.log_model(name="fuser", **parts)
        client.create_registered_model("net")
        client.create_model_version("net", logged.model_uri, tags={"weights_sha256": weights_sha256(model)})
        client.set_registered_model_alias("net", "champion", "1")
    return "models:/net@champion"


def measure_processes(command: Sequence[str], models: Mapping[str, str], folder: Path) -> dict[str, dict[str, float]]:
    """Seconds of the whole command with each of the models, in turn, and of processor time that it takes."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "FUSION_RUNS": str(folder / "runs")}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def once(model: str) -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = partial(subprocess.run, [*command, "--model", model], check=True, capture_output=True, env=environment)
        whole, after = seconds(run), resource.getrusage(resource.RUSAGE_CHILDREN)
        return whole, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [{name: once(model) for name, model in models.items()} for _ in range(PROCESSES + 1)][1:]
    columns = {name: [round_[name] for round_ in rounds] for name in models}
    return {
        name: {
            "fastest": min(whole for whole, _ in column),
            "median": median(whole for whole, _ in column),
            "slowest": max(whole for whole, _ in column),
            "cpu": median(cpu for _, cpu in column),
        }
        for name, column in columns.items()
    }


def measure(folder: Path, model: Path) -> dict[str, Any]:
    """The figures of one pair, which is written to `folder` first."""
    a, b, out = (folder / f"{name}.png" for name in ("ct", "mri", "fused"))
    for path, image in zip((a, b), phantom(1), strict=True):
        write_image(path, Picture(image[0], None, 8))
    pair, fuser = [read_image(path).luma[None] for path in (a, b)], Fuser.load(model)

    def take_turns() -> dict[str, float]:
        loaded = Fuser.load(model)
        return {
            "network": seconds(lambda: fuser.fuse(*pair)),
            "first": seconds(lambda: loaded.fuse(*pair)),
            "files": seconds(lambda: fuse_files(a, b, out, str(model), None, None, folder)),
        }

    rounds = [take_turns() for _ in range(ROUNDS + 1)][1:]
    medians = {name: median(round_[name] for round_ in rounds) for name in rounds[0]}
    command = [sys.executable, "-m", "pipelines.cli", "fuse", str(a), str(b), "-o", str(out)]
    models = {"folder": str(model), "registry": register_champion(model, folder / "runs")}
    return {
        "network_ms": medians["network"] * 1e3,
        "files_ms": medians["files"] * 1e3,
        "first_ms": medians["first"] * 1e3,
        "ratio": median(round_["files"] / round_["first"] for round_ in rounds),
        "process_s": measure_processes(command, models, folder),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL, help="model folder; default: the one that ships")
    parser.add_argument("--pairs", type=int, default=184, help="pairs of the folders")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        # First, since MLflow leaves a thread with OpenMP's pool in it, which slows both sides down.
        folders = measure_folders(Path(folder), arguments.model, arguments.pairs)
        result = measure(Path(folder), arguments.model) | {"folders": folders}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"fusion fuse of one 256x256 pair, {result['threads']} threads ({result['machine']})")
    print(f"  network alone, warm      {result['network_ms']:7.1f} ms")
    print(f"  its first pair           {result['first_ms']:7.1f} ms")
    print(f"  from files to a file     {result['files_ms']:7.1f} ms   {result['ratio']:.2f} times the first pair")
    process_s = result["process_s"].values()
    for title, process in zip(("the command as a whole", "with a registry's model"), process_s, strict=True):
        print(
            f"  {title:<24} {process['median']:7.2f} s    {process['fastest']:.2f} to {process['slowest']:.2f}"
            f" of {PROCESSES}, {process['cpu']:.2f} s of a core"
        )
    print(
        f"  {folders['pairs']} pairs of two folders {folders['pairs'] / folders['folders_s']:7.2f} a second"
        f"   {folders['share']:.2f} of a batch in memory"
    )


if __name__ == "__main__":
    main()

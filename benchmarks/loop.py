"""What the training loop costs beside the network: reading, cropping, checks, checkpoints, telling MLflow.

python -m benchmarks.loop [--json] [--device cuda] [--steps N] [--repetitions N]

The loop as the pipeline runs it (`model.training.train` with checkpoints and a live run in an MLflow file) and the bare
network, losses and optimiser on ready batches take turns; `overhead` is the median of what the loop takes longer, as a
share of its time. A step's time is the median from one report to the next, so that start and validation are left out;
so is opening the run in MLflow, which takes a core some seconds once.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fusion import phantom
from benchmarks.training import BATCH, Setting, stack
from components.train.live import LiveRun
from components.train.telemetry import Telemetry
from model.checkpoint import CheckpointFolder
from model.fuser import FuserConfig
from model.losses import FusionLoss, LossWeights
from model.memory import keep_freed_memory
from model.network import FusionNetwork
from model.pairs import PackedPairs
from model.training import train
from model.training_callbacks import Callbacks, Keeping, StepReport
from model.training_config import TrainingConfig
from model.vgg import FeatureStack


def pairs(count: int, size: int) -> PackedPairs:
    """Pairs of phantom slices, in memory as preprocessing packs them."""
    images = (torch.stack(phantom(count, size), dim=1)[:, :, 0] * 255).byte().numpy()
    entries = [{"name": f"101{number:03d}", "subject": "101", "slice": number} for number in range(count)]
    return PackedPairs(np.ascontiguousarray(images), entries, {"height": size, "width": size})


def loop_seconds(setting: Setting, features: FeatureStack, data: PackedPairs) -> float:
    """Seconds a step of the whole loop."""
    ends: list[tuple[int, float]] = []
    config = TrainingConfig(epochs=1, batch=BATCH, device=setting.device, statistics="image")
    device = config.torch_device()
    with tempfile.TemporaryDirectory() as folder:
        held_out = PackedPairs(data.images[:1], data.entries[:1], data.index)
        uri, place = f"sqlite:///{folder}/mlflow.db", Path(folder) / "live"
        with redirect_stdout(io.StringIO()), LiveRun(uri, "benchmark", "loop", place) as live:
            while live.run_id is None:
                time.sleep(0.2)
            telemetry = Telemetry(live, FuserConfig(), held_out, 1, device).callbacks

            def step(report: StepReport) -> None:
                telemetry.step(report)
                ends.append((report.step, time.perf_counter()))

            keeping = Keeping(CheckpointFolder(Path(folder) / "kept", {}), every=max(2, setting.steps // 2))
            train(config, data, held_out, features, Callbacks(step, telemetry.epoch), keeping)
    # On a GPU only every few steps are reported.
    return statistics.median((end - start) / (last - first) for (first, start), (last, end) in pairwise(ends))


def bare_seconds(setting: Setting, features: FeatureStack, data: PackedPairs) -> float:
    """Seconds a step of network, losses and optimiser alone."""
    device = torch.device(setting.device)
    network = FusionNetwork().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion = FusionLoss(LossWeights(), features.to(device))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    batches = torch.cat(data.batch(slice(None))).to(device).split(BATCH)
    ends = []
    for batch in batches:
        criterion(network(batch, "image"), batch)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()
        ends.append(_now(device))
    return statistics.median(end - start for start, end in pairwise(ends))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def compare(setting: Setting) -> dict[str, Any]:
    """Time both in turn."""
    torch.set_num_threads(setting.threads)
    keep_freed_memory()
    features, data = stack(setting), pairs(setting.steps * BATCH // 2, 256)
    loops, bares = [], []
    for _ in range(setting.repetitions):
        bares.append(bare_seconds(setting, features, data))
        loops.append(loop_seconds(setting, features, data))
    shares = [1 - bare / loop for bare, loop in zip(bares, loops, strict=True)]
    return {
        "overhead": statistics.median(shares),
        "overheads": shares,
        "loop seconds a step": statistics.median(loops),
        "bare seconds a step": statistics.median(bares),
        "steps": setting.steps,
        "device": torch.cuda.get_device_name() if setting.device == "cuda" else setting.device,
        "threads": setting.threads,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    if given["device"] == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; leave --device out to run on the CPU")
    if min(given["threads"], given["repetitions"]) < 1 or given["steps"] < 2:
        parser.error("threads and repetitions are at least 1, steps at least 2")
    result = compare(Setting(**given))
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['steps']} steps of {BATCH} whole images on {result['device']}, {result['threads']} threads")
    print(f"  bare step   {result['bare seconds a step'] * 1e3:8.1f} ms")
    print(f"  in the loop {result['loop seconds a step'] * 1e3:8.1f} ms")
    shares = ", ".join(f"{share:.1%}" for share in result["overheads"])
    print(f"  overhead    {result['overhead']:8.1%}    of {shares}")


if __name__ == "__main__":
    main()

"""Literal against fast: train on the same images by the published loop, and by this project's pieces.

python -m benchmarks.training [--json] [--data PACKED] [--vgg WEIGHTS] [--device cuda] [--precision bfloat16]

Two processes, one a side, take each step in turn: batches of 4 whole images, all three losses, Adam, on the threads
given. `ratio` is the median over the repetitions of the images a second of ours over those of the literal loop.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.fusion import literal_encoder, phantom
from model.losses import FusionLoss, LossWeights
from model.memory import keep_freed_memory
from model.network import FusionNetwork
from model.pairs import PackedPairs
from model.vgg import VGG16_BN, FeatureStack, feature_stack

BATCH = 4
SIZE = 256
SLICES = 20
SIDES = ("literal", "ours")
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What both sides share; `steps` of each of `repetitions` are timed, and one before them is not."""

    data: Path | None = None
    vgg: Path | None = None
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 2
    steps: int = 5
    repetitions: int = 3
    seed: int = 3407


def images(setting: Setting) -> Tensor:
    """The single images (N, 1, H, W) in [0, 1] to train on: a packed dataset's, or slices of a phantom head."""
    if setting.data is None:
        return torch.cat(phantom(SLICES, SIZE))
    pairs = PackedPairs.open(setting.data, "train")
    return torch.cat(pairs.batch(slice(0, len(pairs))))


def stack(setting: Setting) -> FeatureStack:
    """The feature stack of the perceptual loss: VGG weights from a file, or VGG16-bn's layers with seeded noise."""
    if setting.vgg is not None:
        return feature_stack(str(setting.vgg))
    noise, generator = FeatureStack("vgg16-bn-noise", VGG16_BN), torch.Generator().manual_seed(setting.seed)
    for layer in noise.features.values():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return noise


def literal_features(features: FeatureStack, image: Tensor) -> list[Tensor]:
    """The features at each tap, layer by layer, of the grey image as three channels."""
    x, taps = image.expand(-1, 3, -1, -1), []
    for step in features.order:
        if step == "tap":
            taps.append(x)
        else:
            x = x.relu() if step == "relu" else F.max_pool2d(x, 2) if step == "pool" else features.features[step](x)
    return taps


def literal_losses(features: FeatureStack, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The three losses and their sum by their definitions."""
    gx = prediction.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    slopes = [[F.conv2d(x, kernel[None, None]).abs() for kernel in (gx, gx.T)] for x in (prediction, target)]
    with torch.no_grad():
        wanted = literal_features(features, target)
    pairs = zip(literal_features(features, prediction), wanted, strict=True)
    l2 = F.mse_loss(prediction, target)
    gradient = torch.stack([F.mse_loss(p, t) for p, t in zip(*slopes, strict=True)]).sum()
    perceptual = torch.stack([F.mse_loss(p, t) for p, t in pairs]).sum()
    return {"total": l2 + 0.2 * gradient + 0.2 * perceptual, "l2": l2, "gradient": gradient, "perceptual": perceptual}


def literal_step(setting: Setting) -> Callable[[Tensor], dict[str, float]]:
    """One step of the loop as published: torch's usual layout, layer by layer, every value read at once."""
    network, features = FusionNetwork().to(setting.device), stack(setting).to(setting.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, foreach=False)

    def step(batch: Tensor) -> dict[str, float]:
        batch = batch.to(setting.device)
        prediction = literal_encoder(network.encoder, batch, "batch")
        for layer in network.decoder:
            prediction = layer(prediction)
        losses = literal_losses(features, prediction, batch)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        return {name: value.item() for name, value in losses.items()}

    return step


def our_step(setting: Setting) -> Callable[[Tensor], dict[str, float]]:
    """One step of ours: the collapsed and composed network, channels last, the folded feature stack, fused Adam."""
    network = FusionNetwork().to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion = FusionLoss(LossWeights(), stack(setting).to(setting.device))
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)

    def step(batch: Tensor) -> dict[str, float]:
        batch = batch.to(setting.device, non_blocking=True)
        half = setting.precision == "bfloat16"
        with torch.autocast(setting.device, torch.bfloat16) if half else nullcontext():
            prediction = network(batch, "batch").float()
            losses = criterion(prediction, batch)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
        values = torch.stack([value.detach() for value in losses.values()]).tolist()
        return dict(zip(losses, values, strict=True))

    return step


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of the convolutions and matrix products under it, backward's too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def side(name: str, setting: Setting, pipe: Connection) -> None:
    """A process that answers "step", "count" and "rate" until it hears "end"."""
    torch.set_num_threads(setting.threads)
    torch.use_deterministic_algorithms(name == "ours" and setting.device == "cpu")
    if name == "ours" and setting.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(setting.seed)
    singles = images(setting)
    step = (literal_step if name == "literal" else our_step)(setting)
    order = torch.Generator().manual_seed(setting.seed)
    pipe.send("ready")
    while (asked := pipe.recv()) != "end":
        if asked == "rate":
            pipe.send(rates(setting))
            continue
        batch = singles[torch.randperm(len(singles), generator=order)[:BATCH]]
        if asked == "count":
            with Operations() as operations:
                step(batch)
            pipe.send(operations.count)
            continue
        start = time.perf_counter()
        losses = step(batch)
        pipe.send((time.perf_counter() - start, losses))
    pipe.send(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def rates(setting: Setting) -> dict[str, float]:
    """The best rates in GFLOP/s that this device reaches now, in float32 as torch multiplies by default."""
    a = torch.randn(2048, 2048, device=setting.device)
    x = torch.randn(4, 256, 64, 64, device=setting.device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=setting.device).contiguous(memory_format=torch.channels_last)
    return {
        "matmul": 2 * 2048**3 / _least(lambda: a @ a) / 1e9,
        "convolution": 2 * 9 * 256 * 256 * 4 * 64 * 64 / _least(lambda: F.conv2d(x, weight, padding=1)) / 1e9,
    }


@torch.no_grad()
def _least(function: Callable[[], Tensor]) -> float:
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        function().flatten()[:1].cpu()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def compare(setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    """Train both sides step by step in turn, and time every step."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in SIDES:
        pipes[name], theirs = context.Pipe()
        context.Process(target=side, args=(name, setting, theirs), daemon=True).start()
        theirs.close()
        pipes[name].recv()

    def ask(name: str, what: str) -> Any:
        pipes[name].send(what)
        return pipes[name].recv()

    operations = {name: ask(name, "count") for name in SIDES}
    seconds: dict[str, list[list[float]]] = {name: [] for name in SIDES}
    losses: dict[str, dict[str, float]] = {}
    rate: dict[str, float] = {}
    for repetition in range(setting.repetitions):
        for taken in seconds.values():
            taken.append([])
        for number in range(setting.steps):
            for name in SIDES:
                spent, losses[name] = ask(name, "step")
                seconds[name][-1].append(spent)
            say(f"repetition {repetition + 1}, step {number + 1}: {_line(seconds, losses)}")
        rate = {kind: max(value, rate.get(kind, 0)) for kind, value in ask("ours", "rate").items()}
    return summary(setting, seconds, losses, operations, rate) | {"peak memory MB": {s: ask(s, "end") for s in SIDES}}


def summary(
    setting: Setting,
    seconds: dict[str, list[list[float]]],
    losses: dict[str, dict[str, float]],
    operations: dict[str, int],
    rate: dict[str, float],
) -> dict[str, Any]:
    """The figures that are printed, of seconds by side, repetition and step."""
    medians = {name: [statistics.median(taken) for taken in seconds[name]] for name in SIDES}
    ratios = [literal / ours for literal, ours in zip(*medians.values(), strict=True)]
    step = {name: statistics.median(medians[name]) for name in SIDES}
    final = {name: losses[name]["total"] for name in SIDES}
    reached = {name: operations[name] / step[name] / 1e9 for name in SIDES}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "images a second": {name: BATCH / step[name] for name in SIDES},
        "final loss": final,
        "loss deviation": abs(final["ours"] - final["literal"]) / final["literal"],
        "final terms": losses,
        "GFLOP a step": {name: operations[name] / 1e9 for name in SIDES},
        "GFLOP/s": reached,
        "device GFLOP/s": rate,
        "share of the limit": {name: reached[name] / max(rate.values()) for name in SIDES},
        "steps": 1 + setting.steps * setting.repetitions,
        "device": torch.cuda.get_device_name() if setting.device == "cuda" else setting.device,
        "precision": setting.precision,
        "threads": setting.threads,
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def _line(seconds: dict[str, list[list[float]]], losses: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{name} {seconds[name][-1][-1]:.2f} s, loss {losses[name]['total']:.5f}" for name in SIDES)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--data", type=Path, help="packed dataset; default: slices of a phantom head")
    parser.add_argument("--vgg", type=Path, help="VGG safetensors file; default: VGG16-bn's layers with seeded noise")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of our side")
    for name in ("threads", "steps", "repetitions", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name))
    given = vars(parser.parse_args())
    as_json = given.pop("json")
    if given["device"] == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that torch can use; leave --device out to run on the CPU")
    if min(given["threads"], given["steps"], given["repetitions"]) < 1:
        parser.error("threads, steps and repetitions are at least 1")
    result = compare(Setting(**given), lambda line: None if as_json else print(line, flush=True))
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"Batches of {BATCH}, {result['steps']} steps on {result['device']}, {given['threads']} threads")
    print(f"{result['machine']}; ours in {result['precision']}")
    print(f"  {'':<22}{'literal':>10}{'ours':>10}")
    for key, digits in (("images a second", 3), ("final loss", 5), ("GFLOP a step", 0), ("GFLOP/s", 0),
                        ("share of the limit", 2), ("peak memory MB", 0)):  # fmt: skip
        print(f"  {key:<22}" + "".join(f"{result[key][name]:10.{digits}f}" for name in SIDES))
    print(f"  {'ours / literal':<22}{result['ratio']:20.2f}   of {', '.join(f'{r:.2f}' for r in result['ratios'])}")
    print(
        f"  {'limit, GFLOP/s':<22}" + ", ".join(f"{name} {rate:.0f}" for name, rate in result["device GFLOP/s"].items())
    )


if __name__ == "__main__":
    main()

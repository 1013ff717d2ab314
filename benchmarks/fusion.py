"""Literal against fast: fuse one 256x256 pair by the network as the paper draws it, and as this project computes it.

python -m benchmarks.fusion [--json] [--model FOLDER] [--device cuda]

Both run in turn in one process, on the threads that torch takes; `ratio` is the literal median over the fast one.
"""

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from components.ingest.phantom import PhantomConfig, write_phantom
from model.fuser import SHIPPED_MODEL, Fuser, FuserConfig
from model.images import read_grey
from model.network import Encoder, FusionNetwork, attention

SIZE = 256
ROUNDS = 7
BATCH = 8


def literal_encoder(encoder: Encoder, x: Tensor, statistics: Literal["batch", "image"] = "image") -> Tensor:
    """The encoder layer by layer, as the paper draws it, with the statistics of the batch or of each image."""
    norm, c = encoder.norm, encoder.residual

    def normalised(features: Tensor) -> Tensor:
        if statistics == "batch":
            return F.batch_norm(features, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return F.instance_norm(features, weight=norm.weight, bias=norm.bias, eps=norm.eps)

    shallow = x + attention(x) * encoder.lift(x)
    m = normalised(encoder.reduce(torch.cat([convolution(shallow) for convolution in encoder.dilated], dim=1)))
    d = normalised(m + attention(m) * (c(m) + c(c(m)) + c(c(c(m)))))
    return shallow + attention(shallow) * d


def literal_fusion(network: FusionNetwork, a: Tensor, b: Tensor) -> Tensor:
    """SFNN by its definition: all 64 maps of both encodings decomposed."""
    encodings = [literal_encoder(network.encoder, image) for image in (a, b)]
    n_a, n_b = (torch.linalg.svdvals(e.softmax(1)).sum(-1).amax(1)[:, None, None, None] for e in encodings)
    weight = n_a.square() / (n_a.square() + n_b.square())
    return network.decoder(weight * encodings[0] + (1 - weight) * encodings[1]).clamp(0, 1)


def phantom(count: int, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """CT and MR slices of one phantom head, each (count, 1, size, size) in [0, 1]."""
    with TemporaryDirectory() as scratch:
        write_phantom(Path(scratch), PhantomConfig(subjects=1, slices=count, size=size))
        folders = [Path(scratch) / "CT-MRI" / modality for modality in ("CT", "MRI")]
        a, b = (torch.stack([read_grey(path) for path in sorted(folder.iterdir())]) for folder in folders)
    return a, b


def medians(functions: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The median seconds of each function, all in turn each round; the second of two calls counts, the first warms."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            _finish()
            start = time.perf_counter()
            function()
            _finish()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(network: FusionNetwork, device: str) -> dict[str, Any]:
    """Time, deviation and memory of the literal and the fast fusion of one pair, and of a batch."""
    fuser = Fuser(network, FuserConfig("sfnn", "image"), device)
    half = Fuser(network, FuserConfig("sfnn", "image"), device, "bfloat16")
    a, b = (images.to(device) for images in phantom(BATCH))
    one = a[:1], b[:1]
    plain = torch.inference_mode()(literal_fusion)
    # The literal network keeps torch's usual layout, as its authors ran it.
    literal = FusionNetwork()
    literal.load_state_dict(network.state_dict())
    literal.to(device).eval()
    seconds = medians(
        {
            "literal": lambda: plain(literal, *one),
            "fast": lambda: fuser.fuse(*one),
            "batch": lambda: fuser.fuse(a, b),
            "bfloat16": lambda: half.fuse(*one),
        }
    )
    wanted, got, rough = plain(literal, *one), fuser.fuse(*one), half.fuse(*one)
    return {
        "ratio": seconds["literal"] / seconds["fast"],
        "seconds": {
            "literal": seconds["literal"],
            "fast": seconds["fast"],
            "fast, a pair of a batch": seconds["batch"] / BATCH,
            "bfloat16": seconds["bfloat16"],
        },
        "largest deviation": {
            "fast": float((got - wanted).abs().max()),
            "bfloat16": float((rough - wanted).abs().max()),
        },
        "size": SIZE,
        "device": device,
        "threads": torch.get_num_threads(),
        "peak memory MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


def growth(network: FusionNetwork, device: str) -> dict[str, float]:
    """Microseconds a pixel of one pair at several sizes: level where cost is linear in pixels."""
    fuser = Fuser(network, FuserConfig("average", "image"), device)
    a, b = (images.to(device) for images in phantom(1))
    seconds = {}
    for size in (128, 256, 512, 1024):
        pair = [F.interpolate(image, size=(size, size), mode="bilinear") for image in (a, b)]
        seconds[str(size)] = medians({"fuse": partial(fuser.fuse, *pair)}, rounds=3)["fuse"]
    return {name: 1e6 * value / int(name) ** 2 for name, value in seconds.items()}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--model", type=Path, help="model folder; default: the shipped model")
    parser.add_argument("--device", default="cpu", help="where to run: cpu or cuda")
    given = parser.parse_args()
    network = Fuser.load(given.model or SHIPPED_MODEL).network
    assert isinstance(network, FusionNetwork)
    result = compare(network, given.device) | {"microseconds a pixel": growth(network, given.device)}
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(f"One {SIZE}x{SIZE} pair by SFNN on {result['device']}, {result['threads']} threads ({result['machine']})")
    for name, value in result["seconds"].items():
        deviation = result["largest deviation"].get(name)
        print(f"  {name:<24}{value * 1e3:9.1f} ms" + (f"   within {deviation:.1e} of literal" if deviation else ""))
    print(f"  {'literal / fast':<24}{result['ratio']:9.1f}")
    print(f"  {'peak memory':<24}{result['peak memory MB']:9d} MB, torch and the literal network's included")
    for size, value in result["microseconds a pixel"].items():
        print(f"  {'average of ' + size + 'x' + size:<24}{value:9.3f} microseconds a pixel")


if __name__ == "__main__":
    main()

"""What serving costs: pairs a second through `fusion serve`, base64 of PNG files in and out, and by the bare Fuser.

python -m benchmarks.serving [--json] [--model FOLDER] [--device cuda] [--batch N] [--rounds N]

A server in a process of its own and this process take turns on the same pairs of 256x256; `ratio` is the server's rate
over that of the Fuser on ready tensors, from the medians of all rounds.
"""

import argparse
import base64
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import torch

from benchmarks.fusion import SIZE, medians, phantom
from model.fuser import SHIPPED_MODEL, Fuser
from model.images import Picture, encode_png

BATCH = 8
ROUNDS = 9


@contextmanager
def serving(model: Path, device: str) -> Iterator[str]:
    """The address of a server of that model."""
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(model), "--port", "0", "--device", device]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split(" at ")[1].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def measure(model: Path, device: str, batch: int, rounds: int) -> dict[str, Any]:
    """The rates of both, and how far the served images are from the Fuser's."""
    a, b = (images.to(device) for images in phantom(batch))
    fuser = Fuser.load(model, device=device)
    files = {
        name: [base64.b64encode(encode_png(Picture(image.cpu()))).decode() for image in images]
        for name, images in (("ct", a), ("mri", b))
    }
    body = json.dumps({"inputs": files}).encode()
    with serving(model, device) as url, requests.Session() as session:

        def ask(**parameters: Any) -> Any:
            sent = json.dumps({"inputs": files, "params": parameters}).encode() if parameters else body
            answer = session.post(url, sent, headers={"Content-Type": "application/json"})
            answer.raise_for_status()
            return answer.json()["predictions"]

        seconds = medians({"in process": lambda: fuser.fuse(a, b), "served": ask}, rounds)
        served = torch.tensor(ask(encoding="array", output_bits=32))
    rates = {name: batch / value for name, value in seconds.items()}
    return {
        "ratio": rates["served"] / rates["in process"],
        "pairs a second": rates,
        "largest deviation": float((served - fuser.fuse(a, b)[:, 0].cpu()).abs().max()),
        "batch": batch,
        "size": SIZE,
        "rounds": rounds,
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "body bytes": len(body),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    found = measure(given.model, given.device, given.batch, given.rounds)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"Batches of {found['batch']} pairs of {SIZE}x{SIZE} on {found['device']}, {found['threads']} threads "
        f"({found['machine']}, torch {found['torch']})"
    )
    for name, rate in found["pairs a second"].items():
        print(f"  {name:<18}{rate:8.2f} pairs a second")
    print(f"  {'served / in process':<18}{found['ratio']:7.2f}")
    print(f"  largest deviation {found['largest deviation']:9.1e} of floats")


if __name__ == "__main__":
    main()

"""Compare the fusion strategies of one network, with elementwise maximum of the images as the bar to pass.

python -m benchmarks.strategies --data PACKED --model FOLDER [--split validation] [--batchnorm stored] [--json]

PACKED is a folder that the preprocess step wrote, FOLDER a model folder or the authors' published weights. Constants of
a strategy are to be chosen on `--split train` or `--split validation`; the test pairs are for the final figures.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from components.evaluate.floors import Row, lesions_kept, phantom_slices
from components.ingest.phantom import PhantomConfig
from model.baselines.classical import maximum
from model.fuser import Fuser, FuserConfig
from model.metrics import measure
from model.pairs import SPLITS, PackedPairs
from model.published import read_published
from model.strategies import DEFAULT_STRATEGY, STRATEGIES

MEASURES = ("qabf", "ssim", "fmi_edge", "vif", "scd")
HEADS = PhantomConfig(subjects=4, slices=6)
MAXIMUM = "maximum of the images"


def fuse_each(fuser: Fuser, ct: Tensor, mr: Tensor, rows: dict[str, Row] | None = None) -> dict[str, Tensor]:
    """One pair by every strategy and by elementwise maximum; `rows` takes each strategy's milliseconds."""
    # Sources of odd size are left to Fuser.fuse: here the encodings are made once, so that a strategy is timed alone.
    encodings = [fuser.encode(image) for image in (ct, mr)]
    fused = {MAXIMUM: maximum(ct, mr)}
    for name, strategy in STRATEGIES.items():
        start = time.perf_counter()
        with torch.inference_mode():
            encoding = strategy(*encodings, ct, mr)
        if rows is not None:
            rows[name]["milliseconds"].append(1000 * (time.perf_counter() - start))
        fused[name] = fuser.decode(encoding)
    return fused


def measured(fuser: Fuser, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Row]:
    """Per strategy, the value of each measure on every pair, (1, 1, H, W) each, and its milliseconds."""
    rows: dict[str, Row] = {name: {key: [] for key in (*MEASURES, "milliseconds")} for name in (MAXIMUM, *STRATEGIES)}
    for ct, mr in pairs:
        for name, fused in fuse_each(fuser, ct, mr, rows).items():
            for key, value in measure(ct, mr, fused, MEASURES).items():
                rows[name][key].append(float(_one(key, value)))
    return rows


def _one(key: str, value: dict[str, Tensor] | Tensor) -> Tensor:
    """A measure per source by its mean, VIF by its sum, as in the tables of the field; any other as it is."""
    if not isinstance(value, dict):
        return value
    return value["sum" if key == "vif" else "mean"]


def load(model: Path, batchnorm: str) -> Fuser:
    """A model folder, or the authors' weights from their safetensors file."""
    if model.is_dir():
        return Fuser.load(model, batchnorm=batchnorm)
    return Fuser(read_published(model), FuserConfig(batchnorm=batchnorm))


def main() -> None:
    """Read the command line, fuse and measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--batchnorm", choices=("image", "stored"), default="image")
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair only")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    fuser = load(given.model, given.batchnorm)
    pairs = PackedPairs.open(given.data, given.split)
    rows = measured(fuser, (pairs.batch([i]) for i in range(0, len(pairs), given.every)))
    kept = lesions_kept(lambda ct, mr: fuse_each(fuser, ct, mr), phantom_slices(HEADS))
    table = {
        name: {key: statistics.mean(values) for key, values in (row | kept[name]).items() if values}
        for name, row in rows.items()
    }
    # The median, because the first call of each strategy also pays for its memory.
    for name in STRATEGIES:
        table[name]["milliseconds"] = statistics.median(rows[name]["milliseconds"])
    if given.json:
        print(json.dumps({"default": DEFAULT_STRATEGY, "bar": MAXIMUM, "means": table, "pairs": rows}, indent=1))
        return
    columns = (*MEASURES, "ct_lesion", "mri_lesion", "milliseconds")
    print(f"{'':23}" + "".join(f"{column:>13}" for column in columns))
    for name, row in table.items():
        mark = " *" if name == DEFAULT_STRATEGY else ""
        print(f"{name + mark:23}" + "".join(f"{row[c]:13.4f}" if c in row else f"{'-':>13}" for c in columns))


if __name__ == "__main__":
    main()

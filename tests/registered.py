"""What the register step is given and makes: folders of a trained and judged model, its registration, its use."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.register import registry
from components.register.record import Origin
from model.fuser import Fuser, FuserConfig
from model.methods import CLASSICAL
from model.network import FusionNetwork

DATASET = "0123456789abcdef" * 2 + ".dir"
ORIGIN = Origin(profile="quick", git_commit="c0ffee", code_version="0.1.0")
FLOORS = {"lesions": {"CT": 0.9, "MRI": 0.8}, "seconds": 0.1}
PAIRS = tuple(f"9{number:03}" for number in range(1, 9))
STATISTICS = {"collection": "CT-MRI", "modalities": {"CT": {"images": 3, "subjects": 3}}}


def make_table(
    value: float = 0.5, pairs: tuple[str, ...] = PAIRS, champion: tuple[str, float] | None = None, **rows: float
) -> dict[str, Any]:
    """An evaluation in which the candidate has `value` of Q^AB/F and VIF on every pair, the baselines 0.4."""
    means = {"network-sfnn": value, **dict.fromkeys(CLASSICAL, 0.4)} | rows
    if champion:
        means["champion"] = champion[1]
    return {
        "protocol": "standard",
        "dataset_version": DATASET,
        "split": "test",
        "pairs": list(pairs),
        "subjects": ["9"],
        "measures": [
            {"name": name, "title": title, "unit": "", "direction": "higher"}
            for name, title in (("vif", "VIF"), ("qabf", "Q^AB/F"))
        ],
        "candidate": "network-sfnn",
        "champion": champion[0] if champion else None,
        "methods": [
            {
                "name": name,
                "title": name,
                "kind": "network" if name.startswith("network") else "baseline",
                "means": {"vif": mean, "qabf": mean, "psnr": 20.0},
                "per_pair": {key: [mean] * len(pairs) for key in ("vif", "qabf")} | {"psnr": [20.0] * len(pairs)},
            }
            for name, mean in means.items()
        ],
    }


@dataclass(frozen=True)
class Folders:
    """The folders of the steps before: trained model, evaluation, packed dataset."""

    model: Path
    evaluation: Path
    packed: Path
    validation: Path


def make_folders(root: Path, seed: int = 0, qabf: float = 0.5, table: dict[str, Any] | None = None) -> Folders:
    folders = Folders(root / "model", root / "evaluation", root / "packed", root / "validation.json")
    torch.manual_seed(seed)
    Fuser(FusionNetwork(), FuserConfig("sfnn")).save(folders.model)
    losses = {"total": 0.5, "l2": 0.25, "gradient": 0.5, "perceptual": 0.75}
    curves = [{"epoch": epoch, "step": 20 * epoch, "train": losses, "validation": losses} for epoch in (1, 2)]
    training = {"seed": seed, "epochs": 2, "batch": 4, "crop": 32, "perceptual": "random", "processes": 1}
    training |= {"seconds": 3.5, "images_per_second": 40.0, "dataset_version": DATASET, "libraries": {"torch": "2.13"}}
    (folders.model / "curves.json").write_text(json.dumps(curves))
    (folders.model / "training.json").write_text(json.dumps(training))
    folders.evaluation.mkdir(parents=True)
    (folders.evaluation / "table.json").write_text(json.dumps(table or make_table(qabf)))
    (folders.evaluation / "floors.json").write_text(json.dumps(FLOORS))
    for name in ("table.csv", "per_pair.csv", "report.html"):
        (folders.evaluation / name).write_text(name)
    folders.packed.mkdir()
    entries = {"train": "1001", "validation": "2001", "test": "9001"}
    splits = {split: [{"name": name, "subject": name[0], "slice": 1}] for split, name in entries.items()}
    index = {"dataset_version": DATASET, "collection": "CT-MRI", "modalities": ["CT", "MRI"], "splits": splits}
    (folders.packed / "index.json").write_text(json.dumps(index))
    folders.validation.write_text(json.dumps({"passed": True, "statistics": STATISTICS}))
    return folders


def register(folders: Folders, uri: str, name: str, **rules: registry.Rules) -> registry.Registration:
    three = (folders.model, folders.evaluation, folders.packed)
    names = {"experiment": "fusion", "model_name": name}
    return registry.register(*three, ORIGIN, tracking_uri=uri, **names, validation=folders.validation, **rules)


def stacks() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.random((2, 32, 32), dtype=np.float32) for name in ("ct", "mri")}


def fuse(folder: Path, images: dict[str, np.ndarray], strategy: str | None = None) -> np.ndarray:
    ct, mri = (torch.from_numpy(images[name])[:, None] for name in ("ct", "mri"))
    return Fuser.load(folder, strategy).fuse(ct, mri)[:, 0].numpy()

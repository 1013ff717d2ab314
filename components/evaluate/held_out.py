"""The pairs of a data folder that a comparison judges on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from components.ingest.dataset import COLLECTION, MODALITIES
from components.preprocess.splits import split_subjects
from model.errors import InputError
from model.images import read_grey, read_grey_bytes
from model.methods import Split
from model.splits import PAPER_TEST_PAIRS

SPLIT_SEED = 0

_NAME = re.compile(r"^(?P<subject>\w+?)(?P<slice>\d{3})$")


@dataclass(frozen=True)
class Pair:
    """One CT-MR pair of the data folder."""

    name: str
    subject: str
    slice: int


def find_pairs(folder: Path) -> list[Pair]:
    """The pairs of a data folder, by subject and slice; an image without its partner is none.

    InputError if a file is misnamed or there is no pair.
    """
    names = [{path.stem for path in (folder / COLLECTION / each).glob("[!.]*.png")} for each in MODALITIES]
    pairs = []
    for name in names[0] & names[1]:
        match = _NAME.match(name)
        if match is None:
            raise InputError(
                f"{folder / COLLECTION / MODALITIES[0] / name}.png does not follow <subject><3-digit slice>.png; "
                "rename or remove it"
            )
        pairs.append(Pair(name, match["subject"], int(match["slice"])))
    if not pairs:
        raise InputError(f"no image in {folder / COLLECTION} has its partner; CT and MRI must bear the same names")
    return sorted(pairs, key=lambda pair: (len(pair.subject), pair.subject, pair.slice))


def held_out_pairs(folder: Path, split: Split) -> tuple[list[Pair], int]:
    """The test pairs of a data folder under a split, and how many the split has where all are there.

    InputError if the folder holds none of them, or too few subjects for a split by subject.
    """
    pairs = find_pairs(folder)
    if split == "paper":
        chosen = [pair for pair in pairs if pair.name in PAPER_TEST_PAIRS]
        if not chosen:
            raise InputError(f"{folder} holds none of the paper's 20 test pairs; give the atlas by --data")
        return chosen, len(PAPER_TEST_PAIRS)
    held_out = split_subjects((pair.subject for pair in pairs), SPLIT_SEED)["test"]
    chosen = [pair for pair in pairs if pair.subject in held_out]
    return chosen, len(chosen)


def read_pair(folder: Path, pair: Pair) -> tuple[Tensor, Tensor]:
    """CT and MRI of a pair, (1, 1, H, W) in [0, 1] each; raises InputError if they differ in size or cannot be read."""
    a, b = (read_grey(folder / COLLECTION / each / f"{pair.name}.png")[None] for each in MODALITIES)
    if a.shape != b.shape:
        sizes = " and ".join(f"{image.shape[3]}x{image.shape[2]}" for image in (a, b))
        raise InputError(f"the two images of pair {pair.name} are {sizes}; resample one to the other's size")
    return a, b


def both_lesions(folder: Path, pairs: Sequence[Pair]) -> np.ndarray | None:
    """Which pairs show a CT and an MRI lesion, bool (N,); None where there is no ground truth."""
    truth = [folder / COLLECTION / "truth" / name for name in ("ct_lesion", "mri_lesion")]
    if not all(each.is_dir() for each in truth):
        return None
    return np.array([all((read_grey_bytes(each / f"{pair.name}.png") > 127).any() for each in truth) for pair in pairs])

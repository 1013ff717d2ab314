"""Packed pairs: the arrays that preprocessing writes and that training and evaluation read by memory map."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.errors import InputError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PackedPairs:
    """One split of a packed dataset.

    `images` is a read-only memory map, uint8 of shape (N, 2, H, W), modality 0 = CT and 1 = MRI; `entries` has one
    `{"name", "subject", "slice"}` per pair; `index` is the whole `index.json`.
    """

    images: np.ndarray
    entries: list[dict[str, Any]]
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, split: str) -> "PackedPairs":
        """Open one split in a packed folder; raises InputError if it is missing or contradicts its index."""
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        try:
            index = json.loads((folder / "index.json").read_text())
            entries = index["splits"][split]
            images = np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{folder} holds no packed dataset ({error}); run the preprocess step again") from None
        expected = (len(entries), 2, index["height"], index["width"])
        if images.dtype != np.uint8 or images.shape != expected:
            raise InputError(
                f"{folder / split}.npy is {images.dtype} {images.shape}, its index says {expected}; pack it again"
            )
        return cls(images, entries, index)

    def __len__(self) -> int:
        return len(self.entries)

    def batch(self, indices: Sequence[int] | slice) -> tuple[Tensor, Tensor]:
        """The pairs at `indices` as two float32 tensors of shape (n, 1, H, W) in [0, 1]: first CT, then MRI."""
        pixels = torch.from_numpy(np.array(self.images[indices])).float().div_(255)
        return pixels[:, :1], pixels[:, 1:]

    @property
    def subjects(self) -> list[str]:
        """The subjects of this split, in order of first appearance."""
        return list(dict.fromkeys(entry["subject"] for entry in self.entries))

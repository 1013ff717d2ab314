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
from model.shards import Shards

SPLITS = ("train", "validation", "test")
CHROMA = "test_chroma"


@dataclass(frozen=True)
class PackedPairs:
    """One split of a packed dataset.

    `images` is read by memory map, uint8 of shape (N, 2, H, W), the modalities in the order of the index; `entries` has
    one `{"name", "subject", "slice"}` per pair; `index` is the whole `index.json`. If the first modality is in colour,
    `images` holds its luma, and `chroma` the test pairs' Cb and Cr about 128, uint8 (N, 2, H, W), also by memory map.
    """

    images: np.ndarray | Shards
    entries: list[dict[str, Any]]
    index: dict[str, Any]
    chroma: Shards | None = None

    @classmethod
    def open(cls, folder: Path, split: str) -> "PackedPairs":
        """Open one split in a packed folder; raises InputError if it is missing or contradicts its index."""
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        try:
            index = json.loads((folder / "index.json").read_text())
            entries, row = index["splits"][split], (2, index["height"], index["width"])
            listed = index.get("shards", {})
            shards = listed.get(split) or [{"file": f"{split}.npy", "rows": len(entries)}]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder} holds no packed dataset ({error}); run the preprocess step again") from None
        images = Shards(folder, shards, row)
        if len(images) != len(entries):
            raise InputError(
                f"{folder}: the {split} shards hold {len(images)} pairs, the index names {len(entries)}; pack it again"
            )
        chroma = Shards(folder, listed[CHROMA], row) if split == "test" and CHROMA in listed else None
        return cls(images, entries, index, chroma)

    def __len__(self) -> int:
        return len(self.entries)

    def verified(self) -> "PackedPairs":
        """These pairs, after every byte was compared with the index; raises InputError naming a damaged shard."""
        for shards in (self.images, self.chroma):
            if isinstance(shards, Shards):
                shards.verify()
        return self

    def batch(self, indices: Sequence[int] | slice) -> tuple[Tensor, Tensor]:
        """The pairs at `indices` as two float32 tensors of shape (n, 1, H, W) in [0, 1], one a modality."""
        pixels = torch.from_numpy(np.array(self.images[indices])).float().div_(255)
        return pixels[:, :1], pixels[:, 1:]

    @property
    def subjects(self) -> list[str]:
        """The subjects of this split, in order of first appearance."""
        return list(dict.fromkeys(entry["subject"] for entry in self.entries))

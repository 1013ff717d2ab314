"""What a model must not fall below whatever it gains in means: lesions it keeps, and the time it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.ingest.dataset import COLLECTION
from components.ingest.phantom import PhantomConfig, subject_volume
from model.fuser import Fuser
from model.lesions import lesion_retention

HEADS = PhantomConfig(subjects=3, slices=4, seed=20)
"""Heads that no training has: pipelines draw the phantom by their own seed, 3407 unless told."""
LESIONS = {"CT": "ct_lesion", "MRI": "mri_lesion"}
TIMED = 5

Slice = tuple[Tensor, Tensor, dict[str, Tensor]]
Row = dict[str, list[float]]


def measure_floors(fuser: Fuser, collection: str, strategy: str) -> dict[str, Any]:
    """What the gate's floors need of a model: {"lesions", "seconds"}.

    "lesions" is the mean share of contrast kept of the phantom's lesions, by the modality that shows them; None where
    the model is not for CT and MR, which alone the phantom has. "seconds" is the fastest of five fusions of a 256x256
    pair, so that other work on the machine counts little.
    """
    slices, seconds = list(phantom_slices(HEADS)), []
    for ct, mr, _ in slices[:TIMED]:
        start = time.perf_counter()
        fuser.fuse_each(ct, mr, [strategy])[strategy].cpu()
        seconds.append(time.perf_counter() - start)
    lesions = None
    if collection == COLLECTION:
        kept = lesions_kept(lambda ct, mr: fuser.fuse_each(ct, mr, [strategy]), slices)[strategy]
        lesions = {shown_by: round(fmean(kept[name]), 6) for shown_by, name in LESIONS.items()}
    return {"lesions": lesions, "seconds": round(min(seconds), 6)}


def phantom_slices(config: PhantomConfig) -> Iterator[Slice]:
    """The phantom's slices that show a lesion: CT and MR (1, 1, H, W) in [0, 1], and the masks of the truth."""
    for index in range(config.subjects):
        for pair in subject_volume(config, index):
            if pair.truth["ct_lesion"].any() or pair.truth["mri_lesion"].any():
                ct, mr = (torch.from_numpy(x.astype(np.float32) / 255)[None, None] for x in (pair.ct, pair.mri))
                yield ct, mr, {name: torch.from_numpy(mask)[None, None] for name, mask in pair.truth.items()}


def lesions_kept(
    fuse: Callable[[Tensor, Tensor], dict[str, Tensor]],
    slices: Iterable[Slice],
) -> dict[str, Row]:
    """Per method, the share of contrast kept of every lesion that CT ("ct_lesion") or MR ("mri_lesion") shows."""
    rows: dict[str, Row] = {}
    for ct, mr, truth in slices:
        for name, fused in fuse(ct, mr).items():
            for lesion, source, other in (("ct_lesion", ct, "mri_lesion"), ("mri_lesion", mr, "ct_lesion")):
                kept = float(lesion_retention(fused, source, truth[lesion], truth["bone"] | truth[other]))
                values = rows.setdefault(name, {}).setdefault(lesion, [])
                if not math.isnan(kept):
                    values.append(kept)
    return rows

"""The few test pairs that a report shows, chosen to say much, and their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from components.evaluate.page import png
from model.images import join_bytes
from model.pairs import PackedPairs

PICTURES = 6

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """The images of one pair, uint8 (H, W) each, or (H, W, 3) where it is in colour.

    `a` is of the first modality, `b` of the second; `fused` goes by the name of the method. So does `shares`, the
    weight of `a`, (H, W) in [0, 1], under the methods that decide it.
    """

    pair: str
    subject: str
    slice: int
    both_lesions: bool
    a: np.ndarray
    b: np.ndarray
    fused: dict[str, np.ndarray]
    shares: dict[str, np.ndarray] = field(default_factory=dict)


def both_lesions(packed_folder: Path) -> np.ndarray | None:
    """Which test pairs show a CT and an MRI lesion, bool (N,); None where there is no ground truth."""
    path = packed_folder / "test_truth.npz"
    if not path.exists():
        return None
    with np.load(path) as truth:
        both: np.ndarray = truth["ct_lesion"].any(axis=(1, 2)) & truth["mri_lesion"].any(axis=(1, 2))
    return both


def choose(entries: Sequence[dict[str, Any]], lesions: np.ndarray | None, count: int = PICTURES) -> list[int]:
    """Positions of `count` pairs to show, spread over the subjects and their slices; both lesions in one go first."""
    by_subject: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        by_subject.setdefault(str(entry["subject"]), []).append(position)
    groups = [by_subject[subject] for subject in _spread(list(by_subject), count)]
    chosen: list[int] = []
    for order, group in enumerate(groups):
        share = count // len(groups) + (order < count % len(groups))
        telling = [position for position in group if lesions is not None and lesions[position]]
        chosen += _spread(telling or group, share)
    return sorted(chosen)


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, each from the middle of one of as many equal stretches."""
    if len(items) <= count:
        return list(items)
    return [items[int((step + 0.5) * len(items) / count)] for step in range(count)]


def take(
    pairs: PackedPairs,
    position: int,
    lesions: np.ndarray | None,
    kept: dict[str, dict[int, np.ndarray]],
    shares: dict[str, np.ndarray],
) -> Picture:
    """The pair at that position with what each method of `kept` made of it, in the colour of the first image."""
    entry = pairs.entries[position]
    a, b = np.array(pairs.images[position])

    def coloured(luma: np.ndarray) -> np.ndarray:
        return luma if pairs.chroma is None else join_bytes(luma, pairs.chroma[position])

    return Picture(
        pair=str(entry["name"]),
        subject=str(entry["subject"]),
        slice=int(entry["slice"]),
        both_lesions=bool(lesions is not None and lesions[position]),
        a=coloured(a),
        b=b,
        fused={name: coloured(images[position]) for name, images in kept.items()},
        shares=shares,
    )


def for_page(picture: Picture, methods: Sequence[tuple[str, str]], candidate: str = "") -> dict[str, Any]:
    """A picture as a page shows it: images as addresses that hold them, the fused ones by method, name and title."""
    fused = [
        {"name": name, "title": title, "candidate": name == candidate, "png": png(picture.fused[name])}
        for name, title in methods
    ]
    known = {name: getattr(picture, name) for name in ("pair", "subject", "slice", "both_lesions")}
    return {**known, "a": png(picture.a), "b": png(picture.b), "fused": fused}

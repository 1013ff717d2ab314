"""The pairs that `fusion view` shows: two images, two folders of images of the same names, or two volumes by slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.evaluate.viewer.scene import DEEPEST, Side
from components.ingest.contact_sheet import spread
from model.errors import InputError, one_line
from model.images import Picture, join_colour
from model.modality import Evidence
from model.volumes import OTHER, Volume, shown
from pipelines.fuse import read_pictures
from pipelines.fuse_folders import are_folders, images_of_same_names
from pipelines.fuse_volumes import are_volumes, read_volumes

MAX_PIXELS = 2**27
"""Of all images of a page together; it has about a byte for each."""

_VOLUME_LEVELS = 4095
_LONGEST_LABEL = 16


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair: its name, both images (1, 1, H, W) in [0, 1] as they are fused, the colour of the one that has any, and
    both as they are shown, levels (H, W) or colours (H, W, 3)."""

    name: str
    a: Tensor
    b: Tensor
    chroma: Tensor | None
    images: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Sources:
    """What is to be viewed: its title, how the levels of both sources are read, and the pairs, one after the other."""

    title: str
    sides: tuple[Side, Side]
    pairs: Sequence[Pair]
    deep: bool = False
    aspect: float = 1
    millimetres: float = 0
    notes: tuple[str, ...] = ()


def read_sources(a: Path, b: Path, most: int, images_a_pair: int, window: str | None, keep_order: bool) -> Sources:
    """Read what two paths lead to, at most `most` pairs or slices, spread evenly; `images_a_pair` a page will hold.

    Raises InputError for anything the user can mend, such as more than `MAX_PIXELS` in all.
    """
    if most < 1:
        raise InputError(f"--pairs is {most}; give at least 1")
    if are_volumes(a, b):
        return _volumes(a, b, most, images_a_pair, window, keep_order)
    for option, value in (("--window", window), ("--keep-order", keep_order or None)):
        if value is not None:
            raise InputError(f"{option} is for volumes, and {a} is none; leave it out")
    if not are_folders(a, b):
        labels = _labels(a, b)
        title = f"{a.name}, {' and '.join(labels)}" if a.name == b.name else f"{a.name} and {b.name}"
        return _pictures([(a, b)], labels, title, images_a_pair, ())
    named, alone = images_of_same_names(a, b)
    chosen = spread(named, most)
    notes = [f"{len(chosen)} of {len(named)} pairs, spread evenly."] if len(chosen) < len(named) else []
    notes += [f"{alone} images without a partner of the same name are left out."] if alone else []
    return _pictures(chosen, _labels(a, b), f"{a.name} and {b.name}", images_a_pair, tuple(notes))


def normalised(sources: Sources, levels: tuple[tuple[float, float], tuple[float, float]]) -> Sources:
    """The sources as a network takes them that was trained on normalised images; `levels` as of its configuration.

    They are shown through the same window at first, which the page takes for what was fused.
    """
    sides, said = [], []
    for side, (low, high) in zip(sources.sides, levels, strict=True):
        black, white = (side.black + share * (side.white - side.black) for share in (low, high))
        sides.append(replace(side, black=black, white=white))
        said.append(f"{side.label} {black:.4g} to {white:.4g}{side.unit and f' {side.unit}'}")
    pairs = [
        replace(pair, a=_stretched(pair.a, *levels[0]), b=_stretched(pair.b, *levels[1])) for pair in sources.pairs
    ]
    note = (
        f"Normalised as the network's training images were: {', '.join(said)} become black to white. So they are shown"
    )
    note += " at first, fused by every method and measured."
    return replace(sources, sides=(sides[0], sides[1]), pairs=pairs, notes=(*sources.notes, note))


def _stretched(image: Tensor, low: float, high: float) -> Tensor:
    return ((image - low) / (high - low)).clamp(0, 1)


def _pictures(
    paths: Sequence[tuple[Path, Path]], labels: tuple[str, str], title: str, images_a_pair: int, notes: tuple[str, ...]
) -> Sources:
    pictures: list[tuple[Picture, Picture]] = []
    pixels = 0
    for pair in paths:
        pictures.append(read_pictures(*pair))
        pixels += pictures[-1][0].luma.numel()
        _check_pixels(pixels * images_a_pair)
    deep = [any(pair[side].depth == 16 for pair in pictures) for side in (0, 1)]
    sides = [Side(label, *_grey(is_deep)) for label, is_deep in zip(labels, deep, strict=True)]
    pairs = [
        Pair(
            one_line(path.stem),
            first.luma[None],
            second.luma[None],
            first.chroma if first.chroma is not None else second.chroma,
            (_stored(first, sides[0].top), _stored(second, sides[1].top)),
        )
        for (path, _), (first, second) in zip(paths, pictures, strict=True)
    ]
    return Sources(one_line(title), (sides[0], sides[1]), pairs, deep=any(deep), notes=notes)


def _grey(deep: bool) -> tuple[int, float, float, str, float, float]:
    top = DEEPEST if deep else 255
    return top, 0, top, "", 0, top


def _stored(picture: Picture, top: int) -> np.ndarray:
    """The levels as the page holds them; colours only where the others of that source have 8 bits too."""
    if picture.chroma is not None and top == 255:
        return levels_of(join_colour(picture.luma, picture.chroma).movedim(0, -1), top)
    return levels_of(picture.luma[0], top)


def levels_of(image: Tensor, top: int) -> np.ndarray:
    """An image in [0, 1] as whole levels up to `top`, uint8 or uint16."""
    levels: np.ndarray = (image.double().clamp(0, 1) * top).round().cpu().numpy()
    return levels.astype(np.uint8 if top <= 255 else np.uint16)


def _volumes(a: Path, b: Path, most: int, images_a_pair: int, window: str | None, keep_order: bool) -> Sources:
    pair, limits, told = read_volumes(a, b, window, keep_order)
    volumes = pair.first, pair.second
    lit = [
        number
        for number in range(len(volumes[0].pixels))
        if any(_lit(*each, number) for each in zip(volumes, limits, strict=True))
    ]
    if not lit:
        raise InputError(f"{a} and {b} are black in every slice as they are shown; give another --window")
    chosen = spread(lit, most)
    _check_pixels(len(chosen) * volumes[0].pixels[0].size * images_a_pair)
    sides = [_side(*each) for each in zip(volumes, limits, _volume_labels(told), strict=True)]
    pairs = list(_slices(volumes, limits, sides, chosen))
    notes = [f"First: {told[0]}. Second: {told[1]}, {pair.how}."]
    if len(chosen) < len(volumes[0].pixels):
        notes.append(f"{len(chosen)} of {len(volumes[0].pixels)} slices, spread evenly over those that are not black.")
    x, y, _ = volumes[0].spacing
    title = one_line(f"{a.name} and {b.name}")
    return Sources(title, (sides[0], sides[1]), pairs, aspect=y / x, millimetres=x, notes=tuple(notes))


def _lit(volume: Volume, limits: tuple[float, float], number: int) -> bool:
    return bool(shown(volume.pixels[number], limits).any())


def _side(volume: Volume, limits: tuple[float, float], label: str) -> Side:
    """Whole values are kept as they are; others become 4096 levels."""
    low, high = float(volume.pixels.min()), float(volume.pixels.max())
    black, white = limits if limits[1] > limits[0] else (low, low + 1)
    unit = "HU" if volume.is_ct else ""
    if high - low <= DEEPEST and all((image == np.rint(image)).all() for image in volume.pixels):
        top = max(255, int(high - low))
        return Side(label, top, low, low + top, unit, black, white)
    return Side(label, _VOLUME_LEVELS, low, high, unit, black, white)


def _slices(
    volumes: tuple[Volume, Volume], limits: Sequence[tuple[float, float]], sides: Sequence[Side], chosen: Sequence[int]
) -> Iterator[Pair]:
    for number in chosen:
        fused, stored = [], []
        for volume, limit, side in zip(volumes, limits, sides, strict=True):
            image = volume.pixels[number]
            fused.append(torch.from_numpy(shown(image, limit))[None, None])
            share = (image.astype(np.float64) - side.low) / (side.high - side.low)
            stored.append(levels_of(torch.from_numpy(share), side.top))
        yield Pair(f"Slice {number + 1}", fused[0], fused[1], None, (stored[0], stored[1]))


def _check_pixels(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise InputError(
            f"the page would hold {pixels / 2**20:.0f} million pixels, and {MAX_PIXELS / 2**20:.0f} are the most; give "
            "fewer --pairs, --methods or strategies"
        )


def _labels(a: Path, b: Path) -> tuple[str, str]:
    """What the two are called: their names without ending, or their folders' where these are the same."""
    for names in ((a.stem, b.stem), (a.resolve().parent.name, b.resolve().parent.name)):
        if names[0] != names[1] and all(names):
            return _short(names[0]), _short(names[1])
    return "First", "Second"


def _volume_labels(told: tuple[Evidence, Evidence]) -> tuple[str, str]:
    first, second = ("" if each.code == OTHER else str(each).partition(",")[0] for each in told)
    return (first or "First", second or "Second") if first != second else ("First", "Second")


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"

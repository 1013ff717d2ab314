"""The contact sheet: a few pairs of every collection in one picture, modality above modality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, MARGIN, LABELS, HEAD, CAPTION = 128, 6, 24, 72, 40, 22
_PAPER, _INK, _MUTED = (16, 18, 20), (232, 234, 231), (150, 160, 168)

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One pair: its name, and its images from top to bottom."""

    name: str
    images: tuple[Image.Image, ...]


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, each from the middle of one of as many equal stretches."""
    if len(items) <= count:
        return list(items)
    return [items[int((step + 0.5) * len(items) / count)] for step in range(count)]


def draw_sheet(collections: Sequence[tuple[str, tuple[str, ...], Sequence[Cell]]]) -> Image.Image:
    """Draw (collection, its modalities, pairs to show) blocks one below the other."""
    columns = max(len(cells) for _, _, cells in collections)
    width = 2 * MARGIN + LABELS + columns * (SIDE + GAP) - GAP
    heights = [HEAD + len(modalities) * (SIDE + GAP) + CAPTION for _, modalities, _ in collections]
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + MARGIN * (len(heights) - 1)), _PAPER)
    top = MARGIN
    for (name, modalities, cells), height in zip(collections, heights, strict=True):
        _draw_block(sheet, top, name, modalities, cells)
        top += height + MARGIN
    return sheet


def _draw_block(sheet: Image.Image, top: int, name: str, modalities: tuple[str, ...], cells: Sequence[Cell]) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, top + HEAD / 2 - 6), name, fill=_INK, font=ImageFont.load_default(20), anchor="lm")
    small = ImageFont.load_default(14)
    for row, modality in enumerate(modalities):
        middle = top + HEAD + row * (SIDE + GAP) + SIDE / 2
        draw.text((MARGIN, middle), modality, fill=_MUTED, font=small, anchor="lm")
    for column, cell in enumerate(cells):
        left = MARGIN + LABELS + column * (SIDE + GAP)
        for row, image in enumerate(cell.images):
            sheet.paste(_fitted(image), (left, top + HEAD + row * (SIDE + GAP)))
        below = top + HEAD + len(modalities) * (SIDE + GAP) + CAPTION / 2 - 2
        draw.text((left + SIDE / 2, below), cell.name, fill=_MUTED, font=small, anchor="mm")


def _fitted(image: Image.Image) -> Image.Image:
    """The image on a black square, in its own proportions."""
    square = Image.new("RGB", (SIDE, SIDE))
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    square.paste(shown, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square

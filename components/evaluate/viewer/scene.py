"""What the viewer shows, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from components.evaluate.page import png, render

if TYPE_CHECKING:
    from components.evaluate.pictures import Picture

DEEPEST = 65535


@dataclass(frozen=True)
class Side:
    """How the levels of one kind of image are read: 0 to `top` stand for the values from `low` to `high`, in `unit`.

    `black` and `white` are the values that are shown so at first. Above 255, a level is stored in two bytes, see
    `deep_png`.
    """

    label: str
    top: int = 255
    low: float = 0
    high: float = 255
    unit: str = ""
    black: float = 0
    white: float = 255


@dataclass(frozen=True)
class Shown:
    """One pair: its images as addresses of PNG files, "data:..." or "#" and the id of an <img> of the same page.

    `shares` has the weight of the first source under the methods that decide it: a number for the whole image, or the
    address of a map, 0 to 255. For the others the page estimates it. `values` are measures, ready to print.
    """

    name: str
    a: str
    b: str
    fused: dict[str, str]
    shares: dict[str, float | str] = field(default_factory=dict)
    values: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """Pairs with the same two kinds of sources, fused by the same methods: name and title each, the first chosen first.

    `measures` are the headings of every pair's values; `aspect` is a pixel's height over its width and `millimetres`
    its width, 0 where nobody knows; `notes` are sentences on where the images come from.
    """

    title: str
    a: Side
    b: Side
    methods: Sequence[tuple[str, str]]
    pairs: Sequence[Shown]
    fused: Side = field(default_factory=lambda: Side("Fused"))
    measures: Sequence[str] = ()
    aspect: float = 1
    millimetres: float = 0
    notes: Sequence[str] = ()

    def for_page(self) -> dict[str, Any]:
        """What the page's program reads, as plain JSON values."""
        return {
            "sides": {name: asdict(getattr(self, name)) for name in ("a", "b", "fused")},
            "methods": [{"name": name, "title": title} for name, title in self.methods],
            "pairs": [asdict(pair) for pair in self.pairs],
            "aspect": self.aspect,
            "millimetres": self.millimetres,
        }


def render_viewer(scene: Scene) -> str:
    """The viewer as HTML text that loads nothing from anywhere; the same scene gives the same text."""
    return render("viewer/view.html.j2", scene=scene)


def deep_png(levels: np.ndarray) -> str:
    """Levels (H, W) up to 65535 as the address of an RGB image: their high bytes are its red, their low ones green."""
    high, low = (levels >> 8).astype(np.uint8), (levels & 255).astype(np.uint8)
    return png(np.stack([high, low, np.zeros_like(low)], axis=-1))


def share_address(share: np.ndarray) -> float | str:
    """A weight (H, W) in [0, 1] as one number where it is the same everywhere, else as the address of its map."""
    if share.max() - share.min() < 1e-6:
        return round(float(share.mean()), 4)
    return png((share.clip(0, 1) * 255).round().astype(np.uint8))


def scene_of_pictures(
    title: str,
    modalities: tuple[str, str],
    methods: Sequence[tuple[str, str]],
    pictures: Sequence[Picture],
    measures: Sequence[str | Markup],
    values: dict[str, dict[str, list[str]]],
    notes: Sequence[str] = (),
) -> Scene:
    """The pictured pairs of a report, whose images the viewer takes from the <img> elements of that page."""
    return Scene(
        title,
        Side(modalities[0]),
        Side(modalities[1]),
        methods,
        [
            Shown(
                f"Subject {picture.subject}, slice {picture.slice}",
                f"#picture-{picture.pair}-a",
                f"#picture-{picture.pair}-b",
                {name: f"#picture-{picture.pair}-{name}" for name, _ in methods},
                {name: share_address(share) for name, share in picture.shares.items()},
                values[picture.pair],
            )
            for picture in pictures
        ],
        measures=measures,
        notes=notes,
    )

"""Says who the people of the phantom are: the size of each head, what is ill in it, and how the scanners saw it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]

# The radius from front to back that a lesion of each kind may have, in mm.
RADIUS_MM = {"oedema": (19.0, 25.0), "tumour": (13.0, 17.0), "haemorrhage": (10.0, 15.0), "calcification": (6.5, 9.0)}


@dataclass(frozen=True)
class Focus:
    """One blob of a lesion: its kind, centre and radii in mm."""

    kind: str
    centre: Point
    radii: Point


@dataclass(frozen=True)
class Subject:
    """The facts of one head: lengths in mm, angles in degrees, ct_window as (lowest, width) in Hounsfield units.

    scale and ventricle_scale are factors; lime is how far harmless calcifications outgrow their usual size.
    mr_bias is the strength of the coil's shading; mr_shift is (right, down) in pixels of an image of 256 x 256.
    A pixel of the MR image at p shows the point R(mr_rotation) (p - c) + c + mr_shift of the CT image, c its centre.
    """

    subject: str
    scale: Point
    rotation: float
    offset: tuple[float, float]
    ventricle_scale: float
    sulcus_width: float
    skull_thickness: float
    lime: float
    ct_window: tuple[float, float]
    mr_rotation: float
    mr_shift: tuple[float, float]
    mr_bias: float
    mri_lesion: tuple[Focus, ...]
    ct_lesion: tuple[Focus, ...]


def draw_subject(seed: int, index: int) -> Subject:
    """Subject `index` (0, 1, ...), drawn from the seed and the index alone; each modality has a lesion of its own."""
    rng = np.random.default_rng([seed, index])

    def draw(low: float, high: float) -> float:
        return round(float(rng.uniform(low, high)), 3)

    def focus(kind: str, side: float, y: float, z: float, height: float) -> Focus:
        low, high = RADIUS_MM[kind]
        centre = (side * draw(27, 38), round(y + draw(-7, 7), 3), round(z + draw(-3, 3), 3))
        return Focus(kind, centre, (draw(0.7 * low, 0.8 * high), draw(low, high), round(height + draw(0, 5), 3)))

    # Every draw moves the generator on: the order of the lines from here on is part of the data.
    side = 1.0 if rng.random() < 0.5 else -1.0
    wet = ("oedema", "tumour")[int(rng.integers(2))]
    dense = ("haemorrhage", "calcification")[int(rng.integers(2))]
    front, back = draw(-34, 34), draw(-30, 30)
    return Subject(
        subject=str(101 + index),
        scale=(draw(0.93, 1.05), draw(0.93, 1.05), draw(0.96, 1.06)),
        rotation=draw(-6, 6),
        offset=(draw(-4, 4), draw(-6, 0)),
        ventricle_scale=draw(0.65, 1.35),
        sulcus_width=draw(0.35, 1.15),
        skull_thickness=draw(5.2, 7.6),
        lime=draw(-2.5, 0.6),
        ct_window=(draw(-24, -12), draw(104, 152)),
        mr_rotation=draw(-0.8, 0.8),
        mr_shift=(draw(-1.2, 1.2), draw(-1.2, 1.2)),
        mr_bias=draw(0.08, 0.18),
        mri_lesion=(
            focus(wet, side, front, 12, 24),
            focus("oedema", side, front - math.copysign(14, front), 40, 14),
            focus("tumour", side, draw(-6, 4), -28, 11),
        ),
        ct_lesion=(
            focus(dense, -side, back, 10, 20),
            focus("calcification", -side, back - math.copysign(16, back), 38, 15),
            focus("calcification", -side, draw(-6, 4), -24, 11),
        ),
    )

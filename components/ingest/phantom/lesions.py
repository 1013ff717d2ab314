"""Paints the lesions of a head: each shows in one modality and hides in the other, so that a fusion must keep both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.ingest.phantom.canvas import Array, Canvas, coverage
from components.ingest.phantom.subject import Focus

# What a lesion shows in its own modality (T2 signal or Hounsfield units), and how ragged its outline is.
LESIONS = {"oedema": (182, 0.28), "tumour": (196, 0.15), "haemorrhage": (70, 0.16), "calcification": (190, 0.22)}


def paint_lesions(head: Canvas) -> dict[str, NDArray[np.bool_]]:
    """Paints fluid in brain on MR and blood or lime on CT; returns the masks mri_lesion and ct_lesion (H, W)."""
    brain = head.holds("white", "grey", "pallidum", "stem")
    ragged = head.smooth_noise(0.6, 16) + 0.5 * head.smooth_noise(1.4, 20)
    grain = head.smooth_noise(1.1, 11) + head.smooth_noise(1.9, 15)
    masks = {}
    for name, foci, image, edge in (
        ("mri_lesion", head.subject.mri_lesion, head.mri, 2.6),
        ("ct_lesion", head.subject.ct_lesion, head.ct, 1.3),
    ):
        masks[name] = np.zeros(image.shape, dtype=bool)
        for focus in foci:
            if abs(head.z - focus.centre[2]) > 1.7 * focus.radii[2]:
                continue
            depth = _focus_depth(head, focus, ragged)
            cover = coverage(depth, edge) * brain
            image += cover * (_shown(focus.kind, depth, grain) - image)
            masks[name] |= cover > 0.5
    return masks


def _shown(kind: str, depth: Array, grain: Array) -> Array:
    value = LESIONS[kind][0]
    if kind == "tumour":
        # A tumour is solid, hence darker, within its wet rim.
        return value - 42 * coverage(depth - 4, 4) + 8 * grain
    return value * (1 + 0.04 * grain)


def _focus_depth(head: Canvas, focus: Focus, ragged: Array) -> Array:
    x = (head.x - focus.centre[0]) / focus.radii[0]
    y = (head.y - focus.centre[1]) / focus.radii[1]
    z = (head.z - focus.centre[2]) / focus.radii[2]
    size = min(focus.radii)
    depth = (1 - np.sqrt(x * x + y * y + z * z) + LESIONS[focus.kind][1] * ragged) * size
    if focus.kind == "oedema":
        # Oedema runs along the white matter and spares the cortex.
        depth = depth - 0.5 * size * head.holds("grey")
    return np.asarray(depth)

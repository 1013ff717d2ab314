"""The sheet on which one slice of a head is painted: coordinates, noise, depths inside simple shapes, and tissues.

Shapes are told by depth: the distance in mm inside their surface, negative outside.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.ingest.phantom.subject import Point, Subject

Array = NDArray[np.float64]
Cone = tuple[float, float, float, float]

FIELD_MM = 230.0
LATTICE, LATTICE_MM = 64, 3.8

# Hounsfield units and T2-weighted signal (0..255).
TISSUES: dict[str, tuple[float, float]] = {
    "air": (-1000, 0),
    "skin": (0, 78),
    "fat": (-85, 112),
    "muscle": (42, 42),
    "bone": (1300, 8),
    "marrow": (620, 62),
    "csf": (7, 208),
    "ventricle": (5, 222),
    "white": (28, 76),
    "grey": (36, 112),
    "pallidum": (36, 68),
    "stem": (31, 84),
    "falx": (52, 40),
    "vessel": (46, 14),
    "vitreous": (12, 228),
    "lens": (70, 60),
}
CODES = {name: code for code, name in enumerate(TISSUES)}


def fold_lattice(seed: int, index: int) -> Array:
    """Periodic Gaussian noise (64, 64, 64) of unit variance, with wavelengths near 23 mm at its spacing of 3.8 mm."""
    noise = np.random.default_rng([seed, index, 1]).standard_normal((LATTICE,) * 3)
    waves = np.fft.fftfreq(LATTICE)
    radius = np.sqrt(waves[:, None, None] ** 2 + waves[None, :, None] ** 2 + waves[None, None, : LATTICE // 2 + 1] ** 2)
    ring = np.exp(-(((radius * 23 / LATTICE_MM - 1) / 0.3) ** 2))
    field = np.fft.irfftn(np.fft.rfftn(noise) * ring, s=noise.shape, axes=(0, 1, 2))
    return np.asarray(field / field.std())


def coverage(depth: Array, edge: float) -> Array:
    """How much of each pixel a shape covers, in [0, 1], when its edge is `edge` mm wide."""
    return np.asarray(np.clip(0.5 + depth / edge, 0, 1))


class Canvas:
    """One slice being painted: ct in Hounsfield units, mri as T2 signal, labels by tissue, all (H, W).

    x, y (H, W) and z are where its pixels lie in the head, in mm; side is the distance from the midline, |x|.
    """

    def __init__(self, size: int, subject: Subject, folds: Array, height: float) -> None:
        self.subject, self.folds, self.pixel = subject, folds, FIELD_MM / size
        self.ct = np.full((size, size), -1000.0)
        self.mri = np.zeros((size, size))
        self.labels = np.zeros((size, size), dtype=np.uint8)
        steps = (np.arange(size) - (size - 1) / 2) * self.pixel
        right, front = steps[None, :] - subject.offset[0], -steps[:, None] - subject.offset[1]
        turn = math.radians(subject.rotation)
        self.x = (math.cos(turn) * right + math.sin(turn) * front) / subject.scale[0]
        self.y = (math.cos(turn) * front - math.sin(turn) * right) / subject.scale[1]
        self.z = height / subject.scale[2]
        # No head is symmetrical: both sides are bent a little, each in its own way.
        bend_x, bend_y = self.smooth_noise(0.17, 0), self.smooth_noise(0.17, 1)
        self.x, self.y = self.x + 1.3 * bend_x, self.y + 1.3 * bend_y
        self.side = np.abs(self.x)

    def paint(self, tissue: str, depth: Array, edge: float = 0.0) -> None:
        """Lays a tissue where depth (mm) is positive, with an edge `edge` mm wide, one pixel at least."""
        edge = max(edge, self.pixel)
        if depth.max() <= -edge / 2:
            return
        cover = coverage(depth, edge)
        hounsfield, signal = TISSUES[tissue]
        self.ct += cover * (hounsfield - self.ct)
        self.mri += cover * (signal - self.mri)
        self.labels[cover > 0.5] = CODES[tissue]

    def holds(self, *tissues: str) -> NDArray[np.bool_]:
        """Where (H, W) any of these tissues lies uppermost."""
        return np.isin(self.labels, [CODES[tissue] for tissue in tissues])

    def noise(self, x: Array, y: Array, z: Array | float) -> Array:
        """The subject's noise at points in mm, trilinear and periodic."""
        total: Array = np.zeros(x.shape)
        (left, left_share), (right, right_share) = _neighbours(x)
        for (layer, layer_share), (row, row_share) in product(_neighbours(z), _neighbours(y)):
            line = self.folds[layer, row, left] * left_share + self.folds[layer, row, right] * right_share
            total += line * (layer_share * row_share)
        return total

    def smooth_noise(self, rate: float, channel: int) -> Array:
        """The noise stretched by 1 / rate, sampled on a grid of 32 x 32; channels are far apart in it."""
        far = 61.7 * (channel + 1)
        step = self.x.shape[0] // 32
        x, y = (grid[step // 2 :: step, step // 2 :: step] * rate for grid in (self.x, self.y))
        coarse = self.noise(x + far, y - far, self.z * rate + 2 * far)
        resized = Image.fromarray(coarse.astype(np.float32)).resize(self.ct.shape, Image.Resampling.BICUBIC)
        return np.asarray(resized, dtype=np.float64)

    def slope(self, field: Array) -> Array:
        """How steeply a field (H, W) rises, per mm."""
        return np.asarray(np.hypot(*np.gradient(field, self.pixel)))

    def ellipsoid(self, centre: Point, radii: Point, turn: float = 0.0) -> Array:
        """Depth in mm, in the plane of the slice, inside an ellipsoid turned by degrees about z, in both halves."""
        x, y, z = self.side - centre[0], self.y - centre[1], self.z - centre[2]
        if abs(z) > radii[2]:
            return np.full(x.shape, -99.0)
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        u, v = cos * x + sin * y, cos * y - sin * x
        radius = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (z / radii[2]) ** 2)
        slope = np.hypot(u / radii[0] ** 2, v / radii[1] ** 2) + 1e-3
        return np.asarray((1 - radius) * radius / slope)

    def tubes(self, chain: tuple[Cone, ...], scale: float) -> Array:
        """Depth in mm inside a chain of round cones, (x, y, z, radius) at each joint, in both halves.

        The radii are taken times `scale`.
        """
        depth = np.full(self.x.shape, -99.0)
        for a, b in pairwise(chain):
            if not min(a[2], b[2]) - 12 < self.z < max(a[2], b[2]) + 12:
                continue
            dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
            x, y, z = self.side - a[0], self.y - a[1], self.z - a[2]
            t = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz), 0, 1)
            gap = np.sqrt((x - t * dx) ** 2 + (y - t * dy) ** 2 + (z - t * dz) ** 2)
            depth = np.maximum(depth, scale * (a[3] + t * (b[3] - a[3])) - gap)
        return depth


def _neighbours(along: Array | float) -> tuple[tuple[NDArray[np.int64], Array], tuple[NDArray[np.int64], Array]]:
    """The lattice points before and after each place along one axis (mm), each with its share in the mean."""
    place = np.asarray(along, dtype=np.float64) / LATTICE_MM
    floor = np.floor(place)
    cell, share = floor.astype(np.int64), place - floor
    return (cell % LATTICE, 1 - share), ((cell + 1) % LATTICE, share)

"""The two scanners of the phantom: what CT and MR make of a slice, with their blur, noise, shading and misregistration.

Strengths are those of an image of 256 x 256; other sizes are blurred and moved in proportion.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.ingest.phantom.subject import Subject

Array = NDArray[np.float64]


def image_ct(hounsfield: Array, subject: Subject, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Hounsfield units (H, W) as 8-bit grey through the subject's brain window, with blur and correlated noise."""
    noisy = hounsfield + rng.normal(0, 7.0, hounsfield.shape)
    low, width = subject.ct_window
    return _to_bytes((_blur(noisy, 0.8 * hounsfield.shape[0] / 256) - low) * (255 / width))


def image_mri(signal: Array, subject: Subject, rng: np.random.Generator) -> NDArray[np.uint8]:
    """T2 signal (H, W) as the second scanner sees it: moved, blurred, shaded by its coil, with Rician noise."""
    size = signal.shape[0]
    shade = _coil_shade(size, subject.mr_bias, rng)
    clean = _blur(_moved(signal, subject), 0.5 * size / 256) * shade
    real, imaginary = rng.normal(0, 1.9, (2, size, size))
    return _to_bytes((np.hypot(clean + real, imaginary) - 6.5) * 1.03)


def _moved(signal: Array, subject: Subject) -> Array:
    """The signal (H, W) turned and shifted by the subject's misregistration, bilinear."""
    size = signal.shape[0]
    angle = math.radians(subject.mr_rotation)
    cos, sin = math.cos(angle), math.sin(angle)
    right, down = (shift * size / 256 for shift in subject.mr_shift)
    # Pillow maps pixel centres at +0.5, and rotates about the corner.
    middle = (size - 1) / 2 + 0.5
    move = (
        cos, -sin, middle + right - cos * middle + sin * middle,
        sin, cos, middle + down - sin * middle - cos * middle,
    )  # fmt: skip
    image = Image.fromarray(signal.astype(np.float32))
    moved = image.transform((size, size), Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
    return np.asarray(moved, dtype=np.float64)


def _coil_shade(size: int, strength: float, rng: np.random.Generator) -> Array:
    """The coil's smooth gain (H, W) around 1: a random slope, and brighter towards the rim."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    a, b, c = rng.uniform(-1, 1, 3)
    return np.asarray(1 + strength * (a * x + b * y + c * x * y + 0.9 * (x * x + y * y) - 0.35))


def _to_bytes(grey: Array) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(grey, 0, 255)), dtype=np.uint8)


def _blur(image: Array, sigma: float) -> Array:
    """The image (H, W) under a Gaussian of `sigma` pixels, its edges repeated outwards."""
    reach = max(1, math.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        size = image.shape[axis]
        image = sum(tap * np.take(padded, range(i, i + size), axis) for i, tap in enumerate(taps))
    return image

"""Copies among many images: the same slice under another subject, even with noise or of another brightness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.validate.alignment import SIDE, Thumbnail

# The slow frequencies are what all heads share, the fast ones what noise changes.
_SLOWEST, _FASTEST = 9, 20
_ROWS = 2048

Descriptors = npt.NDArray[np.float32]

_ACROSS = np.arange(SIDE // 2 + 1)
_SQUARES = (np.fft.fftfreq(SIDE, 1 / SIDE) ** 2)[:, None] + _ACROSS**2
_BAND = (_SQUARES > _SLOWEST**2) & (_SQUARES <= _FASTEST**2)
# A real image's spectrum counts twice but for its first column.
_WEIGHTS = np.sqrt(np.broadcast_to(np.where(_ACROSS > 0, 2, 1), _BAND.shape)[_BAND])


def describe(image: Thumbnail) -> Descriptors:
    """A float32 vector (1026,) of unit length: the Fourier coefficients of 9 to 20 cycles an image.

    The product of two is the correlation of the band-passed images, blind to brightness and contrast.
    """
    band = np.fft.rfft2(image.astype(np.float32))[_BAND] * _WEIGHTS
    parts = np.concatenate((band.real, band.imag))
    length = np.linalg.norm(parts)
    return (parts / length if length > 1e-3 else np.zeros_like(parts)).astype(np.float32)


def nearest_copies(
    descriptors: Descriptors, subjects: npt.NDArray[np.intp], least: float
) -> dict[int, tuple[int, float]]:
    """For each of n images the most alike one of another subject and their correlation, where it is `least` or more.

    `descriptors` is (n, d), `subjects` (n,) numbers. Works in blocks of the upper triangle: time n^2 d, memory n d.
    """
    found: dict[int, tuple[int, float]] = {}
    for start in range(0, len(descriptors), _ROWS):
        alike = descriptors[start : start + _ROWS] @ descriptors[start:].T
        ones, others = (indices + start for indices in np.nonzero(alike >= least))
        apart = (ones < others) & (subjects[ones] != subjects[others])
        for one, other in zip(ones[apart].tolist(), others[apart].tolist(), strict=True):
            value = float(alike[one - start, other - start])
            for image, copy in ((one, other), (other, one)):
                found[image] = max(found.get(image, (copy, value)), (copy, value), key=lambda pair: pair[1])
    return found

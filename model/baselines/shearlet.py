"""The non-subsampled shearlet transform: an a-trous pyramid whose levels are split into directions.

Source: Easley, Labate, Lim, "Sparse directional image representations using the discrete shearlet transform", Applied
and Computational Harmonic Analysis 25(1), 2008. The pyramid's low-pass filter is the cubic B-spline (1 4 6 4 1) / 16 of
the a-trous algorithm; the paper leaves that choice open.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.errors import InputError

DIRECTIONS = (8, 4, 4)
_SIZES_KEPT = 8


@dataclass(frozen=True)
class ShearletTransform:
    """The transform with `directions[j]` directional bands on level j, the finest level first.

    No band is subsampled, and all filtering is circular: a circular shift of the image shifts every band alike. The
    filters of a level sum to the level's pass band and the levels sum to one, so that the image is the sum of its
    bands. Direction d of D passes the wave vectors (x along a row, y down a column) whose slope coordinate is near
    4 d / D: y / x in the cone around the x axis and 2 - x / y in that around the y axis, which runs evenly over [-1, 3)
    and there closes on itself. Direction 0 therefore holds upright edges and direction D / 2 level ones.
    """

    directions: tuple[int, ...] = DIRECTIONS

    def __post_init__(self) -> None:
        if not self.directions or min(self.directions) < 2:
            raise InputError(f"shearlet directions are {self.directions}; give 2 or more on each of 1 or more levels")

    @property
    def levels(self) -> list[int]:
        """The level of each directional band, 0 the finest, in the bands' order."""
        return [level for level, count in enumerate(self.directions) for _ in range(count)]

    @property
    def reach(self) -> int:
        """How far, in pixels, the low-pass filters of all levels together look to each side."""
        return 2 * ((1 << len(self.directions)) - 1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The low band and the directional bands, finest level first, of images (N, 1, H, W): all of that shape."""
        low, *bands = self.bands(image)
        return low, bands

    def inverse(self, low: Tensor, bands: Iterable[Tensor]) -> Tensor:
        """The images (N, 1, H, W) whose transform this is: the sum of all bands."""
        image = low.clone()
        for band in bands:
            image += band
        return image

    def bands(self, image: Tensor) -> Iterator[Tensor]:
        """What `forward` gives, band after band, the low one first: for images whose bands do not fit into memory."""
        height, width = image.shape[-2:]
        spectrum = torch.fft.rfft2(image)
        for response in self.responses(height, width, image.dtype, image.device):
            yield torch.fft.irfft2(spectrum * response, s=(height, width))

    def responses(
        self, height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The filters' real frequency responses (bands, H, W // 2 + 1) as `torch.fft.rfft2` orders them, low first.

        They are computed once for each of the last few sizes.
        """
        return _responses(self.directions, height, width, dtype, torch.device(device))


@lru_cache(maxsize=_SIZES_KEPT)
def _responses(
    directions: tuple[int, ...], height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    x, y = (2 * torch.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in (width, height))
    slope = _slope(x[None, :], y[:, None])
    low, bands = torch.ones(height, width, dtype=torch.float64), []
    for level, count in enumerate(directions):
        kept = low * _spline(x * 2**level)[None, :] * _spline(y * 2**level)[:, None]
        bands += [(low - kept) * window for window in _windows(slope, count)]
        low = kept
    # At the Nyquist frequency of an even side, w and -w are one sample but differ in slope; real bands need their mean.
    both = torch.stack([low, *bands])
    mirrored = both.flip(-2, -1).roll((1, 1), (-2, -1))
    return ((both + mirrored) / 2)[..., : width // 2 + 1].to(device, dtype).contiguous()


def _spline(frequency: Tensor) -> Tensor:
    """The response of (1 4 6 4 1) / 16 at angular frequencies in radians a sample."""
    return (frequency / 2).cos() ** 4


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope coordinate, in [-1, 3], of wave vectors; 0 at the origin, where no directional band passes anything."""
    return torch.where(y.abs() <= x.abs(), y / torch.where(x == 0, 1, x), 2 - x / torch.where(y == 0, 1, y))


def _windows(slope: Tensor, count: int) -> list[Tensor]:
    """Meyer windows over the slope coordinate around `count` even centres; they sum to one everywhere."""
    distances = [((slope - 4 * d / count + 2) % 4 - 2).abs() * count / 4 for d in range(count)]
    return [_meyer((1 - distance).clamp(min=0)) for distance in distances]


def _meyer(x: Tensor) -> Tensor:
    """Meyer's auxiliary polynomial, rising from 0 at 0 to 1 at 1 with v(x) + v(1 - x) = 1."""
    return x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)

"""Which images each process takes at each step, and the crops of them: so plain that training can resume anywhere."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model.pairs import PackedPairs


@dataclass(frozen=True)
class Share:
    """What one process takes through the network at once, as indices of single images.

    `corners` (n, 2) are the top left pixels of their crops and `flips` (n,) says which are mirrored. The shares of a
    step have `weight`s so that the mean over processes of the sums of weighted mean losses is the mean over all images.
    """

    indices: Tensor
    corners: Tensor
    flips: Tensor
    weight: float


@dataclass(frozen=True)
class Sampler:
    """A shuffle of `images` images an epoch, dealt out to `world` processes in `accumulate` batches of `batch` a step.

    Every image is taken once an epoch; the last step takes those that are left. It is a function of the seed, the epoch
    (from 1) and the step (from 0) alone. `slack` (rows, columns) is how far a crop can move.
    """

    images: int
    batch: int
    world: int = 1
    accumulate: int = 1
    slack: tuple[int, int] = (0, 0)
    seed: int = 0

    @property
    def images_a_step(self) -> int:
        """How many images all processes together take in a step."""
        return self.batch * self.world * self.accumulate

    @property
    def steps(self) -> int:
        """How many steps an epoch has."""
        return -(-self.images // self.images_a_step)

    def images_of(self, step: int) -> int:
        """How many images all processes together take at `step` (from 0) of an epoch."""
        return min(self.images_a_step, self.images - step * self.images_a_step)

    def epoch(self, epoch: int, rank: int = 0, first: int = 0) -> Iterator[list[Share]]:
        """The shares of the process `rank` at each step of an epoch from the step `first`."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.images, generator=generator)
        moves = [torch.randint(0, most + 1, (self.images,), generator=generator) for most in self.slack]
        corners, flips = torch.stack(moves, dim=1), torch.rand(self.images, generator=generator) < 0.5
        for step in range(first, self.steps):
            count = self.images_of(step)
            together = order[step * self.images_a_step :][:count]
            # A process that the last images do not reach takes one of another's along, without weight.
            mine = together[rank :: self.world]
            chunks = torch.split(mine, self.batch) if len(mine) else (together[:1],)
            yield [
                Share(chunk, corners[chunk], flips[chunk], len(chunk) * self.world / count if len(mine) else 0.0)
                for chunk in chunks
            ]


@dataclass(frozen=True)
class Singles:
    """Both modalities of a split, pooled into a set of single images: 2i is the first of pair i, 2i + 1 its second."""

    pairs: PackedPairs

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of every image."""
        height, width = self.pairs.images.shape[-2:]
        return height, width

    def pixels(self, indices: Tensor) -> Tensor:
        """The images at `indices` as they are stored, uint8 (n, H, W), on the CPU."""
        return torch.from_numpy(np.stack([self.pairs.images[i // 2, i % 2] for i in indices.tolist()]))


def crops(pixels: Tensor, corners: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """Crops (n, 1, *size) in [0, 1] of uint8 images (n, H, W), top left at `corners` (n, 2), some mirrored.

    All are on the device of `pixels`.
    """
    device = pixels.device
    rows, columns = (torch.arange(side, device=device) for side in size)
    x = torch.where(flips[:, None], columns.flip(0), columns) + corners[:, 1, None]
    y = rows + corners[:, 0, None]
    image = torch.arange(len(pixels), device=device)[:, None, None]
    return pixels[image, y[:, :, None], x[:, None, :]][:, None].float().div_(255)


def read_ahead(
    singles: Singles, steps: Iterator[list[Share]], device: torch.device, size: tuple[int, int]
) -> Iterator[list[tuple[Tensor, float]]]:
    """The batches (n, 1, *size) and weights of each step, on `device`; the next step's pixels are read meanwhile."""
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        coming = reader.submit(_read, singles, next(steps, None), device)
        while (ready := coming.result()) is not None:
            coming = reader.submit(_read, singles, next(steps, None), device)
            yield [(_crops_on(device, parts, size), parts.weight) for parts in ready]


@dataclass(frozen=True)
class _Read:
    """The whole images of a share, uint8 (n, H, W), and what of them is wanted."""

    pixels: Tensor
    corners: Tensor
    flips: Tensor
    weight: float


def _crops_on(device: torch.device, read: _Read, size: tuple[int, int]) -> Tensor:
    pixels, corners, flips = (part.to(device, non_blocking=True) for part in (read.pixels, read.corners, read.flips))
    return crops(pixels, corners, flips, size)


def _read(singles: Singles, shares: list[Share] | None, device: torch.device) -> list[_Read] | None:
    """The images of each share, in memory that a GPU can fetch from by itself."""
    if shares is None:
        return None
    read = [_Read(singles.pixels(share.indices), share.corners, share.flips, share.weight) for share in shares]
    if device.type == "cpu":
        return read
    return [_Read(r.pixels.pin_memory(), r.corners.pin_memory(), r.flips.pin_memory(), r.weight) for r in read]

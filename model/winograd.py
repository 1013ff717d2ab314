"""3x3 convolutions with fixed kernels by Winograd's minimal filtering F(4x4, 3x3), for training on a CPU.

A tile of 4x4 outputs takes 36 products a pair of channels instead of 144; its transforms cost as much as few channels
would save. Source: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016).
"""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

_TILE = 4  # outputs of a tile in one direction; it sees two more inputs
_SEEN = _TILE + 2
_TILES_AT_ONCE = 256  # whose transforms stay in the cache
_FEWEST_PRODUCTS = 64 * 128  # of channels in and out; below, the transforms cost what the products save

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class FixedKernel:
    """A 3x3 kernel (O, C, 3, 3) that no training changes, ready for both ways to convolve with it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor, bias: Tensor | None = None, fast: bool = False) -> Tensor:
        """The convolution of (N, C, H, W), padded by one; `fast` by products where that pays, exact up to rounding."""
        if fast and self.pays(x):
            return _winograd(x, self._transformed, bias)
        return F.conv2d(x, self.weight.to(x.dtype), bias, padding=1)

    def pays(self, x: Tensor) -> bool:
        """Whether Winograd's way can be taken and saves time: float32 on a CPU, whole tiles, enough channels."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        whole = x.shape[2] % _TILE == 0 and x.shape[3] % _TILE == 0
        return plain and whole and self.weight.shape[0] * self.weight.shape[1] >= _FEWEST_PRODUCTS

    @cached_property
    def _transformed(self) -> Tensor:
        """The kernel (36, C, O) of the products."""
        with torch.inference_mode(False), torch.no_grad():
            g = torch.tensor(_KERNEL, dtype=torch.float64)
            kernel = torch.einsum("ai,ocij,bj->abco", g, self.weight.double(), g)
            return kernel.flatten(0, 1).float().contiguous()


def _winograd(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    count, channels, height, width = x.shape
    out = torch.empty((count, kernel.shape[2], height, width), memory_format=torch.channels_last)
    into, back, across = _twofold(_INPUT), _twofold(_OUTPUT), width // _TILE
    rows = _TILE * max(1, _TILES_AT_ONCE // across)
    for image, result in zip(x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1), strict=True):
        padded = F.pad(image, (0, 0, 1, 1, 1, 1))
        for top in range(0, height, rows):
            part = result[top : top + rows]
            down = len(part) // _TILE
            tiles = padded[top : top + len(part) + 2].unfold(0, _SEEN, _TILE).unfold(1, _SEEN, _TILE)
            seen = into @ tiles.permute(3, 4, 0, 1, 2).reshape(_SEEN**2, -1)
            products = torch.bmm(seen.view(_SEEN**2, down * across, channels), kernel)
            made = (back @ products.view(_SEEN**2, -1)).view(_TILE, _TILE, down, across, -1)
            part.view(down, _TILE, across, _TILE, -1).copy_(made.permute(2, 0, 3, 1, 4))
    if bias is not None:
        out += bias[:, None, None]
    return out


def _twofold(transform: tuple[tuple[float, ...], ...]) -> Tensor:
    """The transform of rows and columns at once, of flattened tiles."""
    one = torch.tensor(transform, dtype=torch.float32)
    return torch.kron(one, one)

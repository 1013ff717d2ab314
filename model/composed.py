"""Three 3x3 convolutions without an activation between as one 7x7 convolution, exactly, for training.

A chain of convolutions is one convolution away from the border only, because each pads its own input with zeros; the
outermost three rows and columns are therefore computed layer by layer, on strips.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 32
"""Below this side the borders are most of the image, and the plain chain is as fast."""

_BORDER = 3  # the pixels within which padding tells
_SIDE = 2 * _BORDER + 1


class LinearChain(nn.Sequential):
    """Three 3x3 convolutions, the last to one channel: (N, C, H, W) to (N, 1, H, W), with fewer multiplications."""

    def forward(self, x: Tensor) -> Tensor:
        """What the layers give one after the other, in training up to rounding."""
        # Without a slope it stays the plain chain, which rounds equal pixels equally: the poster's entropy counts them.
        if min(x.shape[2:]) < SMALLEST or not torch.is_grad_enabled():
            plain: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return plain
        layers = [layer for layer in self if isinstance(layer, nn.Conv2d)]
        weights, biases = [layer.weight for layer in layers], [_bias(layer) for layer in layers]
        # In full precision whatever autocast asks: products of rounded kernels would be off by several roundings.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(weights[0].dtype)
            taps, constant = compose(weights, biases)
            image: Tensor = _Composed.apply(x, taps, constant, *weights, *biases)  # type: ignore[no-untyped-call]
        return image


def compose(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The taps (49, C) of the one kernel, last row and column first, and the constant () that the biases add."""
    kernel, constant = weights[0], biases[0]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        constant = weight.sum((2, 3)) @ constant + bias
        kernel = F.conv2d(kernel.transpose(0, 1), weight.flip(-1, -2), padding=2).transpose(0, 1)
    return kernel[0].flip(-1, -2).flatten(1).T.contiguous(), constant[0]


class _Composed(torch.autograd.Function):
    """The 7x7 convolution and its borders: 49 products a pixel, then each added where it counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, constant: Tensor, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, *layers)
        count, _, height, width = x.shape
        image = x.new_empty(count, 1, height, width)
        for part, out in _parts(x, image):
            products = torch.bmm(taps.expand(len(part), -1, -1), part.flatten(2))
            out.copy_(F.fold(products, (height, width), _SIDE, padding=_BORDER))
        image += constant
        for (dim, outer), edge in zip(_sides(), _edges(_strips(x), layers), strict=True):
            _edge(image, dim, outer, _BORDER).copy_(edge)
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, *layers = ctx.saved_tensors
        slope = slope.clone()
        edge_slopes: list[Tensor] = []
        # From the last written edge back: what an edge overwrote gets no gradient.
        for dim, outer in reversed(_sides()):
            edge = _edge(slope, dim, outer, _BORDER)
            edge_slopes.insert(0, edge.clone())
            edge.zero_()
        x_slope, taps_slope = torch.empty_like(x, memory_format=torch.channels_last), torch.zeros_like(taps)
        for part, part_slope, image in _parts(x, x_slope, slope):
            columns = F.unfold(image, _SIDE, padding=_BORDER)
            pixels = part_slope.permute(0, 2, 3, 1).flatten(1, 2)
            torch.bmm(columns.transpose(1, 2), taps.expand(len(part), -1, -1), out=pixels)
            taps_slope += torch.bmm(columns, part.flatten(2).transpose(1, 2)).sum(0)
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in (*_strips(x), *layers)]
            edges = _edges(leaves[:4], leaves[4:])
            slopes = torch.autograd.grad(edges, leaves, edge_slopes)
        for (dim, outer), strip_slope in zip(_sides(), slopes[:4], strict=True):
            _edge(x_slope, dim, outer, 2 * _BORDER).add_(strip_slope)
        return x_slope, taps_slope, slope.sum(), *slopes[4:]


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors image by image on a CPU, where what is made of one then stays in the cache, and whole elsewhere."""
    size = 1 if tensors[0].device.type == "cpu" else len(tensors[0])
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def _sides() -> list[tuple[int, bool]]:
    """Dimension and whether it is its end: top, bottom, left, right."""
    return [(2, False), (2, True), (3, False), (3, True)]


def _edge(x: Tensor, dim: int, end: bool, size: int) -> Tensor:
    return x.narrow(dim, x.shape[dim] - size if end else 0, size)


def _strips(x: Tensor) -> list[Tensor]:
    return [_edge(x, dim, end, 2 * _BORDER) for dim, end in _sides()]


def _edges(strips: Sequence[Tensor], layers: Sequence[Tensor]) -> list[Tensor]:
    """The outermost three rows and columns of the chain's output, of strips six wide.

    Three 3x3 layers see three pixels far: padded on its outer side only, each layer takes one off a strip's inner side.
    """
    edges = []
    weights, biases = layers[:3], layers[3:]
    for (dim, end), strip in zip(_sides(), strips, strict=True):
        outer = (0, 1) if end else (1, 0)
        pad, along = ((0, 0, *outer), (0, 1)) if dim == 2 else ((*outer, 0, 0), (1, 0))
        for weight, bias in zip(weights, biases, strict=True):
            strip = F.conv2d(F.pad(strip, pad), weight, bias, padding=along)
        edges.append(strip)
    return edges


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias

"""The exact forward pass for inference on a CPU: the same function as `model.network`, with a fifth of its arithmetic.

Two facts carry it. The multi-scale features m are, up to the normalisation's scale and shift, linear in three maps
(x, P(x) x, P(x)), and so is the residual k = c(m) + c(c(m)) + c(c(c(m))): one 17x17 convolution from 3 to 64 channels,
which is computed over short Fourier transforms along the rows. And the decoder is one 7x7 convolution. Both hold away
from the border only, because each convolution pads its own input with zeros; so the outermost three rows and columns
are computed layer by layer and put in place. Cost is linear in the number of pixels.

Images are held channels last, (H, W, C), one after the other and in bands of rows that stay in the cache: beside the
encodings themselves, 64 maps of one image and a few megabytes of scratch are all the memory it takes. Wherever 64
channels are spoken of, they are those of a network of the published width; any other is computed alike.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import DILATIONS, Encoder, Statistics

SMALLEST = 64
"""Below this side the borders are most of the image, and the plain forward pass is as fast."""

Moments = tuple[int, Tensor, Tensor]
"""The number of pixels of a band of features, and their mean (C,) and variance (C,)."""

_BAND = 32  # rows
_REACH = 8  # of the 17x17 kernel
_BORDER = 3  # the pixels within which padding tells
_TILE = 64
_LENGTH = _TILE + 2 * _REACH
_FREQUENCIES = _LENGTH // 2 + 1


class FastEncoder:
    """The encoder of a trained network, prepared for inference; its weights are read once."""

    def __init__(self, encoder: Encoder) -> None:
        self.norm, self.width = encoder.norm, encoder.norm.num_features
        lift, bias = encoder.lift.weight.flatten(), _bias(encoder.lift)
        self.mixing = torch.stack((torch.ones_like(bias), lift, bias))
        kernels, self.offset = encoder.collapsed()
        self.taps = torch.stack(kernels).permute(0, 2, 3, 4, 1).flatten(0, 3)
        reach = max(DILATIONS)
        self.spread = lift.new_zeros(self.width, 3, 2 * reach + 1, 2 * reach + 1)
        for dilation, kernel in zip(DILATIONS, kernels, strict=True):
            taps = slice(reach - dilation, reach + dilation + 1, dilation)
            self.spread[:, :, taps, taps] += kernel
        self.residual = encoder.residual
        self.flipped = encoder.residual.weight.flip(-1, -2).contiguous()
        self.synthesis = _synthesis().to(lift)
        angle = 2 * math.pi * _REACH / _LENGTH * torch.arange(_FREQUENCIES)
        self.turn = torch.polar(torch.ones_like(angle), angle)

    def __call__(self, images: Tensor, statistics: Statistics, scratch: Tensor | None = None) -> Tensor:
        """The encodings (N, 64, H, W), channels last, of images (N, 1, H, W) with even sides of 64 pixels or more.

        They are written into `scratch` if that is given, of shape (N + 1, H, W, 64): memory that the system need not
        hand out anew for each pair, which takes it a tenth of the time.
        """
        count, _, height, width = images.shape
        if scratch is None:
            scratch = images.new_empty(count + 1, height, width, self.width)
        m, encodings = scratch[count], scratch[:count]
        for image, encoding in zip(images[:, 0], encodings, strict=True):
            self._encode(image, statistics, m, encoding)
        return encodings.permute(0, 3, 1, 2)

    def _encode(self, x: Tensor, statistics: Statistics, m: Tensor, encoding: Tensor) -> None:
        """Encode the image (H, W); `m` (H, W, 64) is scratch."""
        mean = _pool(x[:, :, None])
        pooled = mean.relu()
        p = pooled.repeat_interleave(2, 0).repeat_interleave(2, 1)[:, :, 0]
        maps = torch.stack((x, p * x, p))
        scale, shift = self._normalisation(self._multi_scale(maps, m), statistics, self.offset)
        edges = _edges(m, [self.residual] * 3, every=True, scale=scale, shift=shift)
        moments = []
        for rows, k in self._residual(maps, scale, shift):
            band = torch.addcmul(shift, m[rows], scale, out=m[rows])
            _mend(k, edges, rows, len(m))
            _attend(band, k, _pool(band).relu_(), out=encoding[rows])
            moments.append(_moments(encoding[rows]))
        scale, shift = self._normalisation(moments, statistics, torch.zeros_like(shift))
        # Pooling is linear, and P(x) is constant over a pooled block, so shallow features are pooled as three maps are.
        pooled_maps = torch.cat((mean, pooled * mean, pooled), dim=2)
        for rows in _bands(len(m)):
            half = slice(rows.start // 2, rows.stop // 2)
            d = torch.addcmul(shift, encoding[rows], scale, out=encoding[rows])
            shallow = (maps[:, rows].flatten(1).T @ self.mixing).view_as(d)
            _attend(shallow, d, (pooled_maps[half] @ self.mixing).relu_(), out=d)

    def _multi_scale(self, maps: Tensor, out: Tensor) -> list[Moments]:
        """Put the reduced multi-scale features (H, W, 64), less their bias, of the three maps (3, H, W) into `out`, and
        give the moments of its bands."""
        reach, width = max(DILATIONS), maps.shape[2]
        padded = F.pad(maps, [reach] * 4)
        area, line, _ = padded.stride()
        memory, moments = maps.new_empty(len(self.taps), _BAND * width), []
        for rows in _bands(out.shape[0]):
            # One matrix product a band; its 81 columns are the taps of all dilations, each a shifted copy of a map.
            size = rows.stop - rows.start
            columns = memory[:, : size * width]
            for tap, dilation in zip(columns.view(len(DILATIONS), 3, 3, 3, size, width), DILATIONS, strict=True):
                start = (rows.start + reach - dilation) * line + reach - dilation
                steps = (area, dilation * line, dilation, line, 1)
                tap.copy_(padded.as_strided(tap.shape, steps, start))
            torch.mm(columns.T, self.taps, out=out[rows].view(-1, self.width))
            moments.append(_moments(out[rows]))
        return moments

    def _normalisation(self, moments: list[Moments], statistics: Statistics, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and shift (64,) that normalise features of these moments which lack the bias `offset`."""
        norm = self.norm
        if statistics == "stored":
            assert norm.running_mean is not None and norm.running_var is not None
            mean, variance = norm.running_mean - offset, norm.running_var
        else:
            mean, variance = _joined(moments)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return scale, norm.bias - scale * mean

    def _residual(self, maps: Tensor, scale: Tensor, shift: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Bands of rows and k (rows, W, 64) for them, right but for its border.

        By overlapping tiles along the rows: the Fourier transform of the three maps, for each frequency one matrix
        product over the 17 rows of the kernel, and the transform back.
        """
        height, width = maps.shape[1:]
        tiles = -(-width // _TILE)
        padded = F.pad(maps, (_REACH, tiles * _TILE - width + _REACH, _REACH, _REACH))
        spectra = torch.view_as_real(torch.fft.rfft(padded.unfold(2, _LENGTH, _TILE)))
        lines = spectra.permute(3, 2, 1, 0, 4).reshape(_FREQUENCIES, tiles, -1)
        windows = lines.unfold(2, (2 * _REACH + 1) * 6, 6)
        kernels = self._kernel_spectra(scale)
        constant = self._constant(shift) * _LENGTH
        count = _BAND * tiles
        inputs = maps.new_empty(_FREQUENCIES, _BAND, tiles, windows.shape[-1])
        products = maps.new_empty(2, _FREQUENCIES, count, self.width)
        outputs = maps.new_empty(count, _TILE, self.width)
        synthesis = self.synthesis.expand(count, -1, -1)
        for rows in _bands(height):
            size = rows.stop - rows.start
            inputs[:, :size] = windows[:, :, rows].transpose(1, 2)
            for product, kernel in zip(products, kernels, strict=True):
                torch.bmm(inputs.flatten(1, 2), kernel, out=product)
            products[0, 0] += constant
            # Tile by tile, so that the pixels come out in their order.
            torch.bmm(synthesis, products.flatten(0, 1).transpose(0, 1), out=outputs)
            yield rows, outputs.view(_BAND, tiles * _TILE, self.width)[:size, :width]

    def _kernel_spectra(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The 17x17 kernel's transform along its rows, as real matrices (frequency, row x map x part, 64) that give the
        real and the imaginary part of the product."""
        first = (self.spread * scale[:, None, None, None]).transpose(0, 1)
        kernel = F.conv2d(first, self.flipped, padding=2)
        for margin in (1, 2):
            kernel = F.conv2d(kernel + F.pad(first, [margin] * 4), self.flipped, padding=2)
        spectra = torch.fft.rfft(F.pad(kernel, (0, _LENGTH - kernel.shape[-1]))) * self.turn
        # Correlation multiplies by the conjugate: (a + bi)(c - di).
        c, d = (part.permute(3, 2, 0, 1) for part in (spectra.real, spectra.imag))
        return torch.stack((c, d), dim=3).flatten(1, 3), torch.stack((-d, c), dim=3).flatten(1, 3)

    def _constant(self, shift: Tensor) -> Tensor:
        """What the biases add to k (64,): m is a convolution of the maps plus a constant, and c keeps it so."""
        taps, bias = self.residual.weight.sum((2, 3)), _bias(self.residual)
        constant, total = shift, torch.zeros_like(shift)
        for _ in range(3):
            constant = taps @ constant + bias
            total += constant
        return total


class FastDecoder:
    """A decoder of three 3x3 convolutions without activations, prepared for inference; its weights are read once."""

    def __init__(self, decoder: nn.Sequential) -> None:
        self.layers = [layer for layer in decoder if isinstance(layer, nn.Conv2d)]
        first, *others = self.layers
        kernel, self.constant = first.weight, _bias(first)
        for layer in others:
            self.constant = layer.weight.sum((2, 3)) @ self.constant + _bias(layer)
            kernel = F.conv2d(kernel.transpose(0, 1), layer.weight.flip(-1, -2), padding=2).transpose(0, 1)
        self.side = kernel.shape[-1]
        self.taps = kernel[0].flatten(1).T.contiguous()

    def __call__(self, encodings: Tensor) -> Tensor:
        """The images (N, 1, H, W), not clamped, of encodings (N, 64, H, W) with sides of 64 pixels or more."""
        count, _, height, width = encodings.shape
        images = encodings.new_empty(count, height, width, 1)
        for encoding, image in zip(encodings, images, strict=True):
            pixels = encoding.permute(1, 2, 0)
            for rows in _bands(height):
                self._decode(pixels, rows, image[rows, :, 0])
            _mend(image, _edges(pixels, self.layers, every=False), slice(0, height), height)
        return images.permute(0, 3, 1, 2)

    def _decode(self, pixels: Tensor, rows: slice, out: Tensor) -> None:
        """Put the rows of the image, right but for its border, into `out` (rows, W), given the encoding (H, W, 64).

        The kernel's taps times each pixel of the rows and their neighbourhood are one product (tap, row, column); then
        each is shifted to the pixel that it counts for: by columns first, then by rows.
        """
        height, width, channels = pixels.shape
        reach = self.side // 2
        first, last = max(0, rows.start - reach), min(height, rows.stop + reach)
        products = self.taps @ pixels[first:last].reshape(-1, channels).T
        columns = products.view(self.side, self.side, last - first, width)
        lines = columns[:, reach].clone()
        for tap in range(self.side):
            if offset := tap - reach:
                size = width - abs(offset)
                lines.narrow(2, max(0, -offset), size).add_(columns[:, tap].narrow(2, max(0, offset), size))
        out[:] = self.constant
        for tap, line in enumerate(lines):
            start, stop = (min(max(row + tap - reach, first), last) for row in (rows.start, rows.stop))
            where = start - (tap - reach) - rows.start
            out[where : where + stop - start] += line[start - first : stop - first]


def _moments(band: Tensor) -> Moments:
    """The moments of a band (rows, W, C): cheap while it is in the cache."""
    return math.prod(band.shape[:2]), *torch.batch_norm_update_stats(band.permute(2, 0, 1)[None], None, None, 0.0)


def _joined(moments: list[Moments]) -> tuple[Tensor, Tensor]:
    """The mean and variance (C,) of all bands together, by Chan's formula."""
    counts = torch.tensor([count for count, _, _ in moments])[:, None]
    means, variances = (torch.stack(values) for values in list(zip(*moments, strict=True))[1:])
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _edges(
    source: Tensor, layers: list[nn.Conv2d], every: bool, scale: Tensor | None = None, shift: Tensor | None = None
) -> list[Tensor]:
    """The outermost three rows (top, bottom) and columns (left, right) of what the layers make of `source` (H, W, C).

    That is the last layer's output, or the sum of `every` layer's. Three 3x3 layers see three pixels far, so a strip
    six wide will do: padded on its outer side only, each layer takes one off its inner side.
    """
    batch, edges = source.permute(2, 0, 1)[None], []
    for dim, padding, inner in ((2, (0, 1), (0, 0)), (3, (1, 0), ())):
        for outer, start in (((1, 0), 0), ((0, 1), batch.shape[dim] - 2 * _BORDER)):
            strip, outputs = batch.narrow(dim, start, 2 * _BORDER), []
            if scale is not None and shift is not None:
                strip = torch.addcmul(shift[:, None, None], strip, scale[:, None, None])
            for layer in layers:
                strip = F.conv2d(F.pad(strip, (*inner, *outer)), layer.weight, layer.bias, padding=padding)
                outputs.append(strip.narrow(dim, outer[1] * (strip.shape[dim] - _BORDER), _BORDER))
            edge = torch.stack(outputs).sum(0) if every else outputs[-1]
            edges.append(_pixels(edge))
    return edges


def _mend(band: Tensor, edges: list[Tensor], rows: slice, height: int) -> None:
    """Put the edges of an image into the band (rows, W, C) of it."""
    top, bottom, left, right = edges
    band[:, :_BORDER], band[:, -_BORDER:] = left[rows], right[rows]
    for edge, first in ((top, 0), (bottom, height - _BORDER)):
        start, stop = max(rows.start, first), min(rows.stop, first + _BORDER)
        if start < stop:
            band[start - rows.start : stop - rows.start] = edge[start - first : stop - first]


def _bands(height: int) -> list[slice]:
    return [slice(start, min(start + _BAND, height)) for start in range(0, height, _BAND)]


def _attend(x: Tensor, y: Tensor, pooled: Tensor, out: Tensor) -> Tensor:
    """Put x + P(x) y into `out`, all (H, W, C), given the pooled and rectified x (H/2, W/2, C)."""
    blocks = (x.shape[0] // 2, 2, x.shape[1] // 2, 2, x.shape[2])
    torch.addcmul(x.view(blocks), pooled[:, None, :, None], y.view(blocks), out=out.view(blocks))
    return out


def _pool(x: Tensor) -> Tensor:
    """The mean of 2x2 blocks; (H, W, C) to (H/2, W/2, C)."""
    height, width, channels = x.shape
    blocks = x.reshape(height // 2, 2, width // 2, 2, channels)
    return (blocks[:, 0, :, 0] + blocks[:, 1, :, 0] + blocks[:, 0, :, 1] + blocks[:, 1, :, 1]).mul_(0.25)


def _pixels(batch: Tensor) -> Tensor:
    """One image of a batch, (1, C, H, W) channels last, as (H, W, C)."""
    return batch[0].permute(1, 2, 0)


def _synthesis() -> Tensor:
    """The inverse real Fourier transform of a tile without its overlap, as a matrix (pixel, part x frequency)."""
    pixel = torch.arange(_REACH, _REACH + _TILE, dtype=torch.float64)[:, None]
    frequency = torch.arange(_FREQUENCIES, dtype=torch.float64)
    angle = 2 * math.pi / _LENGTH * pixel * frequency
    weight = torch.where((frequency == 0) | (frequency == _LENGTH // 2), 1.0, 2.0) / _LENGTH
    return torch.cat((weight * angle.cos(), -weight * angle.sin()), dim=1)


def _bias(layer: nn.Module) -> Tensor:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias

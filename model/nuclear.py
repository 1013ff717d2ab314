"""The largest nuclear norm among an encoding's softmax maps: what SFNN weighs the two sources by."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_BAND, _SPARSE = 32, 16  # rows
_LIKELY = 16  # maps
_PARTS = 4
_ROUNDED = 1e-5
_ITERATIONS = 30


def softmax_nuclear_norm(encodings: Tensor) -> Tensor:
    """The largest nuclear norm (sum of singular values) among the 64 maps of each encoding's softmax over channels.

    (N, 64, H, W) gives (N,). Exact on a CPU, where only maps whose norm may be the largest are decomposed; within
    1e-3 of itself on an accelerator, where all of them are iterated together and nothing waits for the device.
    Source: Zhou, Xu, Zhang (arXiv 2212.04661, 2022).
    """
    if encodings.device.type != "cpu":
        return _nuclear_norms_by_products(encodings.float().softmax(1)).amax(1)
    return torch.stack([_largest(encoding.float().permute(1, 2, 0)) for encoding in encodings])


def _largest(encoding: Tensor) -> Tensor:
    """The largest nuclear norm of the softmax maps of one encoding (H, W, C), a scalar.

    The map that looks strongest on a few rows is decomposed first, and then only those whose upper bound exceeds what
    it has: the bound sqrt(min(H, W)) f by the Frobenius norm f leaves up to a dozen of 64, `_bounds` hardly ever one.
    The softmax is taken in bands of rows that stay in the cache, and of the likely maps alone it is kept.
    """
    bands = torch.split(encoding, _BAND)
    sample = encoding[:: min(_SPARSE, len(encoding))].softmax(2).square_().sum((0, 1))
    likely = sample.topk(min(_LIKELY, len(sample))).indices
    # A product with zeros and ones picks them, ten times as fast as indexing.
    pick = F.one_hot(likely, len(sample)).to(encoding)
    squares, rows = [], []
    for band in bands:
        maps = band.softmax(2)
        rows.append((pick @ maps.flatten(0, 1).T).view(-1, *maps.shape[:2]))
        squares.append(maps.square_().sum((0, 1)))
    kept = torch.cat(rows, dim=1)
    largest = _nuclear_norms(kept[:1])
    rival = torch.stack(squares).sum(0).sqrt() * math.sqrt(min(encoding.shape[:2])) > largest
    rivals = kept[1:][rival[likely[1:]]]
    rival[likely] = False
    if rival.any():
        rivals = torch.cat((rivals, torch.cat([band.softmax(2)[:, :, rival] for band in bands]).permute(2, 0, 1)))
    rivals = rivals[_bounds(rivals) > largest]
    return torch.cat((largest, _nuclear_norms(rivals))).amax().to(encoding.dtype)


def _bounds(maps: Tensor) -> Tensor:
    """An upper bound (C,) of the nuclear norm of each of the maps (C, H, W).

    For any V with orthonormal columns, M V V^T has the nuclear norm of M V, and what is left of M no more than
    sqrt(min(H, W)) times its Frobenius norm. V spans M^T M of a few columns that each cover a part of the width, so M V
    has nearly all of M's energy.
    """
    width = maps.shape[2]
    parts = torch.arange(width) * min(_PARTS, width) // max(width, 1)
    v = torch.linalg.qr(maps.mT @ (maps @ F.one_hot(parts).to(maps)))[0]
    seen = maps @ v
    energy, part = (torch.linalg.matrix_norm(x).square() for x in (maps, seen))
    # What float32 may have rounded away is added to the rest.
    rest = (energy - part).clamp_min(0) + _ROUNDED * energy
    bounds: Tensor = _nuclear_norms(seen) + (min(maps.shape[1:]) * rest).sqrt()
    return bounds


def _nuclear_norms(maps: Tensor) -> Tensor:
    """The nuclear norm of each of the maps (C, H, W), (C,) in float64.

    The singular values are the roots of the eigenvalues of M^T M, whose rounding in float64 leaves each of them right
    to 1e-8 of the largest: nearer than a decomposition in float32, at half its cost.
    """
    matrices = maps.double()
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.mT
    squares: Tensor = torch.linalg.eigvalsh(matrices @ matrices.mT)
    return squares.clamp_min(0).sqrt().sum(1)


def _nuclear_norms_by_products(maps: Tensor) -> Tensor:
    """The nuclear norms (N, C) of maps (N, C, H, W) by matrix products alone.

    With M = U S V^T, X <- (3 X - X X^T X) / 2 from X = M / |M|_F tends to U V^T, and n = <X, M>. A singular value's
    share grows by half each time, so those above 1e-5 of |M|_F are counted whole and smaller ones in part.
    """
    matrices = maps.mT if maps.shape[-2] > maps.shape[-1] else maps
    scale: Tensor = torch.linalg.matrix_norm(matrices, keepdim=True)
    x = matrices / scale.clamp_min(torch.finfo(maps.dtype).tiny)
    for _ in range(_ITERATIONS):
        x = 1.5 * x - 0.5 * (x @ x.mT) @ x
    return (x * matrices).sum((-2, -1))

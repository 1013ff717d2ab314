"""The largest nuclear norm among an encoding's softmax maps: what SFNN weighs the two sources by."""

import math

import torch
from torch import Tensor

_BAND, _SPARSE = 32, 16  # rows
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

    The Frobenius norm f bounds the nuclear norm by f <= n <= sqrt(min(H, W)) f. So the map that looks strongest on a
    few rows is decomposed first, and then only those whose upper bound exceeds what it has: after a softmax one or two
    of 64. The softmax is taken in bands of rows that stay in the cache; it is cheaper than the memory to keep it.
    """
    bands = torch.split(encoding, _BAND)
    strongest = encoding[:: min(_SPARSE, len(encoding))].softmax(2).square_().sum((0, 1)).argmax()
    squares, rows = [], []
    for band in bands:
        maps = band.softmax(2)
        rows.append(maps[:, :, strongest].clone())
        squares.append(maps.square_().sum((0, 1)))
    largest = _nuclear_norms(torch.cat(rows)[None])
    bounds = torch.stack(squares).sum(0).sqrt() * math.sqrt(min(encoding.shape[:2]))
    bounds[strongest] = 0
    if len(rivals := (bounds > largest).nonzero()[:, 0]):
        maps = torch.cat([band.softmax(2)[:, :, rivals] for band in bands])
        largest = torch.cat((largest, _nuclear_norms(maps.permute(2, 0, 1))))
    return largest.amax().to(encoding.dtype)


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

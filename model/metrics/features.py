"""Measures of how much the features of a source tell of those of the fused image, window by window: FMI."""

from functools import cache, reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.errors import InputError
from model.metrics.contrast import difference
from model.metrics.information import grey_levels
from model.metrics.similarity import check_shapes

SIDE = 3
CELLS = SIDE * SIDE
PATTERNS = 2**CELLS
EDGE_FACTOR = 4.0
# Windows worked on at once: their 9x9 joint tables should stay in a core's cache, a GPU wants more of them.
CHUNK, CUDA_CHUNK = 2048, 2**18


def fmi_edge(fused: Tensor, source: Tensor) -> Tensor:
    """FMI of the edge maps of `edge_map`: the mean over all 3x3 windows of 2 I / (H + H), as `fmi_pixel` defines it.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,), no unit, higher is better, between 0 and 1 for images, 1
    where the edge maps are the same. Binary windows are of 512 kinds, so that a table made once answers for any two,
    in float64. Raises InputError if the shapes are wrong or a side is below 3 pixels.
    Source: as for `fmi_pixel`.
    """
    check_shapes(fused, source)
    return compare_patterns(edge_patterns(fused), edge_patterns(source))


def edge_patterns(image: Tensor) -> Tensor:
    """The 3x3 windows of `edge_map` as numbers below 512, int64 (N, (H-2) * (W-2)); bit k of each is its place k."""
    check_shapes(image)
    _check_size(image, "fmi_edge")
    edges = edge_map(image).to(torch.int16)
    columns = edges[..., :-2, :] + 2 * edges[..., 1:-1, :] + 4 * edges[..., 2:, :]
    return (columns[..., :-2] + 8 * columns[..., 1:-1] + 64 * columns[..., 2:]).flatten(1).long()


def compare_patterns(one: Tensor, other: Tensor) -> Tensor:
    """`fmi_edge` (N,) of two images by their windows' numbers."""
    return _edge_table(one.device)[one * PATTERNS + other].mean(1)


def fmi_gradient(fused: Tensor, source: Tensor) -> Tensor:
    """FMI of the horizontal gradient, (x[i, j+1] - x[i, j-1]) / 2 and one-sided at the border; else as `fmi_pixel`.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,), no unit, higher is better, between 0 and 1 for images, 1
    where the gradients are the same. Raises InputError if the shapes are wrong or a side is below 3 pixels.
    Source: as for `fmi_pixel`; its public routine takes the horizontal gradient alone.
    """
    check_shapes(fused, source)
    _check_size(fused, "fmi_gradient")
    return _mean_over_windows(difference(grey_levels(fused), -1), difference(grey_levels(source), -1))


def fmi_pixel(fused: Tensor, source: Tensor) -> Tensor:
    """FMI, feature mutual information of the grey levels: the mean over all 3x3 windows of 2 I / (H(p) + H(q)).

    p and q are the two windows, read column by column, less their minimum, over their sum: distributions over the
    places 1..9. I = H(p) + H(q) - H(p, q) is the mutual information of the joint distribution
    (1 - t) p q + t U, U being the Frechet bound that gives the places the highest correlation they can have (the
    lowest, where the correlation c of the values p and q is negative), and t such that the places correlate by c.
    Where c is beyond U's own correlation, t exceeds 1 and cells of p, q become negative: these count
    -p log|p|, as the real part of the entropy that the authors' routine computes.
    A window counts 1 if it is the same in both images or flat in both, and 0 if it is flat in one.

    Two (N, 1, H, W) in [0, 1], rounded to 8 bits, give (N,), no unit, higher is better: 1 for identical images,
    between 0 and 1 for images in practice, though the negative cells allow more. In float32, to 1e-6. Raises InputError
    if the shapes are wrong or a side is below 3 pixels.
    Source: Haghighat, Aghagolzadeh, Seyedarabi, "A non-reference image fusion metric based on mutual information of
    image features", Computers and Electrical Engineering 37(5), 2011; Haghighat, Razian, "Fast-FMI: non-reference
    image fusion metric", IEEE AICT 2014.
    """
    check_shapes(fused, source)
    _check_size(fused, "fmi_pixel")
    return _mean_over_windows(grey_levels(fused), grey_levels(source))


def edge_map(image: Tensor) -> Tensor:
    """Where the edges are: a boolean (N, 1, H, W) of thinned Sobel edges, of images in [0, 1] rounded to 8 bits.

    The gradient is Sobel's over 8, the border replicated. An edge pixel has a squared gradient above four times its
    mean and no smaller than that of the neighbour before it, larger than that of the neighbour behind it, along x
    where |g_x| >= |g_y| or along y where |g_y| >= |g_x|. Beyond the border there is no gradient.
    Source: MATLAB's edge(image, "sobel"), which is what FMI's public routine calls.
    """
    # In whole numbers, eight times the gradient: every comparison below is exact, in float32 too.
    framed = pad(grey_levels(image).float(), (1, 1, 1, 1), mode="replicate")
    rows = framed[..., :-2, :] + 2 * framed[..., 1:-1, :] + framed[..., 2:, :]
    columns = framed[..., :-2] + 2 * framed[..., 1:-1] + framed[..., 2:]
    g_x = rows[..., 2:] - rows[..., :-2]
    g_y = columns[..., 2:, :] - columns[..., :-2, :]
    strength = g_x.square() + g_y.square()
    around = pad(strength, (1, 1, 1, 1))
    left, right = around[..., 1:-1, :-2], around[..., 1:-1, 2:]
    above, below = around[..., :-2, 1:-1], around[..., 2:, 1:-1]
    crest_x = (g_x.abs() >= g_y.abs()) & (left <= strength) & (strength > right)
    crest_y = (g_y.abs() >= g_x.abs()) & (above <= strength) & (strength > below)
    return (strength > EDGE_FACTOR * strength.double().mean((2, 3), keepdim=True)) & (crest_x | crest_y)


def _check_size(image: Tensor, name: str) -> None:
    height, width = image.shape[-2:]
    if min(height, width) < SIDE:
        raise InputError(f"FMI needs images of at least 3x3 pixels, not {width}x{height}; leave {name} out or enlarge")


def _windows(maps: Tensor) -> Tensor:
    """All 3x3 windows of (N, 1, H, W), column by column: (9, N * (H-2) * (W-2))."""
    height, width = (length - SIDE + 1 for length in maps.shape[-2:])
    places = [(row, column) for column in range(SIDE) for row in range(SIDE)]
    return torch.stack([maps[..., row : row + height, column : column + width].flatten() for row, column in places])


@cache
def _edge_table(device: torch.device) -> Tensor:
    """2 I / (H + H) of any two binary windows, float64 (512 * 512,): the one's number times 512 and the other's."""
    numbers = torch.arange(PATTERNS, device=device)
    windows = (numbers >> torch.arange(CELLS, device=device)[:, None] & 1).double()
    # Half of the square is enough: the measure is symmetric.
    one, other = torch.triu_indices(PATTERNS, PATTERNS, device=device)
    values = _information(windows[:, one], windows[:, other])
    table = torch.empty(PATTERNS, PATTERNS, dtype=torch.float64, device=device)
    table[one, other] = values
    table[other, one] = values
    return table.flatten()


def _mean_over_windows(fused: Tensor, source: Tensor) -> Tensor:
    values = _information(_windows(fused.float()), _windows(source.float()))
    return values.reshape(len(fused), -1).double().mean(1)


def _information(first: Tensor, second: Tensor) -> Tensor:
    """2 I / (H + H) for pairs of windows, (9, M) each, of the type of the windows: (M,)."""
    same = _nowhere(first != second)
    flat_first, flat_second = _flat(first), _flat(second)
    settled = same | flat_first | flat_second
    values = (same | (flat_first & flat_second)).to(first.dtype)
    if first.is_cuda:
        parts = zip(torch.split(first, CUDA_CHUNK, 1), torch.split(second, CUDA_CHUNK, 1), strict=True)
        return torch.where(settled, values, torch.cat([_coupled(*part) for part in parts]))
    # A GPU would have to be waited for to learn which windows are left; the CPU saves more than half of the work.
    left = (~settled).nonzero()[:, 0]
    for part in torch.split(left, CHUNK):
        values[part] = _coupled(first[:, part], second[:, part])
    return values


def _flat(windows: Tensor) -> Tensor:
    return _nowhere(windows[1:] != windows[0])


def _nowhere(flags: Tensor) -> Tensor:
    """Whether none of the rows holds; row after row, which the CPU does far faster than `all(0)`."""
    found: Tensor = reduce(torch.logical_or, flags)
    return ~found


def _distribution(windows: Tensor) -> Tensor:
    lowest: Tensor = reduce(torch.minimum, windows)
    shifted = windows - lowest
    return shifted / shifted.sum(0).clamp_min(torch.finfo(windows.dtype).tiny)


def _coupled(first: Tensor, second: Tensor) -> Tensor:
    """2 I / (H + H) of windows that are not flat; of flat ones any number but NaN."""
    p, q = _distribution(first), _distribution(second)
    tiny = torch.finfo(p.dtype).tiny
    off_p, off_q = p - 1 / CELLS, q - 1 / CELLS
    norm = (off_p.square().sum(0) * off_q.square().sum(0)).sqrt().clamp_min(tiny)
    correlation = (off_p * off_q).sum(0) / norm
    # Opposed, the places of one are counted from the other end: the lower bound is then the upper one.
    q = torch.where(correlation < 0, q.flip(0), q)

    places = torch.arange(1, CELLS + 1, device=p.device, dtype=p.dtype)
    mean_p, mean_q = places @ p, places @ q
    variance_p = (p * (places[:, None] - mean_p).square()).sum(0)
    variance_q = (q * (places[:, None] - mean_q).square()).sum(0)
    above_p, above_q = p.cumsum(0), q.cumsum(0)
    # Cell (i, j) of the bound is the overlap of the i-th step of one cumulated distribution with the j-th of the other.
    bound = torch.minimum(above_p[:, None], above_q)
    bound -= torch.maximum((above_p - p)[:, None], above_q - q)
    bound.clamp_min_(0)
    distance = (places[:, None] - places).square().flatten() @ bound.flatten(0, 1)
    covariance = (variance_p + variance_q + (mean_p - mean_q).square() - distance) / 2
    share = correlation.abs() * (variance_p * variance_q).sqrt()
    share = torch.where(covariance > 0, share / covariance.clamp_min(tiny), 0.0)

    joint = bound.mul_(share).addcmul_((p * (1 - share))[:, None], q)
    apart, together = _entropy(p) + _entropy(q), _entropy(joint.flatten(0, 1))
    return 2 * (apart - together) / apart.clamp_min(tiny)


def _entropy(shares: Tensor) -> Tensor:
    return -shares.abs().clamp_min_(torch.finfo(shares.dtype).tiny).log_().mul_(shares).sum(0)

"""How sure a mean over pairs is, and whether two methods differ by more than chance: bootstrap and sign flips.

Arrays have one column a question, so that all of them see the same random draws; the same input gives the same numbers.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
FLIPS = 99_999
EXACT_UP_TO = 20
EXACT_RANKS_UP_TO = 50
_SEED = 3407
_CHUNK = 10_000


def bootstrap_interval(values: Array, groups: Sequence[str] | None = None, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper ends (k,) of bootstrap intervals for the column means of `values` (n, k).

    Rows are drawn with replacement, or with `groups` (n labels) whole groups of rows, which is what correlated rows ask
    for. Percentiles of 10,000 resampled means, their deviations widened by sqrt(m / (m - 1)) for m rows or groups: a
    resample varies less than a new sample would (Hesterberg, The American Statistician 69(4):371, 2015). Coverage still
    falls short of `level` where m is small. Raises ValueError for fewer than two rows or groups.
    """
    _, member = np.unique(groups if groups is not None else np.arange(len(values)), return_inverse=True)
    count = int(member.max(initial=-1)) + 1
    if count < 2:
        raise ValueError(f"{count} rows or groups say nothing of how far others would lie; two or more do")
    indicator = np.equal.outer(np.arange(count), member).astype(np.float64)
    sums, sizes = indicator @ values, indicator.sum(1)
    draws = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    means = (draws @ sums) / (draws @ sizes)[:, None]
    centre = values.mean(0)
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = centre + (ends - centre) * np.sqrt(count / (count - 1))
    return low, high


def sign_flip_test(differences: Array) -> Array:
    """Two-sided p-values (k,) that the columns of paired `differences` (n, k) are symmetric about 0.

    The share of sign patterns whose absolute sum reaches the observed one (Fisher's permutation test for pairs): of all
    2^n patterns up to n = 20, beyond that of 99,999 random ones and the observed (Phipson, Smyth, Stat. Appl. Genet.
    Mol. Biol. 9:39, 2010). Rows must be independent of one another; where they are not, the values are too small.
    """
    # Patterns that equal the observed sum on paper must not miss it by the last bit.
    threshold = np.abs(differences.sum(0)) - 1e-9 * np.abs(differences).sum(0)
    if len(differences) <= EXACT_UP_TO:
        pairs = zip(differences.T, threshold, strict=True)
        return np.array([np.mean(np.abs(_all_sums(column)) >= least) for column, least in pairs])
    reached = np.ones(differences.shape[1])
    for signs in _random_signs(len(differences)):
        reached += (np.abs(signs @ differences) >= threshold).sum(0)
    return reached / (FLIPS + 1)


def signed_rank_test(differences: Sequence[float]) -> float:
    """One-sided p-value that paired `differences` (n,) are not symmetric about 0 but lie above it.

    Wilcoxon's signed-rank test (Biometrics Bulletin 1:80, 1945), exact up to n = 50, beyond that by the normal
    distribution with a correction for continuity. The statistic counts the pairs i <= j whose sum is above 0, so that a
    larger difference never makes p larger; ties and zeros count against the claim, where they only ever raise p. Rows
    must be independent of one another; where they are not, the value is too small. 1 for no rows.
    """
    ordered = np.sort(np.asarray(differences, np.float64))
    count = len(ordered)
    sums_above = int((count - np.searchsorted(ordered, -ordered, side="right")).sum())
    statistic = (sums_above + int((ordered > 0).sum())) // 2
    if count <= EXACT_RANKS_UP_TO:
        ways = np.ones(1)
        for rank in range(1, count + 1):
            ways = (np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))) / 2
        return float(min(1.0, ways[statistic:].sum()))
    mean, variance = count * (count + 1) / 4, count * (count + 1) * (2 * count + 1) / 24
    return 0.5 * math.erfc((statistic - 0.5 - mean) / math.sqrt(2 * variance))


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, Scand. J. Statist. 6:65, 1979), in the order given.

    Calling those below 0.05 significant makes one false call or more with a probability of at most 0.05.
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda position: p[position])):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def _all_sums(column: Array) -> Array:
    """The sums of every sign pattern with the first sign fixed: turning all signs changes no absolute value."""
    sums = column[:1]
    for value in column[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _random_signs(rows: int) -> Iterator[Array]:
    generator = np.random.default_rng(_SEED)
    for start in range(0, FLIPS, _CHUNK):
        yield (2 * generator.integers(0, 2, (min(_CHUNK, FLIPS - start), rows)) - 1).astype(np.float64)

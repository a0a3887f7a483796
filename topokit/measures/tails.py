"""Tail indices beside the power-law fit, and the correlation test of the SET paper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SetCorrelation", "TailIndex", "set_style_correlation", "tail_index"]

NAN = float("nan")


class TailIndex(NamedTuple):
    """Estimates of the extreme-value index xi; see `tail_index`."""

    hill: float
    moments: float
    moments_error: float
    kernel: float


class SetCorrelation(NamedTuple):
    """Correlation of a log-log histogram; see `set_style_correlation`."""

    correlation: float
    p_value: float


def tail_index(
    samples: ArrayLike, *, share: float = 0.1, rng: np.random.Generator | None = None
) -> TailIndex:
    r"""Extreme-value index of the largest values by Hill, by moments and by a kernel.

    A power law of exponent alpha has :math:`\xi = 1 / (\alpha - 1)`; light tails have 0 or less.
    Hill's estimate is positive for every sample, so never use it alone; the estimates by moments
    (Dekkers, Einmahl, de Haan) and by the biweight kernel (Groeneboom, Lopuhaä, de Wolf) may be
    negative. The tail's share is fixed, not searched for.

    Parameters
    ----------
    samples : (n,) array_like
        Non-negative integers.
    share : float
        Share of the sample taken as its tail.
    rng : numpy.random.Generator, optional
        With it, uniform noise of half a unit on each side breaks the ties of integers.

    Returns
    -------
    TailIndex
        ``hill`` above 0, ``moments`` and ``kernel`` of any sign, ``moments_error`` the
        asymptotic standard error of the moment estimate at xi = 0, 1 / sqrt(k).
        ``nan`` with fewer than 10 values in the tail or where these do not vary. Below about
        500 units the estimates are mostly noise. Cost O(n log n).

    References
    ----------
    .. [1] Dekkers, Einmahl, de Haan, "A moment estimator for the index of an extreme-value
       distribution", Annals of Statistics 17, 1989.
    .. [2] Groeneboom, Lopuhaä, de Wolf, "Kernel-type estimators for the extreme value index",
       Annals of Statistics 31, 2003.
    .. [3] Voitalov et al., "Scale-free networks well done", Physical Review Research 1, 2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bool(tail_index(rng.zipf(2.5, 5000), rng=rng).moments > 0.4)
    True
    """
    x = np.asarray(samples, dtype=float)
    if rng is not None:
        x = x + rng.uniform(-0.5, 0.5, x.size)
    k = int(np.ceil(share * x.size)) if x.size else 0
    if k < 10 or k >= x.size:
        return TailIndex(NAN, NAN, NAN, NAN)
    top = np.sort(x)[::-1][: k + 1]
    if top[-1] <= 0:
        return TailIndex(NAN, NAN, NAN, NAN)
    logs = np.log(top[:k] / top[k])
    first, second = float(logs.mean()), float((logs**2).mean())
    if second <= 0 or first**2 >= second:
        return TailIndex(first if first > 0 else NAN, NAN, NAN, NAN)
    moments = first + 1 - 0.5 / (1 - first**2 / second)
    return TailIndex(first, moments, 1 / float(np.sqrt(k)), _kernel(logs, k))


def _kernel(logs: NDArray[np.float64], k: int) -> float:
    """Kernel estimate of the index with the biweight kernel over the k largest values.

    `logs` are relative to the first value below them, decreasing.
    """
    u = np.arange(1, k + 1) / (k + 1)  # position over bandwidth; the bandwidth itself cancels
    gaps = logs - np.append(logs[1:], 0.0)
    weight = 1.875 * (1 - u * u) ** 2
    slope = -7.5 * u * (1 - u * u)
    positive = float((u * weight) @ gaps)
    power = 0.6
    one = float((u**power * weight) @ gaps)
    two = float(((power + 1) * u**power * weight + u ** (power + 1) * slope) @ gaps)
    return positive - 1 + two / one if one > 0 else NAN


def set_style_correlation(degrees: ArrayLike) -> SetCorrelation:
    """Correlate the log-log histogram of degrees with a line, for reproduction only.

    Warning: a small p-value here does not show a power law. Any decreasing histogram correlates
    with one, more bins make it "more significant", and nothing is compared with other laws.
    This is how the SET paper argued; `topokit.measures.fit_power_law` is the test to report.

    Parameters
    ----------
    degrees : (n,) array_like of int

    Returns
    -------
    SetCorrelation
        Pearson correlation of log frequency with log degree, and its one-sided p-value for a
        negative one; ``nan`` with fewer than three distinct positive degrees or frequencies
        that are all equal. Cost O(n log n).

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bool(set_style_correlation(rng.geometric(0.2, 1000)).p_value < 0.05)   # exponential!
    True
    """
    from scipy.stats import pearsonr

    k = np.asarray(degrees, dtype=np.int64)
    values, counts = np.unique(k[k > 0], return_counts=True)
    if values.size < 3 or np.ptp(counts) == 0:
        return SetCorrelation(NAN, NAN)
    found = pearsonr(np.log(values), np.log(counts), alternative="less")
    return SetCorrelation(float(found.statistic), float(found.pvalue))

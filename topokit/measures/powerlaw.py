"""Discrete power law by maximum likelihood: bounded support, x_min scan, bootstrap p-value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.progress import bar
from topokit.tables import as_generator

__all__ = [
    "TailFit",
    "Tally",
    "bootstrap_p",
    "fit_tail",
    "log_zeta",
    "sample_zeta",
    "tally",
]

PARTS = 50  # of a bootstrap, to show how far it is

NAN = float("nan")
TERMS = 10  # summed directly before the Euler-Maclaurin remainder
TABLE = (
    100_000  # support values tabulated for sampling; the continuous law approximates those beyond
)


class Tally(NamedTuple):
    """Distinct values of a sample, increasing, and how often each occurs."""

    values: NDArray[np.int64]
    counts: NDArray[np.int64]


class TailFit(NamedTuple):
    """The fitted law ``k**-alpha`` on ``k >= xmin``; ``nan`` and ``n_tail`` 0 without a tail."""

    alpha: float
    xmin: float
    n_tail: int
    ks_distance: float


NO_TAIL = TailFit(NAN, NAN, 0, NAN)


def tally(samples: NDArray[np.int64]) -> Tally:
    """Return the distinct values of a sample and their counts.

    Examples
    --------
    >>> tally(np.array([3, 1, 3])).counts.tolist()
    [1, 2]
    """
    if samples.size and samples.min() >= 0 and samples.max() < 1_000_000:
        counts = np.bincount(samples)
        values = np.flatnonzero(counts)
        return Tally(values.astype(np.int64), counts[values].astype(np.int64))
    values, counts = np.unique(samples, return_counts=True)
    return Tally(values.astype(np.int64), counts.astype(np.int64))


def log_zeta(alpha: ArrayLike, start: ArrayLike, upper: float = np.inf) -> NDArray[np.float64]:
    r"""Return the logarithm of the truncated zeta function.

    .. math:: \log \sum_{k=start}^{upper} k^{-\alpha}

    Ten terms are summed, and the rest is approximated by Euler-Maclaurin summation with a relative
    error of about 1e-12, for exponents above 50 up to 1e-10. With a finite `upper` every ``alpha``
    is allowed; an infinite one needs ``alpha > 1``.

    Parameters
    ----------
    alpha, start : array_like
        Broadcast against each other; ``1 <= start <= upper``.
    upper : float
        Largest value of the support.

    Returns
    -------
    array
        Of the broadcast shape; cost O(1) for each element.

    References
    ----------
    .. [1] Johansson, "Rigorous high-precision computation of the Hurwitz zeta function and its
       derivatives", Numerical Algorithms 69, 2015.

    Examples
    --------
    >>> float(np.exp(log_zeta(2.0, 1)).round(9)), float(np.exp(log_zeta(1.0, 1, 4)).round(9))
    (1.644934067, 2.083333333)
    """
    a = np.asarray(alpha, dtype=float)
    x = np.asarray(start, dtype=float)
    steps = x[..., None] + np.arange(TERMS)
    logs = np.log(steps / x[..., None])
    terms = np.exp(-a[..., None] * logs)
    if np.isfinite(upper):
        terms = terms * (steps <= upper)
    total = terms.sum(axis=-1)
    y = x + TERMS
    y_log = np.log(y / x)
    rest = _remainder(a, y)
    if np.isfinite(upper):
        end = upper + 1.0
        ratio = np.log(np.maximum(end / y, 1.0))
        slope = (a - 1) * ratio
        near_one = np.abs(slope) < 1e-9
        safe = np.where(near_one, 1.0, slope)
        integral = ratio * np.where(near_one, 1.0, -np.expm1(-safe) / safe) * y
        rest = rest + integral - np.exp(-a * ratio) * _remainder(a, np.full_like(y, end))
        rest = np.where(y < end, rest, 0.0)
    else:
        rest = rest + y / (a - 1)
    return np.log(total + np.exp(-a * y_log) * rest) - a * np.log(x)


def _remainder(a: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Return the Euler-Maclaurin terms after the integral, over y**-a."""
    third = a * (a + 1) * (a + 2)
    fifth = third * (a + 3) * (a + 4)
    return 0.5 + a / (12 * y) - third / (720 * y**3) + fifth / (30240 * y**5)


def fit_tail(table: Tally, *, xmin: int | None = None, upper: float = np.inf) -> TailFit:
    """Fit a discrete power law to a table of positive values; scan x_min unless it is given.

    Every distinct value that leaves at least two distinct values in the tail is tried; the
    least Kolmogorov-Smirnov distance wins, the smaller x_min on ties. On a bounded support, values
    above half of `upper` are tried only if there are no smaller ones: a law on the last two
    possible values has one parameter for one frequency, so its distance is always 0, and of all
    tails it would be the best. (Deluca and Corral [2]_ favour long ranges, too.)

    Parameters
    ----------
    table : Tally
        Values 0 are never part of a tail.
    xmin : int, optional
        Fixed lower end of the tail, 1 or more.
    upper : float
        Largest possible value; the law is normalised on ``xmin..upper``.

    Returns
    -------
    TailFit
        ``nan``, and ``n_tail`` 0, if no tail has two distinct values. The exponent is sought from
        1.01 to 1000, on a bounded support from 0.001: a value at such an end, as of frequencies
        that rise, is no estimate. Cost O(m^2) at most for m distinct values.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review
       51, 2009.
    .. [2] Deluca, Corral, "Fitting and goodness-of-fit test of non-truncated and truncated
       power-law distributions", Acta Geophysica 61, 2013.

    Examples
    --------
    >>> fit = fit_tail(tally(np.array([1, 1, 1, 2])), xmin=1)
    >>> round(fit.alpha, 8)
    2.95236743
    """
    lowest = 1 if xmin is None else xmin
    keep = table.values >= lowest
    table = Tally(table.values[keep], table.counts[keep])
    if table.values.size < 2:
        return NO_TAIL
    from topokit.measures.kernels import scan

    values, counts = table.values.astype(float), table.counts.astype(float)
    alpha, start, size, distance = scan(values, counts, float(xmin or 0), upper)
    return TailFit(alpha, start, int(size), distance)


def sample_zeta(
    size: int,
    *,
    alpha: float,
    xmin: int = 1,
    upper: float = np.inf,
    rng: np.random.Generator | int,
) -> NDArray[np.int64]:
    """Draw from the discrete power law ``k**-alpha`` on ``xmin..upper``.

    Parameters
    ----------
    size : int
    alpha : float
        Above 1 if `upper` is infinite.
    xmin : int
    upper : float
    rng : numpy.random.Generator

    Returns
    -------
    (size,) int64
        Exact on the first 100,000 values of the support, from the rounded continuous law
        beyond; clipped at 2**62.

    Raises
    ------
    ValueError
        If the law cannot be normalised.

    Examples
    --------
    >>> sample_zeta(5, alpha=2.5, xmin=2, rng=np.random.default_rng(0)).min() >= 2
    np.True_
    """
    rng = as_generator(rng)
    if not 1 <= xmin <= upper or not np.isfinite(alpha) or (np.isinf(upper) and alpha <= 1):
        raise ValueError(
            f"expected 1 <= xmin <= upper, and alpha > 1 where upper is infinite, got "
            f"xmin={xmin}, upper={upper}, alpha={alpha}"
        )
    cumulative = _cumulative(alpha, xmin, upper)
    at = np.searchsorted(cumulative, rng.random(size), side="right")
    values = at.astype(np.int64) + xmin
    beyond = np.flatnonzero(at >= cumulative.size)
    if beyond.size:
        u, edge = rng.random(beyond.size), xmin + cumulative.size - 0.5
        # logarithms: near alpha = 1 the values themselves exceed any float
        if np.isinf(upper):
            log_ratio = -np.log1p(-u) / (alpha - 1)
        else:
            length = np.log((upper + 0.5) / edge)
            log_ratio = u * length
            if abs(alpha - 1) * length > 1e-9:
                log_ratio = np.log1p(u * np.expm1((1 - alpha) * length)) / (1 - alpha)
        largest = np.log(min(upper, 2.0**62) / edge)
        far = edge * np.exp(np.minimum(log_ratio, largest))
        values[beyond] = np.minimum(np.rint(far), min(upper, 2.0**62)).astype(np.int64)
    return values


def _cumulative(alpha: float, xmin: int, upper: float) -> NDArray[np.float64]:
    """Return the cumulative probabilities of the first values of the support, at most `TABLE`."""
    last = int(min(upper, xmin + TABLE - 1))
    support = np.arange(xmin, last + 1, dtype=float)
    norm = float(log_zeta(alpha, xmin, upper))
    cumulative = np.exp(-alpha * np.log(support) - norm).cumsum()
    return cumulative / cumulative[-1] if last >= upper else cumulative


def bootstrap_p(
    table: Tally,
    fit: TailFit,
    *,
    replicates: int,
    rng: np.random.Generator,
    xmin: int | None = None,
    upper: float = np.inf,
) -> float:
    """Return the goodness-of-fit p-value of a fitted tail by semi-parametric bootstrap.

    Each value of a replicate comes from the fitted law with probability n_tail/n and else from
    the values below x_min; the whole fit, scan included, is repeated. Small p rejects the power
    law; a large one does not establish it: most random graphs pass.

    Parameters
    ----------
    table : Tally
        The whole sample, zeros included.
    fit : TailFit
        Of that sample, with the same `xmin` and `upper`.
    replicates : int
        The Monte Carlo error is sqrt(p (1 - p) / replicates).
    rng : numpy.random.Generator
    xmin, upper
        As in `fit_tail`.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without a tail. Cost `replicates` fits.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, SIAM Review 51, 2009.

    Examples
    --------
    >>> table = tally(np.array([1, 1, 1, 1, 2, 2, 3, 5, 9]))
    >>> bootstrap_p(table, fit_tail(table), replicates=20, rng=np.random.default_rng(0)) > 0.1
    True
    """
    if not np.isfinite(fit.alpha) or replicates < 1:
        return NAN
    from topokit.measures.kernels import bootstrap

    n = int(table.counts.sum())
    body = table.values < fit.xmin
    head_share = table.counts[body].cumsum() / max(int(table.counts[body].sum()), 1)
    head = table.values[body].astype(float)
    cumulative = _cumulative(fit.alpha, int(fit.xmin), upper)
    law = fit.n_tail / n, fit.alpha, fit.xmin, cumulative, upper, float(xmin or 0), n
    worse, each = 0, max(1, replicates // PARTS)
    with bar("replicates", delay=1.0) as step:
        for done in range(0, replicates, each):
            some = min(each, replicates - done)
            worse += bootstrap(head, head_share, *law, some, fit.ks_distance, rng)
            step(done + some, replicates, "")
    return worse / replicates

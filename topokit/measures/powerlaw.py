"""Discrete power law by maximum likelihood: bounded support, x_min scan, bootstrap p-value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["TailFit", "Tally", "bootstrap_p", "fit_tail", "log_zeta", "sample_zeta", "tally"]

NAN = float("nan")
TERMS = 10  # summed directly before the Euler-Maclaurin remainder takes over
LARGEST_ALPHA = 1000.0
TABLE = 100_000  # support values tabulated for sampling; beyond, the continuous law is exact
CELLS = 1_000_000  # candidates times values held at once


class Tally(NamedTuple):
    """Distinct values of a sample, increasing, and how often each occurs."""

    values: NDArray[np.int64]
    counts: NDArray[np.int64]


class TailFit(NamedTuple):
    """The fitted law ``k**-alpha`` on ``k >= xmin``; nan and 0 where no tail can be fitted."""

    alpha: float
    xmin: float
    n_tail: int
    ks_distance: float


NO_TAIL = TailFit(NAN, NAN, 0, NAN)


def tally(samples: NDArray[np.int64]) -> Tally:
    """Count distinct values.

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
    r"""Logarithm of the truncated zeta function.

    .. math:: \log \sum_{k=start}^{upper} k^{-\alpha}

    Ten terms are summed and the rest is Euler-Maclaurin; relative error about 1e-12. A finite
    `upper` admits every ``alpha``, an infinite one needs ``alpha > 1``.

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
    """Euler-Maclaurin terms after the integral, over y**-a."""
    third = a * (a + 1) * (a + 2)
    fifth = third * (a + 3) * (a + 4)
    return 0.5 + a / (12 * y) - third / (720 * y**3) + fifth / (30240 * y**5)


def _solve(mean_log: NDArray[Any], start: NDArray[Any], upper: float) -> NDArray[Any]:
    """Maximum-likelihood exponents of tails with these mean logarithms, all at once.

    Newton steps on the convex cost log zeta(a) + a mean_log within a shrinking bracket.
    """
    lowest = 1.01 if np.isinf(upper) else 1e-3
    low, high = np.full(start.shape, lowest), np.full(start.shape, LARGEST_ALPHA)
    excess = np.maximum(mean_log - np.log(start - 0.5), 1e-6)
    alpha = np.clip(1 + 1 / excess, lowest + 0.01, LARGEST_ALPHA / 2)
    offsets = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]
    for _ in range(60):
        h = 1e-3 * np.maximum(1.0, alpha / 10)
        f = log_zeta(alpha + offsets * h, np.broadcast_to(start, (5, start.size)), upper)
        slope = (f[0] - 8 * f[1] + 8 * f[3] - f[4]) / (12 * h) + mean_log
        bend = (-f[0] + 16 * f[1] - 30 * f[2] + 16 * f[3] - f[4]) / (12 * h * h)
        low, high = np.where(slope < 0, alpha, low), np.where(slope > 0, alpha, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            new = alpha - slope / bend
        new = np.where((new > low) & (new < high) & (bend > 0), new, (low + high) / 2)
        step, alpha = np.abs(new - alpha), new
        if np.all(step < 1e-8 * alpha):
            break
    return alpha


def _distances(
    alpha: NDArray[Any], first: NDArray[Any], table: Tally, start: NDArray[Any], upper: float
) -> NDArray[Any]:
    """Kolmogorov-Smirnov distances of tails that begin at positions `first` of the table.

    Taken at both ends of every flat stretch of the empirical distribution.
    """
    values = table.values.astype(float)
    above = np.append(table.counts[::-1].cumsum()[::-1], 0).astype(float)
    result = np.empty(alpha.size)
    step = max(1, CELLS // (values.size * TERMS))
    for lo in range(0, alpha.size, step):
        a, at = alpha[lo : lo + step, None], first[lo : lo + step, None]
        base = int(at.min())
        v = values[None, base:]
        norm = log_zeta(a, start[lo : lo + step, None], upper)
        log_fitted = log_zeta(a, np.broadcast_to(v, (a.shape[0], v.size)), upper) - norm
        fitted = np.exp(np.minimum(log_fitted, 0.0))
        beyond = fitted - np.exp(np.minimum(-a * np.log(v) - norm, 0.0))
        share = above[None, base:] / above[at]
        gaps = np.maximum(np.abs(fitted - share[:, :-1]), np.abs(beyond - share[:, 1:]))
        gaps[np.arange(base, values.size)[None, :] < at] = 0.0
        result[lo : lo + step] = gaps.max(axis=1)
    return result


def fit_tail(table: Tally, *, xmin: int | None = None, upper: float = np.inf) -> TailFit:
    """Fit a discrete power law to a table of positive values; scan x_min unless it is given.

    Every distinct value that leaves at least two distinct values in the tail is tried; the
    least Kolmogorov-Smirnov distance wins, the smaller x_min on ties.

    Parameters
    ----------
    table : Tally
        Values 0 are never part of a tail.
    xmin : int, optional
        Fixed beginning of the tail, 1 or more.
    upper : float
        Largest possible value; the law is normalised on ``xmin..upper``.

    Returns
    -------
    TailFit
        All ``nan`` if no tail has two distinct values. Cost O(m^2) for m distinct values.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review
       51, 2009.

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
    values = table.values.astype(float)
    above = table.counts[::-1].cumsum()[::-1]
    logs = (table.counts * np.log(values))[::-1].cumsum()[::-1]
    first = np.arange(values.size - 1) if xmin is None else np.zeros(1, np.int64)
    start = values[first] if xmin is None else np.array([float(xmin)])
    alpha = _solve(logs[first] / above[first], start, upper)
    distance = _distances(alpha, first, table, start, upper)
    best = int(np.argmin(distance))
    return TailFit(
        float(alpha[best]), float(start[best]), int(above[first[best]]), float(distance[best])
    )


def sample_zeta(
    size: int,
    *,
    alpha: float,
    xmin: int = 1,
    upper: float = np.inf,
    rng: np.random.Generator,
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
    return _sampler(alpha, xmin, upper)(size, rng)


def _sampler(alpha: float, xmin: int, upper: float) -> Any:
    """Tabulate the law once; return ``draw(size, rng)``."""
    if xmin < 1 or upper < xmin or (np.isinf(upper) and alpha <= 1):
        raise ValueError(
            f"expected 1 <= xmin <= upper, and alpha > 1 where upper is infinite, got "
            f"xmin={xmin}, upper={upper}, alpha={alpha}"
        )
    last = int(min(upper, xmin + TABLE - 1))
    support = np.arange(xmin, last + 1, dtype=np.int64)
    norm = float(log_zeta(alpha, xmin, upper))
    cumulative = np.exp(-alpha * np.log(support) - norm).cumsum()
    complete = last >= upper
    if complete:
        cumulative /= cumulative[-1]

    def draw(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        at = np.searchsorted(cumulative, rng.random(size), side="right")
        values = support[np.minimum(at, support.size - 1)]
        beyond = np.flatnonzero(at >= support.size)
        if beyond.size and not complete:
            u, edge = rng.random(beyond.size), last + 0.5
            if np.isinf(upper):
                far = edge * u ** (-1 / (alpha - 1))
            else:
                end = (upper + 0.5) / edge
                inner = np.log1p(u * np.expm1((1 - alpha) * np.log(end))) if alpha != 1 else u
                far = edge * np.exp(inner / (1 - alpha) if alpha != 1 else u * np.log(end))
            values = values.copy()
            values[beyond] = np.minimum(np.rint(far), min(upper, 2.0**62)).astype(np.int64)
        return values

    return draw


def bootstrap_p(
    table: Tally,
    fit: TailFit,
    *,
    replicates: int,
    rng: np.random.Generator,
    xmin: int | None = None,
    upper: float = np.inf,
) -> float:
    """Goodness-of-fit p-value of a fitted tail by semi-parametric bootstrap.

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
    n = int(table.counts.sum())
    body = table.values < fit.xmin
    draw = _sampler(fit.alpha, int(fit.xmin), upper)
    head = np.repeat(table.values[body], table.counts[body])
    worse = 0
    for _ in range(replicates):
        n_tail = int(rng.binomial(n, fit.n_tail / n)) if head.size else n
        parts = [draw(n_tail, rng)]
        if n_tail < n:
            parts.append(head[rng.integers(0, head.size, n - n_tail)])
        again = fit_tail(tally(np.concatenate(parts)), xmin=xmin, upper=upper)
        worse += bool(again.ks_distance >= fit.ks_distance)
    return worse / replicates

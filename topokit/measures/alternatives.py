"""Other laws for a tail, on the same support as the power law, compared by likelihood ratios."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import gammainc, gammaln, log_ndtr, ndtr

from topokit.measures.powerlaw import TailFit, Tally, log_zeta

__all__ = ["ALTERNATIVES", "LikelihoodRatio", "compare"]

NAN = float("nan")
FLATTEST, SHARPEST = 1e-4, 1e4  # bounds on 1 / sigma^2 of the lognormal law


class LikelihoodRatio(NamedTuple):
    """Power law against another law on one tail: Vuong's statistic, positive for the power law.

    ``p_value`` is two-sided: small says that one of the two is really better; ``log_ratio`` is
    the difference of the log-likelihoods.
    """

    statistic: float
    p_value: float
    log_ratio: float


UNKNOWN = LikelihoodRatio(NAN, NAN, NAN)


def _log_difference(larger: NDArray[Any], smaller: NDArray[Any]) -> NDArray[Any]:
    """log(exp(larger) - exp(smaller)), floored where nothing is left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result = larger + np.log(-np.expm1(np.minimum(smaller - larger, -1e-300)))
    return np.where(np.isfinite(result), result, -700.0)


def _poisson_log_tail(x: float, rate: float) -> float:
    """Log of P(K >= x) for a Poisson law, also where it underflows."""
    if x <= 0:
        return 0.0
    tail = float(gammainc(x, rate))
    if tail > 1e-280:
        return float(np.log(tail))
    return float(x * np.log(rate) - rate - gammaln(x + 1) - np.log1p(-min(rate / (x + 1), 0.999)))


def _poisson(values: NDArray[Any], counts: NDArray[Any], xmin: float) -> NDArray[Any]:
    """Log-probabilities under the best truncated Poisson law."""
    total, sums = float(counts.sum()), float(counts @ values)

    def cost(log_rate: float) -> float:
        rate = float(np.exp(log_rate))
        return rate * total - sums * log_rate + total * _poisson_log_tail(xmin, rate)

    mean = sums / total
    bounds = (np.log(1e-3 * xmin), np.log(mean + 1.0))
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    rate = float(np.exp(found.x))
    log_p = values * found.x - rate - gammaln(values + 1)
    return log_p - _poisson_log_tail(xmin, rate)


def _exponential(values: NDArray[Any], counts: NDArray[Any], xmin: float) -> NDArray[Any]:
    """Log-probabilities under the best truncated geometric law, in closed form."""
    excess = float(counts @ (values - xmin)) / float(counts.sum())
    rate = np.log1p(1 / excess)
    return -rate * (values - xmin) + np.log(-np.expm1(-rate))


def _lognormal_log_p(
    slope: NDArray[Any], bend: NDArray[Any], u_low: NDArray[Any], u_high: NDArray[Any]
) -> NDArray[Any]:
    """Binned lognormal log-probabilities; logs are relative to the lower end of the tail.

    The density of u = log k falls as exp(-slope u - bend u^2 / 2), so mu = -slope / bend and
    sigma^2 = 1 / bend: natural parameters, in which the likelihood is close to concave and the
    power law is the limit bend -> 0.
    """
    root = np.sqrt(bend)[:, None]
    shift = slope[:, None] / root
    low, high = root * u_low + shift, root * u_high + shift
    tail_low, tail_high = ndtr(-low), ndtr(-high)
    start = ndtr(-shift)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.log((tail_low - tail_high) / start)
    far = ~np.isfinite(result) | (low > 30)
    if far.any():
        exact = _log_difference(log_ndtr(-low), log_ndtr(-high)) - log_ndtr(-shift)
        result = np.where(far, exact, result)
    return result


def _lognormal(values: NDArray[Any], counts: NDArray[Any], xmin: float) -> NDArray[Any]:
    """Log-probabilities under the best binned lognormal law: damped Newton steps, in batches."""
    base = np.log(xmin - 0.5)
    u_low = np.log(values - 0.5) - base
    u_high = np.log(values + 0.5) - base
    middle = (u_low + u_high) / 2
    weights = counts / counts.sum()

    def score(points: NDArray[Any]) -> NDArray[Any]:
        return _lognormal_log_p(points[:, 0], points[:, 1], u_low, u_high) @ weights

    mean = float(weights @ middle)
    spread = max(float(weights @ (middle - mean) ** 2), 1e-4)
    starts = np.array([[1 / mean, 0.05], [1 / mean, 1.0], [-mean / spread, 1 / spread], [0, 4.0]])
    starts[:, 1] = np.clip(starts[:, 1], FLATTEST * 2, SHARPEST / 2)
    scores = score(starts)
    point, best = starts[int(np.argmax(scores))], float(np.max(scores))
    fractions = np.array([1.0, 0.4, 0.15, 0.05, 0.01, 0.001])
    for _ in range(40):
        h = np.array([1e-3 * (1 + abs(point[0])), 2e-3 * point[1]])
        grid = score(point + h * _STENCIL)
        gradient = np.array([grid[1] - grid[2], grid[3] - grid[4]]) / (2 * h)
        cross = (grid[5] - grid[6] - grid[7] + grid[8]) / (4 * h[0] * h[1])
        twice = np.array([grid[1] + grid[2], grid[3] + grid[4]]) - 2 * grid[0]
        hessian = np.diag(twice / h**2) + cross * (1 - np.eye(2))
        sizes, axes = np.linalg.eigh(hessian)
        step = -axes @ ((axes.T @ gradient) / -np.maximum(np.abs(sizes), 1e-9))
        trials = point + fractions[:, None] * step
        trials[:, 1] = np.clip(trials[:, 1], FLATTEST, SHARPEST)
        scores = score(trials)
        scores[~np.isfinite(scores)] = -np.inf
        at = int(np.argmax(scores))
        if not scores[at] > best + 1e-10:
            break
        point, best = trials[at], float(scores[at])
    return _lognormal_log_p(point[None, 0], point[None, 1], u_low, u_high)[0]


_STENCIL = np.array(
    [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=float
)

ALTERNATIVES: dict[str, Callable[[NDArray[Any], NDArray[Any], float], NDArray[Any]]] = {
    "poisson": _poisson,
    "exponential": _exponential,
    "lognormal": _lognormal,
}


def compare(table: Tally, fit: TailFit, *, upper: float = np.inf) -> dict[str, LikelihoodRatio]:
    """Compare a fitted power law with a Poisson, an exponential and a lognormal tail.

    All four are discrete and live on ``k >= xmin`` (the power law up to `upper`). A lognormal
    law with a very large sigma is a power law, so it can be better but hardly ever worse; a
    power law stands if the lognormal one is not significantly better.

    Parameters
    ----------
    table : Tally
    fit : TailFit
    upper : float

    Returns
    -------
    dict of LikelihoodRatio
        Keys ``poisson``, ``exponential``, ``lognormal``; ``nan`` without a tail. Cost O(m) for
        m distinct values in the tail, a few hundred times.

    References
    ----------
    .. [1] Vuong, "Likelihood ratio tests for model selection and non-nested hypotheses",
       Econometrica 57, 1989.

    Examples
    --------
    >>> from topokit.measures.powerlaw import fit_tail, sample_zeta, tally
    >>> table = tally(sample_zeta(1000, alpha=2.5, rng=np.random.default_rng(0)))
    >>> compare(table, fit_tail(table))["exponential"].statistic > 2
    True
    """
    if not np.isfinite(fit.alpha):
        return dict.fromkeys(ALTERNATIVES, UNKNOWN)
    keep = table.values >= fit.xmin
    values, counts = table.values[keep].astype(float), table.counts[keep].astype(float)
    power = -fit.alpha * np.log(values) - float(log_zeta(fit.alpha, fit.xmin, upper))
    return {
        name: _vuong(power - law(values, counts, fit.xmin), counts)
        for name, law in ALTERNATIVES.items()
    }


def _vuong(differences: NDArray[Any], counts: NDArray[Any]) -> LikelihoodRatio:
    """Vuong's test from pointwise differences of log-likelihoods."""
    n = float(counts.sum())
    total = float(counts @ differences)
    variance = float(counts @ (differences - total / n) ** 2) / n
    if variance <= 1e-24:
        return LikelihoodRatio(0.0, 1.0, total)
    statistic = total / np.sqrt(n * variance)
    return LikelihoodRatio(float(statistic), float(2 * ndtr(-abs(statistic))), total)

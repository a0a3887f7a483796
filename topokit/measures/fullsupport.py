"""Laws for whole degree sequences, zeros included: information criteria and a random null."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import bdtr, gammaln, log_ndtr, xlog1py, xlogy

from topokit.ids import random_subset
from topokit.measures.powerlaw import log_zeta

__all__ = ["LAWS", "BinomialDistance", "binomial_distance", "full_support_aic", "maximum_p"]

NAN = float("nan")
MARGINALS = 10**9  # cells up to which numpy draws hypergeometric marginals

Law = Callable[[NDArray[Any], NDArray[Any], int], float]


class BinomialDistance(NamedTuple):
    """Distance of degrees from those of a random layer; see `binomial_distance`."""

    distance: float
    p_value: float


def _binomial(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Log-likelihood of the binomial law at its best share."""
    share = float(counts @ k) / (float(counts.sum()) * n_other)
    choose = gammaln(n_other + 1) - gammaln(k + 1) - gammaln(n_other - k + 1)
    return float(counts @ (choose + xlogy(k, share) + xlog1py(n_other - k, -share)))


def _negative_binomial(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Log-likelihood at the best size; the best mean is the sample's."""
    mean = float(counts @ k) / float(counts.sum())

    def cost(log_size: float) -> float:
        size = float(np.exp(log_size))
        log_p = gammaln(k + size) - gammaln(size) - gammaln(k + 1)
        log_p = log_p - size * np.log1p(mean / size) + k * (np.log(mean) - np.log(size + mean))
        return -float(counts @ log_p)

    bounds = (-7.0, 15.0)
    return -float(minimize_scalar(cost, bounds=bounds, method="bounded").fun)


def _lognormal(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Log-likelihood of the lognormal law rounded to integers; zeros are values below 1/2."""
    low, high = np.log(np.maximum(k - 0.5, 1e-300)), np.log(k + 0.5)
    logs = np.log(np.maximum(k, 0.3))
    mean = float(counts @ logs) / float(counts.sum())
    spread = max(float(counts @ (logs - mean) ** 2) / float(counts.sum()), 1e-4) ** 0.5

    def cost(point: NDArray[Any]) -> float:
        mu, sigma = point[0], float(np.exp(np.clip(point[1], -8, 8)))
        below, above = (low - mu) / sigma, (high - mu) / sigma
        flip = below > 0  # the smaller tail keeps its digits
        one = np.where(flip, log_ndtr(-below), log_ndtr(above))
        two = np.where(flip, log_ndtr(-above), log_ndtr(below))
        with np.errstate(divide="ignore"):
            log_p = one + np.log(-np.expm1(np.minimum(two - one, -1e-300)))
        return -float(counts @ np.maximum(log_p, -1e4))

    return -_smallest(cost, [(mean, np.log(spread)), (mean - 1, np.log(2 * spread))])


def _zipf_mandelbrot(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Log-likelihood of (k + q)**-a on 0..n_other."""

    def cost(point: NDArray[Any]) -> float:
        a, q = np.exp(np.clip(point, [-5, -5], [6, 12]))
        norm = float(log_zeta(a, q, q + n_other))
        return float(counts @ (a * np.log(k + q))) + float(counts.sum()) * norm

    mean = max(float(counts @ k) / float(counts.sum()), 0.1)
    starts = [(np.log(a), np.log(max(mean * (a - 2), 0.1))) for a in (2.5, 4.0, 20.0)]
    return -_smallest(cost, starts)


def _smallest(cost: Callable[[NDArray[Any]], float], starts: list[tuple[float, float]]) -> float:
    """Least cost from several starts; nan if no search ended as planned."""
    options: Any = {"xatol": 1e-4, "fatol": 1e-4, "maxiter": 600}
    found = [
        minimize(cost, np.array(start), method="Nelder-Mead", options=options) for start in starts
    ]
    return min((float(f.fun) for f in found if f.success), default=NAN)


LAWS: dict[str, tuple[Law, int]] = {
    "binomial": (_binomial, 1),
    "negative_binomial": (_negative_binomial, 2),
    "lognormal": (_lognormal, 2),
    "zipf_mandelbrot": (_zipf_mandelbrot, 2),
}
"""Best log-likelihood and number of parameters of each law."""


def full_support_aic(degrees: ArrayLike, *, n_other: int) -> dict[str, float]:
    """Akaike's criterion of four laws for all degrees of one side: the least is the best.

    A tail fit may leave most units out; this takes all. "binomial" is the random layer,
    "negative_binomial" a broad one without a heavy tail, "lognormal" (rounded) and
    "zipf_mandelbrot" (a power law of k + q, on 0..n_other) have heavy ones.

    Parameters
    ----------
    degrees : (n,) array_like of int
        In 0..n_other.
    n_other : int
        Units on the other side.

    Returns
    -------
    dict of float
        One value a law of `LAWS`; ``nan`` where degrees are all equal or a search failed.
        Differences below about 2 mean nothing. Cost O(m) for m distinct degrees, some hundred
        times: about 20 ms.

    References
    ----------
    .. [1] Akaike, "A new look at the statistical model identification", IEEE Transactions on
       Automatic Control 19, 1974.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> aic = full_support_aic(rng.binomial(784, 0.02, 1000), n_other=784)
    >>> min(aic, key=aic.get)
    'binomial'
    """
    values, counts = np.unique(np.asarray(degrees, dtype=np.int64), return_counts=True)
    if values.size < 2:
        return dict.fromkeys(LAWS, NAN)
    k, weights = values.astype(float), counts.astype(float)
    return {name: 2 * size - 2 * law(k, weights, n_other) for name, (law, size) in LAWS.items()}


def _distance(degrees: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of integers from a cumulative distribution on 0..n_other."""
    found = np.bincount(degrees, minlength=expected.size).cumsum() / degrees.size
    return float(np.abs(found - expected).max())


def binomial_distance(
    degrees: ArrayLike, *, n_other: int, draws: int = 199, rng: np.random.Generator
) -> BinomialDistance:
    """Distance of degrees from the binomial law of a random layer, with its Monte Carlo p-value.

    The share is fitted and degrees are integers, so textbook critical values are wrong; the
    null is simulated: the same number of edges placed uniformly without repetition.

    Parameters
    ----------
    degrees : (n,) array_like of int
    n_other : int
        Units on the other side.
    draws : int
        Random layers drawn; the least possible p-value is 1 / (draws + 1).
    rng : numpy.random.Generator

    Returns
    -------
    BinomialDistance
        ``distance`` in [0, 1], ``p_value`` in (0, 1]; ``nan`` without edges or units, and in a
        complete layer. Cost O(n + n_other) a draw, O(edges) above 10^9 cells.

    References
    ----------
    .. [1] Lilliefors, "On the Kolmogorov-Smirnov test for normality with mean and variance
       unknown", JASA 62, 1967.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> binomial_distance([0, 0, 0, 12] * 20, n_other=50, rng=rng).p_value
    0.005
    """
    k = np.asarray(degrees, dtype=np.int64)
    total, cells = int(k.sum()), k.size * n_other
    if not 0 < total < cells:
        return BinomialDistance(NAN, NAN)
    expected = bdtr(np.arange(n_other + 1.0), n_other, total / cells)
    found = _distance(k, expected)
    colors = np.full(k.size, n_other)
    above = 0
    for _ in range(draws):
        if cells < MARGINALS:
            random = rng.multivariate_hypergeometric(colors, total, method="marginals")
        else:
            random = np.bincount(random_subset(cells, total, rng) // n_other, minlength=k.size)
        above += _distance(random, expected) >= found - 1e-12
    return BinomialDistance(found, (above + 1) / (draws + 1))


def maximum_p(degrees: ArrayLike, *, n_other: int) -> float:
    """Probability that the largest degree of a random layer is at least the one found.

    Parameters
    ----------
    degrees : (n,) array_like of int
    n_other : int

    Returns
    -------
    float
        In [0, 1], with the n binomial degrees taken as independent; ``nan`` without units or
        edges. Cost O(n).

    Examples
    --------
    >>> maximum_p([1] * 99 + [30], n_other=100) < 1e-9
    True
    """
    k = np.asarray(degrees, dtype=np.int64)
    if k.size == 0 or not k.sum():
        return NAN
    from scipy.special import bdtrc

    beyond = float(bdtrc(int(k.max()) - 1, n_other, k.sum() / (k.size * n_other)))
    return float(-np.expm1(k.size * np.log1p(-min(beyond, 1 - 1e-16))))

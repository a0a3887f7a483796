"""Laws that compete with a power law on its tail, each fitted on the same bounded support.

All are discrete laws on ``xmin..upper``. If the power law were normalised on the bounded support
and the others without bound, every sample that reaches the bound would favour the power law, even
one of equal frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.special import gammaln, log_ndtr, ndtr

from topokit.measures.powerlaw import TailFit, Tally, log_zeta

__all__ = [
    "HEAVY",
    "LIGHT",
    "NESTED",
    "RIVALS",
    "Comparisons",
    "LikelihoodRatio",
    "Support",
    "compare",
    "lognormal_likelihood",
    "negative_binomial_likelihood",
    "support",
]

NAN = float("nan")
EXACT = 256  # values from x_min on that are summed one by one
NODES = 8  # points of a quadrature block: sums of polynomials up to degree 15 are exact
FAR = 64.0  # times the largest value: beyond, an unbounded law with an exponential tail has no mass
VERY_FAR = 1e30  # the same for a law that may be as flat as a power law
FLATTEST, SHARPEST = 1e-4, 1e4  # bounds on 1 / sigma^2 of the lognormal law
ROUNDS = 150  # limit on rounds of the two-component search


class LikelihoodRatio(NamedTuple):
    """Power law against another law on one tail: a test statistic, positive for the power law.

    ``p_value`` is two-sided and small if one of the two laws is significantly better (Vuong); for
    the laws of `NESTED`, which contain the power law and cannot be worse, it is one-sided.
    ``log_ratio`` is the difference of the log-likelihoods.
    """

    statistic: float
    p_value: float
    log_ratio: float


UNKNOWN = LikelihoodRatio(NAN, NAN, NAN)


class Support(NamedTuple):
    """Points x and logarithms of weights w: a sum of f over the support is ``sum(w f(x))``."""

    x: NDArray[np.float64]
    log_weight: NDArray[np.float64]


# Sums over the support. A rival's normalisation is a sum over up to n_other values, at each of some
# hundred trial parameters. The first `EXACT` values are summed one by one. The others are grouped
# in blocks of up to 2 sqrt(k) values (less near an upper end), in which the laws are smooth, and a
# block's sum is taken at `NODES` points by Gauss quadrature for sums over consecutive integers:
# points and weights are those of the discrete Chebyshev (Gram) polynomials (Golub, Welsch, 1969),
# exact for polynomials of degree 15. So a support of a million values has some thousand points.
@lru_cache(maxsize=256)
def support(xmin: int, upper: float, far: float) -> Support:
    """Return the points of the support ``xmin..upper``; up to `far` if it is unbounded.

    Examples
    --------
    >>> points = support(2, 5000.0, 0.0)
    >>> round(float(np.exp(points.log_weight) @ points.x)), sum(range(2, 5001))
    (12502499, 12502499)
    """
    last = upper if np.isfinite(upper) else max(far, xmin + EXACT)
    exact = int(min(last, xmin + EXACT - 1))
    points, weights = [np.arange(xmin, exact + 1.0)], [np.ones(exact - xmin + 1)]
    at = exact + 1.0
    while at <= last:
        near = min(at, last - at + 1) if np.isfinite(upper) else at  # to the closer end
        size = 2.0 ** int(np.log2(2 * np.sqrt(near))) if near < 1e7 else float(int(near / 4))
        if at + size > last:
            size = last - at + 1
        where, share = _gram(size)
        points.append(at + where)
        weights.append(size * share)
        at = max(at + size, np.nextafter(at, np.inf))
    return Support(np.concatenate(points), np.log(np.concatenate(weights)))


@lru_cache(maxsize=1024)
def _gram(size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points and weights (adding up to 1) for means over the integers 0..size-1."""
    if size <= NODES:
        return np.arange(size), np.full(int(size), 1 / size)
    k = np.arange(1.0, NODES)
    off = np.sqrt(k**2 * (size**2 - k**2) / (4 * (4 * k**2 - 1)))
    points, vectors = eigh_tridiagonal(np.full(NODES, (size - 1) / 2), off)
    return np.asarray(points, np.float64), np.asarray(vectors[0] ** 2, np.float64)


class _Tail(NamedTuple):
    """A tail to fit: distinct values, their shares, its ends, the exponent of the power law."""

    values: NDArray[np.float64]
    share: NDArray[np.float64]
    xmin: float
    upper: float
    alpha: float

    def points(self, far: float = FAR) -> Support:
        """Return the support's points, up to `far` times the largest value if unbounded."""
        return support(int(self.xmin), self.upper, far * float(self.values[-1]))


def _tilt(
    points: Support,
    log_c: NDArray[np.float64],
    mean: float,
    guess: float,
    tolerance: float = 1e-12,
) -> tuple[float, float]:
    """Return theta and the logarithm of the norm of the law ``c(x) exp(theta x)`` of this mean.

    The most likely theta, as mean and likelihood go together: Newton steps on the convex
    log-norm, within a bracket once there is one.
    """
    base, z = points.log_weight + log_c, points.x - mean
    low, high, theta = -np.inf, np.inf, guess
    for _ in range(100):
        exponent = base + theta * z
        top = float(exponent.max())
        mass = np.exp(exponent - top)
        total = float(mass.sum())
        slope = float(mass @ z) / total
        bend = float(mass @ (z * z)) / total - slope**2
        if slope > 0:
            high = theta
        else:
            low = theta
        step = -slope / bend if bend > 0 else -np.sign(slope) * np.inf
        if abs(step) < tolerance * (1 + abs(theta)):
            break
        if np.isinf(low) or np.isinf(high):
            limit = max(1.0, abs(theta))  # far from the solution the law is a single value
            step = min(max(step, -limit), limit)
        new = theta + step
        theta = new if low < new < high else (low + high) / 2
    return theta, top + float(np.log(total)) + theta * mean


def _exponential(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under the most likely geometric law."""
    points, mean = tail.points(), float(tail.share @ tail.values)
    guess = -float(np.log1p(1 / (mean - tail.xmin)))
    theta, norm = _tilt(points, np.zeros(points.x.size), mean, guess)
    return theta * tail.values - norm


def _poisson(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under the most likely Poisson law."""
    points, mean = tail.points(), float(tail.share @ tail.values)
    theta, norm = _tilt(points, -gammaln(points.x + 1), mean, float(np.log(mean)))
    return theta * tail.values - gammaln(tail.values + 1) - norm


def _negative_binomial(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under the most likely negative binomial law.

    Sizes go from near 0 (the logarithmic law) over 1 (geometric) to very large (Poisson); for each
    the other parameter is found by `_tilt`.
    """
    from scipy.optimize import minimize_scalar  # takes 0.2 s to import

    points, mean = tail.points(), float(tail.share @ tail.values)
    ours, theirs = gammaln(tail.values + 1), gammaln(points.x + 1)

    def law(log_size: float) -> NDArray[np.float64]:
        size = float(np.exp(log_size))
        guess = -float(np.log1p(size / mean))
        theta, norm = _tilt(points, gammaln(points.x + size) - theirs, mean, guess)
        return theta * tail.values + gammaln(tail.values + size) - ours - norm

    found = minimize_scalar(
        lambda log_size: -float(tail.share @ law(log_size)),
        bounds=(-12.0, 10.0),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return law(float(found.x))


def negative_binomial_likelihood(
    values: NDArray[np.float64], counts: NDArray[np.float64], upper: float
) -> float:
    """Return the largest log-likelihood of a negative binomial law for all values from 0 on.

    Examples
    --------
    >>> flat = np.arange(4.0), np.ones(4)
    >>> round(negative_binomial_likelihood(*flat, 3.0), 6), round(4 * float(np.log(1 / 4)), 6)
    (-5.545177, -5.545177)
    """
    tail = _Tail(values, counts / counts.sum(), 0.0, upper, NAN)
    return float(counts @ _negative_binomial(tail))


def _two_components(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under a bulk with hubs: two kinds of units, each placed at random.

    Degrees of each kind are binomial on a bounded support, else Poisson. Shares and means are found
    by expectation-maximisation from two initial divisions.
    """
    points, values, share = tail.points(), tail.values, tail.share

    def choose(x: NDArray[np.float64]) -> NDArray[np.float64]:
        bounded = gammaln(tail.upper - x + 1) if np.isfinite(tail.upper) else 0.0
        return -gammaln(x + 1) - bounded

    log_c, ours = choose(points.x), choose(values)
    best, result = -np.inf, np.full(values.size, -np.inf)
    middle = np.sqrt(values[0] * values[-1])
    for border in (middle, float(share @ values) + 1e-9):
        hub = (values > border).astype(float) * 0.98 + 0.01
        thetas = [0.0, 0.0] if np.isfinite(tail.upper) else [float(np.log(tail.xmin))] * 2
        before = -np.inf
        for _ in range(ROUNDS):
            parts = []
            for i, mine in enumerate((1 - hub, hub)):
                weight = float(share @ mine)
                mean = float(share @ (mine * values)) / weight
                mean = min(max(mean, values[0] + 1e-3), values[-1] - 1e-3)
                thetas[i], norm = _tilt(points, log_c, mean, thetas[i], 1e-4)
                parts.append(np.log(weight) + thetas[i] * values + ours - norm)
            log_p = np.logaddexp(*parts)
            now = float(share @ log_p)
            hub = np.clip(np.exp(parts[1] - log_p), 1e-9, 1 - 1e-9)
            if now < before + 1e-6:
                break
            before = now
        if now > best:
            best, result = now, log_p
    return result


def _log_difference(larger: NDArray[Any], smaller: NDArray[Any]) -> NDArray[Any]:
    """Return log(exp(larger) - exp(smaller)), or -700 where the difference underflows."""
    with np.errstate(divide="ignore", invalid="ignore"):
        result = larger + np.log(-np.expm1(np.minimum(smaller - larger, -1e-300)))
    return np.where(np.isfinite(result), result, -700.0)


def _log_normal_mass(low: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
    """Return log(P(low < Z < high)) for a standard normal Z, from the tail that loses no digits."""
    upper = low > 0
    larger, smaller = np.where(upper, -low, high), np.where(upper, -high, low)
    return _log_difference(log_ndtr(larger), log_ndtr(smaller))


_STENCIL = np.array(
    [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=float
)


def _climb(
    score: Callable[[NDArray[Any]], NDArray[Any]],
    starts: NDArray[np.float64],
    bounds: tuple[tuple[float, float], tuple[float, float]],
    spacing: Callable[[NDArray[Any]], float],
) -> NDArray[np.float64]:
    """Return the point of the largest score near the best of several initial points.

    Damped Newton steps with finite differences; the nine points of a difference stencil, and six
    step lengths, are scored in one batch. ``spacing(point)`` is the difference in the second
    parameter.
    """
    low, high = np.array(bounds).T
    starts = np.clip(starts, low, high)
    scores = score(starts)
    point, best = starts[int(np.argmax(scores))], float(np.max(scores))
    fractions = np.array([1.0, 0.4, 0.15, 0.05, 0.01, 0.001])
    for _ in range(40):
        h = np.array([1e-3 * (1 + abs(point[0])), spacing(point)])
        grid = score(point + h * _STENCIL)
        gradient = np.array([grid[1] - grid[2], grid[3] - grid[4]]) / (2 * h)
        cross = (grid[5] - grid[6] - grid[7] + grid[8]) / (4 * h[0] * h[1])
        twice = np.array([grid[1] + grid[2], grid[3] + grid[4]]) - 2 * grid[0]
        hessian = np.diag(twice / h**2) + cross * (1 - np.eye(2))
        if not np.isfinite(hessian).all():
            break
        sizes, axes = np.linalg.eigh(hessian)
        step = axes @ ((axes.T @ gradient) / np.maximum(np.abs(sizes), 1e-9))
        trials = np.clip(point + fractions[:, None] * step, low, high)
        scores = score(trials)
        scores[~np.isfinite(scores)] = -np.inf
        at = int(np.argmax(scores))
        if not scores[at] > best + 1e-10:
            break
        point, best = trials[at], float(scores[at])
    return point


def _lognormal(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under the most likely lognormal law, binned around the integers.

    With u = log k relative to the lower end of the tail, the density falls as
    exp(-slope u - bend u^2 / 2), so mu = -slope / bend and sigma^2 = 1 / bend: natural
    parameters, in which the likelihood is close to concave and the power law is the limit
    bend -> 0.
    """
    base = np.log(tail.xmin - 0.5)
    u_low, u_high = np.log(tail.values - 0.5) - base, np.log(tail.values + 0.5) - base
    u_end = np.log(tail.upper + 0.5) - base

    def log_p(points: NDArray[Any]) -> NDArray[Any]:
        root = np.sqrt(points[:, 1, None])
        shift = points[:, 0, None] / root
        low, high, end = root * u_low + shift, root * u_high + shift, root * u_end + shift
        with np.errstate(divide="ignore", invalid="ignore"):
            result = np.log((ndtr(-low) - ndtr(-high)) / (ndtr(-shift) - ndtr(-end)))
        far = ~np.isfinite(result) | (low > 30) | (low < -5)
        if far.any():
            exact = _log_normal_mass(low, high) - _log_normal_mass(shift, end)
            result = np.where(far, exact, result)
        return result

    middle = (u_low + u_high) / 2
    mean = float(tail.share @ middle)
    spread = max(float(tail.share @ (middle - mean) ** 2), 1e-4)
    starts = np.array([[1 / mean, 0.05], [1 / mean, 1.0], [-mean / spread, 1 / spread], [0, 4.0]])
    starts[:, 1] = np.clip(starts[:, 1], 2 * FLATTEST, SHARPEST / 2)
    box = ((-np.inf, np.inf), (FLATTEST, SHARPEST))
    found = _climb(lambda p: log_p(p) @ tail.share, starts, box, lambda p: 2e-3 * float(p[1]))
    return log_p(found[None])[0]


def lognormal_likelihood(
    values: NDArray[np.float64], counts: NDArray[np.float64], upper: float
) -> float:
    """Return the largest log-likelihood of a binned lognormal law for all values from 1 on.

    Examples
    --------
    >>> lognormal_likelihood(np.array([1.0, 2.0]), np.array([1.0, 1.0]), 2.0) < 0
    True
    """
    tail = _Tail(values, counts / counts.sum(), 1.0, upper, NAN)
    return float(counts @ _lognormal(tail))


def _stretched_exponential(tail: _Tail) -> NDArray[np.float64]:
    """Return log-probabilities under the most likely discrete Weibull law.

    P(K >= k) falls as exp(-a ((k / xmin)^b - 1) / b): b = 1 is the geometric law, b -> 0 a power
    law. The search is over log(a) and log(b).
    """
    u_low, u_high = np.log(tail.values / tail.xmin), np.log((tail.values + 1) / tail.xmin)
    u_end = np.log((tail.upper + 1) / tail.xmin)

    def log_p(points: NDArray[Any]) -> NDArray[Any]:
        a, b = np.exp(points[:, 0, None]), np.exp(points[:, 1, None])
        with np.errstate(over="ignore", divide="ignore"):
            low, high, end = (-a * np.expm1(b * u) / b for u in (u_low, u_high, u_end))
            return low + np.log(-np.expm1(high - low)) - np.log(-np.expm1(end))

    mean = float(tail.share @ u_high)
    slope = -np.log(mean)
    rate = -np.log1p(1 / float(tail.share @ (tail.values - tail.xmin)))
    starts = np.array(
        [[slope, np.log(0.1)], [slope, np.log(0.4)], [np.log(-rate * tail.xmin), 0.0], [slope, 0.7]]
    )
    box = ((-12.0, 12.0), (np.log(1e-4), np.log(20.0)))

    def score(points: NDArray[Any]) -> NDArray[Any]:
        return np.maximum(log_p(points), -1e6) @ tail.share

    found = _climb(score, starts, box, lambda p: 2e-3)
    return np.maximum(log_p(found[None])[0], -1e6)


def _bent(
    tail: _Tail, bend: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return log-probabilities of ``k^-a exp(-b bend(k))``, b >= 0, less those of the power law.

    The power law is b = 0, so the likelihood is not smaller; it is concave in (a, b). Newton steps
    with halving; b is 0 unless the likelihood rises there.
    """
    points = tail.points(VERY_FAR)
    stats = np.stack([np.log(points.x / tail.xmin), bend(points.x)])
    ours = np.stack([np.log(tail.values / tail.xmin), bend(tail.values)])
    scale = float(max(ours[1].max(), 1e-12))
    stats[1] /= scale
    ours[1] /= scale
    means = ours @ tail.share

    def at(p: NDArray[Any]) -> tuple[float, NDArray[Any], NDArray[Any], float]:
        exponent = points.log_weight - p @ stats
        top = float(exponent.max())
        mass = np.exp(exponent - top)
        total = float(mass.sum())
        mass /= total
        centre = stats @ mass
        cov = (stats * mass) @ stats.T - np.outer(centre, centre)
        norm = top + float(np.log(total))
        return -float(p @ means) - norm, centre - means, cov, norm

    p = np.array([tail.alpha, 0.0])
    value, gradient, cov, norm = first = at(p)
    start = first[0]
    if not gradient[1] > 0:
        return np.zeros(tail.values.size)
    for _ in range(100):
        free = np.array([p[0] > 0 or gradient[0] > 0, p[1] > 0 or gradient[1] > 0])
        step = np.zeros(2)
        inner = cov[np.ix_(free, free)] + 1e-14 * np.eye(int(free.sum()))
        step[free] = np.linalg.solve(inner, gradient[free])
        size = 1.0
        while size > 1e-8:
            trial = np.maximum(p + size * step, 0.0)
            found = at(trial)
            if found[0] > value:
                break
            size /= 2
        else:
            break
        gain = found[0] - value
        p, (value, gradient, cov, norm) = trial, found
        if gain < 1e-12:
            break
    if value <= start:
        return np.zeros(tail.values.size)
    return -(p @ ours) - norm + tail.alpha * ours[0] + first[3]


def _cutoff(tail: _Tail) -> NDArray[np.float64]:
    """Return the gain in log-probability of an exponential cut-off."""
    return _bent(tail, lambda k: k - tail.xmin)


def _curved(tail: _Tail) -> NDArray[np.float64]:
    """Return the gain in log-probability of an exponent that grows with log k."""
    return _bent(tail, lambda k: np.log(k / tail.xmin) ** 2)


Law = Callable[[_Tail], NDArray[np.float64]]

LIGHT: dict[str, Law] = {
    "poisson": _poisson,
    "exponential": _exponential,
    "negative_binomial": _negative_binomial,
    "two_components": _two_components,
}
"""Laws with tails no heavier than exponential; each gives log-probabilities of the values."""

HEAVY: dict[str, Law] = {
    "lognormal": _lognormal,
    "stretched_exponential": _stretched_exponential,
}
"""Laws with heavier tails that are not power laws."""

NESTED: dict[str, Law] = {"cutoff": _cutoff, "curved": _curved}
"""Laws that contain the power law; each gives the gain in log-probability over it."""

RIVALS = ("poisson", "exponential", "lognormal", "negative_binomial", "two_components",
          "stretched_exponential", "cutoff", "curved")  # fmt: skip
"""All laws that a power law is compared with."""


def compare(table: Tally, fit: TailFit, *, upper: float = np.inf) -> Comparisons:
    """Return likelihood ratios of a fitted power law to the laws of `RIVALS` on the same tail.

    All laws are discrete, on ``fit.xmin..upper``, with their most likely parameters:

    - ``poisson``: degrees of a random layer.
    - ``exponential``: the geometric law.
    - ``negative_binomial``: random degrees whose means vary; includes both above as limits.
    - ``two_components``: a bulk with hubs, two kinds of units, each placed at random.
    - ``lognormal``: binned around the integers.
    - ``stretched_exponential``: the discrete Weibull law.
    - ``cutoff``: the power law times exp(-b k).
    - ``curved``: the power law times exp(-b log^2(k / xmin)), a lognormal density on the integers.

    The last two contain the power law (b = 0), so their test is that of likelihood ratios: with b
    at the end of its range, half of the chi-squared law with one degree of freedom. For ``curved``
    it is the discrete form of the most powerful test of a Pareto law against a lognormal one [2]_,
    and finds what Vuong's test against the binned law is too weak to find. The other laws do not
    contain it, and the test is Vuong's [1]_, without correction for the number of parameters.
    The law that Hou and Kwok find in pruned networks [3]_, a power law between a lower and an upper
    threshold, is no rival: it is the power law on ``fit.xmin..upper`` itself.

    Parameters
    ----------
    table : Tally
    fit : TailFit
    upper : float
        Largest possible value.

    Returns
    -------
    Comparisons
        A read-only mapping with the keys of `RIVALS`; each is computed when first asked for.
        ``nan`` without a tail. Cost
        O(m) for m distinct values in the tail, a few hundred times; 0.2 to 5 ms a law.

    References
    ----------
    .. [1] Vuong, "Likelihood ratio tests for model selection and non-nested hypotheses",
       Econometrica 57, 1989.
    .. [2] Malevergne, Pisarenko, Sornette, "Testing the Pareto against the lognormal distributions
       with the uniformly most powerful unbiased test applied to the distribution of cities",
       Physical Review E 83, 2011.
    .. [3] Hou, Kwok, "Power law in sparsified deep neural networks", arXiv 1805.01891, 2018.

    Examples
    --------
    >>> from topokit.measures.powerlaw import fit_tail, sample_zeta, tally
    >>> table = tally(sample_zeta(1000, alpha=2.5, rng=np.random.default_rng(0)))
    >>> compare(table, fit_tail(table))["exponential"].statistic > 2
    True
    """
    return Comparisons(table, fit, upper)


class Comparisons(Mapping[str, LikelihoodRatio]):
    """The likelihood ratios of `compare`: a read-only mapping that computes each when asked.

    Most degree sequences are judged by two or three of the laws.
    """

    def __init__(self, table: Tally, fit: TailFit, upper: float) -> None:
        self._known: dict[str, LikelihoodRatio] = {}
        self._tail: _Tail | None = None
        if np.isfinite(fit.alpha):
            keep = table.values >= fit.xmin
            values, counts = table.values[keep].astype(float), table.counts[keep].astype(float)
            self._counts, self._log_norm = counts, float(log_zeta(fit.alpha, fit.xmin, upper))
            self._tail = _Tail(values, counts / counts.sum(), fit.xmin, upper, fit.alpha)

    def __getitem__(self, name: str) -> LikelihoodRatio:
        if name not in RIVALS:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = UNKNOWN if self._tail is None else self._ratio(name, self._tail)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(RIVALS)

    def __len__(self) -> int:
        return len(RIVALS)

    def __repr__(self) -> str:
        return f"Comparisons({', '.join(RIVALS)})"

    def _ratio(self, name: str, tail: _Tail) -> LikelihoodRatio:
        """Return the likelihood ratio to one law."""
        if name in NESTED:
            gain = max(float(self._counts @ NESTED[name](tail)), 0.0)
            root = float(np.sqrt(2 * gain))
            return LikelihoodRatio(-root, float(ndtr(-root)) if gain > 0 else 1.0, -gain)
        power = -tail.alpha * np.log(tail.values) - self._log_norm
        return _vuong(power - (LIGHT | HEAVY)[name](tail), self._counts)


def _vuong(differences: NDArray[Any], counts: NDArray[Any]) -> LikelihoodRatio:
    """Return Vuong's test from pointwise differences of log-likelihoods."""
    n = float(counts.sum())
    total = float(counts @ differences)
    variance = float(counts @ (differences - total / n) ** 2) / n
    if variance <= 1e-24:
        return LikelihoodRatio(0.0, 1.0, total)
    statistic = total / np.sqrt(n * variance)
    return LikelihoodRatio(float(statistic), float(2 * ndtr(-abs(statistic))), total)

"""Degree reports: are degrees random, broad or heavy-tailed; and tiers for sets of sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, gammaln, log_ndtr, xlog1py, xlogy

from topokit.graph import random_subset
from topokit.graph.convert import GraphLike, as_graph
from topokit.measures.degree import check_share, count_of, degrees_of, gini, whole_degrees
from topokit.measures.powerlaw import fit_tail, log_zeta, tally
from topokit.measures.rivals import negative_binomial_likelihood
from topokit.measures.scalefree import (
    HEAVY_LEVEL,
    P_LEVEL,
    RANDOM_LEVEL,
    TAIL_SIZE,
    PowerLawFit,
    describe_fit,
    joined_by_and,
    power_law_of,
)
from topokit.tables import as_generator, as_html, is_integer

__all__ = [
    "BinomialDistance",
    "DegreeReport",
    "LAWS",
    "SetCorrelation",
    "TIERS",
    "TailIndex",
    "binomial_distance",
    "degree_report",
    "full_support_aic",
    "maximum_p",
    "scale_free_tier",
    "set_style_correlation",
    "tail_index",
]

NAN = float("nan")
CLOSE = 2.0  # of Akaike's criterion: laws closer than this are not told apart
MARGINALS = 10**9  # cells up to which numpy draws hypergeometric marginals

Law = Callable[[NDArray[Any], NDArray[Any], int], float]

TIER_LAWS = ("exponential", "lognormal", "stretched_exponential", "cutoff")
TIERS = (
    "Erdős–Rényi not rejected",
    "not scale-free",
    "super-weak",
    "weakest",
    "weak",
    "strong",
    "strongest",
)
"""From lowest to highest."""


@dataclass(frozen=True, slots=True)
class DegreeReport:
    """Tests and fits of the degrees of one side of a layer; made by `degree_report`.

    Parameters
    ----------
    side : str
    fit : PowerLawFit
        Also has the dispersion and its p-value.
    gini : float
    binomial : BinomialDistance
    maximum_p : float
    tail : TailIndex
    aic : dict of float
    tier : str
        Of `TIERS`, for this one sequence.
    sentence : str
    """

    side: str
    fit: PowerLawFit
    gini: float
    binomial: BinomialDistance
    maximum_p: float
    tail: TailIndex
    aic: dict[str, float]
    tier: str
    sentence: str

    def __repr__(self) -> str:
        return f"DegreeReport({self.side!r}, {self.tier!r}: {self.sentence})"

    def _repr_html_(self) -> str:
        facts = {"tier": self.tier, "sentence": self.sentence, "gini": self.gini}
        facts |= {"binomial distance": self.binomial.distance, "p of the maximum": self.maximum_p}
        facts |= {f"tail index, {key}": value for key, value in self.tail._asdict().items()}
        facts |= {f"AIC, {law}": value for law, value in self.aic.items()}
        return as_html(f"Degrees, {self.side}: {self.fit.label}", facts)


def _holds(fit: PowerLawFit) -> dict[str, bool]:
    """Return which conditions of a tier one sequence meets.

    Every condition but "random" requires that the degrees are wider than those of a random layer.
    """
    random = fit.verdict == "random"
    wider = fit.dispersion_p < RANDOM_LEVEL
    beaten = any(
        fit.comparisons[name].statistic < 0 and fit.comparisons[name].p_value < HEAVY_LEVEL
        for name in TIER_LAWS
    )
    favoured = wider and bool(fit.n_tail) and not beaten
    plausible = wider and fit.p_value >= P_LEVEL
    large = plausible and fit.n_tail >= TAIL_SIZE
    return {
        "random": random,
        "super-weak": favoured,
        "weakest": plausible,
        "weak": large,
        "strong": large and favoured and 2 < fit.alpha < 3,
    }


def scale_free_tier(fits: Sequence[PowerLawFit]) -> str:
    """Tier of a set of degree sequences, after Broido and Clauset, adapted to layers.

    The set is all sequences that a claim is about: seeds, layers, sides, each fitted with
    bootstrap. Sides are taken as they are, not projected, a sequence counts for a tier only if a
    random layer is rejected for it, and a law is better at level 5 % (10 % in the paper).

    - "Erdős–Rényi not rejected": for half of the sequences or more.
    - "not scale-free": for fewer, and none of the following holds. Also if most are narrower than
      random, or there is nothing random to test: regular, complete and empty layers.
    - "super-weak": none of the exponential, lognormal, stretched exponential and cut-off laws is
      better, for half.
    - "weakest": the bootstrap does not reject the power law (p >= 0.1), for half.
    - "weak": also 50 values in the tail.
    - "strong": also super-weak, and 2 < alpha < 3.
    - "strongest": strong for 90 % and super-weak for 95 %.

    Parameters
    ----------
    fits : sequence of PowerLawFit

    Returns
    -------
    str
        The highest of `TIERS` that holds.

    Raises
    ------
    ValueError
        If there are no fits, or one was made without bootstrap although it has a tail.

    References
    ----------
    .. [1] Broido, Clauset, "Scale-free networks are rare", Nature Communications 10:1017, 2019.

    Examples
    --------
    >>> from topokit.measures import fit_power_law
    >>> rng = np.random.default_rng(0)
    >>> draws = [rng.zipf(2.5, 1000), rng.poisson(10, 1000)]
    >>> fits = [fit_power_law(x, bootstrap=50, rng=rng) for x in draws]
    >>> scale_free_tier(fits[:1]), scale_free_tier(fits[1:])
    ('strongest', 'Erdős–Rényi not rejected')
    """
    if not fits:
        raise ValueError("expected at least one fit, got none")
    if any(fit.n_tail and np.isnan(fit.p_value) for fit in fits):
        raise ValueError(
            "expected fits with a bootstrap p-value, got one without: "
            "fit_power_law(samples, bootstrap=100, rng=rng)"
        )
    held = [_holds(fit) for fit in fits]
    share = {key: float(np.mean([h[key] for h in held])) for key in held[0]}
    if share["random"] >= 0.5:
        return TIERS[0]
    if share["strong"] >= 0.9 and share["super-weak"] >= 0.95:
        return "strongest"
    for tier in ("strong", "weak", "weakest", "super-weak"):
        if share[tier] >= 0.5:
            return tier
    return "not scale-free"


def degree_report(
    graph: GraphLike, side: str = "fan_in", *, bootstrap: int = 100, rng: np.random.Generator | int
) -> DegreeReport:
    """Return tests and fits of the degrees of one side: random, heavy-tailed or a power law.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    bootstrap : int
        Replicates behind the power law's p-value, 1 or more.
    rng : numpy.random.Generator

    Returns
    -------
    DegreeReport
        First the random null: dispersion with its exact test, Gini, distance from the binomial
        law by Monte Carlo, p-value of the maximum. Then the tail: three indices, and Akaike's
        criterion of four laws for all degrees. Then the power law: fit, bootstrap, comparisons.
        Last the tier of this one sequence, and all in one sentence. ``nan`` where undefined.
        Cost some 100 ms for a layer of thousands of units.

    Raises
    ------
    ValueError
        If `side` is unknown, or `bootstrap` is below 1.

    References
    ----------
    .. [1] Broido, Clauset, Nature Communications 10:1017, 2019.
    .. [2] Voitalov et al., "Scale-free networks well done", Physical Review Research 1:033034,
       2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> from topokit.graph import LayerGraph
    >>> graph = LayerGraph.from_edge_ids(rng.permutation(300 * 200)[:1500], (300, 200))
    >>> degree_report(graph, bootstrap=20, rng=rng).tier
    'Erdős–Rényi not rejected'
    """
    rng = as_generator(rng)
    if bootstrap < 1:
        raise ValueError(f"expected at least one bootstrap replicate, got {bootstrap}")
    graph = as_graph(graph)
    # the fit draws first, so that its p-value equals that of power_law_of with the same stream
    fit = power_law_of(graph, side, bootstrap=bootstrap, rng=rng)
    degrees, n_other = degrees_of(graph, side)
    binomial = binomial_distance(degrees, n_other=n_other, rng=rng)
    tail = tail_index(degrees, rng=rng)
    aic = full_support_aic(degrees, n_other=n_other)
    tier = scale_free_tier([fit])
    known = {name: value for name, value in aic.items() if not np.isnan(value)}
    words = [describe_fit(fit)]
    if not np.isnan(tail.kernel):
        words.append(f"tail index {tail.moments:.2f} (moments), {tail.kernel:.2f} (kernel)")
    if known:
        shown = {name: name.replace("_", " ").replace("zipf ", "Zipf-") for name in known}
        best = min(known, key=lambda name: known[name])
        close = [shown[n] for n in known if n != best and known[n] < known[best] + CLOSE]
        others = f", not told apart from {joined_by_and(close)}" if close else ""
        words.append(f"of four laws for all degrees, {shown[best]} is best{others}")
    words.append(f"tier: {tier}")
    return DegreeReport(
        side=side,
        fit=fit,
        gini=gini(degrees),
        binomial=binomial,
        maximum_p=maximum_p(degrees, n_other=n_other),
        tail=tail,
        aic=aic,
        tier=tier,
        sentence="; ".join(words),
    )


class BinomialDistance(NamedTuple):
    """Distance of degrees from those of a random layer; see `binomial_distance`."""

    distance: float
    p_value: float


def _binomial(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Return the log-likelihood of the binomial law at its most likely parameter."""
    share = float(counts @ k) / (float(counts.sum()) * n_other)
    choose = gammaln(n_other + 1) - gammaln(k + 1) - gammaln(n_other - k + 1)
    return float(counts @ (choose + xlogy(k, share) + xlog1py(n_other - k, -share)))


def _rounded_lognormal(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Return the largest log-likelihood of the rounded lognormal law; 0 stands for below 1/2.

    On 0..n_other: probabilities are over that of all values up to n_other + 1/2.
    """
    n, end = float(counts.sum()), np.log(n_other + 0.5)
    low, high = np.log(np.maximum(k - 0.5, 1e-300)), np.log(k + 0.5)
    logs = np.log(np.maximum(k, 0.3))
    mean = float(counts @ logs) / float(counts.sum())
    spread = max(float(counts @ (logs - mean) ** 2) / float(counts.sum()), 1e-4) ** 0.5

    def cost(point: NDArray[Any]) -> float:
        mu, sigma = point[0], float(np.exp(np.clip(point[1], -8, 8)))
        below, above = (low - mu) / sigma, (high - mu) / sigma
        flip = below > 0  # take the difference of the smaller tail, which loses no digits
        one = np.where(flip, log_ndtr(-below), log_ndtr(above))
        two = np.where(flip, log_ndtr(-above), log_ndtr(below))
        with np.errstate(divide="ignore"):
            log_p = one + np.log(-np.expm1(np.minimum(two - one, -1e-300)))
        possible = float(log_ndtr((end - mu) / sigma))
        return n * max(possible, -1e4) - float(counts @ np.maximum(log_p, -1e4))

    return -_smallest(cost, [(mean, np.log(spread)), (mean - 1, np.log(2 * spread))])


def _zipf_mandelbrot(k: NDArray[Any], counts: NDArray[Any], n_other: int) -> float:
    """Return the largest log-likelihood of a law proportional to (k + q)**-a on 0..n_other."""

    def cost(point: NDArray[Any]) -> float:
        a, q = np.exp(np.clip(point, [-5, -5], [6, 12]))
        norm = float(log_zeta(a, q, q + n_other))
        return float(counts @ (a * np.log(k + q))) + float(counts.sum()) * norm

    mean = max(float(counts @ k) / float(counts.sum()), 0.1)
    starts = [(np.log(a), np.log(max(mean * (a - 2), 0.1))) for a in (2.5, 4.0, 20.0)]
    return -_smallest(cost, starts)


def _smallest(cost: Callable[[NDArray[Any]], float], starts: list[tuple[float, float]]) -> float:
    """Return the least cost found from several initial points; nan if no search converged."""
    from scipy.optimize import minimize

    options: Any = {"xatol": 1e-4, "fatol": 1e-4, "maxiter": 600}
    found = [
        minimize(cost, np.array(start), method="Nelder-Mead", options=options) for start in starts
    ]
    return min((float(f.fun) for f in found if f.success), default=NAN)


LAWS: dict[str, tuple[Law, int]] = {
    "binomial": (_binomial, 1),
    "negative_binomial": (negative_binomial_likelihood, 2),
    "lognormal": (_rounded_lognormal, 2),
    "zipf_mandelbrot": (_zipf_mandelbrot, 2),
}
"""For each law, the function of its largest log-likelihood, and its number of parameters."""


def full_support_aic(degrees: ArrayLike, *, n_other: int) -> dict[str, float]:
    """Akaike's criterion of four laws for all degrees of one side: the least is the best.

    A tail fit may leave most units out; this fits all of them. "binomial" is the random layer,
    "negative_binomial" a broad one without a heavy tail, "lognormal" (rounded) and
    "zipf_mandelbrot" (a power law of k + q) have heavy ones. All are laws on 0..n_other: if one
    were bounded and another not, degrees that reach the bound would favour the bounded one. There
    the tails are cut off, and none is heavy.

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
        Differences below 2 mean nothing. Cost O(m) for m distinct degrees, some hundred
        times: about 20 ms.

    Raises
    ------
    ValueError
        If a degree is outside 0..n_other, or no integer.

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
    values, counts = np.unique(whole_degrees(degrees, n_other), return_counts=True)
    if values.size < 2:
        return dict.fromkeys(LAWS, NAN)
    k, weights = values.astype(float), counts.astype(float)
    return {name: 2 * size - 2 * law(k, weights, n_other) for name, (law, size) in LAWS.items()}


def _ks_distance(degrees: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov distance of integers from a distribution on 0..n_other."""
    found = np.bincount(degrees, minlength=expected.size).cumsum() / degrees.size
    return float(np.abs(found - expected).max())


def binomial_distance(
    degrees: ArrayLike, *, n_other: int, draws: int = 199, rng: np.random.Generator | int
) -> BinomialDistance:
    """Distance of degrees from the binomial law of a random layer, with its Monte Carlo p-value.

    The share is fitted and degrees are integers, so tabulated critical values do not hold; the
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

    Raises
    ------
    ValueError
        If `draws` is below 1, or a degree is outside 0..n_other or no integer.

    References
    ----------
    .. [1] Lilliefors, "On the Kolmogorov-Smirnov test for normality with mean and variance
       unknown", Journal of the American Statistical Association 62, 1967.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> binomial_distance([0, 0, 0, 12] * 20, n_other=50, rng=rng).p_value
    0.005
    """
    rng = as_generator(rng)
    if not is_integer(draws, 1):
        raise ValueError(f"expected at least 1 random layer to compare with, got draws={draws!r}")
    k = whole_degrees(degrees, n_other)
    total, cells = int(k.sum()), k.size * n_other
    if not 0 < total < cells:
        return BinomialDistance(NAN, NAN)
    expected = bdtr(np.arange(n_other + 1.0), n_other, total / cells)
    found = _ks_distance(k, expected)
    colors = np.full(k.size, n_other)
    above = 0
    for _ in range(draws):
        if cells < MARGINALS:
            random = rng.multivariate_hypergeometric(colors, total, method="marginals")
        else:
            random = np.bincount(random_subset(cells, total, rng) // n_other, minlength=k.size)
        above += _ks_distance(random, expected) >= found - 1e-12
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

    Raises
    ------
    ValueError
        If a degree is outside 0..n_other or no integer.

    Examples
    --------
    >>> maximum_p([1] * 99 + [30], n_other=100) < 1e-9
    True
    """
    k = whole_degrees(degrees, n_other)
    if k.size == 0 or not k.sum():
        return NAN
    from scipy.special import bdtrc

    beyond = float(bdtrc(int(k.max()) - 1, n_other, k.sum() / (k.size * n_other)))
    return float(-np.expm1(k.size * np.log1p(-min(beyond, 1 - 1e-16))))


class TailIndex(NamedTuple):
    """Estimates of the extreme-value index xi; see `tail_index`."""

    hill: float
    moments: float
    moments_error: float
    kernel: float


class SetCorrelation(NamedTuple):
    """Correlation of a histogram with a power law; see `set_style_correlation`."""

    correlation: float
    p_value: float


def tail_index(
    samples: ArrayLike, *, share: float = 0.1, rng: np.random.Generator | int | None = None
) -> TailIndex:
    r"""Extreme-value index of the largest values by Hill, by moments and by a kernel.

    A power law of exponent alpha has :math:`\xi = 1 / (\alpha - 1)`; light tails have 0 or less.
    Hill's estimate is positive for every sample, so never use it alone; the estimates by moments
    (Dekkers, Einmahl, de Haan) and by the biweight kernel (Groeneboom, Lopuhaä, de Wolf) may be
    negative. The share of the tail is fixed.

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
        ``nan`` with fewer than 10 values in the tail, where these do not vary, and where no value
        above 0 is left below them. Below about 500 units the estimates are mostly noise. Cost
        O(n log n).

    Raises
    ------
    ValueError
        If `share` is not in (0, 1].

    References
    ----------
    .. [1] Dekkers, Einmahl, de Haan, "A moment estimator for the index of an extreme-value
       distribution", Annals of Statistics 17, 1989.
    .. [2] Groeneboom, Lopuhaä, de Wolf, "Kernel-type estimators for the extreme value index",
       Annals of Statistics 31, 2003.
    .. [3] Hill, "A simple general approach to inference about the tail of a distribution", Annals
       of Statistics 3, 1975.
    .. [4] Voitalov et al., "Scale-free networks well done", Physical Review Research 1:033034,
       2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bool(tail_index(rng.zipf(2.5, 5000), rng=rng).moments > 0.4)
    True
    """
    check_share(share)
    rng = None if rng is None else as_generator(rng)
    x = np.asarray(samples, dtype=float)
    if rng is not None:
        x = x + rng.uniform(-0.5, 0.5, x.size)
    k = count_of(share, x.size) if x.size else 0
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
    """Return the estimate of the index with the biweight kernel over the k largest values.

    `logs` are the logarithms of these values over the next smaller value, decreasing.
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


def set_style_correlation(degrees: ArrayLike, *, exponent: float | None = None) -> SetCorrelation:
    r"""Correlation of the histogram of degrees with a power law, for reproduction only.

    Warning: a small p-value here does not show a power law. Any decreasing histogram correlates
    with a decreasing function, more bins make the test "more significant", and no other law is
    compared. `topokit.measures.fit_power_law` is the test to report.

    Known of the SET paper: it takes a network for scale-free if a one-tailed p-value, against the
    null hypothesis that the degree distribution of the hidden units has no relation to a power law,
    is below 0.05; :math:`\gamma` is said to be usually between 2 and 3. Not known: the statistic,
    the exponent used, and which degrees count; no code was released. Inferred from the wording:
    Pearson's correlation of the linear (not logarithmic) histogram over the degrees from the least
    to the largest, 0 excluded, with :math:`d^{-\gamma}`. It agrees with what the paper reports on
    evolved networks that the authors' group released later: with :math:`\gamma = 2.5` the p-value
    of the first layer is above 0.5 at the start and below 0.05 after 190 epochs, whereas that of
    logarithms is below 0.05 at the start, too (``figures/studies/released.csv``).

    Parameters
    ----------
    degrees : (n,) array_like of int
    exponent : float, optional
        :math:`\gamma`, above 0; by default that of the maximum-likelihood fit to all positive
        degrees.

    Returns
    -------
    SetCorrelation
        Pearson correlation of the number of units of each degree, also of those that do not occur,
        with ``d**-exponent``, and its one-sided p-value for a positive one; ``nan`` with fewer than
        three bins or counts that are all equal. Cost O(n + largest degree).

    Raises
    ------
    ValueError
        If the exponent is not a number above 0, or a degree no integer of 0 or more.

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

    if exponent is not None and not 0 < exponent < np.inf:
        raise ValueError(f"expected an exponent above 0, got {exponent!r}")
    k = whole_degrees(degrees)
    k = k[k > 0]
    if not k.size or np.ptp(k) < 2:
        return SetCorrelation(NAN, NAN)
    counts = np.bincount(k)[k.min() :].astype(float)
    if np.ptp(counts) == 0:
        return SetCorrelation(NAN, NAN)
    if exponent is None:
        exponent = fit_tail(tally(k), xmin=int(k.min())).alpha
    law = (np.arange(k.min(), k.max() + 1) / k.min()) ** -exponent
    found = pearsonr(law, counts, alternative="greater")
    return SetCorrelation(float(found.statistic), float(found.pvalue))

"""Verdict on a degree sequence: random, broad, heavy-tailed or a power law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topokit.graph import LayerGraph
from topokit.graph.cache import remember
from topokit.graph.convert import GraphLike, as_graph, takes_graph
from topokit.measures.degree import dispersion_test
from topokit.measures.powerlaw import (
    LikelihoodRatio,
    Tally,
    bootstrap_p,
    compare,
    fit_tail,
    log_zeta,
    tally,
)
from topokit.tables import as_generator

__all__ = [
    "PowerLaw",
    "PowerLawFit",
    "VERDICTS",
    "beats",
    "bootstrap_stream",
    "describe_fit",
    "fit_degrees",
    "fit_power_law",
    "judge",
    "power_law",
    "power_law_fan_out",
    "power_law_of",
]

VERDICTS = ("random", "broad", "heavy-tailed", "power law")
"""From narrow to wide; the measure ``power_law.verdict`` is an index into these."""

NAN = float("nan")
RANDOM_LEVEL = 0.01  # one-sided level of the dispersion test
HEAVY_LEVEL = 0.05  # the power law must beat the exponential at this level to be heavy-tailed
HEAVY_TAIL = 20  # values in the tail below which no tail is called heavy
P_LEVEL = 0.1  # bootstrap p below which a power law is rejected
CERTAIN = 10.0  # log-likelihood ratio above which no test is needed
RATIO_LEVEL = 0.1  # level of the likelihood-ratio guards
TAIL_SIZE, TAIL_SHARE, DECADES = 50, 0.02, 0.8
EXPONENTS = (1.5, 3.5)
SIDES = ("fan_in", "fan_out")
STREAM = 101  # makes the bootstrap's streams independent of others with the same seed


@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """A power-law fit of a sample with its tests and verdict; made by `fit_power_law`.

    Parameters
    ----------
    alpha, alpha_error : float
        Exponent and its standard error; ``nan`` without a tail of two distinct values.
    xmin : float
        Beginning of the tail.
    n, n_tail : int
        Sample size (zeros included) and values at or above `xmin`.
    ks_distance : float
        Between tail and fit.
    p_value : float
        Bootstrap goodness of fit; ``nan`` without bootstrap.
    comparisons : dict of LikelihoodRatio
        Against ``poisson``, ``exponential`` and ``lognormal``.
    verdict : str
        One of `VERDICTS`.
    failed : tuple of str
        The conditions of the next higher verdict that do not hold, in words.
    mean, dispersion, dispersion_p : float
        Mean, variance-to-mean ratio, and p-value of "not wider than random".
    maximum : int
    upper : float
        Largest possible value.
    """

    alpha: float
    xmin: float
    n: int
    n_tail: int
    ks_distance: float
    p_value: float
    comparisons: dict[str, LikelihoodRatio]
    verdict: str
    failed: tuple[str, ...]
    alpha_error: float
    mean: float
    dispersion: float
    dispersion_p: float
    maximum: int
    upper: float

    @property
    def decades(self) -> float:
        """Orders of magnitude that the tail spans, log10(maximum / xmin)."""
        return float(np.log10(self.maximum / self.xmin)) if self.n_tail else NAN

    @property
    def tail_share(self) -> float:
        """Share of the sample that is in the tail."""
        return self.n_tail / self.n if self.n else NAN


def _integers(samples: ArrayLike) -> NDArray[np.int64]:
    """Return a sample as int64; raise an error if it is not one of non-negative integers."""
    if isinstance(samples, LayerGraph | Mapping):
        raise TypeError(
            "expected a flat sample of integers such as graph.fan_in, got a "
            f"{type(samples).__name__}; topokit.measures.power_law_of fits a graph's degrees"
        )
    array = np.asarray(samples)
    if array.ndim != 1:
        raise ValueError(f"expected a flat sample of integers, got shape {array.shape}")
    if array.size == 0:
        raise ValueError("expected at least one value to fit, got an empty sample")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"expected a sample of non-negative integers, got dtype {array.dtype}")
    if not np.isfinite(array).all() or np.any(array != np.floor(array)):
        wrong = array[~(np.isfinite(array) & (array == np.floor(array)))][0]
        raise ValueError(f"expected a sample of non-negative integers, got {wrong}")
    if array.min() < 0:
        raise ValueError(f"expected a sample of non-negative integers, got {array.min()}")
    if array.max() >= 2**62:
        raise ValueError(f"expected integers below 2**62, got {array.max()}")
    return array.astype(np.int64)


def fit_power_law(
    samples: ArrayLike,
    *,
    xmin: int | None = None,
    bootstrap: int = 0,
    rng: np.random.Generator | int | None = None,
    n_other: int | None = None,
) -> PowerLawFit:
    """Fit a discrete power law to integers and judge it against a random graph and other laws.

    The fit is maximum likelihood on ``xmin..n_other`` with the exact normalisation; ``xmin``
    minimises the Kolmogorov-Smirnov distance. The verdict is the highest that holds:

    - ``"random"``: the variance is not larger than a random graph's (one-sided dispersion test,
      level 1 %).
    - ``"broad"``: it is larger, but the tail is not heavier than exponential.
    - ``"heavy-tailed"``: the power law describes a tail of at least 20 values better than an
      exponential one (Vuong's test at level 5 %, or a log-likelihood ratio above 10).
    - ``"power law"``: also bootstrap p >= 0.1, at least 50 values and 2 % of the sample in the
      tail, at least 0.8 decades, 1.5 < alpha < 3.5, better than Poisson (level 10 %) and
      exponential, not worse than lognormal (level 5 %). Never without `bootstrap`.

    Parameters
    ----------
    samples : (n,) array_like of int
        Non-negative; zeros count in n and in the dispersion, never in the tail.
    xmin : int, optional
        Fixed lower end of the tail; by default it is searched for.
    bootstrap : int
        Replicates for the p-value; 100 give it to within 0.05.
    rng : numpy.random.Generator, optional
        Needed with `bootstrap`.
    n_other : int, optional
        If the sample is the degrees of one side of a layer: units on the other side. It bounds
        the degrees and makes the random null exact (edges placed without repetition); without
        it the null is Poisson.

    Returns
    -------
    PowerLawFit
        With ``nan`` exponent if no tail has two distinct values. Cost O(m^2) for m distinct
        values, about a millisecond for a layer, times ``1 + bootstrap``.

    Raises
    ------
    ValueError
        If the sample is empty or not of non-negative integers, exceeds `n_other`, or
        `bootstrap` comes without `rng`.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, "Power-law distributions in empirical data", SIAM Review
       51, 2009.
    .. [2] Broido, Clauset, "Scale-free networks are rare", Nature Communications 10:1017, 2019.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> fit = fit_power_law(rng.zipf(2.5, 1000), bootstrap=100, rng=rng)
    >>> fit.verdict, abs(fit.alpha - 2.5) < 0.2
    ('power law', True)
    >>> fit_power_law(rng.poisson(10, 1000)).verdict
    'random'
    """
    rng = None if rng is None else as_generator(rng)
    values = _integers(samples)
    if xmin is not None and (xmin != int(xmin) or xmin < 1):
        raise ValueError(f"expected xmin to be a positive integer, got {xmin}")
    if bootstrap < 0 or bootstrap != int(bootstrap):
        raise ValueError(f"expected bootstrap to be a number of replicates, got {bootstrap}")
    if bootstrap and rng is None:
        raise ValueError(
            "expected rng=numpy.random.default_rng(seed) together with bootstrap > 0, got rng=None"
        )
    if n_other is not None and values.max() > n_other:
        raise ValueError(
            f"expected degrees of at most n_other={n_other}, got {values.max()}: n_other is the "
            "number of units on the other side"
        )
    return fit_degrees(values, xmin=xmin, bootstrap=int(bootstrap), rng=rng, n_other=n_other)


def fit_degrees(
    values: NDArray[np.int64],
    *,
    xmin: int | None = None,
    bootstrap: int = 0,
    rng: np.random.Generator | None = None,
    n_other: int | None = None,
) -> PowerLawFit:
    """Return the fit and verdict of a sample that has been checked; it may be empty."""
    table = tally(values)
    upper = float("inf") if n_other is None else float(n_other)
    tail = fit_tail(table, xmin=xmin, upper=upper)
    dispersion, dispersion_p = dispersion_test(values, n_other=n_other)
    p_value = NAN
    if bootstrap and rng is not None:
        p_value = bootstrap_p(table, tail, replicates=bootstrap, rng=rng, xmin=xmin, upper=upper)
    found: dict[str, Any] = {
        "alpha": tail.alpha,
        "xmin": tail.xmin,
        "n": int(values.size),
        "n_tail": tail.n_tail,
        "ks_distance": tail.ks_distance,
        "p_value": p_value,
        "comparisons": compare(table, tail, upper=upper),
        "alpha_error": _standard_error(table, tail.alpha, tail.xmin, upper),
        "mean": float(values.mean()) if values.size else NAN,
        "dispersion": dispersion,
        "dispersion_p": dispersion_p,
        "maximum": int(values.max()) if values.size else 0,
        "upper": upper,
    }
    draft = PowerLawFit(**found, verdict="random", failed=())
    verdict, failed = judge(draft)
    return PowerLawFit(**found, verdict=verdict, failed=failed)


def _standard_error(table: Tally, alpha: float, xmin: float, upper: float) -> float:
    """Return the asymptotic standard error of the exponent, from the curvature of log zeta."""
    if not np.isfinite(alpha):
        return NAN
    n_tail = int(table.counts[table.values >= xmin].sum())
    h = 1e-3 * max(1.0, alpha / 10)
    f = log_zeta(alpha + h * np.array([-1.0, 0.0, 1.0]), np.full(3, xmin), upper)
    bend = float(f[0] - 2 * f[1] + f[2]) / h**2
    return float(1 / np.sqrt(n_tail * bend)) if bend > 0 else NAN


def beats(ratio: LikelihoodRatio, level: float) -> bool:
    """Return whether the power law is better: by Vuong's test, or if it is e^10 times as likely.

    The second condition is for samples with a single large hub, which excludes an exponential tail
    but also inflates the variance of Vuong's test.
    """
    return ratio.statistic > 0 and (ratio.p_value < level or ratio.log_ratio > CERTAIN)


def judge(fit: PowerLawFit) -> tuple[str, tuple[str, ...]]:
    """Return the highest verdict that holds, and the conditions of the next that do not."""
    if not fit.dispersion_p < RANDOM_LEVEL:
        return "random", ("not wider than a random graph",)
    ratios = fit.comparisons
    exponential = ratios["exponential"]
    if not beats(exponential, HEAVY_LEVEL) or fit.n_tail < HEAVY_TAIL:
        return "broad", ("the tail is not heavier than exponential",)
    failed = []
    if np.isnan(fit.p_value):
        failed.append("no bootstrap was asked for")
    elif fit.p_value < P_LEVEL:
        failed.append(f"rejected by the bootstrap (p = {fit.p_value:.2g})")
    if fit.n_tail < TAIL_SIZE:
        failed.append(f"the tail has only {fit.n_tail} values")
    if fit.tail_share < TAIL_SHARE:
        failed.append(f"the tail is only {fit.tail_share:.1%} of the values")
    if fit.decades < DECADES:
        failed.append(f"the tail spans only {fit.decades:.1f} decades")
    if not EXPONENTS[0] < fit.alpha < EXPONENTS[1]:
        failed.append(f"the exponent is outside {EXPONENTS[0]} to {EXPONENTS[1]}")
    poisson, lognormal = ratios["poisson"], ratios["lognormal"]
    if not beats(poisson, RATIO_LEVEL):
        failed.append("not better than Poisson")
    if lognormal.statistic < 0 and lognormal.p_value < HEAVY_LEVEL:
        failed.append("lognormal is better")
    return ("heavy-tailed", tuple(failed)) if failed else ("power law", ())


class PowerLaw(NamedTuple):
    """The power-law fit of one side of a layer as numbers; see `power_law`."""

    alpha: float
    xmin: float
    n_tail: float
    ks_distance: float
    versus_poisson: float
    versus_exponential: float
    versus_lognormal: float
    verdict: float


def describe_fit(fit: PowerLawFit) -> str:
    """Return one sentence on what a fit shows, and what was or was not rejected.

    Parameters
    ----------
    fit : PowerLawFit

    Returns
    -------
    str

    Examples
    --------
    >>> from topokit.measures import fit_power_law
    >>> describe_fit(fit_power_law([4] * 50))
    'random: narrower than random (variance-to-mean 0.00, mean 4); no tail to fit'
    """
    if fit.n == 0 or not fit.mean > 0:
        return "random: no edges, nothing to fit"
    spread = f"variance-to-mean {fit.dispersion:.2f}, mean {fit.mean:.3g}"
    if np.isnan(fit.dispersion_p):
        opening = f"random: the null leaves no freedom ({spread})"
    elif fit.verdict != "random":
        p = "p < 1e-15" if fit.dispersion_p < 1e-15 else f"p = {fit.dispersion_p:.2g}"
        opening = f"{fit.verdict}: wider than random ({spread}, {p})"
    elif fit.dispersion_p > 1 - RANDOM_LEVEL:
        opening = f"random: narrower than random ({spread})"
    else:
        opening = f"random: random-graph null not rejected ({spread}, p = {fit.dispersion_p:.2g})"
    if not fit.n_tail:
        return f"{opening}; no tail to fit"
    tested = (
        "not tested by bootstrap"
        if np.isnan(fit.p_value)
        else f"power law {'rejected' if fit.p_value < P_LEVEL else 'not rejected'}, "
        f"p = {fit.p_value:.2g}"
    )
    tail = (
        f"tail alpha = {fit.alpha:.2f} from x_min = {fit.xmin:.0f} "
        f"({fit.n_tail} of {fit.n} values, {fit.decades:.1f} decades; {tested})"
    )
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    for name, ratio in fit.comparisons.items():
        decided = ratio.p_value < HEAVY_LEVEL or beats(ratio, HEAVY_LEVEL)
        (open_ if not decided else better if ratio.statistic > 0 else worse).append(name)
    words = []
    if better:
        words.append(f"better than {_listed(better)}")
    if worse:
        words.append(f"worse than {_listed(worse)}")
    if open_:
        words.append(f"not told apart from {_listed(open_)}")
    sentence = f"{opening}; {tail}, {', '.join(words)}"
    if fit.verdict == "heavy-tailed":
        sentence += f"; not a power law: {'; '.join(fit.failed)}"
    return sentence


def _listed(names: list[str]) -> str:
    """Return names joined as in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def bootstrap_stream(seed: int, layer: int, side: str) -> np.random.Generator:
    """Return the random stream of the bootstrap for one side of one layer.

    All commands and reports use this function, so that a seed gives the same p-value whatever
    else is measured before.

    Parameters
    ----------
    seed : int
        0 or more.
    layer : int
        Position of the layer in its topology, from 0.
    side : str
        ``"fan_in"`` or ``"fan_out"``.

    Returns
    -------
    numpy.random.Generator
        Independent of the streams of other layers and sides.

    Raises
    ------
    ValueError
        If `side` is another word.

    Examples
    --------
    >>> first, again = (bootstrap_stream(0, 1, "fan_in").random() for _ in range(2))
    >>> first == again, first == bootstrap_stream(0, 1, "fan_out").random()
    (True, False)
    """
    _check_side(side)
    key = (STREAM, layer, SIDES.index(side))
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _check_side(side: str) -> None:
    """Raise a ValueError unless a side is "fan_in" or "fan_out"."""
    if side not in SIDES:
        raise ValueError(f"expected side 'fan_in' or 'fan_out', got {side!r}")


def power_law_of(
    graph: GraphLike,
    side: str = "fan_in",
    *,
    bootstrap: int = 0,
    rng: np.random.Generator | int | None = None,
) -> PowerLawFit:
    """Return the fit and verdict of the degrees of one side, with the layer's exact random null.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).
    bootstrap, rng
        As in `fit_power_law`.

    Returns
    -------
    PowerLawFit
        With ``nan`` where a side has no units or no edges.

    Raises
    ------
    ValueError
        If `side` is another word, or `bootstrap` comes without `rng`.

    Examples
    --------
    >>> power_law_of(LayerGraph.from_edge_ids(range(12), (3, 4))).verdict
    'random'
    """
    _check_side(side)
    rng = None if rng is None else as_generator(rng)
    graph = as_graph(graph)
    if bootstrap and rng is None:
        raise ValueError(
            "expected rng=numpy.random.default_rng(seed) together with bootstrap > 0, got rng=None"
        )
    degrees, n_other = (
        (graph.fan_in, graph.n_in) if side == "fan_in" else (graph.fan_out, graph.n_out)
    )
    if bootstrap:
        return fit_degrees(degrees, bootstrap=bootstrap, rng=rng, n_other=n_other)
    fit = remember(graph, ("power_law", side), lambda: fit_degrees(degrees, n_other=n_other))
    return replace(fit, comparisons=dict(fit.comparisons))  # the remembered one stays as it is


def _numbers(fit: PowerLawFit) -> PowerLaw:
    """Return a fit as a tuple of floats."""
    return PowerLaw(
        fit.alpha,
        fit.xmin,
        float(fit.n_tail),
        fit.ks_distance,
        fit.comparisons["poisson"].statistic,
        fit.comparisons["exponential"].statistic,
        fit.comparisons["lognormal"].statistic,
        float(VERDICTS.index(fit.verdict)),
    )


@takes_graph
def power_law(graph: LayerGraph) -> PowerLaw:
    """Power-law fit of the fan-in: exponent, x_min, tail size, comparisons, verdict.

    An exponent alone is no evidence: random layers have one too (6 to 19, with tails of 50 and
    more), so read it with ``verdict``. No bootstrap is run, so the verdict is at most
    "heavy-tailed"; `power_law_of` with ``bootstrap=100`` can go further.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    PowerLaw
        ``alpha`` 0 or more, ``xmin`` 1 or more, ``ks_distance`` in [0, 1] (``nan`` with fewer
        than two distinct positive degrees), ``n_tail``; ``versus_*`` Vuong statistics, positive
        where the power law is better (``nan`` without a tail); ``verdict`` a position in
        `VERDICTS`. Cost O(n_edges + m^2) for m distinct degrees.

    Notes
    -----
    Range: alpha above 0, verdict 0 to 3.
    Cost: O(edges) and m^2 at most for m distinct degrees; every epoch.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, SIAM Review 51, 2009.

    Examples
    --------
    >>> fit = power_law(LayerGraph.from_edge_ids(range(12), (3, 4)))
    >>> fit.n_tail, VERDICTS[int(fit.verdict)]
    (0.0, 'random')
    """
    return _numbers(power_law_of(graph, "fan_in"))


@takes_graph
def power_law_fan_out(graph: LayerGraph) -> PowerLaw:
    """Power-law fit of the fan-out: exponent, x_min, tail size, comparisons, verdict.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    PowerLaw
        As for `power_law`, of the input side. Cost O(n_edges + m^2) for m distinct degrees.

    Notes
    -----
    Range: alpha above 0, verdict 0 to 3.
    Cost: O(edges) and m^2 at most for m distinct degrees; every epoch.

    References
    ----------
    .. [1] Clauset, Shalizi, Newman, SIAM Review 51, 2009.

    Examples
    --------
    >>> power_law_fan_out(LayerGraph.from_edge_ids([0], (3, 4))).verdict
    0.0
    """
    return _numbers(power_law_of(graph, "fan_out"))

"""Power-law fits of a layer's two sides, as numbers and in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from topokit.graph import LayerGraph
from topokit.measures.memo import fan_out_of, remember
from topokit.measures.scalefree import (
    HEAVY_LEVEL,
    P_LEVEL,
    RANDOM_LEVEL,
    VERDICTS,
    PowerLawFit,
    beats,
    fit_degrees,
)

__all__ = ["PowerLaw", "describe_fit", "power_law", "power_law_fan_out", "power_law_of"]


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
    """Say in one sentence what a fit shows, and what was or was not rejected.

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
    """Names as in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def power_law_of(
    graph: LayerGraph,
    side: str = "fan_in",
    *,
    bootstrap: int = 0,
    rng: np.random.Generator | None = None,
) -> PowerLawFit:
    """Fit and judge the degrees of one side of a layer, with the layer's exact random null.

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
    if side not in ("fan_in", "fan_out"):
        raise ValueError(f"expected side 'fan_in' or 'fan_out', got {side!r}")
    if bootstrap and rng is None:
        raise ValueError(
            "expected rng=numpy.random.default_rng(seed) together with bootstrap > 0, got rng=None"
        )
    degrees, n_other = (
        (graph.fan_in, graph.n_in) if side == "fan_in" else (fan_out_of(graph), graph.n_out)
    )
    if bootstrap:
        return fit_degrees(degrees, bootstrap=bootstrap, rng=rng, n_other=n_other)
    return remember(graph, ("power_law", side), lambda: fit_degrees(degrees, n_other=n_other))


def _numbers(fit: PowerLawFit) -> PowerLaw:
    """Flatten a fit to floats."""
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


def power_law(graph: LayerGraph) -> PowerLaw:
    """Power-law fit of the fan-in: exponent, x_min, tail size, comparisons, verdict.

    An exponent alone says nothing: random layers have one too (6 to 19, with tails of 50 and
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

"""Degrees of a layer's two sides: moments, inequality, and the test against random graphs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from topokit.graph import LayerGraph
from topokit.graph.convert import takes_graph

__all__ = [
    "DegreeEvenness",
    "DegreeSummary",
    "ccdf",
    "degrees_of",
    "dispersion_test",
    "evenness_fan_in",
    "evenness_fan_out",
    "expected_isolated",
    "fan_in",
    "fan_out",
    "gini",
    "hub_share",
    "side_of",
    "whole_degrees",
]

NAN = float("nan")
SIDES = ("fan_in", "fan_out")


class DegreeSummary(NamedTuple):
    """Moments of the degrees of one side of a layer; see `fan_in`."""

    mean: float
    dispersion: float
    dispersion_p: float
    maximum: float
    gini: float
    isolated: float


class DegreeEvenness(NamedTuple):
    """How evenly the edges of a layer are shared by one side; see `evenness_fan_in`."""

    entropy: float
    edge_entropy: float
    effective_number: float
    hub_share: float
    skewness: float
    excess: float


def side_of(side: str) -> str:
    """Return `side` after checking that it is "fan_in" or "fan_out".

    Examples
    --------
    >>> side_of("left")
    Traceback (most recent call last):
    ValueError: expected side 'fan_in' or 'fan_out', got 'left'
    """
    if side not in SIDES:
        raise ValueError(f"expected side 'fan_in' or 'fan_out', got {side!r}")
    return side


def degrees_of(graph: LayerGraph, side: str) -> tuple[NDArray[np.int64], int]:
    """Return the degrees of one side, and the largest degree that a unit of it can have.

    That is the number of units on the other side; in a grouped convolution, of those in the unit's
    group. All laws of degrees in random layers need it.

    Parameters
    ----------
    graph : LayerGraph
    side : str
        ``"fan_in"`` (output units) or ``"fan_out"`` (input units).

    Raises
    ------
    ValueError
        If `side` is another word.

    Examples
    --------
    >>> degrees_of(LayerGraph.from_edge_ids([0, 3], (2, 2), groups=2), "fan_in")
    (array([1, 1]), 1)
    """
    if side_of(side) == "fan_in":
        return graph.fan_in, graph.n_in // graph.groups
    return graph.fan_out, graph.n_out // graph.groups


def whole_degrees(values: ArrayLike, n_other: int | None = None) -> NDArray[np.int64]:
    """Return a sample of degrees as int64; a cast alone would turn 1.9 into 1.

    Raises
    ------
    ValueError
        If it is not a flat one of integers from 0 to `n_other`, by default below 2**62.

    Examples
    --------
    >>> whole_degrees([3.0, 0]).tolist()
    [3, 0]
    >>> whole_degrees([3, 1.9])
    Traceback (most recent call last):
    ValueError: expected a sample of non-negative integers, got 1.9
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"expected a flat sample of integers, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(f"expected a sample of non-negative integers, got dtype {array.dtype}")
    if not np.isfinite(array).all() or np.any(array != np.floor(array)):
        wrong = array[~(np.isfinite(array) & (array == np.floor(array)))][0]
        raise ValueError(f"expected a sample of non-negative integers, got {wrong}")
    if n_other is not None and not 0 <= array.min() <= array.max() <= n_other:
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"expected degrees in 0..n_other={n_other}, got {wrong}")
    if array.min() < 0:
        raise ValueError(f"expected a sample of non-negative integers, got {array.min()}")
    if array.max() >= 2**62:
        raise ValueError(f"expected integers below 2**62, got {array.max()}")
    return array.astype(np.int64)


def _amounts(values: ArrayLike) -> NDArray[np.float64]:
    """Return values as sorted floats; raise a ValueError if one is negative or not finite."""
    x = np.sort(np.asarray(values, dtype=float))
    if wrong := x[~((x >= 0) & (x < np.inf))].tolist():
        raise ValueError(f"expected finite values of 0 or more, got {wrong[0]}")
    return x


def gini(values: ArrayLike) -> float:
    """Gini coefficient of non-negative values: 0 for equal ones, (n - 1)/n for one-hot ones.

    A random graph does not have 0: Poisson degrees of mean m have e^(-2m) (I0(2m) + I1(2m)), with
    the modified Bessel functions I0 and I1.

    Parameters
    ----------
    values : (n,) array_like

    Returns
    -------
    float
        In [0, 1); ``nan`` if there are no values or all are 0. Cost O(n log n).

    Raises
    ------
    ValueError
        If a value is negative or not finite.

    References
    ----------
    .. [1] Gini, "Variabilità e mutabilità", 1912.

    Examples
    --------
    >>> gini([1, 2]), gini([0, 0, 0, 4])
    (0.16666666666666666, 0.75)
    """
    x = _amounts(values)
    total = x.sum()
    if x.size == 0 or total <= 0:
        return NAN
    ranks = 2 * np.arange(1, x.size + 1) - x.size - 1
    return float(max(ranks @ x / (x.size * total), 0.0))


def check_share(share: float) -> None:
    """Raise a ValueError unless a share of units is in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"expected a share of units in (0, 1], got {share}")


def check_edges(n_edges: int, n_cells: int) -> None:
    """Raise a ValueError unless a layer of `n_cells` possible edges can have `n_edges`."""
    if not 0 <= n_edges <= n_cells:
        raise ValueError(f"expected 0 to {n_cells} edges, got {n_edges}")


def count_of(share: float, n: int) -> int:
    """Return ceil(share n): 7 of 100 for 0.07, although 0.07 * 100 is above 7 in floating point.

    At least 1 for a share above 0 of at least one.
    """
    return max(math.ceil(share * n - 1e-9), min(n, 1))


def hub_share(degrees: ArrayLike, *, share: float = 0.01) -> float:
    """Share of the edges at the ceil(share x n) units of largest degree.

    Parameters
    ----------
    degrees : (n,) array_like of int
    share : float
        In (0, 1].

    Returns
    -------
    float
        In [0, 1]; ``nan`` without edges. Cost O(n log n).

    Raises
    ------
    ValueError
        If `share` is not in (0, 1], or a degree is negative or not finite.

    Examples
    --------
    >>> hub_share([5, 1, 1, 1, 2], share=0.2)
    0.5
    """
    check_share(share)
    x = _amounts(degrees)
    total = x.sum()
    if x.size == 0 or total <= 0:
        return NAN
    return float(x[x.size - count_of(share, x.size) :].sum() / total)


def ccdf(degrees: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the complementary cumulative distribution P(K >= k) at the distinct degrees.

    Parameters
    ----------
    degrees : (n,) array_like of int

    Returns
    -------
    k : (m,) int64
        Distinct degrees, increasing, zero included where it occurs.
    share : (m,) float64
        Share of the units with degree at least k; the first is 1. Cost O(n log n).

    Raises
    ------
    ValueError
        If a degree is not an integer of 0 or more.

    Examples
    --------
    >>> k, share = ccdf([1, 1, 3, 0])
    >>> k.tolist(), share.tolist()
    ([0, 1, 3], [1.0, 0.75, 0.25])
    """
    values, counts = np.unique(whole_degrees(degrees), return_counts=True)
    above = counts[::-1].cumsum()[::-1]
    return values, above / max(int(counts.sum()), 1)


def dispersion_test(degrees: ArrayLike, *, n_other: int | None = None) -> tuple[float, float]:
    """Variance-to-mean ratio of degrees and the p-value of "not wider than random".

    The null has E edges placed uniformly without repetition among the n x n_other cells of a
    layer; there the statistic sum (k - mean)^2 / (mean (N - E)/(N - 1)) has exactly the mean
    n - 1 and closely the chi-squared law with n - 1 degrees of freedom. Without `n_other` the
    cells are unlimited (Poisson degrees).

    Parameters
    ----------
    degrees : (n,) array_like of int
    n_other : int, optional
        Number of units on the other side of the layer (of a grouped convolution: in a group).

    Returns
    -------
    dispersion : float
        Variance (denominator n) over mean, 0 or more; ``nan`` without edges.
    p_value : float
        Upper tail: small for degrees wider than random, near 1 for narrower ones. ``nan`` with
        fewer than two units, without edges, and in a complete layer. Cost O(n).

    Raises
    ------
    ValueError
        If a degree is outside 0..n_other, or no integer.

    References
    ----------
    .. [1] Fisher, Thornton, Mackenzie, "The accuracy of the plating method of estimating the
       density of bacterial populations", Annals of Applied Biology 9, 1922.

    Examples
    --------
    >>> dispersion, p = dispersion_test([0, 0, 0, 12])
    >>> dispersion, p < 1e-6
    (9.0, True)
    """
    k = whole_degrees(degrees, n_other).astype(float)
    total = float(k.sum())
    if k.size == 0 or total <= 0:
        return NAN, NAN
    mean = total / k.size
    square = float(((k - mean) ** 2).sum())
    factor = 1.0
    if n_other is not None:
        cells = float(k.size) * n_other
        factor = (cells - total) / (cells - 1) if cells > 1 else 0.0
    if k.size < 2 or factor <= 0:
        return square / k.size / mean, NAN
    return square / k.size / mean, float(chdtrc(k.size - 1, square / (mean * factor)))


def expected_isolated(n_units: int, n_other: int, n_edges: int) -> float:
    """Expected share of isolated units where `n_edges` distinct edges are placed uniformly.

    Parameters
    ----------
    n_units, n_other : int
        Units on the side in question and on the other side.
    n_edges : int

    Returns
    -------
    float
        In [0, 1]; ``nan`` if a side is empty. Cost O(min(n_other, n_edges)).

    Raises
    ------
    ValueError
        If there are more edges than cells.

    Examples
    --------
    >>> round(expected_isolated(1000, 784, 7840), 6)
    0.000377
    """
    cells = n_units * n_other
    check_edges(n_edges, cells)
    if cells == 0:
        return NAN
    if n_edges > cells - n_other:
        return 0.0
    # C(cells - n_other, n_edges) / C(cells, n_edges), a product of as many factors as the smaller
    # of the two numbers; in the differences of logarithms of factorials of 10^12 digits are lost
    few, many = sorted((n_other, n_edges))
    return float(np.exp(np.log1p(-many / (cells - np.arange(few, dtype=float))).sum()))


def _summary(graph: LayerGraph, side: str) -> DegreeSummary:
    """Return the summary of one side; see `fan_in`."""
    degrees, n_other = degrees_of(graph, side)
    if degrees.size == 0:
        return DegreeSummary(NAN, NAN, NAN, NAN, NAN, 0.0)
    dispersion, p_value = dispersion_test(degrees, n_other=n_other)
    return DegreeSummary(
        mean=float(degrees.mean()),
        dispersion=dispersion,
        dispersion_p=p_value,
        maximum=float(degrees.max()),
        gini=gini(degrees),
        isolated=float(np.count_nonzero(degrees == 0)),
    )


@takes_graph
def fan_in(graph: LayerGraph) -> DegreeSummary:
    """Fan-in of the output units: mean, dispersion with its test, maximum, Gini, isolated units.

    Dispersion is the variance-to-mean ratio: about 1 in a sparse random graph, 0 where all are
    equal, large where there are hubs.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    DegreeSummary
        ``mean`` in [0, n_in]; ``dispersion`` 0 or more and ``dispersion_p`` in [0, 1], the
        one-sided p-value of the exact random-graph null (see `dispersion_test`), of a grouped
        convolution that with edges within its groups; ``maximum`` in
        [0, n_in]; ``gini`` in [0, 1); ``isolated`` the number of units without an edge. ``nan``
        where undefined: all but ``isolated`` on an empty side; dispersion and Gini without
        edges. Cost O(n_edges).

    Notes
    -----
    Range: mean and maximum 0 to n_in, dispersion 0 or more, Gini 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
       connectivity inspired by network science", Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> fan_in(LayerGraph.from_edge_ids([0, 1, 2], (2, 3))).mean
    1.5
    """
    return _summary(graph, "fan_in")


@takes_graph
def fan_out(graph: LayerGraph) -> DegreeSummary:
    """Fan-out of the input units: mean, dispersion with its test, maximum, Gini, isolated units.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    DegreeSummary
        As for `fan_in`, of the input side. Cost O(n_edges).

    Notes
    -----
    Range: mean and maximum 0 to n_out, dispersion 0 or more, Gini 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018.

    Examples
    --------
    >>> fan_out(LayerGraph.from_edge_ids([0, 1, 3], (2, 3))).isolated
    1.0
    """
    return _summary(graph, "fan_out")


def _evenness(degrees: NDArray[np.int64]) -> DegreeEvenness:
    """Return the evenness of one side; see `evenness_fan_in`."""
    total = float(degrees.sum())
    if total <= 0:
        return DegreeEvenness(NAN, NAN, NAN, NAN, NAN, NAN)
    k = degrees.astype(float)
    shares = np.bincount(degrees) / degrees.size
    shares = shares[shares > 0]
    edges = k[k > 0] / total
    centred = k - k.mean()
    variance = float((centred**2).mean())
    return DegreeEvenness(
        entropy=float(max(0.0, -(shares * np.log(shares)).sum())),  # in this order never -0.0
        edge_entropy=(
            float(min((0.0 - (edges * np.log(edges)).sum()) / np.log(k.size), 1.0))
            if k.size > 1
            else NAN
        ),
        effective_number=float(total**2 / (k**2).sum()),
        hub_share=hub_share(degrees),
        skewness=float((centred**3).mean() / variance**1.5) if variance > 1e-12 else NAN,
        excess=float((k**2).sum() / total),
    )


@takes_graph
def evenness_fan_in(graph: LayerGraph) -> DegreeEvenness:
    """Evenness of the fan-in: entropies, effective number of units, share of the hubs.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    DegreeEvenness
        ``entropy`` of the degree distribution (nats, 0 for equal degrees); ``edge_entropy`` of
        the units' shares of the edges over log n (1 for equal degrees, 0 for one hub; ``nan``
        with one unit); ``effective_number`` E^2 / sum k^2 in [1, n]; ``hub_share`` of the
        largest 1 %; ``skewness`` (``nan`` for equal degrees); ``excess`` <k^2>/<k>. All ``nan``
        without edges. Cost O(n_edges + n log n).

    Notes
    -----
    Range: edge entropy and hub share 0 to 1, effective number 1 to n_out.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Pielou, "The measurement of diversity in different types of biological collections",
       Journal of Theoretical Biology 13, 1966 (entropy over its largest value).
    .. [2] Hill, "Diversity and evenness: a unifying notation and its consequences", Ecology 54,
       1973 (effective numbers).
    .. [3] Newman, "Networks", 2nd edition, Oxford University Press, 2018 (<k^2>/<k>).

    Examples
    --------
    >>> evenness_fan_in(LayerGraph.from_edge_ids([0, 3], (2, 2))).effective_number
    2.0
    """
    return _evenness(graph.fan_in)


@takes_graph
def evenness_fan_out(graph: LayerGraph) -> DegreeEvenness:
    """Evenness of the fan-out: entropies, effective number of units, share of the hubs.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    DegreeEvenness
        As for `evenness_fan_in`, of the input side. Cost O(n_edges + n log n).

    Notes
    -----
    Range: edge entropy and hub share 0 to 1, effective number 1 to n_in.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Pielou, "The measurement of diversity in different types of biological collections",
       Journal of Theoretical Biology 13, 1966 (entropy over its largest value).
    .. [2] Hill, "Diversity and evenness: a unifying notation and its consequences", Ecology 54,
       1973 (effective numbers).
    .. [3] Newman, "Networks", 2nd edition, Oxford University Press, 2018 (<k^2>/<k>).

    Examples
    --------
    >>> evenness_fan_out(LayerGraph.from_edge_ids([0, 2], (2, 2))).effective_number
    1.0
    """
    return _evenness(graph.fan_out)

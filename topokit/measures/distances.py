"""Distances within a layer, and what removing its units does to it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, shortest_path

from topokit.graph import LayerGraph
from topokit.measures.flow import components_of
from topokit.measures.lanczos import joined
from topokit.measures.memo import fan_out_of, remember

__all__ = [
    "Distances",
    "RobustnessCurve",
    "distances",
    "efficiency",
    "robustness",
    "robustness_curve",
]

NAN = float("nan")
LARGEST = 4096  # units between which all distances are taken
POINTS = 33  # points of a robustness curve


class Distances(NamedTuple):
    """Shortest paths within the largest component; see `distances`."""

    mean: float
    diameter: float


class RobustnessCurve(NamedTuple):
    """Giant component while units are removed; see `robustness_curve`."""

    removed: NDArray[np.float64]
    giant: NDArray[np.float64]


def _counts(graph: LayerGraph) -> NDArray[np.float64]:
    """Ordered pairs of units at each distance, (in the giant component, anywhere)."""
    n = graph.n_in + graph.n_out
    parts = components_of(graph)
    edges = np.bincount(
        parts.labels, np.concatenate([fan_out_of(graph), graph.fan_in]), parts.number
    )
    giants = (parts.sizes == parts.sizes.max()) & (edges == edges[parts.sizes.argmax()])
    inside = giants[parts.labels]
    adjacency = joined([graph]).matrix()
    counts = np.zeros((2, n + 1))
    for start in range(0, n, 256):
        block = np.arange(start, min(start + 256, n))
        far = shortest_path(adjacency, method="D", unweighted=True, indices=block)
        for row, rows in enumerate((far[inside[block]], far)):
            near = rows[np.isfinite(rows) & (rows > 0)].astype(np.int64)
            counts[row] += np.bincount(near, minlength=n + 1)
    return counts


def _pairs(graph: LayerGraph) -> NDArray[np.float64]:
    """Counts of distances, remembered with the graph."""
    return remember(graph, "distances", lambda: _counts(graph))


def efficiency(graph: LayerGraph) -> float:
    """Mean of 1 / distance over all pairs of units of a layer, 0 for unreachable pairs.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        ``nan`` with fewer than two units, or more than 4,096: all pairs are visited.

    Notes
    -----
    Range: 0 to 1.
    Cost: O(units x edges); on demand.

    References
    ----------
    .. [1] Latora, Marchiori, "Efficient behavior of small-world networks", Physical Review
       Letters 87, 2001.

    Examples
    --------
    >>> efficiency(LayerGraph.from_edge_ids(range(4), (2, 2)))
    0.8333333333333334
    """
    n = graph.n_in + graph.n_out
    if not 2 <= n <= LARGEST:
        return NAN
    return float((_pairs(graph)[1, 1:] / np.arange(1, n + 1)).sum() / (n * (n - 1)))


def distances(graph: LayerGraph) -> Distances:
    """Shortest paths within the largest component: mean over its pairs of units, and longest.

    Of several components of that size and number of edges, pairs of all count.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    Distances
        ``nan`` without edges or with more than 4,096 units: all pairs are visited.

    Notes
    -----
    Range: 1 or more.
    Cost: O(units x edges), shared with `efficiency`; on demand.

    References
    ----------
    .. [1] Watts, Strogatz, "Collective dynamics of small-world networks", Nature 393, 1998.

    Examples
    --------
    >>> distances(LayerGraph.from_edge_ids([0, 1, 3], (2, 2)))
    Distances(mean=1.6666666666666667, diameter=3.0)
    """
    if not graph.n_edges or graph.n_in + graph.n_out > LARGEST:
        return Distances(NAN, NAN)
    counts = _pairs(graph)[0]
    at = np.arange(counts.size)
    return Distances(float(counts @ at / counts.sum()), float(np.flatnonzero(counts).max()))


def _giants(
    graph: LayerGraph, rank: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Largest component among the units of rank below each number of `kept`."""
    rows = np.repeat(rank[graph.n_in :], graph.fan_in)
    later = np.maximum(rank[graph.indices], rows)
    n = rank.size
    giant = np.zeros(kept.size)
    lower = graph.rows + graph.n_in
    for i, number in enumerate(kept):
        if not number:
            continue
        on = later < number
        pairs = (np.ones(int(on.sum()), np.int8), (lower[on], graph.indices[on]))
        labels = connected_components(sp.csr_array(pairs, shape=(n, n)), directed=False)[1]
        giant[i] = np.bincount(labels[rank < number]).max()
    return giant


def robustness_curve(
    graph: LayerGraph,
    *,
    order: str = "hubs",
    points: int = POINTS,
    rng: np.random.Generator | None = None,
) -> RobustnessCurve:
    """Giant component while units of both sides are removed, at random or hubs first.

    Parameters
    ----------
    graph : LayerGraph
    order : str
        ``"hubs"``: by falling degree in the whole layer, ties in random order; ``"random"``.
    points : int
        Points of the curve, 2 or more.
    rng : numpy.random.Generator
        Needed: decides the order, or the ties.

    Returns
    -------
    RobustnessCurve
        ``removed``: share of the units removed, from 0 to 1; ``giant``: units of the largest
        component of what is left, over all units. Empty without units. Cost O(edges) a point.

    Raises
    ------
    ValueError
        If `order` is another word, `points` below 2, or `rng` missing.

    References
    ----------
    .. [1] Albert, Jeong, Barabási, "Error and attack tolerance of complex networks", Nature
       406, 2000.

    Examples
    --------
    >>> star = LayerGraph.from_edge_ids(range(4), (1, 4))
    >>> curve = robustness_curve(star, points=6, rng=np.random.default_rng(0))
    >>> curve.giant.tolist()
    [1.0, 0.2, 0.2, 0.2, 0.2, 0.0]
    """
    if order not in ("hubs", "random"):
        raise ValueError(f"expected order 'hubs' or 'random', got {order!r}")
    if points < 2:
        raise ValueError(f"expected at least 2 points, got {points}")
    if rng is None:
        raise ValueError("expected rng=numpy.random.default_rng(seed), got rng=None")
    n = graph.n_in + graph.n_out
    if n == 0:
        return RobustnessCurve(np.zeros(0), np.zeros(0))
    sequence = rng.permutation(n)
    if order == "hubs":
        degree = np.concatenate([fan_out_of(graph), graph.fan_in])
        sequence = sequence[np.argsort(degree[sequence], kind="stable")]  # hubs last: first to go
    rank = np.empty(n, np.int64)
    rank[sequence] = np.arange(n)
    kept = np.rint(np.linspace(n, 0, points)).astype(np.int64)
    return RobustnessCurve(1 - kept / n, _giants(graph, rank, kept) / n)


def robustness(graph: LayerGraph) -> float:
    """Area under the giant component's share while units are removed, hubs first.

    Units of equal degree leave together and the curve is straight in between, so no order
    among them matters; of many degrees, 33 spread evenly are taken.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        ``nan`` without units.

    Notes
    -----
    Range: 0 to 1/2.
    Cost: O(edges), up to 33 times; on demand.

    References
    ----------
    .. [1] Schneider et al., "Mitigation of malicious attacks on networks", PNAS 108, 2011.

    Examples
    --------
    >>> round(robustness(LayerGraph.from_edge_ids(range(4), (1, 4))), 6)
    0.2
    """
    n = graph.n_in + graph.n_out
    if n == 0:
        return NAN
    degree = np.concatenate([fan_out_of(graph), graph.fan_in])
    kept = np.sort(degree).searchsorted(np.unique(degree)[::-1], side="left")
    if kept.size > POINTS - 1:
        kept = kept[np.unique(np.linspace(0, kept.size - 1, POINTS - 1).astype(int))]
    kept = np.concatenate([[n], kept])
    rank = np.sort(degree).searchsorted(degree, side="left")  # equal degrees share their lowest
    giant = _giants(graph, rank, kept) / n
    return float(np.trapezoid(giant, 1 - kept / n))

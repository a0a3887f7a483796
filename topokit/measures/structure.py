"""Structure between degrees and spectra: 4-cycles, clustering, mixing of degrees, nestedness."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.measures.memo import fan_out_of

__all__ = [
    "assortativity",
    "butterflies",
    "hub_alignment",
    "nestedness",
    "rich_club",
    "robins_alexander",
]

NAN = float("nan")
BLOCK = 4_000_000  # entries of a Gram block held at once
NESTED = 4096  # largest side for which all pairs are compared


def butterflies(graph: LayerGraph) -> float:
    """Number of 4-cycles: pairs of input units that share a pair of output units.

    A random layer of density p has about C(n_in, 2) C(n_out, 2) p^4, and hubs alone raise it:
    read it against degree-preserving twins (`topokit.nulls.null_score`).

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        0 or more. Cost the sum of squared degrees of the cheaper side, in blocks of bounded
        memory.

    Notes
    -----
    Range: 0 or more.
    Cost: the sum of squared degrees; on demand.

    References
    ----------
    .. [1] Wang, Fu, Cheng, "Rectangle counting in large bipartite graphs", IEEE BigData 2014.

    Examples
    --------
    >>> butterflies(LayerGraph.from_edge_ids(range(15), (3, 5)))
    30.0
    """
    if graph.n_edges == 0:
        return 0.0
    matrix = graph.to_csr()
    fan_in, fan_out = graph.fan_in.astype(float), fan_out_of(graph).astype(float)
    if (fan_in**2).sum() < (fan_out**2).sum():
        matrix, degrees = sp.csr_array(matrix.T), fan_out
        inner = fan_in
    else:
        degrees, inner = fan_in, fan_out
    transposed = sp.csr_array(matrix.T)
    cost = np.asarray(matrix @ inner).cumsum()
    total, start = 0.0, 0
    while start < matrix.shape[0]:
        before = cost[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(cost, before + BLOCK, side="right")))
        common = (matrix[start:stop] @ transposed).data
        total += float((common * (common - 1)).sum())
        start = stop
    return (total - float((degrees * (degrees - 1)).sum())) / 4


def robins_alexander(graph: LayerGraph) -> float:
    """Bipartite clustering: share of the paths of three edges that close to a 4-cycle.

    Triangles do not exist in a layer, so the usual clustering coefficient is always 0.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, 1]; 0 without 4-cycles, so also in trees. Cost as `butterflies`.

    Notes
    -----
    Range: 0 to 1.
    Cost: that of butterflies; on demand.

    References
    ----------
    .. [1] Robins, Alexander, "Small worlds among interlocking directors", Computational and
       Mathematical Organization Theory 10, 2004.

    Examples
    --------
    >>> robins_alexander(LayerGraph.from_edge_ids(range(6), (2, 3)))
    1.0
    """
    fan_in, fan_out = graph.fan_in.astype(float), fan_out_of(graph).astype(float)
    paths = float(((fan_in[graph.rows] - 1) * (fan_out[graph.indices] - 1)).sum())
    return 4 * butterflies(graph) / paths if paths else 0.0


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Correlation; nan where a side does not vary."""
    if x.size < 2:
        return NAN
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return NAN
    return float(x @ y) / scale


def assortativity(graph: LayerGraph) -> float:
    """Correlation over the edges of fan-out of the input unit with fan-in of the output unit.

    One orientation only: the symmetrised coefficient of unipartite graphs mixes the means of
    the sides and is -1 for every complete layer with unequal sides.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [-1, 1]; ``nan`` where the degrees at the edges of one side are all equal. Cost
        O(n_edges).

    Notes
    -----
    Range: -1 to 1.
    Cost: O(edges); on demand.

    References
    ----------
    .. [1] Newman, "Assortative mixing in networks", Physical Review Letters 89, 2002.

    Examples
    --------
    >>> round(assortativity(LayerGraph.from_edge_ids([0, 1, 2, 3], (2, 3))), 6)
    -0.57735
    """
    fan_in, fan_out = graph.fan_in.astype(float), fan_out_of(graph).astype(float)
    return _pearson(fan_out[graph.indices], fan_in[graph.rows])


def hub_alignment(topology: Topology) -> float:
    """Correlation of a hidden unit's fan-in with its own fan-out, mean over the hidden layers.

    Parameters
    ----------
    topology : dict of LayerGraph

    Returns
    -------
    float
        In [-1, 1]; hidden layers where one of the two does not vary are left out; ``nan`` if
        none remains or the layers do not chain. Cost O(edges).

    Notes
    -----
    Range: -1 to 1.
    Cost: O(edges); on demand.

    References
    ----------
    .. [1] Zhang et al., "Epitopological learning and Cannistraci-Hebb network shape intelligence
       brain-inspired theory for ultra-sparse advantage in deep learning", ICLR 2024.

    Examples
    --------
    >>> first = LayerGraph.from_edge_ids([0, 1, 2], (2, 2))
    >>> second = LayerGraph.from_edge_ids([0, 2, 3], (2, 2))
    >>> round(hub_alignment({"fc1": first, "fc2": second}), 6)
    1.0
    """
    if chain_widths(topology) is None:
        return NAN
    graphs = list(topology.values())
    found = [
        _pearson(a.fan_in.astype(float), fan_out_of(b).astype(float))
        for a, b in itertools.pairwise(graphs)
    ]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN


def nestedness(graph: LayerGraph) -> float:
    """Nestedness by overlap and decreasing fill (NODF), both sides together.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, 100]: 0 for regular and complete layers, 100 only if strictly nested; ``nan``
        with fewer than two units on both sides, or more than 4,096 on one: all pairs are
        compared. Cost O(n^2) memory in blocks, time of a sparse Gram product.

    Notes
    -----
    Range: 0 to 100.
    Cost: the sum of squared degrees; on demand.

    References
    ----------
    .. [1] Almeida-Neto et al., "A consistent metric for nestedness analysis in ecological
       systems", Oikos 117, 2008.

    Examples
    --------
    >>> nestedness(LayerGraph.from_edge_ids([0, 1, 2, 3, 4, 6], (3, 3)))
    100.0
    """
    pairs = sum(n * (n - 1) / 2 for n in graph.shape)
    if pairs == 0 or max(graph.shape) > NESTED:
        return NAN
    total = 0.0
    for matrix in (graph.to_csr(), sp.csr_array(graph.to_csr().T)):
        degree = np.diff(matrix.indptr).astype(float)
        common = sp.coo_array(matrix @ matrix.T)
        smaller = degree[common.row] < degree[common.col]
        total += float((common.data[smaller] / degree[common.row[smaller]]).sum())
    return 100 * total / pairs


def rich_club(graph: LayerGraph, *, share: float = 0.1) -> float:
    """Density among the hubs of both sides over the density expected from the degrees.

    Hubs are units with a degree at or above that of the ceil(share x n)-th largest, on each
    side; the expectation k d / E of each pair (at most 1) is that of a random layer with these
    degrees.

    Parameters
    ----------
    graph : LayerGraph
    share : float
        In (0, 1].

    Returns
    -------
    float
        0 or more, 1 where hubs are joined as their degrees say; ``nan`` without edges. Cost
        O(n_edges + n log n + pairs of hubs).

    Notes
    -----
    Range: 0 or more.
    Cost: O(edges); on demand.

    References
    ----------
    .. [1] Colizza, Flammini, Serrano, Vespignani, "Detecting rich-club ordering in complex
       networks", Nature Physics 2, 2006.

    Examples
    --------
    >>> rich_club(LayerGraph.from_edge_ids(range(6), (2, 3)))
    1.0
    """
    if graph.n_edges == 0:
        return NAN
    sides = []
    for degree in (graph.fan_in, fan_out_of(graph)):
        rank = int(np.ceil(share * degree.size))
        sides.append(degree >= max(1, int(np.sort(degree)[-rank])))
    found = np.count_nonzero(sides[0][graph.rows] & sides[1][graph.indices])
    k, left = np.unique(graph.fan_in[sides[0]], return_counts=True)
    d, right = np.unique(fan_out_of(graph)[sides[1]], return_counts=True)
    chance = np.minimum(np.outer(k, d) / graph.n_edges, 1.0)
    return float(found / (left @ chance @ right))

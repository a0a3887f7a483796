"""Structure beyond degrees: 4-cycles, clustering, assortativity, nestedness, communities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.graph.convert import GraphLike, as_graph, takes_graph, takes_topology
from topokit.measures.degree import check_share, count_of, whole_degrees
from topokit.tables import as_generator

__all__ = [
    "Communities",
    "PairClustering",
    "assortativity",
    "barber_modularity",
    "butterflies",
    "find_communities",
    "hub_alignment",
    "nestedness",
    "pair_clustering",
    "rich_club",
    "robins_alexander",
]

NAN = float("nan")
BLOCK = 4_000_000  # entries of a Gram block held at once
NESTED = 4096  # units of a side up to which all pairs are compared
SWEEPS = 100  # limit on reassignments of both sides in the search for communities
MERGED = 512  # communities up to which pairs of them are merged


def _common(matrix: sp.csr_array) -> Iterator[tuple[int, sp.csr_array]]:
    """Yield the numbers of common columns of pairs of rows, in blocks of rows, each with its first.

    A block is at least one row, and takes no more than `BLOCK` additions if it is several. Cost in
    all the sum of squared column sums.
    """
    transposed = sp.csr_array(matrix.T)
    cost = np.asarray(matrix @ np.diff(transposed.indptr).astype(float)).cumsum()
    start = 0
    while start < matrix.shape[0]:
        before = cost[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(cost, before + BLOCK, side="right")))
        yield start, matrix[start:stop] @ transposed
        start = stop


@takes_graph
def butterflies(graph: LayerGraph) -> float:
    """Number of 4-cycles: pairs of input units that share a pair of output units.

    A random layer of density p has about C(n_in, 2) C(n_out, 2) p^4, and hubs alone raise it:
    compare it with degree-preserving null samples (`topokit.measures.nulls.null_score`).

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
    .. [1] Wang, Fu, Cheng, "Rectangle counting in large bipartite graphs", IEEE International
       Congress on Big Data, 2014.

    Examples
    --------
    >>> butterflies(LayerGraph.from_edge_ids(range(15), (3, 5)))
    30.0
    """
    if graph.n_edges == 0:
        return 0.0
    matrix = graph.to_csr()
    fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
    if (fan_in**2).sum() < (fan_out**2).sum():
        matrix, degrees = sp.csr_array(matrix.T), fan_out
    else:
        degrees = fan_in
    total = sum(float((block.data * (block.data - 1)).sum()) for _, block in _common(matrix))
    return (total - float((degrees * (degrees - 1)).sum())) / 4


@takes_graph
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
    .. [1] Robins, Alexander, "Small worlds among interlocking directors: network structure and
       distance in bipartite graphs", Computational and Mathematical Organization Theory 10, 2004.

    Examples
    --------
    >>> robins_alexander(LayerGraph.from_edge_ids(range(6), (2, 3)))
    1.0
    """
    fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
    paths = float(((fan_in[graph.rows] - 1) * (fan_out[graph.indices] - 1)).sum())
    return 4 * butterflies(graph) / paths if paths else 0.0


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the Pearson correlation; nan where one of the two does not vary."""
    if x.size < 2:
        return NAN
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return NAN
    return float(x @ y) / scale


@takes_graph
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
    fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
    return _pearson(fan_out[graph.indices], fan_in[graph.rows])


@takes_topology
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
        _pearson(a.fan_in.astype(float), b.fan_out.astype(float))
        for a, b in itertools.pairwise(graphs)
    ]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN


@takes_graph
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
        compared. Cost the sum of squared degrees, in blocks of bounded memory.

    Notes
    -----
    Range: 0 to 100.
    Cost: the sum of squared degrees; on demand.

    References
    ----------
    .. [1] Almeida-Neto et al., "A consistent metric for nestedness analysis in ecological systems:
       reconciling concept and measurement", Oikos 117, 2008.

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
        for start, block in _common(matrix):
            common = sp.coo_array(block)
            own = degree[common.row + start]
            smaller = own < degree[common.col]
            total += float((common.data[smaller] / own[smaller]).sum())
    return 100 * total / pairs


@takes_graph
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
        0 or more, 1 where hubs are joined as expected from their degrees; ``nan`` without edges.
        Cost O(n_edges + n log n + pairs of hubs).

    Raises
    ------
    ValueError
        If `share` is not in (0, 1].

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
    check_share(share)
    if graph.n_edges == 0:
        return NAN
    sides = []
    for degree in (graph.fan_in, graph.fan_out):
        rank = count_of(share, degree.size)
        sides.append(degree >= max(1, int(np.sort(degree)[-rank])))
    found = np.count_nonzero(sides[0][graph.rows] & sides[1][graph.indices])
    k, left = np.unique(graph.fan_in[sides[0]], return_counts=True)
    d, right = np.unique(graph.fan_out[sides[1]], return_counts=True)
    chance = np.minimum(np.outer(k, d) / graph.n_edges, 1.0)
    return float(found / (left @ chance @ right))


class PairClustering(NamedTuple):
    """Mean overlap of neighbourhoods over the units; see `pair_clustering`."""

    union: float
    smaller: float
    larger: float


@takes_graph
def pair_clustering(graph: LayerGraph) -> PairClustering:
    """Mean overlap of the neighbourhoods of units that share a neighbour, over both sides.

    For two units of one side with a common neighbour: common neighbours over the union, over
    the smaller and over the larger neighbourhood (Latapy's dot, min and max); each unit has the
    mean over its partners, 0 if it has none.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    PairClustering
        Each in [0, 1]; all 1 in complete layers with two units a side; ``smaller`` is 1 for
        nested neighbourhoods, so hubs raise it. ``nan`` without units.

    Notes
    -----
    Range: 0 to 1.
    Cost: the sum of squared degrees, in blocks of bounded memory; on demand.

    References
    ----------
    .. [1] Latapy, Magnien, Del Vecchio, "Basic notions for the analysis of large two-mode
       networks", Social Networks 30, 2008.

    Examples
    --------
    >>> pair_clustering(LayerGraph.from_edge_ids(range(6), (2, 3)))
    PairClustering(union=1.0, smaller=1.0, larger=1.0)
    """
    units = graph.n_in + graph.n_out
    if units == 0:
        return PairClustering(NAN, NAN, NAN)
    totals = np.zeros(3)
    for matrix in (graph.to_csr(), sp.csr_array(graph.to_csr().T)):
        totals += _side(matrix)
    return PairClustering(*(totals / units).tolist())


def _side(matrix: sp.csr_array) -> NDArray[np.float64]:
    """Return the sums over the rows of the three mean overlaps with their partners."""
    degree = np.diff(matrix.indptr).astype(float)
    totals = np.zeros(3)
    for start, block in _common(matrix):
        common = sp.coo_array(block)
        other = common.col != common.row + start
        row, shared = common.row[other], common.data[other]
        one, two = degree[row + start], degree[common.col[other]]
        rows = block.shape[0]
        partners = np.maximum(np.bincount(row, minlength=rows), 1)
        for i, size in enumerate((one + two - shared, np.minimum(one, two), np.maximum(one, two))):
            sums = np.bincount(row, shared / size, rows)
            totals[i] += float((sums / partners).sum())
    return totals


class Communities(NamedTuple):
    """Communities found in a layer; see `find_communities`."""

    modularity: float
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


def barber_modularity(graph: GraphLike, inputs: ArrayLike, outputs: ArrayLike) -> float:
    r"""Modularity of given communities of a bipartite graph.

    .. math:: Q = \frac{1}{E} \sum_{ij} (B_{ij} - k_i d_j / E) [c_i = c_j]

    Parameters
    ----------
    graph : LayerGraph
    inputs, outputs : (n_in,) and (n_out,) array_like of int
        Community of each unit, 0 or more, common to both sides.

    Returns
    -------
    float
        In [-1/2, 1); 0 if all units are in one community; ``nan`` without edges. Sparse random
        layers have communities of 0.3 and more, so only its z-score against null samples of the
        same degrees is informative. Cost O(n_edges).

    Raises
    ------
    ValueError
        If there is not one community for each unit, or one is negative or no integer.

    References
    ----------
    .. [1] Barber, "Modularity and community detection in bipartite networks", Physical Review E
       76, 2007.

    Examples
    --------
    >>> blocks = LayerGraph.from_edge_ids([0, 1, 4, 5, 10, 11, 14, 15], (4, 4))
    >>> barber_modularity(blocks, [0, 0, 1, 1], [0, 0, 1, 1])
    0.5
    """
    graph = as_graph(graph)
    one, two = np.asarray(inputs), np.asarray(outputs)
    if one.shape != (graph.n_in,) or two.shape != (graph.n_out,):
        raise ValueError(
            f"expected a community for each of {graph.n_in} input and {graph.n_out} output units, "
            f"got shapes {one.shape} and {two.shape}"
        )
    try:
        one, two = whole_degrees(one), whole_degrees(two)
    except ValueError as error:
        raise ValueError(f"expected communities 0 or more: {error}") from None
    if not graph.n_edges:
        return NAN
    edges = float(graph.n_edges)
    within = np.count_nonzero(one[graph.indices] == two[graph.rows])
    size = int(max(one.max(initial=0), two.max(initial=0))) + 1
    left = np.bincount(one, graph.fan_out, size)
    right = np.bincount(two, graph.fan_in, size)
    return float(within / edges - left @ right / edges**2)


# Search for modularity (Barber, 2007). Finding the largest modularity is NP-hard. With the
# communities of one side fixed, though, the best community of each unit of the other side is known
# exactly and independently of the other units: the one with the largest number of its edges less
# the number expected from degrees. So reassigning the two sides in turn never lowers the
# modularity and stops at a local maximum, in O(edges) a sweep. It never merges two communities of
# several units each, which is why pairs are merged greedily after each sweep, and its result
# depends on the initial communities, which is why several are tried and the best is kept.
def find_communities(
    graph: GraphLike, *, rng: np.random.Generator | int, starts: int = 4
) -> Communities:
    """Search for communities of high modularity by reassigning the two sides in turn (BRIM).

    Initially each input unit is a community, or each component is, or communities are random. The
    units of one side then join the communities that raise the modularity most, next those of the
    other side, and pairs of communities are merged while the modularity rises.

    Parameters
    ----------
    graph : LayerGraph
    rng : numpy.random.Generator
    starts : int
        Number of random initial communities, besides the two fixed ones.

    Returns
    -------
    Communities
        The best found, a lower bound of the largest possible modularity; numbered from 0.
        Without edges ``nan`` and a single community. Cost O(n_edges) a round, some 20 rounds for
        each initial assignment.

    References
    ----------
    .. [1] Barber, Physical Review E 76, 2007.

    Examples
    --------
    >>> blocks = LayerGraph.from_edge_ids([0, 1, 4, 5, 10, 11, 14, 15], (4, 4))
    >>> find_communities(blocks, rng=np.random.default_rng(0)).modularity
    0.5
    """
    graph = as_graph(graph)
    rng = as_generator(rng)
    from topokit.measures.connectivity import components_of

    if not graph.n_edges:
        return Communities(NAN, np.zeros(graph.n_in, np.int64), np.zeros(graph.n_out, np.int64))
    many = max(2, int(np.sqrt(min(graph.shape))))
    initial: list[NDArray[Any]] = [np.arange(graph.n_in), components_of(graph).labels]
    initial += [rng.integers(0, many, graph.n_in) for _ in range(starts)]
    numbers = [np.unique(b[: graph.n_in], return_inverse=True)[1] for b in initial]
    found = [_improve(graph, inputs) for inputs in numbers]
    return max(found, key=lambda c: c.modularity)


def _join(
    matrix: sp.csr_array,
    degree: NDArray[np.int64],
    other: NDArray[np.int64],
    mass: NDArray[Any],
) -> NDArray[np.int64]:
    """Return the best community of each row, given those of the columns with degrees in `mass`."""
    size = mass.size
    shares = sp.csr_array(
        (np.ones(other.size), (np.arange(other.size), other)), shape=(other.size, size)
    )
    edges = sp.csr_array(matrix @ shares)
    gain = edges.data - np.repeat(degree, np.diff(edges.indptr)) * mass[edges.indices] / mass.sum()
    best = np.zeros(matrix.shape[0], np.int64)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(edges.indptr))
    order = np.lexsort((edges.indices, -gain, rows))
    first = np.unique(rows[order], return_index=True)
    best[first[0]] = edges.indices[order][first[1]]
    return best


def _improve(graph: LayerGraph, inputs: NDArray[np.int64]) -> Communities:
    """Return communities improved by reassigning and merging until the modularity stops rising."""
    matrix = graph.to_csr()
    transposed = sp.csr_array(matrix.T)
    fan_in, fan_out = graph.fan_in, graph.fan_out
    best = Communities(-1.0, inputs, np.zeros(graph.n_out, np.int64))
    for _ in range(SWEEPS):
        size = int(inputs.max()) + 1
        outputs = _join(matrix, fan_in, inputs, np.bincount(inputs, fan_out, size))
        inputs = _join(transposed, fan_out, outputs, np.bincount(outputs, fan_in, size))
        inputs, outputs = _merged(graph, inputs, outputs)
        value = barber_modularity(graph, inputs, outputs)
        if not value > best.modularity + 1e-12:
            break
        best = Communities(value, inputs, outputs)
    return best


def _merged(
    graph: LayerGraph, inputs: NDArray[np.int64], outputs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return communities merged in pairs while the modularity rises, the best pair first."""
    numbers = np.unique(np.concatenate([inputs, outputs]), return_inverse=True)[1]
    inputs, outputs = numbers[: inputs.size], numbers[inputs.size :]
    size = int(numbers.max(initial=0)) + 1
    if size > MERGED:
        return inputs, outputs
    edges = float(graph.n_edges)
    one, two = inputs[graph.indices], outputs[graph.rows]
    shares = np.bincount(one * size + two, minlength=size * size).reshape(size, size) / edges
    left = np.bincount(inputs, graph.fan_out, size) / edges
    right = np.bincount(outputs, graph.fan_in, size) / edges
    excess = shares - np.outer(left, right)
    gain = excess + excess.T
    np.fill_diagonal(gain, -np.inf)
    name = np.arange(size)
    while size > 1:
        i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if not gain[i, j] > 1e-12:
            break
        gain[i] += gain[j]
        gain[:, i] += gain[:, j]
        gain[i, i] = -np.inf
        gain[j], gain[:, j] = -np.inf, -np.inf
        name[name == j] = i
    return name[inputs], name[outputs]

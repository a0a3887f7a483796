"""Connectivity and flow: components, active units, effective density, paths."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components, shortest_path

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.graph.cache import remember
from topokit.graph.convert import GraphLike, as_graph, takes_graph, takes_topology
from topokit.graph.spectra import Joined, joined
from topokit.tables import as_generator

__all__ = [
    "ActiveFlow",
    "Components",
    "Distances",
    "RobustnessCurve",
    "active_flow",
    "components",
    "components_of",
    "distances",
    "efficiency",
    "giant_share",
    "labels_of",
    "largest_components",
    "network_components",
    "network_giant_share",
    "robustness",
    "robustness_curve",
]

NAN = float("nan")
ALL_PAIRS = 4096  # units up to which the distances of all pairs are computed
POINTS = 33  # points of a robustness curve


class Components(NamedTuple):
    """Connected components of a layer: input units first, then output units."""

    number: int
    with_edges: int
    sizes: NDArray[np.int64]
    labels: NDArray[np.int32]


def labels_of(units: Joined) -> NDArray[np.int32]:
    """Return the component of each unit of a network, numbered from 0. O(edges)."""
    from topokit.measures.edge_loops import component_labels

    n = units.degree.size
    return component_labels(units.indptr, units.indices, units.first, n)[0]


def components_of(graph: LayerGraph) -> Components:
    """Connected components of a layer, remembered with the graph.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    Components
        ``number`` includes isolated units; ``sizes`` in units; ``labels`` of the n_in input
        units, then of the n_out output units. Cost O(n_edges + n_in + n_out).

    Examples
    --------
    >>> components_of(LayerGraph.from_edge_ids([0], (2, 1))).sizes.tolist()
    [2, 1]
    """
    return remember(graph, "components", lambda: _components(graph))


def _components(graph: LayerGraph) -> Components:
    """Return the components of one layer; see `components_of`."""
    from topokit.measures.edge_loops import component_labels

    n = graph.n_in + graph.n_out
    if n == 0:
        return Components(0, 0, np.zeros(0, np.int64), np.zeros(0, np.int32))
    labels, count = component_labels(graph.indptr, graph.indices.view(np.uint32), graph.n_in, n)
    sizes = np.bincount(labels, minlength=count)
    return Components(int(count), int(np.count_nonzero(sizes > 1)), sizes, labels)


def largest_components(graph: LayerGraph) -> NDArray[np.int64]:
    """Return the labels of the components with most units and, of these, most edges.

    A measure of "the largest component" must not depend on how the units are numbered, so it takes
    all of these: the pairs of all, or the least value. O(units) besides the search for components.
    """
    parts = components_of(graph)
    degree = np.concatenate([graph.fan_out, graph.fan_in])
    edges = np.bincount(parts.labels, degree, parts.number)
    largest = np.flatnonzero(parts.sizes == parts.sizes.max(initial=0))
    return largest[edges[largest] == edges[largest].max(initial=0)]


@takes_graph
def components(graph: LayerGraph) -> float:
    """Number of connected components; every isolated unit is one.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, n_in + n_out]. Cost O(n_edges + n_in + n_out).

    Notes
    -----
    Range: 0 to n_in + n_out.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Hopcroft, Tarjan, "Algorithm 447: efficient algorithms for graph manipulation",
       Communications of the ACM 16, 1973.

    Examples
    --------
    >>> components(LayerGraph.from_edge_ids([0, 3], (2, 2)))
    2.0
    """
    return float(components_of(graph).number)


@takes_graph
def giant_share(graph: LayerGraph) -> float:
    """Share of the units that are in the largest connected component.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In (0, 1]; ``nan`` without units. Cost O(n_edges + n_in + n_out).

    Notes
    -----
    Range: 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Newman, Strogatz, Watts, "Random graphs with arbitrary degree distributions and their
       applications", Physical Review E 64, 2001.

    Examples
    --------
    >>> giant_share(LayerGraph.from_edge_ids([0, 1], (2, 2)))
    0.75
    """
    sizes = components_of(graph).sizes
    return float(sizes.max() / sizes.sum()) if sizes.size else NAN


def _network_sizes(topology: Topology) -> NDArray[np.int64] | None:
    """Return the component sizes of the whole network; None if the layers do not chain.

    The sizes are kept with the first layer's graph, together with weak references to all graphs,
    so that `network_components` and `network_giant_share` share one search.
    """
    if chain_widths(topology) is None:
        return None
    graphs = list(topology.values())
    if len(graphs) == 1:
        return components_of(graphs[0]).sizes

    known: dict[str, Any] = remember(graphs[0], "network", dict)
    if [ref() for ref in known.get("graphs", ())] != graphs:
        labels = labels_of(joined(graphs))
        known["graphs"] = [weakref.ref(graph) for graph in graphs]
        known["sizes"] = np.bincount(labels)
    return known["sizes"]


@takes_topology
def network_components(topology: Topology) -> float:
    """Number of connected components of the whole layered network; isolated units count.

    Parameters
    ----------
    topology : dict of LayerGraph

    Returns
    -------
    float
        ``nan`` if the layers do not chain. Cost O(edges + units).

    Notes
    -----
    Range: 0 to the number of units.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Hopcroft, Tarjan, Communications of the ACM 16, 1973.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(4), (2, 2))
    >>> network_components({"fc1": dense, "fc2": dense})
    1.0
    """
    sizes = _network_sizes(topology)
    return NAN if sizes is None else float(sizes.size)


@takes_topology
def network_giant_share(topology: Topology) -> float:
    """Share of all units of the network that are in its largest connected component.

    Parameters
    ----------
    topology : dict of LayerGraph

    Returns
    -------
    float
        In (0, 1]; ``nan`` if the layers do not chain or have no units. Cost O(edges + units).

    Notes
    -----
    Range: 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Newman, Strogatz, Watts, Physical Review E 64, 2001.

    Examples
    --------
    >>> one = LayerGraph.from_edge_ids([0], (2, 2))
    >>> network_giant_share({"fc1": one})
    0.5
    """
    sizes = _network_sizes(topology)
    return float(sizes.max() / sizes.sum()) if sizes is not None and sizes.size else NAN


class ActiveFlow(NamedTuple):
    """Parts of a network that lie on input-output paths, and the paths; see `active_flow`."""

    units: float
    edges: float
    effective_density: float
    log10_paths: float


@takes_topology
def active_flow(topology: Topology) -> ActiveFlow:
    """Units and edges that lie on a path from an input to an output unit, and number of paths.

    Only the graph is considered: a unit without inputs counts as inactive, although it may have a
    bias.

    Parameters
    ----------
    topology : dict of LayerGraph

    Returns
    -------
    ActiveFlow
        ``units``: active share of the hidden units (``nan`` without hidden units); ``edges``:
        active share of the edges; ``effective_density``: active edges over possible edges,
        as in `LayerGraph.density`; ``log10_paths``: logarithm of the number of input-output paths,
        ``nan`` if there is none. All ``nan`` if the layers do not chain. Cost O(edges).

    Notes
    -----
    Range: shares 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Vysogorets, Kempe, "Connectivity matters: neural network pruning through the lens of
       effective sparsity", JMLR 24, 2023.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(100), (10, 10))
    >>> active_flow({"fc1": dense, "fc2": dense}).log10_paths
    3.0
    """
    if chain_widths(topology) is None:
        return ActiveFlow(NAN, NAN, NAN, NAN)
    from topokit.measures.edge_loops import edges_between, feeding, gathered, reached

    graphs = list(topology.values())
    csr = [(g.indptr, g.indices.view(np.uint32)) for g in graphs]
    # path counts may underflow to 0 beside much larger ones, so reachability is kept in booleans
    reach, backward = [np.ones(graphs[0].n_in, bool)], [np.ones(graphs[-1].n_out, bool)]
    for arrays in csr:
        reach.append(reached(*arrays, reach[-1]))
    for graph, arrays in zip(reversed(graphs), reversed(csr), strict=True):
        backward.append(feeding(*arrays, backward[-1], graph.n_in))
    backward.reverse()
    counts = np.ones(graphs[0].n_in)
    log_scale = 0.0
    for arrays, leads_out in zip(csr, backward[1:], strict=True):
        counts = np.where(leads_out, gathered(*arrays, counts), 0.0)  # dead ends set no scale
        scale = float(counts.max(initial=0.0))
        if scale > 0:
            counts = counts / scale
            log_scale += float(np.log10(scale))
    paths = float(counts.sum())
    active = sum(edges_between(*arrays, reach[i], backward[i + 1]) for i, arrays in enumerate(csr))
    edges = sum(g.n_edges for g in graphs)
    cells = sum(g.n_possible for g in graphs)
    hidden = sum(r.size for r in reach[1:-1])
    alive = sum(
        int(np.count_nonzero(f & b)) for f, b in zip(reach[1:-1], backward[1:-1], strict=True)
    )
    return ActiveFlow(
        units=alive / hidden if hidden else NAN,
        edges=active / edges if edges else NAN,
        effective_density=active / cells if cells else NAN,
        log10_paths=float(np.log10(paths) + log_scale) if paths > 0 else NAN,
    )


class Distances(NamedTuple):
    """Shortest paths within the largest component; see `distances`."""

    mean: float
    diameter: float


class RobustnessCurve(NamedTuple):
    """Size of the giant component while units are removed; see `robustness_curve`."""

    removed: NDArray[np.float64]
    giant: NDArray[np.float64]


def _counts(graph: LayerGraph) -> NDArray[np.float64]:
    """Return the number of ordered pairs at each distance: in the giant component, anywhere.

    Giant are the components with most units and, of these, most edges: all of them if there are
    several, since which one comes first depends on the numbering.
    """
    n = graph.n_in + graph.n_out
    parts = components_of(graph)
    inside = np.isin(parts.labels, largest_components(graph))
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
    """Return `_counts`, remembered with the graph."""
    return remember(graph, "distances", lambda: _counts(graph))


@takes_graph
def efficiency(graph: LayerGraph) -> float:
    """Mean of 1 / distance over all pairs of units of a layer, 0 for unreachable pairs.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        ``nan`` with fewer than two units, or more than 4,096, as all pairs are visited.

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
    if not 2 <= n <= ALL_PAIRS:
        return NAN
    return float((_pairs(graph)[1, 1:] / np.arange(1, n + 1)).sum() / (n * (n - 1)))


@takes_graph
def distances(graph: LayerGraph) -> Distances:
    """Shortest paths within the largest component: mean over its pairs of units, and longest.

    If several components have that size and number of edges, the pairs of all of them count.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    Distances
        ``nan`` without edges or with more than 4,096 units, as all pairs are visited.

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
    if not graph.n_edges or graph.n_in + graph.n_out > ALL_PAIRS:
        return Distances(NAN, NAN)
    counts = _pairs(graph)[0]
    at = np.arange(counts.size)
    return Distances(float(counts @ at / counts.sum()), float(np.flatnonzero(counts).max()))


# Robustness. Every unit has a rank, and the `number` units of the lowest ranks are kept: an edge is
# left as long as both ranks are below that number. So one comparison an edge selects the edges of
# each point of the curve, and union-find over them gives the components: O(edges) a point. Adding
# units from the last to the first, as in Newman and Ziff (2001), gives the whole curve in one pass,
# but would need another compiled function; 33 points over scipy's components are fast enough.
def _giants(
    graph: LayerGraph, rank: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the size of the largest component among the units of rank below each of `kept`."""
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
    graph: GraphLike,
    *,
    order: str = "hubs",
    points: int = POINTS,
    rng: np.random.Generator | int | None = None,
) -> RobustnessCurve:
    """Size of the giant component while units of both sides are removed, at random or hubs first.

    Parameters
    ----------
    graph : LayerGraph
    order : str
        ``"hubs"``: by decreasing degree in the whole layer, ties in random order; ``"random"``.
    points : int
        Number of points of the curve, 2 or more.
    rng : numpy.random.Generator
        Required: draws the order, or that of ties.

    Returns
    -------
    RobustnessCurve
        ``removed``: share of the units removed, from 0 to 1; ``giant``: units of the largest
        component of the rest, over all units. Empty without units. Cost O(edges) a point.

    Raises
    ------
    ValueError
        If `order` is unknown, `points` is below 2, or `rng` is missing.

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
    graph = as_graph(graph)
    rng = None if rng is None else as_generator(rng)
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
        degree = np.concatenate([graph.fan_out, graph.fan_in])
        # hubs last, since the last ranks are removed first
        sequence = sequence[np.argsort(degree[sequence], kind="stable")]
    rank = np.empty(n, np.int64)
    rank[sequence] = np.arange(n)
    kept = np.rint(np.linspace(n, 0, points)).astype(np.int64)
    return RobustnessCurve(1 - kept / n, _giants(graph, rank, kept) / n)


@takes_graph
def robustness(graph: LayerGraph) -> float:
    """Area under the curve of the giant component's share while units are removed, hubs first.

    Units of equal degree are removed together and the curve is linear in between, so that the
    order among them does not matter; it has at most 33 points, spread evenly over the degrees.

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
    degree = np.concatenate([graph.fan_out, graph.fan_in])
    kept = np.sort(degree).searchsorted(np.unique(degree)[::-1], side="left")
    if kept.size > POINTS - 1:
        kept = kept[np.unique(np.linspace(0, kept.size - 1, POINTS - 1).astype(int))]
    kept = np.concatenate([[n], kept])
    rank = np.sort(degree).searchsorted(degree, side="left")  # equal degrees share their lowest
    giant = _giants(graph, rank, kept) / n
    return float(np.trapezoid(giant, 1 - kept / n))

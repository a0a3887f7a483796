"""Change of a layer between recorded topologies: turnover, overlap, explored share, distance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph, Topology, check_chain
from topokit.graph.convert import GraphLike, as_graph, as_topology
from topokit.graph.layergraph import check_one_shape
from topokit.measures.degree import check_edges

__all__ = [
    "Convergence",
    "expected_explored_fraction",
    "expected_jaccard",
    "explored_fraction",
    "jaccard",
    "jaccard_excess",
    "kept_core",
    "structure_convergence",
    "survival_curve",
    "topology_distance",
    "turnover",
]

NAN = float("nan")
ROUNDING = 1e-9  # a product this close below an integer is that integer


def turnover(update: EdgeUpdate) -> float:
    """Share of the edges that were absent from the previous topology.

    An edge that was dropped and grown again in between does not count.

    Parameters
    ----------
    update : EdgeUpdate
        From the previous recorded graph to this one.

    Returns
    -------
    float
        In [0, 1]; ``nan`` if there are no edges now. Cost O(n_edges).

    Notes
    -----
    Range: 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018: the share zeta that is replaced.

    Examples
    --------
    >>> old = LayerGraph.from_edge_ids([0, 1, 2], (2, 3))
    >>> new = LayerGraph.from_edge_ids([0, 1, 5], (2, 3))
    >>> round(turnover(EdgeUpdate.between(old, new)), 6)
    0.333333
    """
    return update.n_grown / update.after.n_edges if update.after.n_edges else NAN


def jaccard(update: EdgeUpdate) -> float:
    """Edges in both topologies over edges in either.

    Parameters
    ----------
    update : EdgeUpdate

    Returns
    -------
    float
        In [0, 1]; two independent random layers of density p have about p / (2 - p) (see
        `expected_jaccard`); ``nan`` if both are empty. Cost O(n_edges).

    Notes
    -----
    Range: 0 to 1.
    Cost: O(edges); every epoch.

    References
    ----------
    .. [1] Jaccard, "The distribution of the flora in the alpine zone", New Phytologist 11, 1912.

    Examples
    --------
    >>> old = LayerGraph.from_edge_ids([0, 1, 2], (2, 3))
    >>> new = LayerGraph.from_edge_ids([0, 1, 5], (2, 3))
    >>> jaccard(EdgeUpdate.between(old, new))
    0.5
    """
    kept = update.after.n_edges - update.n_grown
    union = update.before.n_edges + update.n_grown
    return kept / union if union else NAN


def expected_jaccard(n_before: int, n_after: int, n_cells: int) -> float:
    """Jaccard index at the expected overlap of two independent random edge sets.

    Parameters
    ----------
    n_before, n_after, n_cells : int
        Edges of both layers, and possible edges.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without edges.

    Raises
    ------
    ValueError
        If a number of edges is negative, or above that of the possible ones.

    Examples
    --------
    >>> round(expected_jaccard(100, 100, 1000), 6)      # p / (2 - p), p = 0.1
    0.052632
    """
    check_edges(n_before, n_cells)
    check_edges(n_after, n_cells)
    if n_cells == 0 or n_before + n_after == 0:
        return NAN
    both = n_before * n_after / n_cells
    return both / (n_before + n_after - both)


def jaccard_excess(update: EdgeUpdate) -> float:
    """Jaccard index rescaled: 0 as for independent random layers, 1 for the same edges.

    Parameters
    ----------
    update : EdgeUpdate

    Returns
    -------
    float
        At most 1; ``nan`` without edges, and where both graphs are complete. Cost O(n_edges).

    Notes
    -----
    Range: at most 1.
    Cost: O(edges); on demand.

    References
    ----------
    .. [1] Hubert, Arabie, "Comparing partitions", Journal of Classification 2, 1985: an index
       corrected for chance.

    Examples
    --------
    >>> old = LayerGraph.from_edge_ids([0, 1, 2], (2, 3))
    >>> jaccard_excess(EdgeUpdate.between(old, old))
    1.0
    """
    before, after = update.before, update.after
    chance = expected_jaccard(before.n_edges, after.n_edges, before.n_possible)
    return (jaccard(update) - chance) / (1 - chance) if chance < 1 else NAN


def explored_fraction(graphs: Iterable[LayerGraph]) -> float:
    """Share of the possible edges that were present in at least one graph (ITOP's rate).

    Parameters
    ----------
    graphs : iterable of LayerGraph
        Of one shape and number of groups, such as one layer over the epochs.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without graphs or possible edges. Cost O(total edges).

    Raises
    ------
    ValueError
        If the shapes or numbers of groups differ.

    References
    ----------
    .. [1] Liu et al., "Do we actually need dense over-parameterization? In-time
       over-parameterization in sparse training", ICML 2021.

    Examples
    --------
    >>> graphs = [LayerGraph.from_edge_ids([i], (2, 2)) for i in (0, 1, 1)]
    >>> explored_fraction(graphs)
    0.5
    """
    seen: NDArray[np.int64] = np.empty(0, np.int64)
    first = None
    for graph in _of_one_shape(graphs):
        first = graph if first is None else first
        if graph.groups != first.groups:
            raise ValueError(
                f"expected graphs of one number of groups, got {first.groups} and {graph.groups}"
            )
        seen = np.union1d(seen, graph.edge_ids)
    return seen.size / first.n_possible if first is not None and first.n_possible else NAN


def expected_explored_fraction(
    n_cells: int, n_edges: int, drop_fraction: float, *, updates: int
) -> float:
    r"""Expected explored fraction under uniform regrowth, exactly.

    .. math:: 1 - (1 - p)(1 - q)^t, \quad q = \frac{\zeta E}{N - (1 - \zeta) E}, \; p = E / N

    Dropped cells may be drawn again at once.

    Parameters
    ----------
    n_cells, n_edges : int
        Possible edges N and edges E.
    drop_fraction : float
        Share of the edges replaced at one update.
    updates : int
        Number of updates t.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without possible edges.

    Raises
    ------
    ValueError
        If the number of edges is negative or above that of the possible ones, the share outside
        [0, 1], or the number of updates negative.

    References
    ----------
    .. [1] Liu et al., ICML 2021: the explored rate. The formula is topokit's own.

    Examples
    --------
    >>> round(expected_explored_fraction(100, 10, 0.3, updates=1), 6)
    0.129032
    """
    check_edges(n_edges, n_cells)
    if not 0 <= drop_fraction <= 1:
        raise ValueError(f"expected a drop fraction in [0, 1], got {drop_fraction}")
    if not updates >= 0:
        raise ValueError(f"expected at least 0 updates, got {updates}")
    if n_cells == 0:
        return NAN
    replaced = drop_fraction * n_edges
    vacant = n_cells - n_edges + replaced
    q = replaced / vacant if vacant > 0 else 0.0
    return 1 - (1 - n_edges / n_cells) * (1 - q) ** updates


def survival_curve(graphs: Iterable[LayerGraph]) -> NDArray[np.float64]:
    """Share of the first graph's edges that have been present in every graph so far.

    Parameters
    ----------
    graphs : iterable of LayerGraph
        One layer over the recorded epochs; an edge that comes back does not count again.

    Returns
    -------
    (n_graphs,) float64
        From 1, never rising; ``nan`` where the first graph has no edges. Cost O(total edges).

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    .. [1] Kaplan, Meier, "Nonparametric estimation from incomplete observations", Journal of the
       American Statistical Association 53, 1958.

    Examples
    --------
    >>> graphs = [LayerGraph.from_edge_ids(ids, (2, 2)) for ids in ([0, 1], [0, 2], [0, 1])]
    >>> survival_curve(graphs).tolist()
    [1.0, 0.5, 0.5]
    """
    alive: NDArray[np.int64] | None = None
    first, shares = 0, []
    for graph in _of_one_shape(graphs):
        ids = graph.edge_ids
        if alive is None:
            alive, first = ids, ids.size
        else:
            alive = np.intersect1d(alive, ids, assume_unique=True)
        shares.append(alive.size / first if first else NAN)
    return np.array(shares)


def _of_one_shape(graphs: Iterable[LayerGraph]) -> Iterator[LayerGraph]:
    """Yield graphs, and raise a ValueError at one that has another shape than that before it."""
    before = None
    for graph in graphs:
        if before is not None:
            check_one_shape(before, graph)
        before = graph
        yield graph


def topology_distance(a: GraphLike, b: GraphLike) -> float:
    """Distance between two networks' topologies after matching their hidden units (NNSTD).

    Layer by layer, units are paired by the assignment of least cost, the cost of two units
    being 1 minus the Jaccard index of their input sets (0 if both are empty); the inputs of the
    next layer are renumbered by the pairing. The mean cost of all pairs is the distance. Units
    of the last layer are paired as well. The distance of two independent random networks is below
    1 (0.82 at density 0.6 %). Since layers are paired one after the other, it is not a metric.

    Parameters
    ----------
    a, b : dict of LayerGraph
        Layers of the same shapes in the same order; they must chain. Or whatever
        `topokit.graph.convert.as_topology` reads, such as two models.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without units. Cost O(n^2) memory and O(n^3) time in the widest
        layer: the matching needs every pair's cost.

    Raises
    ------
    ValueError
        If the shapes differ or the layers do not chain.

    References
    ----------
    .. [1] Liu et al., "Topological insights into sparse neural networks", ECML PKDD 2020.

    Examples
    --------
    >>> one = {"fc1": LayerGraph.from_edge_ids([0, 3], (2, 2))}
    >>> two = {"fc1": LayerGraph.from_edge_ids([1, 2], (2, 2))}
    >>> topology_distance(one, two)
    0.0
    """
    from scipy.optimize import linear_sum_assignment

    a, b = as_topology(a), as_topology(b)
    shapes = [[g.shape for g in t.values()] for t in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected layers of the same shapes, got {shapes[0]} and {shapes[1]}")
    check_chain(a)
    order: NDArray[np.int64] | None = None
    costs: list[NDArray[np.float64]] = []
    for one, two in zip(a.values(), b.values(), strict=True):
        second = two.to_csr()
        if order is not None:
            second = sp.csr_array(second[:, order])
        both = (one.to_csr() @ second.T).toarray()
        union = one.fan_in[:, None] + two.fan_in[None, :] - both
        cost = 1 - np.divide(both, union, out=np.ones_like(both), where=union > 0)
        rows, columns = linear_sum_assignment(cost)
        costs.append(cost[rows, columns])
        order = columns
    total = np.concatenate(costs) if costs else np.empty(0)
    return float(total.mean()) if total.size else NAN


class Convergence(NamedTuple):
    """Overlap with the next topology, by layer; see `structure_convergence`."""

    overlap: dict[str, NDArray[np.float64]]
    settled: dict[str, float]


def kept_core(graph: GraphLike, weights: NDArray[np.floating], share: float) -> LayerGraph:
    """Return the graph of the edges that pruning the `share` of smallest weights would keep.

    Parameters
    ----------
    graph : LayerGraph
    weights : (n_edges,) array
    share : float
        In [0, 1); ``floor(share n_edges)`` edges are removed, among equal weights the later ones:
        29 of 100 for 0.29, although 0.29 * 100 is 28.999999999999996 in floating point.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If there is not one weight for each edge, one is ``nan``, or the share is outside [0, 1).

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 2, 3], (2, 2))
    >>> kept_core(graph, np.array([0.1, -2.0, 1.0, 0.2]), 0.5).edge_ids.tolist()
    [1, 2]
    """
    graph = as_graph(graph)
    size = np.abs(np.asarray(weights, dtype=float))
    if size.shape != (graph.n_edges,):
        raise ValueError(f"expected {graph.n_edges} weights, got shape {size.shape}")
    if np.isnan(size).any():
        raise ValueError("expected weights that can be ordered, got nan")
    if not 0 <= share < 1:
        raise ValueError(f"expected a share in [0, 1), got {share}")
    removed = math.floor(share * graph.n_edges + ROUNDING)
    keep = np.argsort(-size, kind="stable")[: graph.n_edges - removed]
    return LayerGraph.from_edge_ids(graph.edge_ids[np.sort(keep)], graph.shape, graph.groups)


def structure_convergence(topologies: Iterable[Topology], *, threshold: float = 0.9) -> Convergence:
    """Overlap of each topology with the next, and the index from which it stays high.

    Parameters
    ----------
    topologies : iterable of dict of LayerGraph
        Topologies of successive epochs, ``history.topology(e) for e in history.recorded``; or the
        cores that pruning would keep (`kept_core`), without the edges replaced at every step.
    threshold : float
        In (0, 1].

    Returns
    -------
    Convergence
        ``overlap``: for each layer the Jaccard indices of topologies t and t + 1, one fewer than
        there are topologies (``nan`` where both are empty). ``settled``: for each layer the first
        t from which on no overlap is below `threshold`; ``nan`` if the last overlap is. Layers are
        missing with fewer than two topologies. Cost O(edges) a topology; two are held at once.

    Raises
    ------
    ValueError
        If layers or shapes change, or the threshold is outside (0, 1].

    References
    ----------
    .. [1] Liu et al., "Topological insights into sparse neural networks", ECML PKDD 2020:
       topologies compared over training, by `topology_distance`.

    Examples
    --------
    >>> graphs = [LayerGraph.from_edge_ids(ids, (2, 2)) for ids in ([0, 1], [0, 2], [0, 2])]
    >>> found = structure_convergence([{"fc1": graph} for graph in graphs])
    >>> found.overlap["fc1"].round(2).tolist(), found.settled
    ([0.33, 1.0], {'fc1': 1.0})
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold in (0, 1], got {threshold}")
    overlap: dict[str, list[float]] = {}
    for before, after in itertools.pairwise(topologies):
        shapes = [{name: g.shape for name, g in t.items()} for t in (before, after)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected the same layers throughout, got {shapes[0]}, {shapes[1]}")
        for name, graph in after.items():
            overlap.setdefault(name, []).append(jaccard(EdgeUpdate.between(before[name], graph)))
    settled = {}
    for name, values in overlap.items():
        low = np.flatnonzero(~(np.array(values) >= threshold))
        start = int(low[-1]) + 1 if low.size else 0
        settled[name] = float(start) if start < len(values) else float("nan")
    return Convergence({name: np.array(values) for name, values in overlap.items()}, settled)

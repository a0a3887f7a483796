"""Connectivity and flow: components, active units, effective density, paths."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.measures.lanczos import Joined, joined
from topokit.measures.memo import remember

__all__ = [
    "ActiveFlow",
    "active_flow",
    "Components",
    "components",
    "components_of",
    "giant_share",
    "labels_of",
    "network_components",
    "network_giant_share",
]

NAN = float("nan")


class Components(NamedTuple):
    """Connected components of a layer: input units first, then output units."""

    number: int
    with_edges: int
    sizes: NDArray[np.int64]
    labels: NDArray[np.int32]


def labels_of(units: Joined) -> NDArray[np.int32]:
    """Component of each unit of a network, from 0. O(edges)."""
    from topokit.measures.compiled import component_labels

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
    """Components of one layer."""
    from topokit.measures.compiled import component_labels

    n = graph.n_in + graph.n_out
    if n == 0:
        return Components(0, 0, np.zeros(0, np.int64), np.zeros(0, np.int32))
    labels, count = component_labels(graph.indptr, graph.indices.view(np.uint32), graph.n_in, n)
    sizes = np.bincount(labels, minlength=count)
    return Components(int(count), int(np.count_nonzero(sizes > 1)), sizes, labels)


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
    """Component sizes of the whole layered network; None if the layers do not chain."""
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
    Range: 1 or more.
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
    """What of a network lies on a path from input to output; see `active_flow`."""

    units: float
    edges: float
    effective_density: float
    log10_paths: float


def active_flow(topology: Topology) -> ActiveFlow:
    """Units and edges that lie on a path from an input to an output unit, and the paths.

    The graph alone decides: a unit without inputs may still pass on its bias.

    Parameters
    ----------
    topology : dict of LayerGraph

    Returns
    -------
    ActiveFlow
        ``units``: active share of the hidden units (``nan`` without hidden units); ``edges``:
        active share of the edges; ``effective_density``: active edges over possible edges;
        ``log10_paths``: logarithm of the number of input-output paths, ``nan`` if there is
        none. All ``nan`` if the layers do not chain. Cost O(edges).

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
    graphs = list(topology.values())
    forward: list[NDArray[Any]] = [np.ones(graphs[0].n_in)]
    log_scale = 0.0
    for graph in graphs:
        counts: NDArray[Any] = np.bincount(graph.rows, forward[-1][graph.indices], graph.n_out)
        scale = float(counts.max(initial=0.0))
        if scale > 0:
            counts = counts / scale
            log_scale += float(np.log10(scale))
        forward.append(counts)
    paths = float(forward[-1].sum())
    backward = [np.ones(graphs[-1].n_out, bool)]
    for graph in reversed(graphs):
        on = backward[-1][graph.rows]
        backward.append(np.bincount(graph.indices[on], minlength=graph.n_in) > 0)
    backward.reverse()
    # counts may underflow to zero beside much larger ones, so reach is decided by booleans
    reach = [np.ones(graphs[0].n_in, bool)]
    for graph in graphs:
        on = reach[-1][graph.indices]
        reach.append(np.bincount(graph.rows[on], minlength=graph.n_out) > 0)
    active = sum(
        int(np.count_nonzero(reach[i][g.indices] & backward[i + 1][g.rows]))
        for i, g in enumerate(graphs)
    )
    edges = sum(g.n_edges for g in graphs)
    cells = sum(g.n_in * g.n_out for g in graphs)
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

"""When a network's structure settles: overlap of successive topologies, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph, Topology
from topokit.measures.change import jaccard

__all__ = ["Convergence", "kept_core", "structure_convergence"]


class Convergence(NamedTuple):
    """Overlap with the next topology by layer, and from where on it stays high."""

    overlap: dict[str, NDArray[np.float64]]
    settled: dict[str, float]


def kept_core(graph: LayerGraph, weights: NDArray[np.floating], share: float) -> LayerGraph:
    """Return the graph of the edges that pruning the `share` of smallest weights would keep.

    Parameters
    ----------
    graph : LayerGraph
    weights : (n_edges,) array
    share : float
        In [0, 1); ``floor(share n_edges)`` edges leave, of equal weights the later ones.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If there is not one weight for each edge, or the share is no share.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 2, 3], (2, 2))
    >>> kept_core(graph, np.array([0.1, -2.0, 1.0, 0.2]), 0.5).edge_ids.tolist()
    [1, 2]
    """
    size = np.abs(np.asarray(weights, dtype=float))
    if size.shape != (graph.n_edges,):
        raise ValueError(f"expected {graph.n_edges} weights, got shape {size.shape}")
    if not 0 <= share < 1:
        raise ValueError(f"expected a share in [0, 1), got {share}")
    keep = np.argsort(-size, kind="stable")[: graph.n_edges - int(share * graph.n_edges)]
    return LayerGraph.from_edge_ids(graph.edge_ids[np.sort(keep)], graph.shape)


def structure_convergence(topologies: Iterable[Topology], *, threshold: float = 0.9) -> Convergence:
    """Overlap of each topology with the next, and the first from which it stays high.

    Parameters
    ----------
    topologies : iterable of dict of LayerGraph
        Those of successive epochs, ``history.topology(e) for e in history.recorded``; or of
        the cores that pruning would keep (`kept_core`), which leave out the edges that are
        replaced at every step.
    threshold : float
        In (0, 1].

    Returns
    -------
    Convergence
        ``overlap``: for each layer the Jaccard index of topology t and t + 1, one less than
        there are topologies (``nan`` where both are empty). ``settled``: the first t from which
        on no overlap is below `threshold`; ``nan`` if the last one is, or there is none. Cost
        O(edges) a topology; two are held at once.

    Raises
    ------
    ValueError
        If layers or shapes change, or the threshold is no share.

    References
    ----------
    .. [1] Liu, van der Lee, et al., "Topological insights into sparse neural networks", ECML
       PKDD 2020.

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

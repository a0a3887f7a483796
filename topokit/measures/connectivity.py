"""Algebraic connectivity of layers."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.measures.flow import components_of
from topokit.measures.lanczos import DENSE, Joined, adjacency_operator, joined, top_pair
from topokit.measures.memo import fan_out_of, remember
from topokit.measures.spectral import leading_singular_values

__all__ = [
    "algebraic_connectivity",
    "algebraic_connectivity_giant",
    "laplacian_gap",
]

NAN = float("nan")


def laplacian_gap(units: Joined, among: NDArray[np.bool_] | None = None) -> float:
    """Second-smallest Laplacian eigenvalue of a connected graph, or of one component.

    Lanczos on c I - L with the constant vector deflated and c the largest sum of degrees along
    an edge.

    Parameters
    ----------
    units : Joined
    among : (n,) bool, optional
        The units of one component: not checked. By default all.

    Returns
    -------
    float
        Above 0; ``nan`` with fewer than two vertices or if the iteration did not converge.

    References
    ----------
    .. [1] Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973.

    Examples
    --------
    >>> round(laplacian_gap(joined([LayerGraph.from_edge_ids([0], (1, 1))])), 6)
    2.0
    """
    size = units.degree.size if among is None else int(np.count_nonzero(among))
    if size < 2:
        return NAN
    if size <= 2 * DENSE:
        adjacency = units.matrix()
        if among is not None:
            inside = np.flatnonzero(among)
            adjacency = sp.csr_array(adjacency[inside][:, inside])
        dense = adjacency.toarray()
        return float(np.linalg.eigvalsh(np.diag(dense.sum(axis=0)) - dense)[1])
    rows = np.repeat(units.degree[units.first :], np.diff(units.indptr))
    c = float((rows + units.degree[units.indices]).max())
    constant = np.full(units.degree.size, size**-0.5)
    if among is not None:
        constant = np.where(among, constant, 0.0)
    flipped = adjacency_operator(units, diagonal=c - units.degree, deflated=constant)
    found = top_pair(flipped, bound=c, among=among)
    return NAN if found is None else float(max(c - found[0], 0.0))


def algebraic_connectivity(graph: LayerGraph) -> float:
    """Second-smallest eigenvalue of the Laplacian on all n_in + n_out units.

    0 if the layer is disconnected, which one isolated unit is enough for; decided by counting
    components, never by the size of an eigenvalue. It follows the weakest attachment, not the
    mixing.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, min(n_in, n_out)]; ``nan`` with fewer than two units or if the iteration did not
        converge. Cost O(n_edges) per Lanczos step; closed form for biregular layers.

    Notes
    -----
    Range: 0 to min(n_in, n_out).
    Cost: O(edges) per Lanczos step; every epoch.

    References
    ----------
    .. [1] Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973.

    Examples
    --------
    >>> round(algebraic_connectivity(LayerGraph.from_edge_ids(range(6), (2, 3))), 6)
    2.0
    """
    if graph.n_in + graph.n_out < 2:
        return NAN
    if components_of(graph).number > 1:
        return 0.0
    return algebraic_connectivity_giant(graph)


def algebraic_connectivity_giant(graph: LayerGraph) -> float:
    """Algebraic connectivity of the largest connected component (by units).

    Of components of equal size the one with most edges counts; if these are equal too, the
    smallest value.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        Above 0; ``nan`` without edges or if the iteration did not converge. Cost as
        `algebraic_connectivity`.

    Notes
    -----
    Range: above 0.
    Cost: O(edges) per Lanczos step; every epoch.

    References
    ----------
    .. [1] Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973.

    Examples
    --------
    >>> round(algebraic_connectivity_giant(LayerGraph.from_edge_ids(range(2), (2, 2))), 6)
    1.0
    """
    return remember(graph, "giant gap", lambda: _giant_gap(graph))


def _giant_gap(graph: LayerGraph) -> float:
    """Algebraic connectivity of the largest component."""
    if graph.n_edges == 0:
        return NAN
    parts = components_of(graph)
    fan_in, fan_out = graph.fan_in, fan_out_of(graph)
    if parts.number == 1 and np.ptp(fan_in) == 0 and np.ptp(fan_out) == 0:
        return _biregular_gap(graph, float(fan_in[0]), float(fan_out[0]))
    units = joined([graph])
    if parts.number == 1:
        return laplacian_gap(units)
    degree = np.concatenate([fan_out, fan_in])
    edges = np.bincount(parts.labels, weights=degree, minlength=parts.number)
    best = np.flatnonzero(parts.sizes == parts.sizes.max())
    best = best[edges[best] == edges[best].max()]
    return float(min(laplacian_gap(units, parts.labels == label) for label in best[:64]))


def _biregular_gap(graph: LayerGraph, d_out: float, d_in: float) -> float:
    """Algebraic connectivity of a connected biregular layer from its second singular value."""
    if graph.n_edges == graph.n_in * graph.n_out and graph.n_in + graph.n_out > 2:
        return float(min(graph.n_in, graph.n_out))
    if min(graph.n_in, graph.n_out) == 1:
        return 2.0
    second = leading_singular_values(graph)[1]
    total = d_out + d_in
    return float((total - np.sqrt((d_out - d_in) ** 2 + 4 * second**2)) / 2)

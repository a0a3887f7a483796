"""Spectral gaps of layers and networks, and algebraic connectivity.

Eigenvalues come from `topokit.graph.spectra`; a value that has not converged is nan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.graph.cache import remember
from topokit.graph.convert import takes_graph, takes_topology
from topokit.graph.spectra import (
    CELLS,
    DENSE,
    SMALL,
    Joined,
    adjacency_operator,
    dense_singular_values,
    gram_operator,
    joined,
    leading_singular_values,
    normalized_matrix,
    ramanujan_margin,
    scaled,
    singular_values,
    top_pair,
    trimmed,
    works_densely,
)
from topokit.measures.connectivity import components_of, labels_of, largest_components
from topokit.measures.laplacian import laplacian_gap

if TYPE_CHECKING:
    from topokit.graph.lanczos import Operator

__all__ = [
    "algebraic_connectivity",
    "algebraic_connectivity_giant",
    "leading_singular_values",
    "network_algebraic_connectivity",
    "network_normalized_gap",
    "network_spectral_gap",
    "normalized_operator",
    "normalized_singular_value",
    "normalized_spectral_gap",
    "ramanujan_margin",
    "singular_values",
    "spectral_gap",
]

NAN = float("nan")


def normalized_singular_value(
    graph: LayerGraph, values: NDArray[np.float64] | None = None
) -> float:
    """Second singular value of D_out^(-1/2) B D_in^(-1/2) on the units that have edges.

    The top pair (value 1, vectors the roots of the degrees) is known and deflated, so that only
    one value is computed, whatever its multiplicity. Exactly 1 if more than one component has
    edges.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) float64, optional
        Positive entries of B at the edges, with their sums for degrees; by default 1.

    Returns
    -------
    float
        In [0, 1]; ``nan`` without edges or if the iteration did not converge.

    References
    ----------
    .. [1] Chung, "Spectral Graph Theory", AMS, 1997.

    Examples
    --------
    >>> normalized_singular_value(LayerGraph.from_edge_ids(range(6), (2, 3)))
    0.0
    """
    if values is None:
        return remember(graph, "normalized", lambda: _normalized(graph, None))
    return _normalized(graph, scaled(values)[0])


def _normalized(graph: LayerGraph, data: NDArray[np.float64] | None) -> float:
    """Return the second normalised singular value; see `normalized_singular_value`."""
    if graph.n_edges == 0:
        return NAN
    if components_of(graph).with_edges > 1:
        return 1.0
    fan_in, fan_out = graph.fan_in, graph.fan_out
    cells = int(np.count_nonzero(fan_in)) * int(np.count_nonzero(fan_out))
    if data is None:
        if graph.n_edges == cells:
            return 0.0
        if np.ptp(fan_in[fan_in > 0]) == 0 and np.ptp(fan_out[fan_out > 0]) == 0:
            first, second = leading_singular_values(graph)
            return second / first
    if not works_densely(graph):
        top = top_pair(normalized_operator(graph, data), bound=1.0)
        if top is None:
            return NAN
        if top[0] >= SMALL or cells > CELLS:
            return float(np.sqrt(min(max(top[0], 0.0), 1.0)))
    found = dense_singular_values(normalized_matrix(trimmed(graph, data)))
    return min(float(found[1]), 1.0) if found.size > 1 else 0.0


def normalized_operator(graph: LayerGraph, data: NDArray[np.float64] | None = None) -> Operator:
    """Return the Gram operator of the normalised matrix on the input units, top vector deflated."""
    if data is None:
        fan_in, fan_out = graph.fan_in.astype(float), graph.fan_out.astype(float)
        left, right, total = np.maximum(fan_in, 1), np.maximum(fan_out, 1), graph.n_edges
        return gram_operator(
            graph, weight=1 / left, scale=1 / np.sqrt(right), deflated=np.sqrt(fan_out / total)
        )
    left = np.bincount(graph.rows, data, graph.n_out)
    right = np.bincount(graph.indices, data, graph.n_in)
    top = np.sqrt(right / right.sum())
    left, right = np.where(left > 0, left, 1), np.where(right > 0, right, 1)
    return gram_operator(graph, data=data, weight=1 / left, scale=1 / np.sqrt(right), deflated=top)


@takes_graph
def spectral_gap(graph: LayerGraph) -> float:
    r"""Gap between the two largest singular values of the biadjacency matrix.

    .. math:: \sigma_1(B) - \sigma_2(B), \qquad B \in \{0, 1\}^{n_{out} \times n_{in}}

    It rises when hubs appear (they raise the first value), so it does not measure mixing in
    irregular layers; `normalized_spectral_gap` does.

    Parameters
    ----------
    graph : LayerGraph
        Isolated units change nothing.

    Returns
    -------
    float
        In [0, sqrt(n_edges)]; ``nan`` without edges or if the iteration did not converge.

    Notes
    -----
    Unweighted. Cost O(n_edges) per Lanczos step; dense up to 64 units on the smaller side.

    Range: 0 to the root of the number of edges.
    Cost: O(edges) per Lanczos step; every epoch.

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", Bulletin of the AMS
       43, 2006.

    Examples
    --------
    >>> fano = [[0, 1, 3], [1, 2, 4], [2, 3, 5], [3, 4, 6], [4, 5, 0], [5, 6, 1], [6, 0, 2]]
    >>> ids = [7 * row + column for row, line in enumerate(fano) for column in line]
    >>> round(spectral_gap(LayerGraph.from_edge_ids(ids, (7, 7))), 10)    # 3 - sqrt(2)
    1.5857864376
    """
    first, second = leading_singular_values(graph)
    return first - second


@takes_graph
def normalized_spectral_gap(graph: LayerGraph) -> float:
    r"""Spectral gap of the degree-normalised biadjacency matrix: how fast a random walk mixes.

    .. math:: 1 - \sigma_2(D_{out}^{-1/2} B D_{in}^{-1/2}) = \lambda_2(I - D^{-1/2} A D^{-1/2})

    Units without edges are left out. 0 if and only if more than one component has edges. The
    second equation holds for all layers but a single edge, of which the eigenvalue is 2.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, 1], to about 1e-13, above 300,000 edges 1e-9; 1 for complete layers; ``nan`` without
        edges or if the iteration did not converge. Cost O(n_edges) per Lanczos step; dense up to
        64 units.

    Notes
    -----
    Range: 0 to 1.
    Cost: O(edges) per Lanczos step; every epoch.

    References
    ----------
    .. [1] Chung, "Spectral Graph Theory", AMS, 1997.

    Examples
    --------
    >>> normalized_spectral_gap(LayerGraph.from_edge_ids(range(6), (2, 3)))
    1.0
    """
    return 1.0 - normalized_singular_value(graph)


@takes_graph
def algebraic_connectivity(graph: LayerGraph) -> float:
    """Second-smallest eigenvalue of the Laplacian on all n_in + n_out units.

    0 if the layer is disconnected, and a single isolated unit makes it so; this is decided by
    counting components, never by the size of an eigenvalue. The value reflects the most weakly
    attached units rather than the mixing of the whole layer.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, min(n_in, n_out)], but 2 for a single edge between two units; ``nan`` with fewer
        than two units or if the iteration did not converge. Cost O(n_edges) per Lanczos step;
        that of `spectral_gap` for biregular layers.

    Notes
    -----
    Range: 0 to min(n_in, n_out); 2 for two units and an edge.
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


@takes_graph
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
    """Return the algebraic connectivity of the largest component."""
    if graph.n_edges == 0:
        return NAN
    parts = components_of(graph)
    fan_in, fan_out = graph.fan_in, graph.fan_out
    if parts.number == 1 and np.ptp(fan_in) == 0 and np.ptp(fan_out) == 0:
        return _biregular_gap(graph, float(fan_in[0]), float(fan_out[0]))
    units = joined([graph])
    if parts.number == 1:
        return laplacian_gap(units)
    best = largest_components(graph)
    if best.size > 1 and parts.sizes[best[0]] <= 2 * DENSE:
        return _least_dense_gap(graph, best)
    return float(np.min([laplacian_gap(units, parts.labels == label) for label in best]))


def _least_dense_gap(graph: LayerGraph, labels: NDArray[np.int64]) -> float:
    """Return the least algebraic connectivity of small components of one size.

    There may be thousands of them, such as the edges of a matching, so their Laplacians are
    solved in batches of bounded memory: O(number size^3).
    """
    parts = components_of(graph)
    size = int(parts.sizes[labels[0]])
    units = np.flatnonzero(np.isin(parts.labels, labels))
    units = units[np.argsort(parts.labels[units], kind="stable")]
    place = np.full(parts.labels.size, -1)
    place[units] = np.arange(units.size)
    one, two = place[graph.indices], place[graph.rows + graph.n_in]
    one, two = one[one >= 0], two[two >= 0]  # both ends of an edge are in one component
    batch = max(1, 2**20 // size**2)
    least = np.inf
    for first in range(0, labels.size, batch):
        count = min(batch, labels.size - first)
        laplacian = np.zeros((count, size, size))
        on = (one // size >= first) & (one // size < first + count)
        at, a, b = one[on] // size - first, one[on] % size, two[on] % size
        laplacian[at, a, b] = laplacian[at, b, a] = -1.0
        diagonal = np.arange(size)
        laplacian[:, diagonal, diagonal] = -laplacian.sum(axis=2)
        least = min(least, float(np.linalg.eigvalsh(laplacian)[:, 1].min()))
    return least


def _biregular_gap(graph: LayerGraph, d_out: float, d_in: float) -> float:
    """Return the algebraic connectivity of a connected biregular layer, from sigma_2."""
    if graph.n_edges == graph.n_in * graph.n_out and graph.n_in + graph.n_out > 2:
        return float(min(graph.n_in, graph.n_out))
    if min(graph.n_in, graph.n_out) == 1:
        return 2.0
    second = leading_singular_values(graph)[1]
    total = d_out + d_in
    return float((total - np.sqrt((d_out - d_in) ** 2 + 4 * second**2)) / 2)


Skips = Mapping[tuple[int, int], LayerGraph]


def _units(topology: Topology, skips: Skips | None) -> Joined | None:
    """Return all units of a network in one numbering; None if the layers do not chain."""
    return None if chain_widths(topology) is None else joined(list(topology.values()), skips)


@takes_topology
def network_algebraic_connectivity(topology: Topology, *, skips: Skips | None = None) -> float:
    """Algebraic connectivity of the whole layered network, all units of all layers.

    Parameters
    ----------
    topology : dict of LayerGraph
    skips : mapping of (int, int) to LayerGraph, optional
        Skip connections: ``{(0, 2): graph}`` joins the network's inputs (block 0) to its second
        hidden layer (block 2).

    Returns
    -------
    float
        0 if disconnected; ``nan`` if the layers do not chain, with fewer than two units, or if
        the iteration did not converge.

    Raises
    ------
    ValueError
        If a skip connection does not fit.

    Notes
    -----
    Range: 0 to the smallest degree, times n / (n - 1).
    Cost: O(edges) per Lanczos step; every epoch.

    References
    ----------
    .. [1] Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(100), (10, 10))
    >>> network = {"fc1": dense, "fc2": dense, "fc3": dense}
    >>> round(network_algebraic_connectivity(network), 6)      # 10 (2 - sqrt(2))
    5.857864
    """
    units = _units(topology, skips)
    if units is None or units.degree.size < 2:
        return NAN
    if units.degree.min() == 0 or labels_of(units).max() > 0:
        return 0.0
    if len(topology) == 1:
        return algebraic_connectivity_giant(next(iter(topology.values())))
    return laplacian_gap(units)


@takes_topology
def network_spectral_gap(topology: Topology, *, skips: Skips | None = None) -> float:
    """Gap between the two largest eigenvalues of the whole network's adjacency matrix.

    Without skip connections of even length a network is bipartite (layers of even number
    against odd ones), and these are the singular values of its biadjacency matrix.

    Parameters
    ----------
    topology : dict of LayerGraph
    skips : mapping of (int, int) to LayerGraph, optional
        As for `network_algebraic_connectivity`.

    Returns
    -------
    float
        ``nan`` if the layers do not chain, without edges, or if the iteration did not converge.
        1 for two units and an edge, whose biadjacency matrix has one singular value.
        It rises when hubs appear; `network_normalized_gap` does not.

    Raises
    ------
    ValueError
        If a skip connection does not fit.

    Notes
    -----
    Range: 0 to the root of the number of edges (twice that with skip connections).
    Cost: O(edges) per Lanczos step; on demand.

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", Bulletin of the AMS
       43, 2006.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(100), (10, 10))
    >>> network = {"fc1": dense, "fc2": dense, "fc3": dense}
    >>> round(network_spectral_gap(network), 4)      # 20 (cos(pi / 5) - cos(2 pi / 5))
    10.0
    """
    units = _units(topology, skips)
    if units is None or not units.n_edges:
        return NAN
    if units.degree.size <= 2 * DENSE:
        values = np.linalg.eigvalsh(units.matrix().toarray())
        # The one bipartite graph whose second eigenvalue is negative is an edge between two units.
        return float(values[-1] - (values[-2] if values.size > 2 else 0.0))
    rows = np.repeat(units.degree[units.first :], np.diff(units.indptr))
    bound = float(np.sqrt((rows * units.degree[units.indices]).max()))
    operator = adjacency_operator(units)
    top = top_pair(operator, bound=bound, start=units.degree + 1.0, vector=True)
    if top is None:
        return NAN
    second = top_pair(operator._replace(deflated=top[1]), bound=bound)
    return NAN if second is None else top[0] - second[0]


@takes_topology
def network_normalized_gap(topology: Topology, *, skips: Skips | None = None) -> float:
    """Spectral gap of the whole network's degree-normalised adjacency matrix.

    The second-smallest eigenvalue of the normalised Laplacian; units without edges are left
    out.

    Parameters
    ----------
    topology : dict of LayerGraph
    skips : mapping of (int, int) to LayerGraph, optional
        As for `network_algebraic_connectivity`.

    Returns
    -------
    float
        0 if and only if more than one component has edges; ``nan`` if the layers do not chain,
        without edges, or if the iteration did not converge.

    Raises
    ------
    ValueError
        If a skip connection does not fit.

    Notes
    -----
    Range: 0 to 1; above 1 only for networks in which all units are joined.
    Cost: O(edges) per Lanczos step; on demand.

    References
    ----------
    .. [1] Chung, "Spectral Graph Theory", AMS, 1997.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(6), (3, 2))
    >>> network_normalized_gap({"fc1": dense})
    1.0
    """
    units = _units(topology, skips)
    if units is None or not units.n_edges:
        return NAN
    joined_units = units.degree > 0
    labels = labels_of(units)[joined_units]
    if (labels != labels[0]).any():
        return 0.0
    scale = np.where(joined_units, 1 / np.sqrt(np.maximum(units.degree, 1)), 0.0)
    if units.degree.size <= 2 * DENSE:
        inside = np.flatnonzero(joined_units)
        dense = units.matrix().toarray()[np.ix_(inside, inside)]
        values = np.linalg.eigvalsh(dense * np.outer(scale[inside], scale[inside]))
        return round(float(1 - values[-2]), 15)
    top = np.sqrt(units.degree / (2.0 * units.n_edges))
    found = top_pair(
        adjacency_operator(units, scale=scale, deflated=top), bound=1.0, among=joined_units
    )
    return NAN if found is None else float(min(max(1 - found[0], 0.0), 2.0))

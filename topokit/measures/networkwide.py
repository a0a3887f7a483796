"""Spectra of whole layered networks, with or without skip connections."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topokit.graph import LayerGraph, Topology, chain_widths
from topokit.measures.connectivity import algebraic_connectivity_giant, laplacian_gap
from topokit.measures.flow import labels_of
from topokit.measures.lanczos import DENSE, Joined, adjacency_operator, joined, top_pair

__all__ = ["network_algebraic_connectivity", "network_normalized_gap", "network_spectral_gap"]

NAN = float("nan")

Skips = Mapping[tuple[int, int], LayerGraph]


def _units(topology: Topology, skips: Skips | None) -> Joined | None:
    """All units of a network; None if the layers do not chain."""
    return None if chain_widths(topology) is None else joined(list(topology.values()), skips)


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
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006.

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
        return float(values[-1] - values[-2])
    rows = np.repeat(units.degree[units.first :], np.diff(units.indptr))
    bound = float(np.sqrt((rows * units.degree[units.indices]).max()))
    operator = adjacency_operator(units)
    top = top_pair(operator, bound=bound, start=units.degree + 1.0, vector=True)
    if top is None:
        return NAN
    second = top_pair(operator._replace(deflated=top[1]), bound=bound)
    return NAN if second is None else top[0] - second[0]


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

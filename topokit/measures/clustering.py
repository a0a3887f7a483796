"""Clustering of a layer: how much two units of one side that share a neighbour share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph

__all__ = ["PairClustering", "pair_clustering"]

NAN = float("nan")
BLOCK = 4_000_000  # entries of a Gram block held at once


class PairClustering(NamedTuple):
    """Overlap of neighbourhoods, mean over the units; see `pair_clustering`."""

    union: float
    smaller: float
    larger: float


def pair_clustering(graph: LayerGraph) -> PairClustering:
    """Overlap of the neighbourhoods of units that share one, mean over all units of both sides.

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
    """Sums over the rows of their mean overlaps."""
    transposed = sp.csr_array(matrix.T)
    degree = np.diff(matrix.indptr).astype(float)
    cost = np.asarray(matrix @ np.diff(transposed.indptr).astype(float)).cumsum()
    totals, start = np.zeros(3), 0
    while start < matrix.shape[0]:
        before = cost[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(cost, before + BLOCK, side="right")))
        common = sp.coo_array(matrix[start:stop] @ transposed)
        other = common.col != common.row + start
        row, shared = common.row[other], common.data[other]
        one, two = degree[row + start], degree[common.col[other]]
        partners = np.maximum(np.bincount(row, minlength=stop - start), 1)
        for i, size in enumerate((one + two - shared, np.minimum(one, two), np.maximum(one, two))):
            sums = np.bincount(row, shared / size, stop - start)
            totals[i] += float((sums / partners).sum())
        start = stop
    return totals

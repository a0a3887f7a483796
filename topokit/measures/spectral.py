"""Singular values of layers and the gaps between them; nothing unconverged."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.graph import LayerGraph
from topokit.measures.flow import components_of
from topokit.measures.lanczos import DENSE, Product, top_eigenvalues
from topokit.measures.memo import remember

__all__ = [
    "leading_singular_values",
    "normalized_singular_value",
    "normalized_spectral_gap",
    "ramanujan_margin",
    "singular_values",
    "spectral_gap",
]

NAN = float("nan")


def _trimmed(graph: LayerGraph) -> sp.csr_array:
    """Biadjacency matrix without isolated units, the smaller side as rows."""
    indptr = graph.indptr.astype(np.int32) if graph.n_edges < 2**31 else graph.indptr
    ones = np.ones(graph.n_edges)
    matrix = sp.csr_array((ones, graph.indices, indptr), shape=graph.shape)
    rows, columns = np.flatnonzero(graph.fan_in), np.flatnonzero(graph.fan_out)
    if rows.size < graph.n_out or columns.size < graph.n_in:
        matrix = sp.csr_array(matrix[rows][:, columns])
    return matrix if matrix.shape[0] <= matrix.shape[1] else sp.csr_array(matrix.T)


def _gram(matrix: sp.csr_array) -> Product:
    """Product with B B^T."""
    transposed = sp.csr_array(matrix.T)
    return lambda v: matrix @ (transposed @ v)


def _dense_gram(matrix: sp.csr_array) -> NDArray[np.float64]:
    """B B^T as an array of the smaller side."""
    return (matrix @ matrix.T).toarray()


def leading_singular_values(graph: LayerGraph) -> tuple[float, float]:
    """Return the two largest singular values of the biadjacency matrix, by Lanczos.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    tuple of float
        The second is 0 where only one side unit has edges; both ``nan`` without edges or if the
        iteration did not converge. Cost O(n_edges) a step, some 50 to 100 steps.

    References
    ----------
    .. [1] Lehoucq, Sorensen, Yang, "ARPACK Users' Guide", SIAM, 1998.

    Examples
    --------
    >>> leading_singular_values(LayerGraph.from_edge_ids(range(6), (2, 3)))[0].__round__(6)
    2.44949
    """
    return remember(graph, "singular", lambda: _leading(graph))


def _leading(graph: LayerGraph) -> tuple[float, float]:
    """Two largest singular values."""
    if graph.n_edges == 0:
        return NAN, NAN
    for degrees, other in ((graph.fan_in, graph.fan_out), (graph.fan_out, graph.fan_in)):
        if degrees.max() == 1:  # disjoint stars
            top = np.sort(other)[::-1].astype(float)
            return float(np.sqrt(top[0])), float(np.sqrt(top[1])) if top.size > 1 else 0.0
    matrix = _trimmed(graph)
    size = matrix.shape[0]
    if size <= DENSE:
        found: Any = np.linalg.eigvalsh(_dense_gram(matrix))[::-1]
    else:
        found = top_eigenvalues(_gram(matrix), size, 2)
        if found is None:
            return NAN, NAN
    roots = np.sqrt(np.maximum(found, 0.0))
    return float(roots[0]), float(roots[1]) if size > 1 else 0.0


def normalized_singular_value(graph: LayerGraph) -> float:
    """Second singular value of D_out^(-1/2) B D_in^(-1/2) on the units that have edges.

    The top pair (value 1, vectors the roots of the degrees) is deflated, so one value is asked
    for, whatever its multiplicity. Exactly 1 if more than one component has edges.

    Parameters
    ----------
    graph : LayerGraph

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
    return remember(graph, "normalized", lambda: _normalized(graph))


def _normalized(graph: LayerGraph) -> float:
    """Second normalised singular value."""
    if graph.n_edges == 0:
        return NAN
    if components_of(graph).with_edges > 1:
        return 1.0
    matrix = _trimmed(graph)
    size = matrix.shape[0]
    if size == 1 or graph.n_edges == matrix.shape[0] * matrix.shape[1]:
        return 0.0
    left = np.asarray(matrix.sum(axis=1), dtype=float)
    right = np.asarray(matrix.sum(axis=0), dtype=float)
    data = matrix.data / np.sqrt(np.repeat(left, np.diff(matrix.indptr)) * right[matrix.indices])
    matrix = sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    top = np.sqrt(left / graph.n_edges)
    if size <= DENSE:
        square = np.linalg.eigvalsh(_dense_gram(matrix) - np.outer(top, top))[-1]
    else:
        gram = _gram(matrix)
        found = top_eigenvalues(lambda v: gram(v) - top * (top @ v), size, 1)
        if found is None:
            return NAN
        square = found[0]
    return float(np.sqrt(min(max(square, 0.0), 1.0)))


def spectral_gap(graph: LayerGraph) -> float:
    r"""Gap between the two largest singular values of the biadjacency matrix.

    .. math:: \sigma_1(B) - \sigma_2(B), \qquad B \in \{0, 1\}^{n_{out} \times n_{in}}

    It rises when hubs appear (they raise the first value), so it is no measure of mixing in
    irregular layers; `normalized_spectral_gap` is.

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
    Unweighted. Cost O(n_edges) per Lanczos step; dense below 128 units on the smaller side.

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006.

    Examples
    --------
    >>> fano = [[0, 1, 3], [1, 2, 4], [2, 3, 5], [3, 4, 6], [4, 5, 0], [5, 6, 1], [6, 0, 2]]
    >>> ids = [7 * row + column for row, line in enumerate(fano) for column in line]
    >>> round(spectral_gap(LayerGraph.from_edge_ids(ids, (7, 7))), 10)    # 3 - sqrt(2)
    1.5857864376
    """
    first, second = leading_singular_values(graph)
    return first - second


def normalized_spectral_gap(graph: LayerGraph) -> float:
    r"""Spectral gap of the degree-normalised biadjacency matrix; how well the layer mixes.

    .. math:: 1 - \sigma_2(D_{out}^{-1/2} B D_{in}^{-1/2}) = \lambda_2(I - D^{-1/2} A D^{-1/2})

    Units without edges are left out. 0 if and only if more than one component has edges.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        In [0, 1]; 1 for complete layers; ``nan`` without edges or if the iteration did not
        converge. Cost O(n_edges) per Lanczos step; dense below 128 units.

    References
    ----------
    .. [1] Chung, "Spectral Graph Theory", AMS, 1997.

    Examples
    --------
    >>> normalized_spectral_gap(LayerGraph.from_edge_ids(range(6), (2, 3)))
    1.0
    """
    return 1.0 - normalized_singular_value(graph)


def ramanujan_margin(graph: LayerGraph) -> float:
    r"""Margin of the second singular value to the Ramanujan bound with mean degrees.

    .. math:: \sqrt{\bar d_{out} - 1} + \sqrt{\bar d_{in} - 1} - \sigma_2(B)

    Degrees are averaged over the units that have edges. For biregular layers this is the
    Ramanujan bound; for irregular ones it is stricter than the bound by the universal cover,
    the more so the more uneven the degrees, so a layer with hubs fails it by construction.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        Negative where the bound is missed; ``nan`` without edges, where a mean degree is below
        2, or if the iteration did not converge. Cost as `spectral_gap`, shared with it.

    References
    ----------
    .. [1] Hoang, Liu, Marculescu, Wang, "Revisiting pruning at initialization through the lens
       of Ramanujan graph", ICLR 2023.

    Examples
    --------
    >>> round(ramanujan_margin(LayerGraph.from_edge_ids(range(9), (3, 3))), 6)
    2.828427
    """
    if graph.n_edges == 0:
        return NAN
    means = [graph.n_edges / np.count_nonzero(k) for k in (graph.fan_in, graph.fan_out)]
    if min(means) < 2:
        return NAN
    return float(sum(np.sqrt(mean - 1) for mean in means)) - leading_singular_values(graph)[1]


def singular_values(graph: LayerGraph, *, normalized: bool = False) -> NDArray[np.float64]:
    """All singular values of the biadjacency matrix, for plots.

    Dense: memory and time are quadratic and cubic in the smaller side, since the whole spectrum
    is asked for.

    Parameters
    ----------
    graph : LayerGraph
    normalized : bool
        Of D_out^(-1/2) B D_in^(-1/2) instead, on units with edges.

    Returns
    -------
    (min(n_in, n_out),) float64
        Decreasing; shorter by the isolated units if `normalized`.

    Raises
    ------
    ValueError
        If the smaller side has more than 8,192 units.

    Examples
    --------
    >>> singular_values(LayerGraph.from_edge_ids([0, 3], (2, 2))).tolist()
    [1.0, 1.0]
    """
    size = min(graph.shape)
    if size > 8192:
        raise ValueError(
            f"expected at most 8192 units on the smaller side for a whole spectrum, got {size}"
        )
    matrix = _trimmed(graph) if graph.n_edges else sp.csr_array((0, 0))
    if normalized and graph.n_edges:
        left = np.asarray(matrix.sum(axis=1), dtype=float) ** -0.5
        right = np.asarray(matrix.sum(axis=0), dtype=float) ** -0.5
        matrix = sp.csr_array(sp.diags_array(left) @ matrix @ sp.diags_array(right))
    count = matrix.shape[0]
    if not count:
        return np.zeros(0 if normalized else size)
    found: NDArray[Any] = np.linalg.svd(matrix.toarray(), compute_uv=False)
    return found if normalized else np.concatenate([found, np.zeros(size - count)])

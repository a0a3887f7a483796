"""Singular values of layers and largest eigenvalues of operators on graphs.

Generators, which choose graphs by these values, and measures, which report them, both use this
module. Small graphs are solved densely, stars and complete layers in closed form, all others by
Lanczos (explained in `topokit.graph.lanczos`). An iteration that has not converged gives nan or
None, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import ArpackError, eigsh

from topokit.graph.cache import remember
from topokit.graph.convert import GraphLike, as_graph, takes_graph
from topokit.graph.layergraph import LayerGraph

if TYPE_CHECKING:
    from topokit.graph.lanczos import Operator

__all__ = [
    "DENSE",
    "Joined",
    "adjacency_operator",
    "by_factoring",
    "dense_singular_values",
    "gram_operator",
    "joined",
    "largest_singular_value",
    "leading_singular_values",
    "mean_degree_bound",
    "most_steps",
    "normalized_matrix",
    "product",
    "ramanujan_margin",
    "scaled",
    "singular_values",
    "start_vector",
    "tolerances",
    "top_pair",
    "trimmed",
    "works_densely",
]

NAN = float("nan")
DENSE = 64  # units on the smaller side up to which linear algebra is dense
CELLS = 4_000_000  # possible edges up to which a dense matrix may be made
WHOLE = 8192  # units on the smaller side up to which a whole spectrum is taken
SMALL = 1e-6  # below this share of the first, a squared value has lost digits: solved densely
FIRST_STEPS = 400  # steps after which band-like graphs are solved by factoring
STEPS, WORK = 30_000, 4_000_000_000  # largest number of steps, and of steps times edges and units
FILL = 20_000_000  # units times bandwidth up to which a factorisation is cheap
LARGE = 300_000  # edges above which values are right to 1e-9, not to 1e-13
KEEP = 64  # Lanczos vectors kept, to sum an eigenvector from; if it takes more, all are found again


class Joined(NamedTuple):
    """Units of chained layers in one numbering, network inputs first, and their edges.

    Row i of the CSR arrays belongs to unit ``first + i``; its entries are earlier units.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint32]
    first: int
    degree: NDArray[np.float64]

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return self.indices.size

    def matrix(self) -> sp.csr_array:
        """Return the symmetric adjacency matrix of all units. O(edges)."""
        n = self.degree.size
        indptr = np.concatenate([np.zeros(self.first, np.int64), self.indptr])
        lower = sp.csr_array(
            (np.ones(self.indices.size), self.indices.view(np.int32), indptr), shape=(n, n)
        )
        return sp.csr_array(lower + lower.T)


def joined(
    graphs: Sequence[LayerGraph], skips: Mapping[tuple[int, int], LayerGraph] | None = None
) -> Joined:
    """Number the units of layers that chain, network inputs first. O(edges); one layer: O(units).

    `skips` are edges between blocks of units that are not neighbours: ``{(0, 2): graph}`` from
    the network's inputs to its second hidden layer.

    Raises
    ------
    ValueError
        If a skip connection does not fit.

    Examples
    --------
    >>> joined([LayerGraph.from_edge_ids([0, 1], (1, 2))]).degree.tolist()
    [1.0, 1.0, 2.0]
    """
    widths = [graphs[0].n_in] + [graph.n_out for graph in graphs]
    starts = np.concatenate([[0], np.cumsum(widths)])
    first = int(widths[0])
    degree = np.zeros(int(starts[-1]))
    for i, graph in enumerate(graphs):
        degree[starts[i] : starts[i + 1]] += graph.fan_out
        degree[starts[i + 1] : starts[i + 2]] += graph.fan_in
    if len(graphs) == 1 and not skips:
        return Joined(graphs[0].indptr, graphs[0].indices.view(np.uint32), first, degree)
    indices = np.concatenate([g.indices + np.int32(starts[i]) for i, g in enumerate(graphs)])
    edges = np.concatenate([[0], np.cumsum([g.n_edges for g in graphs])])
    parts = [g.indptr[1:] + edges[i] for i, g in enumerate(graphs)]
    indptr = np.concatenate([np.zeros(1, np.int64), *parts])
    if skips:
        rows = [np.repeat(np.arange(indptr.size - 1), np.diff(indptr))]
        columns = [indices]
        for (source, target), graph in skips.items():
            fits = 0 <= source < target - 1 < len(graphs)
            if not fits or graph.shape != (widths[target], widths[source]):
                raise ValueError(
                    f"expected skip connections from a block to one at least two later, of shape "
                    f"(units there, units here) with blocks of {widths} units, got {graph} at "
                    f"{(source, target)}"
                )
            degree[starts[source] : starts[source + 1]] += graph.fan_out
            degree[starts[target] : starts[target + 1]] += graph.fan_in
            rows.append(graph.rows + starts[target] - first)
            columns.append(graph.indices + np.int32(starts[source]))
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        indices = np.concatenate(columns)[order]
        indptr = np.concatenate([[0], np.bincount(row, minlength=indptr.size - 1).cumsum()])
    return Joined(indptr, indices.view(np.uint32), first, degree)


NOTHING = np.empty(0)


def adjacency_operator(
    units: Joined,
    *,
    scale: NDArray[np.float64] | None = None,
    diagonal: NDArray[np.float64] | None = None,
    deflated: NDArray[np.float64] = NOTHING,
) -> Operator:
    """Return the operator ``scale (A + diagonal) scale`` of all units, `deflated` projected out.

    A is the adjacency matrix; `scale` is 1 and `diagonal` 0 by default.
    """
    from topokit.graph.kernels import by_length
    from topokit.graph.lanczos import Operator

    n = units.degree.size
    order, indptr, indices, _ = by_length(units.indptr, units.indices)
    return Operator(
        indptr,
        indices,
        NOTHING,
        order + units.first,
        False,
        NOTHING,
        np.ones(n) if scale is None else scale,
        NOTHING if diagonal is None else diagonal,
        deflated,
    )


def gram_operator(
    graph: LayerGraph,
    *,
    data: NDArray[np.float64] = NOTHING,
    weight: NDArray[np.float64] | None = None,
    scale: NDArray[np.float64] | None = None,
    deflated: NDArray[np.float64] = NOTHING,
) -> Operator:
    """Return the operator ``scale B^T weight B scale`` of input units, `deflated` projected out.

    B has the values `data` at the edges, 1 if empty; `weight` and `scale` are 1 by default.
    """
    from topokit.graph.kernels import by_length
    from topokit.graph.lanczos import Operator

    order, indptr, indices, starts = by_length(graph.indptr, graph.indices.view(np.uint32))
    if data.size:
        moved = np.repeat(starts - indptr[:-1], np.diff(indptr))
        data = data[moved + np.arange(data.size)]
    return Operator(
        indptr,
        indices,
        data,
        order,
        True,
        np.ones(graph.n_out) if weight is None else weight[order],
        np.ones(graph.n_in) if scale is None else scale,
        NOTHING,
        deflated,
    )


def tolerances(n_edges: int) -> tuple[float, float]:
    """Return how small a residual and an estimated error have to be, relative to the norm."""
    return (1e-9, 1e-13) if n_edges <= LARGE else (1e-6, 1e-9)


def most_steps(n_edges: int, n: int) -> int:
    """Return the largest number of Lanczos steps on vectors of n numbers."""
    return min(STEPS, max(FIRST_STEPS, WORK // (n_edges + 4 * n)))


def product(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return the inner product of two vectors; the same for every number of threads."""
    return float((one * two).sum())


def start_vector(
    op: Operator, start: NDArray[np.float64] | None, among: NDArray[np.bool_] | None = None
) -> NDArray[np.float64] | None:
    """Return a unit vector to start from, orthogonal to the deflated one; None if nothing is left.

    By default of normal numbers, always the same; 0 outside `among`.
    """
    if start is None:
        start = np.random.default_rng(0).standard_normal(op.scale.size)
    if among is not None:
        start = np.where(among, start, 0.0)
    if op.deflated.size:
        start = start - op.deflated * product(op.deflated, start)
    norm = np.sqrt(product(start, start))
    return start / norm if norm > 0 else None


def top_pair(
    op: Operator,
    *,
    bound: float,
    start: NDArray[np.float64] | None = None,
    among: NDArray[np.bool_] | None = None,
    vector: bool = False,
    error: float | None = None,
) -> tuple[float, NDArray[np.float64]] | None:
    """Return the largest eigenvalue of a symmetric operator, and its unit vector.

    Parameters
    ----------
    op : Operator
    bound : float
        At least the largest eigenvalue of the operator before deflation: where factoring begins.
    start : (n,) float64, optional
        Initial vector; by default normal numbers, always the same.
    among : (n,) bool, optional
        The units of one component: the iteration stays within it.
    vector : bool
        Compute the vector, which may take as many steps again; otherwise it may be empty.
    error : float, optional
        The estimated error of the value at which it has converged, relative to the operator's norm
        after deflation; by default 1e-13, and 1e-9 above 300,000 edges without `vector`.

    Returns
    -------
    tuple or None
        None if the iteration did not converge: to that error, and a residual of 1e-9, or 1e-6 above
        300,000 edges. Cost O(edges) a step, usually 30 to 100 steps; band-like graphs are solved by
        factoring instead.
    """
    from topokit.graph.lanczos import recurrence, summed

    n = op.scale.size
    first = start_vector(op, start, among)
    if first is None:
        return 0.0, np.zeros(n)
    residual, usual = tolerances(op.indices.size)
    if error is None:  # a deflated vector adds the square of its error to the next value
        error = 1e-13 if vector else usual
    most = most_steps(op.indices.size, n)
    basis = np.empty((KEEP if vector else 0, n))
    for steps in (FIRST_STEPS, most):
        found = recurrence(op, first, steps, residual, error, 0.0, basis)
        if found.converged:
            if not vector:
                return found.value, NOTHING
            whole = summed(op, first, found.vector[None], found.basis)[0]
            return found.value, whole / np.sqrt(product(whole, whole))
        if steps == FIRST_STEPS:
            factored = by_factoring(op, bound, among)
            if factored is not None:
                return factored
        if steps == most:
            break
    return None


def by_factoring(
    op: Operator, bound: float, among: NDArray[np.bool_] | None
) -> tuple[float, NDArray[np.float64]] | None:
    """Return the largest eigenvalue by shift and invert, where elimination fills little; else None.

    Band-like graphs (rings, lattices) have a gap so small that Lanczos needs thousands of steps,
    but after renumbering (reverse Cuthill-McKee) a small bandwidth: factoring ``bound - op`` costs
    O(n bandwidth^2) once, and a few solves give the eigenvalues next to the bound.
    """
    n = op.scale.size
    data = op.data if op.data.size else np.ones(op.indices.size)
    indices = op.indices.view(np.int32)
    if op.gram:
        half = sp.csr_array((data, indices, op.indptr), shape=(op.indptr.size - 1, n))
        if float((np.diff(op.indptr).astype(float) ** 2).sum()) > 10 * FILL:
            return None
        core = sp.csr_array(half.T @ sp.diags_array(op.weight) @ half)
    else:
        rows = np.repeat(op.rows, np.diff(op.indptr))
        lower = sp.csr_array((data, (rows, indices)), shape=(n, n))
        core = sp.csr_array(lower + lower.T)
    if op.diagonal.size:
        core = sp.csr_array(core + sp.diags_array(op.diagonal))
    scale = sp.diags_array(op.scale)
    matrix: Any = sp.csr_array(scale @ core @ scale)
    keep = np.flatnonzero(np.ones(n, bool) if among is None else among)
    keep = keep[np.asarray(abs(matrix).sum(axis=1))[keep] > 0]
    matrix = sp.csr_array(matrix[keep][:, keep])
    pattern = sp.csr_array(matrix)
    pattern.indices, pattern.indptr = (a.astype(np.int32) for a in (matrix.indices, matrix.indptr))
    order = reverse_cuthill_mckee(pattern, symmetric_mode=True)
    matrix = sp.csc_array(matrix[order][:, order])
    columns = np.repeat(np.arange(keep.size), np.diff(matrix.indptr))
    width = int(np.abs(matrix.indices - columns).max(initial=0))
    if keep.size < 8 or width * keep.size > FILL:
        return None
    known = op.deflated[keep][order] if op.deflated.size else None
    try:
        values, vectors = eigsh(
            matrix,
            k=3,
            sigma=bound * (1 + 1e-9),
            which="LM",
            v0=np.random.default_rng(0).standard_normal(keep.size),
        )
    except (ArpackError, RuntimeError):
        return None
    at = np.argsort(values)[::-1]
    if known is not None:  # leave out the eigenvector nearest to the deflated one
        at = np.delete(at, int(np.argmax(np.abs(known @ vectors[:, at]))))
    full: NDArray[Any] = np.zeros(n)
    full[keep[order]] = vectors[:, at[0]]
    return float(values[at[0]]), full


def trimmed(graph: LayerGraph, data: NDArray[np.float64] | None = None) -> sp.csr_array:
    """Return the biadjacency matrix without isolated units, the smaller side as rows."""
    matrix = graph.to_csr() if data is None else graph.to_csr(data)
    rows, columns = np.flatnonzero(graph.fan_in), np.flatnonzero(graph.fan_out)
    if rows.size < graph.n_out or columns.size < graph.n_in:
        matrix = sp.csr_array(matrix[rows][:, columns])
    return matrix if matrix.shape[0] <= matrix.shape[1] else sp.csr_array(matrix.T)


def normalized_matrix(matrix: sp.csr_array) -> sp.csr_array:
    """Divide a trimmed matrix by the roots of its row and column sums."""
    left, right = np.asarray(matrix.sum(axis=1)), np.asarray(matrix.sum(axis=0))
    rows = np.repeat(left, np.diff(matrix.indptr))
    data = matrix.data / (np.sqrt(rows) * np.sqrt(right[matrix.indices]))  # no product underflows
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def dense_singular_values(matrix: sp.csr_array) -> NDArray[np.float64]:
    """Return all singular values; from the Gram matrix where the long side is very long."""
    if matrix.shape[0] * matrix.shape[1] <= CELLS:
        return np.linalg.svd(matrix.toarray(), compute_uv=False)
    square = np.linalg.eigvalsh((matrix @ matrix.T).toarray())[::-1]
    return np.sqrt(np.maximum(square, 0.0))


def works_densely(graph: LayerGraph) -> bool:
    """Return whether the smaller side has few enough units with edges for dense linear algebra."""
    return min(_used(graph)) <= DENSE


def _used(graph: LayerGraph) -> tuple[int, int]:
    """Return the numbers of output and of input units that have edges."""
    return int(np.count_nonzero(graph.fan_in)), int(np.count_nonzero(graph.fan_out))


def scaled(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return values over a power of two, the largest between 1/2 and 1, and its exponent.

    Gram products square entries: of weights below 1e-80 or above 1e150 the squares, or those of the
    iteration, would be lost. A power of two changes no digit.

    Examples
    --------
    >>> scaled(np.array([3e-200, -6e-200]))[0].round(3).tolist()
    [0.287, -0.574]
    """
    exponent = int(np.frexp(np.abs(values).max(initial=0.0))[1])
    return np.ldexp(values, -exponent), exponent


def leading_singular_values(
    graph: LayerGraph, values: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the two largest singular values of the biadjacency matrix.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) float64, optional
        Entries of the matrix at the edges; by default 1. Those without `values` are remembered
        with the graph.

    Returns
    -------
    tuple of float
        The second is 0 where only one unit of a side has edges; both ``nan`` without edges, or if
        an iteration did not converge. Cost O(n_edges) a step, some 50 to 100 steps; dense up to
        64 units on the smaller side.

    References
    ----------
    .. [1] Lehoucq, Sorensen, Yang, "ARPACK Users' Guide", SIAM, 1998.

    Examples
    --------
    >>> leading_singular_values(LayerGraph.from_edge_ids(range(6), (2, 3)))[0].__round__(6)
    2.44949
    """
    if values is not None:
        values, exponent = scaled(values)
        first, second = _leading(graph, values)
        return float(np.ldexp(first, exponent)), float(np.ldexp(second, exponent))
    return remember(graph, "singular", lambda: _closed_form(graph) or _leading(graph, None))


def largest_singular_value(graph: LayerGraph, values: NDArray[np.float64]) -> float:
    """Return the largest singular value (spectral norm) of a matrix with `values` at the edges.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) float64

    Returns
    -------
    float
        ``nan`` without edges or if the iteration did not converge. Cost half of
        `leading_singular_values` or less.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids(range(4), (2, 2))
    >>> round(largest_singular_value(graph, np.array([1.0, 1.0, 1.0, -1.0])), 6)
    1.414214
    """
    if not graph.n_edges:
        return NAN
    values, exponent = scaled(values)
    if works_densely(graph):
        return float(np.ldexp(dense_singular_values(trimmed(graph, values))[0], exponent))
    gram, bound = _gram(graph, values)
    top = top_pair(gram, bound=bound, start=_start(graph, values))
    return NAN if top is None else float(np.ldexp(np.sqrt(max(top[0], 0.0)), exponent))


def _closed_form(graph: LayerGraph) -> tuple[float, float] | None:
    """Return the two largest singular values of stars and complete layers, None for others."""
    if graph.n_edges == 0:
        return NAN, NAN
    for degrees, other in ((graph.fan_in, graph.fan_out), (graph.fan_out, graph.fan_in)):
        if degrees.max() == 1:  # disjoint stars
            roots = np.sqrt(np.sort(other)[::-1].astype(float))
            return float(roots[0]), float(roots[1]) if roots.size > 1 else 0.0
    rows, columns = _used(graph)
    return (float(np.sqrt(graph.n_edges)), 0.0) if graph.n_edges == rows * columns else None


def _gram(graph: LayerGraph, data: NDArray[np.float64] | None) -> tuple[Operator, float]:
    """Return the Gram operator and a bound on it: largest row sum times largest column sum."""
    if data is None:
        bound = float(graph.fan_in.max()) * float(graph.fan_out.max())
        return gram_operator(graph), bound
    sizes = np.abs(data)
    rows: NDArray[Any] = np.bincount(graph.rows, sizes)
    columns: NDArray[Any] = np.bincount(graph.indices, sizes)
    return gram_operator(graph, data=data), float(rows.max()) * float(columns.max())


def _start(graph: LayerGraph, data: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return the column sums, near the leading vector if entries are not negative, else None."""
    if data is None:
        return graph.fan_out.astype(float)
    if data.min() < 0:
        return None
    sums: NDArray[Any] = np.bincount(graph.indices, data, graph.n_in)
    return sums


def _leading(graph: LayerGraph, data: NDArray[np.float64] | None) -> tuple[float, float]:
    """Return the two largest singular values, densely or by Lanczos with deflation of the first."""
    if graph.n_edges == 0:
        return NAN, NAN
    rows, columns = _used(graph)
    if min(rows, columns) <= DENSE:
        values = dense_singular_values(trimmed(graph, data))
        return float(values[0]), float(values[1]) if values.size > 1 else 0.0
    gram, bound = _gram(graph, data)
    top = top_pair(gram, bound=bound, start=_start(graph, data), vector=True)
    if top is None:
        return NAN, NAN
    second = top_pair(gram._replace(deflated=top[1]), bound=top[0])
    if second is None:
        return NAN, NAN
    first, square = float(np.sqrt(top[0])), max(second[0], 0.0)
    if square < SMALL * top[0] and rows * columns <= CELLS:
        return first, float(dense_singular_values(trimmed(graph, data))[1])
    return first, float(np.sqrt(square))


# The singular values of a wide matrix are those of the triangular factor of its transpose, which is
# found in blocks of rows (each stacked under the factor so far and factored again). So no array of
# the whole layer is made, and small values keep their digits, which the Gram matrix would lose.
def _square(matrix: sp.csr_array) -> NDArray[np.float64]:
    """Return a small dense matrix with the singular values of a matrix with few rows."""
    small, large = matrix.shape
    step = max(2 * small, CELLS // small)
    if large <= step:
        return np.asarray(matrix.toarray())
    long = sp.csr_array(matrix.T)
    factor = np.empty((0, small))
    for start in range(0, large, step):
        block = long[start : start + step].toarray()
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, block]), mode="r"))
    return factor


def singular_values(
    graph: GraphLike, values: NDArray[np.float64] | None = None, *, normalized: bool = False
) -> NDArray[np.float64]:
    """Return all singular values of the biadjacency matrix.

    Dense, since the whole spectrum is wanted: memory is quadratic in the smaller side, and time
    that times the larger side.

    Parameters
    ----------
    graph : LayerGraph
    values : (n_edges,) float64, optional
        Entries of the matrix at the edges; by default 1.
    normalized : bool
        Of D_out^(-1/2) B D_in^(-1/2) instead, on units with edges.

    Returns
    -------
    (min(n_in, n_out),) float64
        Decreasing; if `normalized`, as many as the side with fewer units that have edges has of
        these.

    Raises
    ------
    ValueError
        If the smaller side has more than 8,192 units.

    Examples
    --------
    >>> singular_values(LayerGraph.from_edge_ids([0, 3], (2, 2))).tolist()
    [1.0, 1.0]
    """
    graph = as_graph(graph)
    size = min(graph.shape)
    if size > WHOLE:
        raise ValueError(
            f"expected at most {WHOLE} units on the smaller side for a whole spectrum, got {size}"
        )
    matrix = trimmed(graph, values) if graph.n_edges else sp.csr_array((0, 0))
    if normalized and graph.n_edges:
        matrix = normalized_matrix(matrix)
    count = matrix.shape[0]
    if not count:
        return np.zeros(0 if normalized else size)
    found: NDArray[Any] = np.linalg.svd(_square(matrix), compute_uv=False)
    return found if normalized else np.concatenate([found, np.zeros(size - count)])


def mean_degree_bound(graph: LayerGraph) -> float:
    r"""Return the Ramanujan bound with mean degrees, over the units that have edges.

    .. math:: \sqrt{\bar d_{out} - 1} + \sqrt{\bar d_{in} - 1}

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        0 or more; 0 without edges. Cost O(units).

    Examples
    --------
    >>> round(mean_degree_bound(LayerGraph.from_edge_ids(range(9), (3, 3))), 6)
    2.828427
    """
    if not graph.n_edges:
        return 0.0
    return float(sum(np.sqrt(graph.n_edges / units - 1) for units in _used(graph)))


@takes_graph
def ramanujan_margin(graph: LayerGraph) -> float:
    r"""Margin of the second singular value to the Ramanujan bound with mean degrees.

    .. math:: \sqrt{\bar d_{out} - 1} + \sqrt{\bar d_{in} - 1} - \sigma_2(B)

    Degrees are averaged over the units that have edges. For biregular layers this is the
    Ramanujan bound; for irregular ones it is stricter than the bound by the universal cover,
    the more so the more uneven the degrees, so that layers with heavy-tailed degrees mostly miss
    it. Those with a few hubs on one side, joined to all units of the other, do not: such hubs
    raise the first singular value only.

    Parameters
    ----------
    graph : LayerGraph

    Returns
    -------
    float
        Negative where the bound is missed; ``nan`` without edges, where a mean degree is below
        2, or if the iteration did not converge. Cost as `spectral_gap`, shared with it.

    Notes
    -----
    Range: negative where the bound is missed.
    Cost: that of spectral_gap, shared; every epoch.

    References
    ----------
    .. [1] Hoang, Liu, Marculescu, Wang, "Revisiting pruning at initialization through the lens
       of Ramanujan graph", ICLR 2023.

    Examples
    --------
    >>> round(ramanujan_margin(LayerGraph.from_edge_ids(range(9), (3, 3))), 6)
    2.828427
    """
    if graph.n_edges == 0 or graph.n_edges / max(_used(graph)) < 2:
        return NAN
    return mean_degree_bound(graph) - leading_singular_values(graph)[1]

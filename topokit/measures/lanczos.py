"""Top eigenvalues of graphs' operators by Lanczos; unconverged ones are never returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import ArpackError, eigsh

from topokit.graph import LayerGraph
from topokit.graph.cache import fan_out_of

if TYPE_CHECKING:
    from topokit.measures.kernels import Operator

__all__ = ["DENSE", "Joined", "adjacency_operator", "gram_operator", "joined", "top_pair"]

DENSE = 64  # up to this many units on the smaller side, dense linear algebra
FIRST_STEPS = 400  # graphs that need more are tried by factoring, if they are band-like
STEPS, WORK = 30_000, 4_000_000_000  # caps on steps, and on steps times edges and units
FILL = 20_000_000  # units times bandwidth up to which a factorisation is cheap
LARGE = 3_000_000  # edges above which a residual of 1e-6 has to do


class Joined(NamedTuple):
    """Units of chained layers in one numbering, network inputs first, and their edges.

    Row i of the CSR arrays is unit ``first + i``, its entries earlier units.
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

    Raises a ValueError if a skip connection does not fit.

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
        degree[starts[i] : starts[i + 1]] += fan_out_of(graph)
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
            degree[starts[source] : starts[source + 1]] += fan_out_of(graph)
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
    """Operator ``scale A scale + diagonal`` of all units, off the unit vector `deflated`."""
    from topokit.measures.kernels import Operator

    n = units.degree.size
    return Operator(
        units.indptr,
        units.indices,
        units.first,
        False,
        NOTHING,
        np.ones(n) if scale is None else scale,
        np.zeros(n) if diagonal is None else diagonal,
        deflated,
    )


def gram_operator(
    graph: LayerGraph,
    *,
    weight: NDArray[np.float64] | None = None,
    scale: NDArray[np.float64] | None = None,
    deflated: NDArray[np.float64] = NOTHING,
) -> Operator:
    """Operator ``scale B^T weight B scale`` of the input units, off the vector `deflated`."""
    from topokit.measures.kernels import Operator

    return Operator(
        graph.indptr,
        graph.indices.view(np.uint32),
        0,
        True,
        np.ones(graph.n_out) if weight is None else weight,
        np.ones(graph.n_in) if scale is None else scale,
        np.zeros(graph.n_in),
        deflated,
    )


def top_pair(
    op: Operator,
    *,
    bound: float,
    start: NDArray[np.float64] | None = None,
    among: NDArray[np.bool_] | None = None,
    vector: bool = False,
) -> tuple[float, NDArray[np.float64]] | None:
    """Largest eigenvalue of a positive operator, and its vector if asked for.

    Parameters
    ----------
    op : Operator
    bound : float
        At least its largest eigenvalue, the deflated one included; tolerances are relative to
        it (residual 1e-9, estimated error of the value 1e-13).
    start : (n,) float64, optional
        By default normal numbers, always the same, nonzero `among` some units only.
    vector : bool
        Return the unit vector (else an empty one); it takes as many steps again.

    Returns
    -------
    tuple or None
        None if the iteration did not converge. Cost O(edges) a step, usually 30 to 100 steps;
        band-like graphs are solved by factoring instead.
    """
    from topokit.measures.kernels import recurrence, summed

    n = op.scale.size
    if start is None:
        start = np.random.default_rng(0).standard_normal(n)
    if among is not None:
        start = np.where(among, start, 0.0)
    if op.deflated.size:
        start = start - op.deflated * (op.deflated @ start)
    norm = float(np.linalg.norm(start))
    if not norm > 0:
        return 0.0, np.zeros(n)
    start = start / norm
    residual, error = (1e-9, 1e-13) if op.indices.size <= LARGE else (1e-6, 1e-11)
    work = op.indices.size + 4 * n
    most = min(STEPS, max(FIRST_STEPS, WORK // work))
    for steps in (FIRST_STEPS, most):
        value, _, settled, _, small = recurrence(op, start, bound, steps, residual, error)
        if settled:
            return value, summed(op, start, small) if vector else NOTHING
        if steps == FIRST_STEPS:
            found = _by_factoring(op, bound, among)
            if found is not None:
                return found
        if steps == most:
            break
    return None


def _by_factoring(
    op: Operator, bound: float, among: NDArray[np.bool_] | None
) -> tuple[float, NDArray[np.float64]] | None:
    """Largest eigenvalue by shift and invert, where elimination fills little; else None."""
    n = op.scale.size
    rows = op.indptr.size - 1
    data = np.ones(op.indices.size)
    indices = op.indices.view(np.int32)
    if op.gram:
        half = sp.csr_array((data, indices, op.indptr), shape=(rows, n))
        if float((np.diff(op.indptr).astype(float) ** 2).sum()) > 10 * FILL:
            return None
        core = sp.csr_array(half.T @ sp.diags_array(op.weight) @ half)
    else:
        indptr = np.concatenate([np.zeros(op.first, np.int64), op.indptr])
        lower = sp.csr_array((data, indices, indptr), shape=(n, n))
        core = sp.csr_array(lower + lower.T)
    scale = sp.diags_array(op.scale)
    matrix: Any = sp.csr_array(scale @ core @ scale + sp.diags_array(op.diagonal))
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
    if known is not None:  # the vector deflated is the one eigenvector of its value nearest to it
        at = np.delete(at, int(np.argmax(np.abs(known @ vectors[:, at]))))
    full: NDArray[Any] = np.zeros(n)
    full[keep[order]] = vectors[:, at[0]]
    return float(values[at[0]]), full

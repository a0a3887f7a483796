"""The graph of one layer, a change of its edges, and functions on sorted edge ids."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from topokit.tables import as_html, sparkline

__all__ = [
    "EdgeUpdate",
    "LayerGraph",
    "Topology",
    "check_one_shape",
    "check_per_edge",
    "distinct",
    "from_coordinates",
    "pick_absent",
    "integers",
    "positions_in",
    "random_subset",
    "same_edges",
    "sample_absent",
    "sorted_ids",
    "top_absent",
    "union",
]

BLOCK_CELLS = 1 << 22  # possible edges that are scored at once
NAN_SCORES = "expected scores without nan, got nan in rows {}..{}"


def integers(array: ArrayLike, dtype: Any, what: str) -> NDArray[Any]:
    """Return an array of whole numbers as `dtype`; refuse other numbers and those out of range.

    A cast alone would turn 0.9 into 0, "7" into 7, 1j into 0 and 2**32 into 0. A list without
    elements is accepted. Costs nothing for arrays that are of the type already.

    Raises
    ------
    ValueError
        If the array is not of an integer type, or an element does not fit `dtype`.

    Examples
    --------
    >>> integers([0.9], np.int32, "input units")
    Traceback (most recent call last):
    ValueError: expected integers as input units, got an array of float64
    """
    given = np.asarray(array)
    if given.dtype.kind not in "iu" and given.size:
        raise ValueError(f"expected integers as {what}, got an array of {given.dtype}")
    if given.size and not np.can_cast(given.dtype, dtype):
        low, high, bounds = int(given.min()), int(given.max()), np.iinfo(dtype)
        if low < bounds.min or high > bounds.max:
            raise ValueError(f"expected {what} in {bounds.min}..{bounds.max}, got {low}..{high}")
    return given.astype(dtype, copy=False)


def _sizes(shape: Any) -> tuple[int, int]:
    """Return the numbers of output and input units; refuse what is no possible shape."""
    try:
        n_out, n_in = (operator.index(n) for n in shape)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a shape (n_out, n_in) of two whole numbers, got {shape!r}"
        ) from None
    if n_out < 0 or n_in < 0 or n_in >= 2**31 or n_out * n_in >= 2**63:
        raise ValueError(
            f"expected a shape (n_out, n_in) of non-negative sizes with n_in < 2**31, "
            f"got {(n_out, n_in)}"
        )
    return n_out, n_in


def _read_only(array: ArrayLike, dtype: Any, what: str) -> NDArray[Any]:
    """Return a contiguous, read-only array; a copy if the caller could still write to it."""
    result = integers(array, dtype, what)
    if result.flags.writeable or not result.flags.c_contiguous:
        result = result.copy() if result is array or result.base is not None else result
        result = np.ascontiguousarray(result)
        result.flags.writeable = False
    return result


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LayerGraph:
    """Which input units feed which output units: a bipartite graph in CSR form.

    Immutable and unweighted. Rows are output units, as in ``torch.nn.Linear.weight``. Two graphs
    are equal if they have the same shape and the same edges; equal graphs have equal hashes.
    Arrays that the graph keeps are read-only.

    Parameters
    ----------
    shape : tuple of int
        ``(n_out, n_in)``.
    indptr : (n_out + 1,) int64
        Edges of output unit ``i`` are at positions ``indptr[i]:indptr[i + 1]``.
    indices : (n_edges,) int32
        The input unit of each edge, strictly increasing within a row.
    groups : int
        Number of groups of a grouped convolution. Input and output units are split in order into
        as many equal parts, and only edges from a part to the part of the same number are possible:
        no rule grows another one.

    Raises
    ------
    ValueError
        If the arrays are not the canonical CSR form of a simple graph of that shape, the groups do
        not divide both sides, or an edge joins two groups.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2, 4], shape=(2, 3))
    >>> graph.fan_in.tolist(), graph.fan_out.tolist(), graph.density
    ([2, 1], [1, 1, 1], 0.5)
    >>> graph == LayerGraph((2, 3), [0, 2, 3], [0, 2, 1])
    True
    """

    shape: tuple[int, int]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    groups: int = 1
    # Results kept for this object by `topokit.graph.cache`; ignored by comparison and copying.
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n_out, n_in = _sizes(self.shape)
        indptr = _read_only(self.indptr, np.int64, "indptr")
        indices = _read_only(self.indices, np.int32, "input units")
        if indptr.shape != (n_out + 1,) or indices.ndim != 1:
            raise ValueError(
                f"expected indptr of shape ({n_out + 1},) and flat indices, "
                f"got {indptr.shape} and {indices.shape}"
            )
        if indptr[0] != 0 or indptr[-1] != indices.size or np.any(indptr[1:] < indptr[:-1]):
            raise ValueError(
                f"expected indptr to rise from 0 to {indices.size} (the number of indices)"
            )
        if indices.size:
            if indices.min() < 0 or indices.max() >= n_in:
                raise ValueError(
                    f"expected input units in 0..{n_in - 1}, "
                    f"got {int(indices.min())}..{int(indices.max())}"
                )
            falls = np.flatnonzero(indices[1:] <= indices[:-1]) + 1
            starts = np.zeros(indices.size + 1, bool)
            starts[indptr] = True
            if not starts[falls].all():
                raise ValueError(
                    "expected input units to increase strictly within each row (sorted, no "
                    "duplicates); LayerGraph.from_edge_ids sorts for you"
                )
        for name, value in (("shape", (n_out, n_in)), ("indptr", indptr), ("indices", indices)):
            object.__setattr__(self, name, value)
        if self.groups != 1:
            self._check_groups()

    def _check_groups(self) -> None:
        groups = self.groups
        if groups < 1 or self.n_out % groups or self.n_in % groups:
            raise ValueError(
                f"expected a number of groups that divides {self.n_in} input and {self.n_out} "
                f"output units, got {groups}"
            )
        group = self._repeated_rows() // max(1, self.n_out // groups)
        if np.any(self.indices // max(1, self.n_in // groups) != group):
            raise ValueError(f"expected edges within {groups} groups, got one from group to group")

    @classmethod
    def from_edge_ids(cls, ids: ArrayLike, shape: tuple[int, int], groups: int = 1) -> LayerGraph:
        """Build a graph from distinct edge ids ``output_unit * n_in + input_unit``, in any order.

        Raises a ValueError if an id occurs twice, lies outside ``0..n_out * n_in - 1`` or joins two
        groups.
        """
        n_out, n_in = _sizes(shape)
        ids = integers(ids, np.int64, "edge ids").ravel()
        if ids.size > 1 and np.any(ids[1:] <= ids[:-1]):
            ids = sorted_ids(ids)
            if np.any(ids[1:] == ids[:-1]):
                raise ValueError("expected distinct edge ids, got at least one twice")
        if ids.size and (ids[0] < 0 or ids[-1] >= n_out * n_in):
            raise ValueError(
                f"expected edge ids in 0..{n_out * n_in - 1} for shape {(n_out, n_in)}, "
                f"got {int(ids[0])}..{int(ids[-1])}"
            )
        starts = np.arange(n_out + 1, dtype=np.int64) * n_in
        indptr = np.searchsorted(ids, starts) if n_in else np.zeros(n_out + 1, np.int64)
        rows = np.repeat(starts[:-1], np.diff(indptr))
        return cls((n_out, n_in), indptr.astype(np.int64), (ids - rows).astype(np.int32), groups)

    @classmethod
    def from_ids_in_groups(cls, ids: ArrayLike, shape: tuple[int, int], groups: int) -> LayerGraph:
        """Build a graph from distinct ids as `ids_in_groups` returns them.

        Examples
        --------
        >>> LayerGraph.from_ids_in_groups([0, 1, 3], (2, 4), groups=2).edge_ids.tolist()
        [0, 1, 7]
        """
        ids = np.asarray(ids, dtype=np.int64).ravel()
        return cls.from_edge_ids(_between_groups(ids, shape, groups), shape, groups)

    @property
    def n_out(self) -> int:
        """Number of output units."""
        return self.shape[0]

    @property
    def n_in(self) -> int:
        """Number of input units."""
        return self.shape[1]

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.indices.size)

    @property
    def density(self) -> float:
        """Edges over `n_possible`; ``nan`` when no edge is possible."""
        return self.n_edges / self.n_possible if self.n_possible else float("nan")

    @property
    def rows(self) -> NDArray[np.int64]:
        """Output unit of each edge, (n_edges,). O(n_edges) the first time, then kept."""
        return self._kept("rows", self._repeated_rows)

    @property
    def edge_ids(self) -> NDArray[np.int64]:
        """Edge ids ``output_unit * n_in + input_unit``, (n_edges,), increasing.

        A new array at each access: O(n_edges).
        """
        ids = self._repeated_rows()  # not `rows`, which would stay in memory with the graph
        ids *= self.n_in
        ids += self.indices
        return ids

    @property
    def ids_in_groups(self) -> NDArray[np.int64]:
        """Ids of the edges in a matrix of the possible edges only, (n_edges,), increasing.

        The matrix has ``n_in / groups`` columns, those of the output unit's group: the stored
        weight of a grouped convolution. With one group they are the edge ids. O(n_edges).
        """
        if self.groups == 1:
            return self.edge_ids
        width, rows = self.n_in // self.groups, self._repeated_rows()
        return rows * width + self.indices % width

    @property
    def n_possible(self) -> int:
        """Number of possible edges: those within the groups."""
        return self.n_out * self.n_in // self.groups

    @property
    def n_absent(self) -> int:
        """Number of possible edges that are absent."""
        return self.n_possible - self.n_edges

    @property
    def fan_in(self) -> NDArray[np.int64]:
        """Number of inputs of each output unit, (n_out,). O(n_out) the first time, then kept."""
        return self._kept("fan_in", lambda: np.diff(self.indptr))

    @property
    def fan_out(self) -> NDArray[np.int64]:
        """Number of outputs of each input unit, (n_in,). O(n_edges) the first time, then kept."""
        return self._kept(
            "fan_out", lambda: np.bincount(self.indices, minlength=self.n_in).astype(np.int64)
        )

    def to_csr(self, data: ArrayLike | None = None) -> sp.csr_array:
        """Return the (n_out, n_in) biadjacency matrix, or one with `data` on the edges.

        Its arrays are its own, to be changed at will. Raises a ValueError unless `data` has one
        value for each edge.
        """
        values = np.ones(self.n_edges) if data is None else np.array(data)
        check_per_edge(self, values)
        return sp.csr_array(
            (values, self.indices.astype(np.int64), self.indptr.copy()), shape=self.shape
        )

    def _repeated_rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(self.n_out, dtype=np.int64), np.diff(self.indptr))

    def _kept(self, name: str, build: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return an array that is computed once and kept, read-only, with the graph."""
        if name not in self._cache:
            array = build()
            array.flags.writeable = False
            self._cache[name] = array
        return self._cache[name]

    def __eq__(self, other: object) -> bool:
        return same_edges(self, other) if isinstance(other, LayerGraph) else NotImplemented

    def __hash__(self) -> int:
        if "hash" not in self._cache:
            sums = zlib.crc32(self.indptr.data), zlib.crc32(self.indices.data)
            self._cache["hash"] = hash((self.shape, *sums))
        return self._cache["hash"]

    def __reduce__(self) -> tuple[Any, ...]:
        return LayerGraph, (self.shape, self.indptr, self.indices, self.groups)

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGraph:
        return self

    def __repr__(self) -> str:
        return f"LayerGraph({self.n_in} -> {self.n_out}, {self.n_edges} edges)"

    def _repr_html_(self) -> str:
        from topokit.graph.networks import describe

        facts: dict[Any, Any] = describe(self).iloc[0].to_dict()
        bars = {side: sparkline(getattr(self, side)) for side in ("fan_in", "fan_out")}
        return as_html(repr(self), {**facts, **{f"units of each {k}": v for k, v in bars.items()}})


Topology = dict[str, LayerGraph]
"""All layer graphs of a network, input to output; names as in ``named_modules()``."""


def same_edges(a: LayerGraph, b: LayerGraph) -> bool:
    """Return whether two graphs have the same shape and the same edges."""
    if a is b or a.shape != b.shape or a.n_edges != b.n_edges:  # reads no array
        return a is b
    return np.array_equal(a.indptr, b.indptr) and np.array_equal(a.indices, b.indices)


def check_one_shape(a: LayerGraph, b: LayerGraph) -> None:
    """Raise a ValueError unless two graphs have the same shape."""
    if a.shape != b.shape:
        raise ValueError(f"expected graphs of one shape, got {a.shape} and {b.shape}")


def check_per_edge(
    graph: LayerGraph, values: Any, *, layer: str = "", trailing: bool = False
) -> None:
    """Raise a ValueError unless an array or tensor has one value for each edge of a graph.

    Parameters
    ----------
    graph : LayerGraph
    values : array or tensor
        Only its shape is looked at.
    layer : str, optional
        Name of the layer, for the message.
    trailing : bool
        Whether further dimensions may follow.

    Examples
    --------
    >>> check_per_edge(LayerGraph.from_edge_ids([0, 1], (1, 2)), np.zeros(3), layer="fc1")
    Traceback (most recent call last):
    ValueError: expected one value for each of the 2 edges of fc1, got shape (3,)
    """
    shape = tuple(values.shape)
    if (shape[:1] if trailing else shape) != (graph.n_edges,):
        owner = f" of {layer}" if layer else ""
        raise ValueError(
            f"expected one value for each of the {graph.n_edges} edges{owner}, got shape {shape}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class EdgeUpdate:
    """A change of a layer's edges, which moves any array of one value for each edge.

    Two changes are equal if they have equal graphs and the same `source`.

    Parameters
    ----------
    before, after : LayerGraph
        Graphs of the same shape.
    source : (after.n_edges,) int64
        Position in `before` of each edge of `after`, or -1 if it was grown.

    Examples
    --------
    >>> old = LayerGraph.from_edge_ids([0, 1], (1, 3))
    >>> update = EdgeUpdate.from_decisions(old, dropped=[0], grown=[2])
    >>> update.carry(np.array([5.0, 7.0])).tolist()
    [7.0, 0.0]
    """

    before: LayerGraph
    after: LayerGraph
    source: NDArray[np.int64]

    def __post_init__(self) -> None:
        check_one_shape(self.before, self.after)
        source = _read_only(self.source, np.int64, "source positions")
        if source.shape != (self.after.n_edges,):
            raise ValueError(f"expected {self.after.n_edges} source positions, got {source.shape}")
        object.__setattr__(self, "source", source)

    @classmethod
    def between(cls, before: LayerGraph, after: LayerGraph) -> EdgeUpdate:
        """Return the change between two graphs of one shape; an edge in both counts as kept.

        Raises a ValueError if the shapes differ.
        """
        check_one_shape(before, after)
        return cls(before, after, positions_in(before.edge_ids, after.edge_ids))

    @classmethod
    def from_decisions(cls, before: LayerGraph, dropped: ArrayLike, grown: ArrayLike) -> EdgeUpdate:
        """Return the change in which edges at positions `dropped` leave and edge ids `grown` enter.

        An edge that is dropped and grown again counts as grown (source -1). O(n_edges).

        Raises a ValueError if a dropped position is not that of an edge, or a grown edge is present
        and kept, is given twice or lies outside the layer.
        """
        from topokit.graph import kernels

        keep = np.ones(before.n_edges, bool)
        dropped = integers(dropped, np.int64, "positions of edges to drop")
        if dropped.size and (dropped.min() < 0 or dropped.max() >= before.n_edges):
            raise ValueError(
                f"expected positions of edges to drop in 0..{before.n_edges - 1}, "
                f"got {int(dropped.min())}..{int(dropped.max())}"
            )
        keep[dropped] = False
        grown = sorted_ids(integers(grown, np.int64, "edge ids to grow"))
        cells = before.n_out * before.n_in
        if grown.size and (grown[0] < 0 or grown[-1] >= cells):
            raise ValueError(
                f"expected edge ids in 0..{cells - 1}, got {int(grown[0])}..{int(grown[-1])}"
            )
        size = int(np.count_nonzero(keep)) + grown.size
        indptr, indices = np.empty(before.n_out + 1, np.int64), np.empty(size, np.int32)
        source = np.empty(size, np.int64)
        arrays = (before.indptr, before.indices, before.n_in, keep, grown)
        if kernels.exchange(*arrays, indptr, indices, source) < size:
            raise ValueError("expected absent edges to grow, got at least one that is present")
        return cls(before, LayerGraph(before.shape, indptr, indices, before.groups), source)

    def net(self) -> EdgeUpdate:
        """Return the change with edges that were dropped and grown again counted as kept.

        The result is that of `between`, but only grown edges are compared: O(n_edges + n_grown log
        n_edges).
        """
        grown = np.flatnonzero(self.grown)
        if not grown.size:
            return self
        source = self.source.copy()
        source[grown] = positions_in(self.before.edge_ids, self.after.edge_ids[grown])
        return EdgeUpdate(self.before, self.after, source)

    @property
    def grown(self) -> NDArray[np.bool_]:
        """Mask of the edges of `after` that are new, (after.n_edges,)."""
        return self.source < 0

    @property
    def n_grown(self) -> int:
        """Number of edges that entered."""
        return int(np.count_nonzero(self.grown))

    @property
    def n_dropped(self) -> int:
        """Number of edges that left."""
        return self.before.n_edges - (self.after.n_edges - self.n_grown)

    def carry(self, per_edge: NDArray[Any], fill: Any = 0) -> NDArray[Any]:
        """Move a (before.n_edges, ...) array to (after.n_edges, ...); grown edges get `fill`."""
        per_edge = np.asarray(per_edge)
        check_per_edge(self.before, per_edge, trailing=True)
        if not len(per_edge):
            return np.full((self.after.n_edges, *per_edge.shape[1:]), fill, per_edge.dtype)
        moved = per_edge[self.source]
        moved[self.grown] = fill
        return moved

    def __repr__(self) -> str:
        graph = f"{self.after.n_in} -> {self.after.n_out}"
        return f"EdgeUpdate({graph}, {self.n_dropped} edges dropped, {self.n_grown} grown)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EdgeUpdate):
            return NotImplemented
        graphs = self.before == other.before and self.after == other.after
        return graphs and np.array_equal(self.source, other.source)

    def __hash__(self) -> int:
        return hash((self.before, self.after))


def sample_absent(graph: LayerGraph, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `k` distinct absent edges uniformly at random.

    O(n_edges + k log k) time and memory, whatever the number of cells.

    Returns
    -------
    (k,) int64
        Edge ids, increasing.

    Raises
    ------
    ValueError
        If fewer than `k` edges are absent.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2], (1, 4))
    >>> sample_absent(graph, 2, np.random.default_rng(0)).tolist()
    [1, 3]
    """
    return pick_absent(graph, k, lambda n, k: random_subset(n, k, rng))


def pick_absent(
    graph: LayerGraph, k: int, subset: Callable[[int, int], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return `k` absent edges chosen by their ranks among all absent ones, in the order of ids.

    Parameters
    ----------
    graph : LayerGraph
    k : int
    subset : callable
        ``subset(n_absent, k) -> (k,)`` distinct ranks from 0, increasing.

    Returns
    -------
    (k,) int64
        Edge ids, increasing.

    Raises
    ------
    ValueError
        If fewer than `k` edges are absent.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2], (2, 3))
    >>> pick_absent(graph, 2, lambda n, k: np.array([0, n - 1])).tolist()
    [1, 5]
    """
    from topokit.graph import kernels

    # The r-th absent cell has the id r + (edges with smaller ids). So k distinct ranks below the
    # number of absent cells are drawn, and one run through ranks and edges turns them into ids.
    # Drawing cells and rejecting edges would take very long in a nearly dense layer; listing the
    # absent cells would need the memory of a dense layer.
    _check_absent(graph, k)
    ranks = subset(graph.n_absent, k)
    if graph.groups == 1:
        return kernels.past_edges(graph.indptr, graph.indices, graph.n_in, ranks)
    width = graph.n_in // graph.groups  # ranks count cells of the matrix of possible edges
    ids = kernels.past_edges(graph.indptr, graph.indices % np.int32(width), width, ranks)
    return _between_groups(ids, graph.shape, graph.groups)


def _check_absent(graph: LayerGraph, k: int) -> None:
    """Raise a ValueError unless `k` edges of a graph are absent."""
    if not 0 <= k <= graph.n_absent:
        raise ValueError(f"cannot pick {k} absent edges: only {graph.n_absent} are absent")


def top_absent(
    graph: LayerGraph,
    k: int,
    scores: Callable[[slice], NDArray[Any]],
    *,
    block_cells: int = BLOCK_CELLS,
) -> NDArray[np.int64]:
    """Return the `k` absent edges with the largest scores, computed in row blocks.

    Ties are broken by edge id (smaller first), so the result depends on nothing else.

    Parameters
    ----------
    graph : LayerGraph
    k : int
    scores : callable
        ``scores(rows) -> (len(rows), n_in)`` array for a slice of output units; no ``nan``.
    block_cells : int
        Largest number of cells scored at once: memory is O(block_cells + k + n_edges). Time is
        O(n_out * n_in), since every absent cell has to be scored.

    Returns
    -------
    (k,) int64
        Edge ids, increasing.

    Raises
    ------
    ValueError
        If fewer than `k` edges are absent, or a score is ``nan``.

    Examples
    --------
    >>> graph, scores = LayerGraph.from_edge_ids([0], (2, 2)), np.array([[9.0, 1], [2, 3]])
    >>> top_absent(graph, 2, lambda rows: scores[rows]).tolist()
    [2, 3]
    """
    _check_absent(graph, k)
    # The k best of the blocks so far are kept. Of a further block only cells better than the worst
    # of them can enter: a tie cannot, since the ids of later blocks are larger.
    best_ids, best = np.empty(0, np.int64), np.empty(0)
    if k == 0:
        return best_ids
    step = max(1, block_cells // max(1, graph.n_in))
    for start in range(0, graph.n_out, step):
        stop = min(start + step, graph.n_out)
        block = np.array(scores(slice(start, stop)), dtype=float).reshape(-1)
        if np.isnan(block).any():
            raise ValueError(NAN_SCORES.format(start, stop - 1))
        lo, hi = graph.indptr[start], graph.indptr[stop]
        local = np.repeat(np.arange(stop - start), np.diff(graph.indptr[start : stop + 1]))
        absent = _within_groups(graph, start, stop)
        absent[local * graph.n_in + graph.indices[lo:hi]] = False
        floor = best.min() if best.size >= k else -np.inf
        cells = np.flatnonzero(absent & (block > floor) if np.isfinite(floor) else absent)
        best_ids = np.concatenate([best_ids, cells + start * graph.n_in])
        best = np.concatenate([best, block[cells]])
        if best.size > k:
            keep = _top(best, best_ids, k)
            best_ids, best = best_ids[keep], best[keep]
    return np.sort(best_ids)


def _within_groups(graph: LayerGraph, start: int, stop: int) -> NDArray[np.bool_]:
    """Return which cells of some rows are possible edges, flat."""
    if graph.groups == 1:
        return np.ones((stop - start) * graph.n_in, bool)
    of_row = np.arange(start, stop) // (graph.n_out // graph.groups)
    of_column = np.arange(graph.n_in) // (graph.n_in // graph.groups)
    return (of_row[:, None] == of_column).ravel()


def _between_groups(
    ids: NDArray[np.int64], shape: tuple[int, int], groups: int
) -> NDArray[np.int64]:
    """Turn ids in the matrix of possible edges into edge ids: add the columns before the group."""
    n_out, n_in = shape
    width = max(1, n_in // groups)
    rows = ids // width
    return rows * n_in + rows // max(1, n_out // groups) * width + ids % width


def _top(scores: NDArray[Any], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the positions of the `k` largest scores; among equal ones the smallest ids."""
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    above = np.flatnonzero(scores > threshold)
    equal = np.flatnonzero(scores == threshold)
    equal = equal[np.argsort(ids[equal], kind="stable")][: k - above.size]
    return np.concatenate([above, equal])


def sorted_ids(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return edge ids in increasing order, in O(len(ids)); `ids` itself if already in order.

    Examples
    --------
    >>> sorted_ids(np.array([5, 2, 5])).tolist()
    [2, 5, 5]
    """
    from topokit.graph import kernels

    if ids.size < 2 or np.all(ids[1:] >= ids[:-1]):
        return ids
    low, high = int(ids.min()), int(ids.max())
    return kernels.sort(ids, high.bit_length()) if low >= 0 else np.sort(ids)


def distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the distinct ids in increasing order.

    Examples
    --------
    >>> distinct(np.array([5, 2, 5])).tolist()
    [2, 5]
    """
    ids = sorted_ids(ids)
    return ids[np.concatenate([[True], ids[1:] != ids[:-1]])] if ids.size else ids


def from_coordinates(rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int]) -> LayerGraph:
    """Return the layer graph with edges at (output unit, input unit); an edge may come twice.

    Examples
    --------
    >>> from_coordinates([0, 0, 1], [2, 2, 0], (2, 3))
    LayerGraph(3 -> 2, 2 edges)
    """
    ids = np.array(rows, np.int64)
    ids *= shape[1]
    ids += np.asarray(columns)
    return LayerGraph.from_edge_ids(distinct(ids), shape)


def positions_in(ordered: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position of each id in an increasing array of distinct ids, -1 where absent.

    Parameters
    ----------
    ordered : (n,) array
        Increasing, without duplicates.
    ids : (m,) array
        In any order; in increasing order the search is fastest.

    Returns
    -------
    (m,) int64
        Cost O(m log n).

    Examples
    --------
    >>> positions_in(np.array([2, 5, 9]), np.array([9, 3, 2])).tolist()
    [2, -1, 0]
    """
    if not ordered.size:
        return np.full(ids.shape, -1, np.int64)
    at = np.minimum(np.searchsorted(ordered, ids), ordered.size - 1)
    return np.where(ordered[at] == ids, at, -1)


def union(ordered: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the union of two increasing arrays of distinct ids, increasing and distinct.

    Returns `ordered` itself if nothing is new. O(len(ordered) + len(more) log len(ordered)).

    Examples
    --------
    >>> union(np.array([2, 5]), np.array([1, 5, 7])).tolist()
    [1, 2, 5, 7]
    """
    new = more[positions_in(ordered, more) < 0]
    return np.insert(ordered, np.searchsorted(ordered, new), new) if new.size else ordered


def random_subset(n: int, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `k` distinct integers below `n`, increasing, each subset with equal probability.

    O(k log k) time and O(k) memory: where k is at least n / 2, O(n) = O(k) for a permutation.

    Examples
    --------
    >>> random_subset(10, 3, np.random.default_rng(0)).tolist()
    [5, 6, 8]
    """
    if 2 * k >= n:
        return sorted_ids(rng.permutation(n)[:k].astype(np.int64))
    # Draw with replacement, drop duplicates and draw again for what is missing. Each step treats
    # all integers alike, so every subset of size k is equally likely. With k below n / 2 more
    # than half of the draws are new, so O(log k) rounds are enough; a permutation of all n
    # integers would need O(n) memory, and n is the number of cells of a layer.
    chosen = distinct(rng.integers(0, n, size=k))
    while chosen.size < k:
        chosen = union(chosen, distinct(rng.integers(0, n, size=k - chosen.size)))
    return chosen

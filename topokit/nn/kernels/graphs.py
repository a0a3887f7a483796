"""Graphs and changes of edges whose arrays are on a device until somebody reads them.

`Row` makes them, of edges that stay and edges that are grown.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph

__all__ = [
    "DeviceGraph",
    "DeviceUpdate",
    "Merged",
    "Row",
    "Sizes",
    "by_input_unit",
    "longest_rows",
    "renew",
    "side_by_side",
    "sums_before",
    "tensors_of",
]


def _set(frozen: Any, **values: Any) -> None:
    """Set attributes of an object that refuses it."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


class DeviceGraph(LayerGraph):
    """A graph whose arrays are on a device until somebody reads them.

    Sizes are known without that. `indptr` and `indices` are fetched when they are first read, and
    checked as those of every graph are; equality, hashing and pickling read them.

    Parameters
    ----------
    shape : tuple of int
        ``(n_out, n_in)``.
    ids : (n_edges,) int64 tensor
        Edge ids, increasing. Nobody else may write to this memory, nor to that of the other two.
    units : (n_edges,) int32 tensor
        As `indices`.
    pointers : (n_out + 1,) int64 tensor
        As `indptr`.
    longest : tuple of int
        The largest fan-in and the largest fan-out.
    groups : int
        As of every graph.
    transposed : tuple of int32 tensor, optional
        What `by_input_unit` returns, where it is known.

    Examples
    --------
    >>> ids, units, pointers = torch.tensor([0, 4]), torch.tensor([0, 1]), torch.tensor([0, 1, 2])
    >>> graph = DeviceGraph((2, 3), ids, units.int(), pointers, (1, 1))
    >>> graph.n_edges, graph.indices.tolist(), graph == LayerGraph.from_edge_ids([0, 4], (2, 3))
    (2, [0, 1], True)
    """

    __slots__ = ("ids", "longest", "pointers", "transposed", "units")
    ids: torch.Tensor
    units: torch.Tensor
    pointers: torch.Tensor
    longest: tuple[int, int]
    transposed: tuple[torch.Tensor, ...] | None

    def __init__(
        self,
        shape: Any,
        ids: Any,
        units: Any,
        pointers: Any,
        longest: Any,
        groups: int = 1,
        transposed: Any = None,
    ) -> None:
        own = {"ids": ids, "units": units, "pointers": pointers, "longest": longest}
        _set(self, shape=shape, groups=groups, transposed=transposed, _cache={}, **own)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return self.ids.shape[0]

    @property
    def fetched(self) -> bool:
        """Whether the arrays are here as well."""
        return "fetched" in self._cache

    def _fetch(self) -> LayerGraph:
        if not self.fetched:
            pointers, units = (np.array(t.cpu().numpy()) for t in (self.pointers, self.units))
            self._cache["fetched"] = LayerGraph(self.shape, pointers, units, self.groups)
        return self._cache["fetched"]

    @property
    def indptr(self) -> NDArray[np.int64]:
        """Edges of output unit ``i`` are at positions ``indptr[i]:indptr[i + 1]``."""
        return self._fetch().indptr

    @property
    def indices(self) -> NDArray[np.int32]:
        """The input unit of each edge, (n_edges,)."""
        return self._fetch().indices


class DeviceUpdate(EdgeUpdate):
    """A change of edges whose positions are on a device until somebody reads them.

    Parameters
    ----------
    before : LayerGraph
    after : DeviceGraph
    kept : (after.n_edges,) int64 tensor
        `source`, with 0 for grown edges.
    new : (after.n_edges,) bool tensor
        Mask of the grown edges.
    n_grown : int
    """

    __slots__ = ("_fetched", "_n_grown", "kept", "new")
    after: DeviceGraph
    kept: torch.Tensor
    new: torch.Tensor
    _n_grown: int
    _fetched: NDArray[np.int64] | None

    def __init__(self, before: LayerGraph, after: Any, kept: Any, new: Any, n_grown: int) -> None:
        _set(self, before=before, after=after, kept=kept, new=new, _n_grown=n_grown, _fetched=None)

    def __reduce__(self) -> tuple[Any, ...]:
        return EdgeUpdate, (self.before, self.after, self.source)

    @property
    def source(self) -> NDArray[np.int64]:
        """Position in `before` of each edge of `after`, or -1 if it was grown."""
        source = self._fetched
        if source is None:
            source = torch.where(self.new, -1, self.kept).cpu().numpy()
            source.flags.writeable = False
            _set(self, _fetched=source)
        return source

    @property
    def n_grown(self) -> int:
        """Number of edges that entered."""
        return self._n_grown


def tensors_of(graph: LayerGraph, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row pointers (int64) and input units (int32) of a graph on a device, in new memory.

    Examples
    --------
    >>> [t.tolist() for t in tensors_of(LayerGraph.from_edge_ids([0, 4], (2, 3)), "cpu")]
    [[0, 1, 2], [0, 1]]
    """
    if isinstance(graph, DeviceGraph) and graph.ids.device == torch.device(device):
        return graph.pointers.clone(), graph.units.clone()
    pointers, units = (torch.from_numpy(np.array(a)) for a in (graph.indptr, graph.indices))
    return pointers.to(device), units.to(device)


@torch.no_grad()
def renew(held: torch.Tensor, new: torch.Tensor) -> None:
    """Give a tensor other numbers, of any length, for everybody who holds it.

    Values and graph of a layer are held by traced and exported programs, and by dictionaries for
    ``torch.func.functional_call``: with one of them new and the other old, these would be wrong
    without a word. Numbers of the same length are written in place, as an optimizer does, so that
    views (``p.detach()``) have them too. A backward pass of before is refused in either case.

    Examples
    --------
    >>> held = torch.zeros(2)
    >>> renew(held, torch.ones(3))
    >>> held
    tensor([1., 1., 1.])
    """
    if new.is_inference() and not held.is_inference():
        with torch.inference_mode(False):
            new = new.clone()
    if new.shape == held.shape:
        held.copy_(new)
        return
    if isinstance(held, torch.nn.Parameter):
        # A gradient accumulator kept alive by an old loss remembers the old length; it is renewed
        # only when the dtype changes.
        held.data = new.new_empty(0, dtype=_other(new.dtype))
    held.data = new
    torch.autograd.graph.increment_version(held)


def _other(dtype: torch.dtype) -> torch.dtype:
    """Return a floating-point dtype that differs from the given one."""
    return torch.float64 if dtype == torch.float32 else torch.float32


def by_input_unit(
    graph: LayerGraph, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return column pointers, and the output unit and position of each edge by input unit.

    Integer tensors on a device, in new memory, as the arrays of
    `topokit.nn.kernels.EdgeIndex.transposed`; nothing waits for the device.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 3], (2, 3))
    >>> [t.tolist() for t in by_input_unit(graph, "cpu")]
    [[0, 2, 3, 3], [0, 1, 0], [0, 2, 1]]
    """
    known = graph.transposed if isinstance(graph, DeviceGraph) else None
    if known is not None and known[0].device == torch.device(device):
        columns, rows, positions = (each.clone() for each in known)
        return columns, rows, positions
    pointers, units = tensors_of(graph, device)
    ordered, positions = torch.sort(units, stable=True)
    steps = torch.arange(graph.n_in + 1, dtype=units.dtype, device=units.device)
    columns = torch.searchsorted(ordered, steps)
    rows = torch.searchsorted(pointers, positions, right=True) - 1
    return columns, rows, positions


def longest_rows(graph: LayerGraph) -> tuple[int, int]:
    """Return the largest fan-in and the largest fan-out of a graph, without fetching it.

    Examples
    --------
    >>> longest_rows(LayerGraph.from_edge_ids([0, 1, 4], (2, 3)))
    (2, 2)
    """
    if isinstance(graph, DeviceGraph):
        return graph.longest
    return int(graph.fan_in.max(initial=0)), int(graph.fan_out.max(initial=0))


def side_by_side(graphs: Sequence[LayerGraph]) -> LayerGraph:
    """Return the graph that has some graphs of one shape as its diagonal blocks.

    Parameters
    ----------
    graphs : sequence of LayerGraph
        Each without groups; they may have different numbers of edges.

    Returns
    -------
    LayerGraph
        With as many groups; its edges are those of the graphs, one graph after the other. Where one
        of them is a `DeviceGraph`, so is this, and none is fetched.

    Notes
    -----
    O(edges).

    Examples
    --------
    >>> one, two = (LayerGraph.from_edge_ids(ids, (2, 2)) for ids in ([0, 3], [1]))
    >>> side_by_side([one, two]).edge_ids.tolist()
    [0, 5, 11]
    """
    count, (n_out, n_in) = len(graphs), graphs[0].shape
    offsets = sums_before(graph.n_edges for graph in graphs)
    shape = (count * n_out, count * n_in)
    device = next((each.ids.device for each in graphs if isinstance(each, DeviceGraph)), None)
    arrays = [tensors_of(graph, device or "cpu") for graph in graphs]
    rows = [pointers[1:] + at for (pointers, _), at in zip(arrays, offsets, strict=False)]
    pointers = torch.cat([rows[0].new_zeros(1), *rows])
    units = torch.cat([own + at * n_in for at, (_, own) in enumerate(arrays)])
    if device is None:
        return LayerGraph(shape, pointers.numpy(), units.numpy(), count)
    starts = torch.arange(shape[0], device=device) * shape[1]
    ids = torch.repeat_interleave(starts, pointers.diff(), output_size=offsets[-1]) + units
    longest = [max(each) for each in zip(*map(longest_rows, graphs), strict=True)]
    return DeviceGraph(shape, ids, units, pointers, tuple(longest), count)


def sums_before(sizes: Iterable[int]) -> list[int]:
    """Return the sums of the sizes before each, and of all.

    Examples
    --------
    >>> sums_before([2, 3])
    [0, 2, 5]
    """
    return [0, *itertools.accumulate(sizes)]


# ---------------------------------------------------------------------------------------------
# The edges of all layers in one long row, so that one operation is for all of them: cells (possible
# edges), edges, output and input units of each layer come after those of the layer before. A
# rewiring is a merge in this row, of edges that stay with edges that are grown.


class Sizes(NamedTuple):
    """How large a layer is, and how many of its edges move."""

    n_out: int
    n_in: int
    n_edges: int
    n_drop: int
    n_grow: int

    @property
    def left(self) -> int:
        """Number of edges afterwards."""
        return self.n_edges - self.n_drop + self.n_grow

    @property
    def n_absent(self) -> int:
        """Number of cells without an edge, once edges were dropped."""
        return self.n_out * self.n_in - self.n_edges + self.n_drop


class Merged(NamedTuple):
    """What a rewiring makes of the row. Layer by layer; ids, units and positions are a layer's own.

    Parameters
    ----------
    ids, kept : (edges,) int64 tensor
        Edge ids of the new graphs, and where each was before, 0 for grown ones.
    new : (edges,) bool tensor
        Which were grown.
    units : (edges,) int32 tensor
    pointers : int64 tensor
        As `indptr` of each graph.
    columns, rows, positions : int32 tensor
        As `topokit.nn.kernels.graphs.by_input_unit` of each graph.
    facts : int64 tensor
        What has to be known of it; at the end whether all ids increase, the largest fan-in of each
        layer, and the largest fan-out of each (`Row.n_facts` numbers).
    """

    ids: torch.Tensor
    kept: torch.Tensor
    new: torch.Tensor
    units: torch.Tensor
    pointers: torch.Tensor
    columns: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    facts: torch.Tensor


class Row:
    """What follows from the sizes of the layers alone.

    Parameters
    ----------
    sizes : sequence of Sizes
        Fewer than 2**31 input units in all.
    device : torch.device

    Attributes
    ----------
    edges : list of int
        Edges before each layer, and all.
    n_facts : int
        Numbers at the end of `Merged.facts` that `updates` asks for.
    layer, rank : (edges,) int64 tensor
        The layer of each edge, and its number in that.
    starts, n_drop : int64 tensor
        Edges before each layer and all; how many each loses.

    Notes
    -----
    Some 64 bytes for each edge on the device, kept as long as the row is.
    """

    def __init__(self, sizes: Sequence[Sizes], device: torch.device) -> None:
        self.sizes = tuple(sizes)
        self.edges = sums_before(each.n_edges for each in sizes)
        self.lefts = sums_before(each.left for each in sizes)
        self._cells = sums_before(each.n_out * each.n_in for each in sizes)
        self._inputs = sums_before(each.n_in for each in sizes)
        outputs = sums_before(each.n_out + 1 for each in sizes)
        inputs = sums_before(each.n_in + 1 for each in sizes)
        table = torch.tensor([
            [each.n_edges for each in sizes],
            [each.left for each in sizes],
            [each.n_out + 1 for each in sizes],
            [each.n_in + 1 for each in sizes],
            [each.n_in for each in sizes],
            [each.n_drop for each in sizes],
            self._cells[:-1], self._inputs[:-1], self.edges[:-1], self.lefts[:-1],
            outputs[:-1], inputs[:-1],
        ], dtype=torch.int64).reshape(12, len(sizes)).to(device)  # fmt: skip
        n_edges, left, n_rows, n_columns, n_in, self.n_drop = table[:6]
        cells, units, edges, lefts, first_row, first_column = table[6:]
        self.starts = torch.cat([edges, edges.new_full((1,), self.edges[-1])])
        numbers = torch.arange(len(sizes), device=device)

        def of_each(counts: torch.Tensor, total: int) -> torch.Tensor:
            return torch.repeat_interleave(numbers, counts, output_size=total)

        self.layer = of_each(n_edges, self.edges[-1])
        self.rank = torch.arange(self.edges[-1], device=device) - edges[self.layer]
        self._before = cells[self.layer]
        after = of_each(left, self.lefts[-1])
        self._after, self._n_in, self._unit = cells[after], n_in[after], units[after]
        self._place, self._source = lefts[after], edges[after]
        row = of_each(n_rows, outputs[-1])
        at = torch.arange(outputs[-1], device=device) - first_row[row]
        self._row_starts, self._row_places = at * n_in[row] + cells[row], lefts[row]
        column = of_each(n_columns, inputs[-1])
        at = torch.arange(inputs[-1], device=device) - first_column[column]
        self._columns, self._column_places = (at + units[column]).int(), lefts[column]
        self.n_facts = 1 + 2 * len(sizes)
        self._slices = [
            [slice(a, b) for a, b in itertools.pairwise(bounds)]
            for bounds in (self.lefts, outputs, inputs)
        ]

    def joined(self, ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the edge ids of all layers, each layer's own, as ids of the row."""
        return torch.cat(list(ids)) + self._before

    def cells_of(self, ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return some ids of each layer as ids of the row."""
        return torch.cat([own + at for own, at in zip(ids, self._cells, strict=False)])

    def all_but(self, positions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return which edges stay where those at some positions of each layer leave."""
        leaving = torch.cat([own + at for own, at in zip(positions, self.edges, strict=False)])
        keep = torch.ones(self.edges[-1], dtype=torch.bool, device=self.layer.device)
        return keep.index_fill_(0, leaving, False)

    def ascending(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the positions of all edges by layer, then by score, then by position."""
        order = torch.sort(scores, stable=True).indices
        if len(self.sizes) == 1:
            return order
        kind = torch.uint8 if len(self.sizes) <= 256 else torch.int32
        return order[torch.sort(self.layer.to(kind)[order], stable=True).indices]

    def counted(self, flags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how many edges up to each, of its own layer, have a flag, and how many in all."""
        sums = before(flags)
        at_start = sums[self.starts]
        return sums[1:] - at_start[self.layer], at_start.diff()

    def lowest(self, order: torch.Tensor) -> torch.Tensor:
        """Return which edges stay where the first of each layer leave, as many as it is to lose."""
        return self.stay(order, self.rank < self.n_drop[self.layer])

    def stay(self, order: torch.Tensor, leave: torch.Tensor) -> torch.Tensor:
        """Return which edges stay, given which leave in an order of them."""
        return torch.empty_like(leave).scatter_(0, order, ~leave)

    def absent(
        self, ids: torch.Tensor, keep: torch.Tensor, ranks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return the ids of absent cells, given their ranks among those of each layer.

        Parameters
        ----------
        ids : (edges,) int64 tensor
            Of the row.
        keep : (edges,) bool tensor
            Which of them stay.
        ranks : list of int64 tensor
            Increasing.
        """
        offsets = sums_before(each.n_absent for each in self.sizes)
        rank = torch.cat([own + at for own, at in zip(ranks, offsets, strict=False)])
        # The r-th absent cell has the id r + (kept edges with smaller ids). `gaps` are the absent
        # cells before each edge; a dropped edge, itself an absent cell, is counted from the next
        # one on.
        kept = before(keep)
        gaps = ids - kept[:-1]
        return rank + kept[torch.searchsorted(gaps, rank, right=True)]

    def merged(self, ids: torch.Tensor, keep: torch.Tensor, grown: torch.Tensor) -> Merged:
        """Merge the edges that stay with grown ones, whose ids increase.

        Where more edges stay than there is room for, as with scores that are no numbers, or grown
        ones are repeated, the result means nothing; nothing is written elsewhere.
        """
        kept, end, edges = before(keep), self.lefts[-1], ids.shape[0]
        numbers = torch.arange(max(edges, len(grown)), device=ids.device)
        # To a place that is cut off: edges that are dropped, and those without room.
        place = kept[:-1] + torch.searchsorted(grown, ids)
        place = torch.where(keep, place, end).clamp_(max=end)
        fresh = kept[torch.searchsorted(ids, grown)] + numbers[: len(grown)]
        after = ids.new_zeros(end + 1).scatter_(0, place, ids)
        after = after.scatter_(0, fresh.clamp_(max=end), grown)[:end]
        source = ids.new_full((end + 1,), -1).scatter_(0, place, numbers[:edges])[:end]
        new = source < 0
        own = after - self._after
        rows = torch.div(own, self._n_in, rounding_mode="floor")
        units = own - rows * self._n_in
        pointers = torch.searchsorted(after, self._row_starts) - self._row_places
        # Sorted by layer and input unit: the edges of a layer stay where its edges are.
        ordered, order = torch.sort((units + self._unit).int(), stable=True)
        columns = torch.searchsorted(ordered, self._columns) - self._column_places
        facts = [(after[1:] > after[:-1]).all().long()]
        for ends, slices in zip((pointers, columns), self._slices[1:], strict=True):
            lengths = ends.diff()
            facts += [lengths[each.start : each.stop - 1].max() for each in slices]
        return Merged(
            own, (source - self._source).clamp_(min=0), new, units.int(), pointers,
            columns.int(), rows[order].int(), (order - self._place).int(), torch.stack(facts),
        )  # fmt: skip

    def updates(
        self, merged: Merged, facts: Sequence[int], graphs: Sequence[LayerGraph]
    ) -> list[DeviceUpdate]:
        """Return the change of each graph, given the last `n_facts` numbers of the facts.

        Raises
        ------
        RuntimeError
            If a graph would have an edge twice.
        """
        increasing, *longest = facts
        if not increasing:
            raise RuntimeError("expected a graph without an edge twice after a rewiring, got one")
        count, result = len(graphs), []
        for i, (graph, size) in enumerate(zip(graphs, self.sizes, strict=True)):
            edges, outputs, inputs = (slices[i] for slices in self._slices)
            after = DeviceGraph(
                graph.shape,
                merged.ids[edges],
                merged.units[edges],
                merged.pointers[outputs],
                (longest[i], longest[count + i]),
                transposed=(
                    merged.columns[inputs],
                    merged.rows[edges],
                    merged.positions[edges],
                ),
            )
            moves = merged.kept[edges], merged.new[edges]
            result.append(DeviceUpdate(graph, after, *moves, size.n_grow))
        return result


def before(flags: torch.Tensor) -> torch.Tensor:
    """Return the number of flags before each place, and of all.

    Examples
    --------
    >>> before(torch.tensor([True, False, True]))
    tensor([0, 1, 1, 2])
    """
    return torch.cat([flags.new_zeros(1, dtype=torch.int64), flags.cumsum(0)])

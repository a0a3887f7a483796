"""Graphs and changes of edges whose arrays are on a device until somebody reads them.

`Row` makes them, of edges that leave and edges that are grown.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph

__all__ = [
    "DeviceGraph",
    "DeviceUpdate",
    "Row",
    "longest_rows",
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

    Examples
    --------
    >>> ids, units, pointers = torch.tensor([0, 4]), torch.tensor([0, 1]), torch.tensor([0, 1, 2])
    >>> graph = DeviceGraph((2, 3), ids, units.int(), pointers, (1, 1))
    >>> graph.n_edges, graph.indices.tolist(), graph == LayerGraph.from_edge_ids([0, 4], (2, 3))
    (2, [0, 1], True)
    """

    __slots__ = ("ids", "longest", "pointers", "units")
    ids: torch.Tensor
    units: torch.Tensor
    pointers: torch.Tensor
    longest: tuple[int, int]

    def __init__(
        self, shape: Any, ids: Any, units: Any, pointers: Any, longest: Any, groups: int = 1
    ) -> None:
        own = {"ids": ids, "units": units, "pointers": pointers, "longest": longest}
        _set(self, shape=shape, groups=groups, _cache={}, **own)

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


class Moving(Protocol):
    """A layer whose edges move: its graph, their ids, and how many leave and are grown."""

    @property
    def graph(self) -> LayerGraph: ...
    @property
    def ids(self) -> torch.Tensor: ...
    @property
    def n_drop(self) -> int: ...
    @property
    def n_grow(self) -> int: ...


class Row:
    """The cells of all layers in one long row, each layer's after those of the one before.

    Parameters
    ----------
    parts : sequence of Moving
    positions : sequence of int64 tensor
        Of the edges of each layer that leave.
    """

    def __init__(self, parts: Sequence[Moving], positions: Sequence[torch.Tensor]) -> None:
        self.parts = parts
        self.cells = sums_before(part.graph.n_possible for part in parts)
        self.edges = sums_before(part.graph.n_edges for part in parts)
        self.ids = self.joined([part.ids for part in parts])
        leaving = torch.cat([own + at for own, at in zip(positions, self.edges, strict=False)])
        self.keep = torch.ones(self.edges[-1], dtype=torch.bool, device=self.ids.device)
        self.keep.index_fill_(0, leaving, False)
        self.kept = torch.cat([self.ids.new_zeros(1), self.keep.cumsum(0)])

    def joined(self, ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return ids of each layer as ids of the row."""
        return torch.cat([own + at for own, at in zip(ids, self.cells, strict=False)])

    def absent(self, ranks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the ids of absent cells, given their ranks among those of each layer."""
        before = sums_before(part.graph.n_absent + part.n_drop for part in self.parts)
        rank = torch.cat([own + at for own, at in zip(ranks, before, strict=False)])
        # The r-th absent cell has the id r + (kept edges with smaller ids). `gaps` are the absent
        # cells before each edge; a dropped edge, itself an absent cell, is counted from the next
        # one on.
        gaps = self.ids - self.kept[:-1]
        return rank + self.kept[torch.searchsorted(gaps, rank, right=True)]

    def merged(
        self, grown: torch.Tensor, asked: Sequence[torch.Tensor]
    ) -> tuple[list[int], Callable[[], list[DeviceUpdate]]]:
        """Merge the edges that stay with grown ones; wait for the device.

        Return the numbers that were asked for, and a function that returns the changes.
        """
        parts, kept, ids = self.parts, self.kept, self.ids
        lefts = sums_before(p.graph.n_edges - p.n_drop + p.n_grow for p in parts)
        end = lefts[-1]  # a place that is cut off, for edges that are dropped
        place = torch.where(self.keep, kept[:-1] + torch.searchsorted(grown, ids), end)
        fresh = kept[torch.searchsorted(ids, grown)] + torch.arange(len(grown), device=ids.device)
        after = ids.new_zeros(end + 1).scatter_(0, place, ids).scatter_(0, fresh, grown)[:end]
        source = ids.new_full((end + 1,), -1)
        source = source.scatter_(0, place, torch.arange(len(ids), device=ids.device))[:end]
        new = source < 0
        ones = torch.ones_like(after)
        facts, made = [*asked, (after[1:] > after[:-1]).all()], []
        for i, part in enumerate(parts):
            n_out, n_in = part.graph.shape
            own = slice(lefts[i], lefts[i + 1])
            of_layer = after[own] - self.cells[i]
            starts = torch.arange(0, (n_out + 1) * n_in, n_in, device=ids.device)
            pointers = torch.searchsorted(of_layer, starts)
            units = (of_layer % n_in).int()
            fan_out = ids.new_zeros(n_in).index_add_(0, units, ones[: len(units)])
            facts += [pointers.diff().max(), fan_out.max()]
            moves = (source[own] - self.edges[i]).clamp_(min=0), new[own]
            made.append((of_layer, units, pointers, moves))
        told = torch.stack([fact.long() for fact in facts]).tolist()
        increasing, *longest = told[len(asked) :]

        def finish() -> list[DeviceUpdate]:
            if not increasing:
                raise RuntimeError(
                    "expected a graph without an edge twice after a rewiring, got one"
                )
            updates = []
            for i, (part, (own, units, pointers, moves)) in enumerate(
                zip(parts, made, strict=True)
            ):
                most = longest[2 * i], longest[2 * i + 1]
                graph = DeviceGraph(part.graph.shape, own, units, pointers, most)
                updates.append(DeviceUpdate(part.graph, graph, *moves, part.n_grow))
            return updates

        return told[: len(asked)], finish

"""Graphs and changes of edges whose arrays are on a device until somebody reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph

__all__ = ["DeviceGraph", "DeviceUpdate", "longest_rows", "tensors_of"]


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
        ``(n_out, n_in)``, without groups.
    ids : (n_edges,) int64 tensor
        Edge ids, increasing. Nobody else may write to this memory, nor to that of the other two.
    units : (n_edges,) int32 tensor
        As `indices`.
    pointers : (n_out + 1,) int64 tensor
        As `indptr`.
    longest : tuple of int
        The largest fan-in and the largest fan-out.

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

    def __init__(self, shape: Any, ids: Any, units: Any, pointers: Any, longest: Any) -> None:
        own = {"ids": ids, "units": units, "pointers": pointers, "longest": longest}
        _set(self, shape=shape, groups=1, _cache={}, **own)

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
            self._cache["fetched"] = LayerGraph(self.shape, pointers, units)
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

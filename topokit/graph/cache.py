"""Work shared between measures of the same graph: computed once, forgotten with the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from topokit.graph.layergraph import LayerGraph

__all__ = ["fan_out_of", "remember"]

T = TypeVar("T")
_KNOWN: WeakKeyDictionary[LayerGraph, dict[Any, Any]] = WeakKeyDictionary()


def remember(graph: LayerGraph, key: Any, build: Callable[[], T]) -> T:
    """Return what `build` gives, calling it once for each graph and key.

    Graphs are immutable, so what is known of one stays true; an entry dies with its graph.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0], (1, 1))
    >>> remember(graph, "answer", lambda: 42), remember(graph, "answer", lambda: 43)
    (42, 42)
    """
    known = _KNOWN.setdefault(graph, {})
    if key not in known:
        known[key] = build()
    return known[key]


def fan_out_of(graph: LayerGraph) -> NDArray[np.int64]:
    """Return the graph's fan-out, counted once.

    Examples
    --------
    >>> fan_out_of(LayerGraph.from_edge_ids([0, 1], (1, 2))).tolist()
    [1, 1]
    """
    return remember(graph, "fan_out", lambda: graph.fan_out)

"""Results about a graph that several measures share: computed once, kept as long as the graph.

Results are stored with one graph object. They are not shared with equal graphs, and copies and
files do not contain them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

from topokit.graph.layergraph import LayerGraph

__all__ = ["read_only", "remember"]

T = TypeVar("T")


def remember(graph: LayerGraph, key: Any, build: Callable[[], T]) -> T:
    """Return the result of `build`, which is called once for each graph object and key.

    A graph is immutable, so the result stays valid. All its arrays become read-only, since every
    caller gets the same ones.

    Parameters
    ----------
    graph : LayerGraph
    key : hashable
    build : callable
        Called without arguments.

    Returns
    -------
    object
        The same object at every call.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0], (1, 1))
    >>> remember(graph, "answer", lambda: 42), remember(graph, "answer", lambda: 43)
    (42, 42)
    """
    known = graph._cache
    if key not in known:
        known[key] = read_only(build())
    return known[key]


def read_only(value: T) -> T:
    """Make the arrays in a value read-only, in place, and return the value.

    Tuples, lists, mappings, dataclasses and scipy's sparse arrays are searched for arrays.

    Examples
    --------
    >>> pair = read_only((np.zeros(2), {"a": np.ones(1)}))
    >>> pair[0].flags.writeable, pair[1]["a"].flags.writeable
    (False, False)
    """
    parts: Any = ()
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif sp.issparse(value):
        parts = [getattr(value, name, None) for name in ("data", "indices", "indptr", "row", "col")]
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type | LayerGraph):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for part in parts:
        read_only(part)
    return value

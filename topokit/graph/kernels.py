"""Compiled passes over edge ids and CSR arrays: each reads its arrays once, in order.

Imported on first use, by `topokit.graph` alone, since it loads numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["exchange", "past_edges", "sort"]

_DIGIT = 11  # bits of one sorting pass: its table of counts stays in the nearest cache


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, kept on disk where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor a cache folder can be written to
        return njit(nogil=True)(function)


@_compiled
def sort(ids: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Sorted copy of non-negative integers below ``2**bits``: by digits, in O(len(ids) * bits)."""
    source, target = ids.copy(), np.empty_like(ids)
    for shift in range(0, bits, _DIGIT):
        starts = np.zeros((1 << _DIGIT) + 1, np.int64)
        for value in source:
            starts[((value >> shift) & ((1 << _DIGIT) - 1)) + 1] += 1
        for digit in range(1 << _DIGIT):
            starts[digit + 1] += starts[digit]
        for value in source:
            digit = (value >> shift) & ((1 << _DIGIT) - 1)
            target[starts[digit]] = value
            starts[digit] += 1
        source, target = target, source
    return source


@_compiled
def past_edges(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], n_in: int, ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Turn increasing ranks among the absent cells of a graph into edge ids."""
    ids = np.empty(ranks.size, np.int64)
    row, edge, n_edges = 0, 0, indices.size
    for i in range(ranks.size):
        while edge < n_edges:
            while edge >= indptr[row + 1]:
                row += 1
            if row * n_in + indices[edge] - edge > ranks[i]:
                break
            edge += 1
        ids[i] = ranks[i] + edge
    return ids


@_compiled
def exchange(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    n_in: int,
    keep: NDArray[np.bool_],
    grown: NDArray[np.int64],
    after_indptr: NDArray[np.int64],
    after_indices: NDArray[np.int32],
    source: NDArray[np.int64],
) -> int:
    """Merge kept edges and increasing grown ids, within the layer, into a graph's arrays.

    Writes the new arrays and where each edge came from, -1 for a grown one. Returns how many
    were written; fewer than there is room for if a grown edge is there already or comes twice.
    """
    at, new = 0, 0
    after_indptr[0] = 0
    for row in range(indptr.size - 1):
        edge, stop = indptr[row], indptr[row + 1]
        base, end = row * n_in, (row + 1) * n_in
        while True:
            while edge < stop and not keep[edge]:
                edge += 1
            old = base + indices[edge] if edge < stop else end
            fresh = grown[new] if new < grown.size and grown[new] < end else end
            if old == end and fresh == end:
                break
            if fresh < old:
                after_indices[at], source[at] = fresh - base, -1
                new += 1
                if new < grown.size and grown[new] == fresh:
                    return at
            elif fresh == old:
                return at
            else:
                after_indices[at], source[at] = old - base, edge
                edge += 1
            at += 1
        after_indptr[row + 1] = at
    return at

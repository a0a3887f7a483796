"""Compiled loops over edge ids and CSR arrays, and the decorator for all compiled code.

Every compiled function of topokit that is not a layer's product is decorated by `compiled`, and
gets its random numbers from a state that `compiled_seed` draws. A module that does so loads
numba, so it is imported inside the functions that call it, never at the top of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["by_length", "compiled", "compiled_seed", "exchange", "past_edges", "sort"]

# Bits sorted at a time. The table of counts, 8 * 2**11 bytes, then fits the first-level cache;
# with more bits it would not, with fewer the ids would be moved more often.
_DIGIT = 11


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Decorate a function to be compiled by numba on its first call, without the interpreter lock.

    The machine code is kept on disk for the next process. Where neither the package's folder, nor
    a user's cache folder, nor ``NUMBA_CACHE_DIR`` can be written to, each process compiles again.

    Parameters
    ----------
    function : callable
        Omitted where options are given: ``@compiled(fastmath=True)``.
    **options
        Further options of ``numba.njit``.
    """
    if function is None:
        return lambda later: compiled(later, **options)
    options = {"nogil": True, **options}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder that it can write to
        return njit(**options)(function)


def compiled_seed(rng: np.random.Generator) -> NDArray[np.uint64]:
    """Draw the state of a random stream for compiled code, an array of one 64-bit integer."""
    return rng.integers(0, 2**64, 1, dtype=np.uint64)


# Radix sort, least significant digit first. Each round counts how often each digit of 11 bits
# occurs, turns the counts into the first place of each digit, and moves all ids there in order.
# A round keeps the order of equal digits, so after the last one the ids are sorted. The cost is
# bits / 11 rounds through the ids: five for the 2**55 cells of the largest layers, two for those
# of usual ones. A sort by comparison needs log2(n) of them, 20 for a million edges.
@compiled
def sort(ids: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return non-negative integers below ``2**bits`` in increasing order: O(len(ids) * bits)."""
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


# A loop over the entries of a short row ends where the processor does not expect it, unless the row
# before was as long: that costs as much as several entries. In order of length few rows do, and a
# product of a random layer's matrix and a vector takes three quarters of the time.
@compiled
def by_length(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]]:
    """Return rows in order of their length, short ones first: O(rows + entries).

    The number of each row, the CSR arrays in that order, and the old position of each row's first
    entry.
    """
    rows = indptr.size - 1
    longest = 0
    for row in range(rows):
        longest = max(longest, indptr[row + 1] - indptr[row])
    place = np.zeros(longest + 2, np.int64)
    for row in range(rows):
        place[indptr[row + 1] - indptr[row] + 1] += 1
    for length in range(longest + 1):
        place[length + 1] += place[length]
    order = np.empty(rows, np.int64)
    for row in range(rows):
        length = indptr[row + 1] - indptr[row]
        order[place[length]] = row
        place[length] += 1
    after_indptr, after, starts = np.zeros(rows + 1, np.int64), np.empty_like(indices), order.copy()
    at = 0
    for i in range(rows):
        starts[i] = indptr[order[i]]
        for e in range(indptr[order[i]], indptr[order[i] + 1]):
            after[at] = indices[e]
            at += 1
        after_indptr[i + 1] = at
    return order, after_indptr, after, starts


@compiled
def past_edges(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], n_in: int, ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the edge ids of absent cells, given their increasing ranks among the absent cells.

    The r-th absent cell has the id r + (number of edges with smaller ids); both increase, so one
    run through ranks and edges finds all: O(len(ranks) + n_edges + n_out).
    """
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


@compiled
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

    Write the new CSR arrays and, for each edge of the new graph, its old position, or -1 if it is
    grown. Return the number of edges written: less than the length of the arrays if a grown edge
    is present already or given twice. O(n_edges + n_out).
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

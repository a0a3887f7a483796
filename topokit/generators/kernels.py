"""Compiled loops of the generators; imported only when one of them is called.

Every loop takes its random numbers from a splitmix64 stream, whose state `compiled_seed` draws
from the caller's generator. So the same seed gives the same graph on every platform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = ["attach", "below", "curveball", "grow_edges", "repair", "switch"]


@compiled
def below(state: NDArray[np.uint64], n: int) -> Any:
    """Return the next random integer in 0..n-1 (bias below n / 2**64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(z % np.uint64(n))


@compiled
def _has(
    indices: NDArray[np.int32], start: int, stop: int, column: int, count: Any, base: int
) -> bool:
    """Return whether a row has a column: by the table of cells if there is one, else by a scan."""
    if count.size:
        return count[base + column] > 0
    for k in range(start, stop):  # noqa: SIM110
        if indices[k] == column:
            return True
    return False


@compiled
def _exchange(
    e: int, f: int, r: int, s: int, indices: NDArray[np.int32], count: Any, n_columns: int
) -> None:
    """Swap the columns of edges e (row r) and f (row s), in the table of cells too."""
    if count.size:
        count[r * n_columns + indices[e]] -= 1
        count[s * n_columns + indices[f]] -= 1
        count[r * n_columns + indices[f]] += 1
        count[s * n_columns + indices[e]] += 1
    indices[e], indices[f] = indices[f], indices[e]


@compiled
def _free(
    e: int,
    f: int,
    r: int,
    s: int,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    count: Any,
    n_columns: int,
) -> bool:
    """Return whether the columns of edges e and f can be swapped without a double edge."""
    if r == s or indices[f] == indices[e]:
        return False
    if _has(indices, indptr[r], indptr[r + 1], indices[f], count, r * n_columns):
        return False
    return not _has(indices, indptr[s], indptr[s + 1], indices[e], count, s * n_columns)


@compiled
def repair(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    rows: NDArray[np.int64],
    count: Any,
    n_columns: int,
    state: NDArray[np.uint64],
    tries: int,
) -> tuple[int, int]:
    """Swap double edges with random edges; return how many stay double, and how many were swapped.

    Each double edge has `tries` attempts. Only swaps that make no new double edge are done.
    """
    left = swapped = 0
    if count.size:
        for e in range(indices.size):
            count[rows[e] * n_columns + indices[e]] += 1
    for e in range(indices.size):
        r = rows[e]
        if count.size:
            double = count[r * n_columns + indices[e]] > 1
        else:
            double = _has(indices, indptr[r], e, indices[e], count, 0)
        if not double:
            continue
        left += 1
        for _ in range(tries):
            f = below(state, indices.size)
            if _free(e, f, r, rows[f], indptr, indices, count, n_columns):
                _exchange(e, f, r, rows[f], indices, count, n_columns)
                left -= 1
                swapped += 1
                break
    return left, swapped


@compiled
def switch(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    rows: NDArray[np.int64],
    count: Any,
    n_columns: int,
    state: NDArray[np.uint64],
    attempts: int,
) -> int:
    """Attempt random swaps of the ends of two edges; return the number of accepted ones."""
    accepted = 0
    if count.size:
        for e in range(indices.size):
            count[rows[e] * n_columns + indices[e]] += 1
    for _ in range(attempts):
        e = below(state, indices.size)
        f = below(state, indices.size)
        if _free(e, f, rows[e], rows[f], indptr, indices, count, n_columns):
            _exchange(e, f, rows[e], rows[f], indices, count, n_columns)
            accepted += 1
    return accepted


@compiled
def curveball(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    n_columns: int,
    state: NDArray[np.uint64],
    sweeps: int,
) -> None:
    """Randomise a graph by global curveball: in each sweep rows are paired, and each pair trades.

    A trade marks the columns of the first row and moves those that both rows have to the front of
    both; what is left, the columns of one row only, is pooled, shuffled and dealt out, each row
    getting as many as it had. Columns need not be sorted, so a trade takes time in proportion to
    the two rows' edges, and a sweep O(n_edges + n_rows). Columns end in any order.
    """
    n_rows = indptr.size - 1
    order = np.arange(n_rows)
    mark = np.zeros(n_columns, np.int8)
    pool = np.empty(2 * n_columns, np.int32)
    for _ in range(sweeps):
        for i in range(n_rows - 1, 0, -1):
            j = below(state, i + 1)
            order[i], order[j] = order[j], order[i]
        for pair in range(n_rows // 2):
            r, s = order[2 * pair], order[2 * pair + 1]
            for k in range(indptr[r], indptr[r + 1]):
                mark[indices[k]] = 1
            shared_s = indptr[s]
            size = 0
            for k in range(indptr[s], indptr[s + 1]):
                column = indices[k]
                if mark[column] == 1:
                    mark[column] = 2
                    indices[k] = indices[shared_s]
                    indices[shared_s] = column
                    shared_s += 1
                else:
                    pool[size] = column
                    size += 1
            shared_r = indptr[r]
            for k in range(indptr[r], indptr[r + 1]):
                column = indices[k]
                if mark[column] == 2:
                    indices[k] = indices[shared_r]
                    indices[shared_r] = column
                    shared_r += 1
                else:
                    pool[size] = column
                    size += 1
                mark[column] = 0
            for i in range(size - 1, 0, -1):
                j = below(state, i + 1)
                pool[i], pool[j] = pool[j], pool[i]
            at = 0
            for k in range(shared_r, indptr[r + 1]):
                indices[k] = pool[at]
                at += 1
            for k in range(shared_s, indptr[s + 1]):
                indices[k] = pool[at]
                at += 1


@compiled
def attach(
    order: NDArray[np.int64],
    side: NDArray[np.int8],
    stubs: NDArray[np.int64],
    ends: NDArray[np.int64],
    extra: float,
    bipartite: bool,
    state: NDArray[np.uint64],
) -> int:
    """Grow a graph by preferential attachment: each new unit joins `stubs` of the earlier units.

    A partner is chosen with probability proportional to degree + `extra`, on the other side if
    `bipartite`. Fill `ends` (pairs of units) and return the number of edges.

    No cumulated degrees are kept: the end of a random edge is a unit drawn in proportion to its
    degree, and a uniform unit is drawn instead with the probability that `extra` requires. That is
    O(1) a draw. Draws of a unit that has been joined already are repeated, at most 200 times.
    """
    there = np.empty((2, order.size), np.int64)
    n_there = np.zeros(2, np.int64)
    n_edges = 0
    for v in order:
        other = 1 - side[v] if bipartite else 0
        wanted = min(stubs[v], n_there[other])
        first = n_edges
        for _ in range(wanted):
            for attempt in range(200):
                uniform = extra * n_there[other]
                total = uniform + (first if bipartite else 2 * first)
                if first == 0 or attempt > 100 or below(state, 1 << 53) / 2.0**53 < uniform / total:
                    u = there[other, below(state, n_there[other])]
                else:
                    e = below(state, first)
                    u = ends[e, below(state, 2)]
                    if bipartite and side[u] != other:
                        u = ends[e, 0] if u == ends[e, 1] else ends[e, 1]
                fresh = True
                for k in range(first, n_edges):
                    if ends[k, 1] == u:
                        fresh = False
                        break
                if fresh:
                    ends[n_edges, 0] = v
                    ends[n_edges, 1] = u
                    n_edges += 1
                    break
        mine = side[v] if bipartite else 0
        there[mine, n_there[mine]] = v
        n_there[mine] += 1
    return n_edges


@compiled
def grow_edges(
    starts: NDArray[np.int64],
    order: NDArray[np.int64],
    n_right: int,
    depth: int,
    state: NDArray[np.uint64],
    ends: NDArray[np.int64],
) -> Any:
    """Place the edges of left units one by one, each to a right unit far away, of low degree.

    Left unit i has the edges ``starts[i]:starts[i + 1]``; their right units are written to `ends`.
    The distances from the current left unit to all right units are known up to `depth`; of the
    farthest right units one of the smallest degree is taken, ties at random.

    An edge to the unit at distance k closes a cycle of length 2 k, so taking the farthest keeps
    short cycles away as long as that is possible. A new search for each edge would cost O(edges
    within depth). But an edge can only shorten distances, so the search continues from its right
    unit alone and stops where no distance becomes shorter. Right units are kept sorted by
    degree in buckets, where raising a degree by one is a single exchange; the first of the wanted
    distance is found by scanning the buckets upwards.
    """
    n_left = starts.size - 1
    size = np.zeros(n_left, np.int64)
    # Edges at each right unit as linked lists; right units in order of degree, in buckets.
    head, link = np.full(n_right, -1, np.int64), np.empty(ends.size, np.int64)
    owner, degree = np.empty(ends.size, np.int64), np.zeros(n_right, np.int64)
    ranked, place = np.arange(n_right), np.empty(n_right, np.int64)
    for i in range(n_right - 1, 0, -1):
        j = below(state, i + 1)
        ranked[i], ranked[j] = ranked[j], ranked[i]
    for i in range(n_right):
        place[ranked[i]] = i
    bucket = np.full(n_left + 2, n_right, np.int64)
    bucket[0] = 0
    # Steps from the current left unit; depth + 1 means not reached.
    far = depth + 1
    to_left, to_right = np.full(n_left, far, np.int64), np.full(n_right, far, np.int64)
    queue, touched = np.empty(n_right, np.int64), np.empty(n_left, np.int64)
    reached = np.empty(n_right, np.int64)
    count = np.zeros(depth + 2, np.int64)
    for i in order:
        count[:] = 0
        count[far] = n_right
        n_touched = n_reached = 0
        to_left[i] = 0
        for e in range(starts[i], starts[i + 1]):
            level = far
            while count[level] == 0:
                level -= 1
            chosen = -1
            for d in range(n_left + 1):
                low, high = bucket[d], bucket[d + 1]
                if high > low:
                    first = below(state, high - low)
                    for k in range(high - low):
                        v = ranked[low + (first + k) % (high - low)]
                        if to_right[v] == level:
                            chosen = v
                            break
                if chosen >= 0:
                    break
            ends[e], owner[e], link[e], head[chosen] = chosen, i, head[chosen], e
            size[i] += 1
            d = degree[chosen]
            at, other_at = place[chosen], bucket[d + 1] - 1
            other = ranked[other_at]
            ranked[at], ranked[other_at] = other, chosen
            place[other], place[chosen] = at, other_at
            bucket[d + 1] -= 1
            degree[chosen] = d + 1
            if level == far:
                reached[n_reached] = chosen
                n_reached += 1
            count[level] -= 1
            count[1] += 1
            to_right[chosen] = 1
            queue[0] = chosen
            done, waiting = 0, 1
            while done < waiting and to_right[queue[done]] < depth:
                step = to_right[queue[done]]
                f = head[queue[done]]
                done += 1
                while f >= 0:
                    u = owner[f]
                    f = link[f]
                    if to_left[u] <= step:
                        continue
                    if to_left[u] == far:
                        touched[n_touched] = u
                        n_touched += 1
                    to_left[u] = step
                    for g in range(starts[u], starts[u] + size[u]):
                        v = ends[g]
                        if to_right[v] > step + 1:
                            if to_right[v] == far:
                                reached[n_reached] = v
                                n_reached += 1
                            count[to_right[v]] -= 1
                            count[step + 1] += 1
                            to_right[v] = step + 1
                            queue[waiting] = v
                            waiting += 1
        to_left[i] = far
        for k in range(n_touched):
            to_left[touched[k]] = far
        for k in range(n_reached):
            to_right[reached[k]] = far
    return ends

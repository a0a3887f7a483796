"""Compiled loops of the generators; imported only when one of them is called.

Every loop takes its random numbers from a splitmix64 stream, whose state `compiled_seed` draws
from the caller's generator. So the same seed gives the same graph on every platform.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
def _shuffle(values: NDArray[Any], n: int, state: NDArray[np.uint64]) -> None:
    """Put the first n values in random order."""
    for i in range(n - 1, 0, -1):
        j = below(state, i + 1)
        values[i], values[j] = values[j], values[i]


@compiled
def _tally(rows: NDArray[np.int64], indices: NDArray[np.int32], count: Any, n_columns: int) -> None:
    """Count the edges of each cell in the table of cells, if there is one."""
    if count.size:
        for e in range(indices.size):
            count[rows[e] * n_columns + indices[e]] += 1


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
    _tally(rows, indices, count, n_columns)
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
    _tally(rows, indices, count, n_columns)
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
        _shuffle(order, n_rows, state)
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
            _shuffle(pool, size, state)
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


class _Placed(NamedTuple):
    """Edges placed so far: of a left unit one after the other, of a right unit as a linked list."""

    starts: NDArray[np.int64]  # first edge of each left unit, and one number more
    size: NDArray[np.int64]  # edges that each left unit has so far
    owner: NDArray[np.int64]  # left unit of each edge
    ends: NDArray[np.int64]  # right unit of each edge
    head: NDArray[np.int64]  # last edge of each right unit, -1 for none
    link: NDArray[np.int64]  # for each edge, the one of its right unit that was placed before it


class _Distances(NamedTuple):
    """Steps from one left unit to all units, at most the depth, or depth + 1 if not reached."""

    to_left: NDArray[np.int64]
    to_right: NDArray[np.int64]
    number: NDArray[np.int64]  # of right units at each distance
    left: NDArray[np.int64]  # the left units that were reached, the first `n_left[0]` of these
    n_left: NDArray[np.int64]
    right: NDArray[np.int64]  # the right units that were reached, the first `n_right[0]`
    n_right: NDArray[np.int64]
    queue: NDArray[np.int64]  # right units from which the search has to go on


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
    n_left, n_edges, far = starts.size - 1, ends.size, depth + 1
    placed = _Placed(
        starts=starts,
        size=np.zeros(n_left, np.int64),
        owner=np.empty(n_edges, np.int64),
        ends=ends,
        head=np.full(n_right, -1, np.int64),
        link=np.empty(n_edges, np.int64),
    )
    ranked, first, place = _unjoined(n_left, n_right, state)
    degree = np.zeros(n_right, np.int64)
    known = _Distances(
        to_left=np.full(n_left, far, np.int64),
        to_right=np.full(n_right, far, np.int64),
        number=np.zeros(depth + 2, np.int64),
        left=np.empty(n_left, np.int64),
        n_left=np.zeros(1, np.int64),
        right=np.empty(n_right, np.int64),
        n_right=np.zeros(1, np.int64),
        queue=np.empty(n_right, np.int64),
    )
    for i in order:
        known.number[:] = 0
        known.number[far] = n_right
        known.to_left[i] = 0
        for e in range(starts[i], starts[i + 1]):
            level = far
            while known.number[level] == 0:
                level -= 1
            v = _lowest_degree(level, known.to_right, ranked, first, state)
            placed.owner[e], placed.ends[e] = i, v
            placed.link[e], placed.head[v] = placed.head[v], e
            placed.size[i] += 1
            _raise_degree(v, degree, ranked, first, place)
            _shorten(v, placed, known)
        known.to_left[i] = far
        for k in range(known.n_left[0]):
            known.to_left[known.left[k]] = far
        for k in range(known.n_right[0]):
            known.to_right[known.right[k]] = far
        known.n_left[0] = known.n_right[0] = 0
    return ends


@compiled
def _unjoined(n_left: int, n_right: int, state: NDArray[np.uint64]) -> Any:
    """Return right units without edges in random order, and where each degree and unit is in it.

    Units stay sorted by degree: those of degree d are ``ranked[first[d]:first[d + 1]]``.
    """
    ranked, place = np.arange(n_right), np.empty(n_right, np.int64)
    _shuffle(ranked, n_right, state)
    for i in range(n_right):
        place[ranked[i]] = i
    first = np.full(n_left + 2, n_right, np.int64)
    first[0] = 0
    return ranked, first, place


@compiled
def _lowest_degree(
    level: int,
    to_right: NDArray[np.int64],
    ranked: NDArray[np.int64],
    first: NDArray[np.int64],
    state: NDArray[np.uint64],
) -> int:
    """Return a right unit at a distance, of the smallest degree there; there must be one."""
    for d in range(first.size - 1):
        low, n = first[d], first[d + 1] - first[d]
        if n == 0:
            continue
        start = below(state, n)
        for k in range(n):
            v = ranked[low + (start + k) % n]
            if to_right[v] == level:
                return v
    return -1


@compiled
def _raise_degree(
    v: int,
    degree: NDArray[np.int64],
    ranked: NDArray[np.int64],
    first: NDArray[np.int64],
    place: NDArray[np.int64],
) -> None:
    """Raise the degree of a right unit by 1: exchange it with the last unit of its old degree."""
    d = degree[v]
    at, last = place[v], first[d + 1] - 1
    other = ranked[last]
    ranked[at], ranked[last] = other, v
    place[other], place[v] = at, last
    first[d + 1] -= 1
    degree[v] = d + 1


@compiled(inline="always")  # to pass so many arrays takes as long as a short search
def _shorten(v: int, placed: _Placed, known: _Distances) -> None:
    """Bring distances up to date after the current left unit was joined to right unit v."""
    depth, queue = known.number.size - 2, known.queue
    _set_right(v, 1, known)
    queue[0] = v
    done, waiting = 0, 1
    while done < waiting and known.to_right[queue[done]] < depth:
        step = known.to_right[queue[done]]
        f = placed.head[queue[done]]
        done += 1
        while f >= 0:
            u = placed.owner[f]
            f = placed.link[f]
            if known.to_left[u] <= step:
                continue
            _set_left(u, step, known)
            for g in range(placed.starts[u], placed.starts[u] + placed.size[u]):
                w = placed.ends[g]
                if known.to_right[w] > step + 1:
                    _set_right(w, step + 1, known)
                    queue[waiting] = w
                    waiting += 1


@compiled
def _set_left(u: int, steps: int, known: _Distances) -> None:
    """Set the distance of a left unit."""
    if known.to_left[u] == known.number.size - 1:
        known.left[known.n_left[0]] = u
        known.n_left[0] += 1
    known.to_left[u] = steps


@compiled
def _set_right(v: int, steps: int, known: _Distances) -> None:
    """Set the distance of a right unit."""
    before = known.to_right[v]
    if before == known.number.size - 1:
        known.right[known.n_right[0]] = v
        known.n_right[0] += 1
    known.number[before] -= 1
    known.number[steps] += 1
    known.to_right[v] = steps

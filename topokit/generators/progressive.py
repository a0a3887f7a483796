"""Compiled loop of progressive edge growth; imported only when it is called."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from topokit.generators.compiled import below

__all__ = ["grow_apart"]


@njit(cache=True)
def grow_apart(
    starts: NDArray[np.int64],
    order: NDArray[np.int64],
    n_right: int,
    depth: int,
    state: NDArray[np.uint64],
    ends: NDArray[np.int64],
) -> Any:
    """Place the edges of left units one by one, each to a unit of low degree far away.

    Left unit i has the edges ``starts[i]:starts[i + 1]``; `ends` gets their right units. The
    steps from a left unit to right units are known up to `depth` and updated edge by edge; among
    those farthest, one of the smallest degree is taken, ties at random.
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
    # Steps from the present left unit; depth + 1 means not reached.
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

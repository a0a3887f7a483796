"""Messages on the edges of a layer, which decide the spectral radius of its universal cover.

Compiled; imported on first use, since it loads numba.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["cover_radius", "settle"]

ROUNDS = 20_000  # of messages at one trial value; fewer than 100 but close to the radius
WORK = 3_000_000_000  # rounds times edges in all; band-like layers would need more
CLOSE = 1e-9  # relative: two successive estimates of the radius agree


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, kept on disk where there is a place to keep it."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither this folder nor a cache folder can be written to
        return njit(nogil=True)(function)


@_compiled
def settle(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    n_in: int,
    trial: float,
    up: NDArray[np.float64],
    down: NDArray[np.float64],
    rounds: int,
) -> tuple[bool, float, int]:
    """Let messages below their fixed point rise to it: whether there is one, and at what rate.

    Changes `up` (input to output unit) and `down` in place. The rate is the factor by which
    the changes shrink in the end. Also returns the number of rounds.
    """
    n_out = indptr.size - 1
    sums = np.zeros(n_in)
    for e in range(indices.size):
        sums[indices[e]] += down[e]
    before, rate = 0.0, 0.0
    for count in range(rounds):
        change, largest = 0.0, 0.0
        for j in range(n_in):
            if sums[j] >= trial:
                return False, 1.0, count + 1
        fresh = np.zeros(n_in)
        for row in range(n_out):
            total = 0.0
            for e in range(indptr[row], indptr[row + 1]):
                room = trial - (sums[indices[e]] - down[e])
                if room <= 0:
                    return False, 1.0, count + 1
                up[e] = 1 / room
                total += up[e]
            if total >= trial:
                return False, 1.0, count + 1
            for e in range(indptr[row], indptr[row + 1]):
                room = trial - (total - up[e])
                if room <= 0:
                    return False, 1.0, count + 1
                new = 1 / room
                change = max(change, abs(new - down[e]))
                largest = max(largest, new)
                down[e] = new
                fresh[indices[e]] += new
        sums = fresh
        if change < 1e-13 * largest:
            return True, rate, count + 1
        now = change / before if before > 0 else 0.0
        if count > 8 and now < 1 and abs(now - rate) < 1e-7 * (1 - now):
            return True, now, count + 1
        rate, before = now, change
    return True, min(rate, 1.0), rounds


@_compiled
def _extrapolated(trials: NDArray[np.float64], gaps: NDArray[np.float64], count: int) -> float:
    """Trial value at which the gap of the rate to 1 closes.

    From the last two or three points, fitted by radius + a gap^2 (+ b gap^3).
    """
    x, y = gaps[:count] ** 2, trials[:count]
    if count < 3:
        return y[1] - x[1] * (y[0] - y[1]) / (x[0] - x[1]) if x[0] != x[1] else -np.inf
    z = gaps[:count] ** 3
    one, two = x[0] - x[2], x[1] - x[2]
    three, four = z[0] - z[2], z[1] - z[2]
    area = one * four - two * three
    if area == 0:
        return -np.inf
    first = ((y[0] - y[2]) * four - (y[1] - y[2]) * three) / area
    second = (one * (y[1] - y[2]) - two * (y[0] - y[2])) / area
    return y[2] - first * x[2] - second * z[2]


@_compiled
def cover_radius(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    n_in: int,
    lower: float,
    upper: float,
) -> float:
    """Least trial value between the bounds at which messages have a fixed point.

    The square root of a trial value's distance from the radius is a smooth function of the gap
    between the rate and 1, so a few trials give an estimate; they close in on it from above,
    each beginning with the messages of the one before. Where a trial is below the radius after
    all, it is a bound; nan if that takes too many rounds.
    """
    low, high = lower, upper
    up, down = np.full(indices.size, 1 / (1.1 * upper)), np.full(indices.size, 1 / (1.1 * upper))
    trials, gaps = np.zeros(3), np.zeros(3)
    good = 1.1 * upper
    left = WORK // max(indices.size, 1)
    _, rate, rounds = settle(indptr, indices, n_in, good, up, down, min(ROUNDS, left))
    trials[0], gaps[0] = good, 1 - rate
    count = 1
    trial, estimate = 1.02 * upper, -1.0
    up_new, down_new = up.copy(), down.copy()
    for _ in range(300):
        left -= rounds
        if left <= 0:
            return np.nan
        up_new[:], down_new[:] = up, down
        fits, rate, rounds = settle(
            indptr, indices, n_in, trial, up_new, down_new, min(ROUNDS, left)
        )
        if not fits:
            low = max(low, trial)
            trial = 0.5 * (low + min(high, good))
        else:
            if count == 3:
                trials[:2], gaps[:2] = trials[1:].copy(), gaps[1:].copy()
                count = 2
            trials[count], gaps[count] = trial, 1 - rate
            count += 1
            fresh = _extrapolated(trials, gaps, count)
            if not (low < fresh < trial and gaps[count - 1] < gaps[count - 2]):
                fresh = low
            agrees = abs(fresh - estimate) < CLOSE * trial and trial - fresh < 1e-3 * trial
            high, good = min(high, trial), trial
            up[:], down[:] = up_new, down_new
            if agrees and fresh > low:
                return fresh
            estimate = fresh
            trial = fresh + 0.15 * (trial - fresh)
        if min(high, good) - low < 0.1 * CLOSE * good:
            break
    return min(high, good)

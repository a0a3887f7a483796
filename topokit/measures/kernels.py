"""Compiled loops of the spectral measures: products with a graph, and Lanczos recurrences.

Imported on first use, since it loads numba. Nothing is stored but the tridiagonal matrix: the
largest eigenvalue needs no reorthogonalisation, and its vector is summed in a second run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = [
    "Operator",
    "component_labels",
    "cover_radius",
    "multiply",
    "recurrence",
    "settle",
    "summed",
]


REORDERED = {"reassoc", "contract"}  # sums may be taken in another order, in vector registers


class Operator(NamedTuple):
    """A symmetric operator on the units of a graph.

    ``scale * core(scale * x) + diagonal * x``, projected off the unit vector `deflated` (if not
    empty). The core is the adjacency of units, those from `first` on with their edges to
    earlier units in CSR form; or, with `gram`, B^T diag(weight) B of one layer.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint32]
    first: int
    gram: bool
    weight: NDArray[np.float64]
    scale: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    deflated: NDArray[np.float64]


@compiled(fastmath=REORDERED)
def multiply(
    op: Any, x: NDArray[np.float64], scaled: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    """Write the operator's product with x into y."""
    indptr, indices, first = op.indptr, op.indices, op.first
    for j in range(x.size):
        scaled[j] = op.scale[j] * x[j]
        y[j] = 0.0
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        total = 0.0
        if op.gram:
            for j in indices[start:stop]:
                total += scaled[j]
            total *= op.weight[row]
            for j in indices[start:stop]:
                y[j] += total
        else:
            own = scaled[first + row]
            for j in indices[start:stop]:
                total += scaled[j]
                y[j] += own
            y[first + row] += total
    for j in range(x.size):
        y[j] = op.scale[j] * y[j] + op.diagonal[j] * x[j]
    if op.deflated.size:
        part = 0.0
        for j in range(x.size):
            part += op.deflated[j] * y[j]
        for j in range(x.size):
            y[j] -= part * op.deflated[j]


@compiled(fastmath=REORDERED)
def _above(alpha: NDArray[np.float64], beta: NDArray[np.float64], m: int, x: float) -> int:
    """Number of eigenvalues of the tridiagonal matrix above x (Sturm)."""
    count = 0
    d = 1.0
    for i in range(m):
        d = alpha[i] - x - (beta[i - 1] * beta[i - 1] / d if i else 0.0)
        if d == 0.0:
            d = -1e-300
        if d > 0:
            count += 1
    return count


@compiled(fastmath=REORDERED)
def _ritz(
    alpha: NDArray[np.float64],
    beta: NDArray[np.float64],
    m: int,
    rank: int,
    low: float,
    high: float,
    width: float,
) -> float:
    """Value of a rank among the eigenvalues (1: largest), between low and high, by bisection."""
    while high - low > width:
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if _above(alpha, beta, m, middle) >= rank:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@compiled(fastmath=REORDERED)
def _top_vector(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], m: int, value: float, bound: float
) -> NDArray[np.float64]:
    """Eigenvector of the largest eigenvalue by two steps of inverse iteration from above."""
    shift = value + 4e-16 * bound
    pivot = np.empty(m)
    vector = np.ones(m)
    for i in range(m):
        pivot[i] = shift - alpha[i] - (beta[i - 1] ** 2 / pivot[i - 1] if i else 0.0)
        if pivot[i] < 1e-18 * bound:
            pivot[i] = 1e-18 * bound
    for _ in range(3):
        for i in range(1, m):
            vector[i] += beta[i - 1] * vector[i - 1] / pivot[i - 1]
        vector[m - 1] /= pivot[m - 1]
        for i in range(m - 2, -1, -1):
            vector[i] = (vector[i] + beta[i] * vector[i + 1]) / pivot[i]
        norm = np.sqrt((vector * vector).sum())
        vector /= norm
    return vector


@compiled(fastmath=REORDERED)
def _step(
    op: Any,
    old: NDArray[np.float64],
    v: NDArray[np.float64],
    w: NDArray[np.float64],
    scaled: NDArray[np.float64],
    last: float,
) -> tuple[float, float]:
    """One step of the recurrence: w becomes the next unit vector; returns alpha and beta."""
    multiply(op, v, scaled, w)
    a = 0.0
    for j in range(v.size):
        a += v[j] * w[j]
    square = 0.0
    for j in range(v.size):
        w[j] -= a * v[j] + last * old[j]
        square += w[j] * w[j]
    b = np.sqrt(square)
    if b > 0:
        for j in range(v.size):
            w[j] /= b
    return a, b


@compiled(fastmath=REORDERED)
def recurrence(
    op: Any, start: NDArray[np.float64], bound: float, steps: int, residual: float, error: float
) -> tuple[float, float, bool, int, NDArray[np.float64]]:
    """Largest eigenvalue by Lanczos until it is settled.

    Settled: residual and estimated error of the value are below `residual` and `error` times
    `bound`, a bound on the operator's norm. Returns value, residual, whether it settled, the
    number of steps and the eigenvector of the tridiagonal matrix.
    """
    n = start.size
    old, v, w, scaled = np.zeros(n), start.copy(), np.empty(n), np.empty(n)
    alpha, beta = np.empty(steps), np.empty(steps)
    low, check, last = -bound, 8, 0.0
    for m in range(1, steps + 1):
        a, b = _step(op, old, v, w, scaled, last)
        alpha[m - 1], beta[m - 1] = a, b
        if not np.isfinite(b):
            break
        ended = b <= 1e-14 * bound
        if ended or m in (check, steps):
            value = _ritz(alpha, beta, m, 1, low - 1e-12 * bound, 1.01 * bound, 1e-16 * bound)
            low = value
            vector = _top_vector(alpha, beta, m, value, bound)
            left = b * abs(vector[m - 1])
            second = _ritz(alpha, beta, m, 2, -1.01 * bound, value, 1e-3 * bound) if m > 1 else 0.0
            gap = max(value - second, 1e-12 * bound)
            if ended:
                left = 0.0
            if left <= residual * bound and min(left, left * left / gap) <= error * bound:
                return value, left, True, m, vector
            if m == steps:
                return value, left, False, m, vector
            check = max(m + 4, min(int(m * 1.15), m + 100))
        last = b
        old, v, w = v, w, old
    return np.nan, np.inf, False, 0, np.empty(0)


@compiled(fastmath=REORDERED)
def summed(
    op: Any, start: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of the Lanczos vectors with these coefficients, by running the recurrence again."""
    n = start.size
    old, v, w, scaled = np.zeros(n), start.copy(), np.empty(n), np.empty(n)
    total = coefficients[0] * v
    last = 0.0
    for m in range(coefficients.size - 1):
        _, last = _step(op, old, v, w, scaled, last)
        old, v, w = v, w, old
        for j in range(n):
            total[j] += coefficients[m + 1] * v[j]
    norm = np.sqrt((total * total).sum())
    return total / norm if norm > 0 else total


@compiled(fastmath=REORDERED)
def component_labels(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], first: int, n: int
) -> tuple[NDArray[np.int32], int]:
    """Component of each of n units, numbered by first unit, and their number (union-find)."""
    parent = np.arange(n)
    for row in range(indptr.size - 1):
        unit = first + row
        for j in indices[indptr[row] : indptr[row + 1]]:
            a, b = np.int64(j), unit
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            if a < b:
                parent[b] = a
            elif b < a:
                parent[a] = b
    labels = np.empty(n, np.int32)
    count = 0
    for i in range(n):
        if parent[i] == i:
            labels[i] = count
            count += 1
        else:
            labels[i] = labels[parent[i]]
    return labels, count


ROUNDS = 20_000  # of messages at one trial value; fewer than 100 but close to the radius
WORK = 3_000_000_000  # rounds times edges in all; band-like layers would need more
CLOSE = 1e-9  # relative: two successive estimates of the radius agree


@compiled
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


@compiled
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


@compiled
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

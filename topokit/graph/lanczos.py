"""Compiled Lanczos recurrence for the largest eigenvalue of an operator on a graph's units.

Imported on first use, since it loads numba; `topokit.graph.spectra` is the interface.

Idea. Lanczos builds, from products with the operator alone, a tridiagonal matrix whose largest
eigenvalue (the Ritz value) rises to that of the operator. A known leading eigenvector is deflated:
it is projected out after each product, so that the second eigenvalue becomes the largest one, and
no more than one eigenvalue is ever computed.

Why this way. The largest eigenvalue needs no reorthogonalisation: with lost orthogonality, copies
of converged Ritz values appear, which cannot exceed the largest one. So no vectors are stored
but the last two, and memory is O(units) where ARPACK keeps 20 vectors and restarts. The vector,
where it is wanted, is summed in a second run of the same recurrence. Convergence is tested on the
tridiagonal matrix at steps that grow by 15 % (4 % where a step costs much more than a test): the
Ritz value by bisection with Sturm counts, its vector by inverse iteration, the residual from the
vector's last entry, and the error of the value from the residual squared over the gap to the second
Ritz value.

Cost. O(edges) a step, 30 to 100 steps for graphs that expand; the tests O(steps) each. Of a random
layer of 1e5 x 1e5 units with 1e6 edges the Laplacian takes 290 steps, two thirds of all: units of
degree 1 to 3 give many eigenvalues close to the smallest. LOBPCG with the degrees as preconditioner
took 115 to 180 steps there, each more than twice as dear, and had not converged after 400 where
degrees are 4 on average; a shift in the preconditioner led to a wrong eigenvalue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = ["Operator", "multiply", "recurrence", "summed"]

WIDE = 100_000  # edges from which convergence is tested more often
REORDERED = {"reassoc", "contract"}  # sums may be taken in another order, in vector registers


class Operator(NamedTuple):
    """A symmetric operator on the units of a graph.

    It maps x to ``scale * core(scale * x) + diagonal * x``, from which the component along the
    unit vector `deflated` (if not empty) is removed. The core is the adjacency matrix of units:
    those from `first` on have their edges to earlier units in CSR form. With `gram` it is
    B^T diag(weight) B of one layer, whose edges have the values `data` (1 if empty).
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint32]
    data: NDArray[np.float64]
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
        if op.gram and op.data.size:
            for e in range(start, stop):
                total += op.data[e] * scaled[indices[e]]
            total *= op.weight[row]
            for e in range(start, stop):
                y[indices[e]] += op.data[e] * total
        elif op.gram:
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
    """Return the number of eigenvalues of the tridiagonal matrix above x (Sturm count)."""
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
    """Return the eigenvalue of a given rank (1: largest) between low and high, by bisection."""
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
    """Return the eigenvector of the largest eigenvalue by three steps of inverse iteration.

    The shift lies just above the eigenvalue, so that all pivots are positive.
    """
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
    """Take one step of the recurrence: w becomes the next unit vector. Return alpha and beta."""
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
    """Find the largest eigenvalue by Lanczos steps until it has converged, at most `steps`.

    Converged means that the residual and the estimated error of the value are below `residual` and
    `error` times `bound`, a bound on the operator's norm. Return the value, its residual, whether
    it has converged, the number of steps and the eigenvector of the tridiagonal matrix.
    """
    n = start.size
    old, v, w, scaled = np.zeros(n), start.copy(), np.empty(n), np.empty(n)
    alpha, beta = np.empty(steps), np.empty(steps)
    growth = 1.15 if op.indices.size < WIDE else 1.04
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
            check = max(m + 4, min(int(m * growth), m + 100))
        last = b
        old, v, w = v, w, old
    return np.nan, np.inf, False, 0, np.empty(0)


@compiled(fastmath=REORDERED)
def summed(
    op: Any, start: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the unit vector along the sum of the Lanczos vectors times these coefficients.

    The vectors are not stored: the recurrence is run again from the same `start`.
    """
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

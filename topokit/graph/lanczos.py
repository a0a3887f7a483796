"""Compiled Lanczos recurrence for the largest eigenvalue of an operator on a graph's units.

Imported on first use, since it loads numba; `topokit.graph.spectra` is the interface.

Idea. Lanczos builds, from products with the operator alone, a tridiagonal matrix whose largest
eigenvalue (the Ritz value) rises to that of the operator. A known leading eigenvector is deflated:
it is projected out after each product, so that the second eigenvalue becomes the largest one, and
no more than one eigenvalue is ever computed.

Why this way. The largest eigenvalue needs no reorthogonalisation: with lost orthogonality, copies
of converged Ritz values appear, which cannot exceed the largest one. So no vectors are needed
but the last two, where ARPACK keeps 20 and restarts. The vector, where it is wanted, is summed
from the first Lanczos vectors if they have been kept, else in a second run of the same recurrence.
Convergence is tested on the tridiagonal matrix at steps that grow by 15 % (2 % where a step costs
much more than a test): the Ritz value by bisection with Sturm counts, its vector by inverse
iteration, the residual from the vector's last entry, and the error of the value from the residual
squared over the gap to the second Ritz value.

Cost. O(edges) a step, 30 to 100 steps for graphs that expand; the tests O(steps) each. Nearly all
of it is one gather and one scattered addition for each edge, bound by the cache that the vectors
fit into. Rows are sorted by length, which saves a quarter. Slower or no faster, measured at 1e5 and
4e5 units a side: the matrix and its transpose, gathers only; the two vectors side by side; blocks
of two and four vectors, which leave the cache; and single precision, which saves a quarter of the
gathers, but needs the vector and two products more to be right to 1e-8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = ["Found", "Operator", "recurrence", "summed"]

WIDE = 100_000  # edges from which convergence is tested more often
BLOCK = 1024  # numbers of a vector summed at a time: a few of them fit into the first-level cache
REORDERED = {"reassoc", "contract"}  # sums may be taken in another order, in vector registers


class Operator(NamedTuple):
    """A symmetric operator on the units of a graph.

    It maps x to ``scale * (core(scale * x) + diagonal * scale * x)``, from which the component
    along the unit vector `deflated` (if not empty) is removed; an empty `diagonal` is 0. The core
    is the adjacency matrix of units: the i-th row of the CSR arrays has the edges of unit
    ``rows[i]`` to units before it. With `gram` it is B^T diag(weight) B of one layer, whose edges
    have the values `data` (1 if empty), and ``weight[i]`` is that of unit ``rows[i]``. Rows are in
    order of length.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint32]
    data: NDArray[np.float64]
    rows: NDArray[np.int64]
    gram: bool
    weight: NDArray[np.float64]
    scale: NDArray[np.float64]
    diagonal: NDArray[np.float64]
    deflated: NDArray[np.float64]


@compiled(fastmath=REORDERED)
def _core(op: Any, scaled: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Add the core's product with `scaled` to y; return the product's component along `scaled`."""
    indptr, indices = op.indptr, op.indices
    along = 0.0
    for row in range(indptr.size - 1):
        start, stop = indptr[row], indptr[row + 1]
        total = 0.0
        if op.gram and op.data.size:
            for e in range(start, stop):
                total += op.data[e] * scaled[indices[e]]
            weighted = total * op.weight[row]
            along += total * weighted
            for e in range(start, stop):
                y[indices[e]] += op.data[e] * weighted
        elif op.gram:
            for j in indices[start:stop]:
                total += scaled[j]
            weighted = total * op.weight[row]
            along += total * weighted
            for j in indices[start:stop]:
                y[j] += weighted
        else:
            own = scaled[op.rows[row]]
            for j in indices[start:stop]:
                total += scaled[j]
                y[j] += own
            y[op.rows[row]] += total
            along += 2 * own * total
    return along


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
    if bound == 0.0:  # of an operator that is 0
        vector[1:] = 0.0
        return vector
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


# A step reads each vector twice. The product's component along v is summed with the product itself,
# so that one loop subtracts what lies along the last two vectors and finds what is left along the
# deflated one; the norm after subtracting that too is known then, so that the second loop already
# writes the next unit vector, scaled for the next product, and clears the place for that product.
@compiled(fastmath=REORDERED)
def _step(
    op: Any,
    old: NDArray[np.float64],
    v: NDArray[np.float64],
    scaled: NDArray[np.float64],
    y: NDArray[np.float64],
    last: float,
) -> tuple[float, float]:
    """Take one step of the recurrence: old becomes the next unit vector. Return alpha and beta.

    `scaled` is the operator's scale times v, and y its diagonal times that; both are made ready
    for the next step.
    """
    n = v.size
    a = _core(op, scaled, y)
    scale, diagonal, deflated = op.scale, op.diagonal, op.deflated
    if diagonal.size:
        for j in range(n):
            a += diagonal[j] * scaled[j] * scaled[j]
    square, part = 0.0, 0.0
    if deflated.size:
        for j in range(n):
            w = scale[j] * y[j] - a * v[j] - last * old[j]
            old[j] = w
            square += w * w
            part += w * deflated[j]
    else:
        for j in range(n):
            w = scale[j] * y[j] - a * v[j] - last * old[j]
            old[j] = w
            square += w * w
    left = square - part * part
    if left < 0.5 * square:  # digits are lost in the difference: sum the squares of what is left
        left = 0.0
        for j in range(n):
            old[j] -= part * deflated[j]
            left += old[j] * old[j]
        part = 0.0
    b = np.sqrt(left)
    over = 1.0 / b if b > 0 else 0.0
    if part != 0.0:
        for j in range(n):
            w = (old[j] - part * deflated[j]) * over
            old[j] = w
            scaled[j] = scale[j] * w
            y[j] = 0.0
    else:
        for j in range(n):
            w = old[j] * over
            old[j] = w
            scaled[j] = scale[j] * w
            y[j] = 0.0
    for j in range(diagonal.size):
        y[j] = diagonal[j] * scaled[j]
    return a, b


@compiled
def _started(op: Any, first: NDArray[np.float64]) -> Any:
    """Return what the first step needs: no old vector, the first one, and its two products."""
    scaled, y = op.scale * first, np.zeros(first.size)
    for j in range(op.diagonal.size):
        y[j] = op.diagonal[j] * scaled[j]
    return np.zeros(first.size), first.copy(), scaled, y


class Found(NamedTuple):
    """Result of `recurrence`: the largest Ritz value, and what its vector can be summed from.

    `vector` is the value's eigenvector of the tridiagonal matrix with `alpha` on its diagonal and
    `beta` beside it, one of each for every step; `basis` has the first Lanczos vectors as rows.
    """

    value: float
    residual: float
    converged: bool
    vector: NDArray[np.float64]
    alpha: NDArray[np.float64]
    beta: NDArray[np.float64]
    basis: NDArray[np.float64]


@compiled(fastmath=REORDERED)
def recurrence(
    op: Any,
    start: NDArray[np.float64],
    steps: int,
    residual: float,
    error: float,
    near: float,
    basis: NDArray[np.float64],
) -> Any:
    """Find the largest eigenvalue by Lanczos steps until it has converged, at most `steps`.

    Converged means that the residual is at most `residual` and the estimated error of the value at
    most `error`, both relative to the operator's norm as far as the steps have shown it. Where
    `near` is not 0, the value is only to be compared with 1: then an error of `near` times the
    squared distance from 1, and a residual of that distance, are enough. The first vectors are
    written into the rows of `basis`.
    """
    old, v, scaled, y = _started(op, start)
    alpha, beta = np.empty(steps), np.empty(steps)
    wide = op.indices.size >= WIDE
    growth, least = (1.02, 2) if wide else (1.15, 4)
    value, left, vector, converged = -np.inf, np.inf, np.empty(0), False
    largest, check, last, taken = 0.0, 4 if wide else 8, 0.0, 0
    for m in range(1, steps + 1):
        if m <= basis.shape[0]:
            basis[m - 1] = v
        a, b = _step(op, old, v, scaled, y, last)
        if not np.isfinite(b):
            value, left, taken = np.nan, np.inf, 0
            break
        alpha[m - 1], beta[m - 1] = a, b
        largest, taken = max(largest, abs(a) + b + last), m  # bounds the Ritz values
        ended = b <= 1e-14 * largest
        if ended or m in (check, steps):
            low = max(value - 1e-12 * largest, -largest)
            value = _ritz(alpha, beta, m, 1, low, 1.01 * largest, 1e-16 * largest)
            vector = _top_vector(alpha, beta, m, value, largest)
            left = 0.0 if ended else b * abs(vector[m - 1])
            second = _ritz(alpha, beta, m, 2, -largest, value, 1e-3 * largest) if m > 1 else 0.0
            gap = max(value - second, 1e-12 * largest)
            off = abs(value - 1.0) if near > 0 else 0.0
            enough = max(error * largest, near * off * off)
            square = left * left / gap if gap > 0.0 else left  # 0 of an operator that is 0
            if left <= max(residual * largest, off) and min(left, square) <= enough:
                converged = True
                break
            check = max(m + least, min(int(m * growth), m + 100))
        last = b
        old, v = v, old
    return Found(value, left, converged, vector, alpha[:taken], beta[:taken], basis[:taken])


@compiled(fastmath=REORDERED)
def summed(
    op: Any,
    first: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    basis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the sums of the Lanczos vectors times each row of `coefficients`, as rows.

    The first vectors are in `basis`; if there are more, the recurrence is run again from `first`.
    """
    n, steps = first.size, coefficients.shape[1]
    total = np.zeros((coefficients.shape[0], n))
    if basis.shape[0] >= steps:
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            for m in range(steps):
                for i in range(total.shape[0]):
                    c = coefficients[i, m]
                    for j in range(start, stop):
                        total[i, j] += c * basis[m, j]
        return total
    old, v, scaled, y = _started(op, first)
    last = 0.0
    for m in range(steps):
        for i in range(total.shape[0]):
            c = coefficients[i, m]
            for j in range(n):
                total[i, j] += c * v[j]
        _, last = _step(op, old, v, scaled, y, last)
        old, v = v, old
    return total

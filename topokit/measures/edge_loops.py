"""Compiled loops over the edges of a graph: components, active paths, the Laplacian.

Imported on first use, since it loads numba.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topokit.graph.kernels import compiled

__all__ = [
    "component_labels",
    "edges_between",
    "feeding",
    "gathered",
    "largest_sum",
    "masses",
    "mixed",
    "neighbour_sums",
    "quotient",
    "reached",
    "spread",
]


# Components by union-find. Each unit points to a parent, and finally to the first unit of its
# component. An edge follows the parents of both its ends to their roots, halving the paths on the
# way, and lets the larger root point to the smaller one. So roots stay the first units, and one
# pass in order numbers the components. Practically O(edges), in one array of the units and without
# the symmetric matrix that scipy's search would need: the measure is taken every epoch.
@compiled
def component_labels(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], first: int, n: int
) -> tuple[NDArray[np.int32], int]:
    """Return the component of each of n units, numbered by first unit, and their number."""
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


# Loops over the edges of the Laplacian's smallest eigenvalues; `topokit.measures.laplacian` has the
# method. Rows are the units from `first` on, their entries earlier units.
@compiled
def neighbour_sums(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], first: int, x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sum of x over the neighbours of each unit."""
    y = np.zeros(x.size)
    for row in range(indptr.size - 1):
        total, own = 0.0, x[first + row]
        for j in indices[indptr[row] : indptr[row + 1]]:
            total += x[j]
            y[j] += own
        y[first + row] += total
    return y


@compiled
def gathered(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sum of x over the entries of each row."""
    y = np.empty(indptr.size - 1)
    for row in range(y.size):
        total = 0.0
        for j in indices[indptr[row] : indptr[row + 1]]:
            total += x[j]
        y[row] = total
    return y


@compiled
def spread(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    weight: NDArray[np.float64],
    y: NDArray[np.float64],
) -> None:
    """Add the weight of each row to y at its entries."""
    for row in range(weight.size):
        for j in indices[indptr[row] : indptr[row + 1]]:
            y[j] += weight[row]


@compiled
def masses(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    z: NDArray[np.float64],
    both: bool,
) -> NDArray[np.float64]:
    """Return the inner products of three vectors, `scale` times each row of z.

    With `both` they are completed by the units of the other side: `weight` times the sum over each
    row's entries.
    """
    n = z.shape[1]
    x = np.empty((n, 4))  # side by side, so that an entry needs one line of the cache
    found = np.zeros((3, 3))
    for j in range(n):
        one, two, three = scale[j] * z[0, j], scale[j] * z[1, j], scale[j] * z[2, j]
        x[j, 0], x[j, 1], x[j, 2] = one, two, three
        found[0, 0] += one * one
        found[0, 1] += one * two
        found[0, 2] += one * three
        found[1, 1] += two * two
        found[1, 2] += two * three
        found[2, 2] += three * three
    if both:
        for row in range(weight.size):
            one, two, three = 0.0, 0.0, 0.0
            for j in indices[indptr[row] : indptr[row + 1]]:
                one += x[j, 0]
                two += x[j, 1]
                three += x[j, 2]
            square = weight[row] * weight[row]
            found[0, 0] += square * one * one
            found[0, 1] += square * one * two
            found[0, 2] += square * one * three
            found[1, 1] += square * two * two
            found[1, 2] += square * two * three
            found[2, 2] += square * three * three
    found[1, 0], found[2, 0], found[2, 1] = found[0, 1], found[0, 2], found[1, 2]
    return found


@compiled
def mixed(
    scale: NDArray[np.float64], z: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `scale` times the sums of the three rows of z with two columns of weights."""
    x = np.empty((2, z.shape[1]))
    for i in range(2):
        one, two, three = weights[0, i], weights[1, i], weights[2, i]
        for j in range(z.shape[1]):
            x[i, j] = scale[j] * (one * z[0, j] + two * z[1, j] + three * z[2, j])
    return x


@compiled
def largest_sum(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], first: int, x: NDArray[np.float64]
) -> float:
    """Return the largest sum of x along an edge."""
    most = 0.0
    for row in range(indptr.size - 1):
        largest = -np.inf
        for j in indices[indptr[row] : indptr[row + 1]]:
            largest = max(largest, x[j])
        most = max(most, largest + x[first + row])
    return most


@compiled
def quotient(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    first: int,
    degree: NDArray[np.float64],
    x: NDArray[np.float64],
) -> tuple[float, float]:
    """Return x'Lx / x'x of the Laplacian L, and the norm of L x - (x'Lx / x'x) x over that of x.

    The sum of squared differences along the edges keeps all digits of small values.
    """
    y = degree * x
    energy, square = 0.0, 0.0
    for row in range(indptr.size - 1):
        total, own = 0.0, x[first + row]
        for j in indices[indptr[row] : indptr[row + 1]]:
            total += x[j]
            y[j] -= own
            energy += (own - x[j]) ** 2
        y[first + row] -= total
    for i in range(x.size):
        square += x[i] * x[i]
    value, left = energy / square, 0.0
    for i in range(x.size):
        left += (y[i] - value * x[i]) ** 2
    return value, np.sqrt(left / square)


# Loops over the edges of the active part of a network, `topokit.measures.connectivity.active_flow`.
@compiled
def reached(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], on: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which rows have an entry that is on."""
    found = np.zeros(indptr.size - 1, np.bool_)
    for row in range(found.size):
        for j in indices[indptr[row] : indptr[row + 1]]:
            if on[j]:
                found[row] = True
                break
    return found


@compiled
def feeding(
    indptr: NDArray[np.int64], indices: NDArray[np.uint32], on: NDArray[np.bool_], n: int
) -> NDArray[np.bool_]:
    """Return which of n columns are entries of a row that is on."""
    found = np.zeros(n, np.bool_)
    for row in range(on.size):
        if on[row]:
            for j in indices[indptr[row] : indptr[row + 1]]:
                found[j] = True
    return found


@compiled
def edges_between(
    indptr: NDArray[np.int64],
    indices: NDArray[np.uint32],
    columns: NDArray[np.bool_],
    rows: NDArray[np.bool_],
) -> int:
    """Return the number of entries whose row and whose column are on."""
    count = 0
    for row in range(rows.size):
        if rows[row]:
            for j in indices[indptr[row] : indptr[row + 1]]:
                count += columns[j]
    return count

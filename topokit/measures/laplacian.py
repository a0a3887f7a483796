"""Algebraic connectivity: the second-smallest eigenvalue of a graph's Laplacian matrix.

Idea. Below the smallest degree, D - t is positive, and L - t = D - t - A has as many negative
eigenvalues as M(t) = (D - t)^(-1/2) A (D - t)^(-1/2) has eigenvalues above 1. Without the constant
vector, whose eigenvalue is 0, the connectivity is therefore the t at which the largest eigenvalue
of M(t) is 1. It is found by a few Newton steps: each takes the leading vectors of M(t) by Lanczos,
and the next t is the least value of the quotient x'Lx / x'x in the space of the vectors x that
belong to them. No quotient lies below the connectivity, and its error is the square of the
vector's. In the graph of one layer, whose two sides are only joined to each other, the square of
M(t) acts on one side alone (a Gram operator), on vectors of half the length, in half the steps.

Why this way. Of random layers the smallest eigenvalues belong to units of degree 1 to 3: there are
many such units, and their eigenvalues lie close together, in 1 % of the Laplacian's range. Lanczos
on c - L separates them in 300 to 1,200 steps. In M(t) the same units stand out, since 1 / (D - t)
is large for them: 40 to 100 steps in all. Dividing by D - t is what a preconditioner does, but with
the t sought in place of 0 or a guess, and Lanczos uses all former steps, where LOBPCG uses two:
with the degrees as preconditioner it took 115 to 180 steps, each twice as dear. Lanczos on c - L is
left where all degrees are similar, and it takes fewer than 100 steps, and where the connectivity is
the smallest degree itself; factoring, where the graph is band-like.

Errors. The first two starts contain new random vectors, so that no eigenvalue is passed over
because another one leads at the first t. A result is taken once its residual is small and its
error, by Temple's bound or from the last two changes of t, is as small as asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from topokit.graph.spectra import (
    DENSE,
    FIRST_STEPS,
    KEEP,
    Joined,
    adjacency_operator,
    by_factoring,
    most_steps,
    product,
    start_vector,
    tolerances,
    top_pair,
)

if TYPE_CHECKING:
    from topokit.graph.lanczos import Found, Operator

__all__ = ["laplacian_gap"]

NAN = float("nan")
ROUNDS = 12  # Newton steps; four are usual
FIRST = 24  # Lanczos steps for a first estimate
PAIRS = 3  # leading vectors whose combination is the next estimate
UNEVEN = 16  # the norm over the smallest degree above which elimination is faster
CLOSE = 1e-3  # relative change of t from which a result is checked
APART = 1e-6  # least relative distance of t from the smallest degree
FAR = 1000  # the norm over the smallest degree above which Lanczos on c - L may pass over a value
SAFE = 10  # times which the error estimated from two Newton steps has to be small enough
NEAR = 0.1  # error of an eigenvalue, of the square of its distance from 1, at which t is moved


def laplacian_gap(units: Joined, among: NDArray[np.bool_] | None = None) -> float:
    """Second-smallest Laplacian eigenvalue of a connected graph, or of one component.

    Parameters
    ----------
    units : Joined
    among : (n,) bool, optional
        The units of one component: not checked. By default all.

    Returns
    -------
    float
        Above 0; ``nan`` with fewer than two vertices or if the iteration did not converge. Cost
        O(edges) a step, usually 40 to 100 steps; dense up to 128 units.

    References
    ----------
    .. [1] Fiedler, "Algebraic connectivity of graphs", Czechoslovak Math. J. 23, 1973.
    .. [2] Parlett, "The symmetric eigenvalue problem", SIAM, 1998, chapters 3 and 4.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> from topokit.graph.spectra import joined
    >>> round(laplacian_gap(joined([LayerGraph.from_edge_ids([0], (1, 1))])), 6)
    2.0
    """
    size = units.degree.size if among is None else int(np.count_nonzero(among))
    if size < 2:
        return NAN
    if size <= 2 * DENSE:
        adjacency = units.matrix()
        if among is not None:
            inside = np.flatnonzero(among)
            adjacency = sp.csr_array(adjacency[inside][:, inside])
        dense = adjacency.toarray()
        return float(np.linalg.eigvalsh(np.diag(dense.sum(axis=0)) - dense)[1])
    every = np.ones(units.degree.size, bool) if among is None else among
    from topokit.measures.edge_loops import largest_sum

    norm = largest_sum(units.indptr, units.indices, units.first, units.degree)
    if norm > UNEVEN * float(units.degree[every].min()):
        found = _by_elimination(units, every, norm)
        if found is not None:
            return found
    return _by_flipping(units, every, norm)


def _by_flipping(units: Joined, among: NDArray[np.bool_], norm: float) -> float:
    """Return the eigenvalue by Lanczos on c - L, where c is at least the norm of L."""
    error = min(1e-11, tolerances(units.n_edges)[1])  # digits are lost in the difference
    found = top_pair(_flipped(units, among, norm), bound=norm, among=among, error=error)
    return NAN if found is None else float(max(norm - found[0], 0.0))


def _flipped(units: Joined, among: NDArray[np.bool_], norm: float) -> Operator:
    """Return norm - L, the constant vector projected out."""
    constant = np.where(among, np.count_nonzero(among) ** -0.5, 0.0)
    return adjacency_operator(units, diagonal=norm - units.degree, deflated=constant)


def _shifted(plain: Operator, degree: NDArray[np.float64], t: float) -> Operator:
    """Return M(t), or its square, from the operator `plain` of A, or of A'A on the first units.

    The vectors whose x is orthogonal to the constant one remain; x is the operator's scale times
    the vector. In the Gram operator, x of the other side is (D - t)^(-1) A x. Units of degree 0
    are left out.
    """
    from topokit.measures.edge_loops import spread

    room = np.where(degree > 0, 1.0 / np.where(degree > 0, degree - t, 1.0), 0.0)
    size = plain.scale.size
    scale, weight = np.sqrt(room[:size]), room[size:]
    sums = (degree[:size] > 0).astype(float)
    if plain.gram:
        weight = weight[plain.rows]
        spread(plain.indptr, plain.indices, weight, sums)
    constant = sums * scale
    constant /= np.sqrt(product(constant, constant))
    return plain._replace(weight=weight, scale=scale, deflated=constant)


def _first_estimate(units: Joined, among: NDArray[np.bool_]) -> float:
    """Return the least quotient of vectors that are 1 at a unit and equal at its neighbours.

    The best value of the neighbours makes it the smaller eigenvalue of a matrix of two rows: the
    unit's degree, and minus its root; the same, and the mean degree of its neighbours. O(edges).
    """
    from topokit.measures.edge_loops import neighbour_sums

    degree = np.where(among, units.degree, 1.0)
    mean = neighbour_sums(units.indptr, units.indices, units.first, units.degree) / degree
    half = (degree - mean) / 2
    low = (degree + mean) / 2 - np.sqrt(half * half + degree)
    return float(low[among].min())


def _by_elimination(units: Joined, among: NDArray[np.bool_], norm: float) -> float | None:
    """Return the eigenvalue by Newton steps to the t at which M(t) has the largest eigenvalue 1.

    `norm` bounds the Laplacian's eigenvalues. None if the eigenvalue is too close to the smallest
    degree, or if Lanczos needs many steps; in the latter case ``nan`` where the other method is not
    safe either: with a hub of degree 1,000 times the smallest, it was seen to take the eigenvalue
    of leaves for that below it.
    """
    from topokit.graph.lanczos import recurrence
    from topokit.measures.edge_loops import quotient

    least = float(units.degree[among].min())
    given_up = NAN if norm > FAR * least else None
    degree = np.where(among, units.degree, 0.0)
    plain = adjacency_operator(units)
    if units.indices.max() < units.first:  # a single layer
        half = np.ones(units.first)
        plain = plain._replace(rows=plain.rows - units.first, gram=True, scale=half)
    residual, error = tolerances(units.n_edges)
    t = min(_first_estimate(units, among), 0.98 * least)
    rng = np.random.default_rng(0)
    start: NDArray[Any] = np.zeros(plain.scale.size)
    basis = np.empty((KEEP, start.size))
    steps, limit, moved = 0, FIRST_STEPS, np.inf
    for turn in range(ROUNDS):
        op = _shifted(plain, degree, t)
        start = np.where(op.scale > 0, start / np.where(op.scale > 0, op.scale, 1.0), 0.0)
        if turn < 2:  # the first vectors may belong to other eigenvalues
            start = _unit(start) + _unit(rng.standard_normal(start.size) * op.scale)
        first = start_vector(op, start)
        if first is None:
            return None
        most = FIRST if turn == 0 else limit - steps
        found = recurrence(op, first, most, 0.1 * residual, 0.1 * error, NEAR, basis)
        steps += found.alpha.size
        if not np.isfinite(found.value):
            return given_up
        if steps >= limit:
            if limit > FIRST_STEPS:
                return given_up
            factored = by_factoring(_flipped(units, among, norm), norm, among)
            if factored is not None:
                return float(norm - factored[0])
            limit = most_steps(units.n_edges, start.size)
        values, x = _combined(op, first, found, t)
        value, change = float(values[0]), abs(float(values[0]) - t)
        if turn and change <= CLOSE * t:
            whole = _whole(op, x[0])
            exact, left = quotient(units.indptr, units.indices, units.first, units.degree, whole)
            # Temple's bound; or, since Newton's errors are each a constant times the last one
            # squared, what the last two changes of t lead to expect
            off = min(left, left * left / max(values[-1] - exact, 1e-12 * norm))
            if found.converged:
                off = min(off, SAFE * change * (change / moved) ** 2)
            if left <= residual * norm and off <= error * max(exact, 0.01 * norm):
                return float(exact)
        start = x[0] + 0.1 ** max(turn, 1) * x[1]
        moved = change
        if value >= (1 - CLOSE) * least:  # eigenvalues of the units of this degree are near
            residual, error = tolerances(0)
        t = value if value < (1 - APART) * least else least - 0.1 * (least - t)
        if least - t < APART * least:
            return None
    return given_up


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a vector divided by its norm; zeros stay."""
    norm = np.sqrt(product(vector, vector))
    return vector / norm if norm > 0 else vector


def _combined(
    op: Operator, first: NDArray[np.float64], found: Found, t: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least values of x'Lx / x'x in the space of the leading vectors of M(t), and x.

    Of the Ritz vectors, of M(t) or its square, x'Lx is t x'x + (1 - Ritz value). Two rows of x: of
    the least value, and the sum of those of the others.
    """
    from topokit.graph.lanczos import summed
    from topokit.measures.edge_loops import masses, mixed

    steps = found.alpha.size
    count = min(PAIRS, steps)
    ritz, small = eigh_tridiagonal(
        found.alpha, found.beta[:-1], select="i", select_range=(steps - count, steps - 1)
    )
    rows = np.zeros((PAIRS, steps))
    rows[:count] = small.T[::-1]
    z = summed(op, first, rows, found.basis)
    mass = masses(op.indptr, op.indices, op.weight, op.scale, z, op.gram)[:count, :count]
    size, axes = np.linalg.eigh(mass)
    independent = size > 1e-10 * size[-1]
    axes = axes[:, independent] / np.sqrt(size[independent])
    shifts, mix = np.linalg.eigh((axes.T * (1 - ritz[::-1])) @ axes)
    weights = np.zeros((PAIRS, 2))
    weights[:count, 0] = axes @ mix[:, 0]
    weights[:count, 1] = axes @ mix[:, 1:].sum(axis=1)
    return t + shifts, mixed(op.scale, z, weights)


def _whole(op: Operator, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x of all units: those that a Gram operator leaves out follow from the others."""
    if not op.gram:
        return x
    from topokit.measures.edge_loops import gathered

    other = np.empty(op.weight.size)
    other[op.rows] = op.weight * gathered(op.indptr, op.indices, x)
    return np.concatenate([x, other])

"""Lifts of complete bipartite graphs by abelian groups, and their spectra by small matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from topokit.generators.adapt import fit
from topokit.generators.fields import digit_sum, field_of_order, primes_near
from topokit.generators.sampling import IntArray, edge_count, graph_from, shuffled
from topokit.graph import LayerGraph

__all__ = ["Group", "cyclic_lift", "lift_sigma", "lifted", "products"]

Shuffle = Literal["none", "in", "out", "both"]
Shifts = Literal["multiplicative", "greedy", "random", "array"]


@dataclass(frozen=True, slots=True)
class Group:
    """The integers modulo `base`, or vectors of `length` of them, numbered by their digits.

    Examples
    --------
    >>> Group(10).add(np.array([7, 8]), np.array(5)).tolist()
    [2, 3]
    >>> Group(3, 2).add(np.array(5), np.array(4)).tolist()  # 12 and 11 in base 3, without carry
    6
    """

    base: int
    length: int = 1

    @property
    def order(self) -> int:
        """Number of elements."""
        return self.base**self.length

    def add(self, x: IntArray, y: IntArray) -> IntArray:
        """Sums, array by array."""
        return digit_sum(x, y, self.base, self.length)

    def characters(self) -> IntArray:
        """Numbers of the characters other than the constant one, one of each conjugate pair."""
        every = np.arange(1, self.order)
        opposite = sum(
            ((-(every // w)) % self.base * w for w in self._weights), np.zeros((), np.int64)
        )
        return every[every <= opposite]

    def values(self, characters: IntArray, x: IntArray) -> NDArray[np.complex128]:
        """Values of characters at elements, array by array: roots of unity."""
        roots = np.exp(2j * np.pi * np.arange(self.base) / self.base)
        if self.length == 1:
            return roots[characters * x % self.base]
        pairing = sum(
            ((characters // w % self.base) * (x // w % self.base) for w in self._weights),
            np.zeros((), np.int64),
        )
        return roots[pairing % self.base]

    @property
    def _weights(self) -> list[int]:
        return [self.base**i for i in range(self.length)]


def cyclic_lift(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shifts: Shifts = "multiplicative",
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """One cyclic lift of a complete bipartite graph (a quasi-cyclic code), cut to measure.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; the order of the group is the nearest to 1 / density that the rule admits.
    rng : numpy.random.Generator
    shifts : {"multiplicative", "greedy", "random", "array"}
        "multiplicative": products of random distinct numbers modulo a prime, no 4-cycles.
        "greedy": random shifts that close no 4-cycle, any order. "random": any shifts.
        "array": i j modulo a prime, the classical array code: no 4-cycles and yet a poor
        expander.
    shuffle : {"none", "in", "out", "both"}

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; no 4-cycle before topping up, where the degrees permit.
    Cost: O(edges); "greedy" O(fan_in**2 fan_out**2) more.

    References
    ----------
    .. [1] Fossorier, 2004; Fan, "Array codes as low-density parity-check codes", 2000.

    Examples
    --------
    >>> cyclic_lift(800, 1000, density=0.01, shifts="greedy", rng=np.random.default_rng(0))
    LayerGraph(800 -> 1000, 8000 edges)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if shifts not in ("multiplicative", "greedy", "random", "array"):
        raise ValueError(
            f"expected shifts to be 'multiplicative', 'greedy', 'random' or 'array', got {shifts!r}"
        )
    wanted = min(max(round(1 / density) if density > 0 else n_in, 2), max(n_in, n_out, 2))
    h = wanted
    if shifts in ("multiplicative", "array"):
        h = min(primes_near(wanted), key=lambda p: abs(p - wanted))
    a, b = -(-n_in // h), -(-n_out // h)
    if shifts == "multiplicative":
        table = products(a, b, Group(h), rng)
    elif shifts == "array":
        table = np.outer(np.arange(a), np.arange(b)) % h
    elif shifts == "greedy":
        table = _greedy_shifts(a, b, h, rng)
    else:
        table = rng.integers(0, h, (a, b))
    graph = fit(lifted(table, Group(h), n_in=n_in, n_out=n_out), n_in, n_out, n_edges, rng)
    return shuffled(graph, shuffle, rng)


def lifted(
    shifts: IntArray,
    group: Group,
    *,
    offsets: IntArray | None = None,
    n_in: int | None = None,
    n_out: int | None = None,
) -> LayerGraph:
    """Build the lift: input block i and output block j are joined by shifts[i, j] + offsets.

    Unit x of input block i feeds unit ``x + shifts[i, j] + offset`` of output block j, added in
    the group. Units beyond `n_in` and `n_out` are left away.
    """
    (a, b), h = shifts.shape, group.order
    offsets = np.zeros(1, np.int64) if offsets is None else offsets
    n_in, n_out = n_in or a * h, n_out or b * h
    x = np.arange(h)
    target = group.add(group.add(shifts[:, :, None], offsets)[..., None], x)
    rows = (target + (np.arange(b) * h)[:, None, None]).ravel()
    columns = np.broadcast_to((np.arange(a) * h)[:, None, None, None] + x, target.shape).ravel()
    keep = (rows < n_out) & (columns < n_in)
    return graph_from(rows[keep], columns[keep], (n_out, n_in))


def lift_sigma(
    shifts: IntArray,
    group: Group,
    *,
    offsets: IntArray | None = None,
    limit: float = np.inf,
) -> float:
    """Second singular value of a lift, exactly, from an eigenproblem of block size a character.

    The lift's singular values are those of the matrices ``[character(shift)]``, one for each
    character of the group; conjugate characters agree. A lift that is seen to pass `limit` is
    given up: what is returned is then a lower bound above it.
    """
    small = shifts if shifts.shape[0] <= shifts.shape[1] else shifts.T
    characters = group.characters()
    matrices = group.values(characters[:, None, None], small)
    gram = matrices @ matrices.conj().transpose(0, 2, 1)
    weight = np.ones(characters.size)
    if offsets is not None and offsets.size > 1:
        weight = np.abs(group.values(characters[:, None], offsets).sum(axis=1)) ** 2
    likely = np.argsort(-weight * np.linalg.norm(gram, axis=(1, 2)))
    start, square = 0, 0.0
    while start < likely.size and square <= limit**2:
        k = likely[start : start + max(8, start)] if np.isfinite(limit) else likely
        start += k.size
        square = max(square, float((weight[k] * np.linalg.eigvalsh(gram[k])[:, -1]).max()))
    return float(np.sqrt(square))


def products(a: int, b: int, group: Group, rng: np.random.Generator) -> IntArray:
    """Inner products of random distinct vectors over the field whose additive group it is.

    The vectors are as short as there are enough of; with one coordinate the lift by these
    shifts has no 4-cycle. The order of the group is a prime power.
    """
    q, length = group.order, 1
    while q**length < max(a, b):
        length += 1
    scale = q ** np.arange(length)
    x = rng.choice(q**length, a, replace=False)[:, None] // scale % q
    y = rng.choice(q**length, b, replace=False)[:, None] // scale % q
    if group.length == 1:
        return x @ y.T % q
    field, table = field_of_order(q), np.zeros((a, b), np.int64)
    for i in range(length):
        table = field.add(table, field.multiply(x[:, i, None], y[:, i]))
    return table


def _greedy_shifts(a: int, b: int, h: int, rng: np.random.Generator) -> IntArray:
    """Random shifts, avoiding those that close a 4-cycle while there are others."""
    shifts = np.zeros((a, b), np.int64)
    for i in range(a):
        for j in range(b):
            closing = (shifts[i, :j] - shifts[:i, :j] + shifts[:i, j : j + 1]) % h
            free = np.setdiff1d(np.arange(h), closing)
            shifts[i, j] = rng.choice(free) if free.size else rng.integers(h)
    return shifts

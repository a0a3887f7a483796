"""Lifts of complete bipartite graphs by abelian groups, and their spectra by small matrices.

A lift of K(a, b) by a group of h elements has a blocks of h input units and b blocks of h output
units. Each pair of blocks is joined by a permutation of the group, x -> x + shift; the a x b table
of shifts is the graph. Since all permutations are translations of one abelian group, they are
diagonal in one basis, the characters of the group. So the biadjacency matrix of size bh x ah falls
into h matrices of size b x a, one for each character, with the entries character(shift), and its
singular values are theirs. The constant character gives the all-ones matrix with the largest one,
sqrt(a b); the second singular value is the largest of all others. It is exact, and costs h small
eigenvalue problems instead of a Lanczos iteration on the whole graph: hundreds of tables of
shifts can be compared before one graph is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from topokit.generators.adapt import fit
from topokit.generators.fields import digit_sum, field_of_order, field_order, primes_near
from topokit.generators.provenance import note, separate_notes
from topokit.generators.random import biregular
from topokit.generators.sampling import (
    IntArray,
    Shuffle,
    edge_count,
    graph_from,
    shuffled,
    transposed,
)
from topokit.graph import LayerGraph, distinct, same_edges
from topokit.graph.spectra import largest_singular_value, mean_degree_bound

__all__ = [
    "Group",
    "cyclic_lift",
    "double_cover",
    "second_by_characters",
    "lifted",
    "products",
    "random_lift",
    "two_lift",
    "two_lifted",
]

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
        """Return sums, array by array."""
        return digit_sum(x, y, self.base, self.length)

    def characters(self) -> IntArray:
        """Return the numbers of all characters but the constant one, one of each conjugate pair."""
        every = np.arange(1, self.order)
        opposite = sum(
            ((-(every // w)) % self.base * w for w in self._weights), np.zeros((), np.int64)
        )
        return every[every <= opposite]

    def values(self, characters: IntArray, x: IntArray) -> NDArray[np.complex128]:
        """Return values of characters at elements, array by array: roots of unity."""
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
    """One cyclic lift of a complete bipartite graph (a quasi-cyclic code), fitted to the layer.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; the order of the group is the nearest to 1 / density that the rule admits.
    rng : numpy.random.Generator
    shifts : {"multiplicative", "greedy", "random", "array"}
        "multiplicative": products of random distinct numbers modulo a prime, no 4-cycles unless
        there are more blocks than shifts, at densities above about one over the root of the size.
        "greedy": random shifts that close no 4-cycle as long as there are any, any order.
        "random": any shifts, which may close some.
        "array": i j modulo a prime, the classical array code: 4-cycles as "multiplicative" and yet
        a poor expander.
    shuffle : {"none", "fan_in", "fan_out", "both"}

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `shifts` is unknown.

    Notes
    -----
    Guarantee: exact number of edges; no 4-cycle before topping up, unless a repair says so or
    shifts are "random".
    Cost: O(edges); "greedy" O(fan_in**2 fan_out**2) more.

    References
    ----------
    .. [1] Fossorier, "Quasi-cyclic low-density parity-check codes from circulant permutation
       matrices", IEEE Transactions on Information Theory 50, 2004.
    .. [2] Fan, "Array codes as low-density parity-check codes", International Symposium on Turbo
       Codes, 2000.

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
    if max(a, b) > h and min(a, b) > 1 and shifts in ("multiplicative", "array"):
        # two blocks of one side are joined to more of the other than there are differences
        note(f"4-cycles, as {max(a, b)} blocks are more than {h} shifts")
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
    the group. Units beyond `n_in` and `n_out` are left out.
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


def second_by_characters(
    shifts: IntArray,
    group: Group,
    *,
    offsets: IntArray | None = None,
    limit: float = np.inf,
) -> float:
    """Return the second singular value of a lift from its shifts, before the lift is built.

    Exact, and another algorithm than that of `topokit.graph.spectra`, which needs the graph: the
    characters of the group block-diagonalise the biadjacency matrix, and the lift's singular
    values are those of the small matrices ``[character(shift)]``, one for each character. So
    hundreds of lifts are compared in the time of building one. Conjugate characters agree and one
    of each pair is taken; the constant character has the degrees.

    Parameters
    ----------
    shifts : (a, b) int64
        Shift of each pair of blocks.
    group : Group
    offsets : (t,) int64, optional
        Added to every shift; by default a single 0.
    limit : float
        Stop as soon as the value is seen to pass it.

    Returns
    -------
    float
        Where `limit` is passed a lower bound above it. Cost O(order min(a, b)^2 max(a, b)).

    Examples
    --------
    >>> shifts = np.outer(np.arange(3), np.arange(4)) % 5
    >>> graph = lifted(shifts, Group(5))
    >>> dense = np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)
    >>> bool(abs(second_by_characters(shifts, Group(5)) - dense[1]) < 1e-9)
    True
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
    """Return a table of shifts: inner products of random distinct vectors over a finite field.

    The additive group of the field is the group of the lift; its order is a prime power. The
    vectors have the fewest coordinates that give enough distinct ones. With one coordinate the
    shifts are x_i y_j, and a 4-cycle would need (x_i - x_k)(y_j - y_l) = 0: there is none.
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
    """Return random shifts, none that closes a 4-cycle as long as there are others."""
    shifts, closed = np.zeros((a, b), np.int64), 0
    for i in range(a):
        for j in range(b):
            closing = (shifts[i, :j] - shifts[:i, :j] + shifts[:i, j : j + 1]) % h
            free = np.setdiff1d(np.arange(h), closing)
            shifts[i, j] = rng.choice(free) if free.size else rng.integers(h)
            closed += free.size == 0
    if closed:
        note(f"4-cycles, as {closed} of {a * b} shifts had no other choice")
    return shifts


def random_lift(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Random lift of a complete bipartite graph: each pair of blocks joined by a permutation.

    Blocks have h units, 1 / h being nearest to the density. Unlike cyclic lifts, random ones stay
    good expanders however large h is.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph
        Second singular value about the bound of the mean degrees.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, both degrees constant.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Amit, Linial, "Random graph coverings I", Combinatorica 22, 2002.

    Examples
    --------
    >>> graph = random_lift(800, 1000, density=0.01, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), set(graph.fan_out.tolist())
    ({8}, {10})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    h = min(max(round(n_in * n_out / max(n_edges, 1)), 1), n_in, n_out)
    a, b = -(-n_in // h), -(-n_out // h)
    x = np.broadcast_to(np.arange(h), (a * b, h))
    target = rng.permuted(x, axis=1).reshape(a, b, h) + (np.arange(b) * h)[:, None]
    source = (np.arange(a) * h)[:, None, None] + np.broadcast_to(np.arange(h), (a, b, h))
    graph = graph_from(target.ravel(), source.ravel(), (b * h, a * h))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def two_lift(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    tries: int = 20,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Repeated 2-lifts by signings whose norm is below the Ramanujan bound.

    The eigenvalues that a 2-lift adds are those of the signed matrix, so each doubling is accepted
    when its norm is below the bound, or the best of several is taken. Marcus, Spielman and
    Srivastava prove that a good signing exists where the degrees of each side are constant; a
    random one is usually good enough. The first graph is dense and near-biregular; it is doubled
    until it is as sparse as the layer.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    tries : int
        Signings to draw for each doubling before the best is taken.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or `tries` is below 1.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, sigma_2 below the bound of the degrees
    unless every try of a doubling fails.
    Cost: O(edges) for each Lanczos step of each try.

    References
    ----------
    .. [1] Bilu, Linial, "Lifts, discrepancy and nearly optimal spectral gap", Combinatorica 26,
       2006.
    .. [2] Marcus, Spielman, Srivastava, "Interlacing families I: bipartite Ramanujan graphs of
       all degrees", Annals of Mathematics 182, 2015.

    Examples
    --------
    >>> graph = two_lift(1024, 1280, density=1 / 128, rng=np.random.default_rng(0))
    >>> from topokit.graph.spectra import leading_singular_values
    >>> bool(leading_singular_values(graph)[1] <= mean_degree_bound(graph))
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if tries < 1:
        raise ValueError(f"expected at least 1 try, got {tries}")
    share, doublings = n_edges / (n_in * n_out), 0
    while 0 < share <= 0.5 and 2 << doublings <= min(n_in, n_out):
        share, doublings = 2 * share, doublings + 1
    sides = -(-n_in // 2**doublings), -(-n_out // 2**doublings)
    with separate_notes():
        graph = biregular(*sides, density=share, rng=rng)
    for _ in range(doublings):
        bound, least = mean_degree_bound(graph), np.inf
        best = np.zeros(graph.n_edges, np.int64)
        for _ in range(tries):
            signs = rng.integers(0, 2, graph.n_edges)
            norm = largest_singular_value(graph, np.asarray(1 - 2 * signs, np.float64))
            if norm < least:
                best, least = signs, norm
            if least <= bound:
                break
        else:
            note(
                f"doubling {graph.n_in} -> {graph.n_out} units added a singular value "
                f"{least - bound:.3g} above the bound"
            )
        graph = two_lifted(graph, best)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def two_lifted(graph: LayerGraph, signs: IntArray) -> LayerGraph:
    """Double a graph: an edge of sign 0 joins equal copies of its units, sign 1 different ones.

    The singular values are those of the graph and those of its matrix with signs
    ``(-1)**signs``.
    """
    rows = np.concatenate([graph.rows, graph.rows + graph.n_out])
    crossing = np.concatenate([signs, 1 - signs])
    columns = np.concatenate([graph.indices, graph.indices]) + crossing * graph.n_in
    return graph_from(rows, columns, (2 * graph.n_out, 2 * graph.n_in))


def double_cover(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    base: str | LayerGraph = "random_regular",
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Bipartite double cover of a graph: outputs i and inputs j joined where i ~ j.

    The singular values are the absolute eigenvalues of the graph, and the cover is connected if
    the graph is connected and not bipartite.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    base : {"random_regular", "paley", "chordal_cycle"} or LayerGraph
        "random_regular": with the degree nearest to the mean fan-in. "paley": differences that are
        squares in a field of q = 1 mod 4 elements, eigenvalues (-1 +- sqrt(q)) / 2, density 1/2.
        "chordal_cycle": x to x + 1, x - 1 and 1 / x modulo a prime, degree 3. A LayerGraph: any
        symmetric one, as `from_networkx` or `from_scipy` makes it.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a graph is given that is not symmetric or has too few units.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, singular values are those of the base.
    Cost: O(edges log edges); "paley" O(n**2).

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", Bulletin of the AMS
       43, 2006.

    Examples
    --------
    >>> graph = double_cover(200, 200, density=0.05, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), (graph.to_csr() != graph.to_csr().T).nnz
    ({10}, 0)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    if isinstance(base, LayerGraph):
        cover = base
        if cover.n_in != cover.n_out or not same_edges(cover, transposed(cover)):
            raise ValueError(f"expected base to be a symmetric graph, got {base!r}")
        if cover.n_in < n:
            raise ValueError(f"expected base to have at least {n} units, got {cover.n_in}")
    elif base == "random_regular":
        cover = _random_regular(n, min(round(n_edges / n_out), n - 1), rng)
    elif base == "paley":
        q = field_order(None, lambda k: k >= n, f"{n} units", "prime power, 1 modulo 4")
        field = field_of_order(q)
        rows = np.repeat(np.arange(q), field.squares.size)
        cover = graph_from(rows, field.add(rows, np.tile(field.squares, q)), (q, q))
    elif base == "chordal_cycle":
        cover = _chordal_cycle(field_order(None, lambda k: k >= max(n, 5), f"{n} units", "prime"))
    else:
        raise ValueError(
            "expected base to be 'random_regular', 'paley', 'chordal_cycle' or a LayerGraph, "
            f"got {base!r}"
        )
    return shuffled(fit(cover, n_in, n_out, n_edges, rng), shuffle, rng)


def _chordal_cycle(p: int) -> LayerGraph:
    """Join each x to x + 1, x - 1 and 1 / x modulo the prime p, and 0 to itself."""
    x = np.arange(p)
    inverse = np.array([0] + [pow(int(k), -1, p) for k in x[1:]])
    columns = np.concatenate([(x + 1) % p, (x - 1) % p, inverse])
    return LayerGraph.from_edge_ids(distinct(np.tile(x, 3) * p + columns), (p, p))


def _random_regular(n: int, degree: int, rng: np.random.Generator) -> LayerGraph:
    """Return a random regular graph (one unit may have one edge less), each edge as two cells.

    Stubs are paired at random; loops and double edges are mixed with as many random pairs, again
    and again until there are none. From n / 2 on the complement is drawn.
    """
    if 2 * degree >= n:
        present = np.ones((n, n), bool)
        sparse = _random_regular(n, max(n - 1 - degree, 0), rng)
        present.flat[sparse.edge_ids] = False
        np.fill_diagonal(present, False)
        return LayerGraph.from_edge_ids(np.flatnonzero(present), (n, n))
    ends = rng.permutation(np.repeat(np.arange(n), degree))[: n * degree // 2 * 2].reshape(-1, 2)
    for _ in range(40):
        low, high = ends.min(axis=1), ends.max(axis=1)
        key = low * n + high
        order = np.argsort(key, kind="stable")
        bad = low == high
        bad[order[1:]] |= key[order[1:]] == key[order[:-1]]
        if not bad.any():
            break
        mixed = np.flatnonzero(bad)
        mixed = distinct(np.concatenate([mixed, rng.integers(0, len(ends), mixed.size + 2)]))
        ends[mixed] = rng.permutation(ends[mixed].ravel()).reshape(-1, 2)
    ends = ends[ends[:, 0] != ends[:, 1]]
    ids = np.concatenate([ends[:, 0] * n + ends[:, 1], ends[:, 1] * n + ends[:, 0]])
    return LayerGraph.from_edge_ids(distinct(ids), (n, n))

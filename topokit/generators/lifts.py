"""Lifts by permutations without structure: random lifts, repeated 2-lifts, double covers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.adapt import fit, mean_degree_bound, top_singular_values
from topokit.generators.fields import field_of_order, field_order
from topokit.generators.origin import apart, note
from topokit.generators.random import biregular
from topokit.generators.sampling import IntArray, edge_count, graph_from, shuffled, transposed
from topokit.graph import LayerGraph, same_edges
from topokit.ids import distinct

__all__ = ["double_cover", "random_lift", "two_lift", "two_lifted"]

Shuffle = Literal["none", "in", "out", "both"]


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
    shuffle : {"none", "in", "out", "both"}
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
    Srivastava prove that a good signing exists; a random one is usually good enough. The start
    is a dense near-biregular graph, doubled until it is as sparse as the layer.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    tries : int
        Signings to draw for each doubling before the best is taken.
    shuffle : {"none", "in", "out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; before cutting, sigma_2 below the bound of the degrees
    unless every try of a doubling fails.
    Cost: O(edges) for each Lanczos step of each try.

    References
    ----------
    .. [1] Bilu, Linial, "Lifts, discrepancy and nearly optimal spectral gap", 2006.
    .. [2] Marcus, Spielman, Srivastava, "Interlacing families I: bipartite Ramanujan graphs of
       all degrees", Annals of Mathematics 182, 2015.

    Examples
    --------
    >>> graph = two_lift(1024, 1280, density=1 / 128, rng=np.random.default_rng(0))
    >>> bool(top_singular_values(graph.to_csr(), 2)[1] <= mean_degree_bound(graph))
    True
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if tries < 1:
        raise ValueError(f"expected at least 1 try, got {tries}")
    share, doublings = n_edges / (n_in * n_out), 0
    while 0 < share <= 0.5 and 2 << doublings <= min(n_in, n_out):
        share, doublings = 2 * share, doublings + 1
    sides = -(-n_in // 2**doublings), -(-n_out // 2**doublings)
    with apart():
        graph = biregular(*sides, density=share, rng=rng)
    for _ in range(doublings):
        bound, least = mean_degree_bound(graph), np.inf
        best = np.zeros(graph.n_edges, np.int64)
        for _ in range(tries):
            signs = rng.integers(0, 2, graph.n_edges)
            norm = top_singular_values(graph.to_csr(1.0 - 2.0 * signs), 1, tol=1e-4)[0]
            if norm < least:
                best, least = signs, norm
            if least <= bound:
                break
        else:
            note(f"a doubling of {graph.n_in} -> {graph.n_out} units {least - bound:.3g} above")
        graph = two_lifted(graph, best)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def two_lifted(graph: LayerGraph, signs: IntArray) -> LayerGraph:
    """Double a graph: edges of sign 0 join copies of one kind, those of sign 1 exchange them.

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
        "random_regular": of the degree that the density asks for. "paley": differences that are
        squares in a field of q = 1 mod 4 elements, eigenvalues (-1 +- sqrt(q)) / 2, density 1/2.
        "chordal_cycle": x to x + 1, x - 1 and 1 / x modulo a prime, degree 3. A LayerGraph: any
        symmetric one, as `from_networkx` or `from_scipy` makes it.
    shuffle : {"none", "in", "out", "both"}
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
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006.

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
    """X joined to its neighbours on a cycle and to 1 / x modulo the prime p; 0 to itself."""
    x = np.arange(p)
    inverse = np.array([0] + [pow(int(k), -1, p) for k in x[1:]])
    columns = np.concatenate([(x + 1) % p, (x - 1) % p, inverse])
    return LayerGraph.from_edge_ids(distinct(np.tile(x, 3) * p + columns), (p, p))


def _random_regular(n: int, degree: int, rng: np.random.Generator) -> LayerGraph:
    """Random graph of a degree (one unit may lack one), by pairing stubs and repairing pairs."""
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

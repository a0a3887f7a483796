"""Algebraic families, cut to size: quadratic residues, Margulis, hypercube."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.fields import field_of_order, field_order
from topokit.generators.origin import note
from topokit.generators.sampling import (
    edge_count,
    graph_from,
    shuffled,
)
from topokit.graph import LayerGraph
from topokit.ids import distinct

__all__ = [
    "hypercube",
    "margulis",
    "quadratic_residues",
]

Shuffle = Literal["none", "in", "out", "both"]


def quadratic_residues(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Output unit i sees input unit j where j - i is a square in the field of q elements.

    For q = 3 modulo 4 all degrees are (q - 1) / 2 and all other singular values are
    sqrt((q + 1) / 4): a certificate for density 1/2 only.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power that is 3 modulo 4; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not such a prime power; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, sigma_2 = sqrt((q + 1) / 4).
    Cost: O(n**2), as its density is 1/2.

    References
    ----------
    .. [1] Paley, "On orthogonal matrices", 1933.

    Examples
    --------
    >>> quadratic_residues(7, 7, density=3 / 7, rng=np.random.default_rng(0)).indices[:3].tolist()
    [1, 2, 4]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    q = field_order(q, lambda p: p >= n, f"{n} units", "prime power, 3 modulo 4")
    field = field_of_order(q)
    rows = np.repeat(np.arange(n_out), field.squares.size)
    columns = field.add(rows, np.tile(field.squares, n_out))
    graph = graph_from(rows, columns, (n_out, q))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def margulis(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Margulis–Gabber–Galil graph on an m x m torus: eight affine neighbours of each unit.

    As a multigraph of degree 8 its second singular value is at most 5 sqrt(2); double edges are
    merged here. Weaker than random graphs; the first explicit expander.

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

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Margulis, 1973; Gabber, Galil, "Explicit constructions of linear-sized
       superconcentrators", 1981.

    Examples
    --------
    >>> margulis(49, 49, density=0.14, rng=np.random.default_rng(0)).n_edges
    336
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    m = int(np.ceil(np.sqrt(max(n_in, n_out))))
    x, y = np.divmod(np.arange(m * m), m)
    images = [
        ((x + sign * (2 * y + odd)) % m * m + y, x * m + (y + sign * (2 * x + odd)) % m)
        for sign in (1, -1)
        for odd in (0, 1)
    ]
    ids = np.concatenate([image * m * m + np.arange(m * m) for pair in images for image in pair])
    single = distinct(ids)
    if single.size < ids.size:
        note(f"{ids.size - single.size} double edges merged")
    graph = LayerGraph.from_edge_ids(single, (m * m, m * m))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def hypercube(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Hypercube: vertices of even and odd weight, joined where one bit differs.

    2**(d - 1) units on each side, degree d, singular values d, d - 2, ...: a weak expander.

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

    Notes
    -----
    Guarantee: exact number of edges; before cutting, singular values abs(d - 2 i).
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Harary, Hayes, Wu, "A survey of the theory of hypercube graphs", 1988.

    Examples
    --------
    >>> hypercube(8, 8, density=0.5, rng=np.random.default_rng(0)).fan_in.tolist()[:2]
    [4, 4]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    d = max(n_in - 1, n_out - 1).bit_length() + 1
    half = np.arange(2 ** (d - 1))
    parity = np.zeros_like(half)
    for bit in range(d):
        parity ^= half >> bit & 1
    odd = half << 1 | (1 - parity)
    rows = np.tile(half, d)
    columns = np.concatenate([(odd ^ 1 << bit) >> 1 for bit in range(d)])
    graph = graph_from(rows, columns, (half.size, half.size))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)

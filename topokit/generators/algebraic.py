"""Algebraic families, cut to size: planes, nets, Margulis, hypercube."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.expander import is_prime, primes_near
from topokit.generators.sampling import (
    IntArray,
    edge_count,
    graph_from,
    shuffled,
    transposed,
)
from topokit.graph import LayerGraph
from topokit.ids import distinct

__all__ = [
    "hypercube",
    "margulis",
    "net",
    "prime_order",
    "projective_number",
    "projective_plane",
    "quadratic_residues",
]

Shuffle = Literal["none", "in", "out", "both"]


def projective_plane(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Points and lines of the projective plane over the field of q elements.

    Each side has q**2 + q + 1 units of degree q + 1; singular values q + 1 and sqrt(q). Units
    beyond the layer are cropped; edges are thinned or topped up: strong thinning leaves a
    random graph, so use it at densities near 1 / q.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, no 4-cycle and sigma_2 = sqrt(q).
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Hirschfeld, "Projective geometries over finite fields", 1998.

    Examples
    --------
    >>> projective_plane(7, 7, density=3 / 7, rng=np.random.default_rng(0))
    LayerGraph(7 -> 7, 21 edges)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    q = prime_order(q, lambda p: p * p + p + 1 >= max(n_in, n_out), f"{max(n_in, n_out)} units")
    a, b = np.divmod(np.arange(q * q), q)
    zero, one = np.zeros(q, np.int64), np.ones(q, np.int64)
    points = np.concatenate(
        [
            np.stack([np.ones_like(a), a, b], axis=1),
            np.stack([zero, one, np.arange(q)], axis=1),
            [[0, 0, 1]],
        ]
    )
    x, y, z = points.T
    u = np.where(x[:, None] == 1, np.stack([-y, x, 0 * x], axis=1), [1, 0, 0])
    v = np.where(
        x[:, None] == 1,
        np.stack([-z, 0 * x, x], axis=1),
        np.where(y[:, None] == 1, np.stack([0 * x, -z, y], axis=1), [0, 1, 0]),
    )
    t = np.arange(q)[:, None]
    lines = np.concatenate([u[:, None] + t * v[:, None], v[:, None]], axis=1) % q
    number = projective_number(lines, q)
    order = projective_number(points, q)
    position = np.empty(q**3, np.int64)
    position[order] = np.arange(order.size)
    rows = np.repeat(np.arange(len(points)), q + 1)
    graph = graph_from(rows, position[number.ravel()], (len(points), len(points)))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def net(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Points and lines of a net of order q: k parallel classes, affine designs TD(k, q).

    k q units of degree q on the smaller side, q**2 units of degree k on the other; singular values
    sqrt(k q), sqrt(q) and 0. At density near 1 / q it needs little thinning.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, no 4-cycle and sigma_2 = sqrt(q).
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Beth, Jungnickel, Lenz, "Design theory", 1999.

    Examples
    --------
    >>> net(15, 25, density=0.2, rng=np.random.default_rng(0)).fan_in.tolist()[:3]
    [3, 3, 3]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    small, large = sorted((n_in, n_out))
    q = prime_order(q, lambda p: p * p >= large and p * p >= small, f"{small} and {large} units")
    k = -(-small // q)
    slope, start, i = np.meshgrid(np.arange(q), np.arange(q), np.arange(k), indexing="ij")
    point = i * q + (start + slope * i) % q
    graph = graph_from((slope * q + start).ravel(), point.ravel(), (q * q, k * q))
    graph = graph if n_in <= n_out else transposed(graph)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def quadratic_residues(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Output unit i sees input unit j where j - i is a square modulo the prime q = 3 mod 4.

    Degree (q - 1) / 2 and all other singular values sqrt((q + 1) / 4): a certificate
    for density 1/2 only.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime that is 3 modulo 4; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not such a prime; the nearest are named.

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
    q = prime_order(q, lambda p: p >= n and p % 4 == 3, f"{n} units and is 3 modulo 4")
    squares = distinct(np.arange(1, q) ** 2 % q)
    rows = np.repeat(np.arange(n_out), squares.size)
    columns = (rows + np.tile(squares, n_out)) % q
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
    graph = LayerGraph.from_edge_ids(distinct(ids), (m * m, m * m))
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


def projective_number(vectors: IntArray, q: int) -> IntArray:
    """Number of each projective vector: first nonzero entry scaled to 1, read in base q."""
    inverse = np.array([0] + [pow(k, -1, q) for k in range(1, q)])
    first = np.take_along_axis(vectors, (vectors != 0).argmax(axis=-1)[..., None], axis=-1)
    scaled = vectors * inverse[first] % q
    return scaled @ q ** np.arange(vectors.shape[-1] - 1, -1, -1)


def prime_order(q: int | None, fits: Callable[[int], bool], what: str) -> int:
    """The given q if it is a prime that fits, else the smallest that does; errors name primes."""
    if q is None:
        return next(k for k in itertools.count(2) if is_prime(k) and fits(k))
    if not is_prime(q):
        low, high = primes_near(q)
        raise ValueError(f"q must be a prime; {low} and {high} are the nearest to {q}")
    if not fits(q):
        best = next(k for k in itertools.count(2) if is_prime(k) and fits(k))
        raise ValueError(f"q must be a prime that gives {what}; {best} is the smallest, got {q}")
    return q

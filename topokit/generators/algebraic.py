"""Algebraic families: finite geometries, Cayley graphs and others, fitted to the layer.

Each family exists for certain sizes only. It is built at the smallest of these that covers the
layer; units beyond the layer are cropped, and edges removed or added up to the exact number. The
guarantees of a family hold exactly at its sizes, and approximately where little is cropped.
"""

from __future__ import annotations

import itertools

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.fields import field_of_order, field_order, is_prime, primes_near
from topokit.generators.provenance import note
from topokit.generators.sampling import (
    IntArray,
    Shuffle,
    edge_count,
    graph_from,
    shuffled,
    transposed,
)
from topokit.graph import LayerGraph, distinct

__all__ = [
    "affine_permutations",
    "affine_plane",
    "generalized_quadrangle",
    "hypercube",
    "lps",
    "margulis",
    "net",
    "projective_plane",
    "quadratic_residues",
]


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

    Each side has q**2 + q + 1 units of degree q + 1; singular values q + 1 and sqrt(q). Where most
    edges have to be removed the rest is a random graph, so use it at densities near 1 / q.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime power or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, no 4-cycle and sigma_2 = sqrt(q).
    Cost: O(n**1.5) for n units a side.

    References
    ----------
    .. [1] Hirschfeld, "Projective geometries over finite fields", 2nd edition, Oxford University
       Press, 1998.

    Examples
    --------
    >>> projective_plane(7, 7, density=3 / 7, rng=np.random.default_rng(0))
    LayerGraph(7 -> 7, 21 edges)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    q = field_order(q, lambda k: k * k + k + 1 >= n, f"{n} units")
    lines, points = _affine_incidences(q)
    n_affine, ideal, each = q * q, np.arange(q + 1), np.arange(q)
    parallel = np.concatenate([np.repeat(each, q), np.full(q, q)])
    lines = np.concatenate([lines, np.arange(n_affine + q), np.full(q + 1, n_affine + q)])
    points = np.concatenate([points, n_affine + parallel, n_affine + ideal])
    graph = graph_from(lines, points, (n_affine + q + 1, n_affine + q + 1))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def affine_plane(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Points and lines of the affine plane over the field of q elements.

    q**2 points of degree q + 1 on the smaller side, q**2 + q lines of degree q on the other;
    singular values sqrt(q**2 + q), sqrt(q) and no others.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime power or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, no 4-cycle and sigma_2 = sqrt(q).
    Cost: O(n**1.5) for n units a side.

    References
    ----------
    .. [1] Beth, Jungnickel, Lenz, "Design theory", 2nd edition, Cambridge University Press, 1999.

    Examples
    --------
    >>> graph = affine_plane(9, 12, density=1 / 3, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), set(graph.fan_out.tolist())
    ({3}, {4})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    small, large = sorted((n_in, n_out))
    q = field_order(
        q, lambda k: k * k >= small and k * k + k >= large, f"{small} and {large} units"
    )
    lines, points = _affine_incidences(q)
    graph = graph_from(lines, points, (q * q + q, q * q))
    graph = graph if n_in <= n_out else transposed(graph)
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
    """Points and lines of a net of order q: k parallel classes, transversal designs TD(k, q).

    k q units of degree q on the smaller side, q**2 units of degree k on the other; singular values
    sqrt(k q), sqrt(q) and 0. At density near 1 / q few edges have to be removed.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime power or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, no 4-cycle and sigma_2 = sqrt(q).
    Cost: O(n**1.5) for n units a side.

    References
    ----------
    .. [1] Beth, Jungnickel, Lenz, "Design theory", 2nd edition, Cambridge University Press, 1999.

    Examples
    --------
    >>> net(15, 25, density=0.2, rng=np.random.default_rng(0)).fan_in.tolist()[:3]
    [3, 3, 3]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    small, large = sorted((n_in, n_out))
    q = field_order(q, lambda k: k * k >= large, f"{small} and {large} units")
    k, field = -(-small // q), field_of_order(q)
    slope, start, i = np.meshgrid(np.arange(q), np.arange(q), np.arange(k), indexing="ij")
    point = i * q + field.add(start, field.multiply(slope, i))
    graph = graph_from((slope * q + start).ravel(), point.ravel(), (q * q, k * q))
    graph = graph if n_in <= n_out else transposed(graph)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def generalized_quadrangle(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Points and lines of the symplectic quadrangle W(q): no 4-cycle and no 6-cycle.

    (q + 1) (q**2 + 1) units of degree q + 1 on each side; singular values q + 1, sqrt(2 q) and 0.
    At density near 1 / (q**2 + 1) few edges have to be removed.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If q is not a prime power or gives too few units; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, girth 8 and sigma_2 = sqrt(2 q).
    Cost: O(n**(4 / 3)) for n units a side.

    References
    ----------
    .. [1] Payne, Thas, "Finite generalized quadrangles", 1984.
    .. [2] Lazebnik, Ustimenko, "Explicit construction of graphs with an arbitrary large girth and
       of large size", 1995.

    Examples
    --------
    >>> graph = generalized_quadrangle(15, 15, density=0.2, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), set(graph.fan_out.tolist())
    ({3}, {3})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    q = field_order(q, lambda k: (k + 1) * (k * k + 1) >= n, f"{n} units")
    field, cube, square = field_of_order(q), q**3, q * q
    a, b, c, x = (v.ravel() for v in np.meshgrid(*[np.arange(q)] * 4, indexing="ij"))
    # Line [a, b, c] has the points (x, a x - b, a x x - 2 b x + c); at infinity there are a point
    # for each (a, b), a line for each (x, z), one of both for each number, and one more of both.
    steep = field.multiply(a, x)
    y = field.subtract(steep, b)
    z = field.add(field.multiply(x, field.subtract(y, b)), c)
    rows, columns = [(a * q + b) * q + c], [(x * q + z) * q + y]
    finite, pairs, numbers = np.arange(cube), np.arange(square), np.arange(q)
    for ends, others in ((rows, columns), (columns, rows)):
        ends.append(finite)
        others.append(cube + finite // q)
    rows += [cube + square + pairs // q, cube + pairs]
    columns += [cube + pairs, cube + square + pairs // q]
    last = cube + square + q
    rows += [np.full(q, last), cube + square + numbers, np.array([last])]
    columns += [cube + square + numbers, np.full(q, last), np.array([last])]
    graph = graph_from(np.concatenate(rows), np.concatenate(columns), (last + 1, last + 1))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def _affine_incidences(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines y = m x + c (numbers m q + c), then x = c (q**2 + c), and points x q + y."""
    field = field_of_order(q)
    m, c, x = (v.ravel() for v in np.meshgrid(*[np.arange(q)] * 3, indexing="ij"))
    y = field.add(field.multiply(m, x), c)
    point = np.arange(q * q)
    lines = np.concatenate([m * q + c, q * q + point // q])
    return lines, np.concatenate([x * q + y, point])


def quadratic_residues(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Paley design: output unit i is joined to input unit i + s for the squares s of a field.

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
    shuffle : {"none", "fan_in", "fan_out", "both"}
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
    .. [1] Paley, "On orthogonal matrices", Journal of Mathematics and Physics 12, 1933.

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

    As a multigraph of degree 8 its second singular value is at most 5 sqrt(2) [3]_; double edges
    are merged here. Weaker than random graphs; the first explicit expander [1]_, with the bounds
    of [2]_.

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

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Margulis, "Explicit constructions of expanders", Problemy Peredachi Informatsii 9, 1973.
    .. [2] Gabber, Galil, "Explicit constructions of linear-sized superconcentrators", Journal of
       Computer and System Sciences 22, 1981.
    .. [3] Jimbo, Maruoka, "Expanders obtained from affine transformations", Combinatorica 7, 1987.

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
    shuffle : {"none", "fan_in", "fan_out", "both"}
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
    .. [1] Harary, Hayes, Wu, "A survey of the theory of hypercube graphs", Computers & Mathematics
       with Applications 15, 1988.

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


def affine_permutations(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Union of random affine permutations x -> a x + b modulo a prime.

    At the sizes of layers about as good an expander as a random graph, described by two numbers for
    each edge of a unit; but a fixed number of such permutations is no expander in the limit of
    large layers [1]_. Double edges are merged and replaced.

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

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Klawe, "Limitations on explicit constructions of expanding graphs", 1984.

    Examples
    --------
    >>> affine_permutations(97, 97, density=0.06, rng=np.random.default_rng(0)).n_edges
    565
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out, 3)
    p = n if is_prime(n) else primes_near(n)[1]
    degree = min(round(n_edges * p / (n_in * n_out)), p)
    a, b = rng.integers(1, p, degree), rng.integers(0, p, degree)
    x = np.arange(p)
    ids = (((a[:, None] * x + b[:, None]) % p) * p + x).ravel()
    single = distinct(ids)
    if single.size < ids.size:
        note(f"{ids.size - single.size} double edges merged")
    graph = LayerGraph.from_edge_ids(single, (p, p))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def lps(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    p: int | None = None,
    q: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Lubotzky–Phillips–Sarnak graph: Cayley graph of PGL(2, q) or PSL(2, q), degree p + 1.

    q (q**2 - 1) / 2 units on each side and sigma_2 <= 2 sqrt(p). Few sizes exist, so for most
    layers much of it is cropped.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    p : int, optional
        A prime that is 1 modulo 4; by default that with p + 1 nearest to the mean fan-in among
        those below q**2 / 4, which give simple graphs; with larger ones, double edges are
        merged.
    q : int, optional
        A prime; by default the smallest that gives enough units.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If p or q is not such a prime; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting and merging, sigma_2 <= 2 sqrt(p).
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Lubotzky, Phillips, Sarnak, "Ramanujan graphs", Combinatorica 8, 1988.
    .. [2] Davidoff, Sarnak, Valette, "Elementary number theory, group theory, and Ramanujan
       graphs", Cambridge University Press, 2003 (for every odd prime q).

    Examples
    --------
    >>> lps(60, 60, density=0.2, p=13, q=5, rng=np.random.default_rng(0)).n_edges
    720
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    n = max(n_in, n_out)
    usual = [k for k in range(5, 200) if is_prime(k) and k % 4 == 1]
    if p is None:
        enough = (k for k in range(3, n + 5) if is_prime(k) and k * (k * k - 1) // 2 >= n)
        smallest = q or next(enough)
        simple = [k for k in usual if 4 * k < smallest**2 and k != smallest] or [5]
        p = min(simple, key=lambda k: abs(k + 1 - n_edges / n_out))
    if not is_prime(p) or p % 4 != 1:
        near = sorted(sorted(usual, key=lambda k: abs(k - p))[:2])
        raise ValueError(
            f"p must be a prime, 1 modulo 4; {near[0]} and {near[1]} are nearest to {p}"
        )
    fits = q is None
    q = field_order(
        q,
        lambda k: k > 2 and k != p and k * (k * k - 1) // 2 >= n and (not fits or k * k > 4 * p),
        f"{n} units, odd and other than p",
        "prime",
    )
    graph = _lps(p, q)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def _lps(p: int, q: int) -> LayerGraph:
    """Return both halves of the Cayley graph if p is not a square modulo q, else its double cover.

    The p + 1 quaternions of norm p with odd positive real part and even other parts become
    matrices modulo q. The Cayley graph of the group they generate, matrices up to a factor, is
    found by a search from the unit matrix. If p is not a square modulo q, each step changes
    whether the determinant is a square, so the graph is bipartite by that; otherwise it is not
    bipartite, and its double cover is taken. O(units (p + 1)).
    """
    size = int(p**0.5) + 1
    even, odd = range(-size - size % 2, size + 1, 2), range(1, size + 1, 2)
    quads = [w for w in itertools.product(odd, even, even, even) if sum(v * v for v in w) == p]
    x, y = next((x, y) for x in range(q) for y in range(q) if (x * x + y * y + 1) % q == 0)
    steps = (
        np.array(
            [
                [a + b * x + d * y, -b * y + c + d * x, -b * y - c + d * x, a - b * x - d * y]
                for a, b, c, d in quads
            ]
        )
        % q
    )
    known = frontier = _projective_number(np.array([[1, 0, 0, 1]]), q)
    while frontier.size:
        reached = distinct(_moved(frontier, steps, q).ravel())
        frontier = reached[~np.isin(reached, known)]
        known = distinct(np.concatenate([known, frontier]))
    e = _digits(known, q)
    squares = np.zeros(q, bool)
    squares[np.arange(1, q) ** 2 % q] = True
    if squares[p % q]:
        left = right = known
    else:
        even_half = squares[(e[:, 0] * e[:, 3] - e[:, 1] * e[:, 2]) % q]
        left, right = known[even_half], known[~even_half]
    columns = np.searchsorted(right, _moved(left, steps, q))
    rows = np.repeat(np.arange(left.size), len(steps))
    ids = distinct(rows * right.size + columns.ravel())
    if ids.size < columns.size:  # only if p is above q**2 / 4
        note(f"{columns.size - ids.size} double edges merged")
    return LayerGraph.from_edge_ids(ids, (left.size, right.size))


def _moved(elements: IntArray, steps: IntArray, q: int) -> IntArray:
    """Return the numbers of the projective matrices element times step, (elements, steps)."""
    a, b, c, d = _digits(elements, q)[:, None].transpose(2, 0, 1)
    e, f, g, h = steps.T
    product = np.stack([a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h], axis=-1)
    return _projective_number(product % q, q)


def _digits(numbers: IntArray, q: int) -> IntArray:
    """Return the four base-q digits of each number, the first the most significant."""
    return numbers[:, None] // q ** np.arange(3, -1, -1) % q


def _projective_number(vectors: IntArray, q: int) -> IntArray:
    """Return the number of each projective vector: scaled to a first entry of 1, read in base q."""
    inverse = np.array([0] + [pow(k, -1, q) for k in range(1, q)])
    first = np.take_along_axis(vectors, (vectors != 0).argmax(axis=-1)[..., None], axis=-1)
    scaled = vectors * inverse[first] % q
    return scaled @ q ** np.arange(vectors.shape[-1] - 1, -1, -1)

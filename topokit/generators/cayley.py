"""Graphs of group actions, cut to size: Lubotzky, Phillips and Sarnak's, affine permutations."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.fields import field_order, is_prime, primes_near
from topokit.generators.origin import note
from topokit.generators.sampling import IntArray, edge_count, shuffled
from topokit.graph import LayerGraph
from topokit.ids import distinct

__all__ = ["affine_permutations", "lps"]

Shuffle = Literal["none", "in", "out", "both"]


def affine_permutations(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Union of random affine permutations x -> a x + b modulo a prime.

    A tiny description of a graph about as good as a random one; double edges are topped up.

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

    q (q**2 - 1) / 2 units on each side and sigma_2 <= 2 sqrt(p). Sizes are sparse, so most layers
    crop much of it: a showcase.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    p : int, optional
        A prime that is 1 modulo 4; by default that with p + 1 nearest to the mean fan-in among
        those below q**2 / 4, which give simple graphs.
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
        If p or q is not such a prime; the nearest are named.

    Notes
    -----
    Guarantee: exact number of edges; before cutting, sigma_2 <= 2 sqrt(p).
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Lubotzky, Phillips, Sarnak, "Ramanujan graphs", Combinatorica 8, 1988.

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
    """Both halves of the Cayley graph if p is no square modulo q, else its double cover."""
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
    return LayerGraph.from_edge_ids(ids, (left.size, right.size))


def _moved(elements: IntArray, steps: IntArray, q: int) -> IntArray:
    """Numbers of the projective matrices element times step, (elements, steps)."""
    a, b, c, d = _digits(elements, q)[:, None].transpose(2, 0, 1)
    e, f, g, h = steps.T
    product = np.stack([a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h], axis=-1)
    return _projective_number(product % q, q)


def _digits(numbers: IntArray, q: int) -> IntArray:
    """Four base-q digits of each number, the first the most significant."""
    return numbers[:, None] // q ** np.arange(3, -1, -1) % q


def _projective_number(vectors: IntArray, q: int) -> IntArray:
    """Number of each projective vector: first nonzero entry scaled to 1, read in base q."""
    inverse = np.array([0] + [pow(k, -1, q) for k in range(1, q)])
    first = np.take_along_axis(vectors, (vectors != 0).argmax(axis=-1)[..., None], axis=-1)
    scaled = vectors * inverse[first] % q
    return scaled @ q ** np.arange(vectors.shape[-1] - 1, -1, -1)

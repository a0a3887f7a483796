"""Finite geometries over any field, cut to size: planes, nets, generalised quadrangles."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.adapt import fit
from topokit.generators.fields import field_of_order, field_order
from topokit.generators.sampling import edge_count, graph_from, shuffled, transposed
from topokit.graph import LayerGraph

__all__ = ["affine_plane", "generalized_quadrangle", "net", "projective_plane"]

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
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
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
    .. [1] Hirschfeld, "Projective geometries over finite fields", 1998.

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
    singular values sqrt(q**2 + q), sqrt(q) and none else.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
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
    .. [1] Beth, Jungnickel, Lenz, "Design theory", 1999.

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
    sqrt(k q), sqrt(q) and 0. At density near 1 / q it needs little thinning.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
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
    .. [1] Beth, Jungnickel, Lenz, "Design theory", 1999.

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
    At density near 1 / (q**2 + 1) it needs little thinning.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    q : int, optional
        A prime power; by default the smallest that gives enough units.
    shuffle : {"none", "in", "out", "both"}
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
    .. [1] Payne, Thas, "Finite generalized quadrangles", 1984; Lazebnik, Ustimenko, "Explicit
       construction of graphs with an arbitrary large girth and of large size", 1995.

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
    """Lines y = m x + c (number m q + c), then x = c (q**2 + c), and their points x q + y."""
    field = field_of_order(q)
    m, c, x = (v.ravel() for v in np.meshgrid(*[np.arange(q)] * 3, indexing="ij"))
    y = field.add(field.multiply(m, x), c)
    point = np.arange(q * q)
    lines = np.concatenate([m * q + c, q * q + point // q])
    return lines, np.concatenate([x * q + y, point])

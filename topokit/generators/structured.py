"""Families that mix across layers: butterfly, RadiX, de Bruijn, Monarch and others.

One layer of such a family is often a union of complete blocks; several layers are needed to join
all inputs to all outputs. `radix`, `butterfly` and `benes` have a stride that depends on the layers
before, so `generate` builds their networks as a whole, by the ``..._network`` functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from topokit.generators.adapt import fit, kronecker_ones
from topokit.generators.provenance import note, recorded
from topokit.generators.random import fixed_fan_in, fixed_fan_out
from topokit.generators.sampling import IntArray, Shuffle, edge_count, graph_from, shuffled
from topokit.graph import LayerGraph, distinct

__all__ = [
    "benes_network",
    "butterfly",
    "butterfly_network",
    "clash_free",
    "completed",
    "de_bruijn",
    "group_shuffle",
    "kautz",
    "monarch",
    "radix",
    "radix_network",
    "x_net",
]


def radix(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    stride: int = 1,
    order: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """RadiX layer: output unit y is joined to inputs y, y + stride, y + 2 stride, ...

    In a network, `generate` gives successive layers the strides 1, r1, r1 r2, ...; once the radices
    multiply up to the width, exactly one path joins each input and output. With an `order`, the
    layer is that of RadiX-Net on so many units, each then replaced by copies (a Kronecker product
    with all ones), and inputs and outputs have equally many paths throughout.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    stride : int
        Step between inputs, at least 1.
    order : int, optional
        Units before they are copied, a divisor of both sizes.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If the order does not divide both sizes; the nearest that do are named.

    Notes
    -----
    Guarantee: exact number of edges; fan-in within one; deterministic unless topped up.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Robinett, Kepner, "RadiX-Net: structured sparse matrices for deep neural networks", arXiv
       1905.00416, 2019.

    Examples
    --------
    >>> radix(8, 8, density=0.25, stride=4, rng=np.random.default_rng(0)).indices[:4].tolist()
    [0, 4, 1, 5]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    _check_stride(stride)
    if order is not None:
        _check_order(order, n_in, n_out)
        core = radix(order, order, density=n_edges / (n_in * n_out), stride=stride, rng=rng)
        graph = kronecker_ones(core, n_in // order, n_out // order)
        return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)
    cut = np.arange(n_out + 1) * n_edges // n_out
    rows = np.repeat(np.arange(n_out), np.diff(cut))
    step = np.arange(n_edges) - cut[rows]
    columns = (rows * n_in // n_out + step * stride) % n_in
    return completed(rows * n_in + columns, n_in, n_out, n_edges, shuffle, rng)


def butterfly(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    stride: int = 1,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Butterfly stage: units are joined if only one digit of their numbers differs.

    The base of the digits is the mean fan-in and `stride` its power for the digit. One stage is
    a union of complete blocks; in a network, `generate` takes one digit after the other. If all
    widths are the same power of the base, the product of all stages joins each pair by exactly one
    path; at other widths it may leave pairs apart. A network of "benes" goes up to the last digit
    and back to the first, so that each pair has several paths.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    stride : int
        Weight of the digit: 1, base, base**2, ...
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the stride is below 1.

    Notes
    -----
    Guarantee: exact number of edges; deterministic unless topped up.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Dao et al., "Learning fast algorithms for linear transforms using butterfly
       factorizations", ICML 2019.
    .. [2] Beneš, "Optimal rearrangeable multistage connecting networks", Bell System Technical
       Journal 43, 1964.

    Examples
    --------
    >>> butterfly(4, 4, density=0.5, stride=2, rng=np.random.default_rng(0)).indices.tolist()
    [0, 2, 1, 3, 0, 2, 1, 3]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    _check_stride(stride)
    base = max(1, min(round(n_edges / n_out), n_in))
    rows = np.repeat(np.arange(n_out), base)
    place = rows * n_in // n_out
    digit = place // stride % base
    columns = place + (np.tile(np.arange(base), n_out) - digit) * stride
    inside = columns < n_in
    ids = (rows * n_in + columns)[inside]
    return completed(ids if n_edges else ids[:0], n_in, n_out, n_edges, shuffle, rng)


def de_bruijn(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """De Bruijn layer: input unit i feeds output units d i, d i + 1, ..., d i + d - 1.

    Numbers are modulo n_out and d is the fan-out, so that consecutive input units feed
    consecutive ranges of output units. One layer is a union of complete blocks if d divides n_out;
    log n / log d layers of n units, rounded up, join all.

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
    Guarantee: exact number of edges; fan-out within one; deterministic unless topped up.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] de Bruijn, "A combinatorial problem", 1946.
    .. [2] Imase, Itoh, "Design to minimize diameter on building-block network", IEEE Transactions
       on Computers 30, 1981.

    Examples
    --------
    >>> graph = de_bruijn(8, 8, density=0.25, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), set(graph.fan_out.tolist())
    ({2}, {2})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    start = np.arange(n_in + 1) * n_edges // n_in
    columns = np.repeat(np.arange(n_in), np.diff(start))
    step = np.arange(n_edges) - start[columns]
    rows = (start[columns] + step) % n_out
    return completed(rows * n_in + columns, n_in, n_out, n_edges, shuffle, rng)


def kautz(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Kautz layer: input unit i feeds output units -(d i + 1), ..., -(d i + d).

    Numbers are modulo n_out and d is the fan-out, so that consecutive input units feed
    consecutive ranges of output units. One layer is a union of complete blocks if d divides n_out;
    log n / log d layers of n units, rounded up, join all.

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
    Guarantee: exact number of edges; fan-out within one; deterministic unless topped up.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Kautz, "Bounds on directed (d, k) graphs", in Theory of cellular logic networks and
       machines, AFCRL-68-0668, 1968.
    .. [2] Imase, Itoh, "A design for directed graphs with minimum diameter", IEEE Transactions on
       Computers 32, 1983.

    Examples
    --------
    >>> graph = kautz(8, 8, density=0.25, rng=np.random.default_rng(0))
    >>> set(graph.fan_in.tolist()), set(graph.fan_out.tolist())
    ({2}, {2})
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    start = np.arange(n_in + 1) * n_edges // n_in
    columns = np.repeat(np.arange(n_in), np.diff(start))
    step = np.arange(n_edges) - start[columns]
    rows = (-1 - start[columns] - step) % n_out
    return completed(rows * n_in + columns, n_in, n_out, n_edges, shuffle, rng)


def monarch(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Monarch layer: blocks on the diagonal, then a permutation of the outputs.

    The permutation sends the outputs of each block to different blocks of the next layer. Two such
    layers join each input to each output if blocks have at least as many units as there are blocks.

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
    Guarantee: exact number of edges; deterministic without shuffle where blocks fit the density.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Dao et al., "Monarch: expressive structured matrices for efficient and accurate
       training", ICML 2022.

    Examples
    --------
    >>> monarch(4, 4, density=0.5, rng=np.random.default_rng(0)).indices.tolist()
    [0, 1, 2, 3, 0, 1, 2, 3]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    blocks = _blocks(n_in, n_out, n_edges)
    place = np.argsort(np.arange(n_out) * blocks // n_out, kind="stable")
    block = place * blocks // n_out
    within = np.arange(n_out) - np.searchsorted(block, block)
    to = np.empty(n_out, np.int64)
    to[np.lexsort((block, within))] = np.arange(n_out)
    graph = _diagonal(n_in, n_out, blocks, to, n_edges)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def group_shuffle(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    groups: int | None = None,
    shuffle: Shuffle = "none",
) -> LayerGraph:
    """Groups on the diagonal, then a random permutation of the outputs.

    The permutation is part of the topology. One layer has as many components as groups.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    groups : int, optional
        By default as many as fit the density. With more, the edges that are missing are added at
        random.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If there are more groups than units.

    Notes
    -----
    Guarantee: exact number of edges.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile
       devices", CVPR 2018.

    Examples
    --------
    >>> group_shuffle(40, 40, density=0.1, rng=np.random.default_rng(0)).n_edges
    160
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if groups is not None and not 1 <= groups <= min(n_in, n_out):
        raise ValueError(f"expected 1 to {min(n_in, n_out)} groups, got {groups!r}")
    groups = groups or _blocks(n_in, n_out, n_edges)
    graph = _diagonal(n_in, n_out, groups, rng.permutation(n_out), n_edges)
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def _check_stride(stride: int) -> None:
    """Raise a ValueError unless the stride is a positive integer."""
    if not isinstance(stride, int | np.integer) or stride < 1:
        raise ValueError(f"expected a stride of at least 1, got {stride!r}")


def _check_order(order: int, n_in: int, n_out: int) -> None:
    """Raise a ValueError unless the order divides both sizes."""
    whole = math.gcd(n_in, n_out)
    if order in (fitting := [k for k in range(1, whole + 1) if whole % k == 0]):
        return
    near = [max((k for k in fitting if k < order), default=1)]
    near += [k for k in fitting if k > order][:1]
    words = " and ".join(map(str, near)) + (" are" if len(near) > 1 else " is")
    raise ValueError(f"order must divide {n_in} and {n_out}; {words} the nearest to {order}")


def _blocks(n_in: int, n_out: int, n_edges: int) -> int:
    """Return the number of complete blocks on the diagonal that have about `n_edges` edges."""
    wanted = round(n_in * n_out / n_edges) if n_edges else min(n_in, n_out)
    return max(1, min(wanted, n_in, n_out))


def _diagonal(n_in: int, n_out: int, blocks: int, to: IntArray, n_edges: int) -> LayerGraph:
    """Return complete blocks on the diagonal, output unit i moved to to[i]; empty for no edge."""
    starts = -(-np.arange(blocks + 1) * n_in // blocks)
    block = np.arange(n_out) * blocks // n_out
    width = np.diff(starts)[block] if n_edges else np.zeros(n_out, np.int64)
    rows = np.repeat(np.arange(n_out), width)
    step = np.arange(rows.size) - np.repeat(np.cumsum(width) - width, width)
    return graph_from(to[rows], starts[block[rows]] + step, (n_out, n_in))


def completed(
    ids: IntArray, n_in: int, n_out: int, n_edges: int, shuffle: str, rng: np.random.Generator
) -> LayerGraph:
    """Return the graph of these edges, fitted to the number of edges, units renumbered."""
    single = distinct(ids)
    if single.size < ids.size:
        note(f"{ids.size - single.size} double edges merged")
    graph = LayerGraph.from_edge_ids(single, (n_out, n_in))
    return shuffled(fit(graph, n_in, n_out, n_edges, rng), shuffle, rng)


def clash_free(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    z: int | None = None,
    kind: int = 2,
    dither: bool = True,
    shuffle: Literal["none", "fan_in", "fan_out", "both"] = "none",
) -> LayerGraph:
    """Dey's clash-free pattern: inputs are stored in z memories, each read once in every cycle.

    A sweep reads all inputs, each memory once in each cycle; the inputs read go to the output
    units one after the other. Without dither there may be z / fan-in separate components.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    z : int, optional
        Number of memories, a divisor of n_in; by default the one nearest to sqrt(n_in).
    kind : int
        As numbered in the authors' code. 1: memories are read in random order. 2: cyclically, from
        random addresses in each sweep. 3: cyclically, from the same random addresses in all sweeps.
    dither : bool
        Whether each sweep permutes the memories.
    shuffle : {"none", "fan_in", "fan_out", "both"}
        Which sides to renumber at random.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If z does not divide n_in (the nearest divisors are named) or the kind is unknown.

    Notes
    -----
    Guarantee: exact number of edges; fan-in within one where no read is double.
    Cost: O(edges log edges + n_in).

    References
    ----------
    .. [1] Dey, Huang, Beerel, Chugg, "Pre-defined sparse neural networks with hardware
       acceleration", IEEE Journal on Emerging and Selected Topics in Circuits and Systems 9, 2019.

    Examples
    --------
    >>> set(clash_free(80, 100, density=0.1, rng=np.random.default_rng(0)).fan_out.tolist())
    {10}
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    divisors = [d for d in range(1, n_in + 1) if n_in % d == 0]
    if z is None:
        z = min(divisors, key=lambda d: abs(d - n_in**0.5))
    if z not in divisors:
        near = sorted(divisors, key=lambda d: (abs(d - z), d))[:2]
        raise ValueError(
            f"z must divide n_in; {' and '.join(map(str, sorted(near)))} are the nearest to {z}"
        )
    sweeps = -(-n_edges // n_in)
    depth = n_in // z
    if kind not in (1, 2, 3):
        raise ValueError(f"expected kind 1, 2 or 3, got {kind!r}")
    cycles = np.broadcast_to(np.arange(depth)[:, None], (sweeps, depth, z))
    if kind == 1:
        address = rng.permuted(cycles, axis=1)
    else:
        address = (rng.integers(0, depth, (sweeps if kind == 2 else 1, 1, z)) + cycles) % depth
    memory = np.broadcast_to(np.arange(z), (sweeps, z))
    if dither:
        memory = rng.permuted(memory, axis=1)
    by_memory = np.take_along_axis(address, np.broadcast_to(memory[:, None], address.shape), axis=2)
    columns = (by_memory * z + memory[:, None]).ravel()[:n_edges]
    cut = np.arange(n_out + 1) * n_edges // n_out
    rows = np.repeat(np.arange(n_out), np.diff(cut))
    return completed(rows * n_in + columns, n_in, n_out, n_edges, shuffle, rng)


def x_net(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
) -> LayerGraph:
    """X-Linear layer: each unit of the smaller side picks distinct partners at random.

    Where both sides are equal, input units pick.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; degrees of the smaller side within one, of the inputs where
    both sides are equal.
    Cost: O(edges log edges).

    References
    ----------
    .. [1] Prabhu, Varma, Namboodiri, "Deep expander networks: efficient deep networks from graph
       theory", ECCV 2018.

    Examples
    --------
    >>> x_net(64, 10, density=0.5, rng=np.random.default_rng(0)).fan_in.tolist()[:2]
    [32, 32]
    """
    family = fixed_fan_out if n_in <= n_out else fixed_fan_in
    return family(n_in, n_out, density=density, rng=rng)


def radix_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """Return RadiX layers, whose stride is the product of the radices before, below the width."""
    return _network("radix", radix, shapes, densities, False, rng, params)


def butterfly_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """Return butterfly stages, one digit after the other, from the first again after the last."""
    return _network("butterfly", butterfly, shapes, densities, False, rng, params)


def benes_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """Return butterfly stages up to the last digit and back to the first: a Beneš network."""
    return _network("benes", butterfly, shapes, densities, True, rng, params)


def _network(
    name: str,
    function: Any,
    shapes: Sequence[tuple[int, int]],
    densities: Sequence[float],
    mirrored: bool,
    rng: np.random.Generator,
    params: dict[str, Any],
) -> list[LayerGraph]:
    """Return layers whose strides are products of the radices before them.

    The digit moves up by one in each layer; after the last it returns to the first, step by step
    if `mirrored`. A `stride` in `params` is used for all layers.
    """
    layer = recorded(name, function)
    if "stride" in params:
        return [
            layer(n_in, n_out, density=share, rng=rng, **params)
            for (n_out, n_in), share in zip(shapes, densities, strict=True)
        ]
    graphs, strides, up = [], [1], True
    for (n_out, n_in), share in zip(shapes, densities, strict=True):
        graphs.append(layer(n_in, n_out, density=share, rng=rng, stride=strides[-1], **params))
        units = params.get("order") or n_in
        radix_here = max(round(share * units), 1)
        if up and strides[-1] * radix_here < units and radix_here > 1:
            strides.append(strides[-1] * radix_here)
        elif mirrored and len(strides) > 1:
            up = False
            strides.pop()
        else:
            up, strides = True, [1]
    return graphs

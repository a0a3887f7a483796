"""Patterns made for hardware: Dey's clash-free reads, X-Linear layers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.random import fixed_fan_in, fixed_fan_out
from topokit.generators.sampling import edge_count
from topokit.generators.structured import completed
from topokit.graph import LayerGraph

__all__ = ["clash_free", "x_net"]


def clash_free(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    z: int | None = None,
    kind: int = 2,
    dither: bool = True,
    shuffle: Literal["none", "in", "out", "both"] = "none",
) -> LayerGraph:
    """Dey's clash-free pattern: inputs in z memories, each read once in every cycle.

    Each sweep reads all inputs, every memory once in each cycle; reads fill the output units one
    after the other. Without dither, z / fan-in separate components may result.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    z : int, optional
        Number of memories, a divisor of n_in; by default the one nearest to its root.
    kind : int
        1: memories are read in any order. 2: cyclically from a start of their own in each sweep.
        3: cyclically from the same starts in all sweeps.
    dither : bool
        Whether each sweep permutes the memories.
    shuffle : {"none", "in", "out", "both"}
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
       acceleration", 2019.

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
    Guarantee: exact number of edges; degrees of the smaller side within one.
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

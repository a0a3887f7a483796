"""Controls with a known pathology: perfectly nested graphs, and a few hubs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from topokit.generators.random import biregular
from topokit.generators.sampling import edge_count, graph_from, shuffled
from topokit.graph import LayerGraph

__all__ = ["hub", "nested"]


def nested(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    shuffle: Literal["none", "in", "out", "both"] = "both",
) -> LayerGraph:
    """Perfectly nested graph: each unit's partners are among those of any unit with more.

    A pathological control with one graph for its degrees.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
        Renumbers the units only.
    shuffle : {"none", "in", "out", "both"}

    Returns
    -------
    LayerGraph

    Notes
    -----
    Guarantee: exact number of edges; nested.
    Cost: O(edges).

    References
    ----------
    .. [1] Almeida-Neto et al., "A consistent metric for nestedness analysis in ecological
       systems", Oikos 117, 2008.

    Examples
    --------
    >>> nested(4, 4, density=0.5, rng=np.random.default_rng(0), shuffle="none").fan_in.tolist()
    [3, 3, 2, 0]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    x = (np.arange(n_out) + 0.5) / n_out
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = (low + high) / 2
        if ((1 - x) ** np.exp(middle)).sum() * n_in > n_edges:
            low = middle
        else:
            high = middle
    curve = n_in * (1 - x) ** np.exp(high)
    fan_in = np.floor(curve).astype(np.int64)
    while missing := n_edges - int(fan_in.sum()):
        room = np.flatnonzero((fan_in < n_in) if missing > 0 else (fan_in > 0))
        order = room[np.argsort((fan_in - curve)[room] * np.sign(missing), kind="stable")]
        fan_in[order[: abs(missing)]] += np.sign(missing)
    fan_in = np.sort(fan_in)[::-1]
    rows = np.repeat(np.arange(n_out), fan_in)
    columns = np.arange(rows.size) - np.repeat(np.cumsum(fan_in) - fan_in, fan_in)
    return shuffled(graph_from(rows, columns, (n_out, n_in)), shuffle, rng)


def hub(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    hubs: int | None = None,
    side: Literal["in", "out"] = "in",
) -> LayerGraph:
    """A few units joined to the whole other side, the rest near-biregular.

    Shows what the raw spectral gap rewards: its largest singular value is that of a star.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
    hubs : int, optional
        By default 4, or as many as take no more than half of the edges.
    side : {"in", "out"}
        The side of the hubs.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If the hubs need more edges than there are; the largest possible number is named.

    Notes
    -----
    Guarantee: exact number of edges; hubs of full degree, other degrees within one per side.
    Cost: O(edges).

    References
    ----------
    .. [1] Hoory, Linial, Wigderson, "Expander graphs and their applications", 2006.

    Examples
    --------
    >>> graph = hub(100, 50, density=0.1, hubs=2, rng=np.random.default_rng(0))
    >>> sorted(graph.fan_out.tolist())[-3:]
    [5, 50, 50]
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if side not in ("in", "out"):
        raise ValueError(f"expected side to be 'in' or 'out', got {side!r}")
    n, other = (n_in, n_out) if side == "in" else (n_out, n_in)
    if hubs is None:
        hubs = n if n_edges == n_in * n_out else min(4, n - 1, n_edges // (2 * other))
    if not 0 <= hubs <= n or hubs * other > n_edges or (hubs == n and n_edges < n * other):
        raise ValueError(
            f"expected at most {min(n, n_edges // other)} hubs with {n_edges} edges and {other} "
            f"units on the other side, got {hubs}"
        )
    hub_cells = np.arange(hubs)[:, None] * other + np.arange(other)
    ids = hub_cells.ravel()
    if hubs < n:
        left = n_edges - hubs * other
        rest = biregular(other, n - hubs, density=left / (other * (n - hubs)), rng=rng)
        ids = np.concatenate([ids, rest.edge_ids + hubs * other])
    units, partners = rng.permutation(n)[ids // other], ids % other
    if side == "in":
        return graph_from(partners, units, (n_out, n_in))
    return graph_from(units, partners, (n_out, n_in))

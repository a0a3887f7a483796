"""Progressive edge growth: graphs of any size with few short cycles."""

from __future__ import annotations

import numpy as np

from topokit.generators.provenance import note
from topokit.generators.sampling import complement, edge_count, even_degrees, graph_from
from topokit.graph import LayerGraph

__all__ = ["peg"]


def peg(
    n_in: int,
    n_out: int,
    *,
    density: float,
    rng: np.random.Generator,
    depth: int | None = None,
) -> LayerGraph:
    """Progressive edge growth: each edge goes to a unit of low degree, as far away as possible.

    Input units take their edges one after the other. Each new edge joins the input unit to the
    output units farthest from it in the graph so far, to one of the smallest degree among them.
    In sparse layers there are no 4-cycles, and the graph is a better expander than a random one.
    Edges are not moved again, so near the densities that a `projective_plane` has some 4-cycles
    remain. Above density 1/2 the complement is taken.

    Parameters
    ----------
    n_in, n_out : int
    density : float
        In [0, 1]; ``round(density n_in n_out)`` edges.
    rng : numpy.random.Generator
        Orders the units and breaks ties.
    depth : int, optional
        Up to how many steps, from input units to output units, distances are searched: cycles
        shorter than ``2 depth + 2`` are avoided where possible. By default 3, 2 from 50,000 edges
        on (as good an expander, in a tenth of the time), or less where all units are closer.

    Returns
    -------
    LayerGraph

    Raises
    ------
    ValueError
        If a size or the density is out of range, or the depth is below 1.

    Notes
    -----
    Guarantee: exact number of edges; fan-out within one; fan-in nearly even.
    Cost: at most O(depth n_in edges); 3 s for 100,000 at depth 3, 8 s for a million at 2.

    References
    ----------
    .. [1] Hu, Eleftheriou, Arnold, "Regular and irregular progressive edge-growth Tanner graphs",
       IEEE Transactions on Information Theory 51, 2005.

    Examples
    --------
    >>> graph = peg(80, 100, density=0.05, rng=np.random.default_rng(0))
    >>> shared = (graph.to_csr() @ graph.to_csr().T).toarray()
    >>> set(graph.fan_out.tolist()), int(np.triu(shared, 1).max())
    ({5}, 1)
    """
    n_in, n_out, n_edges = edge_count(n_in, n_out, density, rng)
    if depth is not None and depth < 1:
        raise ValueError(f"expected a depth of at least 1, got {depth}")
    if 2 * n_edges > n_in * n_out:
        note("complement of a graph of the remaining density")
        left = 1 - n_edges / (n_in * n_out)
        return complement(peg(n_in, n_out, density=left, rng=rng, depth=depth))
    from topokit.generators import kernels
    from topokit.graph.kernels import compiled_seed

    if depth is None:
        overlap = n_edges**2 / (n_in * n_out**2)
        depth = 3 if overlap < 4 and n_edges < 50_000 else 2 if overlap < 30 else 1
    starts = np.concatenate([[0], np.cumsum(even_degrees(n_edges, n_in, rng))])
    state, order = compiled_seed(rng), rng.permutation(n_in)
    ends = np.full(n_edges, -1, np.int64)
    kernels.grow_edges(starts, order, n_out, depth, state, ends)
    return graph_from(ends, np.repeat(np.arange(n_in), np.diff(starts)), (n_out, n_in))

"""Functions that generators share: checks, edge counts, even degrees, distinct cells."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topokit.generators.provenance import note
from topokit.graph import (
    LayerGraph,
    distinct,
    positions_in,
    random_subset,
    sample_absent,
    sorted_ids,
)

__all__ = [
    "Shuffle",
    "by_groups",
    "check_density",
    "check_rng",
    "check_side",
    "check_sizes",
    "choose_cells",
    "choose_per_row",
    "collect",
    "complement",
    "distinct",
    "edge_count",
    "even_degrees",
    "graph_from",
    "shuffled",
    "transposed",
]

IntArray = NDArray[np.int64]
Shuffle = Literal["none", "fan_in", "fan_out", "both"]


def check_sizes(n_in: int, n_out: int) -> tuple[int, int]:
    """Return both sizes as ints; raise a ValueError if one is not a positive integer."""
    try:
        sizes = operator.index(n_in), operator.index(n_out)
    except TypeError:
        sizes = (0, 0)
    if min(sizes) < 1 or isinstance(n_in, bool) or isinstance(n_out, bool):
        raise ValueError(
            f"expected positive integers n_in and n_out, got n_in {n_in!r} and n_out {n_out!r}"
        )
    return sizes


def check_density(density: Any, name: str = "density") -> float:
    """Return the density as a float; raise a ValueError if it is not a number in [0, 1]."""
    try:
        value = float(density)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"expected {name} in [0, 1] (edges over possible edges), got {density!r}")
    return value


def check_rng(rng: Any) -> None:
    """Raise a TypeError unless `rng` is a numpy Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "expected rng to be a numpy.random.Generator such as np.random.default_rng(0), "
            f"got {type(rng).__name__}"
        )


def check_side(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raise a ValueError unless `value` is one of the options for sides of a layer.

    A side is named after its degrees: "fan_in" means the output units, "fan_out" the input units.
    Earlier versions took "out" and "in"; for these the message gives the new name.
    """
    if value in options:
        return
    new = {"in": "fan_out", "out": "fan_in"}.get(value)
    units = {"in": "input", "out": "output"}.get(value)
    renamed = f"; the side of the {units} units is called {new!r}" if new else ""
    raise ValueError(f"expected {name} to be one of {', '.join(options)}, got {value!r}{renamed}")


def edge_count(n_in: int, n_out: int, density: float, rng: Any) -> tuple[int, int, int]:
    """Check the arguments of a generator; return both sizes and ``round(density n_in n_out)``."""
    check_rng(rng)
    n_in, n_out = check_sizes(n_in, n_out)
    return n_in, n_out, round(check_density(density) * n_in * n_out)


def even_degrees(total: int, n: int, rng: np.random.Generator) -> IntArray:
    """Return `n` degrees that add up to `total` and differ by at most one, in random order."""
    degrees = np.full(n, total // n, np.int64)
    degrees[rng.permutation(n)[: total % n]] += 1
    return degrees


def graph_from(rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> LayerGraph:
    """Return the layer graph of distinct cells (output unit, input unit)."""
    ids = np.asarray(rows, np.int64) * shape[1] + np.asarray(columns, np.int64)
    return LayerGraph.from_edge_ids(ids, shape)


def choose_cells(shape: tuple[int, int], k: int, rng: np.random.Generator) -> LayerGraph:
    """Return the layer graph of `k` random cells, every subset equally likely, in O(k log k).

    Cells are drawn as absent ones of the empty graph. Shuffling all n_in * n_out cells would take
    memory for the dense layer; drawing rows first (multinomial degrees) would need corrections
    for rows that overflow.
    """
    empty = LayerGraph(shape, np.zeros(shape[0] + 1, np.int64), np.empty(0, np.int32))
    return LayerGraph.from_edge_ids(sample_absent(empty, k, rng), shape)


def choose_per_row(degrees: IntArray, n_columns: int, rng: np.random.Generator) -> LayerGraph:
    """Draw `degrees[i]` distinct columns for each row `i`, uniform and independent between rows.

    All rows are drawn at once, and duplicates are drawn again. For rows of more than half of the
    columns the absent columns are drawn instead, so that a draw is new with probability at least
    1/2, and O(log n_edges) rounds are enough.
    """
    shape = (degrees.size, n_columns)
    flip = 2 * degrees > n_columns
    wanted = np.where(flip, n_columns - degrees, degrees)
    ids = np.empty(0, np.int64)
    missing = wanted.copy()
    while missing.any():
        rows = np.repeat(np.arange(degrees.size), missing)
        drawn = rows * n_columns + rng.integers(0, n_columns, rows.size)
        ids = distinct(np.concatenate([ids, drawn]))
        missing = wanted - np.bincount(ids // n_columns, minlength=degrees.size)
    if flip.any():
        full = (np.flatnonzero(flip)[:, None] * n_columns + np.arange(n_columns)).ravel()
        absent = full[~np.isin(full, ids)]
        ids = np.concatenate([ids[~flip[ids // n_columns]], absent])
    return LayerGraph.from_edge_ids(ids, shape)


def complement(graph: LayerGraph) -> LayerGraph:
    """Return the graph of all absent cells; O(n_in * n_out), for results of density above 1/2."""
    absent = np.ones(graph.n_out * graph.n_in, bool)
    absent[graph.edge_ids] = False
    return LayerGraph.from_edge_ids(np.flatnonzero(absent), graph.shape)


def by_groups(graph: LayerGraph, draw: Callable[[LayerGraph], LayerGraph]) -> LayerGraph:
    """Apply a function that keeps the shape to the graph of each group of a grouped convolution.

    Only edges within the groups are possible, so a random graph of the whole would have others. A
    graph of one group is passed as it is.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 7], (2, 4), groups=2)
    >>> by_groups(graph, complement).edge_ids.tolist()
    [1, 6]
    """
    if graph.groups == 1:
        return draw(graph)
    height, width = graph.n_out // graph.groups, graph.n_in // graph.groups
    ids = [np.empty(0, np.int64)]
    for group in range(graph.groups):
        indptr = graph.indptr[group * height : (group + 1) * height + 1]
        columns = graph.indices[indptr[0] : indptr[-1]] - np.int32(group * width)
        found = draw(LayerGraph((height, width), indptr - indptr[0], columns))
        ids.append(found.edge_ids + group * height * width)
    return LayerGraph.from_ids_in_groups(np.concatenate(ids), graph.shape, graph.groups)


def transposed(graph: LayerGraph) -> LayerGraph:
    """Return the graph with the two sides exchanged."""
    return graph_from(graph.indices, graph.rows, (graph.n_in, graph.n_out))


def shuffled(graph: LayerGraph, shuffle: str, rng: np.random.Generator) -> LayerGraph:
    """Renumber at random the output units ("fan_in"), the input units ("fan_out"), both or none."""
    check_side("shuffle", shuffle, ("none", "fan_in", "fan_out", "both"))
    rows, columns = graph.rows, graph.indices.astype(np.int64)
    if shuffle in ("fan_out", "both"):
        columns = rng.permutation(graph.n_in)[columns]
    if shuffle in ("fan_in", "both"):
        rows = rng.permutation(graph.n_out)[rows]
    return graph if shuffle == "none" else graph_from(rows, columns, graph.shape)


def collect(
    shape: tuple[int, int],
    n_edges: int,
    draw: Callable[[int], IntArray],
    rng: np.random.Generator,
    start: IntArray | None = None,
) -> LayerGraph:
    """Return a graph of `n_edges` distinct cells drawn by a sampler of edge ids.

    ``draw(k)`` returns about `k` ids, with duplicates. If it hardly yields new ones any more, the
    rest is drawn uniformly among the absent cells.
    """
    ids = distinct(np.empty(0, np.int64) if start is None else start)
    for _ in range(30):
        missing = n_edges - ids.size
        if missing <= 0:
            break
        new = distinct(draw(missing + missing // 4 + 8))
        new = new[positions_in(ids, new) < 0]
        size = new.size
        if size > missing:
            new = new[random_subset(size, missing, rng)]
        ids = sorted_ids(np.concatenate([ids, new]))
        if 20 * size < missing:
            break
    graph = LayerGraph.from_edge_ids(ids, shape)
    if graph.n_edges < n_edges:
        note(f"{n_edges - graph.n_edges} edges drawn uniformly, as the family yields no new ones")
    rest = sample_absent(graph, n_edges - graph.n_edges, rng)
    return LayerGraph.from_edge_ids(np.concatenate([graph.edge_ids, rest]), shape)

"""Networks of layer graphs: tables, chains of layers, nodes with edges, adjacency matrices."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topokit.foreign import ReadingNote
from topokit.graph.layergraph import LayerGraph, Topology, from_coordinates

if TYPE_CHECKING:
    import pandas as pd

    from topokit.graph.convert import GraphLike

__all__ = [
    "SINGLE",
    "adjacency_note",
    "chain_widths",
    "check_chain",
    "describe",
    "edge_pairs",
    "node_attributes",
    "side_by_side",
    "topology_of_nodes",
    "warned_of_adjacency",
]

SINGLE = "layer"
"""The name given to a layer that comes without one."""


def describe(source: GraphLike) -> pd.DataFrame:
    """Return a table of the layers of a network: sizes, edges, density and degrees.

    Parameters
    ----------
    source : dict of LayerGraph
        Or whatever `topokit.graph.convert.as_topology` reads: a graph, a model, a path.

    Returns
    -------
    pandas.DataFrame
        A row for each layer, named by it, and one for the whole ``"network"`` if there are several.
        Columns ``n_in, n_out, edges, density`` and the smallest, mean and largest ``fan_in`` and
        ``fan_out``, which are nan for a side without units. Cost O(edges).

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 1, 2, 4], (2, 3))
    >>> describe({"fc1": graph})[["edges", "fan_in_min", "fan_in_max"]].values.tolist()
    [[4, 1, 3]]
    """
    import pandas as pd

    from topokit.graph.convert import as_topology

    topology = as_topology(source)
    rows = {name: _facts(graph) for name, graph in topology.items()}
    if len(topology) > 1:
        edges = sum(graph.n_edges for graph in topology.values())
        possible = sum(graph.n_possible for graph in topology.values())
        density = edges / possible if possible else float("nan")
        rows["network"] = {"edges": edges, "density": density}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "layer"
    whole = [name for name in frame if name not in ("density", "fan_in_mean", "fan_out_mean")]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _facts(graph: LayerGraph) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "n_in": graph.n_in, "n_out": graph.n_out, "edges": graph.n_edges, "density": graph.density
    }  # fmt: skip
    for side in ("fan_in", "fan_out"):
        degrees = getattr(graph, side)
        some = degrees.size > 0
        facts[f"{side}_min"] = int(degrees.min()) if some else None
        facts[f"{side}_mean"] = float(np.mean(degrees)) if some else float("nan")
        facts[f"{side}_max"] = int(degrees.max()) if some else None
    return facts


def chain_widths(topology: Mapping[str, LayerGraph]) -> list[int] | None:
    """Return the widths ``[n_0, ..., n_L]`` if each layer feeds the next, else ``None``.

    Whether it does is read from the widths, and for attention from the names: queries, keys and
    values of one module (`PROJECTIONS`) read the same units, so a network with them is no chain
    even where all widths are equal.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([], (3, 2))
    >>> chain_widths({"fc1": layer}), chain_widths({"fc1": layer, "fc2": layer})
    ([2, 3], None)
    """
    graphs = list(topology.values())
    if not graphs or any(a.n_out != b.n_in for a, b in itertools.pairwise(graphs)):
        return None
    if side_by_side(topology):
        return None
    return [graphs[0].n_in] + [graph.n_out for graph in graphs]


PROJECTIONS = re.compile("(to_|w_?)?(q|k|v|query|key|value)(_proj)?", re.IGNORECASE)
"""Usual names of the layers of an attention that make queries, keys and values."""


def side_by_side(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two layers of one module that read the same units, by their names; None without any.

    Examples
    --------
    >>> side_by_side(["block1.attention.q_proj", "block1.attention.k_proj", "fc"])
    ('block1.attention.q_proj', 'block1.attention.k_proj')
    >>> side_by_side(["fc1", "fc2"]) is None
    True
    """
    seen: dict[str, str] = {}
    for name in names:
        parent, _, leaf = name.rpartition(".")
        if PROJECTIONS.fullmatch(leaf) and seen.setdefault(parent, name) != name:
            return seen[parent], name
    return None


def check_chain(topology: Mapping[str, LayerGraph], what: str = "") -> list[int]:
    """Return the widths of layers that chain; raise a ValueError if they do not.

    Parameters
    ----------
    topology : dict of LayerGraph
    what : str, optional
        What needs such layers, for the message.

    Returns
    -------
    list of int
        As `chain_widths`.

    Raises
    ------
    ValueError
        If the layers do not chain, or there are none.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([], (3, 2))
    >>> check_chain({"fc1": layer})
    [2, 3]
    >>> check_chain({"fc1": layer, "fc2": layer})
    Traceback (most recent call last):
    ValueError: expected layers that chain (n_out of each equal to n_in of the next), got
    fc1: 2 -> 3, fc2: 2 -> 3
    """
    widths = chain_widths(topology)
    if widths is None:
        layers = ", ".join(f"{name}: {g.n_in} -> {g.n_out}" for name, g in topology.items())
        if beside := side_by_side(topology):
            raise ValueError(
                f"{what + ': ' if what else ''}expected layers that chain, got an attention, whose "
                f"layers {beside[0]} and {beside[1]} read the same units"
            )
        raise ValueError(
            f"{what + ': ' if what else ''}expected layers that chain (n_out of each equal to "
            f"n_in of the next), got {layers or 'no layers'}"
        )
    return widths


def adjacency_note(graph: LayerGraph) -> str | None:
    """Return what to say of a layer that looks like the adjacency matrix of a bipartite graph.

    Such a matrix holds the units of both sides as rows and as columns, ``[[0, B.T], [B, 0]]``,
    while the matrix of a layer is B alone. None if the layer does not look so, or has fewer than
    six units, of which chance makes such layers. O(E).

    Examples
    --------
    >>> pairs = [(0, 4), (1, 4), (1, 5), (2, 5), (3, 5)]  # inputs 0 to 3, outputs 4 and 5
    >>> ids = sorted([6 * i + j for i, j in pairs] + [6 * j + i for i, j in pairs])
    >>> adjacency_note(LayerGraph.from_edge_ids(ids, (6, 6)))[-39:]
    'matrix[4:, :4] if the inputs come first'
    >>> adjacency_note(LayerGraph.from_edge_ids([5], (6, 6))) is None
    True
    """
    n = graph.n_out
    if n != graph.n_in or n < 6 or not graph.n_edges:
        return None
    rows, columns = graph.rows, graph.indices
    above = rows < columns
    last, first = int(rows[above].max(initial=-1)), int(columns[above].min(initial=n))
    # The units of one side end at or after `last`, those of the other begin at or before `first`.
    if 2 * int(above.sum()) != graph.n_edges or last >= first:
        return None
    if not np.array_equal(graph.edge_ids, np.sort(columns.astype(np.int64) * n + rows)):
        return None
    return (
        f"read as a layer of {n} inputs and {n} outputs, but it looks like the adjacency matrix "
        "of a whole bipartite graph, each edge in it twice: the layer alone is "
        f"matrix[{first}:, :{first}] if the inputs come first"
    )


def warned_of_adjacency(graph: LayerGraph) -> LayerGraph:
    """Return a graph that a caller gave as a matrix, after the warning of `adjacency_note`."""
    if note := adjacency_note(graph):
        warnings.warn(note, ReadingNote, stacklevel=3)
    return graph


# --- networks as nodes and edges -----------------------------------------------------------------


def node_attributes(topology: Topology) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each unit of a network, layer by layer: see `topokit.to_networkx`.

    Raises
    ------
    ValueError
        If the layers do not chain.

    Examples
    --------
    >>> list(node_attributes({"a": LayerGraph.from_edge_ids([0], (1, 1))}))[1]
    {'bipartite': 1, 'layer': 1, 'unit': 0, 'layer_name': 'a'}
    """
    names = ["", *topology]
    for layer, width in enumerate(check_chain(topology)):
        own = {"layer_name": names[layer]} if layer and list(topology) != [SINGLE] else {}
        for unit in range(width):
            yield {"bipartite": layer % 2, "layer": layer, "unit": unit, **own}


def edge_pairs(topology: Topology) -> NDArray[np.int64]:
    """Return the (n_edges, 2) ends of all edges, input unit first, units numbered by layers.

    Raises
    ------
    ValueError
        If the layers do not chain.

    Examples
    --------
    >>> edge_pairs({"a": LayerGraph.from_edge_ids([1], (1, 2))}).tolist()
    [[1, 2]]
    """
    starts = np.concatenate([[0], np.cumsum(check_chain(topology))])
    pairs = [
        np.stack([graph.indices + starts[layer], graph.rows + starts[layer + 1]], axis=1)
        for layer, graph in enumerate(topology.values())
    ]
    return np.concatenate(pairs).astype(np.int64)


def topology_of_nodes(
    names: Sequence[Any], attributes: Sequence[Mapping[str, Any]], edges: NDArray[np.int64]
) -> Topology:
    """Return the layers of a graph whose nodes say on which side, or in which layer, they are.

    Parameters
    ----------
    names : sequence
        Names of the nodes, for messages.
    attributes : sequence of mapping
        Of each node: ``bipartite``, ``type``, ``layer``, ``unit`` and ``layer_name`` are looked
        at; see `topokit.from_networkx`. ``layer`` counts if it agrees with ``bipartite`` or stands
        alone.
    edges : (n_edges, 2) int64
        Positions of the two nodes of each edge.

    Returns
    -------
    dict of LayerGraph
        Named by ``layer_name``; without it ``layer``, or ``fc1``, ``fc2``, ... if there are
        several.

    Raises
    ------
    ValueError
        As in `topokit.from_networkx`.

    Examples
    --------
    >>> sides = [{"type": False}, {"type": True}]
    >>> topology_of_nodes("ab", sides, np.array([[0, 1]]))
    {'layer': LayerGraph(1 -> 1, 1 edges)}
    """
    level = _levels(names, attributes)
    order = _numbering(level, attributes)
    a, b = edges[:, 0], edges[:, 1]
    a, b = np.where(level[a] <= level[b], a, b), np.where(level[a] <= level[b], b, a)
    if (wrong := np.flatnonzero(level[b] - level[a] != 1)).size:
        u, v = (names[int(end[wrong[0]])] for end in (a, b))
        raise ValueError(
            "expected edges between the two sides, or from a layer to the next, got "
            f"{u!r} - {v!r} within one or past one"
        )
    widths = np.bincount(level, minlength=2)
    found = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths.tolist())):
        mine = level[a] == i
        found.append(from_coordinates(order[b[mine]], order[a[mine]], (n_out, n_in)))
    labels = _layer_names(level, attributes)
    if len(labels) != len(found):
        labels = [SINGLE] if len(found) == 1 else [f"fc{i}" for i in range(1, len(found) + 1)]
    return dict(zip(labels, found, strict=True))


def _layer_names(level: NDArray[np.int64], attributes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names that the nodes of each layer but the first agree on, if they do."""
    named: dict[int, set[Any]] = {}
    for at, data in zip(level.tolist(), attributes, strict=True):
        if at:
            named.setdefault(at, set()).add(str(data.get("layer_name") or ""))
    names = [next(iter(named[at])) for at in sorted(named) if len(named[at]) == 1]
    good = len(names) == len(named) == len(set(names)) and all(names)
    return names if good else []


def _levels(names: Sequence[Any], attributes: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    """Return the layer of units that each node belongs to, 0 for the network's input."""
    layer, bipartite, side = (_column(attributes, key) for key in ("layer", "bipartite", "type"))
    if layer and None not in layer:  # of every node
        level = np.array(layer, np.int64)
        level -= level.min()
        agrees = all(
            s is None or s == i for s, i in zip(bipartite, (level % 2).tolist(), strict=True)
        )
        if agrees and np.unique(level).size == level.max() + 1 > 1:
            return level
    if all(value is None for value in bipartite) and any(value is not None for value in side):
        bipartite = side
    if not set(bipartite) <= {0, 1}:
        at = next(i for i, value in enumerate(bipartite) if value not in (0, 1))
        name, data = names[at], attributes[at]
        has = ", ".join(map(repr, data)) or "none"
        raise ValueError(
            "expected the node attribute bipartite=0 (input) or 1 (output) on every node, or "
            "igraph's boolean 'type', or numbers 'layer' without a gap; got "
            f"{data.get('bipartite')!r} on node {name!r} (its attributes: {has})"
        )
    return np.array(bipartite, np.int64)


def _column(attributes: Sequence[Mapping[str, Any]], key: str) -> list[int | None]:
    """Return an attribute of all nodes as whole numbers; None where it is none."""
    found = [data.get(key) for data in attributes]
    try:
        numbers = {value: _whole(value) for value in set(found)}
    except TypeError:  # values that are lists or the like
        return [_whole(value) for value in found]
    return [numbers[value] for value in found]


def _whole(value: Any) -> int | None:
    """Return an attribute as a whole number; None if it is none."""
    if isinstance(value, str):
        words = {"true": 1, "false": 0}
        text = value.strip().lower()
        if text in words:
            return words[text]
        try:
            value = float(text)
        except ValueError:
            return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value and abs(number) < 2**31 else None


def _numbering(
    level: NDArray[np.int64], attributes: Sequence[Mapping[str, Any]]
) -> NDArray[np.int64]:
    """Return each node's number among those of its layer: by `unit`, or the order of the nodes."""
    by_level = np.argsort(level, kind="stable")
    given = _column(attributes, "unit")
    if given and None not in given:
        unit = np.array(given, np.int64)
        by_unit = np.lexsort([unit, level])
        same = (np.diff(unit[by_unit]) == 0) & (np.diff(level[by_unit]) == 0)
        by_level = by_level if same.any() else by_unit
    starts = np.searchsorted(level[by_level], np.arange(level.max(initial=0) + 1))
    order = np.empty(level.size, np.int64)
    order[by_level] = np.arange(level.size) - starts[level[by_level]]
    return order

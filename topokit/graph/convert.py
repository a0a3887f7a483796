"""Conversion from and to scipy, networkx and dense masks; topologies as ``.npz`` files.

`as_topology` and `as_graph` let functions accept any object that holds graphs.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from topokit.graph.files import write_atomic
from topokit.graph.layergraph import LayerGraph, Topology, check_chain, distinct

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "GraphLike",
    "as_graph",
    "as_topology",
    "channel_graph",
    "from_dense",
    "from_networkx",
    "from_scipy",
    "load_topology",
    "save_topology",
    "to_networkx",
    "takes_graph",
    "takes_topology",
    "topology_and_previous",
    "unrolled_graph",
]

P = ParamSpec("P")
R = TypeVar("R")
FORMAT = "topokit-topology-1"
DAMAGED = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error)


def from_scipy(matrix: Any) -> LayerGraph:
    """Return the layer graph of a scipy sparse matrix or array of shape (n_out, n_in).

    Every stored entry is an edge, including explicit zeros; entries stored twice are one edge.

    Parameters
    ----------
    matrix : scipy.sparse array or matrix
        Rows are output units. A copy is made.

    Returns
    -------
    LayerGraph

    Raises
    ------
    TypeError
        If `matrix` is not sparse; use `from_dense` for arrays.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from_scipy(sp.coo_array(([0.0, 2.0], ([0, 1], [1, 1])), shape=(2, 3)))
    LayerGraph(3 -> 2, 2 edges)
    """
    if not sp.issparse(matrix):
        raise TypeError(
            f"expected a scipy sparse array of shape (n_out, n_in), got {type(matrix).__name__}; "
            "topokit.graph.convert.from_dense reads dense masks"
        )
    coo = sp.coo_array(cast("Any", matrix))
    n_out, n_in = coo.shape
    ids = np.asarray(coo.row, np.int64) * n_in + np.asarray(coo.col, np.int64)
    return LayerGraph.from_edge_ids(distinct(ids), (n_out, n_in))


def from_dense(mask: ArrayLike) -> LayerGraph:
    """Return the layer graph of a dense (n_out, n_in) array: cells that are not zero are edges.

    Raises
    ------
    ValueError
        If the array does not have two dimensions.

    Examples
    --------
    >>> from_dense([[1, 0], [0.5, -2]])
    LayerGraph(2 -> 2, 3 edges)
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"expected a mask of shape (n_out, n_in), got shape {array.shape}")
    return LayerGraph.from_edge_ids(np.flatnonzero(array), (array.shape[0], array.shape[1]))


def channel_graph(graph: LayerGraph, kernel_cells: int) -> LayerGraph:
    """Reduce a convolution's graph to channels: an edge wherever any kernel cell is one.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(out_channels, in_channels * kernel_cells)``, as ``weight.flatten(1)``.
    kernel_cells : int
        Kernel height times width.

    Returns
    -------
    LayerGraph
        Shape ``(out_channels, in_channels)``.

    Raises
    ------
    ValueError
        If the kernel does not divide the number of input units.

    Examples
    --------
    >>> channel_graph(LayerGraph.from_edge_ids([0, 1, 9], (2, 8)), 4).indices.tolist()
    [0, 0]
    """
    if kernel_cells < 1 or graph.n_in % kernel_cells:
        raise ValueError(
            f"expected a kernel size dividing {graph.n_in} input units, got {kernel_cells}"
        )
    n_channels = graph.n_in // kernel_cells
    ids = graph.rows * n_channels + graph.indices // kernel_cells
    return LayerGraph.from_edge_ids(distinct(ids), (graph.n_out, n_channels))


def unrolled_graph(graph: LayerGraph, kernel_cells: int) -> LayerGraph:
    """Repeat every edge of a channel graph over the kernel: the inverse of `channel_graph`.

    Parameters
    ----------
    graph : LayerGraph
        Shape ``(out_channels, in_channels)``.
    kernel_cells : int
        Kernel height times width.

    Returns
    -------
    LayerGraph
        Shape ``(out_channels, in_channels * kernel_cells)``.

    Raises
    ------
    ValueError
        If `kernel_cells` is below 1.

    Examples
    --------
    >>> unrolled_graph(LayerGraph.from_edge_ids([1], (1, 2)), 3).indices.tolist()
    [3, 4, 5]
    """
    if kernel_cells < 1:
        raise ValueError(f"expected a positive kernel size, got {kernel_cells}")
    cells = np.arange(kernel_cells)
    indices = (graph.indices.astype(np.int64)[:, None] * kernel_cells + cells).ravel()
    return LayerGraph(
        (graph.n_out, graph.n_in * kernel_cells), graph.indptr * kernel_cells, indices
    )


def to_networkx(graph_or_topology: GraphLike) -> nx.Graph:
    """Convert to an undirected networkx graph with a ``bipartite`` attribute on every node.

    Nodes are integers. A layer has its input units first (``bipartite=0``), then its output
    units (``bipartite=1``). A topology whose layers chain has ``layer`` (0 for the network's
    input) and ``unit`` on every node, and ``bipartite`` is the parity of the layer.

    Parameters
    ----------
    graph_or_topology : LayerGraph or dict of LayerGraph
        Or whatever `as_topology` reads: a model, a run, a file.

    Returns
    -------
    networkx.Graph
        Memory is about 300 bytes an edge.

    Raises
    ------
    ValueError
        If a topology's layers do not chain (n_out of one is not n_in of the next).

    Examples
    --------
    >>> graph = to_networkx(LayerGraph.from_edge_ids([0, 3], (2, 2)))
    >>> sorted(graph.edges), graph.nodes[2]["bipartite"]
    ([(0, 2), (1, 3)], 1)
    """
    import networkx as nx

    topology = as_topology(graph_or_topology)
    widths = check_chain(topology)
    result = nx.Graph()
    starts = np.concatenate([[0], np.cumsum(widths)])
    for layer, width in enumerate(widths):
        result.add_nodes_from(
            (int(starts[layer]) + unit, {"bipartite": layer % 2, "layer": layer, "unit": unit})
            for unit in range(width)
        )
    for layer, graph in enumerate(topology.values()):
        left = graph.indices + starts[layer]
        right = graph.rows + starts[layer + 1]
        result.add_edges_from(zip(left.tolist(), right.tolist(), strict=True))
    return result


def from_networkx(graph: nx.Graph) -> LayerGraph:
    """Return the layer graph of a bipartite networkx graph.

    Parameters
    ----------
    graph : networkx.Graph
        Every node has the attribute ``bipartite``: 0 for input units, 1 for output units,
        numbered in the order of iteration. Edge directions and attributes are ignored.

    Raises
    ------
    ValueError
        If a node lacks the attribute, or an edge joins two units of one side.

    Examples
    --------
    >>> import networkx as nx
    >>> from_networkx(nx.complete_bipartite_graph(3, 2))
    LayerGraph(3 -> 2, 6 edges)
    """
    sides: dict[int, dict[Any, int]] = {0: {}, 1: {}}
    for node, side in graph.nodes(data="bipartite"):
        if side not in (0, 1, "0", "1"):
            raise ValueError(
                f"expected the node attribute bipartite=0 (input) or 1 (output) on every node, "
                f"got {side!r} on node {node!r}"
            )
        members = sides[int(side)]
        members[node] = len(members)
    inputs, outputs = sides[0], sides[1]
    ids = set()
    for u, v in graph.edges():
        if (u in inputs) == (v in inputs):
            raise ValueError(f"expected edges between the two sides, got {u!r} - {v!r} within one")
        a, b = (u, v) if u in inputs else (v, u)
        ids.add(outputs[b] * len(inputs) + inputs[a])
    return LayerGraph.from_edge_ids(sorted(ids), (len(outputs), len(inputs)))


def save_topology(path: str | os.PathLike[str], topology: GraphLike) -> None:
    """Write a topology to an ``.npz`` file: names, shapes and CSR arrays, no pickles.

    The file is written under a temporary name in the same folder and renamed, so that it is never
    incomplete.

    Parameters
    ----------
    path : path
        The first argument, as in `numpy.savez`. No suffix is appended.
    topology : dict of LayerGraph
        Or whatever `as_topology` reads: a graph, a model, a run.

    Raises
    ------
    TypeError
        If the arguments come in the other order, or `topology` holds no graphs.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "t.npz"
    >>> save_topology(path, {"fc1": LayerGraph.from_edge_ids([1], (1, 2))})
    >>> load_topology(path)
    {'fc1': LayerGraph(2 -> 1, 1 edges)}
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            "expected save_topology(path, topology), the path first as in numpy.savez, got "
            f"{type(path).__name__} as the path"
        )
    path, topology = Path(path), as_topology(topology)
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "names": np.array(list(topology), dtype=np.str_),
    }
    for i, graph in enumerate(topology.values()):
        arrays[f"shape_{i}"] = np.array(graph.shape, np.int64)
        arrays[f"indptr_{i}"] = graph.indptr
        arrays[f"indices_{i}"] = graph.indices
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_topology(path: str | os.PathLike[str]) -> Topology:
    """Return the topology in a file written by `save_topology`; nothing is unpickled.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of LayerGraph
        In the order in which the layers were saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a topology or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a topology file, found none at {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["format"]) != FORMAT:
                raise ValueError(f"format {str(arrays['format'])!r} is not {FORMAT!r}")
            return {
                str(name): LayerGraph(
                    tuple(int(n) for n in arrays[f"shape_{i}"]),  # type: ignore[arg-type]
                    arrays[f"indptr_{i}"],
                    arrays[f"indices_{i}"],
                )
                for i, name in enumerate(arrays["names"])
            }
    except (*DAMAGED, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a topology written by topokit at {path}: {error}") from error


class Run(Protocol):
    """A recorded run: `topokit.History` or `topokit.Recording`."""

    @property
    def recorded(self) -> list[int]:
        """The recorded epochs."""

    def topology(self, epoch: int) -> Topology:
        """Return the layer graphs of an epoch."""


class Model(Protocol):
    """A torch module, of which only the state dict is used here."""

    def state_dict(self) -> Any:
        """Return the tensors by name."""


if TYPE_CHECKING:
    GraphLike: TypeAlias = (
        LayerGraph
        | Mapping[str, Any]
        | sp.sparray
        | sp.spmatrix
        | nx.Graph
        | Run
        | Model
        | str
        | os.PathLike[str]
    )
else:
    GraphLike = Any

SINGLE = "layer"
"""The name given to a layer that comes without one."""


def as_topology(source: GraphLike) -> Topology:
    """Return the layer graphs that an object holds.

    Functions of topologies call this first, so that each accepts every kind of source below.

    Parameters
    ----------
    source
        A topology (returned as it is), a layer graph, a scipy sparse matrix or a bipartite
        networkx graph (named ``"layer"``), a dict of these; a torch model or state dict, as
        `topokit.topology_of` reads it; a run (`topokit.History`, `topokit.Recording`) at its last
        recorded epoch; an engine of `topokit.attach` or a fitted classifier; or the path of a run
        directory or of a file that ``topokit analyze`` reads.

    Returns
    -------
    dict of LayerGraph

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it holds no layer, or its file is damaged.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> as_topology(LayerGraph.from_edge_ids([1], (1, 2)))
    {'layer': LayerGraph(2 -> 1, 1 edges)}
    """
    return topology_and_previous(source)[0]


def as_graph(source: GraphLike) -> LayerGraph:
    """Return the one layer graph that an object holds; see `as_topology`.

    Raises
    ------
    ValueError
        If it holds several layers or none.

    Examples
    --------
    >>> as_graph({"fc1": LayerGraph.from_edge_ids([1], (1, 2))})
    LayerGraph(2 -> 1, 1 edges)
    """
    if isinstance(source, LayerGraph):
        return source
    topology = as_topology(source)
    if len(topology) != 1:
        names = ", ".join(topology) or "none"
        example = f", such as topology[{next(iter(topology))!r}]" if topology else ""
        raise ValueError(
            f"expected the graph of one layer, got {len(topology)} layers ({names}); "
            f"pass one of them{example}"
        )
    return next(iter(topology.values()))


def takes_graph(
    function: Callable[Concatenate[LayerGraph, P], R],
) -> Callable[Concatenate[GraphLike, P], R]:
    """Make a function of a layer graph accept whatever `as_graph` reads."""

    @functools.wraps(function)
    def accepting(graph: GraphLike, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(as_graph(graph), *args, **kwargs)

    return accepting


def takes_topology(
    function: Callable[Concatenate[Topology, P], R],
) -> Callable[Concatenate[GraphLike, P], R]:
    """Make a function of a topology accept whatever `as_topology` reads."""

    @functools.wraps(function)
    def accepting(topology: GraphLike, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(as_topology(topology), *args, **kwargs)

    return accepting


def topology_and_previous(source: GraphLike) -> tuple[Topology, Topology | None]:
    """Return `as_topology` and, for a run, the topology recorded before it."""
    if isinstance(source, LayerGraph):
        return {SINGLE: source}, None
    torch = sys.modules.get("torch")  # a caller that passes a model has imported torch
    if torch is not None and isinstance(source, torch.nn.Module):
        return _read(source)
    if isinstance(source, Mapping):
        if all(isinstance(graph, LayerGraph) for graph in source.values()):
            return cast("Topology", source), None
        if all(_is_one_layer(graph) for graph in source.values()):
            return {name: as_graph(graph) for name, graph in source.items()}, None
        if torch is not None and not any(_is_one_layer(graph) for graph in source.values()):
            return _read(source)
        wrong = next(graph for graph in source.values() if not _is_one_layer(graph))
        raise TypeError(
            f"expected a topology, a dict of layer graphs, got a dict with a {type(wrong).__name__}"
        )
    if isinstance(source, str | os.PathLike):
        return _read(source)
    if sp.issparse(source):
        return {SINGLE: from_scipy(source)}, None
    if _is_networkx(source):
        return {SINGLE: from_networkx(source)}, None
    recorded = getattr(source, "recorded", None)
    if isinstance(recorded, list):
        if not recorded:
            raise ValueError(f"run {getattr(source, 'name', '')} has not recorded an epoch yet")
        run = cast("Run", source)
        before = run.topology(recorded[-2]) if recorded[1:] else None
        return run.topology(recorded[-1]), before
    for name in ("topology", "topology_"):
        held = getattr(source, name, None)
        if isinstance(held, Mapping):
            return topology_and_previous(held)
    hint = "; topokit.graph.convert.from_dense reads dense masks" if hasattr(source, "ndim") else ""
    raise TypeError(
        "expected a layer graph, a topology (a dict of them), a model, a run, a scipy or networkx "
        f"graph, or a path, got {type(source).__name__}{hint}"
    )


def _is_networkx(source: Any) -> bool:
    networkx = sys.modules.get("networkx")
    return networkx is not None and isinstance(source, networkx.Graph)


def _is_one_layer(source: Any) -> bool:
    return isinstance(source, LayerGraph) or bool(sp.issparse(source)) or _is_networkx(source)


def _read(source: Any) -> tuple[Topology, Topology | None]:
    """Return the topology of a model, a state dict or a file, and the one recorded before it.

    `topokit.read` does the work. It lies in a layer above this package and is therefore imported
    by name, and only when a caller passes such a source: nothing in this package depends on torch.
    """
    found: tuple[Topology, Topology | None] = importlib.import_module("topokit.read").read(source)
    return found

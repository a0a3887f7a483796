"""Conversion from and to scipy, networkx and dense masks; topologies as ``.npz`` files.

`as_topology` and `as_graph` let functions accept any object that holds graphs.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from topokit.foreign import check_units, note_matrices, printable, read_arrays, refusals
from topokit.graph.files import write_atomic
from topokit.graph.layergraph import LayerGraph, Topology, distinct, from_coordinates
from topokit.graph.networks import (
    SINGLE,
    edge_pairs,
    node_attributes,
    topology_of_nodes,
    warned_of_adjacency,
)

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "GraphLike",
    "as_graph",
    "as_topology",
    "channel_graph",
    "dense_graph",
    "from_coordinates",
    "from_dense",
    "from_networkx",
    "from_scipy",
    "load_topology",
    "printable_names",
    "save_topology",
    "stored_entries",
    "suffix_of",
    "to_networkx",
    "takes_graph",
    "takes_topology",
    "topology_and_previous",
    "topology_of_arrays",
    "topology_of_networkx",
    "unrolled_graph",
]

P = ParamSpec("P")
R = TypeVar("R")
FORMAT = "topokit-topology-1"
LONGEST_NAME = 1000  # characters of the name of a layer in a file


def from_scipy(matrix: Any) -> LayerGraph:
    """Return the layer graph of a scipy sparse matrix or array of shape (n_out, n_in).

    Every stored entry is an edge, including explicit zeros, in all formats (those of ``dia`` and
    ``bsr`` as well, which store whole diagonals and blocks); entries stored twice are one edge.

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
    ValueError
        If it has not two dimensions, or indices outside its shape.

    Warns
    -----
    ReadingNote
        If it looks like the adjacency matrix of a whole bipartite graph.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from_scipy(sp.coo_array(([0.0, 2.0], ([0, 1], [1, 1])), shape=(2, 3)))
    LayerGraph(3 -> 2, 2 edges)
    """
    rows, columns, _ = stored_entries(matrix)
    return warned_of_adjacency(from_coordinates(rows, columns, matrix.shape))


def stored_entries(matrix: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return row, column and value of each stored entry of a sparse matrix, zeros included.

    scipy's conversions are compiled code that trusts the indices; they are checked here first.

    Raises
    ------
    TypeError, ValueError
        As in `from_scipy`.

    Examples
    --------
    >>> stored_entries(sp.dia_array(([[5, 0]], [0]), shape=(2, 2)))[2].tolist()
    [5, 0]
    """
    if not sp.issparse(matrix):
        raise TypeError(
            f"expected a scipy sparse array of shape (n_out, n_in), got {type(matrix).__name__}; "
            "topokit.graph.convert.from_dense reads dense masks"
        )
    source = cast("Any", matrix)
    if len(source.shape) != 2:
        raise ValueError(f"expected a sparse array of shape (n_out, n_in), got {source.shape}")
    if source.format == "dia":  # scipy's conversion leaves out the zeros
        columns = np.arange(source.data.shape[1])[None, :]
        rows = columns - np.asarray(source.offsets, np.int64)[:, None]
        inside = (rows >= 0) & (rows < source.shape[0]) & (columns < source.shape[1])
        columns = np.broadcast_to(columns, inside.shape)
        return rows[inside], columns[inside], source.data[inside]
    if source.format in ("csr", "csc", "bsr"):
        source.check_format(full_check=True)
    coo = sp.coo_array(source)
    for name, index, size in zip(("row", "column"), coo.coords, coo.shape, strict=True):
        if index.size and (index.min() < 0 or index.max() >= size):
            raise ValueError(
                f"expected {name} indices in 0..{size - 1}, got {index.min()}..{index.max()}"
            )
    return coo.row, coo.col, coo.data


def from_dense(mask: ArrayLike) -> LayerGraph:
    """Return the layer graph of a dense (n_out, n_in) array: cells that are not zero are edges.

    Raises
    ------
    ValueError
        If the array does not have two dimensions, or holds anything but numbers or booleans.

    Warns
    -----
    ReadingNote
        If it looks like the adjacency matrix of a whole bipartite graph.

    Notes
    -----
    O(n_out * n_in), as the array; besides it, memory of 4 bytes for each edge.

    Examples
    --------
    >>> from_dense([[1, 0], [0.5, -2]])
    LayerGraph(2 -> 2, 3 edges)
    """
    return warned_of_adjacency(dense_graph(mask))


def dense_graph(mask: ArrayLike) -> LayerGraph:
    """Return what `from_dense` does, without a look at whether it is the matrix of a layer."""
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"expected a mask of shape (n_out, n_in), got shape {array.shape}")
    if array.dtype.kind not in "biufc":
        raise ValueError(f"expected a mask of numbers or booleans, got {array.dtype}")
    n_out, n_in = array.shape
    step = max(1, (1 << 22) // max(1, n_in))
    indptr, pieces = np.zeros(n_out + 1, np.int64), []
    for start in range(0, n_out if n_in else 0, step):
        rows, columns = np.nonzero(array[start : start + step])
        counts = np.bincount(rows, minlength=min(step, n_out - start))
        indptr[start + 1 : start + 1 + counts.size] = counts
        pieces.append(columns.astype(np.int32))
    indices = np.concatenate(pieces) if pieces else np.empty(0, np.int32)
    return LayerGraph((n_out, n_in), np.cumsum(indptr), indices)


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
    return LayerGraph.from_edge_ids(distinct(ids), (graph.n_out, n_channels), graph.groups)


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
    shape = (graph.n_out, graph.n_in * kernel_cells)
    return LayerGraph(shape, graph.indptr * kernel_cells, indices, graph.groups)


def to_networkx(graph_or_topology: GraphLike) -> nx.Graph:
    """Convert to an undirected networkx graph with a ``bipartite`` attribute on every node.

    Nodes are integers. A layer has its input units first (``bipartite=0``), then its output
    units (``bipartite=1``). A topology whose layers chain has ``layer`` (0 for the network's
    input) and ``unit`` on every node, ``layer_name`` on those that are not inputs, and
    ``bipartite`` is the parity of the layer. `as_topology` reads all of them back.

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
    result = nx.Graph()
    result.add_nodes_from(enumerate(node_attributes(topology)))
    result.add_edges_from(edge_pairs(topology).tolist())
    return result


def from_networkx(graph: nx.Graph) -> LayerGraph:
    """Return the layer graph of a bipartite networkx graph.

    Parameters
    ----------
    graph : networkx.Graph
        Every node has the attribute ``bipartite``: 0 for input units, 1 for output units; or
        igraph's boolean ``type``, true for output units; or whole numbers ``layer``, as
        `to_networkx` writes them. Units are numbered in the order of the attribute ``unit`` where
        those of a side have different whole numbers, from 0 or from 1, else in the order of
        iteration. Edge directions and attributes are ignored.

    Raises
    ------
    ValueError
        If a node lacks the attribute, an edge joins two units of one side, or the graph has
        several layers: `topokit.graph.convert.as_topology` returns all of them.

    Examples
    --------
    >>> import networkx as nx
    >>> from_networkx(nx.complete_bipartite_graph(3, 2))
    LayerGraph(3 -> 2, 6 edges)
    """
    return as_graph(topology_of_networkx(graph))


def topology_of_networkx(graph: nx.Graph) -> Topology:
    """Return the layers of a networkx graph, as `topology_of_nodes` of its nodes and edges.

    Examples
    --------
    >>> layer = LayerGraph.from_edge_ids([1, 2], (2, 2))
    >>> topology_of_networkx(to_networkx({"a": layer, "b": layer})) == {"a": layer, "b": layer}
    True
    """
    position = {node: i for i, node in enumerate(graph)}
    edges = [(position[u], position[v]) for u, v in graph.edges()]
    pairs = np.array(edges, np.int64).reshape(-1, 2)
    defaults = graph.graph.get("node_default") or {}  # of a GraphML file that networkx has read
    attributes = [{**defaults, **data} for _, data in graph.nodes(data=True)]
    return topology_of_nodes(list(graph), attributes, pairs)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the suffix by which a topology is saved; raise a ValueError for one of another kind.

    Examples
    --------
    >>> suffix_of("graphs/T.GraphML")
    '.graphml'
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".graphml", ".gexf"):
        raise ValueError(
            f"expected a path that ends in .npz, .graphml or .gexf, got {path}; to_networkx and "
            "LayerGraph.to_csr give graphs that other libraries write"
        )
    return suffix


def save_topology(path: str | os.PathLike[str], topology: GraphLike) -> None:
    """Write a topology to an ``.npz`` file: names, shapes, CSR arrays and groups, no pickles.

    A path that ends in ``.graphml`` or ``.gexf`` becomes a file of that format, for Gephi, igraph
    and others. The file is written under a temporary name in the same folder and renamed, so that
    it is never incomplete.

    Parameters
    ----------
    path : path
        The first argument, as in `numpy.savez`, with its suffix.
    topology : dict of LayerGraph
        Or whatever `as_topology` reads: a graph, a model, a run.

    Raises
    ------
    TypeError
        If the arguments come in the other order, or `topology` holds no graphs.
    ValueError
        If GraphML or GEXF is to be written of layers that do not chain, or have no units; or if
        the path ends in none of the three, by which files are read again.

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
    path, suffix, topology = Path(path), suffix_of(path), as_topology(topology)
    if suffix != ".npz":
        from topokit.graph.xml import write_xml

        write_xml(path, topology, suffix)
        return
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "names": np.array(list(topology), dtype=np.str_),
    }
    for i, graph in enumerate(topology.values()):
        arrays[f"shape_{i}"] = np.array(graph.shape, np.int64)
        arrays[f"indptr_{i}"] = graph.indptr
        arrays[f"indices_{i}"] = graph.indices
        if graph.groups != 1:
            arrays[f"groups_{i}"] = np.array(graph.groups, np.int64)
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_topology(path: str | os.PathLike[str]) -> Topology:
    """Return the topology in a file written by `save_topology`; nothing is unpickled.

    Parameters
    ----------
    path : path
        Other files, and run directories, are read as by `topokit.topology_of`.

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
    if Path(path).suffix.lower() == ".npz" and Path(path).is_file():
        with refusals(path, "a topology written by topokit"):
            arrays = read_arrays(path)
            if "format" in arrays:
                return printable_names(topology_of_arrays(arrays))
    return _read(path)[0]


def topology_of_arrays(arrays: Mapping[str, NDArray[Any]]) -> Topology:
    """Return the topology in the arrays of a file written by `save_topology`.

    Raises
    ------
    ValueError, KeyError
        If they are not the arrays of a topology.
    """
    if str(arrays["format"]) != FORMAT:
        raise ValueError(f"format {str(arrays['format'])!r} is not {FORMAT!r}")
    names = [str(name) for name in np.atleast_1d(arrays["names"]).ravel()]
    topology: Topology = {}
    for i, name in enumerate(names):
        if name in topology:
            raise ValueError(f"two layers called {name!r}")
        shape, indices = arrays[f"shape_{i}"].tolist(), arrays[f"indices_{i}"]
        if not (isinstance(shape, list) and len(shape) == 2):
            raise ValueError(f"the shape {shape} of layer {name!r}")
        check_units(shape[0], shape[1], indices.size)
        groups = int(arrays.get(f"groups_{i}", 1))
        topology[name] = LayerGraph((shape[0], shape[1]), arrays[f"indptr_{i}"], indices, groups)
    return topology


def printable_names(topology: Topology) -> Topology:
    r"""Return a topology of a file with control characters in the names of layers escaped.

    Raises
    ------
    ValueError
        If a name has more than 1,000 characters, or two become the same.

    Examples
    --------
    >>> printable_names({"fc\n": LayerGraph.from_edge_ids([], (1, 1))})
    {'fc\\n': LayerGraph(1 -> 1, 0 edges)}
    """
    found: Topology = {}
    for name, graph in topology.items():
        if len(name) > LONGEST_NAME:
            raise ValueError(f"a layer's name of {len(name):,} characters: {name[:40]!r}...")
        shown = printable(name)
        if shown in found:
            raise ValueError(f"two layers called {shown!r}")
        found[shown] = graph
    return found


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


def as_topology(source: GraphLike) -> Topology:
    """Return the layer graphs that an object holds.

    Functions of topologies call this first, so that each accepts every kind of source below.

    Parameters
    ----------
    source
        A topology (returned as it is), a layer graph, a scipy sparse matrix or a graph of
        networkx, igraph or rustworkx (named ``"layer"`` if it has one layer and no name), a dict
        of these; a torch model or state dict, as
        `topokit.topology_of` reads it; a run (`topokit.History`, `topokit.Recording`) at its last
        recorded epoch; an engine of `topokit.attach` or a fitted estimator; or the path of a run
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
            if all(map(sp.issparse, source.values())):
                note_matrices([matrix.shape for matrix in source.values()])
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
        return topology_of_networkx(source), None
    if _is_exchanged(source):
        from topokit.graph.exchange import topology_of_graph

        return topology_of_graph(source), None
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
        "expected a layer graph, a topology (a dict of them), a model, a run, a graph of scipy, "
        "networkx, igraph or rustworkx, or a path, got "
        f"{type(source).__name__}{hint}"
    )


def _is_networkx(source: Any) -> bool:
    networkx = sys.modules.get("networkx")
    return networkx is not None and isinstance(source, networkx.Graph)


def _is_exchanged(source: Any) -> bool:
    """Return whether an object is a graph of igraph or rustworkx, without importing them."""
    modules = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    return bool(modules & {"igraph", "rustworkx"})


def _is_one_layer(source: Any) -> bool:
    kinds = isinstance(source, LayerGraph) or bool(sp.issparse(source))
    return kinds or _is_networkx(source) or _is_exchanged(source)


def _read(source: Any) -> tuple[Topology, Topology | None]:
    """Return the topology of a model, a state dict or a file, and the one recorded before it.

    `topokit.read` does the work. It lies in a layer above this package and is therefore imported
    by name, and only when a caller passes such a source: nothing in this package depends on torch.
    """
    found: tuple[Topology, Topology | None] = importlib.import_module("topokit.read").read(source)
    return found

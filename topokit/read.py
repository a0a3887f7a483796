"""Reading topologies from models, run directories and files; nothing is unpickled.

`READERS` lists the formats. Every reader runs within `topokit.foreign.refusals`, which makes one
sentence of any failure.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from topokit.experiments.record import EXPLORED, History, epoch_at
from topokit.experiments.views import recorded_epochs
from topokit.foreign import (
    Reading,
    ReadingNote,
    check_units,
    count_not_finite,
    first_few,
    printable,
    read_arrays,
    refusals,
)
from topokit.graph import Topology
from topokit.graph.convert import (
    dense_graph,
    from_coordinates,
    printable_names,
    stored_entries,
    topology_of_arrays,
)
from topokit.graph.networks import SINGLE, adjacency_note
from topokit.tables import Table

if TYPE_CHECKING:
    from torch import nn

__all__ = ["READERS", "RUN_MEASURES", "read", "read_topologies", "run_rows", "topology_of"]


def topology_of(
    source: nn.Module | Mapping[str, Any] | str | os.PathLike[str],
    *,
    transpose: bool | None = None,
    entry: str | None = None,
) -> Topology:
    """Return the topology of a network: the edges of each of its layers.

    Parameters
    ----------
    source : torch.nn.Module, mapping of tensors, or path
        A model, a ``state_dict`` (also one inside a checkpoint), or a path: a run directory (its
        last epoch) or a file of a format in `READERS`, which ``topokit list formats`` prints.
        No code in a file is run.
    transpose : bool, optional
        Whether matrices have input units as rows, shape (n_in, n_out). By default rows are output
        units, as in torch, except for weights of a state dict whose bias shows that they are not.
        Refused for models and for files that state their orientation.
    entry : str, optional
        Which state dict of a file that has several, such as ``"generator"``, or which array of an
        ``.npz`` file of dense arrays.

    Returns
    -------
    dict of LayerGraph
        In the order of the model or file (safetensors, which sort by names: in that of the numbers
        in names), under the layer's name (``fc1`` for ``fc1.weight``, but
        ``attn.in_proj_weight``). A layer's edges are the first of these that exists: the graph of
        a topokit layer (exact); the mask of ``torch.nn.utils.prune``, of ``torch.ao.pruning``, of
        a parametrization, or stored under a name that says mask (exact); the stored entries of a
        sparse tensor or matrix; the weights that are not zero. In the last case an edge whose
        weight is exactly zero cannot be seen, and a layer without zeros has density 1. Weights of
        more than two dimensions (convolutions) are flattened: shape ``(n_out, in * kernel)``.
        Vectors do not count as layers; nor, in a module, do embeddings. (In a bare state dict an
        embedding cannot be distinguished from a linear layer and is listed as one; nor can the
        groups of a convolution be seen there.) A weight with two names is one layer. Integers that
        are no mask are left out, as codes of quantized weights, unless they are of 8 bits with a
        sign and no zero point.

    Warns
    -----
    topokit.foreign.ReadingNote
        Names tensors of two or more dimensions that were not used, masks that were not used,
        stored zeros that count as edges, and weights whose reading was a choice.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, too large when unpacked, holds anything but numbers, no layer was
        found, or there are several state dicts and none was chosen.
    TypeError
        If `source` is none of these.

    Notes
    -----
    Time and memory are those of the file or state: O(number of weights), for sparse formats
    O(n_edges). A file may unpack to `topokit.foreign.LIMIT` bytes, or four times its size.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> topology_of(model)
    {'0': LayerGraph(4 -> 3, 12 edges), '2': LayerGraph(3 -> 2, 6 edges)}
    >>> topology_of({"fc1.weight": torch.eye(2, 3)}, transpose=True)
    {'fc1': LayerGraph(2 -> 3, 2 edges)}
    """
    options = Reading(transpose, entry)
    topology, _ = _read_any(source, options)
    _warn(options)
    return topology


def read(source: Any) -> tuple[Topology, Topology | None]:
    """Return the topology of a torch model, a state dict or a path, and the one recorded before.

    `topokit.graph.convert.as_topology` calls it for sources that need torch or files.

    Parameters
    ----------
    source : torch.nn.Module, mapping of tensors, or path
        As `topology_of` reads them.

    Returns
    -------
    topology : dict of LayerGraph
    previous : dict of LayerGraph or None
        The topology recorded before it; None unless `source` is a run with an earlier one.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As in `topology_of`.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> topology, previous = read({"fc1.weight": weight})
    >>> [graph.n_edges for graph in topology.values()], previous
    ([3], None)
    """
    options = Reading()
    found = _read_any(source, options)
    _warn(options)
    return found


def _warn(options: Reading) -> None:
    """Warn of what was noticed, at the line that calls the reading function."""
    if options.notes:
        warnings.warn("; ".join(options.notes), ReadingNote, stacklevel=3)


def _read_any(source: Any, options: Reading) -> tuple[Topology, Topology | None]:
    if isinstance(source, str | os.PathLike):
        topology, previous, about = _read_path(Path(source), -1, options)
        options.notes[:] = about.get("notes", [])
        return topology, previous
    if isinstance(source, Mapping):
        from topokit.nn.states import topology_of_state

        try:
            return printable_names(topology_of_state(source, options)), None
        except ValueError as error:
            raise ValueError(f"expected weights of layers in a state dict, got: {error}") from error
    from torch import nn

    from topokit.nn.extract import topology_of_module

    if isinstance(source, nn.Module):
        options.needs_none("a module")
        return topology_of_module(source), None
    raise TypeError(
        f"expected a torch module, a state dict or a path, got {type(source).__name__}; topokit."
        "measure and figures take matrices and graphs of other libraries directly, and "
        "topokit.from_scipy, from_networkx and the like convert them"
    )


def read_topologies(
    target: str | os.PathLike[str],
    epoch: int = -1,
    *,
    transpose: bool | None = None,
    entry: str | None = None,
) -> tuple[Topology, Topology | None, dict[str, Any]]:
    """Return the topology in `target`, the one recorded before it, and what kind of file it is.

    Parameters
    ----------
    target : path
        A run directory, or a file of a format in `READERS`.
    epoch : int
        For a run, which epoch; -1 is the last.
    transpose, entry
        As in `topology_of`.

    Returns
    -------
    topology : dict of LayerGraph
    previous : dict of LayerGraph or None
        The topology of the run's previously recorded epoch, if there is one.
    about : dict
        ``kind`` ("run", "checkpoint", or the ending of the file); for a run also ``epoch``, for a
        file ``notes``, a list of sentences.

    Raises
    ------
    FileNotFoundError
        If `target` does not exist.
    ValueError
        If it is of no known kind, damaged, or the epoch was not recorded.
    """
    return _read_path(Path(target), epoch, Reading(transpose, entry))


def _read_path(
    target: Path, epoch: int, options: Reading
) -> tuple[Topology, Topology | None, dict[str, Any]]:
    if target.is_dir():
        options.needs_none("a run")
        return _of_run(History.load(target), epoch)
    *most, last = READERS
    kinds = f"a run directory, {', '.join(most)} or {last}"
    shown = printable(str(target))
    if not target.exists():
        raise FileNotFoundError(f"expected {kinds}, found nothing at {shown}")
    suffix = target.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"expected {kinds}, got {shown}")
    if epoch != -1:
        raise ValueError(f"expected a run directory to choose epoch {epoch} of, got {shown}")
    reader = READERS[suffix]
    with refusals(target, EXPECTED.get(suffix, f"a file of the format {suffix}")):
        topology = printable_names(reader(target, options))
    kind = "checkpoint" if reader is _torch_file or reader is _safetensors else suffix[1:]
    return topology, None, {"kind": kind, "notes": options.notes}


def _of_run(history: History, epoch: int) -> tuple[Topology, Topology | None, dict[str, Any]]:
    recorded = recorded_epochs(history)
    at = epoch_at(recorded, epoch)
    topology = history.topology(at)
    before = [e for e in recorded if e < at]
    previous = history.topology(before[-1]) if before else None
    return topology, previous, {"kind": "run", "epoch": at}


RUN_MEASURES = (EXPLORED, "edge_age")
"""Measures that need all epochs up to one: the share of possible edges ever present, and the mean
age of the edges."""


def run_rows(
    target: str | os.PathLike[str], names: Sequence[str], epoch: int = -1
) -> list[tuple[str, str, float]]:
    """Return the measures that need several epochs of a run, as rows of layer, measure and value.

    Parameters
    ----------
    target : path
        A run directory.
    names : sequence of str
        Of `RUN_MEASURES`. ``edge_age``: mean number of epochs since an edge was grown, ``nan``
        without edges.
    epoch : int
        -1 is the last.

    Returns
    -------
    list of (str, str, float)
        Layer, measure and value.

    Raises
    ------
    ValueError
        If `target` is not a run, the epoch was not recorded, or a value was not recorded and
        cannot be computed from the recorded topologies.
    """
    target = Path(target)
    if not target.is_dir():
        raise ValueError(f"{names[0]} needs the epochs of a run directory, got {target}")
    history = History.load(target)
    topology, _, about = _of_run(history, epoch)
    at = about["epoch"]
    explored = history.explored_fraction(at) if EXPLORED in names else {}
    rows = []
    for layer in topology:
        for name in names:
            if name == "edge_age":
                ages = history.ages(at, layer)
                value = float(ages.mean()) if ages.size else float("nan")
            else:
                value = explored[layer]
            rows.append((layer, name, value))
    return rows


def _npz(path: Path, options: Reading) -> Topology:
    """Topology of `save_topology`, matrix of `scipy.sparse.save_npz`, or dense arrays.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> sp.save_npz(folder / "a.npz", sp.csr_array(np.eye(2, 3)))
    >>> _npz(folder / "a.npz", Reading())
    {'a': LayerGraph(3 -> 2, 2 edges)}
    """
    arrays = read_arrays(path)
    if "format" in arrays and "names" in arrays:
        options.needs_none("a topology written by topokit")
        return topology_of_arrays(arrays)
    if "shape" in arrays and arrays.keys() & {"indptr", "row", "offsets"}:
        return {path.stem: _of_matrix(_scipy_matrix(arrays), options)}
    return _dense_layers(arrays, options)


def _npy(path: Path, options: Reading) -> Topology:
    """A dense array: a mask of zeros and ones, or weights of which those not zero are edges.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "a.npy", np.eye(2, 3))
    >>> _npy(folder / "a.npy", Reading(transpose=True))
    {'a': LayerGraph(2 -> 3, 2 edges)}
    """
    return _dense_layers(read_arrays(path), options)


def _scipy_matrix(arrays: Mapping[str, Any]) -> Any:
    """Return the sparse array that `scipy.sparse.save_npz` wrote."""
    kind = arrays["format"].item() if "format" in arrays else b"csr"
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    for name in ("shape", "indices", "indptr", "row", "col", "offsets"):
        if name in arrays and arrays[name].size and arrays[name].dtype.kind not in "iu":
            raise ValueError(f"{name} of {arrays[name].dtype}, expected integers")
    shape = tuple(int(n) for n in arrays["shape"].ravel())
    if len(shape) != 2:
        raise ValueError(f"a sparse array of shape {shape}")
    data = arrays["data"]
    check_units(shape[0], shape[1], data.size)
    if kind in ("csr", "csc", "bsr"):
        build = {"csr": sp.csr_array, "csc": sp.csc_array, "bsr": sp.bsr_array}[kind]
        return build((data, arrays["indices"], arrays["indptr"]), shape=shape)
    if kind == "coo":
        return sp.coo_array((data, (arrays["row"], arrays["col"])), shape=shape)
    if kind == "dia":
        return sp.dia_array((data, arrays["offsets"]), shape=shape)
    raise ValueError(f"a sparse array of the unknown format {printable(kind)!r}")


def _of_matrix(matrix: Any, options: Reading) -> Any:
    """Return the graph of a sparse matrix of a file; stored zeros are edges and are noted."""
    if options.entry is not None:
        raise ValueError(f"no entry {options.entry!r} to choose: it is one matrix")
    rows, columns, values = stored_entries(matrix)
    if len(rows) > LIMIT_ENTRIES:
        raise ValueError(f"{len(rows):,} entries; at most {LIMIT_ENTRIES:,} are read")
    shape = matrix.shape
    if options.transpose:
        rows, columns, shape = columns, rows, shape[::-1]
    check_units(shape[0], shape[1], len(rows))
    graph = from_coordinates(rows, columns, shape)
    zeros = len(values) - int(np.count_nonzero(values))
    if zeros:
        options.notes.append(
            f"{zeros} of the {len(values)} stored entries are zero; they are edges "
            "(matrix = matrix.tocsr(), then matrix.eliminate_zeros(), removes them)"
        )
    options.note_not_finite({"the matrix": count_not_finite(values)})
    if graph.n_edges < len(rows):
        options.notes.append(f"{len(rows) - graph.n_edges} entries are stored more than once")
    if note := adjacency_note(graph):
        options.notes.append(note)
    return graph


LIMIT_ENTRIES = 2**25
"""Entries of a sparse matrix in a file; more take over 2 GB while they are read."""


MOST_NAMED = 6  # arrays in a note


def _dense_layers(arrays: Mapping[str, Any], options: Reading) -> Topology:
    """Return the layers in dense arrays: masks of zeros and ones, and weights."""
    names = set(arrays)
    holds = first_few((f"{name} {a.dtype} {a.shape}" for name, a in arrays.items()), 8)
    if options.entry is not None:
        if options.entry not in arrays:
            raise ValueError(f"no array {options.entry!r}; it has {holds or 'none'}")
        arrays = {options.entry: arrays[options.entry]}
    elif names & {"x", "X", "x_train"} and names & {"y", "Y", "y_train"}:
        raise ValueError(f"a data set ({holds}); choose an array with entry to read it as a layer")
    topology: Topology = {}
    weights, unused = [], []
    not_finite = {}
    for name, array in arrays.items():
        if array.ndim < 2 or array.dtype.kind not in "biufc":
            continue
        if not _is_mask(array):
            if array.dtype.kind not in "fc":
                unused.append(f"{name} {array.dtype} {array.shape}")
                continue
            weights.append(name)
            not_finite[name] = count_not_finite(array)
        array = array.swapaxes(0, 1) if options.transpose else array
        shape = (array.shape[0], int(np.prod(array.shape[1:], dtype=np.int64)))
        check_units(shape[0], shape[1], 0)
        topology[name] = dense_graph(array.reshape(shape))
        if note := adjacency_note(topology[name]):
            options.notes.append(f"{printable(name)}: {note}")
    if not topology:
        raise ValueError(
            f"no layer: it has {holds or 'no arrays'}; a layer is an array of two or more "
            "dimensions, of zeros and ones or of weights as real numbers"
        )
    if weights:
        options.notes.append(
            f"{first_few(weights, MOST_NAMED)} read as weights: cells that are not zero are edges"
        )
    options.note_not_finite(not_finite)
    if all(arrays[name].ndim == 2 for name in topology):
        options.note_order([graph.shape for graph in topology.values()])
    turned = [name for name in topology if _channels_last(arrays[name].shape)]
    if turned:
        options.notes.append(
            f"{first_few(turned, MOST_NAMED)} read as (outputs, inputs, kernel), as in torch; of "
            "arrays (kernel, inputs, outputs), as in Keras and Flax, save "
            "numpy.moveaxis(array, (-1, -2), (0, 1))"
        )
    if unused:
        options.notes.append(
            f"not read, as neither mask nor weights: {first_few(unused, MOST_NAMED)}"
        )
    return topology


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether the first dimensions of an array are rather those of a kernel.

    Examples
    --------
    >>> _channels_last((3, 3, 16, 32)), _channels_last((32, 16, 3, 3)), _channels_last((2, 4))
    (True, False, False)
    """
    return len(shape) > 2 and max(shape[:-2]) < min(shape[-2:])


def _is_mask(array: Any) -> bool:
    """Return whether an array is boolean or has no numbers but 0 and 1."""
    if array.dtype.kind == "b":
        return True
    rows = max(1, (1 << 20) // max(1, array[0].size if len(array) else 1))
    blocks = (array[start : start + rows] for start in range(0, len(array), rows))
    return all(bool(((block == 0) | (block == 1)).all()) for block in blocks)


def _mtx(path: Path, options: Reading) -> Topology:
    """Matrix Market: coordinates, each one an edge; or all cells, those not zero are edges.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> import scipy.io
    >>> scipy.io.mmwrite(folder / "a.mtx", np.eye(2, 3))
    >>> _mtx(folder / "a.mtx", Reading())
    {'a': LayerGraph(3 -> 2, 2 edges)}
    """
    from topokit.graph.matrix_market import read_matrix_market

    found = read_matrix_market(path)
    return {path.stem: _of_matrix(found if sp.issparse(found) else sp.coo_array(found), options)}


def _graphml(path: Path, options: Reading) -> Topology:
    """GraphML: nodes have `bipartite` 0 or 1, igraph's `type`, or the number of their `layer`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> import networkx as nx
    >>> nx.write_graphml(nx.complete_bipartite_graph(3, 2), folder / "a.graphml")
    >>> _graphml(folder / "a.graphml", Reading())
    {'a': LayerGraph(3 -> 2, 6 edges)}
    """
    from topokit.graph.xml import read_graphml

    options.needs_none("GraphML")
    return _named(read_graphml(path), path)


def _gexf(path: Path, options: Reading) -> Topology:
    """GEXF of Gephi: nodes as in GraphML.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> import networkx as nx
    >>> nx.write_gexf(nx.complete_bipartite_graph(3, 2), folder / "a.gexf")
    >>> _gexf(folder / "a.gexf", Reading())
    {'a': LayerGraph(3 -> 2, 6 edges)}
    """
    from topokit.graph.xml import read_gexf

    options.needs_none("GEXF")
    return _named(read_gexf(path), path)


def _named(topology: Topology, path: Path) -> Topology:
    """Return a topology of a file whose one layer, if it has no name, is called like the file."""
    if list(topology) == [SINGLE]:
        return {path.stem: topology[SINGLE]}
    return topology


def _torch_file(path: Path, options: Reading) -> Topology:
    """Checkpoint of torch: tensors only, read with weights_only=True.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> import torch
    >>> torch.save({"fc1.weight": torch.eye(2, 3)}, folder / "a.pt")
    >>> _torch_file(folder / "a.pt", Reading())
    {'fc1': LayerGraph(3 -> 2, 2 edges)}
    """
    from topokit.nn.checkpoints import read_torch
    from topokit.nn.states import topology_of_state

    return topology_of_state(read_torch(path), options)


def _safetensors(path: Path, options: Reading) -> Topology:
    r"""Tensors in the format of safetensors.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> head = b'{"fc1.weight": {"dtype": "U8", "shape": [1, 2], "data_offsets": [0, 2]}}'
    >>> content = len(head).to_bytes(8, "little") + head + b"\0\1"
    >>> _ = (folder / "a.safetensors").write_bytes(content)
    >>> _safetensors(folder / "a.safetensors", Reading())
    {'fc1': LayerGraph(2 -> 1, 1 edges)}
    """
    from topokit.nn.checkpoints import read_safetensors
    from topokit.nn.states import topology_of_state

    return topology_of_state(read_safetensors(path, options), options)


READERS: dict[str, Callable[[Path, Reading], Topology]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".mtx": _mtx,
    ".graphml": _graphml,
    ".gexf": _gexf,
    ".pt": _torch_file,
    ".pth": _torch_file,
    ".ckpt": _torch_file,
    ".bin": _torch_file,
    ".safetensors": _safetensors,
}
"""Functions from a path and how to read it to a topology, by the ending of the file."""
READERS = Table("format", READERS)

_CHECKPOINT = "a torch checkpoint of tensors only"
EXPECTED = {
    ".npz": "a topology, a scipy matrix or dense arrays",
    ".npy": "a dense array",
    ".mtx": "a Matrix Market file",
    ".graphml": "a GraphML file",
    ".gexf": "a GEXF file",
    ".safetensors": "a safetensors file",
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _CHECKPOINT),
}
"""What a file of each ending should be, for messages."""

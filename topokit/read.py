"""Reading topologies from models, run directories and files; nothing is unpickled."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from topokit.experiments.record import EXPLORED, History
from topokit.graph import Topology
from topokit.graph.convert import DAMAGED, from_networkx, from_scipy, load_topology

__all__ = ["RUN_MEASURES", "read", "read_topologies", "run_rows"]


def read(source: Any) -> tuple[Topology, Topology | None]:
    """Return the topology of a torch model, a state dict or a path, and the one recorded before.

    `topokit.graph.convert.as_topology` calls it for sources that need torch or files.

    Parameters
    ----------
    source : torch.nn.Module, mapping of tensors, or path
        Models and state dicts as `topokit.topology_of` reads them, paths as `read_topologies`.

    Returns
    -------
    topology : dict of LayerGraph
    previous : dict of LayerGraph or None
        The topology recorded before it; None unless `source` is a run with an earlier one.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        As in `read_topologies` and `topokit.topology_of`.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> topology, previous = read({"fc1.weight": weight})
    >>> [graph.n_edges for graph in topology.values()], previous
    ([3], None)
    """
    if isinstance(source, str | os.PathLike):
        topology, previous, _ = read_topologies(source)
        return topology, previous
    from topokit.nn.extract import topology_of

    return topology_of(source), None


def read_topologies(
    target: str | os.PathLike[str], epoch: int = -1
) -> tuple[Topology, Topology | None, dict[str, Any]]:
    """Return the topology in `target`, the one recorded before it, and what kind of file it is.

    Parameters
    ----------
    target : path
        A run directory, a topology or scipy matrix (.npz), Matrix Market (.mtx), GraphML, a
        torch checkpoint (.pt, .pth) or safetensors. Matrices have output units as rows.
    epoch : int
        For a run, which epoch; -1 is the last.

    Returns
    -------
    topology : dict of LayerGraph
    previous : dict of LayerGraph or None
        The topology of the run's previously recorded epoch, if there is one.
    about : dict
        ``kind`` ("run", "checkpoint", or the ending of the file); for a run also ``epoch``.

    Raises
    ------
    FileNotFoundError
        If `target` does not exist.
    ValueError
        If it is of no known kind, damaged, or the epoch was not recorded.
    """
    target = Path(target)
    if target.is_dir():
        return _of_run(History.load(target), epoch)
    *most, last = READERS
    kinds = f"a run directory, {', '.join(most)} or {last}"
    if not target.is_file():
        raise FileNotFoundError(f"expected {kinds}, found nothing at {target}")
    suffix = target.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"expected {kinds}, got {target}")
    reader = READERS[suffix]
    kind = "checkpoint" if reader is _checkpoint else suffix[1:]
    return reader(target), None, {"kind": kind}


def _of_run(history: History, epoch: int) -> tuple[Topology, Topology | None, dict[str, Any]]:
    recorded = history.recorded
    if not recorded:
        raise ValueError(f"run {history.name} has not recorded an epoch yet")
    at = recorded[epoch] if -len(recorded) <= epoch < 0 else epoch
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


def _npz(path: Path) -> Topology:
    """Read a topology of `topokit.save_topology` or a matrix of `scipy.sparse.save_npz`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys = set(arrays.files)
        if "shape" in keys and keys & {"indptr", "row", "offsets"}:
            with path.open("rb") as file:
                return {path.stem: from_scipy(sp.load_npz(file))}
    except (*DAMAGED, AttributeError, KeyError) as error:
        raise ValueError(f"expected a topology or a scipy matrix at {path}: {error}") from error
    return load_topology(path)


def _mtx(path: Path) -> Topology:
    try:
        return {path.stem: from_scipy(sp.coo_array(scipy.io.mmread(path)))}
    except (ValueError, OSError, StopIteration, IndexError, TypeError) as error:
        raise ValueError(f"expected a Matrix Market file at {path}: {error}") from error


def _graphml(path: Path) -> Topology:
    import xml.etree.ElementTree as ElementTree

    import networkx as nx

    try:
        graph = nx.read_graphml(path)
    except (ElementTree.ParseError, nx.NetworkXError, KeyError, ValueError) as error:
        raise ValueError(f"expected a GraphML file at {path}: {error}") from error
    return {path.stem: from_networkx(graph)}


def _checkpoint(path: Path) -> Topology:
    from topokit.nn.extract import topology_of

    return topology_of(path)


READERS: dict[str, Callable[[Path], Topology]] = {
    ".npz": _npz,
    ".mtx": _mtx,
    ".graphml": _graphml,
    ".pt": _checkpoint,
    ".pth": _checkpoint,
    ".safetensors": _checkpoint,
}
"""Functions from a path to a topology, by the ending of the file."""

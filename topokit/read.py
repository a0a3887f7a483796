"""Topologies from whatever file or folder a user points at; nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp

from topokit.convert import DAMAGED, from_networkx, from_scipy, load_topology
from topokit.graph import Topology
from topokit.history import History
from topokit.measures import explored_fraction

__all__ = ["explored_rows", "read_topologies"]

KINDS = "a run directory, .npz, .mtx, .graphml, .pt, .pth or .safetensors"


def read_topologies(
    target: Path, epoch: int = -1
) -> tuple[Topology, Topology | None, dict[str, Any]]:
    """Read the topology in `target`, the one recorded before it if there is one, and its source.

    Parameters
    ----------
    target : Path
        A run directory, a topology or scipy matrix (.npz), Matrix Market (.mtx), GraphML, a
        torch checkpoint (.pt, .pth) or safetensors. Matrices have output units as rows.
    epoch : int
        For a run, which epoch; -1 is the last.

    Raises
    ------
    FileNotFoundError
        If `target` does not exist.
    ValueError
        If it is of no known kind, damaged, or the epoch was not recorded.
    """
    if target.is_dir():
        return _of_run(History.load(target), epoch)
    if not target.is_file():
        raise FileNotFoundError(f"expected {KINDS}, found nothing at {target}")
    suffix = target.suffix.lower()
    if suffix in (".pt", ".pth", ".safetensors"):
        from topokit.nn.extract import topology_of

        return topology_of(target), None, {"kind": "checkpoint"}
    readers = {".npz": _npz, ".mtx": _mtx, ".graphml": _graphml}
    if suffix not in readers:
        raise ValueError(f"expected {KINDS}, got {target}")
    return readers[suffix](target), None, {"kind": suffix[1:]}


def _of_run(history: History, epoch: int) -> tuple[Topology, Topology | None, dict[str, Any]]:
    recorded = history.recorded
    if not recorded:
        raise ValueError(f"run {history.name} has not recorded an epoch yet")
    at = recorded[epoch] if -len(recorded) <= epoch < 0 else epoch
    topology = history.topology(at)
    before = [e for e in recorded if e < at]
    previous = history.topology(before[-1]) if before else None
    return topology, previous, {"kind": "run", "epoch": at}


def explored_rows(target: Path, epoch: int = -1) -> list[tuple[str, str, float]]:
    """Share of the possible edges of each layer seen up to an epoch of a run, as measure rows.

    Parameters
    ----------
    target : Path
        A run directory.
    epoch : int
        -1 is the last.

    Raises
    ------
    ValueError
        If `target` is no run, or the epoch was not recorded.
    """
    if not target.is_dir():
        raise ValueError(f"explored_fraction needs the epochs of a run directory, got {target}")
    history = History.load(target)
    _, _, about = _of_run(history, epoch)
    upto = [e for e in history.recorded if e <= about["epoch"]]
    return [
        (
            layer,
            "explored_fraction",
            explored_fraction(history.topology(e)[layer] for e in upto),
        )
        for layer in history.topology(upto[0])
    ]


def _npz(path: Path) -> Topology:
    """Read a topology of ours or a matrix of `scipy.sparse.save_npz`."""
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

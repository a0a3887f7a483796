"""The topologies of all epochs in a folder: keyframes, and edge births and deaths in between.

There is one small file an epoch, written once and never changed, so that a killed run leaves
complete files. Every tenth epoch is a keyframe, which holds all edges and the epoch in which each
was born; any epoch is read from the keyframe before it and at most nine changes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph.files import write_atomic
from topokit.graph.layergraph import EdgeUpdate, LayerGraph, Topology

__all__ = ["append", "read", "read_births", "recorded", "truncate"]

KEYFRAME_EVERY = 10


def recorded(folder: Path) -> list[int]:
    """Return the epochs in `folder`, increasing."""
    return sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())


def append(
    folder: Path,
    epoch: int,
    topology: Topology,
    previous: tuple[int, Topology, dict[str, NDArray[np.int32]]] | None,
    changes: Mapping[str, EdgeUpdate] | None = None,
) -> dict[str, NDArray[np.int32]]:
    """Record the topology of an epoch.

    Parameters
    ----------
    folder : Path
    epoch : int
        Larger than every epoch recorded so far.
    topology : dict of LayerGraph
    previous : tuple or None
        The epoch recorded last, its topology and its births; ``None`` for the first.
    changes : mapping of str to EdgeUpdate, optional
        Change of each layer from the topology recorded last to this one, where edges in both
        count as kept; by default found by comparing the graphs.

    Returns
    -------
    dict of (n_edges,) int32
        For each layer, the epoch in which each edge was born; the next call needs it.
    """
    births, updates = {}, {}
    for name, graph in topology.items():
        if previous is None:
            births[name] = np.full(graph.n_edges, epoch, np.int32)
        else:
            if changes is None:
                updates[name] = EdgeUpdate.between(previous[1][name], graph)
            else:
                updates[name] = changes[name]
            births[name] = updates[name].carry(previous[2][name], fill=epoch)
    arrays: dict[str, Any] = {"names": np.array(list(topology), dtype=np.str_)}
    if previous is None or epoch // KEYFRAME_EVERY != previous[0] // KEYFRAME_EVERY:
        for i, (name, graph) in enumerate(topology.items()):
            arrays[f"shape_{i}"] = np.array(graph.shape, np.int64)
            arrays[f"indptr_{i}"] = graph.indptr
            arrays[f"indices_{i}"] = graph.indices
            arrays[f"births_{i}"] = births[name]
    else:
        for i, update in enumerate(updates.values()):
            kept = np.zeros(update.before.n_edges, bool)
            kept[update.source[~update.grown]] = True
            arrays[f"died_{i}"] = _steps(np.flatnonzero(~kept))
            arrays[f"born_{i}"] = _steps(update.after.edge_ids[update.grown])
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(_path(folder, epoch)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return births


def read(folder: Path, epoch: int) -> Topology:
    """Return the topology recorded for an epoch.

    Raises
    ------
    ValueError
        If the epoch was not recorded, or a file is damaged.
    """
    return {name: graph for name, (graph, _) in _replay(folder, epoch).items()}


def read_births(folder: Path, epoch: int) -> dict[str, NDArray[np.int32]]:
    """Return for each layer the epoch in which each edge of that epoch's graph was born."""
    return {name: births for name, (_, births) in _replay(folder, epoch).items()}


def truncate(folder: Path, last: int) -> None:
    """Delete the files of all epochs after `last`."""
    for epoch in recorded(folder):
        if epoch > last:
            _path(folder, epoch).unlink()


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"{epoch:06d}.npz"


def _steps(increasing: NDArray[np.int64]) -> NDArray[Any]:
    """Return the differences of an increasing array in the smallest type that holds them."""
    steps = np.diff(increasing, prepend=0)
    return steps.astype(np.min_scalar_type(int(steps.max()) if steps.size else 0))


def _replay(folder: Path, epoch: int) -> dict[str, tuple[LayerGraph, NDArray[np.int32]]]:
    """Return graph and births of each layer at an epoch, from its keyframe and later changes."""
    epochs = recorded(folder)
    if epoch not in epochs:
        span = f"{epochs[0]}..{epochs[-1]}" if epochs else "none"
        raise ValueError(f"expected a recorded epoch ({span}), got {epoch}")
    state: dict[str, tuple[LayerGraph, NDArray[np.int32]]] = {}
    block = [e for e in epochs if e // KEYFRAME_EVERY == epoch // KEYFRAME_EVERY and e <= epoch]
    for at in block:
        try:
            with np.load(_path(folder, at), allow_pickle=False) as arrays:
                for i, name in enumerate(arrays["names"].tolist()):
                    state[name] = _frame(arrays, i, at, state.get(name))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"the recorded topology of epoch {at} is damaged: {error}") from error
    return state


def _frame(
    arrays: Any, i: int, epoch: int, before: tuple[LayerGraph, NDArray[np.int32]] | None
) -> tuple[LayerGraph, NDArray[np.int32]]:
    """Return graph and births of layer `i` from one file: a keyframe, or a change of `before`."""
    if f"shape_{i}" in arrays:
        n_out, n_in = arrays[f"shape_{i}"].tolist()
        graph = LayerGraph((n_out, n_in), arrays[f"indptr_{i}"], arrays[f"indices_{i}"])
        return graph, arrays[f"births_{i}"]
    if before is None:
        raise ValueError("a change without a keyframe before it")
    died = np.cumsum(arrays[f"died_{i}"], dtype=np.int64)
    born = np.cumsum(arrays[f"born_{i}"], dtype=np.int64)
    update = EdgeUpdate.from_decisions(before[0], died, born)
    return update.after, update.carry(before[1], fill=epoch)

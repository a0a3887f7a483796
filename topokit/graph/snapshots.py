"""The topologies of all epochs in a folder: keyframes, and edge births and deaths in between.

There is one small file an epoch, written once and never changed, so that a killed run leaves
complete files. Every tenth epoch is a keyframe, which holds all edges and the epoch in which each
was born; any epoch is read from the keyframe before it and at most nine changes. Each file has a
checksum, and those of the graphs it leads to and of the ones it changes (`topokit.graph.checksums`
describes how); files without are read as those of runs from before there were checksums.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topokit.graph.checksums import digest, read_file, seal, seal_in, unseal
from topokit.graph.files import write_atomic
from topokit.graph.layergraph import EdgeUpdate, LayerGraph, Topology, distinct

__all__ = ["Snapshot", "append", "check", "explored", "load", "recorded", "seal_again", "truncate"]

KEYFRAME_EVERY = 10
MANY_IDS = 1 << 22  # edge ids that are kept before equal ones are joined


@dataclass(frozen=True)
class Snapshot:
    """The topology of an epoch as it was recorded.

    Parameters
    ----------
    epoch : int
    topology : dict of LayerGraph
    births : dict of (n_edges,) int32
        For each layer, the epoch in which each edge was born.
    graphs : str
        Checksum of the topology.
    check : str
        Checksum of the file; empty for one without.
    """

    epoch: int
    topology: Topology
    births: dict[str, NDArray[np.int32]]
    graphs: str
    check: str = ""


def checksum(topology: Topology) -> str:
    """Return a checksum of all graphs of a topology, their names and their order."""
    parts: list[Any] = []
    for name, graph in topology.items():
        groups = f"{graph.groups}\0" if graph.groups != 1 else ""
        head = f"{name}\0{graph.shape}\0{graph.n_edges}\0{groups}"
        parts += [head.encode(), graph.indptr, graph.indices]
    return digest(*parts)


def recorded(folder: Path) -> list[int]:
    """Return the epochs in `folder`, increasing."""
    return sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())


def append(
    folder: Path,
    epoch: int,
    topology: Topology,
    previous: Snapshot | None,
    changes: Mapping[str, EdgeUpdate] | None = None,
    *,
    run: str = "",
) -> Snapshot:
    """Record the topology of an epoch.

    Parameters
    ----------
    folder : Path
    epoch : int
        Larger than every epoch recorded so far.
    topology : dict of LayerGraph
    previous : Snapshot or None
        The epoch recorded last; ``None`` for the first.
    changes : mapping of str to EdgeUpdate, optional
        Change of each layer from the topology recorded last to this one, where edges in both
        count as kept; by default found by comparing the graphs.
    run : str
        Identity of the run, kept in the file.

    Returns
    -------
    Snapshot
        The next call needs it.
    """
    births, updates = {}, {}
    for name, graph in topology.items():
        if previous is None:
            births[name] = np.full(graph.n_edges, epoch, np.int32)
        else:
            if changes is None:
                updates[name] = EdgeUpdate.between(previous.topology[name], graph)
            else:
                updates[name] = changes[name]
            births[name] = updates[name].carry(previous.births[name], fill=epoch)
    arrays: dict[str, Any] = {"names": np.array(list(topology), dtype=np.str_)}
    base = None
    if previous is None or epoch // KEYFRAME_EVERY != previous.epoch // KEYFRAME_EVERY:
        for i, (name, graph) in enumerate(topology.items()):
            arrays[f"shape_{i}"] = np.array(graph.shape, np.int64)
            arrays[f"indptr_{i}"] = graph.indptr
            arrays[f"indices_{i}"] = graph.indices
            arrays[f"births_{i}"] = births[name]
            if graph.groups != 1:
                arrays[f"groups_{i}"] = np.array(graph.groups, np.int64)
    else:
        base = [previous.epoch, previous.graphs]
        for i, update in enumerate(updates.values()):
            kept = np.zeros(update.before.n_edges, bool)
            kept[update.source[~update.grown]] = True
            arrays[f"died_{i}"] = _steps(np.flatnonzero(~kept))
            arrays[f"born_{i}"] = _steps(update.after.edge_ids[update.grown])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    now = Snapshot(epoch, topology, births, checksum(topology))
    return _write(folder, buffer.getvalue(), now, base, run)


def _write(
    folder: Path, archive: bytes, now: Snapshot, base: list[Any] | None, run: str
) -> Snapshot:
    """Write the file of an epoch with its checksums."""
    sealed = seal(archive, run=run, epoch=now.epoch, graphs=now.graphs, base=base)
    folder.mkdir(exist_ok=True)  # a run that was moved away meanwhile is not begun again here
    with write_atomic(_path(folder, now.epoch)) as temporary:
        temporary.write_bytes(sealed)
    return replace(now, check=(seal_in(sealed) or {})["digest"])


def load(
    folder: Path,
    epoch: int,
    checks: Mapping[int, str] | None = None,
    known: Mapping[int, Snapshot] | None = None,
) -> Snapshot:
    """Return the topology recorded for an epoch, and when its edges were born.

    Parameters
    ----------
    folder : Path
    epoch : int
    checks : mapping of int to str, optional
        The `Snapshot.check` of all epochs. The files read must be those; without it they need only
        agree with one another.
    known : mapping of int to Snapshot, optional
        What earlier calls returned for this folder and these `checks`: returned again, or the
        changes are made to it, so that epochs read in order cost one file each.

    Raises
    ------
    ValueError
        If the epoch was not recorded, or a file that is needed is missing or damaged.
    """
    known = known or {}
    if epoch in known:
        return known[epoch]
    if not _path(folder, epoch).exists() and epoch not in (checks or {}):
        epochs = recorded(folder)
        span = f"{epochs[0]}..{epochs[-1]}" if epochs else "none"
        raise ValueError(f"expected a recorded epoch ({span}), got {epoch}")
    chain = [_File.read(folder, epoch, checks)]
    while (base := chain[-1].base) is not None and base not in known:
        chain.append(_File.read(folder, base, checks))
    found = None if base is None else known[base]
    for file in reversed(chain):
        found = file.after(found)
    assert found is not None
    return found


def check(folder: Path, epoch: int, checks: Mapping[int, str] | None = None) -> None:
    """Raise a ValueError unless the file of an epoch is there and intact; it is not unpacked."""
    _File.read(folder, epoch, checks, unpack=checks is None)


def explored(
    folder: Path, epochs: Iterable[int], checks: Mapping[int, str] | None = None
) -> Topology:
    """Return for each layer the graph of all edges present at any of the first epochs.

    Every file is read once, for the ids of the edges that were born; graphs are built for
    keyframes only.

    Raises
    ------
    ValueError
        As in `load`.
    """
    sizes: dict[str, tuple[tuple[int, int], int]] = {}
    ids: dict[str, list[NDArray[np.int64]]] = {}
    waiting = 0
    for epoch in epochs:
        file = _File.read(folder, epoch, checks)
        for name, (size, born) in file.born().items():
            sizes.setdefault(name, size or ((0, 0), 1))
            ids.setdefault(name, []).append(born)
            waiting += born.size
        if waiting > MANY_IDS:
            ids = {name: [distinct(np.concatenate(parts))] for name, parts in ids.items()}
            waiting = 0
    return {
        name: LayerGraph.from_edge_ids(distinct(np.concatenate(parts)), *sizes[name])
        for name, parts in ids.items()
    }


def seal_again(folder: Path, previous: Snapshot | None, epoch: int, *, run: str) -> Snapshot:
    """Add checksums to the file of an epoch that has none, or those of another run.

    Parameters
    ----------
    folder : Path
    previous : Snapshot or None
        The epoch before it, as this function returned it.
    epoch : int
    run : str
        Identity of the run.

    Raises
    ------
    ValueError
        As in `load`.
    """
    file = _File.read(folder, epoch)
    if previous is not None and file.base not in (None, previous.epoch):
        raise ValueError(f"the recorded topology of epoch {epoch} does not follow that before it")
    now = file.after(previous)
    base = None if file.base is None or previous is None else [previous.epoch, previous.graphs]
    return _write(folder, file.raw, now, base, run)


def truncate(folder: Path, last: int) -> None:
    """Delete the files of all epochs after `last`."""
    for epoch in reversed(recorded(folder)):
        if epoch > last:
            _path(folder, epoch).unlink()


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"{epoch:06d}.npz"


def _steps(increasing: NDArray[np.int64]) -> NDArray[Any]:
    """Return the differences of an increasing array in the smallest type that holds them."""
    steps = np.diff(increasing, prepend=0)
    return steps.astype(np.min_scalar_type(int(steps.max()) if steps.size else 0))


@dataclass(frozen=True)
class _File:
    """One file: its arrays, unpacked when asked for, and what it says about itself."""

    path: Path
    epoch: int
    raw: bytes
    names: list[str]
    arrays: Mapping[str, NDArray[Any]]
    about: dict[str, Any]

    @classmethod
    def read(
        cls,
        folder: Path,
        epoch: int,
        checks: Mapping[int, str] | None = None,
        *,
        unpack: bool = True,
    ) -> _File:
        path = _path(folder, epoch)
        try:
            raw = read_file(path)
            about = unseal(raw) or {}
            if checks is not None and about.get("digest") != checks.get(epoch):
                raise ValueError("it is not the file that was written for this epoch of this run")
            if about and about.get("epoch") != epoch:
                raise ValueError(f"it is that of epoch {about.get('epoch')}")
            if not unpack:
                return cls(path, epoch, raw, [], {}, about)
            arrays = np.load(io.BytesIO(raw), allow_pickle=False)
            names = arrays["names"].tolist()
            if not all(isinstance(name, str) for name in names):
                raise ValueError("its names of layers are no text")
        except FileNotFoundError:
            raise ValueError(
                f"the recorded topology of epoch {epoch} is missing: found no file {path}"
            ) from None
        except OSError:
            raise
        except Exception as error:
            raise cls._damaged(epoch, path, error) from error
        return cls(path, epoch, raw, names, arrays, about)

    @staticmethod
    def _damaged(epoch: int, path: Path, error: Exception) -> ValueError:
        return ValueError(f"the recorded topology of epoch {epoch} is damaged: {error} ({path})")

    @property
    def base(self) -> int | None:
        """The epoch that this file changes; None for a keyframe."""
        if "shape_0" in self.arrays or not self.names:
            return None
        base = self.about["base"][0] if self.about.get("base") else self.epoch - 1
        if not 0 <= base < self.epoch or self.epoch % KEYFRAME_EVERY == 0:
            error = ValueError("a change without a keyframe before it")
            raise self._damaged(self.epoch, self.path, error)
        return base

    def born(self) -> dict[str, tuple[tuple[tuple[int, int], int] | None, NDArray[np.int64]]]:
        """Return for each layer shape and groups, if the file has them, and ids of edges born.

        Those of a keyframe are all its edges, those of a change the new ones.
        """
        found: dict[str, tuple[tuple[tuple[int, int], int] | None, NDArray[np.int64]]] = {}
        whole = self.after(None).topology if self.base is None else {}
        try:
            for i, name in enumerate(self.names):
                if whole:
                    size = whole[name].shape, whole[name].groups
                    found[name] = size, whole[name].edge_ids
                else:
                    found[name] = None, np.cumsum(self.arrays[f"born_{i}"], dtype=np.int64)
        except Exception as error:  # numpy and zipfile raise errors of many kinds
            raise self._damaged(self.epoch, self.path, error) from error
        return found

    def after(self, before: Snapshot | None) -> Snapshot:
        """Return the topology of this epoch, from that of the epoch it changes."""
        topology: Topology = {}
        births: dict[str, NDArray[np.int32]] = {}
        try:
            if self.base is not None:
                if before is None:
                    raise ValueError("a change without a keyframe before it")
                if self.about and self.about["base"] != [before.epoch, before.graphs]:
                    raise ValueError(f"it does not build on the graphs of epoch {before.epoch}")
            for i, name in enumerate(self.names):
                topology[name], births[name] = self._layer(i, name, before)
            graphs = checksum(topology)
            if self.about and self.about["graphs"] != graphs:
                raise ValueError("its graphs do not match their checksum")
        except Exception as error:  # as above
            raise self._damaged(self.epoch, self.path, error) from error
        return Snapshot(self.epoch, topology, births, graphs, self.about.get("digest", ""))

    def _layer(
        self, i: int, name: str, before: Snapshot | None
    ) -> tuple[LayerGraph, NDArray[np.int32]]:
        arrays = self.arrays
        if f"shape_{i}" in arrays:
            n_out, n_in = arrays[f"shape_{i}"].tolist()
            parts = arrays[f"indptr_{i}"], arrays[f"indices_{i}"]
            graph = LayerGraph((n_out, n_in), *parts, int(arrays.get(f"groups_{i}", 1)))
            births = arrays[f"births_{i}"]
            if births.shape != (graph.n_edges,):
                raise ValueError(f"{births.shape} births of {graph.n_edges} edges")
            return graph, births
        if before is None:
            raise ValueError("a change without a keyframe before it")
        died = np.cumsum(arrays[f"died_{i}"], dtype=np.int64)
        born = np.cumsum(arrays[f"born_{i}"], dtype=np.int64)
        update = EdgeUpdate.from_decisions(before.topology[name], died, born)
        return update.after, update.carry(before.births[name], fill=self.epoch)

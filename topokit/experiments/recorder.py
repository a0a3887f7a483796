"""Measuring the epochs of a run and writing them into its directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from topokit.experiments.config import RunConfig
from topokit.experiments.record import EXPLORED
from topokit.experiments.rundir import RunDirectory
from topokit.graph import EdgeUpdate, Topology, snapshots
from topokit.graph.checksums import seal_in
from topokit.measures import CORE, measure, prepare
from topokit.rules.memory import explore

Epoch = Any  # `topokit.experiments.loop.Epoch`, whose module needs torch
TrainState = Any

__all__ = ["EpochRecorder", "Recorder"]


class Recorder:
    """Writer of epochs into a run directory.

    Each epoch adds a file of its topology and a line of everything else. Both are on disk when
    `write` returns, so a checkpoint saved afterwards is never ahead of the record.

    Parameters
    ----------
    run : RunDirectory
    upto : int
        Last epoch to keep of what is already recorded; by default none is kept.

    Attributes
    ----------
    previous : dict of LayerGraph or None
        The topology recorded last.

    Notes
    -----
    An epoch costs O(edges) and as many bytes as any other. In memory are the last topology and the
    edges explored. Continuing a run reads the record once, ten files of topologies and, if the
    explored edges are asked for, each of them once.
    """

    def __init__(self, run: RunDirectory, *, upto: int = -1) -> None:
        self.run = run
        record = run.cut(run.read(), upto + 1)
        self._line, self._identity = record.last, record.run
        self._checks = record.checks or {}
        self._last: snapshots.Snapshot | None = None
        self._explored: Topology | None = None
        if record.lines:
            at = len(record.lines) - 1
            self._last = snapshots.load(run.topology, at, self._checks)

    @property
    def previous(self) -> Topology | None:
        """The topology recorded last."""
        return None if self._last is None else self._last.topology

    @property
    def explored(self) -> Topology:
        """For each layer the edges present at any recorded epoch."""
        if self._explored is None:
            self._explored = snapshots.explored(self.run.topology, self._checks, self._checks)
        return self._explored

    def explore(self, topology: Topology) -> dict[str, float]:
        """Add the edges of a topology; return each layer's share of possible edges seen so far."""
        explored = self.explored
        for name, graph in topology.items():
            explored[name] = explore(explored.get(name), graph)
        return {name: explored[name].density for name in topology}

    def write(
        self,
        epoch: int,
        metrics: dict[str, float],
        topology: Topology,
        measures: pd.DataFrame,
        changes: Mapping[str, EdgeUpdate] | None = None,
        *,
        checkpoint: str = "",
        seconds: float = 0.0,
        steps: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one epoch.

        Parameters
        ----------
        epoch : int
            One more than that recorded last.
        metrics : dict of float
        topology : dict of LayerGraph
            The graphs the metrics were measured on.
        measures : pandas.DataFrame
            With columns ``layer, measure, value``.
        changes : mapping of str to EdgeUpdate, optional
            Passed to `topokit.graph.snapshots.append`.
        checkpoint : str
            Checksum of the checkpoint that will be saved after this epoch.
        seconds : float
            Time spent in measuring.
        steps : mapping, optional
            How the epoch's steps were launched on a graphics card.
        """
        run = self.run
        self._last = snapshots.append(
            run.topology, epoch, topology, self._last, changes, run=self._identity
        )
        columns = (measures[name].tolist() for name in ("layer", "measure", "value"))
        line: dict[str, Any] = {
            "kind": "epoch", "run": self._identity, "epoch": epoch, "metrics": metrics,
            "measures": list(zip(*columns, strict=True)), "seconds": seconds,
            "topology": self._last.check, "checkpoint": checkpoint,
            **({} if steps is None else {"steps": dict(steps)}),
        }  # fmt: skip
        self._line = run.add_line(line, self._line)
        if self._explored is None:
            self._checks[epoch] = self._last.check


class EpochRecorder:
    """What is measured of a run's epochs and written into its directory.

    Parameters
    ----------
    directory : RunDirectory
    config : RunConfig
    state : TrainState
        As after the epochs that are recorded.
    """

    def __init__(self, directory: RunDirectory, config: RunConfig, state: TrainState) -> None:
        self.directory, self.config, self.state = directory, config, state
        self._recorder = Recorder(directory, upto=state.epoch - 1)
        self._run = directory.read().run
        prepare(name for name in config.measures.at(0, 1, CORE) if name != EXPLORED)

    def add(self, epoch: Epoch) -> pd.DataFrame:
        """Measure and record an epoch; return its measures. The checkpoint is written last."""
        recorder = self._recorder
        start = time.perf_counter()
        changes = _changes(epoch, recorder.previous)
        frame = _measured(self.config, epoch, recorder, changes)
        seconds = time.perf_counter() - start
        content = self.state.to_bytes(run=self._run)
        recorder.write(
            epoch.index,
            epoch.metrics,
            epoch.topology,
            frame,
            changes,
            checkpoint=(seal_in(content) or {})["digest"],
            seconds=seconds,
            steps=epoch.steps,
        )
        self.directory.write("checkpoint.pt", content)
        return frame


def _changes(epoch: Epoch, previous: Topology | None) -> dict[str, EdgeUpdate] | None:
    """Return the change of each layer since the previous epoch, None in the first one.

    It is the rewiring itself if that is known, else it is found by comparing the graphs. An edge
    present in both epochs counts as kept, even if it was dropped and grown again in between.
    """
    if previous is None:
        return None
    changes = {}
    for name, graph in epoch.topology.items():
        if epoch.updates is None:
            changes[name] = EdgeUpdate.between(previous[name], graph)
        elif name in epoch.updates:
            changes[name] = epoch.updates[name].net()
        else:
            changes[name] = EdgeUpdate(graph, graph, np.arange(graph.n_edges))
    return changes


def _measured(
    config: RunConfig, epoch: Epoch, recorder: Recorder, changes: dict[str, EdgeUpdate] | None
) -> pd.DataFrame:
    """Measure an epoch's topology; the explored fraction needs all epochs, so it is added here."""
    explored = recorder.explore(epoch.topology) if epoch.explored is None else epoch.explored
    names = config.measures.at(epoch.index, config.epochs, (*CORE, EXPLORED))
    others = [name for name in names if name != EXPLORED]
    frame = measure(epoch.topology, others, changes=changes)
    if EXPLORED in names:
        rows = pd.DataFrame(
            [(layer, EXPLORED, share) for layer, share in explored.items()], columns=frame.columns
        )
        frame = pd.concat([frame, rows], ignore_index=True) if len(frame) else rows
    return frame

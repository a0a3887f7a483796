"""Writing the epochs of a run into its directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from topokit.experiments.rundir import RunDirectory
from topokit.graph import EdgeUpdate, Topology, snapshots
from topokit.rules.memory import explore

__all__ = ["Recorder"]


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

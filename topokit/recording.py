"""Topologies and measures kept in memory while a model of one's own trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from topokit.graph import Topology
from topokit.measures import measure

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Recording"]

MEASURE_COLUMNS = ["run", "epoch", "layer", "measure", "value"]


class Recording:
    """A history in memory, with the attributes of `topokit.History` that plots and tables read.

    Call it with a step (or epoch) and a topology, for example as the `recorder` of
    `topokit.attach`; add numbers of your own, such as accuracies, with `note`.

    Parameters
    ----------
    measures : sequence of str, optional
        Taken of each topology; names as in `topokit.measure`, which also says what they cost. By
        default none.
    every : int
        Keep each so many-th topology it is called with; the first is always kept.
    name : str

    Attributes
    ----------
    config, environment : dict
        Empty; to be filled by whoever likes to.

    Notes
    -----
    Memory O(edges) for each kept topology.

    Examples
    --------
    >>> from topokit.graph import LayerGraph
    >>> recording = Recording(measures=["turnover"])
    >>> for epoch, ids in enumerate(([0, 1], [0, 3])):
    ...     recording(epoch, {"fc1": LayerGraph.from_edge_ids(ids, (2, 2))})
    ...     recording.note(epoch, test_accuracy=0.5 + 0.1 * epoch)
    >>> recording.recorded, recording.epochs["test_accuracy"].tolist()
    ([0, 1], [0.5, 0.6])
    >>> recording.measures.query("epoch == 1")["value"].tolist()
    [0.5]
    """

    def __init__(
        self, measures: Sequence[str] | None = None, *, every: int = 1, name: str = "recording"
    ) -> None:
        if every < 1:
            raise ValueError(f"every: expected a positive number, got {every!r}")
        self.names = None if measures is None else list(measures)
        self.every, self.name = every, name
        self.config: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.topologies: dict[int, Topology] = {}
        self._rows: dict[int, dict[str, float]] = {}
        self._frames: dict[int, pd.DataFrame] = {}
        self._calls = 0

    def __call__(self, epoch: int, topology: Topology) -> None:
        """Keep a topology, measured, if it is its turn."""
        turn, self._calls = self._calls % self.every == 0, self._calls + 1
        if turn:
            self.keep(epoch, topology)

    def keep(self, epoch: int, topology: Topology) -> None:
        """Keep a topology, measured, whoever's turn it is."""
        epoch = int(epoch)
        before = [e for e in self.recorded if e < epoch]
        self.topologies[epoch] = dict(topology)
        self._rows.setdefault(epoch, {})
        if self.names is not None:
            previous = self.topologies[before[-1]] if before else None
            frame = measure(topology, self.names, previous=previous)
            self._frames[epoch] = frame.assign(run=self.name, epoch=epoch)[MEASURE_COLUMNS]

    def note(self, epoch: int, **metrics: float) -> None:
        """Note numbers of an epoch: each becomes a column of `epochs`."""
        self._rows.setdefault(int(epoch), {}).update(metrics)

    @property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch: ``run, epoch`` and what was noted."""
        import pandas as pd

        rows = [{"run": self.name, "epoch": e, **self._rows[e]} for e in sorted(self._rows)]
        return pd.DataFrame(rows, columns=None if rows else ["run", "epoch"])

    @property
    def measures(self) -> pd.DataFrame:
        """One row a value: ``run, epoch, layer, measure, value``."""
        import pandas as pd

        if not self._frames:
            return pd.DataFrame(columns=MEASURE_COLUMNS)
        return pd.concat([self._frames[e] for e in sorted(self._frames)], ignore_index=True)

    @property
    def recorded(self) -> list[int]:
        """Epochs whose topology is kept."""
        return sorted(self.topologies)

    def topology(self, epoch: int) -> Topology:
        """Return all layer graphs of a recorded epoch; negative numbers count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded.
        """
        kept = self.recorded
        if epoch < 0 and -epoch <= len(kept):
            epoch = kept[epoch]
        if epoch not in self.topologies:
            raise ValueError(f"epoch {epoch} was not recorded; recorded: {kept}")
        return self.topologies[epoch]

    def __repr__(self) -> str:
        return f"Recording({self.name!r}, {len(self.topologies)} topologies)"

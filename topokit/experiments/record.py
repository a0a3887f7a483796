"""The results of a run: two tidy frames, the topology of every epoch, and their folder."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph, Topology, snapshots
from topokit.graph.files import locked, write_atomic
from topokit.measures import measure
from topokit.rules.memory import explore

__all__ = [
    "EXPLORED",
    "History",
    "Recorder",
    "Recording",
    "RunDirectory",
    "RunLike",
    "as_run",
    "best_epoch",
]

EXPLORED = "explored_fraction"
MEASURE_COLUMNS = ["run", "epoch", "layer", "measure", "value"]


def best_epoch(epochs: pd.DataFrame) -> int:
    """Return the position of the row of a run's best epoch.

    The best epoch is that of highest test accuracy or, for a model without labels, whose accuracy
    is nan, that of lowest test loss; of equally good ones it is the first.

    Parameters
    ----------
    epochs : pandas.DataFrame
        As `History.epochs`, with ``test_accuracy`` and ``test_loss``.

    Returns
    -------
    int
        Counted from 0.

    Raises
    ------
    ValueError
        If no epoch has a finite accuracy or loss.

    Examples
    --------
    >>> best_epoch(pd.DataFrame({"test_accuracy": [0.5, 0.7, 0.7], "test_loss": [3.0, 2.0, 1.0]}))
    1
    >>> best_epoch(pd.DataFrame({"test_accuracy": [np.nan] * 3, "test_loss": [3.0, 1.0, 2.0]}))
    1
    """
    scores = epochs["test_accuracy"].to_numpy(float)
    if not np.isfinite(scores).any():
        scores = -epochs["test_loss"].to_numpy(float)
    if not np.isfinite(scores).any():
        raise ValueError(f"expected an epoch with a test accuracy or loss, got {len(epochs)} rows")
    return int(np.argmax(np.where(np.isfinite(scores), scores, -np.inf)))


@dataclass(frozen=True)
class History:
    """The record of a run: its frames, and the topology of every recorded epoch.

    Parameters
    ----------
    epochs : pandas.DataFrame
        One row for each epoch: ``run, epoch, train_loss, test_loss, test_accuracy, seconds``.
        Epochs count from 0. `seconds` is wall time spent in training and evaluation.
    measures : pandas.DataFrame
        One row for each value: ``run, epoch, layer, measure, value``; `layer` is ``"network"`` for
        measures of the whole network.
    directory : Path
        The run's folder, from which topologies are read when asked for.
    config, environment : dict
        The configuration, and the versions, seed and command that made the run.

    Notes
    -----
    The topology of an epoch is the one its accuracy was measured on: epoch 0 has the initial
    topology when a rule rewires between epochs.
    """

    epochs: pd.DataFrame
    measures: pd.DataFrame
    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> History:
        """Read the results in a run directory, finished or not.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        ValueError
            If the directory is no run or its files are damaged.
        """
        return RunDirectory.open(directory).history()

    @property
    def name(self) -> str:
        """Name of the run: the name of its folder."""
        return self.directory.name

    @property
    def recorded(self) -> list[int]:
        """Epochs whose topology is stored and whose row is in `epochs`."""
        known = set(self.epochs["epoch"].tolist())
        return [e for e in snapshots.recorded(self.directory / "topology") if e in known]

    def topology(self, epoch: int) -> Topology:
        """Return all layer graphs of a recorded epoch; negative numbers count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded.
        """
        return snapshots.read(self.directory / "topology", _at(self.recorded, epoch))

    def ages(self, epoch: int, layer: str) -> NDArray[np.int64]:
        """Return the age in epochs of each edge of a layer, 0 for one new in that epoch.

        An edge dropped and grown again between two records counts as one that stayed. Negative
        epochs count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded, or there is no such layer.
        """
        epoch = _at(self.recorded, epoch)
        births = snapshots.read_births(self.directory / "topology", epoch)
        if layer not in births:
            raise ValueError(f"expected a layer of {', '.join(births)}, got {layer!r}")
        return (epoch - births[layer]).astype(np.int64)

    def explored_fraction(self, epoch: int) -> dict[str, float]:
        """Return the share of each layer's possible edges present at any time up to an epoch.

        It is the value recorded for the epoch. If there is none and the run rewired between epochs
        only, it is computed from the topologies of all epochs. Negative epochs count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded; or its value was not, and rewirings within epochs passed
            through graphs that are not in the record.
        """
        epoch = _at(self.recorded, epoch)
        rows = self.measures[self.measures["epoch"] == epoch]
        rows = rows[rows["measure"] == EXPLORED]
        if len(rows):
            return dict(zip(rows["layer"], rows["value"].astype(float), strict=True))
        every = self.config.get("rule", {}).get("every", "epoch")
        if every != "epoch":
            raise ValueError(
                f"explored_fraction of epoch {epoch} was not recorded, and cannot be computed: the "
                f"run rewired within epochs (rule.every={every}), through graphs that are not in "
                "the record; epochs with a recorded value: "
                f"{self._epochs_with(EXPLORED) or 'none'}"
            )
        seen = self.topology(epoch)
        for at in self.recorded:
            if at < epoch:
                for layer, graph in self.topology(at).items():
                    seen[layer] = explore(seen[layer], graph)
        return {layer: graph.density for layer, graph in seen.items()}

    def _epochs_with(self, name: str) -> str:
        """Return the epochs at which a measure was taken, for messages."""
        taken = self.measures[self.measures["measure"] == name]["epoch"]
        return ", ".join(str(epoch) for epoch in sorted(set(taken.tolist())))

    def wide(self) -> pd.DataFrame:
        """Return the measures as a table: a row for each epoch and layer, a column for each one."""
        return self.measures.pivot_table(
            index=["run", "epoch", "layer"], columns="measure", values="value", dropna=False
        ).reset_index()


def _at(recorded: list[int], epoch: int) -> int:
    """Return the number of an epoch; negative numbers count the recorded epochs from the end."""
    epoch = int(epoch)
    return recorded[epoch] if -len(recorded) <= epoch < 0 else epoch


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run, and its files.

    Every file is written under a temporary name and then moved into place, so that an interruption
    leaves no partial file.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config_toml: str, environment: dict[str, Any]
    ) -> RunDirectory:
        """Make the folder of a new run.

        Raises
        ------
        ValueError
            If `path` exists and is not an empty folder.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(p.name != ".lock" for p in path.iterdir())):
            hint = (
                f"'topokit resume {path}' continues that run"
                if (path / "config.toml").is_file()
                else "choose another --out"
            )
            raise ValueError(f"expected a new or empty folder, {path} is there already; {hint}")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run._write_text("environment.json", json.dumps(environment, indent=2) + "\n")
        run._write_text("config.toml", config_toml)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Open the folder of a run.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it is no run directory.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"expected a run directory, found no folder {path}")
        if not (path / "config.toml").is_file():
            raise ValueError(
                f"expected a run directory (with config.toml, made by 'topokit train'), "
                f"{path} is none"
            )
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.resolve().name

    @property
    def checkpoint(self) -> Path:
        """The file from which the run can be continued."""
        return self.path / "checkpoint.pt"

    @property
    def done(self) -> bool:
        """Whether the run has ended as planned."""
        return (self.path / "DONE").is_file()

    def finish(self) -> None:
        """Mark the run as ended."""
        self._write_text("DONE", "")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; the lock ends when the process ends.

        Raises
        ------
        ValueError
            If another process holds it.
        OSError
            If the folder cannot be locked.
        """
        with locked(self.path / ".lock", what=f"the run {self.path}"):
            yield

    def config(self) -> dict[str, Any]:
        """Return the configuration as it was written."""
        try:
            return tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"the configuration of run {self.path} is damaged: {error}") from error

    def history(self) -> History:
        """Read everything recorded so far."""
        try:
            environment = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            environment = {}
        except ValueError as error:
            raise ValueError(f"environment.json of run {self.path} is damaged: {error}") from error
        return History(
            epochs=self._read_frame("epochs", ["run", "epoch"]),
            measures=self._read_frame("measures", MEASURE_COLUMNS),
            directory=self.path.resolve(),
            config=self.config(),
            environment=environment,
        )

    def _read_frame(self, name: str, columns: list[str]) -> pd.DataFrame:
        path = self.path / f"{name}.parquet"
        if not path.is_file():
            return pd.DataFrame(columns=columns)
        try:
            return pd.read_parquet(path)
        except Exception as error:
            raise ValueError(f"{path} is damaged: {error}") from error

    def _write_frame(self, name: str, frame: pd.DataFrame) -> None:
        with write_atomic(self.path / f"{name}.parquet") as temporary:
            frame.to_parquet(temporary, index=False)

    def _write_text(self, name: str, text: str) -> None:
        with write_atomic(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


class Recorder:
    """Writer of epochs into a run directory.

    Frames are rewritten as a whole, topologies are appended. Both are on disk when `write` returns,
    so a checkpoint saved afterwards is never ahead of the record.

    Parameters
    ----------
    run : RunDirectory
    upto : int
        Last epoch to keep of what is already recorded; by default none is kept.

    Attributes
    ----------
    previous : dict of LayerGraph or None
        The topology recorded last.
    explored : dict of LayerGraph
        For each layer the edges present at any recorded epoch.
    """

    def __init__(self, run: RunDirectory, *, upto: int = -1) -> None:
        history = run.history()
        self.run = run
        # The folder may have been renamed since the rows were written: a run has one name.
        self._epochs, self._measures = (
            frame[frame["epoch"] <= upto].assign(run=run.name)
            for frame in (history.epochs, history.measures)
        )
        self._folder = run.path / "topology"
        snapshots.truncate(self._folder, upto)
        self.previous: Topology | None = None
        self.explored: dict[str, LayerGraph] = {}
        self._last: tuple[int, Topology, dict[str, NDArray[np.int32]]] | None = None
        for epoch in snapshots.recorded(self._folder):
            self._remember(epoch, snapshots.read(self._folder, epoch))
        if self.previous is not None:
            births = snapshots.read_births(self._folder, epoch)
            self._last = (epoch, self.previous, births)

    def _remember(self, epoch: int, topology: Topology) -> None:
        self.previous = topology
        self.explore(topology)

    def explore(self, topology: Topology) -> dict[str, float]:
        """Add the edges of a topology; return each layer's share of possible edges seen so far."""
        for name, graph in topology.items():
            self.explored[name] = explore(self.explored.get(name), graph)
        return {name: self.explored[name].density for name in topology}

    def write(
        self,
        epoch: int,
        metrics: dict[str, float],
        topology: Topology,
        measures: pd.DataFrame,
        changes: Mapping[str, EdgeUpdate] | None = None,
    ) -> None:
        """Record one epoch: its metrics, its measures and the graphs they belong to.

        `changes` is passed to `topokit.graph.snapshots.append`.
        """
        births = snapshots.append(self._folder, epoch, topology, self._last, changes)
        self._last = (epoch, topology, births)
        self.previous = topology
        row = pd.DataFrame([{"run": self.run.name, "epoch": epoch, **metrics}])
        rows = measures.assign(run=self.run.name, epoch=epoch)
        self._epochs = _joined(self._epochs, row)
        self._measures = _joined(self._measures, rows[MEASURE_COLUMNS])
        self.run._write_frame("measures", self._measures)
        self.run._write_frame("epochs", self._epochs)


def _joined(frame: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame, more], ignore_index=True) if len(frame) else more


class Recording:
    """A history in memory, with the attributes of `topokit.History` that plots and tables read.

    Call it with a step (or epoch) and a topology, for example as the `recorder` of
    `topokit.attach`; add numbers of your own, such as accuracies, with `note`.

    Parameters
    ----------
    measures : sequence of str, optional
        Measures taken of each kept topology; names as in `topokit.measure`, which also states
        their cost. By default none.
    every : int
        Keep one of this many topologies; the first is always kept.
    name : str

    Attributes
    ----------
    config, environment : dict
        Empty; may be filled by the user.

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
        """Measure and keep the topology if its turn has come (see `every`)."""
        turn, self._calls = self._calls % self.every == 0, self._calls + 1
        if turn:
            self.keep(epoch, topology)

    def keep(self, epoch: int, topology: Topology) -> None:
        """Measure and keep a topology, whatever `every` is."""
        epoch = int(epoch)
        before = [e for e in self.recorded if e < epoch]
        self.topologies[epoch] = dict(topology)
        self._rows.setdefault(epoch, {})
        if self.names is not None:
            previous = self.topologies[before[-1]] if before else None
            frame = measure(topology, self.names, previous=previous)
            self._frames[epoch] = frame.assign(run=self.name, epoch=epoch)[MEASURE_COLUMNS]

    def note(self, epoch: int, **metrics: float) -> None:
        """Add numbers of an epoch; each name becomes a column of `epochs`."""
        self._rows.setdefault(int(epoch), {}).update(metrics)

    @property
    def epochs(self) -> pd.DataFrame:
        """One row for each epoch: ``run, epoch`` and the numbers added by `note`."""
        rows = [{"run": self.name, "epoch": e, **self._rows[e]} for e in sorted(self._rows)]
        return pd.DataFrame(rows, columns=None if rows else ["run", "epoch"])

    @property
    def measures(self) -> pd.DataFrame:
        """One row for each value: ``run, epoch, layer, measure, value``."""
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
        epoch = _at(kept, epoch)
        if epoch not in self.topologies:
            raise ValueError(f"epoch {epoch} was not recorded; recorded: {kept}")
        return self.topologies[epoch]

    def __repr__(self) -> str:
        return f"Recording({self.name!r}, {len(self.topologies)} topologies)"


RunLike: TypeAlias = History | Recording | str | os.PathLike[str]


def as_run(source: RunLike) -> History:
    """Return a run as a `History`, loaded if `source` is the path of a run directory.

    Functions of runs call this first. A `Recording` is returned as it is: it has the attributes
    of a `History` that they read.

    Parameters
    ----------
    source : History, Recording or path

    Returns
    -------
    History or Recording

    Raises
    ------
    TypeError
        If `source` is none of these.
    FileNotFoundError, ValueError
        As in `History.load`.

    Examples
    --------
    >>> as_run(Recording())
    Recording('recording', 0 topologies)
    """
    if isinstance(source, str | os.PathLike):
        return History.load(source)
    if not hasattr(source, "recorded"):
        raise TypeError(
            "expected a run (a History, a Recording or the path of a run directory), got "
            f"{type(source).__name__}"
        )
    return cast("History", source)

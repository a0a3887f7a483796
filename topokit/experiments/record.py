"""The results of a run: two tidy frames, the topology of every epoch, and their folder."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from topokit.graph import Topology, snapshots, union
from topokit.graph.files import write_atomic
from topokit.measures import measure

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["History", "Recorder", "Recording", "RunDirectory", "best_epoch"]

MEASURE_COLUMNS = ["run", "epoch", "layer", "measure", "value"]


def best_epoch(epochs: pd.DataFrame) -> int:
    """Return the row position of the best epoch: highest test accuracy, or else lowest test loss.

    The loss decides where no accuracy is known, as for models that learn without labels; of
    equal epochs the first counts.

    Parameters
    ----------
    epochs : pandas.DataFrame
        With columns ``test_accuracy`` and ``test_loss``, as `History.epochs`.

    Raises
    ------
    ValueError
        If there are no epochs, or neither column has a defined value.

    Examples
    --------
    >>> nan = float("nan")
    >>> best_epoch(pd.DataFrame({"test_loss": [3.0, 2.0, 4.0], "test_accuracy": [nan, 0.5, 0.6]}))
    2
    >>> best_epoch(pd.DataFrame({"test_loss": [3.0, 2.0, 4.0], "test_accuracy": [nan] * 3}))
    1
    """
    accuracy = epochs["test_accuracy"].to_numpy(float)
    scores = accuracy if np.isfinite(accuracy).any() else -epochs["test_loss"].to_numpy(float)
    if np.isnan(scores).all():
        raise ValueError("expected an epoch with a test accuracy or a test loss, got none")
    return int(np.nanargmax(scores))


@dataclass(frozen=True)
class History:
    """What a run recorded.

    Parameters
    ----------
    epochs : pandas.DataFrame
        One row an epoch: ``run, epoch, train_loss, test_loss, test_accuracy, seconds``.
        Epochs count from 0. `seconds` is wall time spent in training and evaluation.
    measures : pandas.DataFrame
        One row a value: ``run, epoch, layer, measure, value``; `layer` is ``"network"`` for
        measures of the whole network.
    directory : Path
        The run's folder, from which topologies are read when asked for.
    config, environment : dict
        The configuration, and the versions, seed and command that made the run.

    Notes
    -----
    The topology of an epoch is the one its accuracy was measured on: epoch 0 has the initial
    graph when a rule rewires between epochs.
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
        epochs = self.recorded
        if epoch < 0 and -epoch <= len(epochs):
            epoch = epochs[epoch]
        return snapshots.read(self.directory / "topology", int(epoch))

    def ages(self, epoch: int, layer: str) -> NDArray[np.int64]:
        """Return the age in epochs of each edge of a layer, 0 for one new in that epoch.

        An edge dropped and grown again between two records counts as one that stayed.
        """
        births = snapshots.read_births(self.directory / "topology", epoch)
        if layer not in births:
            raise ValueError(f"expected a layer of {', '.join(births)}, got {layer!r}")
        return (epoch - births[layer]).astype(np.int64)

    def wide(self) -> pd.DataFrame:
        """Return the measures with one row an epoch and layer, one column a measure."""
        return self.measures.pivot_table(
            index=["run", "epoch", "layer"], columns="measure", values="value", dropna=False
        ).reset_index()


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run: every file is written beside itself and moved into place."""

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
        """File with all that is needed to go on."""
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
        """Hold the folder for one process; the lock ends with the process, however it ends.

        Raises
        ------
        ValueError
            If another process holds it.
        """
        import fcntl

        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"another process is writing to the run {self.path}; wait for it or "
                    "choose another --out"
                ) from None
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
    """Writes epochs into a run directory and remembers what the next one needs.

    Frames are rewritten whole, topologies appended; all are on disk when `write` returns, so
    a checkpoint saved after it never knows more than the record does.
    """

    def __init__(self, run: RunDirectory, *, upto: int = -1) -> None:
        history = run.history()
        self.run = run
        self._epochs = history.epochs[history.epochs["epoch"] <= upto]
        self._measures = history.measures[history.measures["epoch"] <= upto]
        self._folder = run.path / "topology"
        snapshots.truncate(self._folder, upto)
        self.previous: Topology | None = None
        self.explored: dict[str, NDArray[np.int64]] = {}
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
        """Return for each layer the share of possible edges ever present, these included."""
        shares = {}
        for name, graph in topology.items():
            seen, ids = self.explored.get(name, np.empty(0, np.int64)), graph.edge_ids
            self.explored[name] = seen = union(seen, ids)
            cells = graph.n_in * graph.n_out
            shares[name] = seen.size / cells if cells else float("nan")
        return shares

    def write(
        self, epoch: int, metrics: dict[str, float], topology: Topology, measures: pd.DataFrame
    ) -> None:
        """Record one epoch: its metrics, its measures and the graphs they belong to."""
        births = snapshots.append(self._folder, epoch, topology, self._last)
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

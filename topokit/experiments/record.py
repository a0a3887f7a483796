"""The results of a run: two tidy frames and the topology of every epoch."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from topokit.experiments.rundir import MEASURE_COLUMNS, RunDirectory, writable
from topokit.experiments.views import RunViews
from topokit.graph import Topology, snapshots
from topokit.graph.convert import as_topology
from topokit.measures import measure
from topokit.tables import as_html, is_integer, is_number, need
from topokit.toml import flattened

__all__ = [
    "EXPLORED",
    "History",
    "Recording",
    "RunLike",
    "as_run",
    "best_epoch",
    "check_seeds_differ",
    "conditions",
    "differences",
    "epoch_at",
    "score_column",
    "unfinished",
    "without_seed",
]

EXPLORED = "explored_fraction"
KEPT = 4_000_000  # edges of topologies that a history keeps in memory once they are read


def score_column(epochs: pd.DataFrame) -> str | None:
    """Return the column by which the epochs of a run are judged.

    It is the first of ``test_accuracy``, ``test_loss``, the other columns of accuracies (``acc`` in
    the name) and those of losses or errors (``loss`` or ``err``) that has a finite number. Columns
    with ``train`` in their name come after all others.

    Parameters
    ----------
    epochs : pandas.DataFrame
        As `History.epochs`, or with the columns that `Recording.note` added.

    Returns
    -------
    str or None
        None if there is no such column.

    Examples
    --------
    >>> score_column(pd.DataFrame({"epoch": [0], "train_loss": [2.0], "val_acc": [0.5]}))
    'val_acc'
    >>> score_column(pd.DataFrame({"test_accuracy": [np.nan], "test_loss": [3.0]}))
    'test_loss'
    >>> score_column(pd.DataFrame({"train_acc": [0.9], "val_loss": [0.5]}))
    'val_loss'
    """
    names = [str(name) for name in epochs.columns]
    others = [name for name in names if "acc" in name.lower() or _is_loss(name)]
    others.sort(key=lambda name: ("train" in name.lower(), _is_loss(name)))
    wanted = ["test_accuracy", "test_loss", *others]
    for name in wanted:
        numbers = name in names and pd.api.types.is_numeric_dtype(epochs[name])
        if numbers and np.isfinite(epochs[name].to_numpy(float)).any():
            return name
    return None


def _is_loss(name: str) -> bool:
    """Return whether lower numbers of a column are better."""
    return "loss" in name.lower() or "err" in name.lower()


def best_epoch(epochs: pd.DataFrame) -> int:
    """Return the position of the row of a run's best epoch.

    The best epoch is that of highest accuracy or lowest loss in the `score_column`; of equally good
    ones it is the first. Models without labels have a test loss only.

    Parameters
    ----------
    epochs : pandas.DataFrame
        As `History.epochs`.

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
    column = score_column(epochs)
    if column is None:
        raise ValueError(
            f"expected an epoch with a test accuracy or loss, got {len(epochs)} rows of columns "
            f"{', '.join(map(str, epochs.columns)) or 'none'}"
        )
    scores = epochs[column].to_numpy(float) * (-1 if _is_loss(column) else 1)
    return int(np.argmax(np.where(np.isfinite(scores), scores, -np.inf)))


def unfinished(run: History) -> str:
    """Return how much of a run is done, such as "3 of 10 epochs"; "" if that is all of it."""
    done, planned = len(run.epochs), run.config.get("epochs", 0)
    return f"{done} of {planned} epochs" if done < planned else ""


NOT_GROUPING = {"about", "seed", "threads"}  # keys that may differ between runs of one condition


def without_seed(name: str) -> str:
    """Return the name of a run without the seed at its end: "set" for "set-seed3"."""
    return re.sub(r"-?seed\d+$", "", name)


def _grouping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a configuration to dotted keys, without those that may differ within a condition."""
    flat = flattened(config)
    return {key: value for key, value in flat.items() if not NOT_GROUPING & {*key.split(".")}}


def differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe each configuration by the keys in which they differ, other than seed and threads.

    Parameters
    ----------
    configs : sequence of mapping
        As `History.config`.

    Returns
    -------
    list of str
        One for each, such as ``"rule.name=set"``; equal ones have equal texts, and all are empty
        if none differs.

    Examples
    --------
    >>> differences([{"rule": {"name": "set"}, "seed": 0}, {"rule": {"name": "static"}}])
    ['rule.name=set', 'rule.name=static']
    """
    flat = [_grouping(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    differ = [k for k in keys if any(c.get(k) != flat[0].get(k) for c in flat)]
    return [", ".join(f"{key}={c[key]}" for key in differ if key in c) for c in flat]


def conditions(histories: Sequence[History]) -> list[str]:
    """Return the name of the condition of each run; those that differ only in their seed share it.

    Parameters
    ----------
    histories : sequence of History

    Returns
    -------
    list of str
        The names of the runs without their seeds if there is one for each condition, else what
        distinguishes the configurations.

    Examples
    --------
    >>> a, b = Recording(name="set-seed0"), Recording(name="set-seed1")
    >>> conditions([a, b])
    ['set', 'set']
    """
    names = [without_seed(history.name) or history.name for history in histories]
    if not all(history.config for history in histories):
        return names
    labels = differences([history.config for history in histories])
    pairs = set(zip(names, labels, strict=True))
    if len(pairs) == len(set(names)) == len(set(labels)):
        return names
    return labels if len(set(labels)) > 1 else ["all runs"] * len(labels)


def check_seeds_differ(histories: Sequence[History], labels: Iterable[str]) -> None:
    """Raise a ValueError if two runs of one condition have the same seed, or are one run.

    Such runs are not independent, and an interval over them would be too narrow. `labels` names
    the condition of each run. A record without a configuration has no seed.

    Examples
    --------
    >>> a, b = Recording(name="set-seed0"), Recording(name="set-seed1")
    >>> check_seeds_differ([a, b], ["set", "set"])
    """
    known: dict[tuple[str, Any], History] = {}
    for history, label in zip(histories, labels, strict=True):
        seed = history.config.get("seed")
        key = label, id(history) if seed is None else ("seed", seed)
        if key in known:
            both = f"{_place(known[key])} and {_place(history)}"
            raise ValueError(
                f"expected runs of different seeds in a condition, got {both}, both with "
                f"{'one record' if seed is None else f'seed {seed}'} in {label!r}: they are not "
                "independent, so that intervals over them would be too narrow; leave one out"
            )
        known[key] = history


def _place(history: History) -> str:
    """Return where a run is, or its name if it has no folder."""
    return str(getattr(history, "directory", history.name))


@dataclass(frozen=True, repr=False)
class History(RunViews):
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
    checks : dict of str, optional
        Checksum of the file of each epoch's topology; None for runs of schema 1.
    timing : dict of float
        ``epochs``, ``training_seconds`` and ``measuring_seconds``.
    samples : str
        Checksum of all samples and labels, as loaded; empty for runs of schema 1.

    Notes
    -----
    The topology of an epoch is the one its accuracy was measured on: epoch 0 has the initial
    topology when a rule rewires between epochs.

    ``history["fc1"]`` has the measures of a layer, ``history["test_accuracy"]`` a column of
    `epochs`, ``history[-1]`` a topology and ``history[10:]`` the same run from its eleventh
    recorded epoch on.
    """

    epochs: pd.DataFrame
    measures: pd.DataFrame
    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    checks: dict[int, str] | None = field(default=None, repr=False)
    timing: dict[str, float] = field(default_factory=dict, repr=False)
    samples: str = field(default="", repr=False)
    _read: dict[int, snapshots.Snapshot] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
        run = RunDirectory.open(directory)
        record = run.read()
        run.compare(record)
        epochs, measures = record.frames(run.name)
        config = tomllib.loads(record.config)
        return cls(
            epochs, measures, run.path.resolve(), config, record.environment, record.checks,
            record.timing(), record.data,
        )  # fmt: skip

    def __repr__(self) -> str:
        facts = self._facts()
        words = [f"{key} {value}" for key, value in facts.items() if key != "run"]
        return f"History({', '.join([repr(self.name), *words])})"

    def _repr_html_(self) -> str:
        return as_html("History", self._facts() | {"directory": self.directory})

    def _facts(self) -> dict[str, Any]:
        """Return what is shown of a run."""
        facts: dict[str, Any] = {"run": self.name}
        facts["epochs"] = unfinished(self).replace(" epochs", "") or len(self.epochs)
        for section, key in (("rule", "name"), ("data", "name"), ("topology", "generator")):
            if key in self.config.get(section, {}):
                facts[section] = self.config[section][key]
        if "seed" in self.config:
            facts["seed"] = self.config["seed"]
        column = score_column(self.epochs) if len(self.epochs) else None
        if column is not None:
            facts[column] = f"{float(self.epochs[column].iloc[-1]):.4g}"
        return facts

    @property
    def name(self) -> str:
        """Name of the run: the name of its folder."""
        return writable(self.directory.name)

    @property
    def recorded(self) -> list[int]:
        """Epochs whose topology is stored: those that have a row in `epochs`."""
        return [int(epoch) for epoch in self.epochs["epoch"]]

    def topology(self, epoch: int) -> Topology:
        """Return all layer graphs of a recorded epoch; negative numbers count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded, or a file that is needed is missing or damaged.
        """
        return self._snapshot(epoch_at(self.recorded, epoch)).topology

    def _snapshot(self, epoch: int) -> snapshots.Snapshot:
        recorded = self.recorded
        if epoch not in recorded:
            span = f"{recorded[0]}..{recorded[-1]}" if recorded else "none"
            raise ValueError(f"expected a recorded epoch ({span}), got {epoch}")
        # Figures read the same epochs several times, and in order, where each is a change of the
        # one before: what was read last is kept, up to `KEPT` edges in all.
        found = snapshots.load(self.directory / "topology", epoch, self.checks, self._read)
        self._read.pop(epoch, None)
        self._read[epoch] = found
        edges = sum(graph.n_edges for graph in found.topology.values())
        while len(self._read) > max(1, KEPT // max(edges, 1)):
            del self._read[next(iter(self._read))]
        return found

    def ages(self, epoch: int, layer: str) -> NDArray[np.int64]:
        """Return the age in epochs of each edge of a layer, 0 for one new in that epoch.

        An edge dropped and grown again between two records counts as one that stayed. Negative
        epochs count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded, or there is no such layer.
        """
        epoch = epoch_at(self.recorded, epoch)
        births = self._snapshot(epoch).births
        if layer not in births:
            raise ValueError(f"expected a layer of {', '.join(births)}, got {layer!r}")
        return (epoch - births[layer]).astype(np.int64)

    def explored_fraction(self, epoch: int) -> dict[str, float]:
        """Return the share of each layer's possible edges present at any time up to an epoch.

        It is the value recorded for the epoch. If there is none and the run rewired between epochs
        only, it is computed from the topologies of all epochs, also of those outside a slice of the
        run. Negative epochs count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded; or its value was not, and rewirings within epochs passed
            through graphs that are not in the record.
        """
        epoch = epoch_at(self.recorded, epoch)
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
        self._snapshot(epoch)  # says if it was not recorded
        folder = self.directory / "topology"
        whole = snapshots.recorded(folder) if self.checks is None else sorted(self.checks)
        upto = [at for at in whole if at <= epoch]  # `recorded` may be a slice of the run
        seen = snapshots.explored(folder, upto, self.checks)
        return {layer: graph.density for layer, graph in seen.items()}

    def _epochs_with(self, name: str) -> str:
        """Return the epochs at which a measure was taken, for messages."""
        taken = self.measures[self.measures["measure"] == name]["epoch"]
        return ", ".join(str(epoch) for epoch in sorted(set(taken.tolist())))


def _whole(epoch: int) -> int:
    """Return the number of an epoch; raise a ValueError for one between two epochs."""
    good = is_number(epoch) and math.isfinite(epoch) and int(epoch) == epoch
    need(good, "epoch", "a whole number", epoch)
    return int(epoch)


def _from_zero(epoch: int) -> int:
    """Return the number of an epoch to record."""
    need(_whole(epoch) >= 0, "epoch", "a number from 0 (negative ones count from the end)", epoch)
    return int(epoch)


def _number(name: str, value: Any) -> float:
    """Return a number that was noted; of a tensor or array, the one in it."""
    with contextlib.suppress(ValueError, RuntimeError):  # of several numbers
        value = value.item() if hasattr(value, "item") else value
    need(value is None or isinstance(value, numbers.Real), name, "one number", value)
    return math.nan if value is None else value


def epoch_at(recorded: list[int], epoch: int) -> int:
    """Return the number of an epoch; negative numbers count the recorded epochs from the end."""
    epoch = _whole(epoch)
    return recorded[epoch] if -len(recorded) <= epoch < 0 else epoch


class Recording(RunViews):
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
        need(is_integer(every, 1), "every", "a positive whole number", every)
        one = isinstance(measures, str) or callable(measures)
        several: Any = [measures] if one else measures
        self.names: list[Any] | None = None if several is None else [*several]
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
        epoch, topology = _from_zero(epoch), dict(as_topology(topology))
        others = (kept for at, kept in self.topologies.items() if at != epoch)
        if (other := next(others, None)) is not None and other.keys() != topology.keys():
            raise ValueError(
                f"expected the layers recorded before ({', '.join(other)}), got "
                f"{', '.join(topology) or 'none'}; use another Recording for another model"
            )
        self.topologies[epoch] = topology
        self._rows.setdefault(epoch, {})
        if self.names is not None:
            later = [at for at in self.recorded if at > epoch]
            for at in [epoch, *later[:1]]:  # measures of change: the next one is compared with it
                self._measure(at)

    def _measure(self, epoch: int) -> None:
        """Measure a kept topology, and its change since the one before it."""
        before = [at for at in self.recorded if at < epoch]
        previous = self.topologies[before[-1]] if before else None
        frame = measure(self.topologies[epoch], self.names, previous=previous)
        self._frames[epoch] = frame.assign(run=self.name, epoch=epoch)[MEASURE_COLUMNS]

    def note(self, epoch: int, **metrics: float) -> None:
        """Add numbers of an epoch; each name becomes a column of `epochs`.

        A tensor or an array of one number is taken as that number, None as ``nan``.
        """
        need("run" not in metrics, "note", "names other than 'run', a column of all runs", "run")
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        self._rows.setdefault(_from_zero(epoch), {}).update(numbers)

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

    def _part(self, epochs: set[int]) -> Recording:
        part = Recording(self.names, every=self.every, name=self.name)
        part.config, part.environment = self.config, self.environment
        part.topologies = {e: kept for e, kept in self.topologies.items() if e in epochs}
        part._rows = {e: row for e, row in self._rows.items() if e in epochs}
        part._frames = {e: frame for e, frame in self._frames.items() if e in epochs}
        return part

    def topology(self, epoch: int) -> Topology:
        """Return all layer graphs of a recorded epoch; negative numbers count from the end.

        Raises
        ------
        ValueError
            If the epoch was not recorded.
        """
        kept = self.recorded
        epoch = epoch_at(kept, epoch)
        if epoch not in self.topologies:
            raise ValueError(f"epoch {epoch} was not recorded; recorded: {kept}")
        return self.topologies[epoch]

    def __repr__(self) -> str:
        return f"Recording({self.name!r}, {len(self.topologies)} topologies)"

    def _repr_html_(self) -> str:
        epochs = self.epochs
        facts: dict[str, Any] = {"name": self.name, "topologies": len(self.topologies)}
        if self.topologies:
            facts["layers"] = ", ".join(self.topology(-1))
        if self._frames:
            facts["measures"] = self.measures["measure"].nunique()
        if len(epochs):
            last = epochs.iloc[-1].drop("run")
            facts |= {str(name): f"{value:.4g}" for name, value in last.items()}
        return as_html("Recording", facts)


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

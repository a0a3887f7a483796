"""Comparison of groups of runs, which differ in their configurations, over seeds."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from topokit.experiments.record import (
    History,
    best_epoch,
    check_seeds_differ,
    differences,
    score_column,
    without_seed,
)
from topokit.experiments.statistics import adjusted, mean_interval, paired
from topokit.experiments.sweep import runs_of
from topokit.experiments.views import recorded_epochs
from topokit.tables import as_generator, choose, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare", "run_rows"]

_log = logging.getLogger("topokit.experiments")

MEASURES = ("fc1/fan_in.dispersion", "fc1/normalized_spectral_gap")
ALL_PAIRS = 6  # number of groups up to which every pair is compared, else all with the first


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`: tables of the runs, of the groups and of pairs of groups.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row for each run; see `run_rows`.
    groups : pandas.DataFrame
        One row for each group: ``group, n, metric, value, low, high, best, edges`` and three
        columns for each measure, its mean over runs and ``MEASURE.low`` and ``MEASURE.high``, the
        95 % interval; a measure that is nan in some runs has the mean of the others. `metric` names
        what is compared, ``"test_accuracy"`` or, for models without labels, ``"test_loss"``;
        `value` is its mean after the last epoch over the `n` runs where it is not nan, with the
        95 % interval from `low` to `high` (nan for one run).
    pairs : pandas.DataFrame
        One row for each pair of groups with the same metric and at least two shared seeds:
        ``group, other, metric, n, difference, low, high, permutation_p, t_p, adjusted_p``. The
        last is the p-value of the t-test, adjusted by Holm's method.
    """

    runs: pd.DataFrame
    groups: pd.DataFrame
    pairs: pd.DataFrame

    def __repr__(self) -> str:
        sizes = f"{len(self.runs)} runs, {len(self.groups)} groups, {len(self.pairs)} pairs"
        return f"Comparison({sizes})"

    def _repr_html_(self) -> str:
        return self.groups.to_html(index=False) + self.pairs.to_html(index=False)


def compare(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    measures: Iterable[str] | None = None,
    reference: str | None = None,
    rng: np.random.Generator | int,
) -> Comparison:
    """Compare groups of runs: metric, edges and measures over seeds, and differences of pairs.

    Runs that differ only in their seed form a group. Two groups that share seeds are compared by
    pairs of runs with equal seeds, which have the same data, initial weights and order of samples,
    so that the differences vary less than the metric itself. Runs with the same data set and seed
    that had other samples, as when a file was changed between them, are named in the log.

    Parameters
    ----------
    paths : path or iterable of path
        Run directories, sweeps and folders of runs. Groups are in the order given, those of a
        sweep in the order of its study.
    measures : iterable of str, optional
        Such as ``"fc1/fan_in.dispersion"``; without a layer the mean over layers, nan if it is
        undefined in one of them. By default dispersion and normalized spectral gap of ``fc1``,
        where recorded.
    reference : str, optional
        The group with which every other is compared, as ``other``. By default all pairs of up to
        six groups are compared, and of more all with the first.
    rng : numpy.random.Generator or int
        Draws permutations where groups share more than 12 seeds.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If there are no runs, one is given twice, or one has not recorded an epoch; if two runs of
        a group have the same seed; if no run has recorded a measure, or there is no group of the
        name `reference`.
    FileNotFoundError
        If a path does not exist.

    Examples
    --------
    >>> import tempfile
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from topokit.experiments.study import study_from
    >>> from topokit.experiments.sweep import sweep
    >>> study = study_from({
    ...     "study": {"name": "tiny", "recipe": "set_mlp_digits", "seeds": [0, 1]},
    ...     "settings": {"epochs": 1, "model.widths": [64, 20, 10]},
    ...     "grid": {"rule.name": ["set", "static"]},
    ... })
    >>> done = sweep(study, tempfile.mkdtemp(), executor=ThreadPoolExecutor(1))
    >>> found = compare([done.directory], rng=np.random.default_rng(0))
    >>> found.groups[["group", "n"]].values.tolist(), found.pairs["difference"].tolist()
    ([['name=set', 2], ['name=static', 2]], [0.0])
    """
    import pandas as pd

    rng = as_generator(rng)
    wanted = list(MEASURES if measures is None else measures)
    histories, runs = _rows(paths, wanted)
    check_seeds_differ(histories, runs["group"])
    if measures is None:  # of the default those that a run has recorded
        missing = [name for name in wanted if runs[name].isna().all()]
        wanted, runs = [n for n in wanted if n not in missing], runs.drop(columns=missing)
    _check_measures(histories, wanted)
    groups = []
    for group, part in runs.groupby("group", sort=False):
        interval = mean_interval(part["value"])
        row = {"group": group, "n": interval.n, "metric": part["metric"].iloc[0]}
        row |= {"value": interval.mean, "low": interval.low, "high": interval.high}
        row |= {name: float(part[name].mean()) for name in ("best", "edges")}
        for name in wanted:
            interval = mean_interval(part[name])
            row |= {name: interval.mean, f"{name}.low": interval.low, f"{name}.high": interval.high}
        groups.append(row)
    metrics = {row["group"]: row["metric"] for row in groups}
    labels = list(metrics)
    both: Iterable[tuple[str, str]] = combinations(labels, 2)
    if reference is not None:
        choose("group", reference, metrics)
        both = ((label, reference) for label in labels)
    elif len(labels) > ALL_PAIRS:
        both = ((labels[0], label) for label in labels)
    pairs = []
    for first, second in both:
        a, b = (
            runs[runs["group"] == group].set_index("seed")["value"] for group in (first, second)
        )
        shared = a.index.intersection(b.index)
        if first != second and metrics[first] == metrics[second] and len(shared) > 1:
            found = paired(a[shared], b[shared], rng=rng)._asdict()
            del found["wilcoxon_p"]
            pairs.append({"group": first, "other": second, "metric": metrics[first], **found})
    columns = ["group", "other", "metric", "n", "difference", "low", "high", "permutation_p", "t_p"]
    table = pd.DataFrame(pairs, columns=columns)
    table["adjusted_p"] = adjusted(table["t_p"].astype(float))
    return Comparison(runs, pd.DataFrame(groups), table)


def run_rows(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    measures: Iterable[str] = (),
) -> pd.DataFrame:
    """Return a table with a row for each run: its group, final and best metric, and measures.

    Parameters
    ----------
    paths, measures
        As for `compare`.

    Returns
    -------
    pandas.DataFrame
        ``run, group, seed, epochs, planned`` (epochs of the configuration), ``metric``
        (``"test_accuracy"``, or ``"test_loss"`` where no
        accuracy was recorded), ``value`` (after the last epoch), ``best, best_epoch, edges`` and
        one column for each measure, nan where it was not taken.

    Raises
    ------
    ValueError, FileNotFoundError
        As for `compare`.
    """
    return _rows(paths, list(measures))[1]


def _rows(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], measures: list[str]
) -> tuple[list[History], pd.DataFrame]:
    """Return the runs, and the table of `run_rows`."""
    import pandas as pd

    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    named = [(run, Path(path)) for path in paths for run in runs_of(path)]
    resolved = [run.resolve() for run, _ in named]
    for i, (run, _) in enumerate(named):
        if resolved[i] in resolved[:i]:
            raise ValueError(f"expected each run once, got {run} twice")
    found = [(History.load(run), _condition(run, path)) for run, path in named]
    if not found:
        raise ValueError("expected at least one run or sweep, got none")
    _note_samples([history for history, _ in found])
    labels = differences([history.config for history, _ in found])
    several = _ambiguous(found)
    rows = []
    for (history, condition), label in zip(found, labels, strict=True):
        if condition in several:
            condition = f"{condition} ({label})"
        recorded_epochs(history)
        epochs = history.epochs
        best = best_epoch(epochs)
        metric = str(score_column(epochs))
        row = {
            "run": history.name,
            "group": condition or label or "all",
            "seed": int(history.config["seed"]),
            "epochs": len(epochs),
            "planned": int(history.config.get("epochs", len(epochs))),
            "metric": metric,
            "value": float(epochs[metric].iloc[-1]),
            "best": float(epochs[metric].iloc[best]),
            "best_epoch": int(epochs["epoch"].iloc[best]),
            "edges": sum(graph.n_edges for graph in history.topology(-1).values()),
        }
        rows.append(row | {name: _measured(history.measures, name) for name in measures})
    return [history for history, _ in found], pd.DataFrame(rows)


def _note_samples(runs: list[History]) -> None:
    """Log which runs of one data set and one seed were not trained on the same samples."""
    known: dict[str, History] = {}
    for run in runs:
        if run.samples:
            other = known.setdefault(repr((run.config.get("data"), run.config["seed"])), run)
            if run.samples != other.samples:
                words = "%s and %s have the same settings of the data and the same seed, but other "
                words += "samples: were files of the data set changed between them?"
                _log.warning(words, other.name, run.name)


def _condition(run: Path, given: Path) -> str:
    """Return condition and grid cell of a run in a sweep, from its folder; "" outside a sweep."""
    return without_seed(run.name) if (given / "study.toml").is_file() else ""


def _ambiguous(found: list[tuple[History, str]]) -> set[str]:
    """Return the conditions whose runs differ in more than their seed, as those of two sweeps may.

    A run that starts from another one names it, with its seed.
    """
    configs = []
    for history, _ in found:
        topology = dict(history.config.get("topology", {}))
        if "run" in topology:
            topology["run"] = without_seed(str(topology["run"]))
        configs.append({**history.config, "topology": topology})
    labels: dict[str, set[str]] = {}
    for (_, condition), label in zip(found, differences(configs), strict=True):
        labels.setdefault(condition, set()).add(label)
    return {condition for condition, own in labels.items() if condition and len(own) > 1}


def _check_measures(runs: list[History], measures: Iterable[str]) -> None:
    """Raise a ValueError about a measure that no run has recorded."""
    layers: set[str] = set()
    known: set[str] = set()
    for run in runs:
        layers |= set(run.measures["layer"])
        known |= set(run.measures["measure"])
    for name in measures:
        layer, _, measure = name.rpartition("/")
        if measure not in known:
            raise ValueError(
                f"no run has recorded {measure!r}; {nearest('measure', measure, known)}"
            )
        if layer and layer not in layers:
            raise ValueError(f"no run has a layer {layer!r}; {nearest('layer', layer, layers)}")


def _measured(frame: pd.DataFrame, name: str) -> float:
    """Return a measure at the last epoch that has it, of one layer or as the mean over layers.

    That mean is nan if the measure is in one of the layers: over the others, it would be that of
    other layers in other runs.
    """
    layer, _, measure = name.rpartition("/")
    mine = frame[frame["measure"] == measure]
    mine = mine[mine["layer"] == layer] if layer else mine[mine["layer"] != "network"]
    last = mine.loc[mine["epoch"] == mine["epoch"].max(), "value"].astype(float)
    return float(last.mean(skipna=False))

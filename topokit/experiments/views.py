"""What a person asks of a run's record: a layer, some epochs, a summary, a figure, xarray."""

from __future__ import annotations

import copy
import importlib
import os
from math import isqrt
from typing import TYPE_CHECKING, Any

import pandas as pd

from topokit.data.samples import pixel_order
from topokit.tables import choose, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RunViews", "recorded_epochs", "shuffled_pixels"]

SUMMARY = ("fan_in.dispersion", "fan_out.dispersion", "fan_in.maximum", "normalized_spectral_gap")


class RunViews:
    """Methods of a record that has frames ``epochs`` and ``measures`` and topologies."""

    # A run is neither a list of epochs nor one of layers: `for` and `in` are refused, which Python
    # would otherwise derive from `__getitem__`.
    __iter__ = None
    __contains__ = None

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return a layer's measures, a column of epochs, a topology, or the run's part of a slice.

        Parameters
        ----------
        key : str, int or slice
            The name of a layer (or ``"network"``): its measures, a row for each epoch. The name of
            a column of ``epochs``, such as ``"test_accuracy"``: its values by epoch. An epoch: its
            topology; negative numbers count from the end. A slice of the recorded epochs, counted
            as in a list: the same record with these epochs only.

        Raises
        ------
        KeyError
            If there is no such layer or column.
        ValueError
            If the epoch was not recorded.
        """
        run: Any = self
        if isinstance(key, slice):
            return self._part(set(run.recorded[key]))
        if not isinstance(key, str):
            return run.topology(key)
        epochs, measures = run.epochs, run.measures
        if key in epochs and key not in ("run", "epoch"):
            return epochs.set_index("epoch")[key]
        mine = measures[measures["layer"] == key]
        if mine.empty:
            names = [*dict.fromkeys(measures["layer"]), *epochs.columns[2:]]
            raise KeyError(f"unknown layer or column {key!r}; {nearest('name', key, names)}")
        order = list(dict.fromkeys(mine["measure"]))
        return _wide(mine, "measure")[order]

    def _part(self, epochs: set[int]) -> Any:
        """Return a copy with some of the epochs only."""
        part = copy.copy(self)
        for name in ("epochs", "measures"):
            frame = getattr(self, name)
            kept = frame[frame["epoch"].isin(epochs)].reset_index(drop=True)
            object.__setattr__(part, name, kept)
        return part

    def wide(self) -> pd.DataFrame:
        """Return the measures as a table: a row for each epoch and layer, a column for each one."""
        run: Any = self
        return run.measures.pivot_table(
            index=["run", "epoch", "layer"], columns="measure", values="value", dropna=False
        ).reset_index()

    def summary(self) -> pd.DataFrame:
        """Return a table of the layers: edges, and measures at the first and the last epoch.

        Returns
        -------
        pandas.DataFrame
            A row for each layer, and ``"network"`` with all edges and the accuracy or loss. Columns
            ``edges``, and for each recorded one of the dispersions, the largest fan-in and the
            normalized spectral gap ``MEASURE, first`` and ``MEASURE, last``.

        Raises
        ------
        ValueError
            If no epoch has been recorded.
        """
        from topokit.experiments.record import score_column

        run: Any = self
        recorded = recorded_epochs(run)
        rows: dict[str, dict[str, float]] = {
            layer: {"edges": graph.n_edges} for layer, graph in run.topology(-1).items()
        }
        rows["network"] = {"edges": sum(row["edges"] for row in rows.values())}
        ends = {"first": recorded[0], "last": recorded[-1]}
        frame = run.measures
        frame = frame[frame["measure"].isin(SUMMARY)]
        for word, epoch in ends.items():
            now = frame[frame["epoch"] == epoch]
            for layer, measure, value in zip(
                now["layer"], now["measure"], now["value"], strict=True
            ):
                rows.setdefault(layer, {})[f"{measure}, {word}"] = float(value)
        column = score_column(run.epochs)
        if column is not None:
            scores = run.epochs.set_index("epoch")[column]
            for word, epoch in ends.items():
                rows["network"][f"{column}, {word}"] = float(scores[epoch])
        wanted = [f"{name}, {word}" for name in (*SUMMARY, column) for word in ends]
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "layer"
        return table[["edges", *(name for name in wanted if name in table)]]

    def plot(self, name: str = "summary", **options: Any) -> Any:
        """Draw a figure of the run.

        Parameters
        ----------
        name : str
            A key of `topokit.HISTORY_PLOTS`, by default the figure of everything.
        **options
            Of that figure, such as ``ax`` and ``layer``.

        Returns
        -------
        matplotlib.axes.Axes
            Or what else that figure returns.

        Raises
        ------
        ValueError
            If there is no such figure.
        """
        plots = importlib.import_module("topokit.plots").HISTORY_PLOTS  # a layer above
        return choose("plot", name, plots)(self, **options)

    def to_xarray(self) -> Any:
        """Return the record as a dataset of xarray.

        Returns
        -------
        xarray.Dataset
            Variables over ``epoch`` (the columns of `epochs`) and over ``epoch`` and ``layer`` (the
            measures, nan where one was not taken). Attributes ``run`` and, of a run,
            ``configuration`` as TOML.

        Raises
        ------
        ImportError
            If xarray is not installed.
        """
        try:
            import xarray
        except ImportError:
            raise ImportError(
                "to_xarray and to_netcdf need xarray, which is not installed: pip install xarray"
            ) from None
        from topokit.toml import to_toml

        run: Any = self
        epochs = run.epochs.drop(columns="run").set_index("epoch")
        measures = run.measures
        layers = list(dict.fromkeys(measures["layer"]))
        variables: dict[str, Any] = {
            str(name): ("epoch", epochs[name].to_numpy()) for name in epochs.columns
        }
        for name in dict.fromkeys(measures["measure"]):
            wide = _wide(measures[measures["measure"] == name], "layer")
            wide = wide.reindex(index=epochs.index, columns=layers)
            variables[str(name)] = (("epoch", "layer"), wide.to_numpy(float))
        config = getattr(self, "config", {})
        return xarray.Dataset(
            variables,
            {"epoch": epochs.index.to_numpy(), "layer": layers},
            {"run": run.name, "configuration": to_toml(config) if config else ""},
        )

    def to_netcdf(self, path: str | os.PathLike[str]) -> None:
        """Write the record as a NetCDF file; see `to_xarray`.

        Parameters
        ----------
        path : path

        Raises
        ------
        ImportError
            If xarray, or a library with which it writes such files, is not installed.
        """
        self.to_xarray().to_netcdf(path)


def recorded_epochs(run: Any) -> list[int]:
    """Return the recorded epochs of a run; raise a ValueError if there is none yet."""
    if not run.recorded:
        raise ValueError(f"run {run.name} has not recorded an epoch yet")
    return run.recorded


def shuffled_pixels(run: Any) -> NDArray[np.int64] | None:
    """Return the pixel that each input unit of a run reads, if its images were shuffled.

    That is `topokit.data.samples.pixel_order` of the setting ``data.shuffle_pixels``, which sets of
    square images have, with one or three channels; None for other runs.
    """
    seed = run.config.get("data", {}).get("shuffle_pixels", 0)
    if not seed or not run.recorded:
        return None
    n = next(iter(run.topology(run.recorded[-1]).values())).n_in
    channels = 1 if isqrt(n) ** 2 == n else 3
    return pixel_order((channels, isqrt(n // channels), isqrt(n // channels)), seed)


def _wide(rows: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Return values with a row for each epoch; each is there once."""
    return rows.pivot_table(
        index="epoch", columns=columns, values="value", aggfunc="first", dropna=False
    )

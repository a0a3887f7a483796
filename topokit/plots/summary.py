"""Summary figures: one run, or several conditions over seeds, in panels with one time axis.

A figure of several panels takes `ax` like any other. The panels are placed inside it, as its
``child_axes``; `ax` itself becomes a frame without ticks, whose title and labels hold for all of
them. Without `ax` a new figure of the right size is made.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from topokit.experiments.record import (
    History,
    RunLike,
    as_run,
    check_seeds_differ,
    conditions,
    score_column,
)
from topokit.measures.degree import degrees_of
from topokit.plots.across import check_complete, check_seeds, mean_over_seeds
from topokit.plots.history import (
    accuracy_over_epochs,
    layer_of,
    measure_over_epochs,
    scores_of,
    verdict_timeline,
)
from topokit.plots.layer import random_law
from topokit.plots.parts import FLOOR, empty_axes, next_colour, reference, short_names, styled
from topokit.plots.style import literal, plain_degrees, thin_labels

if TYPE_CHECKING:
    from topokit.graph import LayerGraph

__all__ = ["PAGE", "runs_over_epochs", "summary", "summary_across"]

PAGE = (7.2, 7.6)  # inches of a summary as wide as a page
SCALES = ("linear", "log")
GAP = 0.035  # of the height of the axes, between panels
EPOCHS = 80  # largest number of epochs whose degrees are drawn
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MEASURES = {
    "fan_in.dispersion": "fan-in\nvariance / mean",
    "fan_in.maximum": "largest fan-in",
    "normalized_spectral_gap": "normalized\nspectral gap",
    "giant_share": "share of units in\nlargest component",
    "turnover": "turnover",
}
"""What summaries draw of the measures recorded, and its label."""
IDS = ["arm", "run", "seed", "epoch"]
SCORE = re.compile(r"accuracy|(?:^|[_\W])(?:acc|loss|err|error)(?:$|[_\W])", re.IGNORECASE)


def summary(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    scale: str = "linear",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    r"""Plot a run in one figure: degrees, verdicts, spectral gap, connectivity, turnover, accuracy.

    From top to bottom: the degrees of one layer (median, quartiles, 5 to 95 %, range; dotted the
    smallest and largest degree expected in a random graph), then for all layers the variance over
    mean of the fan-in with the verdict of the scale-free test below it, the normalized spectral
    gap, the share of units in the largest component and the turnover of edges, and last the
    accuracy. What a run has not recorded is left out.

    Parameters
    ----------
    history : History
    layer : str, optional
        Whose degrees are drawn; by default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``: which degrees.
    scale : str
        Of the time axis, ``"linear"`` or ``"log"`` (epoch 0 at its left end).
    label : str, optional
        Name of the run in the title, by default its own.
    color : color, optional
        Of everything; layers then differ in their dashes. By default layers take the colours of
        the colour cycle in every panel, and the degrees and the accuracy its first.
    ax : Axes, optional
        An empty one, in which the panels are placed; by default a new figure as wide as a page.
    **kwargs
        Properties of the lines in all panels, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes
        The frame; its ``child_axes`` are the panels.

    Raises
    ------
    ValueError
        If the run has no such layer, the side or scale is none of these, or something is drawn in
        the axes already.

    Notes
    -----
    O(edges) for each of at most 80 epochs. The verdicts of a record have no bootstrap, so they are
    never "power law".

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = summary(history, ax=Figure().add_subplot())
    >>> len(ax.child_axes), ax.child_axes[1].get_ylabel()
    (7, 'fan-in\nvariance / mean')
    """
    history = as_run(history)
    layer = layer_of(history, layer)
    _check(scale)
    heights = _panel_heights(history, layer)
    ax = _frame(ax, "summary", f"Summary of {label or literal(history.name)}")
    panels = dict(zip(heights, _stack(ax, [*heights.values()]), strict=True))
    keyed: set[str] = set()
    for name, panel in panels.items():
        if name == "degrees":
            _draw_degrees(panel, history, str(layer), side, scale, color, kwargs)
        else:
            _draw_panel(panel, name, history, color, kwargs)
        keyed |= _bare(panel, keyed, low=name == "verdict" and len(panel.get_yticks()) > 6)
    _one_time_axis([*panels.values()], scale, history.recorded, rows=panels.get("verdict"))
    return ax


def summary_across(
    runs: pd.DataFrame | Mapping[str, Sequence[RunLike]] | Sequence[RunLike],
    *,
    arm: str = "arm",
    layer: str | None = None,
    scale: str = "linear",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot runs of several conditions in one figure: means over seeds with their 95 % intervals.

    The panels, with one time axis: the accuracy, the variance over mean and the largest value of
    the fan-in of one layer, its normalized spectral gap, its largest component and its turnover,
    as far as they were recorded. The bands are Student's t intervals
    (`topokit.experiments.statistics.mean_interval`); one seed has none. See `mean_over_seeds`.

    Parameters
    ----------
    runs : sequence of History, dict of sequences, or pandas.DataFrame
        Runs or their directories, where those that differ only in their seed form a condition; or
        the runs of each condition by its name; or a frame as of `runs_over_epochs`.
    arm : str
        Of a frame: name of the column of conditions.
    layer : str, optional
        By default the first of each run. Not for frames.
    scale : str
        Of the time axis, ``"linear"`` or ``"log"`` (epoch 0 at its left end).
    label : str, optional
        Name of the runs in the legend, before that of the condition.
    color : color, optional
        Of all conditions, which then differ in their dashes; by default each takes the next of
        the colour cycle.
    ax : Axes, optional
        An empty one, in which the panels are placed; by default a new figure as wide as a page.
    **kwargs
        Properties of the lines in all panels, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes
        The frame; its ``child_axes`` are the panels.

    Raises
    ------
    ValueError
        If a run has no such layer, the scale is neither, or something is drawn in the axes
        already; if two runs of a condition have the same seed, or are one run; or a frame has no
        column ``epoch`` or `arm`, or rows without a value there, none of the columns that are drawn
        (measures, and accuracies, losses and errors but those of training), or several rows for one
        seed of a condition at one epoch, as of several cells of a grid.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = summary_across({"SET": [history], "control": [history]}, ax=Figure().add_subplot())
    >>> [line.get_label() for line in ax.child_axes[0].lines]
    ['SET (n = 1)', 'control (n = 1)']
    """
    _check(scale)
    if isinstance(runs, pd.DataFrame):
        table = runs
        scores = {c for c in map(str, table) if SCORE.search(c)}
        scores = {c for c in scores if "train" not in c.lower() or "accuracy" in c}
    else:
        named = _named(runs)
        check_seeds_differ([run for _, run in named], [name for name, _ in named])
        table, arm = _over_epochs(named, layer), "arm"
        scores = {*table} - {*IDS, *MEASURES}
    missing = [name for name in ("epoch", arm) if name not in table.columns]
    known = [c for c in table.columns if c in MEASURES or c in scores]
    if len(table):
        numeric = pd.api.types.is_numeric_dtype
        known = [c for c in known if numeric(table[c]) and table[c].notna().any()]
    if missing or not known:
        raise ValueError(
            f"expected columns epoch, {arm} and any of test_accuracy, {', '.join(MEASURES)}, got "
            f"{', '.join(map(str, table.columns))}"
        )
    order = ["test_accuracy", *sorted(set(known) - set(MEASURES) - {"test_accuracy"}), *MEASURES]
    known = [name for name in order if name in known]
    check_complete(table, [arm, "epoch"])
    for name in known:
        check_seeds(table.dropna(subset=[name]), [arm, "epoch"])
    most = table.groupby([arm, "epoch"]).size().max() if len(table) else 0
    title = "Means over seeds, 95 % intervals" if most > 1 else "Conditions, one run each"
    ax = _frame(ax, "summary_across", title)
    panels = _stack(ax, [1.0] * len(known))
    keyed: set[str] = set()
    for name, panel in zip(known, panels, strict=True):
        mean_over_seeds(table, name, arm=arm, label=label, color=color, ax=panel, **kwargs)
        panel.set_ylabel(MEASURES.get(name, literal(name).replace("_", " ")))
        if name == "fan_in.dispersion":
            panel.axhline(1, **reference(zorder=0))
            _log(panel, table[name])
        elif name in ("giant_share", "turnover"):
            _from_zero(panel)
        keyed |= _bare(panel, keyed)
    _one_time_axis(panels, scale, sorted({int(e) for e in table["epoch"]}))
    return ax


def runs_over_epochs(
    runs: Mapping[str, Sequence[RunLike]] | Sequence[RunLike], *, layer: str | None = None
) -> pd.DataFrame:
    """Return a frame with a row for each epoch of each run: score and measures of one layer.

    Parameters
    ----------
    runs : sequence of History or dict of sequences
        As for `summary_across`.
    layer : str, optional
        By default the first of each run.

    Returns
    -------
    pandas.DataFrame
        ``arm, run, seed, epoch``, the score (``test_accuracy``, or what the run was judged by) and
        a column for each measure that summaries draw; nan where it was not taken.

    Raises
    ------
    ValueError
        If there is no run, or a run has no such layer.

    Examples
    --------
    >>> frame = runs_over_epochs({"SET": [history]})
    >>> frame["arm"].unique().tolist(), frame["epoch"].tolist()
    (['SET'], [0, 1, 2])
    """
    return _over_epochs(_named(runs), layer)


def _named(
    runs: Mapping[str, Sequence[RunLike]] | Sequence[RunLike],
) -> list[tuple[str, History]]:
    """Return runs with the names of their conditions; raise a ValueError if there are none."""
    if isinstance(runs, Mapping):
        named = [(str(arm), as_run(run)) for arm, several in runs.items() for run in several]
    else:
        histories = [as_run(run) for run in runs]
        named = list(zip(conditions(histories), histories, strict=True))
    if not named:
        raise ValueError("expected at least one run, got none")
    return named


def _over_epochs(named: Sequence[tuple[str, History]], layer: str | None) -> pd.DataFrame:
    """Return the frame of `runs_over_epochs`."""
    tables = []
    for arm, history in named:
        mine = layer_of(history, layer)
        frame = history.measures
        frame = frame[(frame["layer"] == mine) & frame["measure"].isin(list(MEASURES))]
        table = frame.pivot_table(index="epoch", columns="measure", values="value")
        if len(history.epochs) and (column := score_column(history.epochs)) is not None:
            label = column if column == "test_accuracy" else scores_of(history)[1]
            scores = history.epochs.set_index("epoch")[column].rename(label)
            table = table.join(scores, how="outer")
        table = table.reset_index(names="epoch")
        ids = {"arm": arm, "run": history.name, "seed": history.config.get("seed", np.nan)}
        tables.append(table.assign(**ids))
    found = pd.concat(tables, ignore_index=True)
    for name in MEASURES:
        if name not in found:
            found[name] = np.nan
    return found[[*IDS, *(c for c in found.columns if c not in IDS)]]


# --- panels --------------------------------------------------------------------------------------


def _check(scale: str) -> None:
    """Raise a ValueError unless the scale of the time axis is one that there is."""
    if scale not in SCALES:
        raise ValueError(f"expected scale 'linear' or 'log', got {scale!r}")


def _panel_heights(history: History, layer: str | None) -> dict[str, float]:
    """Return the panels of a run's summary, from the top, and their heights."""
    frame = history.measures
    measured = set(frame.loc[frame["value"].notna(), "measure"])
    heights: dict[str, float] = {"degrees": 1.7} if history.recorded and layer is not None else {}
    for name in MEASURES:
        if name in measured and name != "fan_in.maximum":
            heights[name] = 1.0
            if name == "fan_in.dispersion" and "power_law.verdict" in measured:
                n_layers = frame.loc[frame["measure"] == "power_law.verdict", "layer"].nunique()
                heights["verdict"] = 0.25 + 0.11 * min(n_layers, 20)
    if len(history.epochs) and score_column(history.epochs) is not None:
        heights["score"] = 1.0
    return heights


def _draw_panel(
    panel: Axes, name: str, history: History, color: Any, kwargs: dict[str, Any]
) -> None:
    """Draw the verdicts, the score or a measure over the epochs."""
    if name == "verdict":
        verdict_timeline(history, color=color, ax=panel)
        panel.set_ylabel("verdict")
        panel.tick_params(axis="y", length=0, labelsize="xx-small")
        thin_labels(panel)
        panel.spines[:].set_visible(False)
        return
    looks: dict[str, Any] = {"color": color, **kwargs}
    if name == "score":
        accuracy_over_epochs(history, ax=panel, **looks)
        return
    measure_over_epochs(history, name, ax=panel, **looks)
    panel.set_ylabel(MEASURES[name])
    if name == "fan_in.dispersion":
        values = history.measures
        _log(panel, values.loc[values["measure"] == name, "value"])
    else:
        _from_zero(panel)


def _from_zero(panel: Axes) -> None:
    """Let the vertical axis begin a little below 0, where shares begin, and end above the lines."""
    top = 1.08 * panel.dataLim.y1 if panel.dataLim.y1 > 0 else 1.0
    panel.set_ylim(-FLOOR * top, top)


def _frame(ax: Axes | None, name: str, title: str) -> Axes:
    """Return the axes that hold the panels, without ticks, by default those of a new figure."""
    if ax is not None:
        empty_axes(ax, name)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=PAGE, layout="constrained").add_subplot()
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("epoch", labelpad=15)
    return ax


def _stack(ax: Axes, heights: Sequence[float]) -> list[Axes]:
    """Return panels one below the other, of these relative heights, with a common time axis."""
    room = 1 - GAP * max(len(heights) - 1, 0)
    panels: list[Axes] = []
    top = 1.0
    for height in heights:
        tall = room * height / sum(heights)
        panels.append(ax.inset_axes((0, top - tall, 1, tall), sharex=panels[0] if panels else None))
        top -= tall + GAP
    return panels


def _bare(panel: Axes, keyed: set[str], *, low: bool = False) -> set[str]:
    """Remove what holds for all panels: title, label of the time axis, entries of earlier keys.

    `keyed` are the entries so far; those that this panel adds are returned and shown beside it: at
    its lower end if `low`, where the key of many layers in the panel above needs the room.
    """
    panel.set(title="", xlabel="")
    panel.yaxis.label.set_fontsize("small")
    old = panel.get_legend()
    if old is None:
        return set()
    words = [text.get_text() for text in old.get_texts()]
    handles = [handle for handle in old.legend_handles if handle is not None]
    new = [(h, w) for h, w in zip(handles, words, strict=True) if w not in keyed]
    old.remove()
    if new:
        where: Any = ("lower left", (1.01, -0.04)) if low else ("upper left", (1.01, 1.04))
        panel.legend(
            [handle for handle, _ in new], [word for _, word in new], loc=where[0],
            bbox_to_anchor=where[1], borderaxespad=0, fontsize="x-small", frameon=False,
            handlelength=1.8, ncols=1 + len(new) // 9,
        )  # fmt: skip
    return {word for _, word in new}


def _log(panel: Axes, values: pd.Series) -> None:
    """Make the axis of ratios logarithmic, at least from 1/2 to 2, if a value allows it.

    Intervals are shown, too, but not below a quarter of the smallest value: some reach below 0.
    Crosses at 0, which is nowhere on such an axis, are at its lower end.
    """
    good = values[values > 0]
    if len(good):
        drawn, low, high = panel.dataLim, good.min(), good.max()
        if panel.collections:
            low, high = max(drawn.y0, low / 4), drawn.y1
        for line in panel.lines:
            if line.get_gid() == "mark":
                line.set_ydata(np.full(np.size(line.get_xdata()), FLOOR))
                line.set_transform(panel.get_xaxis_transform())
        panel.set_yscale("log")
        panel.set_ylim(min(0.5, 0.8 * low), max(2.0, 1.25 * high))
        plain_degrees(panel.yaxis)


def _one_time_axis(
    panels: Sequence[Axes], scale: str, epochs: Sequence[int], *, rows: Axes | None = None
) -> None:
    """Scale the common time axis, label it at the lowest panel only, and align the labels.

    `rows` is the panel with a row for each layer, if there is one.
    """
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    for i, panel in enumerate(panels):
        if panel is not rows:  # whose names of layers may need more room
            panel.yaxis.set_label_coords(0, 0.5, _left_of(panel, 3.4))
        panel.text(
            0, 1.03, string.ascii_lowercase[i : i + 1], transform=_left_of(panel, 5.9),
            weight="bold", fontsize="medium", ha="right",
        )  # fmt: skip
        if panel.get_yscale() != "linear":
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if scale == "log":
            panel.set_xscale("symlog", linthresh=1, linscale=0.4)
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_locator(NullLocator())
        else:
            panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if epochs:
            last = max(epochs)
            margin = 0 if scale == "log" else 0.01 * max(last - min(epochs), 1)
            panel.set_xlim(min(epochs) - margin, last + max(margin, 0.02 * max(last, 1)))


def _left_of(panel: Axes, distance: float) -> Any:
    """Return the axes' coordinates, moved to the left by a multiple of the size of the font."""
    inch = distance * float(mpl.rcParams["font.size"]) / 72
    return panel.transAxes + ScaledTranslation(-inch, 0, panel.figure.dpi_scale_trans)


def _draw_degrees(
    panel: Axes,
    history: History,
    layer: str,
    side: str,
    scale: str,
    color: Any,
    given: Mapping[str, Any],
) -> None:
    """Draw quantiles of the degrees of one layer over epochs, with the range of random graphs."""
    epochs = _spaced(history.recorded, scale)
    graphs = [history.topology(epoch)[layer] for epoch in epochs]
    degrees = [degrees_of(graph, side)[0] for graph in graphs]
    none = np.full(len(QUANTILES), np.nan)
    table = np.array([np.quantile(d, QUANTILES) if d.size else none for d in degrees]).T
    colour = next_colour(panel, color)
    words = ("range", "5–95 %", "quartiles")
    for i, (word, alpha) in enumerate(zip(words, (0.15, 0.25, 0.4), strict=True)):
        panel.fill_between(
            epochs, table[i], table[-1 - i], color=colour, alpha=alpha, lw=0, label=word
        )
    style = styled(given, color=colour, linestyle="-", marker="none", label="median")
    panel.plot(epochs, table[3], **style)
    panel.plot(epochs, table[-1], color=colour, ls="-", lw=0.6, marker="none")
    expected = np.array([_random_range(graph, side) for graph in graphs]).T
    for row, label in zip(expected, (None, "range expected in\na random graph"), strict=True):
        panel.plot(epochs, row, **reference(label=label))
    top = max(float(np.nanmax(table, initial=1)), float(np.nanmax(expected, initial=1)))
    low = min(float(np.nanmin(table, initial=top)), float(np.nanmin(expected, initial=top)))
    if low > 2:
        panel.set_yscale("log")
        panel.set_ylim(low / 1.3, 1.3 * top)
        plain_degrees(panel.yaxis)
    else:
        panel.set_yscale("symlog", linthresh=1, linscale=0.4)
        panel.set_ylim(0, 1.3 * top)
    (name,) = short_names([layer], always=len(layer) > 12)
    panel.set_ylabel(f"{side.replace('_', '-')} k of\n{name}")
    panel.legend()


def _spaced(recorded: Sequence[int], scale: str) -> list[int]:
    """Return up to `EPOCHS` recorded epochs, evenly spaced on the time axis, with both ends."""
    n = len(recorded)
    if scale == "log":
        at = np.concatenate([[0], np.geomspace(1, max(n - 1, 1), EPOCHS - 1)])
    else:
        at = np.linspace(0, n - 1, EPOCHS)
    return [recorded[i] for i in sorted({min(int(i), n - 1) for i in np.rint(at)})]


def _random_range(graph: LayerGraph, side: str) -> tuple[float, float]:
    """Return the median smallest and largest degree of a random layer of this size."""
    # The degrees of n units are nearly independent, so the largest is below k with probability
    # F(k)**n: its median is the quantile 2**(-1/n) of the hypergeometric law of one degree.
    degrees, n_other = degrees_of(graph, side)
    if not graph.n_edges or not degrees.size:
        return np.nan, np.nan
    law = random_law(graph, n_other)
    half = -np.expm1(np.log(0.5) / degrees.size)
    return float(law.ppf(half)), float(law.isf(half))

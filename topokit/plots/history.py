"""Figures of a run over its epochs: measures, accuracy, verdicts, lifetimes of edges, spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from topokit.experiments.record import History, RunLike, as_run, score_column
from topokit.graph import positions_in
from topokit.measures import VERDICTS, singular_values
from topokit.plots.parts import (
    FLOOR,
    draw_series,
    epoch_limits,
    few_ticks,
    legend,
    legend_below,
    named,
    next_colour,
    one_of_many,
    panels,
    reference,
    scale_of_epochs,
    scale_to,
    shade,
    share_y,
    short_names,
    styled,
    title_of,
    unless_used,
)
from topokit.plots.style import NULL, axes, whole_numbers
from topokit.tables import hint, listed

if TYPE_CHECKING:
    import pandas as pd

    from topokit.graph import LayerGraph

__all__ = [
    "accuracy_against_measure",
    "accuracy_over_epochs",
    "edge_survival",
    "evenly_spaced",
    "layer_of",
    "measure_over_epochs",
    "scores_of",
    "spectrum_over_epochs",
    "turnover",
    "verdict_timeline",
]

SMALL = 128  # up to this many units on the smaller side, spectra are computed densely
# Wider than random is blue, less than random green, and without edges white.
VERDICT_COLOURS = {
    "random": "#e8e8e8",
    "broad": "#9ecae1",
    "heavy-tailed": "#2171b5",
    "power law": "#08306b",
    "narrow": "#c7e9c0",
    "regular": "#74c476",
    "complete": "#238b45",
    "empty": "#ffffff",
}
WITHOUT_BOOTSTRAP = {"heavy-tailed": "heavy-tailed (not bootstrapped)"}


# --- what the figures read from a history -------------------------------------------------------


def evenly_spaced(history: History, n: int, what: str = "epoch") -> list[int]:
    """Return up to `n` recorded epochs, evenly spaced, with the first and the last among them.

    With ``n=1`` it is the last epoch alone. `what` names the items in the error message.
    """
    if n < 1:
        raise ValueError(f"expected at least 1 {what}, got {n}")
    known = history.recorded
    if n == 1:
        return known[-1:]
    return sorted({known[int(i)] for i in np.linspace(0, len(known) - 1, n)}) if known else []


def layer_of(history: History, layer: str | None) -> str | None:
    """Return `layer` after checking that the run has it, by default the first layer.

    A history without recorded epochs has no layers to check against; `layer` is returned as it is.
    """
    if not history.recorded:
        return layer
    layers = history.topology(history.recorded[-1])
    layer = layer or next(iter(layers))
    if layer not in layers:
        raise ValueError(f"expected a layer of {', '.join(layers)}, got {layer!r}")
    return layer


def scores_of(history: History) -> tuple[NDArray[np.float64], str]:
    """Return the numbers by which a run's epochs are judged, and what they are.

    They are the test accuracies or, where there are none, what `score_column` finds.

    Raises
    ------
    ValueError
        If there are epochs, but neither accuracies nor losses.
    """
    epochs = history.epochs
    if not len(epochs):
        return np.empty(0), "test accuracy"
    column = score_column(epochs)
    if column is None:
        raise ValueError(
            f"expected accuracies or losses of run {history.name}, got the columns "
            f"{', '.join(map(str, epochs.columns))}; add some with note(epoch, test_accuracy=...)"
        )
    unlabelled = column == "test_loss" and "test_accuracy" in epochs
    label = "test error" if unlabelled else column.replace("_", " ")
    return epochs[column].to_numpy(float), label


def _values(history: History, measure: str) -> dict[str, pd.DataFrame]:
    """Return a measure: a frame with epoch and value for each layer that has a defined value.

    Undefined values are kept between the first and the last that are defined.
    """
    frame = history.measures
    found = {}
    for layer, part in frame[frame["measure"] == measure].groupby("layer", sort=False):
        defined = np.flatnonzero(part["value"].notna())
        if defined.size:
            found[str(layer)] = part.iloc[defined[0] : defined[-1] + 1]
    return found


def _chosen(history: History, measure: str | None, usual: str) -> str:
    """Return the measure to draw: the usual one or, if the run did not record it, another.

    A ValueError is raised for a measure that was asked for and is not among those recorded.
    """
    names = dict.fromkeys(map(str, history.measures["measure"]))
    if measure is None:
        return next(iter(names), usual) if usual not in names else usual
    if names and measure not in names:
        parts = [name for name in names if name.startswith(f"{measure}.")]
        near = f"it has the numbers {', '.join(parts)}; " if parts else hint(measure, names)
        raise ValueError(
            f"expected a measure that run {history.name} recorded, got {measure!r}; "
            f"{near}recorded: {listed(names)}"
        )
    return measure


def _label(measure: str) -> str:
    """Return the name of a measure as a label: "fan-in variance / mean" for "fan_in.dispersion"."""
    words = measure.replace("fan_", "fan-").replace("_", " ")
    return words.replace(".dispersion", " variance / mean").replace(".", ", ")


# --- measures and accuracy -----------------------------------------------------------------------


def measure_over_epochs(
    history: RunLike,
    measure: str | None = None,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot one measure over epochs, a line for each layer.

    A variance over mean of degrees is compared with 1, that of a sparse random graph; that of a
    dense one is 1 - density. Where a value is undefined the line has a gap. Values of exactly 0
    among others, such as the spectral gap of a layer that has fallen apart, are crosses and not
    joined to the line.

    Parameters
    ----------
    history : History
    measure : str, optional
        A name in ``history.measures``; by default ``"fan_in.dispersion"`` or, if it was not
        recorded, the first that was.
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of all layers, which then differ in their dashes; by default each layer takes the next of
        the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the lines, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run recorded measures, but not this one.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = measure_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'fan-in variance / mean'
    """
    history = as_run(history)
    measure = _chosen(history, measure, "fan_in.dispersion")
    ax = axes(ax)
    _over_epochs(history, measure, ax, label, color, kwargs)
    ax.set(xlabel="epoch", ylabel=_label(measure))
    title_of(ax, "Topology over epochs")
    legend(ax)
    return ax


def _over_epochs(
    history: History, measure: str, ax: Axes, label: str | None, color: Any, given: dict[str, Any]
) -> float:
    """Plot a measure over epochs, a line for each layer; return the largest value."""
    layers = _values(history, measure)
    for i, (layer, part) in enumerate(zip(short_names(layers), layers.values(), strict=True)):
        style = {**one_of_many(i, color), "label": named(label, layer)}
        draw_series(ax, part["epoch"], part["value"], given, **style)
    if measure.endswith(".dispersion") and layers:
        ax.axhline(1, **reference(label=unless_used(ax, "sparse random graph")))
    whole_numbers(ax)
    return max([float(part["value"].max()) for part in layers.values()] + [0.0])


def turnover(
    history: RunLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the share of edges absent at the previously recorded epoch, a line for each layer.

    With a constant drop fraction the lines are level, a little below it; a falling line means that
    a layer settles, and crosses at 0 are epochs in which no edge changed. In a slice of a run the
    previous epoch is still that of the run.

    Parameters
    ----------
    history : History
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of all layers, which then differ in their dashes; by default each layer takes the next of
        the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the lines, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = turnover(history, ax=Figure().add_subplot())
    >>> ax.get_title()
    'Turnover of edges'
    """
    history = as_run(history)
    ax = axes(ax)
    before = ax.get_ylim()[1] if ax.has_data() else 0.0
    highest = _over_epochs(history, "turnover", ax, label, color, kwargs)  # the first has none
    top = max(before, 1.3 * highest) or 1.0
    ax.set(xlabel="epoch", ylabel="turnover (share of edges)", ylim=(-FLOOR * top, top))
    title_of(ax, "Turnover of edges")
    legend(ax)
    return ax


def verdict_timeline(
    history: RunLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the verdict of the scale-free test on each layer's fan-in at every epoch.

    Grey is random, blue is wider than random, green is narrower than random. The verdicts of a
    record have no bootstrap: a layer called "heavy-tailed (not bootstrapped)" may be a power law,
    which ``topokit report`` and `topokit.measures.fit_power_law` with ``bootstrap`` say. The legend
    has the verdicts that occur; an epoch without one is left blank.

    Parameters
    ----------
    history : History
    label : str, optional
        Name of the run before those of its layers.
    color : color, optional
        Of "heavy-tailed", and pale of "broad"; by default blue. A second run adds its rows below.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the cells, as of `matplotlib.axes.Axes.pcolormesh`.

    Returns
    -------
    Axes

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = verdict_timeline(history, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['fc1', 'fc2']
    """
    history = as_run(history)
    layers, ax = _values(history, "power_law.verdict"), axes(ax)
    ax.set(xlabel="epoch", ylabel="layer")
    title_of(ax, "Verdict on the fan-in")
    whole_numbers(ax)
    if not layers:
        return ax
    above = any(isinstance(found, QuadMesh) for found in ax.collections)
    rows = [text.get_text() for text in ax.get_yticklabels()] if above else []
    epochs = sorted({int(e) for part in layers.values() for e in part["epoch"]})
    grid = np.full((len(layers), len(epochs)), np.nan)
    for row, part in zip(grid, layers.values(), strict=True):
        row[np.searchsorted(epochs, part["epoch"])] = part["value"]
    colours = dict(VERDICT_COLOURS)
    if color is not None:
        colours |= {"broad": shade(ax, color, 0.45), "heavy-tailed": color}
    edges = len(rows) - 0.5 + np.arange(len(layers) + 1)
    style = styled(
        kwargs, QuadMesh, cmap=ListedColormap([colours[name] for name in VERDICTS]),
        norm=BoundaryNorm(np.arange(-0.5, len(VERDICTS)), len(VERDICTS)),
    )  # fmt: skip
    ax.pcolormesh(epoch_limits(epochs), edges, np.ma.masked_invalid(grid), **style)
    rows += [named(label, layer) for layer in short_names(layers)]
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    old = ax.get_legend()
    words = [text.get_text() for text in old.get_texts()] if old is not None else []
    patches = list(old.legend_handles) if old is not None else []
    for code in np.unique(grid[np.isfinite(grid)]).astype(int):
        name = VERDICTS[code]
        own = label if colours[name] != VERDICT_COLOURS[name] else None
        word = named(own, WITHOUT_BOOTSTRAP.get(name, name))
        if word not in words:
            words.append(word)
            patches.append(Patch(facecolor=colours[name], edgecolor=NULL, linewidth=0.4))
    legend_below(ax, patches, words)
    return ax


def accuracy_over_epochs(
    history: RunLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the test accuracy after each epoch, or the test error of a model without labels.

    Of a record without either, other accuracies or losses are drawn, named on the axis. Differences
    between runs that are smaller than the jumps between epochs need several seeds.

    Parameters
    ----------
    history : History
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        By default the next of the axes' colour cycle, so that several runs can share an axes.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the line, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the record has neither accuracies nor losses.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_over_epochs(history, label="SET", ax=Figure().add_subplot())
    >>> ax.lines[0].get_xdata().tolist(), ax.lines[0].get_label()
    ([0.0, 1.0, 2.0], 'SET')
    """
    history = as_run(history)
    scores, name = scores_of(history)
    ax = axes(ax)
    if len(scores):
        style = {**one_of_many(0, color), "label": label}
        draw_series(ax, history.epochs["epoch"], scores, kwargs, **style)
    ax.set(xlabel="epoch", ylabel=name)
    title_of(ax, f"{name.capitalize()} over epochs")
    whole_numbers(ax)
    legend(ax)
    return ax


def accuracy_against_measure(
    history: RunLike,
    measure: str | None = None,
    *,
    n_epochs: int = 40,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the path of a run in the plane of a measure and the accuracy, a panel for each layer.

    The path goes through up to `n_epochs` epochs, from light (first, a circle) to dark (last, a
    square). Neighbouring epochs share most of their edges, so this is the trajectory of one run
    and not a sample of independent points: a trend here is no correlation. Epochs at which the
    measure is undefined, or exactly 0 as for a layer that has fallen apart, are not on the path;
    those of value 0 are crosses at the left border.

    Parameters
    ----------
    history : History
    measure : str, optional
        A name in ``history.measures``; by default ``"normalized_spectral_gap"`` or, if it was not
        recorded, the first that was.
    n_epochs : int
        Largest number of epochs on the path, evenly spaced, with the first and the last.
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of the last epoch; by default the next of the axes' colour cycle. A second run with the
        same layers is drawn into the same panels.
    ax : Axes, optional
        By default that of a new figure. The panels are placed inside it.
    **kwargs
        Properties of the points, as of `matplotlib.axes.Axes.scatter`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run recorded measures, but not this one; neither accuracies nor losses; or if
        `n_epochs` is below 1 or something else is drawn in the axes.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = accuracy_against_measure(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel(), [panel.get_title() for panel in ax.child_axes]
    ('test accuracy', ['fc1', 'fc2'])
    """
    history = as_run(history)
    if n_epochs < 1:
        raise ValueError(f"expected at least 1 epoch, got {n_epochs}")
    measure = _chosen(history, measure, "normalized_spectral_gap")
    layers = _values(history, measure)
    scores, score = scores_of(history)
    accuracy = dict(zip(history.epochs["epoch"], scores, strict=True))
    ax = axes(ax)
    inside = panels(ax, layers) if layers else []
    colour = next_colour(inside[0], color) if inside else color
    norm = scale_of_epochs(inside, list(accuracy))
    for panel, part in zip(inside, layers.values(), strict=True):
        part = part[part["epoch"].isin(accuracy)]
        x, epochs = (part[name].to_numpy(float) for name in ("value", "epoch"))
        y = np.array([accuracy[epoch] for epoch in part["epoch"]], float)
        _draw_path(panel, x, y, epochs, n_epochs, norm, colour, label, kwargs)
        panel.margins(0.15 if len(inside) > 4 else 0.05)  # small ones would cut marks at the ends
        few_ticks(panel.xaxis)
    ax.set(xlabel=_label(measure), ylabel=score)
    title_of(ax, f"{score.capitalize()} against topology, epoch by epoch")
    if inside:
        share_y(inside)
        if not any(one.get_label() == "<colorbar>" for one in ax.figure.axes):
            shown = ScalarMappable(norm, scale_to(ax, colour if label is None else NULL))
            bar = ax.figure.colorbar(shown, ax=ax, label="epoch")
            bar.ax.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        entries = [panel.get_legend_handles_labels() for panel in inside]
        every = {word: handle for pair in entries for handle, word in zip(*pair, strict=True)}
        legend_below(ax, list(every.values()), list(every))
    return ax


def _draw_path(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    epochs: NDArray[np.float64],
    n: int,
    norm: Normalize,
    color: Any,
    label: str | None,
    given: dict[str, Any],
) -> None:
    """Draw points from light to dark, joined where no epoch between them is undefined or 0."""
    apart = x == 0
    on_path = np.isfinite(x) & np.isfinite(y) & ~apart
    at = np.flatnonzero(on_path)
    if at.size:
        at = np.unique(at[np.linspace(0, at.size - 1, n).astype(int)]) if n > 1 else at[-1:]
        breaks = np.flatnonzero(np.diff(np.cumsum(~on_path)[at])) + 1
        ax.plot(
            np.insert(x[at], breaks, np.nan), np.insert(y[at], breaks, np.nan),
            **reference(shade(ax, color, 0.4), linestyle="-", linewidth=0.7, zorder=1),
        )  # fmt: skip
        style = styled(given, PathCollection, cmap=scale_to(ax, color), norm=norm, s=7, zorder=2)
        ax.scatter(x[at], y[at], c=epochs[at], **style)
        for end, marker, word in ((at[0], "o", "first epoch"), (at[-1], "s", "last epoch")):
            ax.plot(
                x[end], y[end], linestyle="", marker=marker, ms=4.5, color=color, mew=1, zorder=3,
                mfc=ax.get_facecolor() if marker == "o" else color, label=named(label, word),
            )  # fmt: skip
    if apart.any():
        ax.plot(
            np.full(apart.sum(), 0.025), y[apart], transform=ax.get_yaxis_transform(),
            linestyle="none", marker="x", markersize=3, markeredgewidth=0.7, color=color,
            label=named(label, "exactly 0"),
        )  # fmt: skip


# --- lifetimes of edges --------------------------------------------------------------------------


def edge_survival(
    history: RunLike,
    *,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the share of edges that reach a given age, by Kaplan and Meier's estimate [1]_.

    Edges that are present at the last epoch are censored: only a lower bound of their lifetime is
    known. A straight line on the logarithmic axis means that the risk of being dropped does not
    depend on age; a curve that flattens means that old edges are rarely dropped. A curve that
    reaches 0 ends in a cross on the lower border. Only recorded epochs are seen: an edge lives from
    the first that has it to the first that lacks it.

    Parameters
    ----------
    history : History
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of all layers, which then differ in their dashes; by default each layer takes the next of
        the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the steps, as of `matplotlib.axes.Axes.step`.

    Returns
    -------
    Axes

    References
    ----------
    .. [1] Kaplan, Meier, "Nonparametric estimation from incomplete observations", Journal of the
       American Statistical Association 53, 1958.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = edge_survival(history, ax=Figure().add_subplot())
    >>> [float(y) for y in ax.lines[0].get_ydata()][:1]
    [1.0]
    """
    history = as_run(history)
    found, ax = _kaplan_meier(history), axes(ax)
    lowest = ax.get_ylim()[0] * 1.3 if ax.has_data() else 0.5
    names = short_names(found)
    for i, (name, (age, share)) in enumerate(zip(names, found.values(), strict=True)):
        style = styled(kwargs, **one_of_many(i, color), label=named(label, name))
        left = share > 0
        (line,) = ax.step(age[left], share[left], where="post", **style)
        lowest = min(lowest, float(share[left].min(initial=1.0)))
        if not left.all():
            ax.plot(
                age[~left][:1], [0.02], transform=ax.get_xaxis_transform(), linestyle="none",
                marker="x", markersize=4, color=line.get_color(),
                label=unless_used(ax, "none is left"), gid="mark",
            )  # fmt: skip
    if found:
        ax.set(yscale="log", ylim=(lowest / 1.3, 1.3))
    ax.set(xlabel="age (epochs)", ylabel="share of edges that survive")
    title_of(ax, "Survival of edges")
    whole_numbers(ax)
    legend(ax)
    return ax


Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def _kaplan_meier(history: History) -> dict[str, Curve]:
    """Return ages and survival function of each layer's edges."""
    # Idea: follow the epochs once and keep, for each layer, the edges present now with the epoch
    # at which each appeared. An edge absent at the next epoch has died at its age, which is one
    # count in `died`; an edge present at the end is censored at its age. An edge that returns
    # later starts a new life. Counts by age are all that Kaplan and Meier's estimate needs.
    # Cost: each epoch's graphs are read once, with one sorted search for each layer:
    # O(epochs * edges * log edges) time and O(edges) memory.
    # Why: `history.ages` at every epoch would replay the history from its first epoch each time,
    # and a matrix of edges by epochs would not fit into memory for wide layers.
    epochs = history.recorded
    if not epochs:
        return {}
    alive = {name: graph.edge_ids for name, graph in history.topology(epochs[0]).items()}
    born = {name: np.full(ids.size, epochs[0]) for name, ids in alive.items()}
    horizon = epochs[-1] - epochs[0] + 2
    died = {name: np.zeros(horizon, np.int64) for name in alive}
    for epoch in epochs[1:]:
        topology = history.topology(epoch)
        for name, before in alive.items():
            now = topology[name].edge_ids
            at = positions_in(before, now)
            stays = at >= 0
            gone = np.ones(before.size, bool)
            gone[at[stays]] = False
            died[name] += np.bincount(epoch - born[name][gone], minlength=horizon)
            since = np.full(now.size, epoch)
            since[stays] = born[name][at[stays]]
            alive[name], born[name] = now, since
    return {name: _survival(died[name], epochs[-1] - born[name]) for name in alive}


def _survival(died: NDArray[np.int64], ages: NDArray[np.int64]) -> Curve:
    """Return Kaplan and Meier's estimate from the deaths at each age and the censored ages."""
    ended = died + np.bincount(ages, minlength=died.size)
    at_risk = ended[::-1].cumsum()[::-1]
    share = np.cumprod(1 - died / np.maximum(at_risk, 1))
    last = int(np.flatnonzero(at_risk)[-1]) if at_risk.any() else 0
    return np.arange(last + 1), np.concatenate([[1.0], share[1 : last + 1]])


# --- spectra -------------------------------------------------------------------------------------


def spectrum_over_epochs(
    history: RunLike,
    *,
    layer: str | None = None,
    n_epochs: int = 12,
    n_values: int = 8,
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the largest singular values of one layer over epochs, a line for each rank.

    The first value follows the mean degrees and the hubs; its distance to the second is the
    spectral gap. As hubs grow, leading values separate one by one from the others. Dots are the
    epochs at which the values were computed.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    n_epochs : int
        Number of epochs to draw, evenly spaced.
    n_values : int
        Number of singular values at each epoch; a layer has no more than its smaller side.
    label : str, optional
        Name of the run in the legend.
    color : color, optional
        Of the first value, and paler of the others; by default the next of the axes' colour cycle.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the lines, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the run has no such layer, or `n_epochs` or `n_values` is below 1.

    Notes
    -----
    O(edges) for each Lanczos step, to four digits; dense for layers with at most 128 units on
    the smaller side, or twice `n_values`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = spectrum_over_epochs(history, ax=Figure().add_subplot())
    >>> ax.get_ylabel()
    'singular value'
    """
    history = as_run(history)
    layer = layer_of(history, layer)
    if n_values < 1:
        raise ValueError(f"expected at least 1 singular value, got {n_values}")
    epochs, ax = evenly_spaced(history, n_epochs), axes(ax)
    if epochs and layer is not None:
        graphs = [history.topology(epoch)[layer] for epoch in epochs]
        values = np.array([_leading(graph, n_values) for graph in graphs])
        colour = next_colour(ax, color)
        looks = ((colour, "-", "first"), (shade(ax, colour, 0.75), "--", "second"))
        for rank in range(values.shape[1]):
            others = (shade(ax, colour, 0.4), "-", "following" if rank == 2 else "")
            look, dashes, word = looks[rank] if rank < 2 else others
            style = {
                "color": look, "linestyle": dashes, "marker": "o", "markersize": 2.5,
                "linewidth": 1.3 if rank < 2 else 0.7,
                "label": named(label, word) if word else None,
            }  # fmt: skip
            draw_series(ax, epochs, values[:, rank], kwargs, **style)
    ax.set(xlabel="epoch", ylabel="singular value")
    title_of(ax, f"Leading singular values ({layer})" if layer else "Leading singular values")
    whole_numbers(ax)
    legend(ax)
    return ax


def _leading(graph: LayerGraph, n: int) -> NDArray[np.float64]:
    """Return the `n` largest singular values, decreasing, or all where there are fewer."""
    # By ARPACK, since the Lanczos solver of `topokit.graph.spectra` finds at most two of them; four
    # digits are enough for a figure. ARPACK cannot find all, and is no faster for half of them.
    size = min(graph.shape)
    if size <= max(SMALL, 2 * n) or not graph.n_edges:
        return singular_values(graph)[:n] if graph.n_edges else np.zeros(min(n, size))
    start = np.random.default_rng(0).standard_normal(size)
    found = svds(
        graph.to_csr().astype(float), k=n, tol=1e-4, v0=start, return_singular_vectors=False
    )
    return np.sort(np.asarray(found, float))[::-1]

"""Figures of a run over its epochs: measures, accuracy, verdicts, spectra."""

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
from topokit.measures import VERDICTS, singular_values
from topokit.plots.parts import (
    FLOOR,
    draw_series,
    epoch_limits,
    label_axes,
    legend,
    legend_below,
    looks_of,
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
from topokit.plots.style import (
    NULL,
    axes,
    few_ticks,
    literal,
    row_labels,
    thin_labels,
    whole_numbers,
)
from topokit.tables import hint, listed

if TYPE_CHECKING:
    import pandas as pd

    from topokit.graph import LayerGraph

__all__ = [
    "accuracy_against_measure",
    "accuracy_over_epochs",
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
    at = np.linspace(0, len(known) - 1, min(n, len(known)))
    return [known[int(i)] for i in at]


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
    words = literal(measure).replace("fan_", "fan-").replace("_", " ")
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

    More than 20 layers are shades of one colour, from light (first) to dark (last). A variance over
    mean of degrees is compared with 1, that of a sparse random graph; that of a dense one is 1 -
    density. Where a value is undefined the line has a gap. Values of exactly 0 among others, such
    as the spectral gap of a layer that has fallen apart, are crosses and not joined to the line.

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
    label_axes(ax, "epoch", _label(measure))
    title_of(ax, "Topology over epochs")
    legend(ax)
    return ax


def _over_epochs(
    history: History, measure: str, ax: Axes, label: str | None, color: Any, given: dict[str, Any]
) -> float:
    """Plot a measure over epochs, a line for each layer; return the largest value."""
    layers = _values(history, measure)
    looks = looks_of(ax, short_names(layers), label, color)
    for look, part in zip(looks, layers.values(), strict=True):
        draw_series(ax, part["epoch"], part["value"], given, **look)
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
    ax.set_ylim(-FLOOR * top, top)
    label_axes(ax, "epoch", "turnover (share of edges)")
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
    has the verdicts that occur; an epoch without one is left blank. Of many layers some are named.

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
    rows = [text.get_text() for text in row_labels(ax)] if above else []
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
    thin_labels(ax)
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
    name, ax = literal(name), axes(ax)
    if len(scores):
        style = {**one_of_many(0, color), "label": label}
        draw_series(ax, history.epochs["epoch"], scores, kwargs, **style)
    label_axes(ax, "epoch", name)
    title_of(ax, f"{name[:1].upper()}{name[1:]} over epochs")
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
    those of value 0 are crosses at the left border. If the first or the last epoch of the run is
    one of them, the legend says that its mark is of the path. Of more layers than there is room
    for, the first, the last and some between are drawn, and the title has their number.

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
    score = literal(score)
    accuracy = dict(zip(history.epochs["epoch"], scores, strict=True))
    ax = axes(ax)
    inside = panels(ax, layers) if layers else {}
    colour = next_colour(next(iter(inside.values())), color) if inside else color
    later = any(panel.collections for panel in inside.values())
    norm = scale_of_epochs(inside.values(), list(accuracy))
    for layer, panel in inside.items():
        part = layers[layer]
        part = part[part["epoch"].isin(accuracy)]
        x, epochs = (part[name].to_numpy(float) for name in ("value", "epoch"))
        y = np.array([accuracy[epoch] for epoch in part["epoch"]], float)
        ends = min(accuracy, default=0), max(accuracy, default=0)
        _draw_path(panel, x, y, epochs, n_epochs, ends, norm, colour, label, kwargs)
        panel.margins(0.15 if len(inside) > 4 else 0.05)  # small ones would cut marks at the ends
        few_ticks(panel.xaxis)
    label_axes(ax, _label(measure), score)
    some = f"\n{len(inside)} of {len(layers)} layers" if len(inside) < len(layers) else ""
    title_of(ax, f"{score[:1].upper()}{score[1:]} against topology, epoch by epoch{some}")
    if inside:
        share_y(inside.values())
        if not later:
            shown = ScalarMappable(norm, scale_to(ax, colour if label is None else NULL))
            bar = ax.figure.colorbar(shown, ax=ax, label="epoch")
            bar.ax.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        entries = [panel.get_legend_handles_labels() for panel in inside.values()]
        every = {word: handle for pair in entries for handle, word in zip(*pair, strict=True)}
        legend_below(ax, list(every.values()), list(every))
    return ax


def _draw_path(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    epochs: NDArray[np.float64],
    n: int,
    ends: tuple[int, int],
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
        for i, marker, word in ((0, "o", "first"), (-1, "s", "last")):
            end = at[i]
            word += " epoch" if epochs[end] == ends[i] else " of the path"
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
        found = [_leading(graph, n_values) for graph in graphs]
        values = np.full((len(found), max(map(len, found))), np.nan)  # a layer may change its size
        for row, own in zip(values, found, strict=True):
            row[: own.size] = own
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
    label_axes(ax, "epoch", "singular value")
    title_of(ax, f"Leading singular values{f' ({literal(layer)})' if layer else ''}")
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

"""Figures across runs: accuracy against topology, means over seeds, conditions side by side.

All take a tidy frame with a row for each run (or run and epoch), as written by `topokit sweep`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from topokit.experiments.statistics import Interval, mean_interval, rank_correlation
from topokit.plots.parts import (
    draw_series,
    label_axes,
    legend,
    legend_below,
    looks_of,
    named,
    next_colour,
    reference,
    styled,
    title_of,
    unless_used,
    without_neighbours,
)
from topokit.plots.style import MARKERS, axes, literal, whole_numbers
from topokit.tables import hint

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "accuracy_against",
    "arms_side_by_side",
    "check_complete",
    "check_seeds",
    "mean_over_seeds",
]

OF = "\n(n = "  # begins the second line of a condition of which some runs are not drawn
LISTED = 7  # conditions with a colour and marker each; if there are more, points are named


def accuracy_against(
    frame: pd.DataFrame,
    measure: str = "normalized_spectral_gap",
    *,
    outcome: str = "test_accuracy",
    arm: str = "arm",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot an outcome of many runs against a measure of their topology, with rank correlation.

    Each run is a dot. A condition of several runs has bars, the 95 % intervals of its means in both
    directions. Read the interval of Spearman's rho in the title, and ask whether the conditions
    differ in something else too (density, components): no line is drawn through the points, since
    its slope would mix the conditions' differences with those between runs of one condition.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run, with columns `measure`, `outcome` and `arm`. Rows with an undefined
        value are left out.
    measure, outcome, arm : str
        Names of columns; `arm` is that of the conditions.
    label : str, optional
        Name of the runs in the legend, before that of the condition.
    color : color, optional
        Of all points; by default each of up to seven conditions takes the next of the axes'
        colour cycle, and more share one colour and are named in the figure.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the points, as of `matplotlib.axes.Axes.scatter`.

    Returns
    -------
    Axes
        The interval is the 95 % interval of `topokit.experiments.statistics.rank_correlation`
        (seed 0). There is none with fewer than ten runs, and no correlation with fewer than four
        or if one of the two columns is constant.

    Raises
    ------
    ValueError
        If a column is missing, a row has no condition, there are several epochs of a run, or a
        column ``seed`` has a seed of a condition several times, as in several cells of a grid.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> runs = pd.DataFrame({"arm": list("aabb"), "gap": [0.1, 0.2, 0.3, 0.4],
    ...                      "test_accuracy": [0.7, 0.8, 0.8, 0.9]})
    >>> ax = accuracy_against(runs, "gap", ax=Figure().add_subplot())
    >>> ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('gap', ['a', 'b'])
    """
    _need(frame, (measure, outcome, arm))
    check_complete(frame, [arm])
    check_seeds(frame.dropna(subset=[measure, outcome]), [arm])
    runs, ax = frame.dropna(subset=[measure, outcome]), axes(ax)
    arms = list(dict.fromkeys(runs[arm]))
    few = len(arms) <= LISTED
    shared = None if few or not arms else next_colour(ax, color)
    centres: dict[str, tuple[float, float]] = {}
    for i, name in enumerate(arms):
        part = runs[runs[arm] == name]
        x, y = (part[column].to_numpy(float) for column in (measure, outcome))
        colour = next_colour(ax, color) if few else shared
        clear = few or len(part) == 1  # else the mean beside stands for these runs
        style = styled(
            kwargs, PathCollection, s=12 if clear else 7, color=colour, linewidth=0,
            marker=MARKERS[i % 7] if few else "o", alpha=0.8 if clear else 0.35,
            label=named(label, str(name)) if few else None,
        )  # fmt: skip
        ax.scatter(x, y, **style)
        across, up = mean_interval(x), mean_interval(y)
        if up.n > 1:
            ax.errorbar(
                across.mean, up.mean, xerr=_half(across), yerr=_half(up), color=colour,
                linestyle="none", marker="none" if few else ".", markersize=4, elinewidth=0.8,
                capsize=1.5,
            )  # fmt: skip
        centres[str(name)] = (across.mean, up.mean)
    words, what = (literal(name).replace("_", " ") for name in (measure, outcome))
    label_axes(ax, words, what)
    x, y = (runs[column].to_numpy(float) for column in (measure, outcome))
    title_of(ax, f"{what[:1].upper()}{what[1:]} against topology\n{_correlation(x, y)}")
    if few:
        legend(ax)
    else:
        _name_points(ax, centres, np.column_stack([x, y]))
    return ax


def mean_over_seeds(
    frame: pd.DataFrame,
    column: str = "test_accuracy",
    *,
    arm: str = "arm",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot the mean over seeds at each epoch, a line and a band for each condition.

    The band is the 95 % interval of `topokit.experiments.statistics.mean_interval`, which is wide
    with few seeds; bands that overlap do not show that conditions are equal. One seed has no band.
    Where some seeds have fewer epochs, means are over the others: the line is not joined there,
    since other runs may have another mean, and the legend has the least and the largest number of
    seeds. Undefined values are left out; values of exactly 0 among others are crosses, as in
    `measure_over_epochs`. More than 20 conditions are shades of one colour.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run and epoch, with columns ``epoch``, `column` and `arm`.
    column, arm : str
        Names of columns; `arm` is that of the conditions.
    label : str, optional
        Name of the runs in the legend, before that of the condition.
    color : color, optional
        Of all conditions, which then differ in their dashes; by default each takes the next of
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
        If a column is missing, a row has no epoch or condition, or a column ``seed`` (without it,
        ``run``) has a seed of a condition several times at one epoch, as in several cells of a
        grid.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> rows = pd.DataFrame({"arm": "set", "seed": [0, 0, 1, 1], "epoch": [0, 1, 0, 1],
    ...                      "test_accuracy": [0.5, 0.7, 0.6, 0.9]})
    >>> ax = mean_over_seeds(rows, ax=Figure().add_subplot())
    >>> [round(float(y), 2) for y in ax.lines[0].get_ydata()]
    [0.55, 0.8]
    """
    _need(frame, ("epoch", column, arm))
    check_complete(frame, [arm, "epoch"])
    seen = frame.dropna(subset=[column])
    check_seeds(seen, [arm, "epoch"])
    ax = axes(ax)
    curves = {name: _means(seen[seen[arm] == name], column) for name in dict.fromkeys(frame[arm])}
    words = [f"{name} (n = {curve.n})" for name, curve in curves.items()]
    for look, curve in zip(looks_of(ax, words, label, color), curves.values(), strict=True):
        line = draw_series(ax, curve.epochs, curve.means, kwargs, **look)
        x, low, high, colour = curve.epochs, curve.low, curve.high, line.get_color()
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        alone = without_neighbours(low)
        if alone.size:  # a band of one epoch has no width
            ax.vlines(x[alone], low[alone], high[alone], color=colour, alpha=0.4, lw=1.5)
    label_axes(ax, "epoch", literal(column).replace("_", " "))
    title_of(ax, "Mean over seeds, 95 % interval")
    whole_numbers(ax)
    legend(ax)
    return ax


class _Means(NamedTuple):
    """Means of a condition over epochs with their intervals, and the numbers of seeds in words.

    Between epochs at which other seeds have a value, and where there is no interval, is a nan.
    """

    epochs: NDArray[np.float64]
    means: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: str


def _means(rows: pd.DataFrame, column: str) -> _Means:
    """Return the means of one condition, from rows with a defined value."""
    key = next((name for name in ("seed", "run") if name in rows and rows[name].notna().all()), "")
    points: list[tuple[float, float, float, float]] = []
    numbers: set[int] = set()
    before: Any = None
    for at, part in rows.groupby("epoch"):
        epoch: Any = at
        found = mean_interval(part[column].to_numpy(float))
        now: Any = frozenset(part[key]) if key else found.n
        if points and now != before:
            points.append(((points[-1][0] + epoch) / 2, np.nan, np.nan, np.nan))
        points.append((epoch, found.mean, found.low, found.high))
        numbers.add(found.n)
        before = now
    ends = dict.fromkeys((min(numbers, default=0), max(numbers, default=0)))
    x, means, low, high = np.array(points, float).reshape(-1, 4).T
    return _Means(x, means, low, high, " to ".join(map(str, ends)))


def arms_side_by_side(
    frame: pd.DataFrame,
    column: str = "test_accuracy",
    *,
    arm: str = "arm",
    published: Mapping[str, float | tuple[float, float]] | None = None,
    published_label: str = "published",
    label: str | None = None,
    color: Any = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes:
    """Plot a column of several conditions: each run as a dot, mean and 95 % interval below it.

    The interval is that of `topokit.experiments.statistics.mean_interval`; one run has none. Dots
    of one condition that spread more than the means of two differ call for more runs. Undefined
    values are left out, and infinite ones cannot be drawn: the name of their condition is followed
    by the number of runs that are drawn.

    Parameters
    ----------
    frame : pandas.DataFrame
        One row for each run, with columns `column` and `arm`.
    column, arm : str
        Names of columns; `arm` is that of the conditions.
    published : mapping of str to float or (float, float), optional
        A published value of a condition, or value and standard deviation: an open star above the
        runs, with a bar of one deviation to each side.
    published_label : str
        What the stars are in the legend, such as "published, 400 epochs (mean ± sd)".
    label : str, optional
        Name of the runs in the legend.
    color : color, optional
        By default the next of the axes' colour cycle. Further runs on the same axes are drawn in
        the rows of their conditions, a little lower.
    ax : Axes, optional
        By default that of a new figure.
    **kwargs
        Properties of the dots, as of `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing, a row has no condition, there are several epochs of a run, a column
        ``seed`` has a seed of a condition several times, as in several cells of a grid, or a
        published value is of no condition.

    Examples
    --------
    >>> import pandas as pd
    >>> from matplotlib.figure import Figure
    >>> runs = pd.DataFrame({"arm": ["set", "set", "static"], "test_accuracy": [0.9, 0.8, 0.7]})
    >>> ax = arms_side_by_side(runs, ax=Figure().add_subplot())
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['set', 'static']
    """
    _need(frame, (column, arm))
    check_complete(frame, [arm])
    seen = frame.dropna(subset=[column])
    check_seeds(seen, [arm])
    arms = [str(name) for name in dict.fromkeys(frame[arm])]
    for name in published or {}:
        if name not in arms:
            raise ValueError(
                f"expected published values of {', '.join(arms)}, got one of {name!r}; "
                f"{hint(name, arms)}".rstrip("; ")
            )
    ax = axes(ax)
    earlier = [text.get_text() for text in ax.get_yticklabels()] if ax.containers else []
    rows = {text.partition(OF)[0]: text for text in earlier}
    turn = len({line.get_gid() for line in ax.lines if str(line.get_gid()).startswith("runs ")})
    for name in arms:
        values = frame.loc[frame[arm].astype(str) == name, column].to_numpy(float)
        some, words = np.count_nonzero(np.isfinite(values)), _in_lines(name)
        rows.setdefault(words, words)
        if some < values.size:
            rows[words] = f"{words}{OF}{some} of {values.size})"
    place = {words: i for i, words in enumerate(rows)}
    colour = next_colour(ax, color) if arms else color
    for i, name in enumerate(arms):
        row = place[_in_lines(name)] + 0.12 * turn
        values = seen.loc[seen[arm].astype(str) == name, column].to_numpy(float)
        style = styled(
            kwargs, linestyle="none", marker="o", markersize=3, alpha=0.5, color=colour,
            label=None if i or not label else label, gid=f"runs {turn}",
        )  # fmt: skip
        ax.plot(values, np.full(values.size, row), **style)
        found = mean_interval(values)
        ax.errorbar(
            found.mean, row + 0.25, xerr=_half(found), linestyle="none", marker="D",
            markersize=3.5, color=colour, capsize=2, linewidth=1,
        )  # fmt: skip
    for name, value in (published or {}).items():
        mean, deviation = value if isinstance(value, tuple) else (value, np.nan)
        ax.errorbar(
            mean, place[_in_lines(name)] - 0.22, xerr=None if np.isnan(deviation) else deviation,
            capsize=2, elinewidth=0.8, markersize=7, markerfacecolor=ax.get_facecolor(),
            label=unless_used(ax, published_label),
            **reference("#333333", linestyle="none") | {"marker": "*"},
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), list(rows.values()))
    ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    ylabel = "condition" if arm == "arm" else literal(arm).replace("_", " ")
    label_axes(ax, literal(column).replace("_", " "), ylabel)
    title_of(ax, "Runs (dots), mean and 95 % interval (diamonds)")
    legend_below(ax)
    return ax


def _in_lines(name: str) -> str:
    """Return the name of a condition as text, in several lines if it is long."""
    return "\n".join(textwrap.wrap(literal(name), 36)) or literal(name)


def _half(found: Interval) -> float:
    """Return half the width of an interval; 0 if there is none."""
    return found.high - found.mean if found.n > 1 else 0.0


def _need(frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Raise a ValueError if a frame lacks one of the columns."""
    there = list(map(str, frame.columns))
    missing = [name for name in columns if name not in there]
    if missing:
        near = "".join(hint(name, there) for name in missing)
        raise ValueError(
            f"expected columns {', '.join(columns)}, got {', '.join(there)} "
            f"without {', '.join(missing)}{'; ' if near else ''}{near}".rstrip()
        )


def check_complete(frame: pd.DataFrame, columns: list[str]) -> None:
    """Raise a ValueError if a row has no value in one of the columns, such as no condition.

    Examples
    --------
    >>> import pandas as pd
    >>> check_complete(pd.DataFrame({"arm": ["a", None]}), ["arm"])
    Traceback (most recent call last):
    ValueError: expected a value of arm in every row, got 1 of 2 rows without
    """
    for name in columns:
        without = int(frame[name].isna().sum())
        if without:
            raise ValueError(
                f"expected a value of {name} in every row, got {without} of {len(frame)} rows "
                "without"
            )


def check_seeds(frame: pd.DataFrame, by: list[str]) -> None:
    """Raise a ValueError if a seed comes several times in one condition (and epoch).

    Such rows are epochs of one run, runs of several cells of a grid, several data sets or layers,
    or one run twice: no independent runs of one condition, over which a mean has an interval.

    Examples
    --------
    >>> import pandas as pd
    >>> check_seeds(pd.DataFrame({"arm": ["a", "a", "b"], "seed": [0, 1, 0]}), ["arm"])
    """
    key = next((name for name in ("seed", "run") if name in frame and name not in by), None)
    rows = frame if key is None else frame[frame[key].notna()]
    if key is None or rows.empty:
        return
    groups = rows.groupby([*by, key], sort=False)
    counts = groups.size()
    if counts.max() == 1:
        return
    where: Any = counts.idxmax()
    same = groups.get_group(where)
    mine = rows[rows[by[0]] == where[0]]
    rest = [name for name in frame.columns if name not in (*by, key, "run")]
    here, in_all = same[rest].nunique(), mine[rest].nunique()
    told = [name for name in rest if here[name] > 1 and in_all[name] <= len(same)]
    differing = f" that differ in {', '.join(map(str, told))}" if told else ""
    told.sort(key="epoch".__ne__)
    example = ""
    if told:
        one = same[told[0]].tolist()[-1 if told[0] == "epoch" else 0]  # of epochs the last
        example = f", as frame[frame[{told[0]!r}] == {one!r}],"
    raise ValueError(
        f"expected one row for each {key} of a condition{' and epoch' if by[1:] else ''}, got "
        f"{len(same)} of {key} {where[-1]} of {where[0]}{differing}; choose one{example} or give "
        "each its own name in the column of conditions"
    )


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return Spearman's rho, its interval and the number of runs as text."""
    found = rank_correlation(x, y, rng=np.random.default_rng(0))
    words = f"n = {found.n}"
    if np.isnan(found.rho):
        return words
    interval = "" if np.isnan(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"ρ = {found.rho:.2f}{interval}, {words}"


# Offsets of a name from its point, in typographic points, the preferred one first.
PLACES = tuple(
    (round(reach * np.cos(turn)), round(reach * np.sin(turn)))
    for reach in (5, 11, 18, 26, 36, 48, 64)
    for turn in np.pi * np.array([0.25, -0.25, 0.75, -0.75, 0.5, -0.5, 0.0, 1.0, 0.38, -0.38])
)


def _name_points(
    ax: Axes, names: dict[str, tuple[float, float]], points: NDArray[np.float64]
) -> None:
    """Write each name near its point, where it covers no other name and as few points as may be."""
    # Idea: go through the names in order and try the offsets of `PLACES`, the nearest first; keep
    # the first at which the box of the text lies within the axes, overlaps no earlier box and
    # covers no point. If there is none, keep the one within the axes and clear of the other names
    # that covers the fewest points. A name that is not beside its point gets a thin line to it.
    # Cost: O(names squared) comparisons of boxes. There are a few dozen names at most, and a greedy
    # placement is deterministic, which a force-directed one is only with a seed.
    ax.margins(x=0.08, y=0.15)  # room for names beside the outermost points
    ax.get_xlim(), ax.get_ylim()  # computes the limits, which determine the positions of points
    gap = 4.0 / 72 * ax.figure.dpi  # between names beside each other, in pixels
    dots = ax.transData.transform(points)
    taken: list[Bbox] = []
    for name, place in names.items():
        text = ax.annotate(
            literal(name), place, fontsize=6, xytext=PLACES[0], textcoords="offset points",
            va="center", arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "#999999",
                                     "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip
        best, chosen = np.inf, PLACES[0]
        for dx, dy in PLACES:
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            box = Bbox.from_extents(*_text_box(text))
            inside = ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1)
            cost = box.count_contains(dots) + (0 if inside else 2000)
            cost += 1000 * sum(box.padded(gap, 0).overlaps(other) for other in taken)
            if cost < best:
                best, chosen = cost, (dx, dy)
            if best == 0:
                break
        dx, dy = chosen
        text.set_position(chosen)
        text.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
        taken.append(Bbox.from_extents(*_text_box(text)))
        if np.hypot(dx, dy) < 8 and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)


def _text_box(text: Any) -> tuple[float, float, float, float]:
    """Return the corners of a text without the line to its point."""
    text.get_window_extent()  # puts the text in its place
    box = Text.get_window_extent(text)
    return box.x0, box.y0, box.x1, box.y1

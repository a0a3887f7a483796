"""Figures of more layers and conditions than a legend, an axis or a figure has room for."""

import io
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from topokit.experiments.record import Recording
from topokit.generators import erdos_renyi
from topokit.plots import HISTORY_PLOTS, mean_over_seeds
from topokit.plots.style import figure, row_labels
from topokit.plots.summary import PAGE

NAMES = [f"blocks.{i // 6}.attention.projection{i % 6}" for i in range(60)]


@pytest.fixture(scope="module")
def run():
    graph = erdos_renyi(12, 10, density=0.3, rng=np.random.default_rng(0))
    recording = Recording(["fan_in", "power_law", "turnover"])
    for epoch in range(2):
        recording(epoch, dict.fromkeys(NAMES, graph))
        recording.note(epoch, test_accuracy=0.5)
    return recording


MANY = ("summary", "measure_over_epochs", "turnover", "edge_survival", "verdict_timeline")
PANELS = {"degree_multiples": {}, "accuracy_against_measure": {"measure": "fan_in.dispersion"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MANY, *PANELS])
def test_what_sixty_layers_need_is_in_the_figure(name, run):
    with warnings.catch_warnings(), figure(size=PAGE if name == "summary" else "column") as ax:
        warnings.simplefilter("error")  # as of a layout in which an axes has no room
        HISTORY_PLOTS[name](run, ax=ax, **PANELS.get(name, {}))
        ax.figure.savefig(io.BytesIO(), dpi=20)
        page = ax.figure.bbox
    for one in [ax, *ax.child_axes]:
        legend = one.get_legend()
        if legend is not None:
            box = legend.get_window_extent()
            assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1
            assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1


@pytest.mark.parametrize("color", [None, "#aa0000"])
@pytest.mark.parametrize("name", ["measure_over_epochs", "turnover", "edge_survival"])
def test_many_lines_are_shades_and_the_legend_has_their_ends(name, color, run):
    ax = HISTORY_PLOTS[name](run, ax=Figure().add_subplot(), color=color)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words[:2] == ["b.0.a.projection0, first of 60", "b.9.a.projection5, last of 60"]
    colours = [line.get_color() for line in ax.lines if line.get_linestyle() == "-"]
    assert len(set(colours[:60])) > 50


@pytest.mark.slow
@pytest.mark.parametrize("name", PANELS)
def test_some_of_many_layers_have_panels_and_the_title_has_their_number(name, run):
    ax = Figure(figsize=(3.5, 2.7)).add_subplot()
    draw = HISTORY_PLOTS[name]
    draw(run, ax=ax, **PANELS[name])
    titles = [panel.get_title() for panel in ax.child_axes]
    assert 9 <= len(titles) < 20
    assert (titles[0], titles[-1]) == ("b.0.a.projection0", "b.9.a.projection5")
    assert f"{len(titles)} of 60 layers" in ax.get_title()
    draw(run, ax=ax, label="again", **PANELS[name])
    assert [panel.get_title() for panel in ax.child_axes] == titles
    large = draw(run, ax=Figure(figsize=(20, 20)).add_subplot(), **PANELS[name])
    assert len(large.child_axes) == 60
    assert "of 60" not in large.get_title()


def test_names_of_rows_that_would_meet_are_left_out(run):
    ax = Figure(figsize=(3.5, 2.7)).add_subplot()
    for n, label in ((60, None), (120, "again")):
        HISTORY_PLOTS["verdict_timeline"](run, label=label, ax=ax)
        seen = ax.get_yticklabels()
        assert len(ax.get_yticks()) == len(row_labels(ax)) == n
        assert 5 < len(seen) < 30
        ax.figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in seen]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert row_labels(ax)[60].get_text() == "again, b.0.a.projection0"


def test_many_conditions_are_shades_too():
    rows = [(f"c{i}", epoch, i / 99) for i in range(30) for epoch in range(2)]
    frame = pd.DataFrame(rows, columns=["arm", "epoch", "test_accuracy"])
    ax = mean_over_seeds(frame, ax=Figure().add_subplot())
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["c0 (n = 1), first of 30", "c29 (n = 1), last of 30"]

"""Names of layers, runs and conditions that look like formulas, markup or hidden labels."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from topokit.experiments.record import Recording
from topokit.generators import erdos_renyi
from topokit.plots import ACROSS_PLOTS, HISTORY_PLOTS, animation, report
from topokit.plots.style import literal

NAMES = ["a$_^$", "_orig_mod.<b>\x1b", "x$y$z"]


@pytest.fixture(scope="module")
def run():
    graph = erdos_renyi(12, 10, density=0.3, rng=np.random.default_rng(0))
    recording = Recording(["fan_in", "power_law", "turnover"], name="run $_^$\x1b")
    for epoch in range(2):
        recording(epoch, dict.fromkeys(NAMES, graph))
        recording.note(epoch, test_accuracy=0.5)
    return recording


def shown(figure):
    """Draw a figure as matplotlib does, without `topokit.plots.style.save`; return its texts."""
    figure.savefig(io.BytesIO(), dpi=20)
    found = [text for text in figure.findobj(Text) if text.get_visible()]
    assert not any(text._preprocess_math(text.get_text())[1] for text in found if "_^" in str(text))
    return " ".join(text._preprocess_math(text.get_text())[0] for text in found)


@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_names_of_layers_are_shown_as_they_are(name, run):
    figure = Figure(layout="constrained")
    HISTORY_PLOTS[name](run, ax=figure.add_subplot())
    words = shown(figure)
    if name not in ("accuracy_over_epochs", "accuracy_against_measure"):
        assert "a$_^$" in words
    if name in ("measure_over_epochs", "turnover", "edge_survival"):
        legend = [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()]
        assert [word for word in legend if word in map(literal, NAMES)] == [*map(literal, NAMES)]
    assert "\x1b" not in words


@pytest.mark.parametrize("n", [2, 9])
@pytest.mark.parametrize("name", ACROSS_PLOTS)
def test_names_of_conditions_are_shown_as_they_are(name, n):
    rows = [
        {"arm": arm, "epoch": 0, "normalized_spectral_gap": i / 9, "test_accuracy": 0.5 + i / 99}
        for i, arm in enumerate([*NAMES[:2], *"abcdefghij"][:n])
    ]
    figure = Figure(layout="constrained")
    ACROSS_PLOTS[name](pd.DataFrame(rows), ax=figure.add_subplot())
    words = shown(figure)
    assert "a$_^$" in words
    assert r"_orig_mod.<b>\x1b" in words


def test_names_in_pages_and_animations_are_text(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "drawable", lambda history: {})
    monkeypatch.setattr(report, "LAYERS", 0)
    page = report.write_report([run], tmp_path / "page.html", bootstrap=0)
    player = animation.save_animation(run, tmp_path / "a.html", n_frames=1, layer="a$_^$")
    for path in (page, player):
        text = path.read_text(encoding="utf-8")
        assert "\x1b" not in text
        assert r"run $_^$\x1b" in text
    assert r"_orig_mod.&lt;b&gt;\x1b" in page.read_text(encoding="utf-8")
    assert "<b>\\x1b" not in page.read_text(encoding="utf-8")


def test_headings_of_the_page_keep_capital_letters(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "drawable", lambda history: {})
    monkeypatch.setattr(report, "DPI", 20)
    recording = Recording(name="run")
    graph = erdos_renyi(12, 10, density=0.3, rng=np.random.default_rng(0))
    recording(0, {"Conv.A": graph})
    page = report.write_report([recording], tmp_path / "page.html", bootstrap=0)
    assert "<h3>Degrees of Conv.A, fan-in</h3>" in page.read_text(encoding="utf-8")

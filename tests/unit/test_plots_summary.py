"""Summaries, the flow of grown edges, and which figures are saved."""

import importlib.util
import itertools
import re
import shutil
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.contract.test_plots import make_run
from topokit.experiments.record import Recording, conditions
from topokit.experiments.statistics import mean_interval
from topokit.generators import erdos_renyi, generate
from topokit.graph import LayerGraph
from topokit.plots import growth, save_figures
from topokit.plots.animation import need_ffmpeg, save_animation
from topokit.plots.style import figure, plain_degrees
from topokit.plots.summary import PAGE, runs_over_epochs, summary, summary_across


@pytest.fixture(scope="module")
def runs():
    """Two conditions of two seeds each."""
    rng = np.random.default_rng(5)
    found = []
    for name, density in (("set", 0.2), ("static", 0.3)):
        for seed in range(2):
            run = make_run([erdos_renyi(30, 20, density=density, rng=rng) for _ in range(3)])
            run.name = f"{name}-seed{seed}"
            run.config = {"rule": {"name": name}, "seed": seed}
            run.epochs = run.epochs.assign(test_accuracy=[0.5, 0.6, 0.7 + 0.1 * seed])
            found.append(run)
    return found


def test_runs_that_differ_in_their_seed_are_one_condition(runs):
    assert conditions(runs) == ["set", "set", "static", "static"]
    same = [Recording(name="a"), Recording(name="b")]
    for run in same:
        run.config = {"rule": {"name": "set"}, "seed": 1}
    assert conditions(same) == ["all runs", "all runs"]
    same[1].config = {"rule": {"name": "rigl"}, "seed": 1}
    assert conditions(same) == ["a", "b"]
    same[1].name = "a"
    assert conditions(same) == ["rule.name=set", "rule.name=rigl"]


def test_the_bands_across_conditions_are_intervals_over_seeds(runs):
    ax = summary_across(runs, ax=Figure().add_subplot())
    panel = ax.child_axes[0]
    assert [line.get_label() for line in panel.lines] == ["set (n = 2)", "static (n = 2)"]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [0.5, 0.6, 0.75])
    found = mean_interval([0.7, 0.8])
    points = panel.collections[0].get_paths()[0].vertices
    last = points[points[:, 0] == 2, 1]
    np.testing.assert_allclose([last.min(), last.max()], [found.low, found.high])


def test_a_frame_of_runs_has_their_measures(runs):
    frame = runs_over_epochs(runs)
    rows = runs[3].measures
    mine = rows[(rows["measure"] == "fan_in.dispersion") & (rows["epoch"] == 2)]["value"]
    row = frame[(frame["arm"] == "static") & (frame["seed"] == 1) & (frame["epoch"] == 2)]
    assert row["fan_in.dispersion"].tolist() == mine.tolist()
    assert row["test_accuracy"].tolist() == pytest.approx([0.8])
    with pytest.raises(ValueError, match="expected at least one run, got none"):
        runs_over_epochs([])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_panels_share_the_time_axis(runs, scale):
    ax = summary(runs[0], scale=scale, ax=Figure().add_subplot())
    limits = {panel.get_xlim() for panel in ax.child_axes}
    assert len(limits) == 1
    assert [panel.get_ylabel() for panel in ax.child_axes][-1] == "test accuracy"
    with pytest.raises(ValueError, match="expected scale 'linear' or 'log', got 'sqrt'"):
        summary(runs[0], scale="sqrt")


def test_flows_count_edges_by_the_degrees_before_they_were_grown():
    # Ten units on each side; the first of each is the hub. Of three edges grown, one goes from
    # the hub of the inputs to that of the outputs, two between other units; one of them is kept.
    before = LayerGraph.from_edge_ids([1, 2, 10, 20], (10, 10))
    grown = [0, 55, 99]
    after = LayerGraph.from_edge_ids(sorted([1, 2, 10, 20, *grown]), (10, 10))
    later = LayerGraph.from_edge_ids([1, 2, 10, 20, 55], (10, 10))
    found, kept = growth._flows(make_run([before, after, later]), "fc1", 1)
    assert found.observed[0, 0] == 1
    assert found.observed.sum() == 3
    assert kept.observed.sum() == 1
    np.testing.assert_allclose(found.expected.sum(), 3)
    # one cell of 100 is between the hubs, and 96 cells are free for the edges grown
    np.testing.assert_allclose(found.expected[0, 0], 3 / 96)


def test_uniform_growth_is_as_expected():
    rng = np.random.default_rng(0)
    run = make_run([erdos_renyi(60, 50, density=0.1, rng=rng)])
    for _ in range(60):
        run.topologies.append({"fc1": erdos_renyi(60, 50, density=0.1, rng=rng)})
    found, _ = growth._flows(run, "fc1", 1)
    error = (found.observed - found.expected) / np.sqrt(found.expected)
    assert found.observed.sum() > 15000
    assert np.abs(error).max() < 4


def test_only_what_is_asked_for_is_drawn_and_told(runs, tmp_path):
    told = []
    names = ["turnover", "spectrum"]
    paths = save_figures(
        runs[0], tmp_path, only=names, layer="fc1", size="page", formats=("png", "svg"),
        progress=lambda *what: told.append(what),
    )  # fmt: skip
    assert [path.name for path in paths] == [
        "turnover.png", "turnover.svg", "spectrum_fc1.png", "spectrum_fc1.svg"
    ]  # fmt: skip
    assert told == [("turnover", 0, 2), ("spectrum_fc1", 1, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["turnovr"]}, "unknown figure 'turnovr'; did you mean 'turnover'"),
        ({"only": ["mean_over_seeds"]}, "in Python it is topokit.plots.mean_over_seeds"),
        ({"only": ["turnover"], "layer": "fc1"}, "layer 'fc1' has no effect on turnover"),
        ({"layer": "fc9"}, "expected a layer of fc1, got 'fc9'"),
        ({"size": "poster"}, "expected size 'column', 'page'"),
    ],
)
def test_what_has_no_meaning_is_refused_before_a_file_is_written(runs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        save_figures(runs[0], tmp_path / "figures", **options)
    assert not (tmp_path / "figures").exists()


def test_an_mp4_needs_ffmpeg_and_says_so(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="mp4 needs the program ffmpeg, found none: install it"):
        save_figures(runs[0], tmp_path, formats=("mp4",))
    with pytest.raises(
        ValueError, match=r"expected a file ending in .mp4, .gif, .html, got 'a.avi'"
    ):
        save_animation(runs[0], tmp_path / "a.avi")


@pytest.mark.parametrize(
    ("here", "package", "found"),
    [(True, True, "/bin/mine"), (True, False, "/bin/mine"), (False, True, "/theirs/ffmpeg")],
)
def test_ffmpeg_is_that_of_the_settings_or_of_the_package(here, package, found, monkeypatch):
    brought = SimpleNamespace(get_ffmpeg_exe=lambda: "/theirs/ffmpeg", __spec__=True)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", brought if package else None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if here else None)
    with mpl.rc_context({"animation.ffmpeg_path": "mine"}):
        assert need_ffmpeg() == found


@pytest.mark.slow
def test_an_mp4_is_a_film(runs, tmp_path):
    try:
        need_ffmpeg()
    except ValueError:
        pytest.skip("no ffmpeg here")
    film = save_animation(runs[0], tmp_path / "a.mp4", n_frames=2).read_bytes()
    assert film[4:8] == b"ftyp"


@pytest.mark.slow
def test_an_animation_as_a_page_loads_nothing(runs, tmp_path):
    page = save_animation(runs[0], tmp_path / "a.html", n_frames=2).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "fa-" not in page
    assert "▶</button>" in re.sub(r"\s", "", page)


def test_bands_of_dispersion_are_shown_whole_unless_they_reach_below_zero():
    rows = [
        {"arm": "set", "epoch": epoch, "seed": seed, "fan_in.dispersion": value}
        for epoch in range(3)
        for seed, value in enumerate((0.9, 1.0, 1.3))
    ]
    low, high = mean_interval([0.9, 1.0, 1.3])[1:3]
    for wide, lowest in ((1, low), (3, 0.3)):
        frame = pd.DataFrame(rows)
        frame["fan_in.dispersion"] = 1 + wide * (frame["fan_in.dispersion"] - 1)
        ax = summary_across(frame, ax=Figure().add_subplot())
        (panel,) = [p for p in ax.child_axes if p.get_yscale() == "log"]
        bottom, top = panel.get_ylim()
        assert bottom < lowest
        assert bottom > 0.1
        assert top > 1 + wide * (high - 1)


@pytest.mark.parametrize("height", [0.5, 3.0])
def test_labels_on_a_vertical_axis_of_degrees_are_apart(height):
    figure = Figure(figsize=(3, height))
    ax = figure.add_axes((0.2, 0, 0.8, 1))
    ax.set(yscale="log", ylim=(0.1, 30))
    plain_degrees(ax.yaxis)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.yaxis.get_ticklabels()]
    ticks = ax.get_yticks()
    assert len(ticks) >= 2
    assert all(one.y1 < other.y0 for one, other in itertools.pairwise(boxes))
    assert (len(ticks) > 3) == (height == 3.0)


def test_shares_that_do_not_change_are_drawn_from_zero():
    frame = pd.DataFrame({"epoch": [0, 1], "arm": "a", "turnover": 0.0, "giant_share": 1.0})
    ax = summary_across(frame, ax=Figure().add_subplot())
    for panel in ax.child_axes:
        low, high = panel.get_ylim()
        assert -0.05 < low < 0
        assert 1 <= high < 1.1


@pytest.mark.parametrize("n_layers", [3, 7, 10, 14, 20])
def test_the_keys_of_a_summary_do_not_overlap(n_layers, rng):
    more = ["normalized_spectral_gap", "giant_share", "turnover"]
    recording = Recording(measures=["fan_in", "power_law", *more])
    for epoch in range(2):
        recording.note(epoch, test_accuracy=0.5)
        recording(epoch, generate([12] * (n_layers + 1), "erdos_renyi", density=0.4, rng=rng))
    with figure(size=PAGE) as ax:
        summary(recording, ax=ax)
        ax.figure.draw_without_rendering()
        boxes = [p.get_legend().get_window_extent() for p in ax.child_axes if p.get_legend()]
    assert len(boxes) == 4  # degrees, layers, verdicts, the whole network
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def judged_by(name, **columns):
    """A run of three epochs that noted these numbers only."""
    recording = Recording(["fan_in"], name=name)
    for epoch in range(3):
        graph = erdos_renyi(12, 10, density=0.3, rng=np.random.default_rng(epoch))
        recording(epoch, {"fc1": graph})
        recording.note(epoch, **{key: value + epoch for key, value in columns.items()})
    return recording


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"test_accuracy": 0.5}, "test accuracy"),
        ({"val_acc": 0.5}, "val acc"),
        ({"val_loss": 0.5, "seconds": 1.0}, "val loss"),
        ({"train_loss": 0.5}, "train loss"),
        ({"test_accuracy": np.nan, "test_loss": 2.0}, "test error"),
    ],
)
def test_the_score_of_runs_is_drawn_whatever_it_is(columns, label):
    run = judged_by("run", **columns)
    ax = summary_across({"a": [run]}, ax=Figure().add_subplot())
    assert ax.child_axes[0].get_ylabel() == label
    if not label.startswith("train"):  # in frames those of training are left out
        of_frame = summary_across(runs_over_epochs([run]), ax=Figure().add_subplot())
        assert of_frame.child_axes[0].get_ylabel() == label
    assert len(ax.child_axes) == 3


def test_columns_that_are_no_scores_are_not_drawn():
    run = judged_by("run", test_accuracy=0.5)
    frame = runs_over_epochs([run]).assign(interrupted=1.0, error_message="none", seconds=2.0)
    ax = summary_across(frame, ax=Figure().add_subplot())
    assert len(ax.child_axes) == 3


@pytest.mark.parametrize("given", [lambda run: [run, run], lambda run: {"a": [run, run]}])
def test_a_run_given_twice_is_refused(runs, given):
    with pytest.raises(ValueError, match="expected runs of different seeds in a condition"):
        summary_across(given(runs[0]), ax=Figure().add_subplot())


def test_a_variance_of_exactly_zero_is_on_its_logarithmic_axis():
    regular = LayerGraph.from_edge_ids(
        [5 * i + (i + j) % 5 for i in range(5) for j in (0, 1)], (5, 5)
    )
    other = LayerGraph.from_edge_ids([0, 1, 2, 5, 10, 15], (5, 5))
    run = Recording(["fan_in"], name="run")
    for epoch, graph in enumerate([regular, regular, other, other]):
        run(epoch, {"fc1": graph})
    for draw in (summary, lambda run, ax: summary_across({"a": [run]}, ax=ax)):
        with figure(size=PAGE) as ax:
            draw(run, ax=ax)
            ax.figure.draw_without_rendering()
        (panel,) = [p for p in ax.child_axes if p.get_ylabel().endswith("variance / mean")]
        (marks,) = [line for line in panel.lines if line.get_gid() == "mark"]
        places = marks.get_transform().transform(marks.get_xydata())
        assert marks.get_xdata().tolist() == [0, 1]
        assert all(
            panel.bbox.y0 <= y < panel.bbox.y0 + 0.1 * panel.bbox.height for y in places[:, 1]
        )
        (curve,) = [line for line in panel.lines if str(line.get_label()).startswith(("fc1", "a"))]
        assert np.isnan(curve.get_ydata()[:2]).all()


def test_what_is_not_known_of_grown_edges_is_not_said_to_be_nothing(runs):
    short = make_run([runs[0].topologies[i]["fc1"] for i in range(2)])
    ax = growth.growth_flow(short, ax=Figure().add_subplot())
    assert ax.child_axes[1].get_title() == "there 1 epoch later:\nnot known"
    ax = growth.growth_flow(runs[0], survived=1, ax=Figure().add_subplot())
    before, after = (run["fc1"].edge_ids for run in runs[0].topologies[:2])
    new = np.setdiff1d(after, before)
    kept = np.intersect1d(new, runs[0].topologies[2]["fc1"].edge_ids)
    assert ax.child_axes[1].get_title().endswith(f":\n{kept.size} of {new.size} edges")


@pytest.mark.parametrize("kind", ["gif", "html"])
def test_names_of_figures_mean_nothing_for_an_animation(runs, tmp_path, kind):
    with pytest.raises(ValueError, match=f"names of figures have no effect on {kind}"):
        save_figures(runs[0], tmp_path / "new", formats=(kind,), only=["turnover"])
    with pytest.raises(ValueError, match="expected size 'column', 'page'"):
        save_figures(runs[0], tmp_path / "new", formats=(kind,), size="poster")
    assert not (tmp_path / "new").exists()

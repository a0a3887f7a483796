import itertools
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from topokit.experiments.statistics import mean_interval, rank_correlation
from topokit.plots import ACROSS_PLOTS
from topokit.plots.across import accuracy_against, arms_side_by_side, mean_over_seeds
from topokit.plots.summary import summary_across


@pytest.fixture
def runs():
    """Three conditions with four seeds and three epochs each."""
    rng = np.random.default_rng(2)
    rows = [
        {
            "arm": arm, "seed": seed, "epoch": epoch, "gap": i + rng.normal(0, 0.1),
            "test_accuracy": 0.7 + 0.05 * i + 0.01 * epoch + rng.normal(0, 0.01),
        }
        for i, arm in enumerate("abc")
        for seed in range(4)
        for epoch in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_points_are_the_runs_and_the_title_says_rho_and_n(runs, ax):
    last = runs[runs["epoch"] == 2]
    accuracy_against(last, "gap", ax=ax)
    dots = [dots for dots in ax.collections if isinstance(dots, PathCollection)]
    points = np.concatenate([one.get_offsets() for one in dots])
    np.testing.assert_allclose(points, last[["gap", "test_accuracy"]].to_numpy())
    rho = stats.spearmanr(last["gap"], last["test_accuracy"]).statistic
    found = rank_correlation(last["gap"], last["test_accuracy"], rng=np.random.default_rng(0))
    assert f"ρ = {rho:.2f} [{found.low:.2f}, {found.high:.2f}]" in ax.get_title()
    assert ax.get_title().endswith("n = 12")
    bars = [bar.lines[2][1].get_segments()[0][:, 1] for bar in ax.containers]
    wanted = [mean_interval(last[last["arm"] == arm]["test_accuracy"])[3:] for arm in "abc"]
    np.testing.assert_allclose(bars, wanted)
    assert not [line for line in ax.lines if line.get_linestyle() not in ("None", "none")]


def test_names_of_many_conditions_overlap_neither_each_other_nor_the_axes(ax):
    names = [f"family {i}" for i in range(12)]
    gaps = [0.01, 0.01, 0.02, 0.02, 0.03, 0.4, 0.4, 0.41, 0.8, 0.9, 0.9, 1.0]
    points = np.linspace(0.8, 0.9, 12)
    frame = pd.DataFrame({"arm": names, "gap": gaps, "test_accuracy": points})
    accuracy_against(frame, "gap", ax=ax)
    assert sorted(text.get_text() for text in ax.texts) == sorted(names)
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= ax.bbox.x0 for box in boxes)


def test_names_beside_each_other_keep_a_gap(ax):
    names = [f"{'family' * (i % 3)} {i}" for i in range(14)]
    gaps = np.linspace(0, 0.2, 14) + np.repeat([0, 0.5], 7)
    points = np.random.default_rng(3).permutation(np.repeat([0.80, 0.81], 7))
    accuracy_against(
        pd.DataFrame({"arm": names, "gap": gaps, "test_accuracy": points}), "gap", ax=ax
    )
    ax.figure.canvas.draw()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    three = 3.0 / 72 * ax.figure.dpi
    assert not any(a.padded(three, 0).overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_bands_are_intervals_of_the_mean(runs, ax):
    mean_over_seeds(runs, ax=ax)
    assert [line.get_label() for line in ax.lines] == ["a (n = 4)", "b (n = 4)", "c (n = 4)"]
    first = runs[(runs["arm"] == "a") & (runs["epoch"] == 0)]["test_accuracy"]
    low, high = stats.t.interval(0.95, 3, loc=first.mean(), scale=stats.sem(first))
    outline = ax.collections[0].get_paths()[0].vertices
    at_first = outline[outline[:, 0] == 0][:, 1]
    assert (at_first.min(), at_first.max()) == pytest.approx((low, high))
    assert mean_interval(first)[3:] == pytest.approx((low, high))


def test_one_seed_has_a_line_and_no_band(runs, ax):
    mean_over_seeds(runs[runs["seed"] == 0], ax=ax)
    assert [line.get_label() for line in ax.lines] == [f"{arm} (n = 1)" for arm in "abc"]
    assert all(not len(band.get_paths()) for band in ax.collections)


def test_few_runs_have_a_correlation_and_no_interval(runs, ax):
    accuracy_against(runs[(runs["epoch"] == 2) & (runs["seed"] < 3)], "gap", ax=ax)
    assert "[" not in ax.get_title()
    assert "ρ = " in ax.get_title()
    assert ax.get_title().endswith("n = 9")


def test_conditions_are_side_by_side(runs, ax):
    arms_side_by_side(runs[runs["epoch"] == 2], ax=ax)
    assert ax.get_ylabel() == "condition"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    for i, bar in enumerate(ax.containers):
        values = runs[(runs["epoch"] == 2) & (runs["arm"] == "abc"[i])]["test_accuracy"]
        drawn = bar.lines[2][0].get_segments()[0][:, 0]
        assert drawn == pytest.approx(mean_interval(values)[3:])


def test_one_run_of_a_condition_has_no_bar(runs, ax):
    arms_side_by_side(runs[(runs["epoch"] == 2) & (runs["seed"] == 0)], ax=ax)
    for bar in ax.containers:
        assert np.ptp(bar.lines[2][0].get_segments()[0][:, 0]) == 0


@pytest.mark.parametrize("name", ACROSS_PLOTS)
def test_a_missing_column_is_named(name, runs, ax):
    with pytest.raises(ValueError, match=r"expected columns .*arm"):
        ACROSS_PLOTS[name](
            runs.drop(columns="arm").rename(columns={"gap": "normalized_spectral_gap"}), ax=ax
        )


@pytest.mark.parametrize("name", ACROSS_PLOTS)
def test_no_runs_are_an_empty_figure(name, ax):
    columns = ["arm", "epoch", "test_accuracy", "normalized_spectral_gap"]
    assert ACROSS_PLOTS[name](pd.DataFrame(columns=columns), ax=ax) is ax
    ax.figure.canvas.draw()
    assert ax.get_xlabel()
    assert ax.get_title()


def test_published_values_stand_beside_the_runs(runs, ax):
    last = runs[runs["epoch"] == 2]
    arms_side_by_side(
        last, published={"a": (0.8, 0.1), "b": 0.7}, published_label="published, 400 epochs", ax=ax
    )
    stars = {bar.lines[0].get_xydata()[0].tolist()[0] for bar in ax.containers[3:]}
    assert stars == {0.8, 0.7}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["published, 400 epochs"]
    with pytest.raises(ValueError, match="published values of a, b, c, got one of 'd'"):
        arms_side_by_side(last, published={"d": 1.0}, ax=ax)


def test_a_misspelt_column_has_its_nearest_named(runs, ax):
    with pytest.raises(ValueError, match="without test_acuracy; did you mean 'test_accuracy'"):
        mean_over_seeds(runs, "test_acuracy", ax=ax)


def test_single_runs_of_many_conditions_are_seen(ax):
    names = [f"family {i}" for i in range(9)]
    frame = pd.DataFrame({"arm": names, "gap": np.arange(9.0), "test_accuracy": np.arange(9.0)})
    accuracy_against(pd.concat([frame, frame[:1] + frame[:1].assign(arm="")]), "gap", ax=ax)
    points = [each for each in ax.collections if isinstance(each, PathCollection)]
    assert [len(each.get_offsets()) for each in points] == [2, *[1] * 8]
    several, *single = points
    assert {each.get_alpha() for each in single} == {0.8} != {several.get_alpha()}
    assert min(each.get_sizes()[0] for each in single) > several.get_sizes()[0]


def test_the_legend_has_both_numbers_of_seeds_where_some_ended_earlier(runs, ax):
    ended = (runs["arm"] == "b") & (runs["seed"] > 1) & (runs["epoch"] > 0)
    mean_over_seeds(runs[~ended], ax=ax)
    words = [line.get_label() for line in ax.lines]
    assert words == ["a (n = 4)", "b (n = 2 to 4)", "c (n = 4)"]


def test_epochs_of_one_run_are_not_taken_for_runs(runs, ax):
    named = runs.assign(run=runs["arm"] + runs["seed"].astype(str))
    for call in (
        lambda frame: accuracy_against(frame, "gap", ax=ax),
        lambda frame: arms_side_by_side(frame, ax=ax),
    ):
        with pytest.raises(ValueError, match=r"got 3 of .* that differ in epoch; .* == 2\]"):
            call(named)
        call(named[named["epoch"] == 2])


PLOTS = {
    "mean_over_seeds": lambda frame, ax: mean_over_seeds(frame, ax=ax),
    "summary_across": lambda frame, ax: summary_across(frame, ax=ax),
    "accuracy_against": lambda frame, ax: accuracy_against(
        frame[frame["epoch"] == 2], "gap", ax=ax
    ),
    "arms_side_by_side": lambda frame, ax: arms_side_by_side(frame[frame["epoch"] == 2], ax=ax),
}


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("column", ["rule.drop_fraction", "data.name", "layer"])
def test_cells_of_a_grid_are_not_taken_for_seeds(runs, ax, name, column):
    values = {"rule.drop_fraction": (0.1, 0.3)}.get(column, ("one", "other"))
    frame = pd.concat([runs.assign(**{column: value}) for value in values], ignore_index=True)
    words = f"got 2 of seed 0 of a that differ in {column}; choose one, as "
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        PLOTS[name](frame, ax)
    assert f"frame[frame[{column!r}] == {values[0]!r}]" in str(caught.value)
    PLOTS[name](frame[frame[column] == values[0]], ax)
    both = frame.assign(arm=frame["arm"] + " " + frame[column].astype(str))
    PLOTS[name](both, Figure().add_subplot())


@pytest.mark.parametrize("name", PLOTS)
def test_a_run_that_comes_twice_does_not_count_twice(runs, ax, name):
    with pytest.raises(ValueError, match="got 2 of seed 0 of a; choose one"):
        PLOTS[name](pd.concat([runs, runs]), ax)
    named = runs.assign(run=runs["arm"] + runs["seed"].astype(str)).drop(columns="seed")
    with pytest.raises(ValueError, match="got 2 of run a0 of a; choose one"):
        PLOTS[name](pd.concat([named, named]), ax)
    PLOTS[name](named.drop(columns="run"), ax)
    PLOTS[name](runs.assign(seed=np.nan), Figure().add_subplot())


def arm(name, seeds, epochs=range(4)):
    """Rows of one condition; accuracies of seed s are 0.5 + s / 10, whatever the epoch."""
    return [
        {"arm": name, "seed": seed, "epoch": epoch, "test_accuracy": 0.5 + seed / 10}
        for seed, own in seeds.items()
        for epoch in own or epochs
    ]


def test_means_over_other_seeds_are_not_joined(ax):
    frame = pd.DataFrame(arm("a", {0: [], 1: [], 2: [0, 1]}))
    mean_over_seeds(frame, ax=ax)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), [0.6, 0.6, np.nan, 0.55, 0.55])
    other = mean_over_seeds(
        pd.DataFrame(arm("a", {0: [0, 2], 1: [1, 3]})), ax=Figure().add_subplot()
    )
    # one seed each time, but not the same: single dots, no line that goes up and down
    assert np.isnan(other.lines[0].get_ydata()).sum() == 3
    assert other.lines[0].get_marker() == "o"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a (n = 2 to 3)"]


def test_epochs_of_one_seed_have_no_band_between_those_of_two(ax):
    mean_over_seeds(pd.DataFrame(arm("a", {0: range(6), 1: [0, 1, 4, 5]})), ax=ax)
    outlines = [path.vertices[:, 0] for path in ax.collections[0].get_paths()]
    assert sorted((x.min(), x.max()) for x in outlines) == [(0, 1), (4, 5)]


def test_the_interval_of_a_single_epoch_is_seen(ax):
    mean_over_seeds(pd.DataFrame(arm("a", {0: [3], 1: [3]})), ax=ax)
    low, high = mean_interval([0.5, 0.6])[3:]
    (bar,) = ax.collections[1].get_segments()
    np.testing.assert_allclose(bar, [[3, low], [3, high]])


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("nothing", [None, np.nan])
def test_rows_without_a_condition_are_refused(runs, ax, name, nothing):
    frame = runs.assign(arm=runs["arm"].where(runs["arm"] != "b", nothing))
    with pytest.raises(ValueError, match=r"a value of arm in every row, got .* rows without"):
        PLOTS[name](frame, ax)


def test_conditions_without_a_value_are_still_named(runs, ax):
    last = runs[runs["epoch"] == 2].reset_index(drop=True)
    last.loc[last["arm"] == "b", "test_accuracy"] = np.nan
    last.loc[0, "test_accuracy"] = np.inf
    arms_side_by_side(last, ax=ax)
    words = ["a\n(n = 3 of 4)", "b\n(n = 0 of 4)", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == words
    arms_side_by_side(last[last["arm"] != "a"], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == words
    means = mean_over_seeds(last, ax=Figure().add_subplot())
    assert "b (n = 0)" in [line.get_label() for line in means.lines]


def test_long_names_of_conditions_are_in_lines(ax):
    name = "rule.name=set, rule.drop_fraction=0.3, topology.generator=erdos_renyi"
    frame = pd.DataFrame({"arm": [name, "short"], "test_accuracy": [0.5, 0.6]})
    for _ in range(2):
        arms_side_by_side(frame, published={name: 0.7}, ax=ax)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert [" ".join(label.split("\n")) for label in labels] == [name, "short"]
    assert max(len(line) for label in labels for line in label.split("\n")) < 40

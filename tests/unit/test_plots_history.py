from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from matplotlib.figure import Figure

from topokit import plots
from topokit.data.samples import pixel_order
from topokit.experiments.record import Recording
from topokit.generators import erdos_renyi
from topokit.graph.convert import from_scipy
from topokit.measures import VERDICTS, measure
from topokit.plots import HISTORY_PLOTS, LAYER_PLOTS, drawable, input_map, report, save_figures
from topokit.plots.degrees import degree_evolution, degree_heatmap, degree_multiples
from topokit.plots.history import (
    accuracy_against_measure,
    accuracy_over_epochs,
    evenly_spaced,
    measure_over_epochs,
    spectrum_over_epochs,
    turnover,
    verdict_timeline,
)
from topokit.plots.report import write_report


@pytest.fixture(scope="module")
def run():
    """The attributes of a History that figures read, without a run directory."""
    rng = np.random.default_rng(5)
    topologies = [{"fc1": erdos_renyi(40, 30, density=0.2, rng=rng)} for _ in range(5)]
    frames = [
        measure(now, previous=topologies[epoch - 1] if epoch else None).assign(epoch=epoch)
        for epoch, now in enumerate(topologies)
    ]
    epochs = np.arange(5)
    return SimpleNamespace(
        name="run",
        recorded=epochs.tolist(),
        topology=topologies.__getitem__,
        epochs=pd.DataFrame({"epoch": epochs, "test_accuracy": 0.5 + epochs / 100}),
        measures=pd.concat(frames, ignore_index=True),
    )


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_a_measure_is_drawn_as_recorded(run, ax):
    measure_over_epochs(run, "fan_in.maximum", ax=ax)
    frame = run.measures[run.measures["measure"] == "fan_in.maximum"]
    assert ax.lines[0].get_xdata().tolist() == frame["epoch"].tolist()
    assert ax.lines[0].get_ydata().tolist() == frame["value"].tolist()


def recorded(**columns):
    """A recording of three epochs with numbers of its own."""
    recording = Recording(["fan_in"], name="mine")
    for epoch in range(3):
        recording(
            epoch, {"fc1": erdos_renyi(20, 10, density=0.3, rng=np.random.default_rng(epoch))}
        )
        recording.note(epoch, **{name: values[epoch] for name, values in columns.items()})
    return recording


NAN = float("nan")


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"train_accuracy": [0.1, 0.2, 0.3], "train_loss": [3, 2, 1]}, "train accuracy"),
        ({"loss": [3, 2, 1], "val_acc": [0.1, 0.2, 0.3]}, "val acc"),
        ({"test_accuracy": [NAN, 0.5, 0.6]}, "test accuracy"),
        ({"test_accuracy": [NAN] * 3, "test_loss": [3, 2, 1]}, "test error"),
        ({"test_accuracy": [NAN] * 3, "val_error": [3, 2, 1]}, "val error"),
        ({"test_loss": [3, 2, 1]}, "test loss"),
    ],
)
def test_what_a_record_has_of_accuracies_and_losses_is_drawn(columns, label):
    mine = recorded(**columns)
    assert accuracy_over_epochs(mine, ax=Figure().add_subplot()).get_ylabel() == label
    ax = accuracy_against_measure(mine, ax=Figure().add_subplot())
    assert ax.get_ylabel() == label


def test_a_record_without_accuracies_and_losses():
    mine = recorded(learning_rate=[1, 1, 1])
    for plot in (accuracy_over_epochs, accuracy_against_measure):
        with pytest.raises(ValueError, match="got the columns run, epoch, learning_rate; add some"):
            plot(mine, ax=Figure().add_subplot())
    assert set(HISTORY_PLOTS) - set(drawable(mine)) == {
        "accuracy_over_epochs",
        "accuracy_against_measure",
    }


@pytest.mark.slow
def test_the_page_of_a_record_without_accuracies_and_losses(coarse, tmp_path):
    mine = recorded(learning_rate=[1, 1, 1])
    page = write_report([mine], tmp_path / "page.html", bootstrap=0).read_text(encoding="utf-8")
    assert "one run, so there is no interval" in page
    assert "<td>–</td>" in page  # no score


@pytest.mark.parametrize("plot", [measure_over_epochs, accuracy_against_measure])
def test_a_measure_that_was_not_recorded_is_refused(plot, run, ax):
    with pytest.raises(ValueError, match=r"got 'fan_in.gni'; did you mean 'fan_in.gini'"):
        plot(run, "fan_in.gni", ax=ax)
    with pytest.raises(
        ValueError, match=r"got 'fan_in'; it has the numbers fan_in.mean, .*dispersion"
    ):
        plot(run, "fan_in", ax=ax)


def test_by_default_a_measure_that_was_recorded_is_drawn(run, ax):
    chosen = run.measures[run.measures["measure"] == "fan_in.gini"]
    other = SimpleNamespace(**{**vars(run), "measures": chosen})
    assert len(measure_over_epochs(other, ax=ax).lines[0].get_xdata()) == len(chosen) == 5
    (panel,) = accuracy_against_measure(other, ax=Figure().add_subplot()).child_axes
    assert len(panel.collections[0].get_offsets()) == 5


def with_values(run, values):
    """The run with these values of one measure."""
    frame = run.measures[run.measures["measure"] == "fan_in.gini"]
    frame = frame.assign(measure="spectral_gap", value=values)
    return SimpleNamespace(**{**vars(run), "measures": frame})


def test_values_of_exactly_zero_and_undefined_ones_are_not_joined(run, ax):
    measure_over_epochs(with_values(run, [0.3, 0.0, 0.2, NAN, 0.4]), ax=ax)
    line, marks = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), [0.3, NAN, 0.2, NAN, 0.4])
    assert line.get_markevery() == [0, 2, 4]  # values without neighbours
    assert marks.get_xydata().tolist() == [[1, 0]]
    assert marks.get_label() == "exactly 0"
    assert marks.get_linestyle() == "None"


def test_a_measure_that_is_always_zero_is_a_line(run, ax):
    measure_over_epochs(with_values(run, [0.0] * 5), ax=ax)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.0] * 5]


def test_the_path_leaves_out_zeros_and_undefined_values(run, ax):
    other = with_values(run, [0.3, 0.1, 0.0, NAN, 0.4])
    (panel,) = accuracy_against_measure(other, "spectral_gap", ax=ax).child_axes
    accuracy = run.epochs["test_accuracy"]
    found = panel.collections[0].get_offsets().tolist()
    assert found == [[0.3, accuracy[0]], [0.1, accuracy[1]], [0.4, accuracy[4]]]
    np.testing.assert_array_equal(panel.lines[0].get_xdata(), [0.3, 0.1, NAN, 0.4])
    marks = next(line for line in panel.lines if line.get_label() == "exactly 0")
    assert marks.get_ydata().tolist() == [accuracy[2]]


def test_a_long_path_is_thinned_and_keeps_its_ends(run, ax):
    (panel,) = accuracy_against_measure(run, "fan_in.gini", n_epochs=3, ax=ax).child_axes
    assert panel.collections[0].get_array().tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="expected at least 1 epoch, got 0"):
        accuracy_against_measure(run, n_epochs=0, ax=ax)


def test_accuracy_is_drawn_as_recorded(run, ax):
    accuracy_over_epochs(run, ax=ax)
    assert ax.lines[0].get_ydata().tolist() == run.epochs["test_accuracy"].tolist()


def test_every_epoch_is_a_point_of_measure_and_accuracy(run, ax):
    accuracy_against_measure(run, "fan_in.dispersion", ax=ax)
    frame = run.measures[run.measures["measure"] == "fan_in.dispersion"]
    wanted = np.column_stack([frame["value"], run.epochs["test_accuracy"]])
    (panel,) = ax.child_axes
    np.testing.assert_array_equal(panel.collections[0].get_offsets(), wanted)
    np.testing.assert_array_equal(panel.lines[0].get_xydata(), wanted)


def test_turnover_starts_just_below_zero_and_has_room_above(run, ax):
    turnover(run, ax=ax)
    bottom, top = ax.get_ylim()
    assert -0.05 * top < bottom < 0
    assert top > 1.2 * max(ax.lines[0].get_ydata())


def test_the_first_and_the_last_epoch_are_among_the_curves(run, ax):
    degree_evolution(run, n_epochs=3, ax=ax)
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["random graph", "epoch 0", "epoch 2", "epoch 4"]


@pytest.mark.parametrize(
    "plot", [degree_evolution, degree_heatmap, degree_multiples, spectrum_over_epochs]
)
def test_no_epoch_is_refused_and_one_is_the_last(plot, run, ax):
    with pytest.raises(ValueError, match="expected at least 1 epoch, got 0"):
        plot(run, n_epochs=0, ax=ax)
    assert evenly_spaced(run, 1) == [4]
    assert evenly_spaced(run, 2) == [0, 4]


def test_an_unknown_layer_is_refused(run, ax):
    with pytest.raises(ValueError, match="expected a layer of fc1, got 'fc9'"):
        degree_evolution(run, layer="fc9", ax=ax)


def test_the_timeline_shows_the_codes_recorded(run, ax):
    verdict_timeline(run, ax=ax)
    frame = run.measures[run.measures["measure"] == "power_law.verdict"]
    assert ax.collections[0].get_array().tolist() == [frame["value"].tolist()]


def test_the_legend_of_the_timeline_has_the_verdicts_that_occur(run, ax):
    codes = [VERDICTS.index(name) for name in ("random", "broad", "heavy-tailed", "narrow")]
    frame = run.measures[run.measures["measure"] == "power_law.verdict"]
    other = SimpleNamespace(measures=frame.assign(value=[*codes, NAN]), recorded=[])
    verdict_timeline(other, ax=ax)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["random", "broad", "heavy-tailed (not bootstrapped)", "narrow"]


def test_cells_are_as_wide_as_the_time_between_epochs(run, ax):
    frame = run.measures[run.measures["measure"] == "power_law.verdict"]
    other = SimpleNamespace(measures=frame.assign(epoch=[0, 1, 2, 10, 100]), recorded=[])
    verdict_timeline(other, ax=ax)
    sides = ax.collections[0].get_coordinates()[0, :, 0]
    assert sides.tolist() == [-0.5, 0.5, 1.5, 6, 55, 145]


def test_the_law_of_the_last_epoch_is_drawn_if_asked_for(run, ax):
    degree_evolution(run, fit=True, ax=ax)
    assert any("power law" in str(line.get_label()) for line in ax.lines)
    other = degree_evolution(run, ax=Figure().add_subplot())
    assert not any("power law" in str(line.get_label()) for line in other.lines)


@pytest.fixture
def coarse(monkeypatch):
    """Figures of few pixels, which take less time."""
    monkeypatch.setattr(report, "DPI", 20)
    save = plots.save_axes
    monkeypatch.setattr(
        plots, "save_axes", lambda ax, path, **options: save(ax, path, **options | {"dpi": 20})
    )


@pytest.mark.slow
def test_figures_are_the_same_when_made_twice(run, coarse, tmp_path):
    one, two = (save_figures(run, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_an_unknown_format_is_refused(run, tmp_path):
    formats = "png, pdf, svg, mp4, gif, html"
    with pytest.raises(ValueError, match=f"expected formats of {formats}, got 'bmp'"):
        save_figures(run, tmp_path, formats=("bmp",))


@pytest.mark.slow
def test_the_animation_is_one_more_file(run, tmp_path):
    assert [path.name for path in save_figures(run, tmp_path, formats=("gif",))] == [
        "degrees_and_edges.gif"
    ]


def test_the_colours_of_epochs_hold_for_a_longer_run_too(ax):
    short, long = (
        SimpleNamespace(
            name="run",
            recorded=list(range(n)),
            epochs=pd.DataFrame({"epoch": range(n), "test_accuracy": np.linspace(0.1, 0.9, n)}),
            measures=pd.DataFrame(
                {"epoch": range(n), "layer": "fc1", "measure": "x", "value": np.arange(n) + 1.0}
            ),
        )
        for n in (3, 9)
    )
    for name, run in (("short", short), ("long", long), ("again", short)):
        accuracy_against_measure(run, "x", label=name, ax=ax)
    (bar,) = (one for one in ax.figure.axes if one.get_label() == "<colorbar>")
    ax.figure.draw_without_rendering()
    assert bar.get_ylim() == (0, 8)
    (panel,) = ax.child_axes
    assert {points.get_clim() for points in panel.collections} == {(0, 8)}


def test_a_turnover_of_nothing_is_seen_above_the_border(ax):
    graph = erdos_renyi(20, 10, density=0.3, rng=np.random.default_rng(0))
    recording = Recording(["turnover"])
    for epoch in range(3):
        recording(epoch, {"fc1": graph})
    turnover(recording, ax=ax)
    (line,) = (line for line in ax.lines if line.get_label() == "fc1")
    assert set(line.get_ydata()) == {0.0}
    assert ax.get_ylim()[0] < 0


@pytest.mark.parametrize("shape", [(8, 8), (3, 4, 4)])
def test_the_input_map_of_a_run_puts_shuffled_pixels_back(shape, tmp_path, monkeypatch):
    n = int(np.prod(shape))
    degrees = np.arange(n) % 7
    image = np.arange(10)[:, None] < degrees  # unit i has degrees[i] edges
    drawn = []
    monkeypatch.setitem(
        LAYER_PLOTS, "input_map", lambda graph, **options: drawn.append(input_map(graph, **options))
    )
    for seed in (0, 3):
        order = pixel_order(shape, seed) if seed else np.arange(n)
        recording = Recording(name="run")
        recording.config = {"data": {"name": "any", "shuffle_pixels": seed}}
        second = erdos_renyi(10, 5, density=0.5, rng=np.random.default_rng(0))
        recording(0, {"fc1": from_scipy(sp.csr_array(image[:, order])), "fc2": second})
        save_figures(recording, tmp_path, only=["input_map"], layer="fc1")
    first, shuffled = (ax.images[0].get_array() for ax in drawn)
    assert first.tolist() == degrees.reshape(-1, *shape[-2:]).sum(axis=0).tolist()
    assert shuffled.tolist() == first.tolist()

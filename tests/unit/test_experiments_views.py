"""What a person tries on a history: layers, slices, a summary, a figure, xarray; and trackers."""

import sys
import types
import warnings

import numpy as np
import pytest

import topokit as tk
from topokit.experiments.record import Recording
from topokit.experiments.tracking import logger_of


@pytest.fixture(scope="module")
def logged():
    return []


@pytest.fixture(scope="module")
def history(tmp_path_factory, logged):
    widths = {"model.widths": [64, 12, 10]}
    folder = tmp_path_factory.mktemp("views") / "r"
    return tk.run(
        "set_mlp_digits", folder, epochs=3, tracker=lambda *one: logged.append(one), **widths
    )


def recording():
    kept = Recording(["fan_in.mean"], name="mine")
    for epoch, ids in enumerate(([0, 1], [0, 3], [1, 2])):
        kept(epoch, {"fc1": tk.LayerGraph.from_edge_ids(ids, (2, 2))})
        kept.note(epoch, test_accuracy=0.5 + 0.1 * epoch)
    return kept


def test_a_layer_and_a_column(history):
    layer = history["fc1"]
    assert layer.index.tolist() == [0, 1, 2]
    rows = history.measures.query("layer == 'fc1' and measure == 'fan_in.mean'")
    assert layer["fan_in.mean"].tolist() == rows["value"].tolist()
    assert "active_flow.share" in history["network"] or len(history["network"].columns)
    assert layer["turnover"].isna().tolist() == [True, False, False]
    assert history["test_accuracy"].tolist() == history.epochs["test_accuracy"].tolist()
    with pytest.raises(KeyError, match="unknown layer or column 'fc7'; did you mean 'fc"):
        history["fc7"]


@pytest.mark.parametrize("make", [lambda history: history, lambda _: recording()])
def test_slices_and_epochs(history, make):
    run = make(history)
    assert run[-1] == run.topology(2)
    part = run[1:]
    assert type(part) is type(run)
    assert part.recorded == [1, 2]
    assert sorted(set(part.measures["epoch"])) == [1, 2]
    assert part.topology(-1) == run.topology(2)
    assert run[::2].recorded == [0, 2]
    assert run[-1:].recorded == [2]
    assert run.recorded == [0, 1, 2], "the run itself is as before"
    assert run[5:].recorded == []
    with pytest.raises(ValueError, match=r"0 was not recorded|expected a recorded epoch"):
        part.topology(0)
    for between in (lambda: run[1.5], lambda: run.topology(0.5)):
        with pytest.raises(ValueError, match="epoch: expected a whole number"):
            between()
    for derived in (iter, lambda run: "fc1" in run):
        with pytest.raises(TypeError, match="is not"):
            derived(run)


@pytest.mark.parametrize("make", [lambda history: history, lambda _: recording()])
def test_a_summary(history, make):
    run = make(history)
    table = run.summary()
    graph = run.topology(-1)["fc1"]
    assert table.loc["fc1", "edges"] == graph.n_edges
    assert table.loc["network", "edges"] == sum(g.n_edges for g in run.topology(-1).values())
    assert table.loc["network", "test_accuracy, last"] == run.epochs["test_accuracy"].iloc[-1]
    if run is history:
        degrees = graph.fan_in
        assert table.loc["fc1", "fan_in.dispersion, last"] == pytest.approx(
            degrees.var() / degrees.mean()
        )
    with pytest.raises(ValueError, match="has not recorded an epoch yet"):
        Recording().summary()


def test_a_figure_by_name(history):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    assert history.plot("accuracy_over_epochs", ax=ax) is ax
    plt.close(figure)
    with pytest.raises(ValueError, match="unknown plot 'acuracy_over_epochs'; did you mean"):
        history.plot("acuracy_over_epochs")


def test_without_xarray_one_sentence(history, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "xarray", None)
    for call in (history.to_xarray, lambda: history.to_netcdf(tmp_path / "x.nc")):
        with pytest.raises(ImportError, match="need xarray, which is not installed: pip install"):
            call()


def test_a_dataset_of_xarray(history, monkeypatch):
    """With xarray itself where it is installed, else with what it is given."""
    try:
        import xarray  # noqa: F401 - whether it is installed
    except ImportError:
        fake = types.ModuleType("xarray")
        fake.Dataset = lambda variables, coords, attrs: types.SimpleNamespace(
            attrs=attrs,
            coords=coords,
            **{
                name.replace(".", "_"): types.SimpleNamespace(dims=dims, values=values)
                for name, (dims, values) in variables.items()
            },
        )
        monkeypatch.setitem(sys.modules, "xarray", fake)
        data = history.to_xarray()
        found = data.fan_in_mean.values
        accuracy = data.test_accuracy.values
    else:
        data = history.to_xarray()
        found, accuracy = data["fan_in.mean"].values, data["test_accuracy"].values
        assert dict(data.sizes) == {"epoch": 3, "layer": len(data["layer"])}
    layers = list(np.asarray(data.coords["layer"]))
    assert np.array_equal(accuracy, history.epochs["test_accuracy"])
    assert np.array_equal(found[:, layers.index("fc1")], history["fc1"]["fan_in.mean"])
    assert np.isnan(found[:, layers.index("network")]).all()
    assert tk.RunConfig.from_toml(data.attrs["configuration"]).epochs == 3


# --- trackers ------------------------------------------------------------------------------------


def test_every_epoch_is_logged(history, logged):
    assert [step for _, step in logged] == [0, 1, 2]
    values, _ = logged[1]
    row = history.epochs.iloc[1]
    assert values["test_accuracy"] == row["test_accuracy"]
    assert values["fc1/turnover"] == history["fc1"]["turnover"][1]
    assert all(isinstance(value, float) and not np.isnan(value) for value in values.values())
    assert "fc1/turnover" not in logged[0][0], "what is not defined is left out"


class Run:
    """Shaped like a run of Weights & Biases."""

    def __init__(self):
        self.seen = []

    def log(self, values, step=None):
        self.seen += [(name, value, step) for name, value in values.items()]


class Writer(Run):
    """Shaped like a writer of TensorBoard."""

    log = None

    def add_scalar(self, tag, scalar_value, global_step=None):
        self.seen.append((tag, scalar_value, global_step))


class Flow(Run):
    """Shaped like the module mlflow."""

    log = None

    def log_metrics(self, metrics, step=None):
        self.seen += [(name, value, step) for name, value in metrics.items()]


@pytest.mark.parametrize("kind", [Run, Writer, Flow])
def test_the_shapes_of_trackers(kind):
    tracker = kind()
    logger_of(tracker)({"a": 1.0, "b": 2.0}, 7)
    assert tracker.seen == [("a", 1.0, 7), ("b", 2.0, 7)]


def test_what_is_no_tracker_is_refused_before_anything(tmp_path):
    with pytest.raises(TypeError, match=r"expected a tracker with a method log\(values, step\)"):
        tk.run("set_mlp_digits", tmp_path / "r", epochs=1, tracker=3)
    assert not (tmp_path / "r").exists()


def test_a_tracker_that_fails_ends_no_run(tmp_path):
    calls = []

    def fails(values, step):
        calls.append(step)
        raise OSError("no network")

    widths = {"model.widths": [64, 12, 10], "measures.names": []}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = tk.run("set_mlp_digits", tmp_path / "r", epochs=2, tracker=fails, **widths)
    assert history.recorded == [0, 1]
    assert calls == [0]
    assert ["the tracker failed at epoch 0" in str(one.message) for one in told] == [True]


def test_a_recording_is_a_table_in_a_notebook():
    shown = recording()._repr_html_()
    for words in ("<td>mine</td>", "<td>3</td>", "fc1", "test_accuracy", "<td>0.7</td>"):
        assert words in shown
    assert "0.7" not in Recording(name="nothing yet")._repr_html_()


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    """A run of more epochs than lie between two whole topologies, without explored fractions."""
    widths = {"model.widths": [64, 12, 10], "measures.every": 20, "data.n_train": 50}
    return tk.run("set_mlp_digits", tmp_path_factory.mktemp("views") / "s", epochs=13, **widths)


@pytest.mark.parametrize(
    "part", [slice(10, None), slice(None, None, 2), slice(5, None), slice(11, 12)]
)
def test_a_slice_has_the_explored_fraction_of_the_whole_run(unmeasured, part):
    whole = unmeasured.explored_fraction(11 if part.stop else 10)
    epoch = 11 if part.stop else 10
    graphs = [unmeasured.topology(at)["fc1"] for at in range(epoch + 1)]
    assert whole["fc1"] == tk.measures.explored_fraction(graphs)
    assert unmeasured[part].explored_fraction(epoch) == whole

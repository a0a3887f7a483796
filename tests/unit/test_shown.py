"""What notebooks and shells show of the objects: short, without addresses, escaped."""

import copy
import pickle
import re

import numpy as np
import pytest

import topokit as tk
from topokit.experiments.record import Recording
from topokit.tables import Table, as_html, sparkline

WIDTH = 400  # characters of the longest text


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    widths = {"model.widths": [64, 12, 10]}
    return tk.run("set_mlp_digits", tmp_path_factory.mktemp("shown") / "r", epochs=2, **widths)


def objects(history):
    import torch

    topology = history.topology(-1)
    graph = topology["fc1"]
    model = tk.sparsify(torch.nn.Sequential(torch.nn.Linear(20, 20)), density=0.3, rng=0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {
        "history": history,
        "graph": graph,
        "empty graph": tk.LayerGraph.from_edge_ids([], (0, 0)),
        "update": tk.EdgeUpdate.between(graph, graph),
        "fit": tk.fit_power_law(graph.fan_in),
        "report": tk.degree_report(graph, bootstrap=5, rng=0),
        "configuration": tk.load_recipe("set_mlp_digits"),
        "study": tk.load_study("madelon"),
        "engine": tk.attach(model, optimizer, "set", every=2, rng=0),
        "rule": tk.RULES["rigl"](),
        "data": tk.load_data("digits", rng=0),
        "comparison": tk.compare([history.directory], rng=0),
        "recording": Recording(),
        "generator": tk.GENERATORS["peg"],
        **{name: getattr(tk, name) for name in ("RULES", "MODELS", "DATASETS", "DENSITIES")},
    }


WITH_HTML = {
    "history", "graph", "empty graph", "fit", "report", "configuration", "engine", "comparison",
    "recording",
    "RULES", "MODELS", "DATASETS", "DENSITIES",
}  # fmt: skip


def test_objects_are_short_and_have_no_addresses(history):
    for name, one in objects(history).items():
        text = repr(one)
        assert len(text) <= WIDTH, name
        assert " at 0x" not in text, name
        assert hasattr(one, "_repr_html_") == (name in WITH_HTML), name
        if name in WITH_HTML:
            page = one._repr_html_()
            assert page.count("<table") >= 1, name
            assert " at 0x" not in page, name


def test_a_history_says_what_it_is(history):
    assert repr(history).startswith(
        "History('r', epochs 2, rule set, data digits, topology erdos_renyi, seed 0, test_accuracy "
    )
    assert f"{history.epochs['test_accuracy'].iloc[-1]:.4g}" in repr(history)


def test_texts_of_others_are_escaped():
    table = as_html("<b>", {"<script>alert(1)</script>": "\x1b[2J&"})
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    assert "\x1b" not in table


def test_a_topology_is_described():
    graph = tk.LayerGraph.from_edge_ids([0, 1, 2, 4], (2, 3))
    frame = tk.describe({"a": graph, "b": tk.LayerGraph.from_edge_ids([0], (1, 2))})
    assert frame.index.tolist() == ["a", "b", "network"]
    assert frame["edges"].tolist() == [4, 1, 5]
    assert frame["density"].tolist() == [4 / 6, 1 / 2, 5 / 8]
    assert frame.loc["a", "fan_out_mean"] == pytest.approx(4 / 3)
    assert tk.describe(graph).shape[0] == 1
    assert tk.describe(tk.LayerGraph.from_edge_ids([], (0, 0)))["fan_in_min"].isna().all()


def test_a_table_is_a_dict_that_suggests_names():
    table = Table("study", {"one": 1, "two": 2})
    assert repr(table) == "2 studies: one, two"
    with pytest.raises(KeyError, match="unknown study 'onee'; did you mean 'one'"):
        table["onee"]
    assert "onee" not in table
    assert table.get("onee") is None
    for again in (copy.copy(table), copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert again == table == {"one": 1, "two": 2}
        assert repr(again) == repr(table)
    with pytest.raises(KeyError, match="unknown generator 'erdos'; did you mean 'erdos_renyi'"):
        tk.GENERATORS["erdos"]


@pytest.mark.parametrize("name", tk.GENERATORS)
def test_generators_can_be_sent_to_other_processes(name):
    again = pickle.loads(pickle.dumps(tk.GENERATORS[name]))
    assert again.recorded_as == name
    options = {"density": 0.25, "rng": np.random.default_rng(0)}
    if name in ("erdos_renyi", "biregular"):
        assert again(16, 16, **options) == tk.GENERATORS[name](16, 16, density=0.25, rng=0)


@pytest.mark.parametrize(
    ("values", "line"), [([], "no units"), ([3, 3], "3 █ 3"), ([0, 9, 9], "0 ▄        █ 9")]
)
def test_sparklines(values, line):
    assert sparkline(values) == line
    assert re.sub(r"[0-9 ▁▂▃▄▅▆▇█]", "", sparkline(np.arange(1000))) == ""

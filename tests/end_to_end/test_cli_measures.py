"""The commands ``topokit analyze`` and ``topokit list measures``."""

import json

import numpy as np
import pytest

from topokit.cli import main
from topokit.experiments.record import History
from topokit.graph import LayerGraph
from topokit.graph.convert import save_topology
from topokit.measures import (
    CHANGE_MEASURES,
    LAYER_MEASURES,
    NETWORK_MEASURES,
    TIERS,
    measure,
    power_law_of,
)
from topokit.measures.nulls import NULL_MEASURES
from topokit.measures.scalefree import bootstrap_stream, p_in_words

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Sparse")]

SMALL = ["--set", "epochs=3", "--set", "model.widths=[64,40,10]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyzed") / "run"
    assert main(["train", "set_mlp_digits", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def layers(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.random((30, 40)) < 0.2
    path = tmp_path / "layers.npz"
    save_topology(path, {"fc1": LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)})
    return path


def found(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_measure_of_a_run_can_be_recomputed(run, capsys):
    everything = found(capsys, "analyze", run, "--measures", "all", "--bootstrap", 5, "--json")
    names = {row["measure"].split(".")[0] for row in everything["measures"]}
    assert names == {*LAYER_MEASURES, *NETWORK_MEASURES, *CHANGE_MEASURES}


@pytest.mark.parametrize("epoch", [0, 1, 2, -1])
def test_a_finished_run_gives_the_numbers_it_recorded(run, capsys, epoch):
    history = History.load(run)
    again = found(capsys, "analyze", run, "--epoch", epoch, "--json", "--bootstrap", 0)
    at = again["epoch"]
    assert at == epoch % 3
    recorded = history.measures[history.measures["epoch"] == at]
    recorded = {(row.layer, row.measure): row.value for row in recorded.itertuples()}
    for row in again["measures"]:
        value = np.nan if row["value"] is None else row["value"]
        expected = recorded[row["layer"], row["measure"]]
        assert value == pytest.approx(expected, nan_ok=True, abs=1e-9)
    rest = {name for layer, name in recorded} - {row["measure"] for row in again["measures"]}
    assert rest <= {"explored_fraction"}
    arguments = ["--measures", "explored_fraction,components", "--epoch", epoch, "--json"]
    explored = found(capsys, "analyze", run, *arguments)["measures"]
    for row in explored:
        if row["measure"] == "explored_fraction":
            assert row["value"] == pytest.approx(recorded[row["layer"], "explored_fraction"])
    assert {row["measure"] for row in explored} == {"explored_fraction", "components"}


def test_explored_edges_of_a_run_that_rewires_within_epochs(tmp_path, capsys):
    """The recorded value is given, and none is made up from the graphs of epochs alone."""
    more = ["--set", "rule.every=2", "--set", 'measures.names=["fan_in"]']
    more += ["--set", 'measures.chosen=["explored_fraction"]']
    assert main(["train", "set_mlp_digits", "--out", str(tmp_path / "run"), *SMALL, *more]) == 0
    history = History.load(tmp_path / "run")
    recorded = history.measures.query("measure == 'explored_fraction'")
    assert sorted(set(recorded["epoch"])) == [0, 2]
    arguments = ["analyze", tmp_path / "run", "--measures", "explored_fraction"]
    for epoch in (0, -1):
        rows = found(capsys, *arguments, "--epoch", epoch, "--json")["measures"]
        expected = recorded[recorded["epoch"] == epoch % 3]
        assert {row["layer"]: row["value"] for row in rows} == pytest.approx(
            dict(zip(expected["layer"], expected["value"], strict=True))
        )
    assert main([*map(str, arguments), "--epoch", "1"]) == 2
    words = capsys.readouterr().err
    assert "explored_fraction of epoch 1 was not recorded, and cannot be computed" in words
    assert "epochs with a recorded value: 0, 2" in words


def test_edge_ages_count_epochs(run, capsys):
    history = History.load(run)
    for epoch in range(3):
        arguments = ["--measures", "edge_age", "--epoch", epoch, "--json"]
        rows = found(capsys, "analyze", run, *arguments)["measures"]
        for row in rows:
            ages = history.ages(epoch, row["layer"])
            assert row["value"] == pytest.approx(ages.mean())
            assert 0 <= row["value"] <= epoch
    assert min(row["value"] for row in rows) > 0


def test_deep_reports_and_null_scores(layers, capsys):
    arguments = ["--measures", "fan_in.mean", "--deep", "--nulls", 3, "--bootstrap", 10, "--json"]
    answer = found(capsys, "analyze", layers, *arguments)
    assert answer["tier"] in TIERS
    assert [row["side"] for row in answer["degrees"]] == ["fan_in", "fan_out"]
    assert set(answer["degrees"][0]["aic"]) >= {"binomial", "zipf_mandelbrot"}
    assert answer["degrees"][0]["fit"]["comparisons"]["lognormal"].keys() >= {"p_value"}
    assert [row["measure"] for row in answer["nulls"]] == list(NULL_MEASURES)
    assert found(capsys, "analyze", layers, *arguments) == answer
    assert main(["analyze", str(layers), "--deep", "--nulls", "3", "--bootstrap", "10"]) == 0
    text = capsys.readouterr().out
    for words in ("fc1 fan-out", "tier: ", "all layers and sides together: ", "null_mean"):
        assert words in text


def test_null_models_are_named_and_verdicts_are_words(layers, tmp_path, capsys):
    drawn = {}
    for model in ("exact", "erdos_renyi"):
        words = ["analyze", layers, "--measures", "fan_in", "--nulls", 3, "--null-model", model]
        drawn[model] = found(capsys, *words, "--json")["nulls"]
    assert drawn["exact"] != drawn["erdos_renyi"]
    assert main([*map(str, words)]) == 0
    text = capsys.readouterr().out
    assert "random graphs with the same number of edges" in text
    assert "at least 0.5 with 3 samples; 11 tests" in text
    save_topology(tmp_path / "full.npz", {"fc1": LayerGraph.from_edge_ids(range(6), (2, 3))})
    assert main(["analyze", str(tmp_path / "full.npz")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["power_law.verdict", "complete"] in rows
    assert ["evenness_fan_in.entropy", "0"] in rows


@pytest.mark.parametrize("more", [[], ["--nulls", "2"], ["--measures", "power_law,butterflies"]])
def test_one_seed_gives_one_bootstrap_p_whatever_else_is_asked(tmp_path, capsys, more):
    rng = np.random.default_rng(0)
    path, topology = tmp_path / "tails.npz", {}
    for name in ("fc1", "fc2"):
        mask = rng.random((80, 80)) < rng.pareto(1.5, 80).clip(0.05, 12)[:, None] / 25
        topology[name] = LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)
    save_topology(path, topology)
    words = ["analyze", path, "--bootstrap", "30", "--seed", "3", *more, "--json"]
    plain, deep = found(capsys, *words), found(capsys, *words, "--deep")
    fits = [row["fit"] for row in deep["degrees"]]
    said = [p_in_words(fit["p_value"], 30) for fit in fits]
    assert len(set(said)) > 1
    for verdict, p in zip(plain["verdicts"], said, strict=True):
        assert f"rejected, {p})" in verdict["sentence"]
    for i, (layer, side) in enumerate((n, s) for n in topology for s in ("fan_in", "fan_out")):
        stream = bootstrap_stream(3, list(topology).index(layer), side)
        fit = power_law_of(topology[layer], side, bootstrap=30, rng=stream)
        assert fit.p_value == fits[i]["p_value"]


def test_measures_that_need_a_run_say_so(layers, capsys):
    assert main(["analyze", str(layers), "--measures", "explored_fraction"]) == 2
    assert "explored_fraction needs the epochs of a run directory" in capsys.readouterr().err


def test_the_list_shows_scope_range_cost_and_paper(capsys):
    rows = found(capsys, "list", "measures", "--json")
    assert all(row["range"] and row["cost"] and row["paper"] for row in rows)
    assert {row["scope"] for row in rows} == {"layer", "network", "change"}


def test_measures_agree_with_the_functions(layers, capsys):
    answer = found(capsys, "analyze", layers, "--json", "--bootstrap", 0)
    from topokit.graph.convert import load_topology

    frame = measure(load_topology(layers))
    assert [row["measure"] for row in answer["measures"]] == frame["measure"].tolist()

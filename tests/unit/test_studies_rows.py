"""Rows of single runs: what a study keeps of each run until others are added."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from topokit.graph import LayerGraph

FOLDER = Path(__file__).parents[2] / "figures" / "studies"
KEYS = ["arm", "seed"]


@pytest.fixture(scope="module")
def rows():
    spec = importlib.util.spec_from_file_location("rows", FOLDER / "rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_rows(arm, seed, done, value):
    return pd.DataFrame(
        [{"arm": arm, "seed": seed, "done": done, "epoch": e, "value": value} for e in range(done)]
    )


def values(table):
    return table.groupby(KEYS)["value"].unique().map(list).to_dict()


def test_runs_are_added_and_longer_ones_replace_shorter_ones(rows, tmp_path):
    path = tmp_path / "table.csv"
    first = pd.concat([run_rows("set", 0, 3, 1.0), run_rows("set", 1, 3, 2.0)])
    rows.merged(path, first, KEYS)
    text = path.read_text()
    again = rows.merged(path, first, KEYS)
    assert path.read_text() == text
    assert values(again) == {("set", 0): [1], ("set", 1): [2]}
    assert rows.merged(path, first.iloc[:0], KEYS).equals(again)  # no folder of runs at hand
    more = pd.concat([
        run_rows("set", 0, 2, 9.0),  # shorter: it does not replace
        run_rows("set", 1, 5, 3.0),  # longer: it does, with all its rows
        run_rows("static", 0, 3, 4.0),
    ])  # fmt: skip
    found = rows.merged(path, more, KEYS)
    assert values(found) == {("set", 0): [1], ("set", 1): [3], ("static", 0): [4]}
    assert found.groupby(KEYS).size().tolist() == [3, 5, 3]
    equal = rows.merged(path, run_rows("set", 0, 3, 8.0), KEYS)
    assert values(equal)["set", 0] == [8]


@pytest.mark.parametrize("name", ["tutorial_loss", "mask_or_weights", "rbm_degrees", "full_size"])
def test_runs_of_a_small_variant_are_refused(name, rows, tmp_path):
    from topokit.experiments.study import load_study

    study = load_study(name)
    planned = {run.name: run for run in study.runs()}
    small = next(run for run in load_study(name, quick=True).runs() if run.name in planned)
    path = tmp_path / "runs" / small.name
    path.mkdir(parents=True)
    (path / "DONE").touch()
    (path / "config.toml").write_text(planned[small.name].config.to_toml())
    assert [found for _, found in rows.finished(study, [tmp_path])] == [path]
    (path / "config.toml").write_text(small.config.to_toml())
    with pytest.raises(SystemExit, match=r"epochs and .* as planned, got one of .* --quick are no"):
        list(rows.finished(study, [tmp_path]))


@pytest.mark.parametrize(
    ("level", "epochs"),
    [(0.1, 0.0), (0.3, 0.5), (0.5, 1.0), (0.6, 2.5), (0.7, 3.0), (0.71, np.nan)],
)
def test_epochs_until_an_accuracy(rows, level, epochs):
    found = rows.epochs_until([0.5, 0.5, 0.7, 0.2], level, chance=0.1)
    assert found == pytest.approx(epochs, nan_ok=True)


def test_seeds_are_whole_when_all_conditions_have_finished(rows):
    table = pd.DataFrame(
        [("a", "set", 0), ("a", "static", 0), ("a", "set", 1), ("b", "static", 1), ("b", "set", 1)],
        columns=["data", "arm", "seed"],
    )
    kept = rows.whole_seeds(table, ["set", "static"], ["data"])
    assert kept.groupby("data")["seed"].unique().map(list).to_dict() == {"a": [0], "b": [1]}
    with pytest.raises(SystemExit, match="no seed is whole"):
        rows.whole_seeds(table, ["set", "rigl"], ["data"])
    with pytest.raises(SystemExit, match="expected finished runs"):
        rows.whole_seeds(table[:0], ["set"], ["data"])
    assert len(rows.whole_seeds(table, ["set", "static"], [])) == 5
    planned = {"a": ["set"], "b": ["set", "static", "rigl"]}
    assert rows.whole_seeds(table, planned.__getitem__, ["data"])["data"].tolist() == [
        "a",
        "a",
        "a",
    ]


def test_a_row_says_what_the_fit_says(rows):
    rng = np.random.default_rng(0)
    graph = LayerGraph.from_edge_ids(rng.choice(40 * 50, 300, replace=False), (40, 50))
    row = rows.degree_row(graph, "fan_out", bootstrap=20)
    assert row["n"] == 50
    assert row["mean"] == pytest.approx(6)
    assert row["verdict"] == "random"
    assert row["replicates"] == 20
    assert row["dispersion"] == pytest.approx(graph.fan_out.var(ddof=1) / 6, rel=0.05)
    hub = LayerGraph.from_edge_ids(np.r_[np.arange(50), 50 * np.arange(1, 40)], (40, 50))
    row = rows.degree_row(hub, "fan_in", bootstrap=20)
    assert row["p"] != "0"
    tail = np.sort(hub.fan_in[hub.fan_in >= row["xmin"]])
    support = np.arange(row["xmin"], 51)  # at most all 50 inputs
    law = np.cumsum(support ** -row["alpha"]) / np.sum(support ** -row["alpha"])
    found = np.searchsorted(tail, support, side="right") / len(tail)
    assert row["ks"] == pytest.approx(np.abs(found - law).max(), rel=1e-4)


@pytest.mark.parametrize("study", ["full_size_300"])
def test_committed_rows_are_of_planned_runs(study):
    from topokit.experiments.study import load_study

    planned = {(r.arm, r.config.data.name, r.config.seed): r for r in load_study(study).runs()}
    for part in ("degrees", "layers", "accuracy"):
        table = pd.read_csv(FOLDER / f"{study}_{part}.csv")
        for key, run in table.groupby(["arm", "data", "seed"]):
            assert run["planned"].unique() == [planned[key].config.epochs]
            assert run["epoch"].max() == run["done"].iloc[0] - 1
            keys = [name for name in ("epoch", "layer", "side") if name in run]
            assert not run.duplicated(keys).any()
    keys = ["arm", "data", "seed", "epoch"]
    histograms = pd.read_csv(FOLDER / f"{study}_histograms.csv")
    histograms["ends"] = histograms["fan_in"] * histograms["units"]
    of_fc1 = pd.read_csv(FOLDER / f"{study}_degrees.csv").query("layer == 'fc1'")
    of_fc1 = of_fc1[of_fc1["side"] == "fan_in"].set_index(keys)
    for key, part in histograms.groupby(keys):
        assert part["units"].sum() == of_fc1.loc[key, "n"]
        ends = of_fc1.loc[key, "n"] * of_fc1.loc[key, "mean"]
        assert part["ends"].sum() == pytest.approx(ends, rel=1e-4)  # five digits
        assert part["fan_in"].max() == of_fc1.loc[key, "maximum"]


def test_committed_runs_of_the_locality_study_are_whole_seeds():
    from topokit.experiments.study import load_study

    table = pd.read_csv(FOLDER / "locality_runs.csv")
    keys = ["data", "shuffled", "density", "arm", "seed"]
    assert not table.duplicated(keys).any()
    study = load_study("locality")
    assert set(table["arm"]) == set(study.arms)
    counts = table.groupby("seed").size()
    assert (counts == len(study.runs()) // len(study.seeds)).all()
    # paired: the same seed has the same graphs on original and on shuffled pixels
    gaps = table.groupby([key for key in keys if key != "shuffled"])["normalized_spectral_gap"]
    assert (gaps.max() == gaps.min()).all()

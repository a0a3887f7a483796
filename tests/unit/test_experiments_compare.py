"""Groups, intervals and pairs of runs whose numbers are known."""

import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from topokit.cli.studies import _note_runs
from topokit.experiments import compare as comparing
from topokit.experiments.compare import compare, run_rows
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History, Recording, best_epoch
from topokit.experiments.runs import run
from topokit.experiments.statistics import mean_interval
from topokit.experiments.study import study_from
from topokit.experiments.sweep import sweep
from topokit.graph import LayerGraph
from topokit.plots.across import arms_side_by_side
from topokit.plots.report import write_report

SETTINGS = {"epochs": 2, "batch_size": 300, "model.widths": [64, 20, 10]}
ARMS = [{"name": "set"}, {"name": "static", "settings": {"rule.name": "static"}}]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    study = study_from(
        {
            "study": {"name": "s", "recipe": "set_mlp_digits", "seeds": [0, 1, 2]},
            "settings": SETTINGS,
            "arms": ARMS,
        }
    )
    with ThreadPoolExecutor(1) as executor:
        return sweep(study, tmp_path_factory.mktemp("sweeps") / "s", executor=executor)


def test_groups_are_the_arms_of_a_sweep(swept, rng):
    found = compare([swept.directory], rng=rng)
    assert found.groups["group"].tolist() == ["set", "static"]
    assert found.groups["n"].tolist() == [3, 3]
    frame = swept.frame
    final = frame[(frame["measure"] == "test_accuracy") & (frame["epoch"] == 1)]
    means = final.groupby("arm")["value"].mean()
    assert found.groups["metric"].tolist() == ["test_accuracy"] * 2
    assert found.groups["value"].tolist() == pytest.approx(means.tolist())
    for arm, low, high in found.groups[["group", "low", "high"]].itertuples(index=False):
        assert mean_interval(final[final["arm"] == arm]["value"])[3:] == pytest.approx((low, high))


def test_measures_have_intervals_over_runs(swept, rng):
    name = "fc1/spectral_gap"
    found = compare([swept.directory], measures=[name], rng=rng)
    for row in found.groups.to_dict("records"):
        expected = mean_interval(found.runs[found.runs["group"] == row["group"]][name])
        assert (row[name], row[f"{name}.low"], row[f"{name}.high"]) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )
        assert row[f"{name}.low"] < row[name] < row[f"{name}.high"]


def test_default_measures_that_no_run_recorded_are_left_out(tmp_path, rng):
    config = load_recipe("set_mlp_digits").override(
        ["epochs=1", "model.widths=[64,9,10]", "batch_size=500", "measures.names=['fan_in']"]
    )
    run(config, tmp_path / "run")
    found = compare(tmp_path / "run", rng=rng)
    assert "fc1/fan_in.dispersion" in found.groups
    assert not any("normalized_spectral_gap" in name for name in [*found.groups, *found.runs])
    with pytest.raises(ValueError, match="no run has recorded 'normalized_spectral_gap'"):
        compare(tmp_path / "run", measures=["fc1/normalized_spectral_gap"], rng=rng)


def test_pairs_share_seeds(swept, rng):
    (row,) = compare([swept.directory], rng=rng).pairs.to_dict("records")
    rows = run_rows([swept.directory]).set_index(["group", "seed"])["value"]
    difference = (rows["set"] - rows["static"]).mean()
    assert (row["group"], row["other"], row["n"]) == ("set", "static", 3)
    assert row["difference"] == pytest.approx(difference)
    assert row["adjusted_p"] == row["t_p"] or np.isnan(row["t_p"])


def test_rows_say_how_runs_ended(swept):
    names = ["fc1/fan_in.mean", "fan_in.mean", "fc1/nothing"]
    row = run_rows([swept.directory / "runs/set-seed1"], measures=names).iloc[0]
    history = History.load(swept.directory / "runs/set-seed1")
    assert row["value"] == history.epochs["test_accuracy"].iloc[-1]
    assert row["best"] == history.epochs["test_accuracy"].max()
    assert row["best_epoch"] == history.epochs["test_accuracy"].argmax()
    graphs = history.topology(-1)
    assert row["edges"] == sum(graph.n_edges for graph in graphs.values())
    assert row["fc1/fan_in.mean"] == pytest.approx(graphs["fc1"].fan_in.mean())
    layers = [graph.fan_in.mean() for graph in graphs.values()]
    assert row["fan_in.mean"] == pytest.approx(np.mean(layers))
    assert np.isnan(row["fc1/nothing"])
    one = run_rows(swept.directory / "runs/set-seed1", measures=names)
    pd.testing.assert_frame_equal(
        one, run_rows([swept.directory / "runs/set-seed1"], measures=names)
    )


@pytest.mark.parametrize("undefined", ["fc1", "fc2"])
def test_a_mean_over_layers_is_undefined_where_one_is(undefined):
    rows = [(epoch, layer, "alpha", 2.0 + epoch) for epoch in (0, 5) for layer in ("fc1", "fc2")]
    rows += [(5, "network", "alpha", 9.0), (5, "fc1", "other", 7.0)]
    frame = pd.DataFrame(rows, columns=["epoch", "layer", "measure", "value"])
    assert comparing._measured(frame, "alpha") == 7
    frame.loc[(frame["layer"] == undefined) & (frame["epoch"] == 5), "value"] = np.nan
    assert np.isnan(comparing._measured(frame, "alpha"))
    assert np.isnan(comparing._measured(frame, f"{undefined}/alpha"))
    other = "fc2" if undefined == "fc1" else "fc1"
    assert comparing._measured(frame, f"{other}/alpha") == 7


def test_runs_on_their_own_are_grouped_by_what_differs(tmp_path, rng):
    base = load_recipe("set_mlp_digits").override(["epochs=1", "model.widths=[64,20,10]"])
    for seed in (0, 1):
        for rule in ("set", "static"):
            config = base.override([f"seed={seed}", f"rule.name={rule}"])
            run(config, tmp_path / f"{rule}{seed}")
    found = compare(sorted(tmp_path.iterdir()), rng=rng)
    assert len(found.groups) == 2
    assert "rule.name=set" in found.groups["group"][0]
    assert found.groups["n"].tolist() == [2, 2]
    alone = compare([tmp_path / "set0", tmp_path / "set1"], rng=rng)
    assert alone.groups[["group", "n"]].values.tolist() == [["all", 2]]


def test_many_groups_are_compared_with_the_first(swept, rng, monkeypatch):
    monkeypatch.setattr("topokit.experiments.compare.ALL_PAIRS", 1)
    pairs = compare([swept.directory], rng=rng).pairs
    assert pairs[["group", "other"]].values.tolist() == [["set", "static"]]


def test_one_seed_has_no_interval_and_no_pair(swept, rng):
    paths = [swept.directory / "runs" / name for name in ("set-seed0", "static-seed0")]
    found = compare(paths, rng=rng)
    assert found.pairs.empty
    assert found.groups["low"].isna().all()


def test_a_figure_with_all_runs(swept, rng):
    found = compare([swept.directory], rng=rng)
    ax = arms_side_by_side(found.runs, "value", arm="group", ax=Figure().add_subplot())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["set", "static"]
    assert ax.get_xlabel() == "value"
    for bar, row in zip(ax.containers, found.groups.itertuples(), strict=True):
        drawn = bar.lines[2][0].get_segments()[0][:, 0]
        assert drawn == pytest.approx([row.low, row.high])


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two rules and two seeds of a small Boltzmann machine, which has no accuracy."""
    folder = tmp_path_factory.mktemp("machines")
    words = ["data.name=digits", "model.widths=[64,12]", "topology.epsilon=3", "epochs=3"]
    base = load_recipe("set_rbm_mnist").override([*words, "batch_size=300", "data.n_train=600"])
    for seed in (0, 1):
        for rule in ("set", "static"):
            run(base.override([f"seed={seed}", f"rule.name={rule}"]), folder / f"{rule}{seed}")
    return sorted(folder.iterdir())


def test_models_without_labels_are_compared_by_their_loss(machines, rng):
    found = compare(machines, rng=rng)
    losses = [History.load(path).epochs["test_loss"].to_numpy() for path in machines]
    assert found.runs["metric"].tolist() == ["test_loss"] * 4
    assert found.runs["value"].tolist() == [loss[-1] for loss in losses]
    assert found.runs["best"].tolist() == [loss.min() for loss in losses]
    assert found.runs["best_epoch"].tolist() == [loss.argmin() for loss in losses]
    assert np.isfinite(found.groups[["value", "low", "high", "best", "edges"]].to_numpy()).all()
    (pair,) = found.pairs.to_dict("records")
    assert pair["metric"] == "test_loss"
    ends = [loss[-1] for loss in losses]
    assert pair["difference"] == pytest.approx((ends[0] + ends[1] - ends[2] - ends[3]) / 2)


def test_groups_of_different_metrics_are_not_paired(machines, swept, tmp_path, rng, capsys):
    from topokit.cli import main

    paths = [swept.directory / "runs" / f"set-seed{seed}" for seed in (0, 1)] + machines[:2]
    found = compare(paths, rng=rng)
    assert sorted(found.groups["metric"]) == ["test_accuracy", "test_loss"]
    assert found.pairs.empty
    assert main(["compare", *map(str, paths), "--out", str(tmp_path / "x.png")]) == 2
    assert "expected runs of one metric in a figure" in capsys.readouterr().err


def test_the_best_epoch():
    nan = float("nan")
    frame = pd.DataFrame({"test_accuracy": [0.5, nan, 0.7, 0.7], "test_loss": [4.0, 1.0, 3.0, 2.0]})
    assert best_epoch(frame) == 2
    assert best_epoch(frame.assign(test_accuracy=nan)) == 1
    assert best_epoch(frame.set_axis([7, 8, 9, 10])) == 2
    with pytest.raises(ValueError, match="an epoch with a test accuracy or loss, got 0 rows"):
        best_epoch(frame[:0])


def test_nothing_to_compare(tmp_path, rng):
    with pytest.raises(ValueError, match="at least one run or sweep, got none"):
        compare([], rng=rng)
    with pytest.raises(FileNotFoundError, match="expected a run directory"):
        compare([tmp_path / "none"], rng=rng)


def test_a_run_counts_once_and_what_weakens_a_comparison_is_noted(swept, tmp_path, capsys, rng):
    from topokit.cli import main

    one = swept.directory / "runs" / "set-seed0"
    for paths in ([one, one], [swept.directory, one], [one, one.parent / ".." / "runs" / one.name]):
        with pytest.raises(ValueError, match=r"expected each run once, got .*set-seed0 twice"):
            compare(paths, rng=rng)
    config = load_recipe("set_mlp_digits").override(["epochs=2", "model.widths=[64,20,10]"])

    def stop(epoch, frame):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "one", progress=stop)
    assert main(["compare", str(tmp_path / "one")]) == 0
    notes = capsys.readouterr().err.replace("\n", " ")
    assert "one is unfinished: its values are those of 1 of 2 epochs" in notes


def test_runs_of_one_seed_are_not_taken_for_independent_ones(swept, tmp_path, capsys, rng):
    from topokit.cli import main

    one, copy = swept.directory / "runs" / "set-seed0", tmp_path / "copy"
    shutil.copytree(one, copy)
    words = r"got .*set-seed0 and .*copy, both with seed 0 in 'all runs'.* leave one out"
    with pytest.raises(ValueError, match=words.replace("all runs", "all")):
        compare([one, copy], rng=rng)
    with pytest.raises(ValueError, match="both with seed 0"):
        compare([one, one.parent / "static-seed0", copy], rng=rng)
    assert len(run_rows([one, copy])) == 2  # a table of runs has no intervals
    with pytest.raises(ValueError, match=words):
        write_report([one, copy], tmp_path / "report.html")
    assert main(["report", str(one), str(copy), "--out", str(tmp_path / "report.html")]) == 2
    assert "leave one out" in capsys.readouterr().err.replace("\n", " ")
    recording = Recording()
    recording(0, {"fc1": LayerGraph.from_edge_ids([0, 1, 2], (2, 3))})
    with pytest.raises(ValueError, match="both with one record"):
        write_report([recording, recording], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command(swept, tmp_path, capsys):
    import json

    from topokit.cli import main

    out = tmp_path / "compare.png"
    words = ["compare", str(swept.directory), "--measures", "fc1/fan_in.mean", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "value of group minus other" in printed
    assert "test_accuracy" in printed
    assert out.stat().st_size > 5000
    assert main([*words[:4], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["group"] for row in found["groups"]] == ["set", "static"]
    assert pd.DataFrame(found["runs"])["fc1/fan_in.mean"].gt(0).all()
    assert main(["compare", str(tmp_path / "none")]) == 2


@pytest.mark.slow
def test_a_report_of_a_sweep(swept, tmp_path, capsys, monkeypatch):
    from topokit.cli import main

    monkeypatch.setattr("topokit.plots.report._gallery", lambda *_: [])  # tested elsewhere
    small = tmp_path / "sweep"
    (small / "runs").mkdir(parents=True)
    (small / "study.toml").touch()
    for name in ("set-seed0", "static-seed0"):
        (small / "runs" / name).symlink_to(swept.directory / "runs" / name)
    assert main(["report", str(small), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "set-seed0" in page
    assert "static-seed0" in page


@pytest.mark.slow
def test_comparing_never_loads_torch(swept):
    code = f"""
import sys
from topokit.cli import main
assert main(["compare", {str(swept.directory)!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_runs_that_end_with_nan_are_not_counted(swept, rng, monkeypatch, capsys):
    """Such as a model without labels that diverges after its last checked step."""
    histories, rows = comparing._rows([swept.directory], list(comparing.MEASURES))
    rows.loc[(rows["group"] == "set") & (rows["seed"] == 1), "value"] = np.nan
    monkeypatch.setattr(comparing, "_rows", lambda *_: (histories, rows))
    found = compare([swept.directory], rng=rng)
    assert found.groups["n"].tolist() == [2, 3]
    left = rows[(rows["group"] == "set") & rows["value"].notna()]["value"]
    assert found.groups["value"][0] == pytest.approx(left.mean())
    assert found.pairs["n"].tolist() == [2]
    _note_runs(found.runs)
    assert "set-seed1 ended with a test_accuracy of nan: it is left out" in capsys.readouterr().err


def test_runs_of_one_seed_with_other_samples_are_named(tmp_path, rng, caplog):
    """As after a change of a file, between the runs of one rule and those of another."""
    table = tmp_path / "points.csv"
    data = np.hstack([rng.random((60, 8)).round(4), rng.integers(0, 2, (60, 1))])
    plan = [("a", "set", 0), ("b", "set", 1), ("c", "static", 0), ("d", "static", 0)]
    for name, rule, seed in plan:
        data[0, 0] += name == "d"
        header = ",".join([*"stuvwxyz", "label"])
        np.savetxt(table, data, delimiter=",", header=header, comments="", fmt="%.4f")
        settings = ["epochs=1", "model.widths=[8,6,2]", "batch_size=20", "measures.names=[]"]
        settings += ["data.name=csv", f"data.path={table}", f"rule.name={rule}", f"seed={seed}"]
        run(load_recipe("set_mlp_digits").override(settings), tmp_path / name)
    assert len(History.load(tmp_path / "a").samples) == len(History.load(tmp_path / "d").samples)
    with caplog.at_level(logging.WARNING, logger="topokit.experiments"):
        compare([tmp_path / name for name in "abc"], rng=rng)
        assert caplog.messages == []
        compare([tmp_path / name for name in "abd"], rng=rng)
    (words,) = caplog.messages
    assert words.startswith("a and d have the same settings of the data and the same seed, but")

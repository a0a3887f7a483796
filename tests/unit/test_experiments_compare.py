"""Groups, intervals and pairs of runs whose numbers are known."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from topokit.experiments.compare import compare, run_rows
from topokit.experiments.config import load_recipe
from topokit.experiments.record import History
from topokit.experiments.runs import run
from topokit.experiments.study import study_from
from topokit.experiments.sweep import sweep
from topokit.plots.across import arms_side_by_side

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
    assert found.groups["accuracy"].tolist() == pytest.approx(means.tolist())
    assert (found.groups["low"] <= found.groups["accuracy"]).all()
    assert (found.groups["high"] >= found.groups["accuracy"]).all()


def test_pairs_share_seeds(swept, rng):
    (row,) = compare([swept.directory], rng=rng).pairs.to_dict("records")
    rows = run_rows([swept.directory]).set_index(["group", "seed"])["accuracy"]
    difference = (rows["set"] - rows["static"]).mean()
    assert (row["group"], row["other"], row["n"]) == ("set", "static", 3)
    assert row["difference"] == pytest.approx(difference)
    assert row["adjusted_p"] == row["t_p"] or np.isnan(row["t_p"])


def test_rows_say_how_runs_ended(swept):
    names = ["fc1/fan_in.mean", "fan_in.mean", "fc1/nothing"]
    row = run_rows([swept.directory / "runs/set-seed1"], measures=names).iloc[0]
    history = History.load(swept.directory / "runs/set-seed1")
    assert row["accuracy"] == history.epochs["test_accuracy"].iloc[-1]
    assert row["best"] == history.epochs["test_accuracy"].max()
    graphs = history.topology(-1)
    assert row["links"] == sum(graph.n_edges for graph in graphs.values())
    assert row["fc1/fan_in.mean"] == pytest.approx(graphs["fc1"].fan_in.mean())
    layers = [graph.fan_in.mean() for graph in graphs.values()]
    assert row["fan_in.mean"] == pytest.approx(np.mean(layers))
    assert np.isnan(row["fc1/nothing"])


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
    ax = arms_side_by_side(found.runs, "accuracy", arm="group", ax=Figure().add_subplot())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["set", "static"]
    assert ax.get_xlabel() == "accuracy"


def test_nothing_to_compare(tmp_path, rng):
    with pytest.raises(ValueError, match="at least one run or sweep, got none"):
        compare([], rng=rng)
    with pytest.raises(FileNotFoundError, match="expected a run directory"):
        compare([tmp_path / "none"], rng=rng)


def test_the_command(swept, tmp_path, capsys):
    import json

    from topokit.cli import main

    out = tmp_path / "compare.png"
    words = ["compare", str(swept.directory), "--measures", "fc1/fan_in.mean", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "accuracy of group minus other" in printed
    assert out.stat().st_size > 5000
    assert main([*words[:4], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["group"] for row in found["groups"]] == ["set", "static"]
    assert pd.DataFrame(found["runs"])["fc1/fan_in.mean"].gt(0).all()
    assert main(["compare", str(tmp_path / "none")]) == 2


@pytest.mark.slow
def test_a_report_of_a_sweep(swept, tmp_path, capsys):
    from topokit.cli import main

    small = tmp_path / "sweep"
    (small / "runs").mkdir(parents=True)
    (small / "study.toml").touch()
    for name in ("set-seed0", "static-seed0"):
        (small / "runs" / name).symlink_to(swept.directory / "runs" / name)
    assert main(["report", str(small), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "set-seed0" in page
    assert "static-seed0" in page


def test_comparing_never_loads_torch(swept):
    code = f"""
import sys
from topokit.cli import main
assert main(["compare", {str(swept.directory)!r}]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

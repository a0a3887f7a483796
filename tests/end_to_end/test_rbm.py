"""A run without labels, from recipe to frames, figures and page; real sets where they are."""

import numpy as np
import pandas as pd
import pytest
import torch

from topokit.cli.console import print_summary, run_summary
from topokit.experiments.config import load_recipe
from topokit.experiments.runs import resume, run
from topokit.plots import HISTORY_PLOTS
from topokit.plots.report import write_report
from topokit.rules import RULES

pytestmark = pytest.mark.slow

SMALL = [
    "data.name=digits", "model.widths=[64,40]", "epochs=5", "batch_size=50", "threads=1",
    "optimizer.lr=0.05", "measures.names=['fan_in']",
]  # fmt: skip


def small(*others):
    return load_recipe("set_rbm_mnist").override([*SMALL, *others])


def without_time(frame):
    return frame.drop(columns=["run", "seconds"])


def test_a_run_without_labels_has_errors_and_no_accuracy(tmp_path):
    history = run(small(), tmp_path / "run")
    epochs = history.epochs
    assert epochs["test_accuracy"].isna().all()
    assert epochs[["train_loss", "test_loss"]].to_numpy().max() < 0.3
    assert epochs["test_loss"].iloc[-1] < epochs["test_loss"].iloc[0]
    counts = [history.topology(epoch)["fc1"].n_edges for epoch in range(5)]
    assert counts == [11 * 104] * 5
    assert not np.array_equal(
        history.topology(0)["fc1"].edge_ids, history.topology(1)["fc1"].edge_ids
    )


@pytest.mark.parametrize("option", ["cd_steps=3", "persistent=true"])
def test_a_resumed_run_equals_one_never_interrupted(tmp_path, option):
    config = small(f"model.{option}")
    whole = run(config, tmp_path / "whole")

    def interrupt(epoch, frame):
        if epoch.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", progress=interrupt)
    parts = resume(tmp_path / "parts")
    pd.testing.assert_frame_equal(without_time(parts.epochs), without_time(whole.epochs))
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    assert torch.equal(states[0]["dropout"], states[1]["dropout"])
    assert states[0]["model"].keys() == states[1]["model"].keys()
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_set_and_static_are_one_until_the_first_rewiring(tmp_path):
    moving = run(small(), tmp_path / "set").epochs
    still = run(small("rule.name=static"), tmp_path / "static").epochs
    pd.testing.assert_frame_equal(without_time(moving.head(1)), without_time(still.head(1)))
    assert moving["test_loss"].iloc[-1] != still["test_loss"].iloc[-1]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_rewires_it(tmp_path, rule):
    history = run(small(f"rule.name={rule}", "epochs=3"), tmp_path / rule)
    assert history.epochs["test_loss"].notna().all()
    graphs = [history.topology(epoch)["fc1"].edge_ids for epoch in (0, 2)]
    assert np.array_equal(*graphs) == (rule == "static")


def test_only_models_that_learn_without_labels_take_data_without(tmp_path, data_dir):
    config = load_recipe("set_mlp_digits").override(
        ["data.name=mushrooms", "model.widths=[112,30,2]"]
    )
    message = "expected a data set with labels, got 'mushrooms', which has none; set_rbm learns"
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path / "run", data_dir=data_dir)


def test_more_than_one_layer_is_refused_before_any_work(tmp_path):
    config = small("model.widths=[64,40,10]")
    with pytest.raises(ValueError, match="expected one layer"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_without_labels_is_shown_by_its_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("topokit.plots.report.DPI", 20)
    history = run(small(), tmp_path / "run")
    summary = run_summary(history, tmp_path / "run")
    assert np.isnan(summary["final_test_accuracy"])
    errors = history.epochs["test_loss"]
    assert summary["final_test_loss"] == errors.iloc[-1]
    assert summary["best_epoch"] == errors.argmin()
    print_summary(history, summary)
    shown = capsys.readouterr().out
    assert f"test error {errors.iloc[-1]:.4f}, smallest at epoch" in shown
    assert "nan" not in shown

    for plot in (HISTORY_PLOTS["accuracy_over_epochs"], HISTORY_PLOTS["accuracy_against_measure"]):
        ax = plot(history)
        assert "test error" in (ax.get_ylabel(), ax.get_xlabel())
        assert ax.get_title().startswith("Test error")
    page = write_report([history], tmp_path / "page.html", bootstrap=0).read_text(encoding="utf-8")
    assert f"It ended at a test error of {errors.iloc[-1]:.4f}" in page
    assert f"<td>{errors.min():.4f}</td>" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_set_reconstructs_images_better_than_a_static_topology(tmp_path, data_dir, name):
    """The study in figures/studies, cut to 15 epochs: five seeds of 60 differ by 30 to 40 %."""
    config = load_recipe("set_rbm_mnist").override(
        [f"data.name={name}", "data.n_train=6000", "data.n_test=1000", "epochs=15", "threads=1",
         "optimizer.lr=0.1", "measures.names=['fan_in']", "measures.every=20"]
    )  # fmt: skip
    errors = {
        rule: run(
            config.override([f"rule.name={rule}"]), tmp_path / rule, data_dir=data_dir
        ).epochs["test_loss"]
        for rule in ("set", "static")
    }
    assert errors["set"].iloc[0] == errors["static"].iloc[0]
    assert errors["set"].iloc[-1] < 0.92 * errors["static"].iloc[-1] < 0.05

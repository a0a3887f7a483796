"""What is said of units under SET, from a network in which only some units send anything."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from topokit import data_of, model_of
from topokit.experiments.config import load_recipe
from topokit.experiments.runs import run

FOLDER = Path(__file__).parents[2] / "figures" / "studies"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    settings = ["epochs=12", "model.widths=[64,30,20,20,10]", "data.n_train=400", "data.n_test=100",
                'measures.names=["fan_in"]']  # fmt: skip
    config = load_recipe("set_mlp_digits").override(settings)
    return run(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def groups(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("unit_groups")
    monkeypatch.setattr(module, "BEFORE", (0, 2))
    return module


def test_units_that_send_nothing_can_be_removed(groups, history, monkeypatch):
    def changed(path):
        model = model_of(path)
        poor = torch.from_numpy(history.topology(-1)["fc1"].fan_in <= rich)
        model.fc2.values[poor[model.fc2.indices.long()]] = 0
        return model

    fan_in = history.topology(-1)["fc1"].fan_in
    rich = int(np.sort(fan_in)[-16])  # at most 15 units have more
    monkeypatch.setattr(groups, "model_of", torch.no_grad()(changed))
    monkeypatch.setattr(groups, "RICH", rich)
    with pytest.raises(SystemExit, match="recorded"):
        groups.rows_of(history.directory, None)
    monkeypatch.setattr(groups, "CLOSE", 1)
    row, removed, units = groups.rows_of(history.directory, None)
    n_rich = int((fan_in > rich).sum())
    assert row["rich"] == n_rich > 0
    assert row["rich_edges"] == pytest.approx(fan_in[fan_in > rich].sum() / fan_in.sum())
    assert row["rich_sent"] == pytest.approx(1)
    table = removed.pivot_table(index="share", columns="order", values="accuracy")
    for share, accuracies in table.iterrows():
        gone = round(share * 30)
        if gone <= 30 - n_rich:
            assert accuracies["fewest"] == accuracies["least"] == row["accuracy"]
        if gone >= n_rich:  # nothing is left that sends
            assert accuracies["most"] == table["most"].iloc[-1] < row["accuracy"]
    assert row["needed_fewest"] <= 1 - (30 - n_rich) // 1.5 / 20 + 1e-9
    assert row["needed_most"] == 1
    assert units["fan_in"].tolist() == fan_in.tolist()


def test_what_is_said_of_a_run(groups, history):
    row, removed, _ = groups.rows_of(history.directory, None)
    model, data = model_of(history), data_of(history)
    assert row["accuracy"] == pytest.approx(history["test_accuracy"].iloc[-1])
    dense = {name: getattr(model, name).weight.detach().numpy() for name in ("fc1", "fc2")}
    hidden = np.maximum(data.x_test @ dense["fc1"].T + model.fc1.bias.detach().numpy(), 0)
    assert row["silent"] == (hidden.max(0) == 0).mean()
    assert row["rich"] == 0
    assert np.isnan(row["silent_rich"])
    received, sent = (getattr(model, name).graph.to_csr() != 0 for name in ("fc1", "fc2"))
    ranks = pd.DataFrame({"in": received.sum(axis=1), "out": sent.sum(axis=0)}).rank()
    assert row["rho"] == pytest.approx(ranks.corr().iloc[0, 1])
    assert len(removed) == 4 * 19
    again = groups.rows_of(history.directory, None)[1]
    pd.testing.assert_frame_equal(removed, again)


def test_pairs_are_of_one_data_set_and_seed(groups):
    rows = []
    for data, shift in (("mnist", 0.0), ("fashion_mnist", 0.1)):
        for arm in groups.ARMS:
            for seed in range(3 if arm != "static" else 1):
                gain = shift + 0.2 * arm.endswith("-0") + 0.01 * seed**2
                rows.append({"arm": arm, "data": data, "seed": seed, "rho": gain / 2,
                             "E_fewest": 0.5 + gain, "E_random": 0.5, "E_gain": gain})  # fmt: skip
    table = groups.pairs(pd.DataFrame(rows).sample(frac=1, random_state=0)).set_index("data")
    assert table["hypothesis"].tolist() == 2 * ["K1", "K1", "K2", "K2", "K3", "K3"]
    for data, shift in (("mnist", 0.0), ("fashion_mnist", 0.1)):
        own = table.loc[data]
        gain = shift + 0.2 + 0.05 / 3  # mean over the three seeds
        expected = [gain, gain, 0.2, 0.2, gain / 2, gain / 2]
        np.testing.assert_allclose(own["difference"], expected)
        assert own["n"].tolist() == [3, 3, 3, 1, 3, 3]
        assert own["seeds"].tolist() == 3 * ["0 1 2"] + ["0"] + 2 * ["0 1 2"]
        assert (own["t_p_holm"].dropna() >= own["t_p"].dropna()).all()
        assert own["t_p_holm"].notna().sum() == 5

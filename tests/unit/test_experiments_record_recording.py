import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import topokit
from topokit.experiments.record import Recording
from topokit.generators import generate
from topokit.graph import same_edges
from topokit.plots import HISTORY_PLOTS


def test_records_a_users_loop(rng):
    model = topokit.sparsify(
        nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)), density=0.3, rng=rng
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = topokit.Recording(["fan_in", "turnover", "spectral_gap"])
    engine = topokit.attach(model, optimizer, "set", every=2, recorder=recording, rng=rng)
    for step in range(1, 7):
        optimizer.zero_grad()
        loss = model(torch.ones(4, 20)).square().mean()
        loss.backward()
        optimizer.step()
        recording.note(step, train_loss=loss.item())
    assert recording.recorded == [0, 2, 4, 6]
    assert recording.epochs["epoch"].tolist() == list(range(7))
    assert recording.epochs["train_loss"].isna().tolist() == [True] + [False] * 6
    assert all(same_edges(g, engine.topology[k]) for k, g in recording.topology(-1).items())
    moved = recording.measures.query("measure == 'turnover' and layer == '0'")
    graphs = [recording.topology(at)["0"] for at in (0, 2, 4, 6)]
    for share, before, after in zip(moved["value"].iloc[1:], graphs[1:-1], graphs[2:], strict=True):
        left = np.setdiff1d(before.edge_ids, after.edge_ids).size / before.n_edges
        assert share == pytest.approx(left)
        assert 0.2 < share < 0.32  # 0.3 and one edge for each sign, less what grew again
    table = recording.wide().query("layer == '0'")
    assert table["epoch"].tolist() == [0, 2, 4, 6]
    assert table["turnover"].dropna().tolist() == moved["value"].dropna().tolist()
    copied = pickle.loads(pickle.dumps(recording))
    assert copied.measures.equals(recording.measures)


def test_a_loop_that_rewires_between_epochs_is_recorded_by_epochs(rng):
    """The accuracy of an epoch stands beside the graphs it was measured on."""
    model = topokit.sparsify(nn.Sequential(nn.Linear(20, 30), nn.ReLU()), density=0.3, rng=rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = topokit.Recording(["fan_in.mean"])
    engine = topokit.attach(model, optimizer, "set", every="epoch", recorder=recording, rng=rng)
    before = []
    for epoch in range(3):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(4, 20)).square().mean().backward()
            optimizer.step()
        before.append(engine.topology["0"])
        recording.note(epoch, test_accuracy=0.5 + epoch / 10)
        engine.end_epoch()
    assert recording.recorded == [0, 1, 2, 3]
    assert recording.epochs["epoch"].tolist() == [0, 1, 2, 3]
    assert all(same_edges(recording.topology(e)["0"], before[e]) for e in range(3))
    assert not same_edges(before[0], before[1])
    assert same_edges(recording.topology(-1)["0"], engine.topology["0"])


def test_plots_of_a_history_take_a_recording(rng):
    recording = Recording(["fan_in", "fan_out", "turnover"])
    for epoch in range(3):
        recording(epoch, generate([12, 10, 4], "erdos_renyi", density=0.4, rng=rng))
        recording.note(epoch, train_loss=1.0, test_loss=1.0, test_accuracy=0.5, seconds=0.1)
    drawn = 0
    for plot in HISTORY_PLOTS.values():
        try:
            plot(recording)
            drawn += 1
        except ValueError:  # asks for a measure that was not taken
            pass
        plt.close("all")
    assert drawn >= 2


def test_every_and_unknown_epochs(rng):
    recording = Recording(every=2)
    for epoch in range(5):
        recording(epoch, generate([4, 3], "erdos_renyi", density=0.5, rng=rng))
    assert recording.recorded == [0, 2, 4]
    assert recording.measures.empty
    assert "3 topologies" in repr(recording)
    with pytest.raises(ValueError, match=r"epoch 1 was not recorded; recorded: \[0, 2, 4\]"):
        recording.topology(1)
    with pytest.raises(ValueError, match="every: expected a positive number, got 0"):
        Recording(every=0)

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import topokit
from topokit.experiments.record import Recording
from topokit.generators import generate
from topokit.graph import LayerGraph, same_edges
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
    with pytest.raises(ValueError, match="every: expected a positive whole number, got 0"):
        Recording(every=0)


GRAPHS = [LayerGraph.from_edge_ids(ids, (2, 2)) for ids in ([0, 1], [0, 3], [2, 3], [1, 2])]
ORDERS = {
    "late": [(0, 0), (2, 2), (3, 3), (1, 1)],
    "backwards": [(3, 3), (2, 2), (1, 1), (0, 0)],
    "repeated": [(0, 0), (1, 3), (2, 2), (3, 3), (1, 1)],
    "first again": [(0, 2), (1, 1), (2, 2), (3, 3), (0, 0)],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_changes_are_from_the_epoch_before_in_whatever_order_they_come(order):
    wanted, recording = Recording(["turnover", "core"]), Recording(["turnover", "core"])
    for epoch, graph in enumerate(GRAPHS):
        wanted(epoch, {"fc": graph})
    for epoch, graph in order:
        recording(epoch, {"fc": GRAPHS[graph]})
    assert recording.recorded == [0, 1, 2, 3]
    pd.testing.assert_frame_equal(recording.measures, wanted.measures)


@pytest.mark.parametrize(
    "other",
    [{"other": GRAPHS[0]}, {"fc": GRAPHS[0], "more": GRAPHS[0]}, {}],
)
@pytest.mark.parametrize("measures", [None, ["turnover"]])
def test_layers_of_another_model_are_refused(other, measures):
    recording = Recording(measures)
    recording(0, {"fc": GRAPHS[0]})
    with pytest.raises(ValueError, match=r"expected the layers recorded before \(fc\), got"):
        recording(1, other)
    assert recording.recorded == [0]


def test_every_kind_of_topology_is_recorded():
    model = topokit.sparsify(nn.Sequential(nn.Linear(5, 4)), density=0.5, rng=0)
    graph = topokit.topology_of(model)["0"]
    for source in (model, model.state_dict(), {"0": graph}, {"0": graph.to_csr()}):
        recording = Recording()
        recording(0, source)
        assert recording.topology(0)["0"].edge_ids.tolist() == graph.edge_ids.tolist()
    recording = Recording("fan_in")
    recording(0, graph)
    assert [*recording.topology(0)] == ["layer"]
    assert len(recording.measures)


@pytest.mark.parametrize("epoch", [-1, 0.5, float("nan"), float("inf"), "1", None])
def test_what_is_no_epoch_is_refused(epoch):
    recording = Recording()
    for use in (lambda: recording(epoch, {"fc": GRAPHS[0]}), lambda: recording.note(epoch, a=1)):
        with pytest.raises(ValueError, match=r"epoch: expected a (whole )?number"):
            use()
    assert recording.recorded == []


def test_numbers_that_are_noted():
    recording, loss = Recording(), torch.tensor(0.5, requires_grad=True) * 1
    noted = [loss, torch.tensor([0.75]), np.float32(0.25), np.array(1.0), 1, True, None, np.nan]
    for epoch, value in enumerate(noted):
        recording.note(epoch, test_accuracy=value)
    wanted = [0.5, 0.75, 0.25, 1.0, 1.0, 1.0, np.nan, np.nan]
    found = recording.epochs["test_accuracy"]
    np.testing.assert_array_equal(found.astype(float), wanted)
    assert not any(isinstance(value, torch.Tensor) for value in found)
    recording._repr_html_()
    for value in ("0.5", torch.ones(2), np.ones(2), [0.5], 1j):
        with pytest.raises(ValueError, match="test_accuracy: expected one number, got"):
            recording.note(0, test_accuracy=value)
    with pytest.raises(ValueError, match="expected names other than 'run'"):
        recording.note(0, run=1.0)

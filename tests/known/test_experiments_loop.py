"""What the training loop hands to schedules and rules, counted by hand."""

import numpy as np
import pytest
import torch

from topokit.data import load_data
from topokit.experiments.loop import TrainPlan, TrainState, train
from topokit.graph import LayerGraph
from topokit.nn.models import MODELS
from topokit.rules import RULES


def new_state():
    rng = np.random.default_rng(0)
    graphs = {
        "fc1": LayerGraph.from_edge_ids(rng.choice(64 * 30, 300, False), (30, 64)),
        "fc2": LayerGraph.from_edge_ids(np.arange(300), (10, 30)),
    }
    generator = torch.Generator().manual_seed(0)
    model = MODELS["set_mlp"](graphs, dropout=0.0, rng=rng, generator=generator)
    streams = {name: np.random.default_rng(i) for i, name in enumerate(("order", "rule"))}
    optimizer = torch.optim.SGD(model.parameters(), lr=123.0, momentum=0.9)
    return TrainState(model, optimizer, streams, generator)


def test_each_epoch_has_the_learning_rate_of_its_own_number():
    data = load_data("digits", rng=np.random.default_rng(0), n_train=100, n_test=50)
    state, asked = new_state(), []

    def halved(epoch, epochs):
        asked.append((epoch, epochs))
        return 0.5**epoch

    plan = TrainPlan(4, 50, lr=0.08, lr_schedule=halved)
    rates = [state.optimizer.param_groups[0]["lr"] for _ in train(state, data, plan)]
    assert rates == [0.08, 0.04, 0.02, 0.01]
    assert asked == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_without_a_learning_rate_the_optimizer_keeps_its_own():
    data = load_data("digits", rng=np.random.default_rng(0), n_train=100, n_test=50)
    state = new_state()
    state.optimizer.param_groups[0]["lr"] = 0.03
    for _ in train(state, data, TrainPlan(2, 50)):
        assert state.optimizer.param_groups[0]["lr"] == 0.03


@pytest.mark.parametrize(("rule", "steps"), [("ctre_seq", 9), ("set", 10)])
def test_rules_that_watch_the_accuracy_leave_a_tenth_of_the_samples_out(rule, steps):
    data = load_data("digits", rng=np.random.default_rng(0), n_train=100, n_test=50)
    state = new_state()
    for _ in train(state, data, TrainPlan(2, 10, RULES[rule]())):
        pass
    assert state.step == 2 * steps

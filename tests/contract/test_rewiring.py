"""A run and a loop of one's own use one engine: every rule trained both ways, compared exactly."""

import itertools

import numpy as np
import pytest
import torch

from tests.marks import fast_where
from topokit.data import load_data
from topokit.experiments.loop import TrainPlan, TrainState, _held_out, train
from topokit.experiments.samples import Samples, evaluate
from topokit.graph import LayerGraph, same_edges
from topokit.nn import sparse_layers
from topokit.nn.engine import attach
from topokit.nn.models import set_mlp
from topokit.rules import RULES, SCHEDULES

EPOCHS, BATCH, WIDTHS = 3, 50, (64, 40, 30, 10)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", rng=np.random.default_rng(0), n_train=300, n_test=50)


def new_state():
    rng = np.random.default_rng(0)
    topology = {
        f"fc{i}": LayerGraph.from_edge_ids(rng.choice(a * b, a * b // 5, replace=False), (b, a))
        for i, (a, b) in enumerate(itertools.pairwise(WIDTHS), start=1)
    }
    dropout = torch.Generator().manual_seed(1)
    model = set_mlp(topology, dropout=0.2, rng=rng, generator=dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    rngs = {name: np.random.default_rng(i) for i, name in enumerate(("order", "rule"))}
    return TrainState(model, optimizer, rngs, dropout)


def by_hand(state, data, name, **options):
    """Train as a user would: a loop over batches, and the engine that `attach` returns."""
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    held_out = _held_out(len(x)) if "stalled" in RULES[name]().needs else []
    rest = np.setdiff1d(np.arange(len(x)), held_out)
    x, y = x[rest], y[rest]
    model, optimizer, accuracy = state.model, state.optimizer, None
    engine = attach(model, optimizer, name, samples=x, rng=state.rngs["rule"], **options)
    for _ in range(EPOCHS):
        model.train()
        for batch in torch.from_numpy(state.rngs["order"].permutation(len(x))).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            engine.step()
        if len(held_out):
            _, accuracy = evaluate(model, Samples(data.x_train, data.y_train)[held_out])
        engine.end_epoch(accuracy)
    return engine


def assert_same(a, b):
    assert a == b if not isinstance(a, dict) else a.keys() == b.keys()
    for key in a if isinstance(a, dict) else ():
        if isinstance(a[key], dict):
            assert_same(a[key], b[key])
        else:
            assert np.array_equal(a[key], b[key]), key


WAYS = ("between epochs", "epochs of unknown length", "every 4 steps")


@pytest.mark.parametrize(
    ("name", "way"),
    fast_where(lambda name, way: name == "set" or way == WAYS[0], itertools.product(RULES, WAYS)),
)
def test_a_run_and_a_users_loop_agree_exactly(name, way, data):
    run, own = new_state(), new_state()
    batches = 6  # of 300 samples, or of 270 where a tenth is held out
    if way == "every 4 steps":
        options = {"every": 4, "total": EPOCHS * batches, "epoch_steps": batches}
    else:
        options = {"every": "epoch", "total": EPOCHS}
        options |= {"epoch_steps": batches} if way == "between epochs" else {}
    every = 4 if way == "every 4 steps" else "epoch"
    plan = TrainPlan(EPOCHS, BATCH, RULES[name](), every=every, schedule=SCHEDULES["cosine"])
    start = {layer: module.graph for layer, module in sparse_layers(own.model).items()}
    list(train(run, data, plan))
    engine = by_hand(own, data, name, schedule="cosine", **options)
    assert (engine.steps, engine.epochs) == (EPOCHS * batches, EPOCHS)
    assert engine.updates == (EPOCHS - 1 if every == "epoch" else 4)
    moved = any(not same_edges(graph, start[layer]) for layer, graph in engine.topology.items())
    assert moved or name in ("static", "deep_r", "gmp")
    for layer, module in sparse_layers(run.model).items():
        assert same_edges(module.graph, engine.topology[layer])
    for a, b in zip(run.model.parameters(), own.model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert_same(run.optimizer.state[a], own.optimizer.state[b])
    assert run.rngs["rule"].bit_generator.state == own.rngs["rule"].bit_generator.state
    assert run.dropout.get_state().equal(own.dropout.get_state())
    for entry in engine.memory:
        assert_same({entry: run.memory[entry]}, {entry: engine.memory[entry]})

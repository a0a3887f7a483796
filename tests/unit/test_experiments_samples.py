"""Batches of samples: the same numbers however they are gathered."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import nn

import topokit as tk
from topokit.experiments import loop
from topokit.experiments.samples import Samples
from topokit.nn.kernels.products import gathered
from topokit.nn.models import set_mlp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 100])
def test_gathered_samples_are_the_transposed_rows(rng, dtype, count):
    x = torch.from_numpy(rng.standard_normal((50, 13))).to(dtype)
    at = torch.from_numpy(rng.integers(50, size=count))
    y = gathered(x, at)
    assert y.is_contiguous()
    assert torch.equal(y, x[at].t())


def test_many_samples_on_several_threads(rng):
    x, at = torch.randn(200, 3000), torch.from_numpy(rng.integers(200, size=300))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(gathered(x, at), x[at].t())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["dense", "weighted", "sparse", "changed", "images"])
def test_batches_are_the_same_by_units(rng, kind):
    x = rng.standard_normal((25, 6)).astype(np.float32)
    weights = np.ones(25, np.float32) if kind == "weighted" else None
    samples = Samples(
        {"sparse": sp.csr_matrix(x), "images": x.reshape(25, 2, 3)}.get(kind, x),
        rng.integers(3, size=25),
        weights,
        change=(lambda x, rng: x + rng.random(x.shape, np.float32)) if kind == "changed" else None,
    )
    ways = [
        list(samples.shuffled(8, np.random.default_rng(1), by_units=lambda way=way: way))
        for way in (False, True)
    ]
    for plain, turned in zip(*ways, strict=True):
        assert torch.equal(plain.x, turned.x)
        assert torch.equal(plain.y, turned.y)
        assert (plain.weights is None) or torch.equal(plain.weights, turned.weights)
        assert (turned.x.stride(0) == 1) == (kind in ("dense", "weighted")) or len(plain.x) == 1


def test_it_is_asked_before_each_batch(rng):
    samples, answers = Samples(rng.random((9, 4), np.float32), np.zeros(9)), [True, False, True]
    batches = samples.shuffled(3, rng, by_units=lambda: answers.pop(0))
    assert [batch.x.stride(0) == 1 for batch in batches] == [True, False, True]


@pytest.mark.parametrize("rule", ["set", "rigl", "ctre_seq"])
def test_runs_are_the_same_bit_for_bit(rng, monkeypatch, rule):
    x, y = rng.random((200, 12), np.float32), rng.integers(5, size=200)
    found, gathers = [], []
    for way in (True, False):
        if not way:
            monkeypatch.setattr(tk.nn.models.SparseMLP, "by_units", False)
        topology = tk.generate([12, 30, 20, 5], "erdos_renyi", density=0.3, rng=0)
        model, seen = set_mlp(topology, rng=1), []
        model.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0].stride(0) == 1))
        state = loop.TrainState(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            {name: np.random.default_rng(2) for name in ("order", "rule")},
            model.generator,
        )
        plan = loop.TrainPlan(epochs=3, batch_size=16, rule=tk.RULES[rule](), every=5)
        losses = [e.metrics["train_loss"] for e in loop.train(state, (Samples(x, y),) * 2, plan)]
        found.append([losses, *(t.tolist() for t in model.state_dict().values())])
        gathers.append(sum(seen))
    assert found[0] == found[1]
    assert gathers[0] > gathers[1] == 0


def test_dense_copies_get_rows():
    topology = tk.generate([6, 5, 4], "erdos_renyi", density=0.5, rng=0)
    model = set_mlp(topology, rng=1)
    assert model.by_units
    model.fc2.capture = True
    assert not model.by_units
    assert not tk.densify(set_mlp(topology, rng=1)).by_units
    model.fc1 = nn.Linear(6, 5)
    assert not model.by_units

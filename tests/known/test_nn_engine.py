"""What a rule is shown by the engine, counted by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from topokit.graph import LayerGraph
from topokit.nn import SparseLinear
from topokit.nn.engine import attach
from topokit.rules import UpdateRule
from topokit.rules.drop import smallest_magnitude
from topokit.rules.grow import uniform


def small_model(rng):
    graph = LayerGraph.from_edge_ids(rng.permutation(60)[:24], (6, 10))
    return nn.Sequential(SparseLinear(graph, rng=rng))


def watching(needs):
    """A rule that keeps every view it is shown, and the list of them."""
    views = []

    def drop(view, n, rng):
        views.append(view)
        return smallest_magnitude(view, n, rng)

    return UpdateRule(drop, uniform, needs=needs), views


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(("momentum", "batches"), [(0.5, 8), (0.3, 5)])
def test_the_gradient_momentum_holds_batches_of_one_percent_and_more(rng, momentum, batches):
    # 0.5**7 and 0.3**4 are the first weights below 1 %: ages 0 to 7 and 0 to 4.
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)
    rule, views = watching(("momentum",))
    attach(model, optimizer, rule, every=12, rng=rng)
    inputs = [torch.full((2, 10), float(i + 1)) for i in range(24)]
    for x in inputs:
        step(model, optimizer, x)
    assert len(views) == 2
    for view, last in zip(views, (12, 24), strict=True):
        seen = view.inputs[:, 0].reshape(-1, 2)[:, 0].tolist()
        assert seen == list(range(last - batches + 1, last + 1))
        assert view.output_grad.shape == (2 * batches, 6)


def test_a_momentum_is_that_of_the_optimizer(rng):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.5)
    rule, views = watching(("momentum",))
    attach(model, optimizer, rule, every=12, rng=rng)
    for i in range(12):
        step(model, optimizer, torch.full((1, 10), float(i + 1)))
    # With the weights at rest the gradient of a row is proportional to the square of its input.
    row = int(np.argmax(model[0].graph.fan_in))
    found = (views[0].output_grad.T @ views[0].inputs)[row, 0]
    newest = views[0].output_grad[-1, row] * 12.0
    expected = newest * sum(0.5**age * ((12 - age) / 12) ** 2 for age in range(8))
    assert found == pytest.approx(expected, rel=1e-4)


def test_rules_without_momentum_see_one_batch(rng):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rule, views = watching(("gradient",))
    attach(model, optimizer, rule, every=3, rng=rng)
    for i in range(6):
        step(model, optimizer, torch.full((2, 10), float(i + 1)))
    assert [view.inputs[:, 0].tolist() for view in views] == [[3.0, 3.0], [6.0, 6.0]]


def test_sensitivity_is_summed_since_the_last_rewiring(rng):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rule, views = watching(("sensitivity",))
    attach(model, optimizer, rule, every=3, rng=rng)
    layer, sums, expected = model[0], 0.0, []
    for i in range(9):
        optimizer.zero_grad()
        model(torch.full((2, 10), float(i + 1))).square().mean().backward()
        sums = sums + (layer.values * layer.values.grad).detach().abs().double().numpy()
        if i % 3 == 2:
            expected.append(sums)
            sums = 0.0
        optimizer.step()
    assert len(views) == 3
    for view, share in zip(views, expected, strict=True):
        np.testing.assert_allclose(view.extra["sensitivity"], share, rtol=1e-6)


def test_a_removal_without_growing_grows_nothing(rng):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    engine = attach(model, optimizer, "set", every=100, drop_fraction=0.25, rng=rng)
    (update,) = engine.rewire(grow=False).values()
    assert (update.n_dropped, update.n_grown) == (6, 0)
    assert model[0].nnz == 18
    (update,) = engine.rewire().values()
    assert (update.n_dropped, update.n_grown) == (4, 4)


@pytest.mark.parametrize("every", ["epoch", 2])
def test_nothing_changes_after_the_last_epoch(rng, every):
    model = small_model(rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total = 2 if every == "epoch" else 4
    engine = attach(model, optimizer, "set", every=every, total=total, epoch_steps=2, rng=rng)
    changed = []
    for _ in range(2):
        for _ in range(2):
            step(model, optimizer, torch.ones(2, 10))
        before = engine.updates
        changed.append(len(engine.end_epoch()))
        assert engine.updates == before + changed[-1]
    assert changed == ([1, 0] if every == "epoch" else [0, 0])
    assert engine.updates == 1
    assert model[0].nnz == 24

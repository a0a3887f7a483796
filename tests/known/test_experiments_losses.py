"""Losses of class scores: their values and gradients against numpy, and where they are refused."""

import numpy as np
import pytest
import torch
from torch import nn

import topokit as tk
from topokit.experiments.config import LOSSES, RunConfig, load_recipe
from topokit.experiments.preparation import resolve_names
from topokit.experiments.samples import OBJECTIVES, Batch, Samples, evaluate
from topokit.experiments.study import load_study
from topokit.generators import erdos_renyi
from topokit.nn import SparseLinear

SQUARED = LOSSES[1:]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def delta(name, scores, y):
    """Derivative of one sample's loss in its scores, as written in numpy."""
    t = np.eye(scores.shape[1])[y]
    if name == "cross_entropy":
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True) - t
    a = sigmoid(scores)
    at = a if name == "squared_error_output_slope" else scores
    return (a - t) * sigmoid(at) * (1 - sigmoid(at))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_a_sparse_network_are_those_of_numpy(rng, name):
    first, second = (erdos_renyi(n, m, density=0.5, rng=rng) for n, m in ((6, 8), (8, 4)))
    model = nn.Sequential(SparseLinear(first, rng=rng), nn.ReLU(), SparseLinear(second, rng=rng))
    model.double()
    x, y = rng.standard_normal((10, 6)), rng.integers(4, size=10)
    OBJECTIVES[name].loss(model, Batch(torch.from_numpy(x), torch.from_numpy(y))).backward()
    one, _, two = model
    weights = []
    for layer in (one, two):
        dense = np.zeros(layer.graph.shape)
        dense.flat[layer.graph.edge_ids] = layer.values.detach().numpy()
        weights.append(dense)
    z = x @ weights[0].T + one.bias.detach().numpy()
    h = np.maximum(z, 0)
    back = delta(name, h @ weights[1].T + two.bias.detach().numpy(), y) / len(x)
    through = (back @ weights[1]) * (z > 0)
    for layer, below, own in ((two, h, back), (one, x, through)):
        gradient = (own.T @ below).flat[layer.graph.edge_ids]
        np.testing.assert_allclose(layer.values.grad.numpy(), gradient, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(layer.bias.grad.numpy(), own.sum(axis=0), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_derivative_of_the_value_unless_the_slope_is_another(rng, name):
    scores, y = torch.from_numpy(rng.normal(0, 3, (5, 3))), torch.arange(5) % 3
    identity, step = nn.Identity(), 1e-6
    scores.requires_grad_()
    OBJECTIVES[name].loss(identity, Batch(scores, y)).backward()
    numeric = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(15):
        moved = scores.detach().clone().repeat(2, 1, 1)
        moved[0].view(-1)[i] += step
        moved[1].view(-1)[i] -= step
        high, low = (float(OBJECTIVES[name].loss(identity, Batch(m, y))) for m in moved)
        numeric.view(-1)[i] = (high - low) / (2 * step)
    assert torch.allclose(scores.grad, numeric, atol=1e-9) == (name != SQUARED[1])


@pytest.mark.parametrize("name", SQUARED)
def test_known_values(name):
    scores, y = torch.tensor([[0.0, 0.0], [50.0, -50.0]], requires_grad=True), torch.tensor([0, 0])
    loss = OBJECTIVES[name].loss(nn.Identity(), Batch(scores, y))
    assert loss.item() == pytest.approx((0.25 + 0) / 2)  # (1/4 + 1/4) / 2, and a perfect one
    loss.backward()
    at = 0.25 if name == "squared_error" else sigmoid(0.5) * (1 - sigmoid(0.5))
    torch.testing.assert_close(scores.grad[0], torch.tensor([-0.5, 0.5]) * at / 2)
    assert scores.grad[1].abs().max() < 1e-15


def test_a_wrong_but_certain_output_still_learns_with_the_slope_at_the_output():
    gradients = {}
    for name in SQUARED:
        scores = torch.tensor([[20.0]], dtype=torch.float64, requires_grad=True)
        wide = torch.cat([scores, -scores], dim=1)
        OBJECTIVES[name].loss(nn.Identity(), Batch(wide, torch.tensor([1]))).backward()
        gradients[name] = float(scores.grad)
    assert gradients["squared_error"] < 1e-7
    assert gradients["squared_error_output_slope"] == pytest.approx(0.1966 + 0.25, abs=1e-4)


@pytest.mark.parametrize("name", SQUARED)
def test_samples_are_weighted_and_evaluated(rng, name):
    x, y = rng.standard_normal((7, 3)).astype(np.float32), rng.integers(3, size=7)
    weights = rng.random(7).astype(np.float32)
    objective, model = OBJECTIVES[name], nn.Identity()
    each = 0.5 * ((sigmoid(x) - np.eye(3)[y]) ** 2).sum(axis=1)
    right = x.argmax(axis=1) == y
    loss, accuracy = evaluate(model, Samples(x, y), objective)
    assert (loss, accuracy) == (pytest.approx(each.mean(), rel=1e-5), right.mean())
    weighed = evaluate(model, Samples(x, y, weights), objective)
    share = weights / weights.sum()
    assert weighed == pytest.approx(((share * each).sum(), (share * right).sum()), rel=1e-5)
    batch = Batch(*(torch.from_numpy(part) for part in (x, y, weights)))
    assert float(objective.loss(model, batch)) == pytest.approx((weights * each).mean(), rel=1e-5)
    assert float(objective.loss(model, batch._replace(weights=None))) == pytest.approx(each.mean())


def test_a_class_for_each_of_many_features(rng):
    scores, y = torch.from_numpy(rng.standard_normal((4, 5, 6))), rng.integers(5, size=(4, 6))
    t = np.eye(5)[y].transpose(0, 2, 1)
    loss = OBJECTIVES["squared_error"].loss(nn.Identity(), Batch(scores, torch.from_numpy(y)))
    expected = 0.5 * ((sigmoid(scores.numpy()) - t) ** 2).sum(axis=1).mean()
    assert float(loss) == pytest.approx(expected)


def test_configurations_have_it_only_where_it_is_another():
    config = load_recipe("set_mlp_digits")
    assert config.model.loss == "cross_entropy"
    assert "loss" not in config.to_toml()
    assert config.override({"model.loss": "cross_entropy"}) == config
    other = config.override({"model.loss": "squared_error"})
    assert 'loss = "squared_error"' in other.to_toml()
    assert RunConfig.from_toml(other.to_toml()) == other != config
    with pytest.raises(ValueError, match="unknown loss function 'squared'; did you mean 'squared_"):
        config.override({"model.loss": "squared"})


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("set_rbm_mnist", {}, "model.loss: model 'set_rbm' has a loss of its own"),
        ("set_mlp_digits", {"topology.generator": "snip"}, "'snip' chooses edges by the gradient"),
        ("ctre_mlp_madelon", {}, "rule.name: 'ctre_sim' looks at the softmax of the last layer"),
    ],
)
def test_it_is_refused_where_another_is_assumed(recipe, changes, message):
    config = load_recipe(recipe).override(changes)
    resolve_names(config)
    for name in SQUARED:
        with pytest.raises(ValueError, match=message):
            resolve_names(config.override({"model.loss": name}))


@pytest.mark.parametrize("name", SQUARED)
def test_runs_train_record_and_resume(tmp_path, name):
    small = {"model.widths": [64, 30, 10], "topology.epsilon": 8, "optimizer.lr": 0.3}
    config = load_recipe("set_mlp_digits").override({**small, "model.loss": name}, epochs=4)
    history = tk.run(config, tmp_path / "a")
    assert history.config["model"]["loss"] == name
    frame = history.epochs
    assert frame["test_loss"].iloc[-1] < frame["test_loss"].iloc[0] < 5
    assert frame["test_accuracy"].iloc[-1] > 0.5
    plain = tk.run(config.override({"model.loss": "cross_entropy"}), tmp_path / "b")
    assert history.topology(0) == plain.topology(0)
    assert (plain.epochs["test_loss"] != frame["test_loss"]).all()


def test_the_study_compares_both_conditions_under_each():
    runs = load_study("tutorial_loss").runs()
    found = {(run.arm, run.config.model.loss) for run in runs}
    assert found == {(arm, loss) for arm in ("set", "static") for loss in LOSSES}
    for run in load_study("tutorial_table").runs():
        if run.arm != "dense":  # cross-entropy is the study tutorial_table again
            assert sum(other.config == run.config for other in runs) == 1

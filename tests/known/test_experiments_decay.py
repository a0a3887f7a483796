"""The two kinds of weight decay, step by step as their formulas say."""

import numpy as np
import pytest
import torch

from topokit.estimators import SparseMLPClassifier
from topokit.experiments.config import OptimizerSpec, RunConfig, load_recipe
from topokit.experiments.preparation import make_optimizer
from topokit.experiments.runs import resume, run


def steps_of(spec, gradients, start=2.0):
    """Return the weight after each step with the given gradients."""
    weight = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer, seen = make_optimizer(spec, [weight]), []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        seen.append(weight.item())
    return seen


def test_decay_per_step_by_hand():
    # v = 0.5 v - 0.1 g; w = w + v - 0.25 w, as in the authors' sparse code
    spec = OptimizerSpec("sgd", lr=0.1, momentum=0.5, decay_per_step=0.25)
    # v: -0.1, -0.05 + 0.2 = 0.15; w: 1.5 - 0.1 = 1.4, 1.05 + 0.15 = 1.2
    assert steps_of(spec, [1.0, -2.0]) == pytest.approx([1.4, 1.2])


def test_coupled_decay_by_hand():
    # g' = g + 0.25 w; v = 0.5 v - 0.1 g'; w = w + v
    spec = OptimizerSpec("sgd", lr=0.1, momentum=0.5, weight_decay=0.25)
    # g': 1.5, -2 + 0.25 * 1.85 = -1.5375; v: -0.15, -0.075 + 0.15375 = 0.07875
    assert steps_of(spec, [1.0, -2.0]) == pytest.approx([1.85, 1.92875])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_decay_per_step_is_the_same_share_for_every_optimizer_and_learning_rate(name):
    for lr in (0.1, 1e-4):
        spec = OptimizerSpec(name, lr=lr, decay_per_step=0.25)
        assert steps_of(spec, [0.0, 0.0]) == pytest.approx([1.5, 1.125])


def test_weights_without_a_gradient_of_a_step_stay():
    weight = torch.nn.Parameter(torch.ones(2))
    make_optimizer(OptimizerSpec(decay_per_step=0.25), [weight]).step()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize(
    "spec",
    [
        OptimizerSpec("sgd", lr=0.01, momentum=0.9, weight_decay=0.02),
        OptimizerSpec("sgd", lr=0.01, momentum=0.9, decay_per_step=2e-3),
        OptimizerSpec("adamw", lr=0.01, weight_decay=0.2),
        OptimizerSpec("adam", decay_per_step=2e-3),
        OptimizerSpec("sgd"),
    ],
)
def test_a_weight_without_gradient_decays_as_decay_over_says(spec):
    steps = 2000
    left = steps_of(spec, [0.0] * steps, start=1.0)[-1]
    assert -np.log(left) == pytest.approx(spec.decay_over(steps), rel=0.02, abs=1e-12)


def test_adam_divides_its_decay_so_that_no_number_can_be_given():
    assert np.isnan(OptimizerSpec("adam", weight_decay=0.1).decay_over(10))


SMALL = [
    "model.widths=[64,20,10]", "data.n_train=200", "data.n_test=50", "epochs=3",
    "measures.names=[]",
]  # fmt: skip


def test_edges_and_biases_decay_and_a_resumed_run_goes_on_exactly(tmp_path):
    config = load_recipe("set_mlp_digits").override([*SMALL, "optimizer.decay_per_step=0.01"])
    assert (config.optimizer.weight_decay, config.optimizer.decay_per_step) == (0, 0.01)
    assert RunConfig.from_toml(config.to_toml()) == config
    whole = run(config, tmp_path / "whole")

    def stop(epoch, _):
        if epoch.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", progress=stop)
    parts = resume(tmp_path / "parts")
    columns = ["train_loss", "test_loss", "test_accuracy"]
    assert parts.epochs[columns].equals(whole.epochs[columns])
    states = [torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts")]
    for key, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][key]), key
    without = run(config.override(["optimizer.decay_per_step=0"]), tmp_path / "without")
    free = torch.load(without.directory / "checkpoint.pt")["model"]
    for key in ("fc1.values", "fc1.bias"):
        assert states[0]["model"][key].norm() < free[key].norm()


def test_setting_one_decay_replaces_the_other():
    config = load_recipe("set_mlp_mnist")
    assert config.optimizer.weight_decay == 2e-4
    config = config.override(["optimizer.decay_per_step=1e-4"])
    assert (config.optimizer.weight_decay, config.optimizer.decay_per_step) == (0, 1e-4)
    config = config.override(["optimizer.weight_decay=1e-3"])
    assert (config.optimizer.weight_decay, config.optimizer.decay_per_step) == (1e-3, 0)
    kept = config.override(["optimizer.decay_per_step=0"]).optimizer
    assert (kept.weight_decay, kept.decay_per_step) == (1e-3, 0)
    with pytest.raises(ValueError, match="at most one of weight_decay and decay_per_step"):
        config.override(["optimizer.weight_decay=1e-3", "optimizer.decay_per_step=1e-4"])


def test_the_classifier_takes_both_kinds(rng):
    x, y = rng.standard_normal((40, 6)), np.arange(40) % 2
    options = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0, "rule": "static"}
    norms = {}
    for kind in ("weight_decay", "decay_per_step"):
        for decay in (0.0, 0.05):
            given = {"weight_decay": 0.0, kind: decay}
            model = SparseMLPClassifier(**options, **given).fit(x, y).model_
            norms[kind, decay] = float(model.fc1.values.detach().norm())
    assert norms["weight_decay", 0.0] == norms["decay_per_step", 0.0]
    assert norms["decay_per_step", 0.05] < norms["weight_decay", 0.05] < norms["weight_decay", 0.0]
    both = SparseMLPClassifier(**options, weight_decay=0.1, decay_per_step=0.1)
    with pytest.raises(ValueError, match="at most one of weight_decay and decay_per_step"):
        both.fit(x, y)

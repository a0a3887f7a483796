import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.unit.test_nn_kernels import random_graph
from topokit.experiments.config import load_recipe
from topokit.experiments.runs import run
from topokit.graph import same_edges
from topokit.nn import activations, sparse_layers
from topokit.nn.activations import SReLU, dropped_out
from topokit.nn.models import MODELS, inputs_of, set_cnn, set_mlp


def topology_of_widths(rng, *widths):
    return {
        f"fc{i + 1}": random_graph(rng, a, b, a * b // 2)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


@pytest.mark.parametrize("activation", ["relu", "srelu", "all_relu"])
def test_set_mlp_equals_its_formula(rng, activation):
    model = MODELS["set_mlp"](topology_of_widths(rng, 12, 9, 7, 4), activation=activation, rng=rng)
    assert list(sparse_layers(model)) == ["fc1", "fc2", "fc3"]
    x = torch.randn(5, 3, 4)
    h = x.flatten(1)
    for position in (1, 2, 3):
        layer = model.get_submodule(f"fc{position}")
        h = h @ layer.to_dense().T + layer.bias
        if position < 3 and activation == "relu":
            h = h.clamp(min=0)
        elif position < 3 and activation == "all_relu":
            h = torch.where(h > 0, h, h * (-0.6 if position == 1 else 0.6))
        elif position < 3:
            h = srelu(h, model.get_submodule(f"act{position}"))
    torch.testing.assert_close(model(x), h)


def srelu(x, act):
    left, right = act.t_left, act.t_left + act.t_width.abs()
    bent = torch.where(x > right, right + act.a_right * (x - right), x)
    return torch.where(x < left, left + act.a_left * (x - left), bent)


def test_srelu_starts_as_the_paper_says(rng):
    act = SReLU(2000, rng=rng)
    assert act.t_left.abs().max() == 0
    assert act.a_right.unique().tolist() == [1.0]
    assert act.a_left.mean().item() == pytest.approx(0.5, abs=0.03)
    assert act.t_width.mean().item() == pytest.approx(2.5, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3), (5, 17), (130, 40), (0, 3), (3, 5, 7)])
@pytest.mark.parametrize("turned", [False, True])
def test_srelu_has_values_and_gradients_of_its_formula(rng, dtype, shape, turned):
    act = SReLU(shape[-1], rng=rng).to(dtype)
    for parameter in act.parameters():
        parameter.data.copy_(torch.from_numpy(rng.normal(0, 0.7, shape[-1])))
    x = torch.from_numpy(rng.normal(0, 2, shape)).to(dtype)
    x = x.t().contiguous().t() if turned and x.ndim == 2 else x
    weight = torch.from_numpy(rng.normal(0, 1, shape)).to(dtype)
    found = []
    for function in (act, lambda x: srelu(x, act)):
        act.zero_grad()
        given = x.clone().requires_grad_()
        y = function(given)
        (y * weight).sum().backward()
        found.append([y, given.grad, *(p.grad for p in act.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_is_the_same_in_every_way_of_computing_it(rng, dtype, monkeypatch):
    found = []
    for takes in (True, False):
        if not takes:
            monkeypatch.setattr(activations, "_compiled_takes", lambda x: False)
        for source in (torch.ones(40, 30), torch.ones(30, 40).t(), torch.ones(4, 5, 6)):
            x = (source * 3).to(dtype).requires_grad_()
            y = dropped_out(x, 0.3, torch.Generator().manual_seed(1))
            y.sum().backward()
            found.append((y, x.grad))
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_activations_keep_the_layout_of_the_kernels(rng):
    x = torch.randn(6, 4).t()
    for y in (SReLU(6, rng=rng)(x), dropped_out(x, 0.5, torch.Generator())):
        assert y.t().is_contiguous()


def test_dropout_is_inverted_and_drawn_from_its_own_generator(rng):
    generator = torch.Generator().manual_seed(3)
    state = torch.get_rng_state()
    y = dropped_out(torch.ones(400, 500), 0.3, generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert (y == 0).double().mean().item() == pytest.approx(0.3, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    x = torch.ones(3)
    assert dropped_out(x, 0.0, generator) is x
    assert dropped_out(torch.ones(7, 5, 3), 0.999999, generator).shape == (7, 5, 3)
    assert dropped_out(torch.ones(0, 5), 0.5, generator).shape == (0, 5)
    columns = dropped_out(torch.ones(2000, 300).t(), 0.3, generator)
    assert (columns == 0).double().mean(1).std().item() < 0.015
    assert (columns == 0).double().mean(0).std().item() < 0.04


@pytest.mark.parametrize("reentrant", [False, True])
def test_dropout_is_refused_where_a_forward_pass_is_computed_again(rng, reentrant):
    """Torch's checkpoints do not restore the model's generator: other masks, wrong gradients."""
    model = set_mlp(topology_of_widths(rng, 12, 30, 4), dropout=0.5, rng=rng)
    x = torch.ones(3, 12, requires_grad=True)
    with pytest.raises(RuntimeError, match="computed again within the backward pass"):
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    model.dropout = 0.0
    checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    again = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), again, strict=True):
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_model_with_dropout_draw_the_same_masks(rng, copied):
    model = set_mlp(topology_of_widths(rng, 12, 30, 4), dropout=0.5, rng=rng)
    model(torch.ones(2, 12))
    twin = copied(model)
    x = torch.ones(8, 12)
    assert torch.equal(model(x), twin(x))
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_same_rng_same_model(rng):
    topology = topology_of_widths(rng, 12, 30, 4)
    a, b = (
        set_mlp(topology, activation="srelu", dropout=0.2, rng=np.random.default_rng(1))
        for _ in range(2)
    )
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    x = torch.ones(3, 12)
    assert torch.equal(a(x), b(x))


def test_captured_outputs_are_after_the_activation(rng):
    model = set_mlp(topology_of_widths(rng, 12, 9, 4), rng=rng)
    for layer in sparse_layers(model).values():
        layer.capture = True
    model(torch.randn(6, 12)).sum().backward()
    first, second = (layer.view() for layer in sparse_layers(model).values())
    assert first.outputs.min() == 0
    np.testing.assert_array_equal(first.outputs, second.inputs)
    assert first.output_grad.shape == (6, 9)


def test_bad_models_are_refused_in_words(rng):
    topology = topology_of_widths(rng, 12, 9, 4)
    with pytest.raises(ValueError, match=r"layers that chain .* got a: 9 -> 4, b: 12 -> 9"):
        set_mlp({"a": topology["fc2"], "b": topology["fc1"]}, rng=rng)
    with pytest.raises(ValueError, match=r"expected layers that chain .*, got no layers"):
        set_mlp({}, rng=rng)
    with pytest.raises(ValueError, match="activation of relu, srelu, all_relu, got 'tanh'"):
        set_mlp(topology, activation="tanh", rng=rng)
    with pytest.raises(ValueError, match=r"dropout in \[0, 1\), got 1"):
        set_mlp(topology, dropout=1, rng=rng)


def test_set_cnn_equals_its_formula(rng):
    topology = {
        "conv2": random_graph(rng, 36, 4, 50),
        **topology_of_widths(rng, 6 * 2 * 3, 11, 5),
    }
    model = MODELS["set_cnn"](topology, channels=(4, 6), image=(2, 8, 12), rng=rng)
    assert list(sparse_layers(model)) == ["conv2", "fc1", "fc2"]
    x = torch.randn(3, 2, 8, 12)
    h = x
    for position in (1, 2, 3, 4):
        conv = model.get_submodule(f"conv{position}")
        h = torch.nn.functional.conv2d(h, conv.weight, conv.bias, padding=1).relu()
        h = h if position % 2 else torch.nn.functional.max_pool2d(h, 2)
    h = (h.flatten(1) @ model.fc1.to_dense().T + model.fc1.bias).relu()
    h = h @ model.fc2.to_dense().T + model.fc2.bias
    torch.testing.assert_close(model(x.flatten(1)), h)


def test_set_cnn_trains_with_dropout_and_copies(rng):
    topology = topology_of_widths(rng, 6 * 2 * 2, 11, 5)
    model = set_cnn(topology, channels=(6,), image=(1, 4, 4), dropout=0.4, rng=rng)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(20, 16), torch.arange(20) % 5
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))


def test_bad_cnns_are_refused_in_words(rng):
    topology = topology_of_widths(rng, 24, 5)
    with pytest.raises(ValueError, match=r"layer of 96 inputs \(6 channels of 4x4\), got 24"):
        set_cnn(topology, channels=(6,), image=(1, 8, 8), rng=rng)
    with pytest.raises(ValueError, match="sides 1 poolings can halve, got 5x4"):
        set_cnn(topology, channels=(6,), image=(1, 5, 4), rng=rng)
    topology["conv1"] = random_graph(rng, 18, 6, 10)
    with pytest.raises(ValueError, match=r"expected conv1 of shape \(6, 9\), got \(6, 18\)"):
        set_cnn(topology, channels=(6,), image=(1, 4, 4), rng=rng)


def test_the_first_layer_behind_convolutions_has_their_outputs():
    assert inputs_of("set_mlp", 784, dropout=0.2) == 784
    assert inputs_of("set_cnn", 3072, dropout=0.2) == 2048
    assert inputs_of("set_cnn", 784, image=[1, 28, 28], channels=[8, 16]) == 16 * 49
    with pytest.raises(ValueError, match=r"width of 784 features, got \[3, 32, 32\]"):
        inputs_of("set_cnn", 784)


def test_a_cnn_trains_in_a_run(tmp_path):
    settings = ["epochs=3", "model.name=set_cnn", "model.widths=[64,20,10]", "threads=1",
                "model.image=[1,8,8]", "model.channels=[4,16]", "data.n_train=200"]  # fmt: skip
    config = load_recipe("set_mlp_digits").override(settings)
    history = run(config, tmp_path / "run")
    assert list(history.topology(2)) == ["fc1", "fc2"]
    assert not same_edges(history.topology(0)["fc1"], history.topology(2)["fc1"])
    losses = history.epochs["train_loss"].tolist()
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=r"64 features \(16 behind .*widths=.16,20,10.$"):
        run(config.override(["model.channels=[4,4]"]), tmp_path / "wrong")


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), "0.5", None, True])
def test_a_dropout_that_is_no_share_is_refused(dropout, rng):
    with pytest.raises(ValueError, match=r"expected a dropout in \[0, 1\), got"):
        set_mlp(topology_of_widths(rng, 6, 5), dropout=dropout, rng=0)

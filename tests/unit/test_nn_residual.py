"""Residual networks: published sizes, a dense twin, memory, what is refused."""

import copy
import resource

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from topokit import densify, topology_of
from topokit.experiments.config import WITHOUT_WIDTHS
from topokit.generators import generate_layers
from topokit.nn import sparse_layers
from topokit.nn.models import LAYERS, MODELS, layers_for

SMALL = {
    "resnet": {"depth": 8, "channels": [6, 8, 9], "image": [2, 8, 8], "classes": 5},
    "wide_resnet": {"depth": 10, "widen": 1, "image": [2, 8, 8], "classes": 5},
}


def made(name, density=0.3, rng=0, **options):
    shapes = LAYERS[name](**{k: v for k, v in options.items() if k not in ("kernel", "dropout")})
    topology = generate_layers(shapes, "erdos_renyi", density=density, densities="erk", rng=rng)
    return MODELS[name](topology, rng=rng, **options), topology


@pytest.mark.parametrize(
    ("name", "options", "parameters", "layers"),
    [
        ("resnet", {"depth": 20}, 269_722, 20),
        ("resnet", {"depth": 32}, 464_154, 32),
        ("wide_resnet", {"depth": 16, "widen": 8}, 10_961_370, 17),
        ("wide_resnet", {"depth": 22, "widen": 2}, 1_079_642, 23),
    ],
)
def test_published_numbers_of_parameters(name, options, parameters, layers):
    model, topology = made(name, density=1.0, dense=[], **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(topology) == layers
    names = list(topology)
    assert (names[0], names[-1]) == ("conv1", "fc")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_outputs_and_gradients_are_those_of_a_dense_masked_network(name, kernel):
    model, topology = made(name, kernel=kernel, **SMALL[name])
    dense = densify(copy.deepcopy(model))
    assert list(sparse_layers(model)) == list(topology)
    assert not sparse_layers(dense)
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    for mode in (True, False):
        a, b = model.train(mode)(x), dense.train(mode)(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for y in (model.train()(x), dense.train()(x)):
        y.square().sum().backward()
    twins = dict(dense.named_modules())
    for layer, sparse in sparse_layers(model).items():
        graph = topology[layer]
        mask = torch.zeros(graph.n_possible, dtype=torch.bool)
        mask[torch.from_numpy(graph.edge_ids)] = True
        mask = mask.view(graph.shape)
        gradient = twins[layer].weight.grad.flatten(1)
        torch.testing.assert_close(sparse.values.grad, gradient[mask], rtol=1e-3, atol=1e-3)


def test_resnet_equals_its_formula():
    model, _ = made("resnet", **SMALL["resnet"])
    model.eval()
    x = torch.randn(3, 2, 8, 8)
    h = F.relu(F.conv2d(x, model.conv1.weight, padding=1))
    norm = 1 / np.sqrt(1 + 1e-5)  # batch norm that has seen nothing
    h = F.relu(F.conv2d(x, model.conv1.weight, padding=1) * norm)
    for stage, (grown, stride) in enumerate([(0, 1), (2, 2), (1, 2)], start=1):
        block = model.get_submodule(f"stage{stage}.block1")
        y = F.relu(F.conv2d(h, block.conv1.weight, stride=stride, padding=1) * norm)
        y = F.conv2d(y, block.conv2.weight, padding=1) * norm
        short = torch.zeros_like(y)
        short[:, grown // 2 : grown // 2 + h.shape[1]] = h[:, :, ::stride, ::stride]
        h = F.relu(y + short)
    expected = h.mean((2, 3)) @ model.fc.weight.t() + model.fc.bias
    torch.testing.assert_close(model(x.flatten(1)), expected, rtol=1e-4, atol=1e-5)


def test_wide_resnet_equals_its_formula():
    model, _ = made("wide_resnet", dense=["conv1", "shortcut"], **SMALL["wide_resnet"])
    model.eval()
    x = torch.randn(3, 2, 8, 8)
    norm = 1 / np.sqrt(1 + 1e-5)
    h = F.conv2d(x, model.conv1.weight, padding=1)
    for stage, stride in enumerate([1, 2, 2], start=1):
        block = model.get_submodule(f"stage{stage}.block1")
        active = F.relu(h * norm)
        y = F.relu(F.conv2d(active, block.conv1.weight, stride=stride, padding=1) * norm)
        y = F.conv2d(y, block.conv2.weight, padding=1)
        assert (block.shortcut is None) == (stage == 1)
        h = y + (h if stage == 1 else F.conv2d(active, block.shortcut.weight, stride=stride))
    expected = F.relu(h * norm).mean((2, 3)) @ model.fc.weight.t() + model.fc.bias
    torch.testing.assert_close(model(x.flatten(1)), expected, rtol=1e-4, atol=1e-5)


def test_what_is_dense_is_chosen():
    sizes = SMALL["wide_resnet"]
    kinds = ["conv1", "shortcut", "fc"]
    every, none = (LAYERS["wide_resnet"](dense=dense, **sizes) for dense in ([], kinds))
    shortcuts = {"stage2.block1.shortcut", "stage3.block1.shortcut"}
    assert set(every) - set(none) == {"conv1", "fc", *shortcuts}
    model, _ = made("wide_resnet", dense=kinds, **sizes)
    assert isinstance(model.fc, nn.Linear)
    assert isinstance(model.conv1, nn.Conv2d)
    assert "stage1.block1.conv1" in topology_of(model)


def test_dropout_draws_from_the_given_generator():
    model, _ = made("resnet", dropout=0.5, **SMALL["resnet"])
    x = torch.randn(4, 128)
    state = model.generator.get_state()
    torch.manual_seed(1)
    first = model(x)
    torch.manual_seed(2)
    model.generator.set_state(state)
    assert torch.equal(model(x), first)
    assert not torch.equal(model(x), first)


def test_a_batch_of_32_fits_into_memory():
    for kernel in ("auto", "csr"):
        model, _ = made("resnet", density=0.1, depth=8, kernel=kernel)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model(torch.randn(32, 3072)).sum().backward()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900_000  # kB
    assert 400 <= (1 << 26) // model.cells <= 500  # samples evaluated at once


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet", {"depth": 21}, "model.depth: expected 6n + 2"),
        ("resnet", {"channels": []}, "model.channels: expected"),
        ("resnet", {"channels": [16, 8, 8]}, "expected no stage with fewer channels than the one"),
        ("wide_resnet", {"depth": 20}, "model.depth: expected 6n + 4"),
        ("wide_resnet", {"widen": 0}, "a widen of at least 1"),
        ("resnet", {"dense": ["shortcut"]}, "expected a list of conv1, fc, got ['shortcut']"),
        ("resnet", {"dense": "fc"}, "expected a list of conv1, fc, got 'fc'"),
        ("resnet", {"image": [3, 32]}, "expected an image of channels, height and width"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(name, options, words):
    with pytest.raises(ValueError) as caught:
        LAYERS[name](**options)
    assert words in str(caught.value)


def test_a_topology_of_other_layers_is_refused():
    _, topology = made("resnet", **SMALL["resnet"])
    build = MODELS["resnet"]
    lacking = {name: graph for name, graph in topology.items() if name != "fc"}
    other = topology["stage1.block1.conv1"]
    for wrong, words in (
        (lacking, "layer 'fc' should be of shape .5, 9. and is absent"),
        ({**topology, "conv1": other}, "layer 'conv1' should be absent and is of shape"),
        ({**topology, "fc": other}, "layer 'fc' should be of shape .5, 9. and is of shape"),
    ):
        with pytest.raises(ValueError, match=words):
            build(wrong, rng=0, **SMALL["resnet"])


def test_data_of_other_sizes_are_refused_with_what_is_right():
    assert set(LAYERS) == set(WITHOUT_WIDTHS)
    with pytest.raises(ValueError, match=r"use --set model.classes=7"):
        layers_for("wide_resnet", n_features=3072, n_classes=7)
    with pytest.raises(ValueError, match=r"use --set model.image=\[1,8,8\]"):
        layers_for("resnet", n_features=64, n_classes=10, image_shape=(8, 8))


@pytest.mark.parametrize("name", ["resnet", "wide_resnet", "set_cnn"])
def test_samples_of_other_sizes_are_no_other_number_of_images(name):
    if name == "set_cnn":
        topology = generate_layers({"fc1": (5, 64)}, "erdos_renyi", density=0.5, rng=0)
        model = MODELS[name](topology, channels=(4,), image=(2, 8, 8), rng=0)
    else:
        model, _ = made(name, **SMALL[name])
    whole = torch.randn(8, 2, 8, 8)
    for x in (whole, whole.flatten(1), whole.flatten(2)):
        assert model(x).shape == (8, 5)
    for x in (whole.reshape(32, 2, 4, 4), whole.reshape(4, 2, 16, 8), whole[0], whole.flatten()):
        with pytest.raises(ValueError, match=r"expected samples of 2 \* 8 \* 8 values, \(batch"):
            model(x)

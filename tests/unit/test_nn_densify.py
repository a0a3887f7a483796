import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import topokit as tk
from tests.unit.test_nn_kernels import random_graph
from topokit.nn import SparseConv2d, SparseLinear, SparseRBM
from topokit.nn.layers import EdgeLayer


def network(rng):
    """A model with every sparse kind of layer beside dense ones, and a batch."""
    model = nn.Sequential(
        SparseConv2d(random_graph(rng, 18, 4, 30), 3, 2, 1, rng=rng),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        SparseLinear(random_graph(rng, 16, 6, 40), bias=False, rng=rng),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    for parameter in (*model[1].parameters(), *model[5].parameters()):
        parameter.data.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    return model, torch.from_numpy(rng.standard_normal((5, 2, 4, 4), np.float32))


@pytest.mark.parametrize("masks", [False, True])
def test_the_dense_copy_computes_the_same(rng, masks):
    model, x = network(rng)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense = tk.densify(model, masks=masks)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(isinstance(m, EdgeLayer) for m in dense.modules())
    assert [type(m) for m in dense] == [
        nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    for training in (True, False):
        torch.testing.assert_close(dense.train(training)(x), model.train(training)(x))
    assert list(dict(dense.named_children())) == list(dict(model.named_children()))


@pytest.mark.parametrize("masks", [False, True])
def test_the_topology_is_read_back(rng, masks):
    model, x = network(rng)
    model[3].values.data[:2] = 0  # an edge of value zero: in the mask alone
    dense = tk.densify(model, masks=masks)
    expected = dict(tk.topology_of(model))
    for source in (dense, dense.state_dict()):
        found = tk.topology_of(source)
        assert found["0"] == expected["0"]
        assert found["3"].n_edges == 40 - (0 if masks else 2)
        assert (found["3"] == expected["3"]) == masks
    if masks:
        optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
        dense(x).square().sum().backward()
        optimizer.step()
        dense(x)
        assert torch.equal(dense[3].weight != 0, dense[3].weight_mask != 0)


def test_what_belongs_to_a_layer_goes_with_it(rng):
    model, x = network(rng)
    calls = []
    model[3].values.requires_grad_(False)
    model[3].register_forward_hook(lambda *args: calls.append("after"))
    model[0].register_forward_pre_hook(lambda *args: calls.append("before"))
    model[0].eval()
    model.double()
    dense = tk.densify(model)
    assert not dense[3].weight.requires_grad
    assert dense[0].weight.requires_grad
    assert dense[0].weight.dtype == torch.float64
    assert not dense[0].training
    assert dense[3].training
    dense(x.double())
    assert calls == ["before", "after"]


def test_a_shared_layer_stays_shared(rng):
    layer = SparseLinear(random_graph(rng, 5, 5, 11), rng=rng)
    dense = tk.densify(nn.Sequential(layer, nn.ReLU(), layer))
    assert dense[0] is dense[2]
    alone = tk.densify(layer)
    assert type(alone) is nn.Linear
    torch.testing.assert_close(alone.weight.detach(), layer.weight)


@pytest.mark.parametrize("masks", [False, True])
def test_layers_that_share_their_values_share_the_weight(rng, masks):
    graph, other = random_graph(rng, 5, 5, 11), random_graph(rng, 5, 5, 11)
    model = nn.Sequential(*(SparseLinear(graph, rng=rng) for _ in range(3)))
    model[2].values = model[0].values
    dense, name = tk.densify(model, masks=masks), "weight_orig" if masks else "weight"
    assert getattr(dense[2], name) is getattr(dense[0], name)
    assert getattr(dense[1], name) is not getattr(dense[0], name)
    assert len(list(dense.parameters())) == len(list(model.parameters())) == 5
    x = torch.randn(4, 5)
    for network in (model, dense):
        network(x).square().sum().backward()
        torch.optim.SGD(network.parameters(), lr=0.01).step()
    if masks:
        torch.testing.assert_close(dense(x), model(x), rtol=1e-4, atol=1e-4)
    model[1] = SparseLinear(other, rng=rng)
    model[1].values = model[0].values
    with pytest.raises(TypeError, match="layers that share their values to have the same graph"):
        tk.densify(model, masks=masks)


@pytest.mark.parametrize("name", ["values", "bias"])
def test_parameters_computed_from_others_are_refused(rng, name):
    layer = SparseLinear(random_graph(rng, 5, 5, 11), rng=rng)
    prune.l1_unstructured(layer, name, 0.5)
    model = nn.Sequential(layer)
    with pytest.raises(TypeError, match=rf"expected a parameter as the {name} of layer '0', got"):
        tk.densify(model)
    prune.remove(layer, name)
    x = torch.randn(2, 5)
    torch.testing.assert_close(tk.densify(model)(x), model(x))
    if name == "bias":  # torch's parametrizations cannot take values
        parametrize.register_parametrization(layer, name, nn.Tanh())
        with pytest.raises(TypeError, match=r"\(parametrize\.remove_param"):
            tk.densify(model)


def test_no_random_numbers_are_drawn(rng):
    model, _ = network(rng)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    tk.densify(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("activation", ["relu", "srelu"])
def test_models_of_topokit_have_dense_copies(rng, activation):
    topology = {"fc1": random_graph(rng, 6, 8, 30), "fc2": random_graph(rng, 8, 3, 20)}
    model = tk.MODELS["set_mlp"](topology, activation=activation, rng=rng)
    x = torch.randn(4, 6)
    torch.testing.assert_close(tk.densify(model)(x), model(x))
    assert [name for name, _ in tk.densify(model).named_children()] == ["fc1", "fc2", "act1"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_dense_copy_can_be_scripted(rng):
    model, x = network(rng)
    dense = tk.densify(model.eval())
    torch.testing.assert_close(torch.jit.script(dense)(x), model(x))


def test_what_has_no_dense_form_is_refused(rng):
    class Own(EdgeLayer):
        def __init__(self):
            super().__init__()
            graph = random_graph(np.random.default_rng(0), 3, 2, 4)
            self._set_graph(graph, torch.zeros(4), bias=False, kernel="auto")

    with pytest.raises(TypeError, match="torch has a counterpart of, got Own"):
        tk.densify(nn.Sequential(Own()))
    rbm = SparseRBM(random_graph(rng, 6, 4, 9), rng=rng)
    with pytest.raises(TypeError, match="got a SparseRBM, which needs its graph"):
        tk.densify(rbm)

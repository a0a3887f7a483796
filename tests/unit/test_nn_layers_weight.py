"""The dense weight of a sparse layer is a copy: reading it is right, writing to it is refused."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from topokit.nn.sparsify import sparsify

LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "complete": lambda: nn.Linear(3, 2),
    "convolution": lambda: nn.Conv2d(3, 4, 3),
    "groups": lambda: nn.Conv1d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}


def make(kind):
    return sparsify(LAYERS[kind](), density=1.0 if kind == "complete" else 0.5, rng=0)


def in_place(layer):
    with torch.no_grad():
        layer.weight *= 2


def no_grad(write):
    def call(layer):
        with torch.no_grad():
            write(layer.weight)

    return call


def set_item(weight):
    weight[0] = 0.0


def set_data(weight):
    weight.data = torch.zeros(1)


WRITES = {
    "init": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "init of data": lambda layer: nn.init.zeros_(layer.weight.data),
    "data": lambda layer: layer.weight.data.normal_(),
    "clamp": lambda layer: layer.weight.data.clamp_(-0.1, 0.1),
    "copy": no_grad(lambda weight: weight.copy_(torch.ones(weight.shape))),
    "detached": lambda layer: layer.weight.detach().mul_(2),
    "row": no_grad(lambda weight: weight[0].zero_()),
    "view": no_grad(lambda weight: weight.view(-1)[:2].fill_(1)),
    "rows": no_grad(lambda weight: weight.unbind()[0].fill_(1)),
    "item": no_grad(set_item),
    "mask": lambda layer: layer.weight.data.masked_fill_(torch.tensor(True), 0),
    "times": in_place,
    "set": lambda layer: set_data(layer.weight),
    "out": lambda layer: torch.add(torch.ones(1), 1, out=layer.weight.detach()),
    "several": lambda layer: torch._foreach_mul_([layer.weight.detach()], 2),
    "frozen": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("kind", LAYERS)
def test_writing_to_a_dense_weight_is_refused(kind, write):
    layer = make(kind)
    before = layer.values.detach().clone()
    with pytest.raises(
        ValueError, match=r"expected a change of a sparse layer's values, got \w+ of"
    ):
        write(layer)
    assert torch.equal(layer.values, before)


@pytest.mark.parametrize("kind", LAYERS)
def test_reading_a_dense_weight_is_as_before(kind):
    layer = make(kind)
    weight = layer.weight
    plain = weight.detach().clone()
    assert type(plain) is torch.Tensor
    assert torch.equal(weight, plain)
    assert repr(weight.detach()) == repr(plain)
    for result in (weight * 1, weight.sum(), nn.functional.relu(weight), weight.abs(), -weight):
        assert type(result) is torch.Tensor
    np.testing.assert_array_equal(weight.detach().numpy(), plain.numpy())
    np.testing.assert_array_equal(np.asarray(weight.detach()), plain.numpy())
    weight.square().sum().backward()
    torch.testing.assert_close(layer.values.grad, 2 * layer.values.detach())
    other = torch.ones(plain.shape)
    other.add_(weight.detach())  # written to is another tensor
    torch.testing.assert_close(other, 1 + plain)
    assert [type(part) for part in torch.stack([weight, weight]).unbind()] == [torch.Tensor] * 2
    plain.zero_()


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_dense_weight_is_saved_and_copied_as_an_ordinary_tensor(kind):
    layer, file = make(kind), io.BytesIO()
    torch.save({"weight": layer.weight}, file)
    file.seek(0)
    for found in (torch.load(file, weights_only=True)["weight"], copy.deepcopy(layer.weight)):
        assert type(found) is torch.Tensor
        assert torch.equal(found, layer.weight)
    assert type(nn.Parameter(layer.weight.clone())) is nn.Parameter


def test_layers_are_given_a_dense_weight_by_take():
    layer, other = make("linear"), nn.Linear(6, 5)
    layer.take(other.weight, None)
    assert torch.equal(layer.weight, other.weight * (layer.weight != 0))
    more = make("linear")
    more.take(layer.weight, None)
    assert torch.equal(more.values, layer.values)


def test_functions_that_need_a_weight_compute_and_compile():
    layer, x = make("linear"), torch.ones(2, 6)

    def called(x):
        return nn.functional.linear(x, layer.weight, layer.bias)

    torch.testing.assert_close(called(x), layer(x))
    found = torch.compile(called, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(found, layer(x))
    grads = torch.func.grad(lambda v: torch.func.functional_call(layer, {"values": v}, (x,)).sum())
    assert grads(layer.values.detach()).shape == layer.values.shape

"""What torch's own tools do to sparse layers is right, or refused in a sentence."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import topokit as tk
from topokit.nn import sparse_layers

IN_PLACE = {
    "relu": nn.ReLU(inplace=True),
    "hardtanh": nn.Hardtanh(inplace=True),
    "add": None,
}
LAYERS = {
    "vector": (nn.Linear(12, 9), (12,)),
    "matrix": (nn.Linear(12, 9, bias=False), (5, 12)),
    "sequences": (nn.Linear(12, 9), (2, 3, 12)),
    "images": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 5)),
    "groups": (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7)),
    "transposed": (nn.ConvTranspose2d(3, 4, 2, stride=2), (2, 3, 4, 4)),
}


class AddInPlace(nn.Module):
    def forward(self, x):
        x += 1
        return x


def in_place(name):
    return AddInPlace() if name == "add" else copy.deepcopy(IN_PLACE[name])


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("activation", IN_PLACE)
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_can_be_changed_in_place(kind, activation, kernel, capture):
    dense, shape = LAYERS[kind]
    layer = tk.sparsify(copy.deepcopy(dense), density=0.4, kernel=kernel, rng=0)
    other = copy.deepcopy(layer)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    apart = {"relu": torch.relu, "hardtanh": nn.functional.hardtanh, "add": lambda y: y + 1}
    layer.capture = capture
    nn.Sequential(layer, in_place(activation))(x).square().sum().backward()
    apart[activation](other(x)).square().sum().backward()
    torch.testing.assert_close(layer.values.grad, other.values.grad)
    if capture:
        view = layer.view()
        gradient = view.output_grad.T @ view.inputs
        seen = gradient.reshape(-1)[layer.graph.edge_ids]
        np.testing.assert_allclose(seen, layer.values.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_changing_what_a_product_with_relu_returned_is_noticed():
    layer = tk.sparsify(nn.Linear(12, 9), density=0.4, rng=0)
    y = layer(torch.ones(3, 12), relu=True)
    y += 1  # of which the gradient of ReLU can no longer be read
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()

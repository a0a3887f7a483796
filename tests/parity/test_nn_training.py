"""Training sparse equals training dense with a mask, loss for loss, whatever the kernel."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_kernels import random_graph
from topokit.graph import EdgeUpdate, sample_absent
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.models import set_mlp

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


class Masked(nn.Module):
    """Dense layers whose absent weights are held at zero."""

    def __init__(self, model):
        super().__init__()
        layers = sparse_layers(model)
        self.linears = nn.ModuleList()
        self.masks = []
        for layer in layers.values():
            linear = nn.Linear(layer.n_in, layer.n_out, dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(layer.to_dense())
                linear.bias.copy_(layer.bias)
            self.linears.append(linear)
            self.masks.append(torch.from_numpy(layer.graph.to_csr().toarray()))
        self.model = model

    def forward(self, x):
        for i, (linear, mask) in enumerate(zip(self.linears, self.masks, strict=True)):
            x = nn.functional.linear(x, linear.weight * mask, linear.bias)
            x = torch.relu(x) if i < len(self.masks) - 1 else x
        return x


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("kernel", ["csr", "dense", "auto"])
def test_losses_equal_those_of_masked_dense_training(rng, optimizer, kernel):
    topology = {
        "fc1": random_graph(rng, 40, 30, 200),
        "fc2": random_graph(rng, 30, 30, 90),
        "fc3": random_graph(rng, 30, 5, 150),
    }
    model = set_mlp(topology, kernel=kernel, rng=rng).double()
    masked = Masked(model)
    x = torch.from_numpy(rng.standard_normal((60, 40)))
    y = torch.from_numpy(rng.integers(5, size=60))
    optimizers = [
        OPTIMIZERS[optimizer](model.parameters()),
        OPTIMIZERS[optimizer](masked.linears.parameters()),
    ]
    losses = []
    for step in range(30):
        batch = slice(step % 3 * 20, step % 3 * 20 + 20 - step % 2)
        losses.append([])
        for net, opt in zip((model, masked), optimizers, strict=True):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            loss.backward()
            opt.step()
            losses[-1].append(loss.item())
    ours, theirs = np.array(losses).T
    assert ours[-1] < ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_momentum_after_a_rewiring_equals_a_hand_made_dense_one(rng):
    """A dense layer whose momentum is masked and moved by hand goes the same way."""
    layer = SparseLinear(random_graph(rng, 12, 8, 30), bias=False, kernel="csr", rng=rng).double()
    dense = layer.to_dense().detach()
    velocity = torch.zeros_like(dense)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    x = torch.from_numpy(rng.standard_normal((9, 12)))
    for step in range(12):
        if step % 4 == 3:
            graph = layer.graph
            dropped = rng.choice(30, 7, replace=False)
            update = EdgeUpdate.from_decisions(graph, dropped, sample_absent(graph, 7, rng))
            layer.replace_graph(update, update.carry(layer.view().values), optimizer)
            gone = torch.from_numpy(graph.edge_ids[dropped])
            dense.view(-1)[gone] = 0
            velocity.view(-1)[gone] = 0
        mask = torch.from_numpy(layer.graph.to_csr().toarray())
        y = x @ dense.T
        gradient = (2 * y.T @ x) * mask
        velocity = 0.9 * velocity + gradient
        dense = dense - 0.1 * velocity
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        scale = dense.abs().max()
        torch.testing.assert_close(
            layer.to_dense().detach() / scale, dense / scale, rtol=1e-10, atol=1e-10
        )

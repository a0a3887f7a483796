"""Training sparse equals training dense with a mask, loss for loss, whatever the kernel."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_kernels import random_graph
from topokit.graph import EdgeUpdate, sample_absent
from topokit.nn import SparseConv2d, SparseLinear, sparse_layers
from topokit.nn.models import set_mlp

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
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
    for step in range(50):
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


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_convolutions_train_like_dense_ones_with_a_mask(rng, optimizer, kernel):
    first = SparseConv2d(random_graph(rng, 2 * 9, 6, 40), 3, padding=1, kernel=kernel, rng=rng)
    second = SparseConv2d(random_graph(rng, 6 * 4, 5, 50), 2, stride=2, kernel=kernel, rng=rng)
    model = nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(5 * 9, 3)).double()
    dense = copy.deepcopy(model)
    masks = []
    for at, sizes in ((0, (2, 6, 3, 1, 1)), (2, (6, 5, 2, 2, 0))):
        conv = nn.Conv2d(*sizes).double()
        with torch.no_grad():
            conv.weight.copy_(model[at].weight)
            conv.bias.copy_(model[at].bias)
        masks.append((conv, (model[at].weight != 0).double()))
        dense[at] = conv
    x = torch.from_numpy(rng.standard_normal((20, 2, 6, 6)))
    y = torch.from_numpy(rng.integers(3, size=20))
    losses = []
    for net in (model, dense):
        made = OPTIMIZERS[optimizer](net.parameters())
        losses.append([])
        for _ in range(50):
            made.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            for conv, mask in masks if net is dense else ():
                conv.weight.grad.mul_(mask)
            made.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=1e-9)
    for (conv, _), at in zip(masks, (0, 2), strict=True):
        torch.testing.assert_close(conv.weight.detach(), model[at].weight, rtol=1e-8, atol=1e-10)


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

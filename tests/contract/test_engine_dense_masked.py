"""Sparse training under an engine against dense masked training with the same changes of edges.

The dense model is a chain of ``torch.nn.Linear`` whose weights and gradients are multiplied by
masks. It has its own optimizer of torch on dense weights. At each rewiring the changes of the
sparse model are applied to its dense arrays: weights, every array of the optimizer's state, and the
average. What the rule sees comes from the sparse model alone, and is compared with the dense
gradient in ``unit/test_nn_captures.py``.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.marks import fast_where
from topokit.graph import LayerGraph
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.engine import attach
from topokit.rules import RULES

SIZES, STEPS, EVERY, DECAY = (7, 6, 4), 40, 7, 0.8  # five rewirings
OPTIM = torch.optim
OPTIMIZERS = {
    "sgd": lambda p: OPTIM.SGD(p, lr=0.05),
    "sgd momentum": lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "sgd nesterov": lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "sgd dampened": lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, dampening=0.1, foreach=True),
    "sgd fused": lambda p: OPTIM.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adam": lambda p: OPTIM.Adam(p, lr=0.01),
    "adam fused": lambda p: OPTIM.Adam(p, lr=0.01, fused=True),
    "adam amsgrad": lambda p: OPTIM.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adamw": lambda p: OPTIM.AdamW(p, lr=0.01, foreach=True),
    "adamw fused amsgrad": lambda p: OPTIM.AdamW(p, lr=0.01, fused=True, amsgrad=True),
    "nadam": lambda p: OPTIM.NAdam(p, lr=0.01),
    "radam": lambda p: OPTIM.RAdam(p, lr=0.01, foreach=True),
    "adamax": lambda p: OPTIM.Adamax(p, lr=0.01),
    "rmsprop": lambda p: OPTIM.RMSprop(p, lr=0.01),
    "rmsprop centered": lambda p: OPTIM.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda p: OPTIM.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "adagrad fused": lambda p: OPTIM.Adagrad(p, lr=0.05, lr_decay=0.01, fused=True),
    "adadelta": lambda p: OPTIM.Adadelta(p, lr=0.5),
    "asgd": lambda p: OPTIM.ASGD(p, lr=0.05, t0=3),
    "rprop": lambda p: OPTIM.Rprop(p, lr=0.01),
}
STARTS = {  # of grown edges, by hand: see the update formulas of torch's documentation
    "momentum_buffer": 0.0, "exp_avg": 0.0, "grad_avg": 0.0, "prev": 0.0, "exp_avg_sq": "mean",
    "max_exp_avg_sq": "mean", "exp_inf": "mean", "square_avg": "mean", "acc_delta": "mean",
    "sum": "mean", "variance": "mean", "ax": "weight", "step_size": 0.01,
}  # fmt: skip


class MaskedModel(nn.Module):
    """Dense layers with masks."""

    def __init__(self, model):
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in sparse_layers(model).values():
            linear = nn.Linear(layer.n_in, layer.n_out).double()
            linear.weight.data, linear.bias.data = (
                layer.to_dense().detach(),
                layer.bias.data.clone(),
            )
            self.layers.append(linear)

    def forward(self, x):
        for linear in self.layers[:-1]:
            x = torch.tanh(linear(x))
        return self.layers[-1](x)


def mask_of(graph):
    return torch.from_numpy(graph.to_csr().toarray() != 0)


def sparse_model(rng, dtype=torch.float64):
    parts = []
    for n_in, n_out in itertools.pairwise(SIZES):
        ids = np.sort(rng.permutation(n_in * n_out)[: n_in * n_out // 2])
        parts += [SparseLinear(LayerGraph.from_edge_ids(ids, (n_out, n_in)), rng=rng), nn.Tanh()]
    return nn.Sequential(*parts[:-1]).to(dtype)


def moved(dense, update, start, weight):
    """Apply a change of edges to a dense array; 0 where there is no edge."""
    flat, before = dense.reshape(-1), torch.from_numpy(update.before.edge_ids)
    kept = update.source[~update.grown]
    fill = start
    if start == "mean":
        fill = flat[before[kept]].mean()
    result = torch.zeros_like(flat)
    ids = torch.from_numpy(update.after.edge_ids)
    stays, grown = torch.from_numpy(~update.grown), torch.from_numpy(update.grown)
    result[ids[stays]] = flat[before[kept]]
    result[ids[grown]] = weight.reshape(-1)[ids[grown]] if start == "weight" else fill
    return result.view_as(dense)


def follow(masked, average, optimizer, model, updates):
    layers = sparse_layers(model)
    for linear, mean, (name, layer) in zip(
        masked.layers, average.module.layers, layers.items(), strict=True
    ):
        if name not in updates:
            continue
        update = updates[name]
        new = layer.to_dense().detach()
        grown = torch.from_numpy(update.after.edge_ids[update.grown])
        weight = moved(linear.weight.data, update, 0.0, new)
        weight.view(-1)[grown] = new.view(-1)[grown]  # the rule's start of grown edges
        linear.weight.data = weight
        mean.weight.data = moved(mean.weight.data, update, "weight", new)
        state = optimizer.state[linear.weight]
        for key, entry in state.items():
            if isinstance(entry, torch.Tensor) and entry.shape == weight.shape:
                state[key] = moved(entry, update, STARTS[key], new)


def train_both(make, rule, rng, **options):
    model = sparse_model(rng)
    masked = MaskedModel(model)
    masks = [mask_of(layer.graph) for layer in sparse_layers(model).values()]
    sparse, dense = make(model.parameters()), make(masked.parameters())
    x = torch.from_numpy(rng.standard_normal((STEPS, 12, SIZES[0])))
    y = torch.arange(12) % SIZES[-1]
    engine = attach(model, sparse, rule, every=EVERY, total=STEPS, rng=1, **options)
    fn = get_ema_multi_avg_fn(DECAY)
    ema = engine.average(AveragedModel(model, multi_avg_fn=fn))
    mean = AveragedModel(masked, multi_avg_fn=fn)
    for step in range(STEPS):
        sparse.zero_grad()
        dense.zero_grad()
        nn.functional.cross_entropy(model(x[step]), y).backward()
        nn.functional.cross_entropy(masked(x[step]), y).backward()
        for linear, mask in zip(masked.layers, masks, strict=True):
            linear.weight.grad *= mask
        before = engine.updates
        dense.step()
        for linear, mask in zip(masked.layers, masks, strict=True):
            linear.weight.data *= mask  # Rprop, ASGD and Adafactor divide by what is 0 elsewhere
        sparse.step()
        if engine.updates > before:
            follow(masked, mean, dense, model, engine.last)
            masks = [mask_of(layer.graph) for layer in sparse_layers(model).values()]
            if engine.steps % (2 * EVERY) == 0:
                engine.end_epoch(0.1)
        ema.update_parameters(model)
        mean.update_parameters(masked)
        yield model, masked, ema, mean, engine, masks


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def compare(make, rule, rng, **options):
    updates = 0
    for model, masked, ema, mean, engine, masks in train_both(make, rule, rng, **options):
        updates = engine.updates
        for layer, linear in zip(sparse_layers(model).values(), masked.layers, strict=True):
            close(layer.to_dense(), linear.weight)
            close(layer.bias, linear.bias)
        for layer, linear, mask in zip(
            sparse_layers(ema).values(), mean.module.layers, masks, strict=True
        ):
            close(layer.to_dense(), linear.weight * mask)
    assert updates == 5


@pytest.mark.parametrize(
    "name", fast_where(lambda name: name in ("sgd momentum", "adam"), OPTIMIZERS)
)
def test_every_optimizer_trains_as_on_masked_weights(rng, name):
    compare(OPTIMIZERS[name], "rigl", rng)


@pytest.mark.parametrize(
    "rule", fast_where(lambda rule: rule in ("set", "rigl"), [r for r in RULES if r != "ctre_seq"])
)
def test_every_rule_trains_as_on_masked_weights(rng, rule):
    compare(OPTIMIZERS["adam"], rule, rng)


def test_the_rule_that_watches_accuracy_trains_as_on_masked_weights(rng):
    compare(OPTIMIZERS["sgd momentum"], "ctre_seq", rng, epoch_steps=2 * EVERY)


@pytest.mark.parametrize("fault", ["exp_avg_sq", "exp_avg"])
def test_a_wrong_start_would_be_noticed(rng, monkeypatch, fault):
    monkeypatch.setitem(STARTS, fault, 1e-6)
    with pytest.raises(AssertionError):
        compare(OPTIMIZERS["adam"], "set", rng)


def test_every_optimizer_of_torch_is_compared_or_cannot_train_a_sparse_layer(rng):
    # LBFGS and Adafactor compute with all weights together, and so differ on a masked matrix.
    known = {type(make([torch.zeros(2, requires_grad=True)])) for make in OPTIMIZERS.values()}
    model = sparse_model(rng)
    every = {
        kind for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    } - {torch.optim.Optimizer}  # fmt: skip
    for kind in every - known - {torch.optim.LBFGS, torch.optim.Adafactor}:
        model(torch.ones(2, SIZES[0]).double()).sum().backward()
        with pytest.raises((ValueError, RuntimeError)):
            kind(model.parameters()).step()

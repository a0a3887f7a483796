"""What torch's own tools do to sparse layers is right, or refused in a sentence."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import topokit as tk
from topokit.graph import LayerGraph, same_edges
from topokit.nn import SparseLinear, decay_groups, sparse_layers, sparsity_report

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


def small(rng=0):
    parts = [nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12)]
    return tk.sparsify(nn.Sequential(*parts), density=0.4, rng=rng)


def fit(model, optimizer, steps=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 12, generator=generator)).square().mean().backward()
        optimizer.step()


# Values that belong to two layers, or are no parameter.


@pytest.mark.parametrize("rule", ["set", "rigl"])
@pytest.mark.parametrize("same_graph", [False, True])
def test_values_of_two_layers_are_refused(same_graph, rule):
    model = small()
    if same_graph:
        model[2] = copy.deepcopy(model[0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = tk.attach(model, optimizer, rule, every=1, rng=0)
    model[2].values = model[0].values
    with pytest.raises(ValueError, match="those of '0' in '2', too"):
        fit(model, optimizer)
    engine.detach()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="those of '0' in '2', too"):
        tk.attach(model, optimizer, rule, every=1, rng=0)


def test_one_layer_in_two_places_is_rewired():
    model = small()
    model[2] = model[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = tk.attach(model, optimizer, "rigl", every=1, rng=0)
    fit(model, optimizer)
    assert engine.updates == 2


@pytest.mark.parametrize("late", [False, True])
def test_pruned_values_are_not_rewired(late):
    model = small()
    if late:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        tk.attach(model, optimizer, "set", every=1, rng=0)
    prune.l1_unstructured(model[0], "values", 0.5)
    if not late:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refused = pytest.raises(ValueError, match=r"layer '0', got values computed .* prune.remove")
    with refused:
        fit(model, optimizer) if late else tk.attach(model, optimizer, every=1, rng=0)


@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_layers_that_keep_their_graph_may_share_values(rule):
    model = small()
    model.append(tk.sparsify(nn.Linear(12, 12), density=0.4, rng=5))
    model[2].values = model[3].values
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="those of '2' in '3', too"):
        tk.attach(model, optimizer, rule, every=1, skip=["0", "2"], rng=0)
    model.append(tk.sparsify(nn.Linear(12, 12), density=0.4, rng=6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = tk.attach(model, optimizer, rule, every=1, skip=["0", "2", "3"], rng=0)
    fit(model, optimizer)
    assert list(engine.last) == ["4"]


@pytest.mark.parametrize("dense", [nn.Linear(12, 10), nn.Conv1d(4, 6, 3, groups=2)])
def test_pruned_edges_are_no_edges(dense):
    layer = tk.sparsify(dense, density=0.4, rng=0)
    edges = layer.graph.edge_ids
    prune.random_unstructured(layer, "values", 0.5)
    kept = layer.values_mask.numpy() != 0
    assert 0 < kept.sum() < len(kept)
    for source in (layer, nn.Sequential(layer)):
        (graph,) = tk.topology_of(source).values()
        assert graph.edge_ids.tolist() == edges[kept].tolist()
        (graph,) = tk.topology_of(source.state_dict()).values()
        assert graph.edge_ids.tolist() == edges[kept].tolist()
    assert tk.nn.sparsity_report(layer).layers[0].edges == kept.sum()
    with pytest.raises(TypeError, match=r"got values computed .* prune.remove"):
        tk.densify(layer)
    prune.remove(layer, "values")
    assert tk.topology_of(layer)["layer"].edge_ids.tolist() == edges.tolist()


@pytest.mark.parametrize(
    "tool",
    [
        lambda layer: parametrize.register_parametrization(layer, "values", nn.ReLU()),
        lambda layer: parametrizations.weight_norm(layer, "values"),
        lambda layer: delattr(layer, "values"),
    ],
)
def test_values_cannot_be_parametrized(tool):
    model = small()
    before = model(torch.ones(2, 12))
    with pytest.raises((TypeError, ValueError), match=r"values of a sparse layer to stay"):
        tool(model[0])
    assert torch.equal(model(torch.ones(2, 12)), before)


# States that hold a part of a layer.


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("lost", ["values", "indptr", "indices", "shape", "graph"])
def test_values_without_their_graph_are_not_loaded(lost, strict):
    model, other = small(0), small(1)
    names = ("indptr", "indices", "shape") if lost == "graph" else (lost,)
    state = {k: v for k, v in other.state_dict().items() if k.rpartition(".")[2] not in names}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"expected a graph and its values .* at 0\."):
        model.load_state_dict(state, strict=strict)
    for name in ("values", "indptr", "indices", "shape"):
        assert torch.equal(model.state_dict()[f"0.{name}"], before[f"0.{name}"])


def test_a_state_of_other_layers_and_of_pruned_ones_loads():
    model, other = small(0), small(1)
    found = model.load_state_dict({"0.bias": torch.ones(12)}, strict=False)
    assert "0.values" in found.missing_keys
    for each in (model, other):
        prune.l1_unstructured(each[0], "values", 0.5)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(torch.ones(2, 12)), other(torch.ones(2, 12)))
    with pytest.raises(RuntimeError, match="expected a graph and its values"):
        model.load_state_dict(small(2).state_dict(), strict=False)


# Inputs that are overwritten.


def test_overwritten_inputs_are_refused_where_the_rule_looks_at_them():
    static = torch.zeros(6, 12)
    for rule in ("rigl", "snfs", "set"):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        engine = tk.attach(model, optimizer, rule, every=1, rng=0)
        for seed in range(2):  # accumulated gradients of two batches in one place
            static.copy_(torch.randn(6, 12, generator=torch.Generator().manual_seed(seed)))
            model(static).square().mean().backward()
        if rule == "set":
            optimizer.step()
            assert engine.updates == 1
        else:
            with pytest.raises(ValueError, match="inputs of layer '0' were overwritten"):
                optimizer.step()
        optimizer.zero_grad()
        engine.detach()


# Choices.


@pytest.mark.parametrize("key", ["only", "skip"])
@pytest.mark.parametrize("names", ["0", "02", "*"])
def test_a_single_string_is_no_list_of_names(key, names):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=f"{key}: expected a list of names or patterns"):
        tk.sparsify(model, density=0.5, rng=0, **{key: names})
    assert not sparse_layers(model)


def test_neither_biases_nor_norms_of_two_dimensions_decay():
    model = nn.Sequential(
        SparseLinear(LayerGraph.from_edge_ids([0, 3], (2, 2)), rng=0),
        nn.LayerNorm([3, 4]),
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        nn.Embedding(5, 4),
        nn.Conv1d(3, 2, 1),
    )
    decayed, others = (g["params"] for g in decay_groups(model, weight_decay=0.1))
    weights = [model[0].values, model[2].in_proj_weight, model[2].out_proj.weight]
    weights += [model[3].weight, model[4].weight]
    assert {id(p) for p in decayed} == {id(p) for p in weights}
    assert len(decayed) + len(others) == len(list(model.parameters()))


# What is no model, no generator, no number of steps, no state.


def linear():
    return nn.Sequential(nn.Linear(4, 3))


@pytest.mark.parametrize("other", [None, "m", nn.Linear, [nn.Linear(2, 2)], np.ones((2, 2))])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: tk.sparsify(model, density=0.5, rng=0),
        lambda model: tk.attach(model, None, every=1, rng=0),
        tk.densify,
        sparse_layers,
        sparsity_report,
        lambda model: decay_groups(model, weight_decay=0.1),
        lambda model: attached().average(model),
    ],
)
def test_what_is_no_module_is_refused(call, other):
    with pytest.raises(ValueError, match=r"expected a torch.nn.Module, got"):
        call(other)


def attached():
    model = small()
    return tk.attach(model, torch.optim.SGD(model.parameters(), 0.1), every=1, rng=0)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"generator": lambda *_, **__: np.ones((3, 4))}, "expected a generator that returns"),
        ({"generator": lambda *_, **__: None}, "got None for layer"),
        (
            {"generator": lambda *_, **__: LayerGraph.from_edge_ids([0], (4, 3))},
            r"of shape \(3, 4\), .* \(4, 3\)",
        ),
        ({"report": 3}, "report: expected a function"),
        ({"only": ["0", 3]}, "only: expected a list of names"),
        ({"skip": [None]}, "skip: expected a list of names"),
        ({"skip": 0}, "skip: expected a list of names"),
        ({"skip": (name for name in ["0"])}, "skip: expected a list of names"),
    ],
)
def test_wrong_choices_leave_the_model_as_it_was(choice, words):
    model = linear()
    with pytest.raises(ValueError, match=words):
        tk.sparsify(model, density=0.5, rng=0, **choice)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("value", [0, 2.5, "3", True])
@pytest.mark.parametrize("key", ["total", "epoch_steps"])
def test_numbers_of_steps_are_whole(key, value):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=f"{key}: expected a positive whole number"):
        tk.attach(model, optimizer, every=1, rng=0, **{key: value})
    with pytest.raises(ValueError, match="recorder: expected a function"):
        tk.attach(model, optimizer, every=1, rng=0, recorder=3)
    tk.attach(model, optimizer, every=1, rng=0, **{key: np.int64(3)})


@pytest.mark.parametrize("state", [None, {}, {"steps": 1}, {"0.bias": torch.ones(2)}, "x.pt"])
def test_what_is_no_state_of_an_engine_is_refused(state):
    engine = attached()
    before = engine.state_dict()
    with pytest.raises(
        ValueError, match=r"state: expected what engine.state_dict\(\) returned, got"
    ):
        engine.load_state_dict(state)
    assert str(engine.state_dict()) == str(before)


# Averages.


def test_an_average_registered_twice_follows_once():
    engine = attached()
    average = AveragedModel(engine.model)
    for each in (average, average, average.module):
        assert engine.average(each) is each
    fit(engine.model, engine.optimizer)
    average.update_parameters(engine.model)
    for name, layer in sparse_layers(average.module).items():
        assert layer.graph == engine.topology[name]


def test_averages_of_the_graph_itself_name_their_cause():
    engine = attached()
    average = AveragedModel(
        engine.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
    )  # rounds whole numbers down
    engine.average(average)

    def go_on():
        for _ in range(3):
            fit(engine.model, engine.optimizer, 1)
            average.update_parameters(engine.model)

    with pytest.raises(ValueError, match=r"averages of buffers \(use_buffers=True\) .* round"):
        go_on()


# The meta device.


def test_a_graph_on_the_meta_device_is_one_without_edges():
    model = tk.sparsify(linear(), density=0.5, rng=0).to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for call in (
        lambda: model[0].graph,
        lambda: tk.topology_of(model),
        lambda: sparsity_report(model),
        lambda: tk.attach(model, optimizer, every=1, rng=0),
    ):
        with pytest.raises(ValueError, match="graph with its edges, got one on the meta device"):
            call()
    dense = tk.densify(model)
    assert type(dense[0]) is nn.Linear
    assert dense[0].weight.is_meta
    assert dense[0].weight.shape == (3, 4)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("density", [0.5, 0.25])
def test_a_state_is_loaded_into_a_model_on_the_meta_device(way, density):
    source = tk.sparsify(linear(), density=density, rng=1)
    empty = way(tk.sparsify(linear(), density=0.5, rng=0).to("meta"))
    empty.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(5, 4)
    assert torch.equal(empty(x), source(x))
    assert same_edges(empty[0].graph, source[0].graph)
    other = nn.Sequential(SparseLinear(LayerGraph.from_edge_ids([0], (2, 4)), rng=0)).to("meta")
    with pytest.raises(RuntimeError, match=r"expected a graph of shape \(2, 4\)"):
        other.load_state_dict(source.state_dict(), assign=True)

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.strategies import edge_updates
from tests.unit.test_nn_kernels import random_graph
from topokit.graph import EdgeUpdate, LayerGraph, same_edges, sample_absent
from topokit.nn import INITS, SparseLinear, explain_kernel, sparse_layers
from topokit.nn.sparsify import sparsify


def layer_of(rng, n_in=20, n_out=10, n_edges=60, **options):
    return SparseLinear(random_graph(rng, n_in, n_out, n_edges), rng=rng, **options)


def assert_trains(layer):
    """The output is that of its dense matrix, and a step changes what the values say."""
    x = torch.randn(5, layer.n_in, dtype=layer.values.dtype, generator=seeded())
    expected = x @ layer.to_dense().T
    expected = expected if layer.bias is None else expected + layer.bias
    torch.testing.assert_close(layer(x), expected)
    before = layer.values.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, layer.values)
    torch.testing.assert_close(
        layer(x), x @ layer.to_dense().T + (0 if layer.bias is None else layer.bias)
    )
    optimizer.zero_grad()


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kernel", ["csr", "dense", "auto"])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_its_dense_matrix_and_trains(rng, kernel, bias):
    assert_trains(layer_of(rng, kernel=kernel, bias=bias))


def test_zero_values_stay_edges(rng):
    layer = layer_of(rng, init="zeros")
    assert layer.nnz == 60
    assert layer.view().values.tolist() == [0.0] * 60
    layer(torch.ones(1, 20)).sum().backward()
    assert (layer.values.grad == 1).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_whole_and_independent(rng, copied):
    layer = layer_of(rng)
    layer.capture = True
    layer(torch.ones(2, 20)).sum().backward()
    twin = copied(layer)
    assert same_edges(twin.graph, layer.graph)
    assert twin.capture
    values = layer.values.detach().clone()
    assert_trains(twin)
    assert torch.equal(layer.values, values)
    assert_trains(layer)


def test_double_and_to_keep_the_layer_trainable(rng):
    for layer in (layer_of(rng).double(), layer_of(rng).to(torch.float64).float()):
        assert_trains(layer)
        with torch.no_grad():
            x = torch.ones(1, 20, dtype=layer.values.dtype)
            y = layer(x)
            layer.values.add_(5)
            assert (layer(x) != y).any()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("n_edges", [60, 17, 0, 200])
def test_loading_a_state_replaces_the_graph(rng, assign, n_edges):
    source, target = layer_of(rng, n_edges=n_edges), layer_of(rng)
    stale = target(torch.ones(1, 20)).sum()
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert set(state) == {"values", "bias", "indptr", "indices", "shape"}
    target.load_state_dict(state, assign=assign)
    assert same_edges(target.graph, source.graph)
    assert torch.equal(target.values, source.values)
    x = torch.randn(3, 20, generator=seeded())
    assert torch.equal(source(x), target(x))
    if n_edges:
        assert_trains(target)
    assert stale.isfinite()


def test_loading_a_state_that_does_not_fit_is_an_error(rng):
    layer = layer_of(rng)
    other = layer_of(rng, n_in=21)
    graph = layer.graph
    with pytest.raises(RuntimeError, match=r"graph of shape \(10, 20\) .* got \(10, 21\)"):
        layer.load_state_dict(other.state_dict())
    state = layer.state_dict()
    state["values"] = state["values"][:5]
    with pytest.raises(RuntimeError, match="expected 60 edge values at values, got shape"):
        layer.load_state_dict(state)
    state = {name: entry.clone() for name, entry in layer.state_dict().items()}
    state["indices"][0] = 99
    with pytest.raises(RuntimeError, match=r"is damaged: expected input units in 0\.\.19"):
        layer.load_state_dict(state)
    del state["indices"]
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(state)
    assert same_edges(layer.graph, graph)
    assert_trains(layer)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@given(update=edge_updates(), seed=st.integers(0, 99))
def test_replace_graph_carries_values_and_optimizer_state(optimizer, update, seed):
    rng = np.random.default_rng(seed)
    layer = SparseLinear(update.before, rng=rng)
    optimizer = OPTIMIZERS[optimizer](layer.parameters())
    x = torch.from_numpy(rng.standard_normal((3, layer.n_in), dtype=np.float32))
    loss = layer(x).square().sum()
    loss.backward()
    optimizer.step()
    held = {k: v.clone() for k, v in optimizer.state[layer.values].items() if v is not None}
    parameter, values = layer.values, layer.view().values
    layer.replace_graph(update, update.carry(values, fill=7), optimizer, grown_state="zero")
    assert layer.values is parameter
    assert same_edges(layer.graph, update.after)
    assert layer.values.detach().numpy().tobytes() == update.carry(values, fill=7).tobytes()
    for name, entry in held.items():
        now = optimizer.state[layer.values][name]
        if entry.shape == (update.before.n_edges,) and entry.ndim == 1:
            assert np.array_equal(now.numpy(), update.carry(entry.numpy()))
        else:
            assert torch.equal(now, entry)
    again = layer(x).square().sum()  # `loss` keeps the old graph alive
    again.backward()
    optimizer.step()
    assert loss.isfinite()
    assert layer.values.grad.shape == layer.values.shape


def test_replace_graph_refuses_what_does_not_fit(rng):
    layer, other = layer_of(rng), layer_of(rng)
    update = EdgeUpdate.between(other.graph, layer.graph)
    with pytest.raises(ValueError, match="expected an update of LayerGraph"):
        layer.replace_graph(update, np.zeros(60))
    grown = EdgeUpdate.from_decisions(layer.graph, [], sample_absent(layer.graph, 2, rng))
    with pytest.raises(ValueError, match=r"the 62 edges of the new graph, got shape \(60,\)"):
        layer.replace_graph(grown, np.zeros(60))
    assert layer.nnz == 60


def test_state_of_a_rewired_layer_loads_into_a_fresh_one(rng):
    layer, fresh = layer_of(rng), layer_of(rng)
    update = EdgeUpdate.from_decisions(layer.graph, [0, 5], sample_absent(layer.graph, 9, rng))
    layer.replace_graph(update, update.carry(layer.view().values))
    fresh.load_state_dict(layer.state_dict())
    assert fresh.nnz == 67
    assert torch.equal(fresh.to_dense(), layer.to_dense())


def test_graph_is_cached_and_follows_its_buffers(rng):
    layer = layer_of(rng)
    assert layer.graph is layer.graph
    layer(torch.ones(1, 20))
    layer.indices.copy_(layer.indices)
    with torch.inference_mode():
        inside = layer_of(rng)
        assert inside(torch.ones(1, 20)).shape == (1, 10)


def test_view_holds_the_captured_batch(rng):
    layer = layer_of(rng)
    assert layer.view().inputs is None
    layer.capture = True
    x = torch.randn(2, 3, 20, generator=seeded())
    y = layer(x)
    (y * torch.arange(10)).sum().backward()
    view = layer.view()
    np.testing.assert_array_equal(view.inputs, x.reshape(6, 20))
    np.testing.assert_array_equal(view.outputs, y.detach().reshape(6, 10))
    np.testing.assert_array_equal(view.output_grad, np.tile(np.arange(10.0), (6, 1)))
    at_edges = view.dense_grad(slice(0, 10)).ravel()[view.graph.edge_ids]
    np.testing.assert_allclose(at_edges, layer.values.grad, rtol=1e-4, atol=1e-4)
    layer.keep("outputs", torch.relu(y))
    assert layer.view().outputs.min() == 0
    layer.capture = False
    assert layer.view().inputs is None


def test_from_dense_and_back(rng):
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight[:, 1] = 0
    layer = SparseLinear.from_dense(linear)
    assert (layer.nnz, layer.in_features, layer.out_features) == (20, 6, 4)
    assert torch.equal(layer.to_dense(), linear.weight)
    x = torch.randn(3, 6, generator=seeded())
    torch.testing.assert_close(layer(x), linear(x))
    graph = LayerGraph.from_edge_ids([0, 23], (4, 6))
    part = SparseLinear.from_dense(nn.Linear(6, 4, bias=False, dtype=torch.float64), graph)
    assert part.bias is None
    assert part.values.dtype == torch.float64
    with pytest.raises(ValueError, match=r"shape \(4, 6\), got \(6, 4\)"):
        SparseLinear.from_dense(linear, LayerGraph.from_edge_ids([], (6, 4)))


def test_initial_values_have_the_stated_spread(rng):
    graph = random_graph(rng, 500, 400, 10_000)
    spread = {name: SparseLinear(graph, init=name, rng=rng).values.std().item() for name in INITS}
    expected = {
        "he": (2 / 25) ** 0.5, "he_dense_uniform": (2 / 500) ** 0.5,
        "glorot": (2 / (25 + 20)) ** 0.5, "normal": 0.1, "zeros": 0.0, "normal_rbm": 0.05,
        "he_normal": (2 / 500) ** 0.5, "he_uniform": (2 / 500) ** 0.5, "half_std": 0.0,
        "glorot_dense_uniform": (2 / (400 + 500)) ** 0.5,
    }  # fmt: skip
    assert spread == pytest.approx(expected, rel=0.05)
    with pytest.raises(ValueError, match="unknown init 'xavier'; inits: glorot, glorot_d"):
        SparseLinear(graph, init="xavier", rng=rng)
    with pytest.raises(ValueError, match="expected a kernel of"):
        SparseLinear(graph, kernel="fast", rng=rng)


def test_sparse_layers_are_found_in_order(rng):
    model = nn.Sequential(layer_of(rng), nn.Sequential(nn.ReLU(), layer_of(rng, 10, 5, 20)))
    assert list(sparse_layers(model)) == ["0", "1.1"]
    assert explain_kernel(model[0]).startswith("csr: density 0.3 is below the crossover")
    assert "20 -> 10, 60 edges" in repr(model)


def test_memory_of_a_layer_is_linear_in_its_edges(rng):
    layer = SparseLinear(LayerGraph.from_edge_ids(range(0, 10**12, 10**8), (10**6, 10**6)), rng=rng)
    y = layer(torch.ones(2, 10**6))
    y.sum().backward()
    assert layer.values.grad.shape == (10**4,)


def test_training_takes_at_most_32_bytes_an_edge(rng):
    layer = layer_of(rng, 2000, 2000, 40_000, kernel="csr")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(2, 2000, requires_grad=True)).sum().backward()
    optimizer.step()
    index, tensors = layer.index, [layer.values, layer.values.grad, layer.indices]
    tensors.append(optimizer.state[layer.values]["momentum_buffer"])
    held = sum(t.numel() * t.element_size() for t in tensors)
    held += index.graph.indices.nbytes + sum(part.nbytes for part in index.transposed[1:])
    assert held == 28 * layer.nnz


X = torch.ones(3, 10)
NOT_DENSE = {
    "torch.sparse_coo": X.to_sparse(),
    "a nested": torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged),
    "ndarray": X.numpy(),
    "NoneType": None,
}


@pytest.mark.parametrize("got", NOT_DENSE)
@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("dense", [
    nn.Linear(10, 5), nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 2)),
    nn.Conv1d(3, 5, 2), nn.GRU(10, 5), nn.GRUCell(10, 5), nn.MultiheadAttention(10, 2),
])  # fmt: skip
def test_inputs_that_are_no_dense_tensor_are_refused_in_words(dense, kernel, got):
    layer = sparsify(copy.deepcopy(dense), density=0.4, kernel=kernel, rng=0)
    arguments = [NOT_DENSE[got]] * (3 if isinstance(dense, nn.MultiheadAttention) else 1)
    with pytest.raises(TypeError, match=rf"expected (a dense|a torch|padded).* got.* {got}"):
        layer(*arguments)

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.test_nn_kernels import random_graph
from topokit.graph import EdgeUpdate, LayerGraph, sample_absent
from topokit.graph.convert import channel_graph
from topokit.nn import SparseConv2d, SparseConvTranspose2d, explain_kernel
from topokit.nn.sparsify import sparsify
from topokit.read import topology_of

SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
    {"kernel_size": 1, "bias": False},
]


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_convolution_equals_the_dense_one(rng, options, kernel):
    cells = int(np.prod(np.broadcast_to(options["kernel_size"], 2)))
    graph = random_graph(rng, 3 * cells, 5, 6 * cells)
    conv = SparseConv2d(graph, **options, kernel=kernel, rng=rng).double()
    dense = nn.Conv2d(3, 5, **options).double()
    with torch.no_grad():
        dense.weight.copy_(conv.weight)
        if dense.bias is not None:
            conv.bias.normal_()
            dense.bias.copy_(conv.bias)
    a, b = (torch.from_numpy(rng.standard_normal((2, 3, 9, 8))) for _ in range(2))
    b = b.copy_(a)
    ya, yb = conv(a.requires_grad_()), dense(b.requires_grad_())
    torch.testing.assert_close(ya, yb, rtol=1e-12, atol=1e-12)
    ya.sin().sum().backward()
    yb.sin().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-11)
    at_edges = dense.weight.grad.flatten()[torch.from_numpy(graph.edge_ids)]
    torch.testing.assert_close(conv.values.grad, at_edges, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(conv(a[0]), dense(a[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_gradcheck(rng, kernel):
    conv = SparseConv2d(random_graph(rng, 8, 3, 9), 2, stride=2, kernel=kernel, rng=rng).double()
    x = torch.from_numpy(rng.standard_normal((2, 2, 4, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: conv(x), (x, conv.values))


def test_view_has_one_sample_for_each_position(rng):
    conv = SparseConv2d(random_graph(rng, 18, 4, 20), 3, stride=2, rng=rng).double()
    conv.capture = True
    x = torch.from_numpy(rng.standard_normal((2, 2, 7, 5)))
    y = conv(x)
    y.sin().sum().backward()
    view = conv.view()
    assert view.inputs.shape == (2 * 3 * 2, 18)
    product = view.inputs @ conv.to_dense().detach().numpy().T
    np.testing.assert_allclose(view.outputs, product + conv.bias.detach().numpy())
    gradient = view.dense_grad(slice(0, 4)).ravel()[view.graph.edge_ids]
    np.testing.assert_allclose(gradient, conv.values.grad)


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("sizes", [[(7, 6), (6, 7)], [(7, 7), None], [(6, 7)]])
def test_calls_of_a_transposed_convolution_with_outputs_of_several_sizes(rng, kernel, sizes):
    graph = random_graph(rng, 8, 3, 12)
    conv = SparseConvTranspose2d(graph, 2, stride=2, kernel=kernel, rng=rng).double()
    conv.capture = True
    x = torch.from_numpy(rng.standard_normal((2, 2, 3, 3)))
    for size in sizes:
        conv(x, size, relu=True).sin().sum().backward()
    with torch.no_grad():
        conv(x)  # an evaluation
    view = conv.view()
    product = view.inputs @ conv.to_dense().detach().numpy().T
    np.testing.assert_allclose(view.outputs, product + conv.bias.detach().numpy(), atol=1e-12)
    gradient = view.dense_grad(slice(0, 3)).ravel()[graph.edge_ids]
    np.testing.assert_allclose(gradient, conv.values.grad, atol=1e-12)


def test_copies_states_and_rewiring(rng):
    conv, other = (SparseConv2d(random_graph(rng, 18, 4, n), 3, rng=rng) for n in (20, 33))
    x = torch.ones(1, 2, 5, 5)
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(twin(x), conv(x))
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(x), conv(x))
    update = EdgeUpdate.from_decisions(conv.graph, [0, 1], sample_absent(conv.graph, 4, rng))
    conv.replace_graph(update, update.carry(conv.view().values, fill=1))
    assert conv.nnz == 22
    assert topology_of(conv)["layer"].n_edges == 22
    assert channel_graph(conv.graph, 9).shape == (4, 2)


def test_from_dense_and_reasons(rng):
    dense = nn.Conv2d(2, 4, 3, padding=1)
    conv = SparseConv2d.from_dense(dense)
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(conv(x), dense(x))
    assert explain_kernel(conv) == (
        "dense: 4 output channels at density 1; "
        "computed sparsely they cost as much as 112 dense ones"
    )
    wide = SparseConv2d(random_graph(rng, 18, 300, 200), 3, rng=rng)
    assert explain_kernel(wide).startswith("csr: 300 output channels at density 0.037;")
    few = SparseConv2d(LayerGraph.from_edge_ids([3], (4, 18)), 3, kernel="csr", rng=rng)
    assert explain_kernel(few) == "csr: asked for"
    assert "2 -> 4, kernel_size=(3, 3)" in repr(few)


def test_what_does_not_fit_is_refused(rng):
    with pytest.raises(ValueError, match="20 input units are channels times 3 x 3 kernel cells"):
        SparseConv2d(LayerGraph.from_edge_ids([], (4, 20)), 3, rng=rng)
    with pytest.raises(ValueError, match="edges within 2 groups, got one from group to group"):
        SparseConv2d.from_dense(
            nn.Conv2d(2, 4, 3, groups=2), LayerGraph.from_edge_ids([9], (4, 18))
        )
    with pytest.raises(TypeError, match=r"expected a torch.nn.Conv2d, got Conv1d"):
        SparseConv2d.from_dense(nn.Conv1d(2, 4, 3))
    with pytest.raises(ValueError, match="expected stride as one or 2 integers"):
        SparseConv2d(LayerGraph.from_edge_ids([], (4, 18)), 3, (1, 2, 3), rng=rng)
    for options, message in {
        ("padding_mode", "mirror"): "expected a padding_mode of zeros, reflect, .*, got 'mirror'",
        ("padding", "full"): "expected padding as numbers, 'same' or 'valid', got 'full'",
        ("groups", 3): "groups that divides 18 input and 4 output units, got 3",
    }.items():
        with pytest.raises(ValueError, match=message):
            SparseConv2d(LayerGraph.from_edge_ids([], (4, 18)), 3, **dict([options]), rng=rng)
    with pytest.raises(ValueError, match="expected a stride of 1 with padding='same'"):
        SparseConv2d(LayerGraph.from_edge_ids([], (4, 18)), 3, 2, "same", rng=rng)
    with pytest.raises(ValueError, match="at least as large as the kernel"):
        SparseConv2d(LayerGraph.from_edge_ids([], (4, 18)), 3, kernel="csr", rng=rng)(
            torch.ones(1, 2, 2, 5)
        )
    with pytest.raises(ValueError, match=r"shape \(4, 18\), got \(4, 9\)"):
        SparseConv2d.from_dense(nn.Conv2d(2, 4, 3), LayerGraph.from_edge_ids([], (4, 9)))


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("dense", [
    nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 3, dilation=2),
    nn.ConvTranspose3d(4, 6, 2), nn.Conv1d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2),
    nn.Conv3d(4, 6, 2),
])  # fmt: skip
def test_a_batch_without_samples_has_outputs_of_its_size(dense, kernel):
    conv = sparsify(copy.deepcopy(dense), density=0.3, kernel=kernel, rng=0)
    dims = len(dense.kernel_size)
    x = torch.ones(0, 4, *[7] * dims, requires_grad=True)
    y = conv(x)
    assert y.shape == dense(x).shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not conv.values.grad.any()

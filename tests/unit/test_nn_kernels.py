import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import topokit
from tests.strategies import layer_graphs
from topokit.graph import LayerGraph
from topokit.nn import kernels
from topokit.nn.activations import SReLU, dropped_out
from topokit.nn.kernels import EdgeIndex, choose_kernel, edge_product, products
from topokit.nn.kernels import threads as kernel_threads
from topokit.nn.kernels.autograd import EdgeProduct
from topokit.nn.kernels.products import PRODUCTS


def random_graph(rng, n_in, n_out, n_edges):
    ids = np.sort(rng.choice(n_in * n_out, n_edges, replace=False))
    return LayerGraph.from_edge_ids(ids, (n_out, n_in))


def dense_of(graph, values):
    weight = torch.zeros(graph.n_out * graph.n_in, dtype=values.dtype)
    return weight.scatter(0, torch.from_numpy(graph.edge_ids), values).view(graph.shape)


def gradients(function, x, values, bias):
    tensors = [t.detach().clone(memory_format=torch.preserve_format) for t in (x, values, bias)]
    for tensor in tensors:
        tensor.requires_grad_()
    y = function(*tensors)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)
    (y * weight).sum().backward()
    return [y.detach(), *(tensor.grad for tensor in tensors)]


def inputs(rng, graph, batch, dtype=torch.float64):
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype)  # noqa: E731
    return draw(batch, graph.n_in), draw(graph.n_edges), draw(graph.n_out)


@pytest.mark.parametrize("name", sorted({*PRODUCTS} - {"triton"}))  # that is in test_nn_card
@given(graph=layer_graphs(), batch=st.integers(0, 20), seed=st.integers(0, 99))
def test_every_product_equals_dense_algebra(name, graph, batch, seed):
    x, values, bias = inputs(np.random.default_rng(seed), graph, batch)
    index = EdgeIndex(graph)
    ours = gradients(
        lambda x, v, b: EdgeProduct.apply(x, v, b, index, False, PRODUCTS[name]), x, values, bias
    )
    oracle = gradients(lambda x, v, b: x @ dense_of(graph, v).T + b, x, values, bias)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 7, 8, 9, 63, 64, 65, 100, 128, 129, 200, 300, 513])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_kernel_takes_every_batch_size(rng, batch, dtype):
    graph = random_graph(rng, 23, 17, 120)
    x, values, bias = inputs(rng, graph, batch, dtype)
    index = EdgeIndex(graph)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4}
    tolerance.setdefault("atol", 1e-4)
    ours = gradients(lambda x, v, b: edge_product(x, v, b, index, "csr"), x, values, bias)
    oracle = gradients(lambda x, v, b: x @ dense_of(graph, v).T + b, x, values, bias)
    for a, b in zip(ours, oracle, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    skipped = torch.autograd.grad(
        edge_product(x, v := values.requires_grad_(), bias, index, "csr").sin().sum(), v
    )
    full = torch.autograd.grad(
        edge_product(x.requires_grad_(), v, bias, index, "csr").sin().sum(), [v, x]
    )
    torch.testing.assert_close(skipped[0], full[0], **tolerance)


def uneven_graph():
    """Empty rows and columns at both ends and between, a full row and a full column."""
    mask = np.zeros((11, 13), bool)
    mask[1:5, 1:8], mask[7:10, 9:12] = True, True
    mask[6, 1:-1], mask[1:-1, 5] = True, True
    mask[3] = False
    return LayerGraph.from_edge_ids(np.flatnonzero(mask), mask.shape)


@pytest.mark.parametrize("batch", [1, 6, 64, 65, 130])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("tile_bytes", [600, 1 << 19])
def test_kernels_write_every_element_of_uneven_graphs(rng, monkeypatch, batch, relu, tile_bytes):
    monkeypatch.setattr(products, "ENOUGH_EDGES", 1)
    monkeypatch.setattr(products, "TILE_BYTES", tile_bytes)
    fresh = torch.Tensor.new_empty
    graph = uneven_graph()
    assert {graph.fan_in.min(), graph.fan_out.min()} == {0}
    x, values, bias = inputs(rng, graph, batch)
    x = torch.relu(x)
    found = []
    for kernel in ("csr", "dense"):
        index = EdgeIndex(graph)
        if kernel == "csr":
            monkeypatch.setattr(
                torch.Tensor, "new_empty", lambda *args, **kw: fresh(*args, **kw).fill_(torch.nan)
            )
        leaves = [t.clone().requires_grad_() for t in (x, values, bias)]
        masked = edge_product(torch.relu(leaves[0]), *leaves[1:], index, kernel, relu=relu)
        first = torch.autograd.grad(masked.square().sum(), leaves)
        alone = edge_product(x, *leaves[1:], index, kernel, relu=relu)
        second = torch.autograd.grad(alone.sin().sum(), leaves[1:])
        found.append([masked, *first, *second])
        monkeypatch.undo()
        monkeypatch.setattr(products, "ENOUGH_EDGES", 1)
        monkeypatch.setattr(products, "TILE_BYTES", tile_bytes)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_gradcheck(rng, kernel):
    graph = random_graph(rng, 6, 5, 13)
    x, values, bias = (t.requires_grad_() for t in inputs(rng, graph, 4))
    index = EdgeIndex(graph)
    assert torch.autograd.gradcheck(
        lambda x, v, b: edge_product(x, v, b, index, kernel), (x, values, bias)
    )


@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_any_strides_and_leading_dimensions(rng, kernel):
    graph = random_graph(rng, 6, 5, 13)
    _, values, bias = inputs(rng, graph, 1)
    index = EdgeIndex(graph)
    base = torch.from_numpy(rng.standard_normal((4, 3, 12)))
    for x in (
        base[..., ::2],
        base[..., :6].transpose(0, 1),
        base[0, 0, :6],
        base[0, :1, :6].expand(7, 6),
        base[:, 0, :6].t().contiguous().t(),
        base[:0, :, :6],
        base[..., :1].expand(4, 3, 6),
    ):
        expected = x @ dense_of(graph, values).T + bias
        torch.testing.assert_close(edge_product(x, values, bias, index, kernel), expected)


def test_layout_passes_through_without_copies(rng):
    graph = random_graph(rng, 6, 5, 13)
    x, values, bias = inputs(rng, graph, 4)
    y = edge_product(x, values, bias, EdgeIndex(graph), "csr")
    assert y.t().is_contiguous()
    assert torch.relu(y).t().is_contiguous()
    assert products.units_first(y).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(rng, dtype):
    graph = random_graph(rng, 30, 20, 200)
    x, values, bias = (t.to(dtype) for t in inputs(rng, graph, 16))
    exact = x.double() @ dense_of(graph, values.double()).T + bias.double()
    y = edge_product(x, values.requires_grad_(), bias, EdgeIndex(graph), "csr")
    assert y.dtype == dtype
    torch.testing.assert_close(y.detach(), exact.detach().to(dtype))
    y.sum().backward()
    assert values.grad.dtype == dtype


def test_autocast_computes_in_the_dtype_of_the_values(rng):
    graph = random_graph(rng, 6, 5, 13)
    x, values, bias = inputs(rng, graph, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = edge_product(x.bfloat16(), values, bias, EdgeIndex(graph), "csr")
    assert y.dtype == torch.float32


def test_results_do_not_depend_on_the_number_of_threads(rng, monkeypatch):
    monkeypatch.setattr(products, "TILE_BYTES", 4000)
    graphs = random_graph(rng, 60, 50, 900), random_graph(rng, 50, 40, 700)
    x, v1, b1 = inputs(rng, graphs[0], 300, torch.float32)
    _, v2, b2 = inputs(rng, graphs[1], 1, torch.float32)
    first, second = (EdgeIndex(graph) for graph in graphs)
    assert first.tiles(products.BLOCK_BYTES)[1] > 1
    srelu = SReLU(40, rng=np.random.default_rng(0))

    def step():
        tensors = [t.clone().requires_grad_() for t in (x, v1, b1, v2, b2)]
        hidden = edge_product(*tensors[:3], first, "csr", relu=True)
        y = srelu(edge_product(hidden, *tensors[3:], second, "csr"))
        y = dropped_out(y, 0.3, torch.Generator().manual_seed(0))
        own = list(srelu.parameters())
        return [y, *torch.autograd.grad(y.square().sum(), [*tensors, *own])]

    alone = step()
    monkeypatch.setattr(kernel_threads, "SERIAL_WORK", 0)
    for threads in (2, 3, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for a, b in zip(alone, step(), strict=True):
            assert torch.equal(a, b)


def test_own_threads_are_used_if_torch_has_no_openmp(rng, monkeypatch):
    graph = random_graph(rng, 60, 50, 900)
    x, values, bias = inputs(rng, graph, 70, torch.float32)
    alone = edge_product(x, values, bias, EdgeIndex(graph), "csr")
    monkeypatch.setattr(kernel_threads, "SERIAL_WORK", 0)
    monkeypatch.setattr(kernel_threads, "_gomp_parallel", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(alone, edge_product(x, values, bias, EdgeIndex(graph), "csr"))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=9), st.integers(1, 12))
def test_rows_are_split_once_and_completely(degrees, parts):
    starts = np.concatenate([[0], np.cumsum(degrees)])
    bounds = np.array(kernel_threads.equal_edge_bounds(starts, parts))
    assert bounds.size == parts + 1
    assert bounds[0] == 0
    assert bounds[-1] == len(degrees)
    assert np.all(np.diff(bounds) >= 0)
    share = starts[-1] / parts + max(degrees)
    assert np.all(np.diff(starts[bounds]) <= share)


def test_auto_chooses_by_density_and_says_why(rng):
    sparse, middle = random_graph(rng, 100, 100, 100), random_graph(rng, 100, 100, 5000)
    assert choose_kernel("auto", sparse)[0] == "csr"
    assert choose_kernel("auto", middle, batch=100) == (
        "csr",
        "density 0.5 is below the crossover 0.8 measured on cpu, batch 100",
    )
    assert choose_kernel("auto", middle, batch=1000) == (
        "dense",
        "density 0.5 is above the crossover 0.35 measured on cpu, batch 1000",
    )
    complete = random_graph(rng, 10, 10, 100)
    assert choose_kernel("auto", complete) == ("dense", "the graph is complete")
    assert choose_kernel("csr", complete) == ("csr", "asked for")
    assert choose_kernel("auto", middle, "xpu") == (
        "dense",
        "density 0.5 is above the crossover 0.05 assumed on xpu",
    )


@pytest.fixture
def matmul():
    """Torch's settings of products on a card, put back afterwards."""
    before = torch.get_float32_matmul_precision()
    yield torch.backends.cuda.matmul
    torch.set_float32_matmul_precision(before)


def test_auto_on_a_card_says_which_dense_product_it_compares_with(rng, matmul, monkeypatch):
    graph = random_graph(rng, 100, 100, 400)  # 4 %
    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["torch"])
    assert choose_kernel("auto", graph, "cuda") == (
        "csr",
        "density 0.04 is below the crossover 0.05 assumed on cuda",
    )
    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["triton"])
    half, single = torch.bfloat16, torch.float32
    for dtype, tf32, batch, limit, choice, words in (
        (single, False, 128, 0.18, "csr", "batches of 128 against dense float32"),
        (torch.float64, True, 128, 0.07, "csr", "batches of 128 against dense float64"),
        (torch.float64, True, 1024, 0.027, "dense", "batches of 1024 against dense float64"),
        (single, True, 128, 0.057, "csr", "batches of 128 against dense TF32"),
        (single, True, 1024, 0.022, "dense", "batches of 1024 against dense TF32"),
        (half, False, 128, 0.022, "dense", "batches of 128 against dense float16 or bfloat16"),
        (torch.float16, False, 1024, 0.013, "dense", "1024 against dense float16 or bfloat16"),
    ):
        matmul.allow_tf32 = tf32
        chosen, reason = choose_kernel("auto", graph, "cuda", batch=batch, dtype=dtype)
        assert chosen == choice
        side = "below" if choice == "csr" else "above"
        assert f"density 0.04 is {side} the crossover {limit:g} measured" in reason
        assert words in reason
    torch.set_float32_matmul_precision("high")
    assert "TF32" in choose_kernel("auto", graph, "cuda")[1]
    assert choose_kernel("auto", graph, "cpu")[0] == "csr"


def test_few_outputs_are_sparse_on_a_card(matmul, monkeypatch):
    """Where a complete layer has at most 32 outputs, in float32."""
    complete, wide = (LayerGraph.from_edge_ids(range(n * 40), (n, 40)) for n in (10, 33))
    monkeypatch.setattr(kernels, "sparse_product", lambda kind: PRODUCTS["triton"])
    matmul.allow_tf32 = False
    assert choose_kernel("auto", complete, "cuda") == (
        "csr",
        "the graph is complete, with no more than 32 outputs on a card",
    )
    assert choose_kernel("auto", wide, "cuda") == ("dense", "the graph is complete")
    for dtype in (torch.bfloat16, torch.float64):
        assert choose_kernel("auto", complete, "cuda", dtype=dtype)[0] == "dense"
    assert choose_kernel("auto", complete, "cpu") == ("dense", "the graph is complete")
    matmul.allow_tf32 = True
    assert choose_kernel("auto", complete, "cuda")[0] == "dense"


def test_invalid_input_is_refused_with_a_message(rng):
    graph = random_graph(rng, 6, 5, 13)
    x, values, bias = inputs(rng, graph, 4)
    index = EdgeIndex(graph)
    with pytest.raises(ValueError, match=r"expected an input of shape \(\.\.\., 6\), got \(4, 5\)"):
        edge_product(x[:, :5], values, bias, index)
    with pytest.raises(ValueError, match=r"one value for each of the 13 edges, got shape \(12,\)"):
        edge_product(x, values[:12], bias, index)
    with pytest.raises(ValueError, match=r"expected a bias of shape \(5,\), got \(4,\)"):
        edge_product(x, values, bias[:4], index)
    with pytest.raises(TypeError, match=r"expected the input in torch.float64 .* convert with"):
        edge_product(x.float(), values, bias, index)
    with pytest.raises(TypeError, match=r"expected the bias in torch.float64"):
        edge_product(x, values, bias.float(), index)
    with pytest.raises(ValueError, match="expected a kernel of auto, csr, dense, got 'fast'"):
        edge_product(x, values, bias, index, "fast")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", ["csr", "dense"])
def test_cuda_equals_cpu(rng, kernel):
    graph = random_graph(rng, 60, 50, 900)
    x, values, bias = inputs(rng, graph, 70)
    index = EdgeIndex(graph)
    here = gradients(lambda x, v, b: edge_product(x, v, b, index, kernel), x, values, bias)
    y, *there = gradients(
        lambda x, v, b: edge_product(x.cuda(), v.cuda(), b.cuda(), index, kernel).cpu(),
        x, values, bias,
    )  # fmt: skip
    for a, b in zip(here, [y, *there], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def rectified_chain(chain, x, y, relu):
    """Two products with a ReLU between and after, the first output used once or twice."""
    (first, v1, b1), (second, v2, b2) = chain
    hidden = relu(x, v1, b1, first)
    out = relu(hidden, v2, b2, second)
    return out if y is None else out + (hidden * y).sum()


@pytest.mark.parametrize("kernel", ["csr", "dense"])
@pytest.mark.parametrize("used_twice", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 128, 130])
def test_fused_relu_has_the_numbers_of_relu(rng, kernel, used_twice, batch):
    graphs = random_graph(rng, 30, 40, 300), random_graph(rng, 40, 20, 250)
    x, v1, b1 = inputs(rng, graphs[0], batch)
    _, v2, b2 = inputs(rng, graphs[1], batch)
    y = torch.from_numpy(rng.standard_normal((batch, 40))) if used_twice else None
    indices = [EdgeIndex(graph) for graph in graphs]

    def fused(x, v, b, index):
        return edge_product(x, v, b, index, kernel, relu=True)

    def plain(x, v, b, index):
        return torch.relu(edge_product(x, v, b, index, kernel))

    results = []
    for relu in (fused, plain):
        tensors = [t.clone().requires_grad_() for t in (x, v1, b1, v2, b2)]
        a, *rest = tensors
        chain = list(zip(indices, rest[::2], rest[1::2], strict=True))
        out = rectified_chain(chain, a, y, relu)
        (out * torch.cos(torch.arange(out.numel()).reshape(out.shape))).sum().backward()
        results.append([out, *(t.grad for t in tensors)])
    names = ("output", "input", "v1", "b1", "v2", "b2")
    for name, ours, theirs in zip(names, *results, strict=True):
        if name == "b1":  # summed over the batch on the way, in another order
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n_out", [1, 10, 32, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_complete_graphs_have_the_gradients_of_a_dense_layer(rng, n_out, dtype):
    graph = LayerGraph.from_edge_ids(range(n_out * 7), (n_out, 7))
    x, values, bias = (t.to(dtype) for t in inputs(rng, graph, 20))
    found = []
    for linear in (False, True):
        a, v, b = (t.clone().requires_grad_() for t in (x, values, bias))
        hidden = torch.relu(a)
        if linear:
            y = torch.nn.functional.linear(hidden, v.view(n_out, 7), b)
        else:
            y = edge_product(hidden, v, b, EdgeIndex(graph))
        y.square().sum().backward()
        found.append([y, a.grad, v.grad, b.grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("batch", "units"), [(1, 5), (3, 16), (7, 50), (130, 33), (0, 4), (4, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_batches_are_turned_round(batch, units, dtype):
    whole = torch.arange(batch * (units + 3)).reshape(batch, units + 3).to(dtype)
    for x in (whole[:, :units], whole[:, :units].contiguous(), whole[:, 3 : 3 + units].t().t()):
        y = products.units_first(x)
        assert torch.equal(y, x.t())
        assert batch <= 1 or units == 0 or y.stride(1) == 1


@pytest.mark.parametrize("tile_bytes", [64, 300, 10**9])
@pytest.mark.parametrize("batch", [3, 128, 200])
@pytest.mark.parametrize("relu", [False, True])
def test_tiles_change_nothing_but_the_order_of_sums(rng, monkeypatch, tile_bytes, batch, relu):
    graph = random_graph(rng, 50, 20, 600)
    x, values, bias = inputs(rng, graph, batch)
    monkeypatch.setattr(products, "TILE_BYTES", tile_bytes)
    index = EdgeIndex(graph)
    _, count, apart = index.tiles(products.BLOCK_BYTES)
    assert (count > 1) == (tile_bytes < 10**9)
    assert index.tiles(products.BLOCK_BYTES // 2 - 1)[1:] == (1, 1)
    if count > 1:
        table = index._tile_pointers
        assert table.shape == (count + 1, 20)
        assert (table[0] == graph.indptr[:-1]).all()
        assert (table[-1] == graph.indptr[1:]).all()
        assert (np.diff(table, axis=0) >= 0).all()
        assert apart == 20
    found = []
    for kernel in ("csr", "dense"):
        tensors = [t.clone().requires_grad_() for t in (x, values, bias)]
        y = edge_product(*tensors, index, kernel, relu=relu)
        y.square().sum().backward()
        found.append([y, *(t.grad for t in tensors)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)


def test_a_hook_can_change_the_gradient(rng):
    graphs = random_graph(rng, 6, 8, 30), random_graph(rng, 8, 4, 20)
    x, v1, b1 = inputs(rng, graphs[0], 5)
    _, v2, b2 = inputs(rng, graphs[1], 5)

    def gradient(relu, hook):
        v = v1.clone().requires_grad_()
        hidden = relu(x, v, b1, EdgeIndex(graphs[0]))
        hidden.register_hook(hook)
        relu(hidden, v2, b2, EdgeIndex(graphs[1])).sum().backward()
        return v.grad

    def fused(*args):
        return edge_product(*args, "csr", relu=True)

    def plain(*args):
        return torch.relu(edge_product(*args, "csr"))

    for hook in (lambda g: g + 1, lambda g: g.add_(1), lambda g: None):
        torch.testing.assert_close(gradient(fused, hook), gradient(plain, hook))


def test_rectified_nan_stays_nan(rng):
    graph = random_graph(rng, 6, 5, 13)
    x, values, bias = inputs(rng, graph, 3)
    x[0, 0] = torch.nan
    y = edge_product(x, values, bias, EdgeIndex(graph), "csr", relu=True)
    torch.testing.assert_close(
        y, torch.relu(edge_product(x, values, bias, EdgeIndex(graph), "csr")), equal_nan=True
    )


def test_a_digest_of_the_source_is_part_of_compiled_code(tmp_path):
    from topokit.nn.kernels import cpu

    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("a = 1")
    other.write_text("b = 2")
    before = cpu.source_digest(one, other)
    assert before == cpu.source_digest(one, other) < 2**63
    other.write_text("b = 3")
    assert cpu.source_digest(one, other) != before
    record = np.zeros(len(kernel_threads.HEADER), np.int64)  # no part to claim
    for item_bytes in (4, 8):
        entry = kernel_threads._entry(item_bytes)
        assert entry(record.ctypes.data) == cpu.source_digest()


def test_records_have_the_fields_of_both_sides():
    from topokit.nn.kernels import cpu

    for kind in kernel_threads.ARGUMENTS:
        record = cpu._record(kind)
        assert record.names == (*kernel_threads.HEADER, *kind._fields)
        assert record.itemsize == 8 * len(record.names)


PROGRAM = """
import torch
from topokit.graph import LayerGraph
from topokit.nn.kernels import EdgeIndex, edge_product, threads
from topokit.nn.kernels.cpu import compiled
graph = LayerGraph.from_edge_ids([0, 2, 3], (2, 2))
x, values = torch.tensor([[1.0, 10.0]]), torch.tensor([1.0, 2.0, 3.0])
print(edge_product(x, values, torch.tensor([0.5, 0.0]), EdgeIndex(graph), "csr").tolist())
"""


RUNNER = f"""
import os, sys
import numba, torch
for line in sys.stdin:  # what takes seconds to load is loaded, topokit is not
    if not (child := os.fork()):
        exec({PROGRAM!r})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


def shorten(file):
    """Leave one kernel in a copy: all would take several times as long."""
    text, n = re.subn(r"    elif kernel == _\w+_NUMBER:\n        .*\n", "", file.read_text())
    text, m = re.subn(r"        _gather\(.*\n", "        pass\n", text)
    assert (n, m) == (6, 1)
    file.write_text(text)


@pytest.mark.slow
def test_compiled_code_follows_edits_and_needs_no_cache(tmp_path):
    package = tmp_path / "topokit"
    ignored = shutil.ignore_patterns("__pycache__", "recipes")
    shutil.copytree(Path(topokit.__file__).parent, package, ignore=ignored)
    threads, cache = package / "nn/kernels/threads.py", package / "nn/kernels/__pycache__"
    shorten(package / "nn/kernels/cpu.py")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": os.devnull,
        "XDG_CACHE_HOME": os.path.join(os.devnull, "none"),
    }
    environment.pop("NUMBA_CACHE_DIR", None)

    def stored():
        return {path: path.stat().st_mtime_ns for path in cache.glob("cpu.*")}

    command = [sys.executable, "-c", RUNNER]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes) as runner:

        def run():
            runner.stdin.write("again\n")
            runner.stdin.flush()
            return runner.stdout.readline().strip() or runner.communicate()[1]

        assert run() == "[[1.5, 32.0]]"
        stamps = stored()
        assert stamps
        assert run() == "[[1.5, 32.0]]"
        assert stored() == stamps
        text = threads.read_text()
        swapped = text.replace(
            "    values: int\n    bias: int\n", "    bias: int\n    values: int\n", 1
        )
        assert swapped != text
        threads.write_text(swapped)  # compiled before, the kernel would read one as the other
        assert run() == "[[1.5, 32.0]]"
        assert stored() != stamps
        shutil.rmtree(cache)
        cache.write_text("a file where the folder should be")
        assert run() == "[[1.5, 32.0]]"


@pytest.mark.parametrize("name", [None, "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_memory_settings_of_the_user_are_left_alone(monkeypatch, name):
    calls = []

    class Library:
        mallopt = staticmethod(lambda *setting: calls.append(setting))

    for other in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(other, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(kernel_threads.ctypes, "CDLL", lambda path: Library)
    kernel_threads._keep_freed_memory()
    settings = [(-1, kernel_threads.KEPT_BYTES), (-3, kernel_threads.LARGEST_FROM_HEAP)]
    assert calls == ([] if name else settings)

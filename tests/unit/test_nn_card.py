"""The kernels for graphics cards, in Triton's interpreter or on a card.

The interpreter must be chosen before triton is imported, and other tests let torch import it: so
the first test runs this file again in a process of its own. Where there is a card, the tests run on
it as well, by ``pytest tests/unit/test_nn_card.py``.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from topokit.experiments.together import _joined
from topokit.graph import LayerGraph
from topokit.nn.fused import dropped_within
from topokit.nn.kernels import EdgeIndex, card, edge_product, ops
from topokit.nn.kernels.autograd import Drawn, drawn_bits
from topokit.nn.kernels.products import PRODUCTS
from topokit.nn.kernels.recording import copy_all
from topokit.nn.models import _hidden, set_cnn, set_mlp

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from tests.interpreter import patch_once

    patch_once()
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
here = pytest.mark.skipif(
    find_spec("triton") is None or not (INTERPRETED or DEVICE == "cuda"),
    reason="runs in Triton's interpreter, started by the first test of this file, or on a card",
)
KERNELS = ("forward", "backward", "sampled")
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Relative to the largest number of a result. The interpreter cuts bfloat16 where a card rounds.
BOUNDS = {
    torch.float32: 1e-6,
    torch.float64: 1e-14,
    torch.bfloat16: 2**-7 if INTERPRETED else 2**-8,
    torch.float16: 2**-10,
}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=",
               "--import-mode=importlib", str(Path(__file__).relative_to(root))]  # fmt: skip
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="it starts an interpreter of its own")
def test_the_benchmark_runs_without_a_card():
    done = benchmark("--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("no card, Triton's interpreter; torch ")
    assert "| failed |" not in done.stdout
    assert "random shapes against float64, largest relative errors: float32 " in done.stdout
    assert "8 networks rewired three times, with the edges that the CPU chooses." in done.stdout
    assert "2 of them by a decision that was recorded." in done.stdout
    assert "Their numbers are those of steps launched one by one." in done.stdout
    assert " ms decided by the CPU | " in done.stdout
    table, _, others = done.stdout.partition("| layer | batch | kernel |")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 + 2 + 1 + 1 + 2 + 2 + 2 + 3  # at the end rewirings by scores
    assert all(row.count("|") == 6 for row in rows)
    assert [others.count(f"{kernel} | (4, 4, 1): ") for kernel in KERNELS] == [1, 1, 1]
    others = others.partition("| ours ms |")[2]
    assert [line.split(" | ")[3] for line in others.splitlines() if line.startswith("| 8 x 9")] == [
        "float32", "TF32", "bfloat16", "float64",
    ]  # fmt: skip


def benchmark(*options, **variables):
    """Run the script of the benchmark in a process of its own."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    command = [sys.executable, "benchmarks/gpu.py", *options]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
def test_every_kernel_compiles_for_cards(tmp_path):
    """Up to machine code, which needs no card; the interpreter overlooks what types allow."""
    done = benchmark("--compile", "bf16,fp64", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("64 forms of 4 kernels compile, in bf16, fp64")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="it has nothing to do with the interpreter")
def test_the_benchmark_without_a_card_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = benchmark()
    assert done.returncode == 2
    assert done.stdout.startswith("expected a graphics card, torch ")
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="it has nothing to do with the interpreter")
def test_importing_topokit_does_not_import_triton():
    words = "import sys, topokit.nn, topokit.nn.kernels; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)


def graph_of(rng, n_out, n_in, n_edges, hub_row=None, hub_column=None, filled=0):
    """A random graph; a row and a column of `filled` further edges."""
    ids = set(rng.choice(n_out * n_in, n_edges, replace=False).tolist())
    if hub_row is not None:
        ids |= {hub_row * n_in + j for j in range(filled)}
    if hub_column is not None:
        ids |= {i * n_in + hub_column for i in range(min(filled, n_out))}
    return LayerGraph.from_edge_ids(np.array(sorted(ids), np.int64), (n_out, n_in))


def case(rng, graph, batch, dtype):
    """Values, input (units, batch), gradient and bias, some inputs being exactly 0."""
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype).to(DEVICE)  # noqa: E731  short
    x = draw(graph.n_in, batch)
    x[rng.random(x.shape) < 0.2] = 0
    return draw(graph.n_edges), x, draw(graph.n_out, batch), draw(graph.n_out)


def exact(graph, values, x, g, bias):
    """The same by dense float64 algebra: outputs, and gradients of input and edges."""
    ids = torch.from_numpy(graph.edge_ids)
    values, x, g, bias = (t.cpu().double() for t in (values, x, g, bias))
    weight = torch.zeros(graph.n_out * graph.n_in, dtype=torch.float64)
    weight = weight.scatter(0, ids, values).view(graph.shape)
    y, dx = weight @ x, weight.T @ g
    edges = (g @ x.T).reshape(-1)[ids]
    masked = dx * (x > 0)
    return {
        "plain": y, "y": (y + bias[:, None]).clamp(min=0), "dx": dx, "masked": masked,
        "sums": masked.sum(1), "edges": edges,
    }  # fmt: skip


def close(ours, oracle, dtype, terms=1.0):
    assert ours.shape == oracle.shape
    assert ours.dtype == dtype
    if ours.numel():
        bound = BOUNDS[dtype] * max(float(oracle.abs().max()), 1.0) * terms
        assert float((ours.cpu().double() - oracle).abs().max()) <= bound


def filled_with_nan(monkeypatch):
    """Let uninitialised memory be nan, so that what is not written shows."""

    def full(self, *size, dtype=None, **options):
        size = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        kind = dtype or self.dtype
        fill = float("nan") if kind.is_floating_point else -9_999
        return torch.full(tuple(size), fill, dtype=kind, device=self.device)

    monkeypatch.setattr(torch.Tensor, "new_empty", full)


def compare(graph, batch, dtype, rng, monkeypatch):
    way, index = PRODUCTS["triton"], EdgeIndex(graph)
    values, x, g, bias = case(rng, graph, batch, dtype)
    oracle = exact(graph, values, x, g, bias)
    for side in (card.by_output, card.by_input):
        index.on(x.device, side)
    with monkeypatch.context() as patched:
        filled_with_nan(patched)
        close(way.product(x, values, None, index, False), oracle["plain"], dtype)
        close(way.product(x, values, bias, index, True), oracle["y"], dtype)
        close(way.transposed(g, values, index), oracle["dx"], dtype)
        dx, edges, sums = way.gradients(g, x, values, index, True, True)
        close(dx, oracle["masked"], dtype)
        close(edges, oracle["edges"], dtype)
        if sums is not None:
            close(sums, oracle["sums"], dtype, terms=4)
        dx, edges, sums = way.gradients(g, x, values, index, True, False)
        assert sums is None
        close(dx, oracle["dx"], dtype)
        close(edges, oracle["edges"], dtype)
        none, edges, _ = way.gradients(g, x, values, index, False, False)
        assert none is None
        close(edges, oracle["edges"], dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    """Tables of small blocks and short parts: several blocks and parts in small problems."""
    row = card.Configuration
    tables = {
        "forward": (row(2, 4, 1), row(8, 4, 1)),
        "backward": (row(2, 4, 1), row(16, 4, 1)),
        "sampled": (row(8, 4, 1),),
    }
    monkeypatch.setattr(card, "CONFIGURATIONS", tables)
    monkeypatch.setattr(card, "part_length", lambda n_rows, n_edges: 8)


# In the interpreter a program takes about ten milliseconds, so problems are tiny and few.
FULL = DEVICE == "cuda"


@here
@pytest.mark.parametrize(
    ("dtype", "batch"),
    [(dtype, batch) for dtype in TYPES for batch in (1, 5, 8, 19)]
    if FULL
    else list(zip(TYPES, (5, 19, 8, 1), strict=True)),
)
def test_hub_rows_of_any_number_type_and_batch(batch, dtype, small_blocks, rng, monkeypatch):
    graph = graph_of(rng, 10, 11, 6, hub_row=4, hub_column=2, filled=10)
    index = EdgeIndex(graph)
    assert index.on(torch.device(DEVICE), card.by_output).split
    assert index.on(torch.device(DEVICE), card.by_input).split
    compare(graph, batch, dtype, rng, monkeypatch)


@here
def test_any_graph(small_blocks, rng, monkeypatch):
    most = 40 if FULL else 6
    for trial in range(200 if FULL else 8):
        n_out, n_in = rng.integers(1, most, 2).tolist()
        n_edges = int(rng.integers(0, n_out * n_in + 1))
        graph = graph_of(rng, n_out, n_in, n_edges)
        compare(graph, 2 + 3 * (trial % 3), TYPES[trial % 4], rng, monkeypatch)
    compare(graph_of(rng, 3, 4, 7), 17, torch.float32, rng, monkeypatch)  # backward in two passes
    compare(graph_of(rng, 3, 4, 0), 2, torch.float32, rng, monkeypatch)


@here
def test_blocks_of_the_tables_in_use(rng, monkeypatch):
    for batch in (1, 20, 130, 1500) if FULL else (1, 130):
        compare(graph_of(rng, 2, 3, 5), batch, torch.float32, rng, monkeypatch)
    graph = graph_of(rng, 2, 90, 4, hub_row=1, filled=90)
    index = EdgeIndex(graph)
    assert index.on(torch.device(DEVICE), card.by_output).split
    values, x, g, bias = case(rng, graph, 3, torch.float32)
    y = PRODUCTS["triton"].product(x, values, bias, index, True)
    close(y, exact(graph, values, x, g, bias)["y"], torch.float32)


@here
@pytest.mark.parametrize(("batch", "stride"), [(8, 21), (8, 24), (16, 16)])
def test_rows_with_gaps_between_them(batch, stride, small_blocks, rng):
    """The largest number of samples that divides batch and strides is 1, 8, 16."""
    graph = graph_of(rng, 10, 11, 30, hub_row=4, hub_column=2, filled=10)
    index, way = EdgeIndex(graph), PRODUCTS["triton"]
    values, x, g, bias = case(rng, graph, stride, torch.float32)
    x, g = x[:, :batch], g[:, :batch]
    oracle = exact(graph, values, x, g, bias)
    assert card._steps(batch, x, g)[0] == {21: 1, 24: 8, 16: 16}[stride]
    close(way.product(x, values, bias, index, True), oracle["y"], torch.float32)
    dx, edges, sums = way.gradients(g, x, values, index, True, True)
    close(dx, oracle["masked"], torch.float32)
    close(edges, oracle["edges"], torch.float32)
    close(sums, oracle["sums"], torch.float32, terms=4)
    close(way.gradients(g, x, values, index, False, False)[1], oracle["edges"], torch.float32)


@here
def test_batches_of_more_samples_than_a_launch_takes(small_blocks, rng, monkeypatch):
    monkeypatch.setattr(card, "MOST_SAMPLES", 16)
    launched, original = [], card.configuration

    def counted(kernel, samples, programs):
        launched.append(samples if kernel == "forward" else 0)
        return original(kernel, samples, programs)

    monkeypatch.setattr(card, "configuration", counted)
    graph = graph_of(rng, 4, 11, 20, hub_row=2, hub_column=3, filled=10)
    compare(graph, 37, torch.float32, rng, monkeypatch)  # the gradients, too, by that kernel
    values, x, _, bias = case(rng, graph, 37, torch.float32)
    index, way = EdgeIndex(graph), PRODUCTS["triton"]
    drawn = drawn_bits(4 * 37, 0.3, [torch.Generator(DEVICE)])
    expected = drawn.applied(way.product(x, values, bias, index, True))
    assert torch.equal(way.dropped(x, values, bias, index, drawn), expected)
    assert set(launched) == {16, 5, 0}


@here
def test_no_samples_and_no_units(rng, monkeypatch):
    compare(graph_of(rng, 3, 4, 5), 0, torch.float32, rng, monkeypatch)
    for shape in ((0, 3), (3, 0)):
        compare(LayerGraph.from_edge_ids([], shape), 2, torch.float32, rng, monkeypatch)


@here
def test_repeated_calls_are_equal_in_every_bit(small_blocks, rng):
    graph = graph_of(rng, 10, 11, 30, hub_row=4, hub_column=2, filled=10)
    index, way = EdgeIndex(graph), PRODUCTS["triton"]
    values, x, g, bias = case(rng, graph, 13, torch.float32)

    def everything(index):
        return (
            way.product(x, values, bias, index, True), way.transposed(g, values, index),
            *way.gradients(g, x, values, index, True, True),
            way.gradients(g, x, values, index, False, False)[1],
        )  # fmt: skip

    first = everything(index)
    for again in (index, EdgeIndex(graph)):
        for a, b in zip(first, everything(again), strict=True):
            assert torch.equal(a, b)


@here
def test_gradients_by_differences(small_blocks, rng, monkeypatch):
    monkeypatch.setattr("topokit.nn.kernels.sparse_product", lambda kind: PRODUCTS["triton"])
    graph = graph_of(rng, 2, 9, 0, hub_row=1, filled=9)
    values, x, _, bias = case(rng, graph, 1, torch.float64)
    leaves = [t.requires_grad_() for t in (x.t(), values, bias)]
    index = EdgeIndex(graph)
    function = lambda *t: edge_product(*t, index, "csr")  # noqa: E731  short
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)  # along random directions


@here
@pytest.mark.parametrize("dtype", TYPES)
def test_layers_with_relu_between(dtype, small_blocks, rng, monkeypatch):
    """Masks and bias gradients made by the layer after; half precision without a wider copy."""
    monkeypatch.setattr("topokit.nn.kernels.sparse_product", lambda kind: PRODUCTS["triton"])
    monkeypatch.setattr(torch.Tensor, "float", None)
    graphs = [graph_of(rng, 9, 7, 30), graph_of(rng, 4, 9, 20, hub_row=2, filled=9)]
    tensors = [case(rng, graph, 6, dtype) for graph in graphs]
    (v1, x, _, b1), (v2, _, g, b2) = tensors
    leaves = [t.clone().requires_grad_() for t in (x.t(), v1, b1, v2, b2)]
    hidden = edge_product(*leaves[:3], EdgeIndex(graphs[0]), "csr", relu=True)
    y = edge_product(hidden, *leaves[3:], EdgeIndex(graphs[1]), "csr")
    y.backward(g.t())
    doubles = [t.detach().cpu().double().requires_grad_() for t in leaves]
    x, v1, b1, v2, b2 = doubles
    weights = []
    for graph, values in zip(graphs, (v1, v2), strict=True):
        cells = torch.zeros(graph.n_out * graph.n_in, dtype=torch.float64)
        weights.append(cells.scatter(0, torch.from_numpy(graph.edge_ids), values).view(graph.shape))
    oracle = torch.relu(x @ weights[0].T + b1) @ weights[1].T + b2
    oracle.backward(g.t().cpu().double())
    close(y.detach(), oracle.detach(), dtype, terms=4)
    for ours, theirs in zip(leaves, doubles, strict=True):
        close(ours.grad, theirs.grad, dtype, terms=8)


@here
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operators_for_compilers_and_transformations(dtype, small_blocks, rng, monkeypatch):
    monkeypatch.setattr(ops, "sparse_product", lambda kind: PRODUCTS["triton"])
    graph = graph_of(rng, 3, 4, 7)
    values, x, g, bias = case(rng, graph, 3, dtype)
    edges = ops.edges_of(EdgeIndex(graph), values.device)

    def loss(values, x):
        y = ops.composed_product(x, values, None, edges, dense=False)
        return (y * g.t()).sum()

    dv, dx = torch.func.grad(loss, argnums=(0, 1))(values, x.t())
    oracle = exact(graph, values, x, g, bias)
    close(dv, oracle["edges"], dtype)
    close(dx.t(), oracle["dx"], dtype)


@here
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, for 0 times infinity
def test_nan_and_infinity_reach_the_output(small_blocks, rng):
    graph = LayerGraph.from_edge_ids([0, 1, 3, 4], (3, 2))
    index, way = EdgeIndex(graph), PRODUCTS["triton"]
    values = torch.tensor([1.0, 0.0, 1.0, -1.0], device=DEVICE)
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]], device=DEVICE)
    y = way.product(x, values, None, index, True).cpu()
    assert y[0].isnan().tolist() == [True, False]
    assert y[1].tolist() == [float("inf"), 2.0]
    assert y[2].isnan().tolist() == [True, False]
    bits = torch.tensor([-5, 5, -5, -5, 5, -5], dtype=torch.int16, device=DEVICE)
    dropped = way.dropped(x, values, None, index, Drawn(bits, 0, 1.5)).cpu()
    assert dropped.isnan().tolist() == [[True, False], [True, False], [True, False]]
    assert dropped[:, 1].tolist() == [1.5, 0.0, 0.0]
    kept = way.dropped(x, values, None, index, Drawn(bits, -5, 1.5)).cpu()
    assert kept[1].tolist() == [float("inf"), 3.0]


def cut(x):
    """float32 as bfloat16, without the last digits."""
    return (x.view(torch.int32) & -65536).view(torch.float32).bfloat16()


def separately(drawn, y):
    """Dropout after a product, as the kernel rounds it."""
    if y.dtype == torch.bfloat16 and INTERPRETED:
        kept = drawn.bits.view(y.shape).ge(drawn.limit).float()
        return cut(y.float() * (kept * drawn.scale).bfloat16().float())
    return drawn.applied(y)


@here
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, for 0 times infinity
@pytest.mark.parametrize("dtype", TYPES)
def test_dropout_within_the_product_bit_for_bit(dtype, small_blocks, rng, monkeypatch):
    way = PRODUCTS["triton"]
    cases = [(5, 0.3, 0), (12, 0.5, 10), (19, 0.77, 10)] if FULL else [(5, 0.77, 0), (12, 0.3, 10)]
    for batch, rate, filled in cases:  # several blocks, without and with parts of rows
        graph = graph_of(rng, 10, 11, 40, hub_row=4, filled=filled)
        index = EdgeIndex(graph)
        assert index.on(torch.device(DEVICE), card.by_output).split == bool(filled)
        values, x, _, bias = case(rng, graph, batch, dtype)
        x[2, 1], x[3, 2] = float("nan"), float("inf")
        drawn = drawn_bits(graph.n_out * batch, rate, [torch.Generator(DEVICE).manual_seed(batch)])
        whole = way.product(x, values, bias, index, True)
        expected = separately(drawn, whole)
        with monkeypatch.context() as patched:
            filled_with_nan(patched)
            y = way.dropped(x, values, bias, index, drawn)
            without = way.dropped(x, values, None, index, drawn)
        assert torch.equal(y.nan_to_num(-1), expected.nan_to_num(-1))
        assert (y > 0).any()
        assert ((y == 0) & (whole > 0)).any()
        expected = separately(drawn, way.product(x, values, None, index, True))
        assert torch.equal(without.nan_to_num(-1), expected.nan_to_num(-1))


def rounds_exactly(dtype):
    """A rate whose scale is exact where the interpreter rounds in a way of its own."""
    return 0.5 if dtype == torch.bfloat16 else 0.3


@pytest.fixture
def on_card(small_blocks, monkeypatch):
    """Let products be those of the card; tell how often dropout was part of one."""
    counts = []
    for module in ("kernels", "fused"):
        name = f"topokit.nn.{module}.sparse_product"
        monkeypatch.setattr(name, lambda kind: PRODUCTS["triton"])
    original = PRODUCTS["triton"].dropped

    def counted(*arguments):
        counts.append(1)
        return original(*arguments)

    monkeypatch.setattr(PRODUCTS["triton"], "dropped", staticmethod(counted))
    return counts


def separate(monkeypatch):
    """Let models apply dropout as an operation of its own."""
    monkeypatch.setattr("topokit.nn.models.dropped_within", lambda *arguments: None)


def samples(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(DEVICE, dtype)


def network(rng, dtype, rate=None, kernels=("csr", "csr", "csr")):
    """Three layers with dropout between; some rows have several parts."""
    topology = {
        "fc1": graph_of(rng, 9, 7, 30),
        "fc2": graph_of(rng, 6, 9, 20, hub_row=2, hub_column=4, filled=9),
        "fc3": graph_of(rng, 4, 6, 14, hub_column=3, filled=4),
    }
    generator = torch.Generator(DEVICE).manual_seed(5)
    rate = rounds_exactly(dtype) if rate is None else rate
    model = set_mlp(topology, dropout=rate, rng=1, generator=generator).to(DEVICE, dtype)
    for at, kernel in enumerate(kernels, start=1):
        layer = model.get_submodule(f"fc{at}")
        layer.kernel = kernel
        layer.bias.data = samples(rng, layer.n_out, dtype=dtype)
    return model


def step(model, x, g):
    """Output, gradients of input and edges, of biases, and the state of the generator."""
    model.generator.manual_seed(3)
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(g)
    named = dict(model.named_parameters())
    edges = [p.grad for name, p in named.items() if name.endswith("values")]
    biases = [p.grad for name, p in named.items() if name.endswith("bias")]
    return [y.detach(), x.grad, *edges], biases, model.generator.get_state()


def same_steps(model, x, g, dtype, monkeypatch):
    exact_ones, biases, state = step(model, x, g)
    with monkeypatch.context() as patched:
        separate(patched)
        expected, of_biases, other = step(model, x, g)
    assert torch.equal(state, other)
    for ours, theirs in zip(exact_ones, expected, strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(biases, of_biases, strict=True):
        close(ours, theirs.cpu().double(), dtype, terms=8)


@here
@pytest.mark.parametrize("dtype", TYPES if FULL else [torch.float32, torch.bfloat16])
def test_models_with_dropout_are_those_of_separate_operations(dtype, on_card, rng, monkeypatch):
    for batch in (6, 19):  # gradients in one pass, and in two
        model = network(rng, dtype)
        x, g = (samples(rng, batch, n, dtype=dtype) for n in (7, 4))
        on_card.clear()
        same_steps(model, x, g, dtype, monkeypatch)
        assert len(on_card) == 2
        model.eval()
        assert torch.equal(model(x), model(x))
        assert len(on_card) == 2


@here
def test_dropout_between_layers_of_other_kinds(on_card, rng, monkeypatch):
    x, g = (samples(rng, 6, n) for n in (7, 4))
    for kernels, count in ((("csr", "dense", "csr"), 1), (("dense", "csr", "dense"), 1)):
        model = network(rng, torch.float32, kernels=kernels)
        on_card.clear()
        same_steps(model, x, g, torch.float32, monkeypatch)
        assert len(on_card) == count
    model = network(rng, torch.float32, rate=1e-9)  # the scale is 1
    same_steps(model, x, g, torch.float32, monkeypatch)
    model.act1 = torch.nn.Tanh()
    on_card.clear()
    same_steps(model, x, g, torch.float32, monkeypatch)
    assert len(on_card) == 1
    topology = {"fc1": graph_of(rng, 5, 8, 20), "fc2": graph_of(rng, 3, 5, 9)}
    options = {"channels": (2,), "image": (1, 4, 4), "dropout": 0.3, "kernel": "csr"}
    generator = torch.Generator(DEVICE)
    model = set_cnn(topology, **options, rng=0, generator=generator).to(DEVICE)
    on_card.clear()
    x, g = (samples(rng, 6, n) for n in (16, 3))
    same_steps(model, x, g, torch.float32, monkeypatch)
    assert len(on_card) == 1


@here
def test_dropout_is_separate_where_others_look(on_card, rng, monkeypatch):
    x, g = (samples(rng, 6, n) for n in (7, 4))
    model = network(rng, torch.float32)

    def count():
        on_card.clear()
        same_steps(model, x, g, torch.float32, monkeypatch)
        return len(on_card)

    assert count() == 2
    model.fc1.capture = True
    assert count() == 1
    seen = model.fc1.captured()["outputs"]
    step(model, x, g)
    hidden = torch.relu(model.fc1(x)).detach()
    assert torch.equal(seen, hidden)  # before dropout
    model.fc1.capture = False
    hook = model.act2.register_forward_hook(lambda *arguments: None)
    assert count() == 1
    hook.remove()
    model.dropped = lambda hidden: hidden * 3
    assert count() == 0
    del model.dropped

    class Other(type(model)):
        def dropped(self, x):
            return super().dropped(x) * 3

    model.__class__ = Other
    assert count() == 0
    elsewhere = SimpleNamespace(device=torch.device("meta"))
    assert dropped_within(model.fc1, model.act1, x, 0.3, [elsewhere]) is None
    wide = samples(rng, 2, 3, 7)
    assert dropped_within(model.fc1, model.act1, wide, 0.3, [model.generator]) is None


@here
def test_gradients_of_activations_after_dropout(on_card, rng, monkeypatch):
    """What hooks, `retain_grad` and `torch.autograd.grad` see, and outputs that are used twice."""
    x, model, seen = samples(rng, 6, 7), network(rng, torch.float32), []
    w = samples(rng, 6, 6)

    def used(way):
        model.generator.manual_seed(3)
        model.zero_grad()
        y = _hidden(model, model.fc1, model.act1, x)
        z = model.fc2(y)
        if way == "retained":
            y.retain_grad()
        elif way == "hook":
            y.register_hook(seen.append)
        elif way == "changed":
            y.register_hook(lambda gradient: gradient * 1.7)
        elif way == "twice":
            z = z + model.fc2(y)
        elif way == "other use":
            z = z + y[:, :6]
        if way == "named":
            return torch.autograd.grad(z, [y, model.fc1.values, model.fc1.bias], w)
        if way == "for itself":
            return torch.autograd.grad(z, [y], w)
        z.backward(w)
        found = [model.fc1.values.grad, model.fc1.bias.grad, model.fc2.values.grad]
        return [*found, *([y.grad] if way == "retained" else seen[-1:])]

    ways = ("alone", "retained", "hook", "changed", "twice", "other use", "named", "for itself")
    for way in ways:
        on_card.clear()
        ours = used(way)
        assert len(on_card) == 1
        with monkeypatch.context() as patched:
            separate(patched)
            theirs = used(way)
        assert len(on_card) == 1
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, rtol=2e-6, atol=1e-6)


@here
def test_derivatives_of_any_order_after_dropout(on_card, rng):
    graph = graph_of(rng, 3, 4, 7)
    values, x, _, bias = case(rng, graph, 2, torch.float64)
    leaves = [t.requires_grad_() for t in (x.t(), values, bias)]
    index = EdgeIndex(graph)
    drawn = drawn_bits(6, 0.4, [torch.Generator(DEVICE).manual_seed(2)])

    def function(*tensors):
        return edge_product(*tensors, index, "csr", relu=True, drawn=drawn)

    assert 0 < (function(*leaves) > 0).sum() < 6
    fast = {"fast_mode": True}  # along random directions, not in each coordinate
    assert torch.autograd.gradcheck(function, leaves, check_batched_grad=True, **fast)
    assert torch.autograd.gradgradcheck(function, leaves, **fast)
    assert on_card
    on_card.clear()
    dense = edge_product(*leaves, index, "dense", relu=True, drawn=drawn)
    assert not on_card
    torch.testing.assert_close(function(*leaves), dense, rtol=1e-12, atol=1e-12)
    wide = x.t().reshape(2, 1, 4)
    torch.testing.assert_close(function(wide, values, bias), dense[:, None])


@here
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, as above
def test_nan_and_infinity_come_back_through_dropout(on_card, rng, monkeypatch):
    """Wherever an element was kept; one that was dropped has the gradient 0."""
    model = network(rng, torch.float32)
    x, g = (samples(rng, 6, n) for n in (7, 9))
    g[1], g[2] = float("nan"), float("inf")
    x[3] = float("nan")
    found = []
    for apart in (False, True):
        with monkeypatch.context() as patched:
            if apart:
                separate(patched)
            model.generator.manual_seed(3)
            x = x.detach().requires_grad_()
            model.zero_grad()
            y = _hidden(model, model.fc1, model.act1, x)
            y.backward(g)
            found.append((y, x.grad))
    (y, ours), (z, theirs) = found
    assert torch.equal(y.nan_to_num(7), z.nan_to_num(7))
    assert y[3].isnan().all()
    assert torch.equal(ours[[0, 4, 5]], theirs[[0, 4, 5]])
    assert ours[1].isnan().any()
    assert not ours[2].isfinite().all()
    assert theirs[1].isnan()[ours[1].isnan()].all()


@here
def test_networks_side_by_side_drop_as_each_alone(on_card, rng):
    models = [network(rng, torch.float64) for _ in range(2)]
    for at, model in enumerate(models):
        model.generator.manual_seed(at)
    x = samples(rng, 5, 2, 7, dtype=torch.float64)
    alone = [model(x[:, at]) for at, model in enumerate(models)]
    for at, model in enumerate(models):
        model.generator.manual_seed(at)
    joined = _joined(models)
    with torch.no_grad():
        for name, own in joined.named_parameters():
            own.copy_(torch.cat([model.get_parameter(name) for model in models]))
    on_card.clear()
    together = joined(x)
    assert len(on_card) == 2
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-12, atol=1e-12)


def test_arrays_of_a_graph_without_triton(rng):
    """What the kernels read is made by torch on any device: parts cover the edges once."""
    sizes = ((6, 5, 11, 0), (40, 300, 90, 300), (3, 200, 9, 200), (2, 3, 0, 0))
    for n_out, n_in, n_edges, filled in sizes:
        graph = graph_of(rng, n_out, n_in, n_edges, hub_row=1, hub_column=0, filled=filled)
        index, device = EdgeIndex(graph), torch.device("cpu")
        pointers, units, positions = index.transposed
        ours = index.on(device, card.by_input)
        assert ours.units.tolist() == units.tolist()
        assert ours.positions.tolist() == positions.tolist()
        for side, starts in (
            (index.on(device, card.by_output), graph.indptr),
            (ours, pointers),
        ):
            length = card.part_length(len(starts) - 1, graph.n_edges)
            longest = int(np.diff(starts).max(initial=0))
            assert side.split == (longest > length)
            assert all(array.dtype == torch.int32 for array in side)
            if not side.split:
                assert side.parts.tolist() == starts.tolist()
                assert side.slots == 0
                continue
            edges, used = np.zeros(graph.n_edges, int), {}
            for row, first, end, slot in side.parts.T.tolist():
                assert end - first <= length
                edges[first:end] += 1
                if slot == -2:
                    assert (row, first, end) == (len(starts) - 1, 0, 0)
                    continue
                assert starts[row] <= first <= end <= starts[row + 1]
                if slot >= 0:
                    assert slot < side.slots
                    used.setdefault(row, []).append(slot)
            assert (edges == 1).all()
            listed = [row for row in side.longer.T.tolist() if row[0] < len(starts) - 1]
            expected = [[row, slots[0], len(slots)] for row, slots in used.items()]
            assert listed == expected
            slots = sorted(slot for row in used.values() for slot in row)
            assert slots == list(range(len(slots)))
            assert set(used) == set(np.flatnonzero(np.diff(starts) > length).tolist())


def test_arrays_move_into_the_memory_of_those_before(rng):
    device = torch.device("cpu")
    before, after = (EdgeIndex(graph_of(rng, 9, 8, 30)) for _ in range(2))
    kept = [t for make in (card.by_output, card.by_input) for t in before.on(device, make)]
    kept += [before.flat(device), *before.csr(device)]
    pairs = after.pairs_with(before)
    assert [id(old) for old, _ in pairs] == [id(t) for made in before._kept.values() for t in made]
    copy_all([old for old, _ in pairs], [new for _, new in pairs])
    after.take_over(before)
    fresh = EdgeIndex(after.graph)
    there = [t for make in (card.by_output, card.by_input) for t in after.on(device, make)]
    made = [t for make in (card.by_output, card.by_input) for t in fresh.on(device, make)]
    there += [after.flat(device), *after.csr(device)]
    made += [fresh.flat(device), *fresh.csr(device)]
    for old, now, new in zip(kept, there, made, strict=True):
        assert now is old
        assert torch.equal(now, new)
    assert before.on(device, card.by_output).units.tolist() == before.graph.indices.tolist()
    units = after.on(device, card.by_output).units
    after.take_over(after)
    assert after.on(device, card.by_output).units is units

    def same_sizes(index, before):
        return all(old.shape == new.shape for old, new in index.pairs_with(before))

    assert same_sizes(EdgeIndex(graph_of(rng, 9, 8, after.graph.n_edges)), after)
    assert not same_sizes(EdgeIndex(graph_of(rng, 9, 8, 31)), after)
    hub = EdgeIndex(graph_of(rng, 9, 100, 30, hub_row=2, filled=90))
    plain = EdgeIndex(graph_of(rng, 9, 100, hub.graph.n_edges))
    plain.on(device, card.by_output)
    assert not same_sizes(hub, plain)

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

import numpy as np
import pytest
import torch

from topokit.graph import LayerGraph
from topokit.nn.kernels import EdgeIndex, card, edge_product, ops
from topokit.nn.kernels.products import PRODUCTS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
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
    assert "8 networks rewired twice, with the edges that the CPU chooses." in done.stdout
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
    assert done.stdout.startswith("52 forms of 4 kernels compile, in bf16, fp64")


@pytest.mark.slow
def test_the_benchmark_without_a_card_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = benchmark()
    assert done.returncode == 2
    assert done.stdout.startswith("expected a graphics card, torch ")
    assert done.stderr == ""


@pytest.mark.slow
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
        fill = float("nan") if kind.is_floating_point else -999_999
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
    assert torch.autograd.gradcheck(lambda *t: edge_product(*t, index, "csr"), leaves)


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
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, for 0 times infinity
def test_nan_and_infinity_reach_the_output(small_blocks, rng):
    graph = LayerGraph.from_edge_ids([0, 1, 3, 4], (3, 2))
    index, way = EdgeIndex(graph), PRODUCTS["triton"]
    values = torch.tensor([1.0, 0.0, 1.0, -1.0], device=DEVICE)
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 2.0]], device=DEVICE)
    y = way.product(x, values, None, index, True).cpu()
    assert y[0].isnan().tolist() == [True, False]
    assert y[1].tolist() == [float("inf"), 2.0]
    assert y[2].isnan().tolist() == [True, False]


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
    assert after.take_over(before)
    fresh = EdgeIndex(after.graph)
    there = [t for make in (card.by_output, card.by_input) for t in after.on(device, make)]
    made = [t for make in (card.by_output, card.by_input) for t in fresh.on(device, make)]
    there += [after.flat(device), *after.csr(device)]
    made += [fresh.flat(device), *fresh.csr(device)]
    for old, now, new in zip(kept, there, made, strict=True):
        assert now is old
        assert torch.equal(now, new)
    assert before.on(device, card.by_output).units.tolist() == before.graph.indices.tolist()
    assert not EdgeIndex(graph_of(rng, 9, 8, 31)).take_over(after)
    hub = EdgeIndex(graph_of(rng, 9, 100, 30, hub_row=2, filled=90))
    plain = EdgeIndex(graph_of(rng, 9, 100, hub.graph.n_edges))
    plain.on(device, card.by_output)
    assert not hub.take_over(plain)

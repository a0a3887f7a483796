"""Time of one training step, compared with dense torch, torch CSR and, if installed, sparselab.

All implementations alternate in one process, so that other load on the machine affects them alike.

    python benchmarks/training_step.py                 # one thread and two
    python benchmarks/training_step.py --parts         # stages of topokit's step
    python benchmarks/training_step.py --around        # a step against its kernels, one thread
    python benchmarks/training_step.py --speedup       # two threads against one, whole steps
    python benchmarks/training_step.py --crossover     # csr and dense over densities
    python benchmarks/training_step.py --device cuda   # also masked dense, on a GPU

For each network one SET rewiring of all layers, optimizer state and new index included, is given
as a multiple of topokit's step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic
from torch import nn

from topokit.experiments.samples import Samples
from topokit.graph import LayerGraph, sample_absent
from topokit.nn import fused
from topokit.nn.kernels import EdgeIndex, edge_product, threads
from topokit.nn.kernels.cpu import _claim as claim
from topokit.nn.kernels.products import BLOCK_BYTES
from topokit.nn.layers import sparse_layers
from topokit.nn.models import set_mlp
from topokit.nn.optimizers import SGD
from topokit.nn.sparsify import sparsify
from topokit.rules import RULES
from topokit.rules.rewire import rewire_network

NEAR = 150  # ns; presumably more if two cores do not share a cache
TURN = 5  # steps in a row, so that caches are about as warm as in training
CONFIGURATIONS = {
    "cifar10": ((3072, 4000, 1000, 4000, 10), 20, 128),
    "mnist": ((784, 1000, 1000, 1000, 10), 20, 128),
}


class PlainCsr(torch.autograd.Function):
    """The product by torch.sparse CSR without further optimisation."""

    @staticmethod
    def forward(ctx, x, values, indptr, indices, shape):
        ctx.save_for_backward(x, values, indptr, indices)
        ctx.shape = shape
        return (torch.sparse_csr_tensor(indptr, indices, values, shape) @ x.t()).t()

    @staticmethod
    def backward(ctx, grad):
        x, values, indptr, indices = ctx.saved_tensors
        weight = torch.sparse_csr_tensor(indptr, indices, values, ctx.shape)
        pattern = torch.sparse_csr_tensor(indptr, indices, torch.zeros_like(values), ctx.shape)
        grad_x = (weight.t() @ grad.t()).t() if ctx.needs_input_grad[0] else None
        sampled = torch.sparse.sampled_addmm(
            pattern, grad.t().contiguous(), x.contiguous(), beta=0.0
        )
        return grad_x, sampled.values(), None, None, None


class PlainCsrLinear(nn.Module):
    def __init__(self, graph: LayerGraph) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(graph.n_edges) * (2 / graph.fan_in.mean()) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(graph.n_out))
        self.shape = graph.shape
        self.register_buffer("indptr", torch.from_numpy(np.array(graph.indptr)))
        self.register_buffer("indices", torch.from_numpy(graph.indices.astype(np.int64)))

    def forward(self, x):
        return PlainCsr.apply(x, self.values, self.indptr, self.indices, self.shape) + self.bias


def random_topology(widths, epsilon, rng) -> dict[str, LayerGraph]:
    """Random layers with exact edge counts at the density of SET."""
    topology = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        n_edges = min(n_in * n_out, round(epsilon * (n_in + n_out)))
        empty = LayerGraph.from_edge_ids([], (n_out, n_in))
        ids = sample_absent(empty, n_edges, rng)
        topology[f"fc{i}"] = LayerGraph.from_edge_ids(ids, (n_out, n_in))
    return topology


def sequential(layers) -> nn.Module:
    """Layers with ReLU between them."""
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def sparsified(topology: dict[str, LayerGraph], kernel: str) -> nn.Module:
    """A user's ``torch.nn.Sequential`` with the same graphs."""
    model = sequential(nn.Linear(graph.n_in, graph.n_out) for graph in topology.values())
    graphs = iter(topology.values())
    return sparsify(
        model, generator=lambda *_, **__: next(graphs), density=0.5, kernel=kernel, rng=0
    )


def contenders(widths, epsilon, rng, device) -> dict[str, nn.Module]:
    """The same network in every installed implementation."""
    topology = random_topology(widths, epsilon, rng)
    models = {
        "topokit": set_mlp(topology, rng=rng, kernel="csr" if device == "cuda" else "auto"),
        "topokit, sparsified": sparsified(topology, "csr" if device == "cuda" else "auto"),
        "dense torch": sequential(nn.Linear(a, b) for a, b in itertools.pairwise(widths)),
        "torch CSR": sequential(
            PlainCsrLinear(g) if g.density < 1 else nn.Linear(g.n_in, g.n_out)
            for g in topology.values()
        ),
    }
    if device == "cuda":
        models["topokit, kernel=dense"] = set_mlp(topology, rng=rng, kernel="dense")
    try:
        import sparselab
    except ImportError:
        return {name: model.to(device) for name, model in models.items()}
    models["sparselab"] = sequential(
        sparselab.SparseLinear(g.n_in, g.n_out, sparsity=1 - g.density)
        if g.density < 1
        else nn.Linear(g.n_in, g.n_out)
        for g in topology.values()
    )
    return {name: model.to(device) for name, model in models.items()}


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, as in the papers."""
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def stepper(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], None]:
    """Return a function that makes one training step on a fixed batch."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def rewirer(
    model: nn.Module, optimizer: torch.optim.Optimizer, rng: np.random.Generator
) -> Callable[[], None]:
    """Return a function that rewires every layer by SET and builds the indices of the next step."""
    layers, rule = sparse_layers(model), RULES["set"]()

    def rewire() -> None:
        views = {name: layer.view() for name, layer in layers.items()}
        changes = rewire_network(views, rule, drop_fraction=0.3, progress=0.5, rng=rng)
        for name, (update, values) in changes.items():
            layers[name].replace_graph(update, values, optimizer)
            _ = layers[name].index.transposed
            layers[name].index.tiles(BLOCK_BYTES)

    return rewire


def interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each function, alternating every `TURN` calls, after two rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for at in range(-(-repeats // TURN) + 2):
        for name, step in steps.items():
            for _ in range(TURN):
                start = time.perf_counter()
                step()
                if at >= 2:
                    times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def compare(repeats: int, threads: list[int], device: str) -> list[dict]:
    """Medians of all implementations and of one rewiring, and their ratios to topokit's step."""
    rows = []
    for (name, (widths, epsilon, batch)), count in itertools.product(
        CONFIGURATIONS.items(), threads
    ):
        torch.set_num_threads(count)
        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        x, y = torch.randn(batch, widths[0]), torch.randint(widths[-1], (batch,))
        x, y = x.to(device), y.to(device)
        models = contenders(widths, epsilon, rng, device)
        optimizers = {rival: momentum(model) for rival, model in models.items()}
        steps = {rival: stepper(m, optimizers[rival], x, y) for rival, m in models.items()}
        medians = interleaved(steps, repeats)
        steps["topokit"]()
        rewire = rewirer(models["topokit"], optimizers["topokit"], rng)
        both = interleaved({"topokit": steps["topokit"], "(one SET rewiring)": rewire}, repeats)
        medians["(one SET rewiring)"] = (
            both["(one SET rewiring)"] / both["topokit"] * medians["topokit"]
        )
        for rival, milliseconds in medians.items():
            rows.append(
                {
                    "network": name, "threads": count, "implementation": rival,
                    "ms": round(milliseconds, 3),
                    "ratio to topokit": round(milliseconds / medians["topokit"], 2),
                }
            )  # fmt: skip
    return rows


def parts(repeats: int) -> list[dict]:
    """Stages of topokit's step, and forward and backward product of each layer."""
    torch.set_num_threads(1)
    rows = []
    for name, (widths, epsilon, batch) in CONFIGURATIONS.items():
        rng = np.random.default_rng(0)
        x, y = torch.randn(batch, widths[0]), torch.randint(widths[-1], (batch,))
        model = set_mlp(random_topology(widths, epsilon, rng), rng=rng)
        optimizer = momentum(model)
        held: dict = {}

        def forward(model=model, x=x, y=y, held=held):
            held["loss"] = nn.functional.cross_entropy(model(x), y)

        def backward(held=held):
            held["loss"].backward()

        def update(optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        chains = [{"forward": forward, "backward": backward, "optimizer": update}]
        for layer, module in model.named_children():
            if hasattr(module, "index"):
                a = torch.randn(module.n_in, batch).t().requires_grad_(layer != "fc1")
                g = torch.randn(module.n_out, batch).t()

                def one(module=module, a=a, held=held):
                    module.values.grad = None
                    held["y"] = module(a)

                def two(g=g, held=held):
                    held["y"].backward(g)

                chains.append({f"{layer} forward": one, f"{layer} backward": two})
        times: dict[str, list[float]] = {part: [] for chain in chains for part in chain}
        for chain in chains:
            for at in range(repeats + 3):
                for part, stage in chain.items():
                    start = time.perf_counter()
                    stage()
                    if at >= 3:
                        times[part].append((time.perf_counter() - start) * 1e3)
        rows += [
            {"network": name, "part": part, "ms": round(statistics.median(t), 3)}
            for part, t in times.items()
        ]
    return rows


def crossover(repeats: int) -> list[dict]:
    """Forward and backward product of one layer over densities, csr and dense."""
    torch.set_num_threads(1)
    rows = []
    for (n_in, n_out), batch in itertools.product(
        [(64, 64), (256, 256), (1000, 1000), (3072, 1000)], [16, 128, 1000]
    ):
        for density in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8):
            rng = np.random.default_rng(0)
            empty = LayerGraph.from_edge_ids([], (n_out, n_in))
            ids = sample_absent(empty, round(density * n_in * n_out), rng)
            index = EdgeIndex(LayerGraph.from_edge_ids(ids, (n_out, n_in)))
            values = torch.randn(len(ids), requires_grad=True)
            x = torch.randn(n_in, batch).t().requires_grad_()
            g = torch.randn(n_out, batch).t()
            steps = {
                kernel: lambda k=kernel, v=values, x=x, i=index, g=g: torch.autograd.grad(
                    edge_product(x, v, None, i, k), [x, v], g
                )
                for kernel in ("csr", "dense")
            }
            medians = interleaved(steps, repeats)  # type: ignore[arg-type]
            rows.append(
                {
                    "layer": f"{n_in}x{n_out}", "batch": batch, "density": density,
                    "csr ms": round(medians["csr"], 3), "dense ms": round(medians["dense"], 3),
                    "dense/csr": round(medians["dense"] / medians["csr"], 2),
                }
            )  # fmt: skip
    return rows


NETWORKS = {"mnist, 300 units": ((784, 300, 300, 300, 10), 20, 100), **CONFIGURATIONS}


def loop_step(
    model: nn.Module, make: Callable, samples: Samples, batch: int, together: bool
) -> Callable[[], None]:
    """Return a function that makes a step as the training loop does, from gathering to optimizer.

    Not `together`: layers one by one and batches as rows, as before there were chains.
    """
    optimizer = make(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=2e-4)
    parameters, rng = list(model.parameters()), np.random.default_rng(0)
    by_units = lambda: together and getattr(model, "by_units", False)  # noqa: E731
    batches = itertools.chain.from_iterable(
        samples.shuffled(batch, rng, by_units=by_units) for _ in itertools.count()
    )
    chain = fused.edge_chain if together else lambda x, layers: None

    def step() -> None:
        fused.edge_chain = chain  # type: ignore[assignment]  # put back by the next step
        x, y, _ = next(batches)
        for parameter in parameters:
            parameter.grad = None
        loss = nn.functional.cross_entropy(model(x), y)
        float(loss.detach())
        loss.backward()
        optimizer.step()

    return step


def around(repeats: int) -> list[dict]:
    """Processor time of whole steps and of their kernels: as they are, and layer by layer.

    All alternate in one process, on one thread.
    """
    torch.set_num_threads(1)
    run, spent, rows = threads._run_on_threads, [0.0], []

    def timed(*arguments: Any) -> None:
        start = time.thread_time()
        run(*arguments)
        spent[0] += time.thread_time() - start

    for name, (widths, epsilon, batch) in NETWORKS.items():
        rng = np.random.default_rng(0)
        x = rng.random((100 * batch, widths[0]), dtype=np.float32)
        samples = Samples(x, rng.integers(widths[-1], size=len(x)))
        topology = random_topology(widths, epsilon, rng)
        models = [set_mlp(topology, rng=1), set_mlp(topology, rng=1), sparsified(topology, "auto")]
        ways = (SGD, True), (torch.optim.SGD, False), (SGD, True)
        names = "set_mlp", "set_mlp, layer by layer", "sparsified nn.Sequential"
        steps = {
            key: loop_step(model, make, samples, batch, together)
            for key, model, (make, together) in zip(names, models, ways, strict=True)
        }
        whole: dict[str, list[float]] = {key: [] for key in steps}
        inside: dict[str, list[float]] = {key: [] for key in steps}
        threads._run_on_threads = timed
        for at in range(-(-repeats // TURN) + 2):
            for key, step in steps.items():
                for turn in range(TURN + 1):
                    spent[0], start = 0.0, time.thread_time()
                    step()
                    if at >= 2 and turn:  # the first of a turn finds the caches of another network
                        whole[key].append(1e3 * (time.thread_time() - start))
                        inside[key].append(1e3 * spent[0])
        threads._run_on_threads = run
        medians = {key: statistics.median(times) for key, times in whole.items()}
        for key, times in inside.items():
            kernels, step_ms = statistics.median(times), medians[key]
            rows.append(
                {
                    "network": name, "way": key, "ms": round(step_ms, 3),
                    "kernels ms": round(kernels, 3), "step / kernels": round(step_ms / kernels, 2),
                    "ratio to set_mlp": round(step_ms / medians["set_mlp"], 3),
                }
            )  # fmt: skip
    return rows


def at_real_time(on: bool) -> None:
    """Let all threads of this process go before other programs, where that is allowed."""
    policy, priority = (os.SCHED_FIFO, 1) if on else (os.SCHED_OTHER, 0)
    for thread in os.listdir("/proc/self/task"):
        os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


@intrinsic
def read_now(typing: Any, address: Any) -> Any:
    """Read a 64-bit integer that another thread writes."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = builder.inttoptr(given[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


@numba.njit(nogil=True)
def take_turns(address: int, own: int, count: int) -> None:
    """Add 1 to an integer `count` times, whenever it is even (`own` is 0) or odd (1)."""
    for turn in range(count):
        while read_now(address) != 2 * turn + own:
            pass
        claim(address)


def round_trip(count: int = 5000) -> float:
    """Return how long a line of the cache takes from one core to another and back, in ns."""
    line, taken = np.zeros(8, np.int64), []

    def run(own: int) -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[own]})
        start = time.perf_counter()
        take_turns(line.ctypes.data, own, count)
        taken.append(time.perf_counter() - start)

    both = [Thread(target=run, args=(own,)) for own in (0, 1)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    return min(taken) / count * 1e9


def speedup(repeats: int) -> list[dict]:
    """Whole steps on one thread and on two, which take turns, by how near the two cores are.

    By the clock, in bursts at real-time priority (Linux, as root) with pauses in which other
    programs run. Two threads are used always, also where one would be chosen as faster. A host may
    move the cores of a virtual machine, so before each round the time is taken that a line of the
    cache needs from one to the other and back.
    """
    threads.Choice.note = lambda self, seconds: None  # type: ignore[method-assign]  # no choice here
    square = torch.rand(1200, 1200)
    steps: dict[str, Callable[[], Any]] = {"dense product": lambda: square @ square}
    for name, (widths, epsilon, batch) in NETWORKS.items():
        rng = np.random.default_rng(0)
        x = rng.random((100 * batch, widths[0]), dtype=np.float32)
        samples = Samples(x, rng.integers(widths[-1], size=len(x)))
        model = set_mlp(random_topology(widths, epsilon, rng), rng=1)
        steps[name] = loop_step(model, SGD, samples, batch, True)
    take_turns(np.zeros(8, np.int64).ctypes.data, 0, 0)  # compiles it
    times: dict[tuple[bool, str, int], list[float]] = {}
    trips: dict[bool, list[float]] = {}
    for at in range(-(-repeats // TURN) + 2):
        at_real_time(True)
        trip = min(round_trip() for _ in range(3))
        at_real_time(False)
        near = trip < NEAR
        trips.setdefault(near, []).append(trip)
        for (name, step), count in itertools.product(steps.items(), (1, 2)):
            torch.set_num_threads(count)
            at_real_time(True)
            for turn in range(TURN + 2):
                start = time.perf_counter()
                step()
                if at >= 2 and turn >= 2:  # the first find threads asleep and caches of others
                    taken = times.setdefault((near, name, count), [])
                    taken.append(time.perf_counter() - start)
            at_real_time(False)
            time.sleep(0.02)
    medians = {key: 1e3 * statistics.median(taken) for key, taken in times.items()}
    return [
        {
            "what": name,
            "from core to core and back, ns": round(statistics.median(trips[near])),
            "rounds": len(times[near, name, 1]) // TURN,
            "one thread ms": round(medians[near, name, 1], 2),
            "two threads ms": round(medians[near, name, 2], 2),
            "speed-up": round(medians[near, name, 1] / medians[near, name, 2], 2),
        }
        for near in (True, False)
        for name in steps
        if (near, name, 1) in medians
    ]


def show(rows: list[dict]) -> None:
    """Print rows as a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--around", action="store_true")
    parser.add_argument("--speedup", action="store_true")
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.parts:
        rows = parts(options.repeats)
    elif options.around:
        rows = around(options.repeats)
    elif options.speedup:
        rows = speedup(options.repeats)
    elif options.crossover:
        rows = crossover(options.repeats)
    else:
        rows = compare(options.repeats, options.threads, options.device)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    where = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(f"{where}, {os.cpu_count()} cores, torch {torch.__version__}, medians")
    show(rows)


if __name__ == "__main__":
    import warnings

    warnings.filterwarnings("ignore", message="Sparse CSR")
    main()

"""What a graphics card makes of training, against dense torch on the same card; under six minutes.

Results are checked first: the tests of the kernels, random shapes against float64, rewirings
against those of the CPU, and training by recorded steps against steps launched one by one. Then
steps are recorded as CUDA graphs, ours and dense ones in float32 and TF32, and replayed in turns in
one process; times are medians.

    python benchmarks/gpu.py               # the table, as Markdown for benchmarks/RESULTS.md
    python benchmarks/gpu.py --crossover   # densities where dense products become faster
    python benchmarks/gpu.py --tune        # times by which topokit.nn.kernels.card is tuned
    python benchmarks/gpu.py --compile     # every kernel, for two kinds of cards, without a card
    python benchmarks/gpu.py --dry         # all of this, tiny, in Triton's interpreter, without one

The last says only that the script runs: its times mean nothing. Where a card is needed and there is
none, the script says so and ends with the exit code 2.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training_step import random_topology, sequential

from topokit.data import Data
from topokit.experiments import loop, together
from topokit.experiments.captured import _Layer, moved
from topokit.experiments.config import OptimizerSpec
from topokit.experiments.loop import Training, TrainPlan, TrainState, train
from topokit.experiments.preparation import make_optimizer
from topokit.experiments.samples import CLASSES, Batch, Samples
from topokit.experiments.together import Network
from topokit.graph import LayerGraph
from topokit.measures import measure
from topokit.nn import models
from topokit.nn import rewiring as decisions
from topokit.nn.engine import attach
from topokit.nn.kernels import EdgeIndex, card, products
from topokit.nn.kernels.autograd import drawn_bits
from topokit.nn.kernels.products import PRODUCTS, use_on_device
from topokit.nn.kernels.recording import CudaGraphs
from topokit.nn.layers import sparse_layers
from topokit.nn.models import set_mlp
from topokit.nn.rewiring import decide_on
from topokit.rules import RULES
from topokit.rules.rewire import SCHEDULES

DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # read where triton is imported, by the first kernel
DEVICE = torch.device("cpu" if DRY else "cuda")
MOST_SECONDS = float("inf") if DRY else 300  # after which no further row is begun
BEGAN = time.monotonic()
ROUNDS, TURN = (1, 1) if DRY else (15, 20)
CIFAR, MNIST, WIDE, MILLION = (
    ((4, 3, 3, 2), (4, 3, 2), (3, 4, 2), (5, 4, 2))
    if DRY
    else (
        (3072, 4000, 1000, 4000, 10),
        (784, 1000, 1000, 1000, 10),
        (3072, 16000, 16000, 16000, 10),
        (65536, 400_000, 300_000, 250_000, 10),
    )
)
EPSILON = 1 if DRY else 20
BATCH = 4 if DRY else 128
MNIST_BATCH = 4 if DRY else 100
SEEDS = 2 if DRY else 10
SGD = OptimizerSpec("sgd", lr=0.01, momentum=0.9)
ADAMW = OptimizerSpec("adamw", lr=0.001)
# Rule, when it rewires, learning rate's schedule, optimizer, and options of the model.
TRAININGS: dict[str, tuple[str, Any, str, OptimizerSpec, dict[str, Any]]] = {
    "SET with dropout": ("set", "epoch", "constant", SGD, {"dropout": 0.3}),
    "SET within epochs": ("set", 7, "constant", SGD, {}),
    "a rate that changes": ("static", "epoch", "cosine", SGD, {}),
    "RigL with SReLU": ("rigl", "epoch", "constant", SGD, {"activation": "srelu"}),
    "a density that changes": ("gmp", "epoch", "constant", ADAMW, {}),
}
TYPES = {
    torch.float32: 2e-6, torch.float64: 1e-14, torch.float16: 2**-10, torch.bfloat16: 2**-7,
}  # fmt: skip


class Directly:
    """In place of CUDA graphs without a card: a recorded function is called again."""

    def apart(self, call: Callable[[], Any]) -> Any:
        return call()

    def record(self, call: Callable[[], None], generators: Any) -> Callable[[], None]:
        return call


def wait() -> None:
    if not DRY:
        torch.cuda.synchronize()


def milliseconds(call: Callable[[], Any], times: int = 1) -> float:
    """Time of a call, mean of several in a row; on a card from event to event."""
    if DRY:
        begin = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - begin) * 1e3 / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def replayed(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """Record a call several times in a row, as launching it from Python takes longer than it."""
    if DRY:
        return call
    graphs = CudaGraphs(DEVICE)
    graphs.apart(call)

    def several() -> None:
        for _ in range(times):
            call()

    return graphs.record(several, ())


def of_products(calls: dict[str, Callable[[], Any]], times: int = 20) -> dict[str, float]:
    """Median milliseconds of some functions that launch a kernel or a few, called in turns."""
    recorded = {name: replayed(call, times) for name, call in calls.items()}
    return {name: time / times for name, time in in_turns(recorded, turn=1).items()}


def in_turns(calls: dict[str, Callable[[], Any]], turn: int = TURN) -> dict[str, float]:
    """Median milliseconds of some functions, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    wait()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(milliseconds(call, turn))
    return {name: statistics.median(each) for name, each in times.items()}


# Correctness.


def check_shapes(rng: np.random.Generator, seconds: float) -> tuple[int, dict[torch.dtype, float]]:
    """Compare random shapes with float64 on the CPU; return their number and the largest errors."""
    worst, count, began = dict.fromkeys(TYPES, 0.0), 0, time.monotonic()
    way = PRODUCTS["triton"]
    while time.monotonic() - began < seconds or count < len(TYPES):
        most = 5 if DRY else 700
        n_out, n_in = rng.integers(1, most, 2).tolist()
        batch = int(rng.choice((1, 5, 4) if DRY else (1, 7, 30, 100, 128, 300, 1500)))
        ids = rng.choice(n_out * n_in, int(rng.random() ** 3 * n_out * n_in), replace=False)
        hub = np.arange(n_in) + n_in * int(rng.integers(n_out))  # a row that has all edges
        graph = LayerGraph.from_edge_ids(np.union1d(ids, hub), (n_out, n_in))
        index = EdgeIndex(graph)
        dtype = list(TYPES)[count % len(TYPES)]
        draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(dtype)  # noqa: B023, E731  called here
        values, x, g, bias = draw(graph.n_edges), draw(n_in, batch), draw(n_out, batch), draw(n_out)
        there = [t.to(DEVICE) for t in (values, x, g, bias)]
        v, xx, gg, b = there
        dx, dv, sums = way.gradients(gg, xx, v, index, True, True)
        first = way.gradients(gg, xx, v, index, False, False)[1]
        again = way.gradients(gg, xx, v, index, True, True)
        drawn = drawn_bits(n_out * batch, rng.uniform(0, 0.9), [torch.Generator(DEVICE)])
        within = way.dropped(xx, v, b, index, drawn)
        same = torch.equal(within, drawn.applied(way.product(xx, v, b, index, True)))
        if not same and not (DRY and dtype == torch.bfloat16):  # which the interpreter cuts
            raise SystemExit(f"dropout in the kernel differs: {graph}, batch {batch}, {dtype}")
        for one, two in zip((dx, dv, sums), again, strict=True):
            if one is not None and not torch.equal(one, two):
                raise SystemExit(f"not the same twice: {graph}, batch {batch}, {dtype}")
        values, x, g, bias = (t.double() for t in (values, x, g, bias))
        ids = torch.from_numpy(graph.edge_ids)
        weight = torch.zeros(n_out * n_in, dtype=torch.float64).scatter(0, ids, values)
        weight = weight.view(n_out, n_in)
        masked, edges = (weight.T @ g) * (x > 0), (g @ x.T).reshape(-1)[ids]
        pairs = [
            (way.product(xx, v, b, index, True), (weight @ x + bias[:, None]).clamp(min=0)),
            (way.transposed(gg, v, index), weight.T @ g),
            (dx, masked), (dv, edges), (first, edges),
            *([] if sums is None else [(sums, masked.sum(1))]),
        ]  # fmt: skip
        for ours, oracle in pairs:
            error = float((ours.cpu().double() - oracle).norm() / (oracle.norm() + 1e-30))
            worst[dtype] = max(worst[dtype], error)
            if not error <= TYPES[dtype]:
                raise SystemExit(f"wrong by {error:.1e}: {graph}, batch {batch}, {dtype}")
        count += 1
    return count, worst


def fill(engine: Any, layers: list[Any], rng: np.random.Generator) -> None:
    """Give the rule a batch by which scores are exact, so that devices do not differ by rounding.

    Of each unit four of eight samples are 1 or -1: all norms are 2.
    """
    data = engine._data
    for name, layer in zip(data.layers, layers, strict=True):
        sides = []
        for units in (layer.n_in, layer.n_out):
            order = rng.random((8, units)).argsort(0)
            drawn = np.where(order < 4, rng.choice([-1.0, 1.0], (8, units)), 0.0)
            sides.append(torch.from_numpy(drawn).float().to(DEVICE))
        if data.by_activations:
            both = dict(zip(("inputs", "outputs"), sides, strict=True))
            data.memory.setdefault("activations", {})[name] = both
        elif data.by_gradient:
            both = dict(zip(("inputs", "output_grad"), sides, strict=True))
            data.memory.setdefault("batches", {})[name] = {"1": both}


def check_rewirings(rng: np.random.Generator) -> tuple[int, int]:
    """Compare rewirings decided on the device with those of the CPU.

    Returns the number of networks, and of those whose decision was recorded.
    """
    names = ("set", "set_magnitude", "random", "rigl", "snfs", "ctre_sim", "gmp", "mest")
    count, n_recorded = len(names) if DRY else 80, 0
    params = {"gmp": {"final_density": 0.2}, "mest": {"gradient_weight": 0.5}}
    for at in range(count):
        name = names[at % len(names)]
        widths = rng.integers(2, 9 if DRY else 900, 3).tolist()
        most = min(a * b / (a + b) for a, b in itertools.pairwise(widths))
        topology = random_topology(tuple(widths), rng.uniform(0.3, 0.95) * most, rng)
        found = []
        for there in (True, False):
            decide_on(DEVICE.type, there)
            model = set_mlp(topology, rng=np.random.default_rng(at)).to(DEVICE)
            for layer in sparse_layers(model).values():  # with ties
                layer.values.data.mul_(8).round_().div_(8)
            optimizer = make_optimizer(SGD, model.parameters())
            engine = attach(model, optimizer, name, every=10**6, rng=at, **params.get(name, {}))
            changes = []
            for _ in range(3):  # as usual, recorded, and replayed
                layers = list(sparse_layers(model).values())
                fill(engine, layers, np.random.default_rng(at))
                changes.append(engine.rewire())
            engine.detach()
            for made in engine._data.recorded.values():
                if made.why:
                    raise SystemExit(f"a decision was not recorded: {made.why}")
                n_recorded += made._made is not None
            found.append((changes, {n: v.tolist() for n, v in model.state_dict().items()}))
        if found[0] != found[1]:
            raise SystemExit(f"other edges than on the CPU: {name}, widths {widths}")
    decide_on(DEVICE.type)
    if not n_recorded:
        raise SystemExit("no decision of a rewiring was recorded")
    return count, n_recorded


def check_training() -> tuple[int, list[str]]:
    """Compare training by recorded steps with steps launched one by one, bit for bit.

    Returns the number of replayed steps, and what differed.
    """
    rng = np.random.default_rng(0)
    n = (15, 4) if DRY else (41 * MNIST_BATCH + 30, 1000)
    x, y = rng.random((sum(n), MNIST[0]), np.float32), rng.integers(0, MNIST[-1], sum(n))
    data = Data("random", x[: n[0]], y[: n[0]], x[n[0] :], y[n[0] :], MNIST[-1])
    original, replays, wrong = loop.graphs_of, 0, []
    for what, (rule, every, schedule, spec, options) in TRAININGS.items():
        params = {"final_density": 0.02, "initial_density": 0.05} if rule == "gmp" else {}
        plan = TrainPlan(
            epochs=1 if DRY else 3, batch_size=MNIST_BATCH, rule=RULES[rule](**params),
            every=every, lr=spec.lr, lr_schedule=SCHEDULES[schedule],
        )  # fmt: skip
        found = []
        for recording in (True, False):
            streams = {name: np.random.default_rng(i) for i, name in enumerate(("order", "rule"))}
            dropout = torch.Generator(DEVICE).manual_seed(0)
            model = ours_of(MNIST, EPSILON, generator=dropout, **options)
            state = TrainState(model, make_optimizer(spec, model.parameters()), streams, dropout)
            loop.graphs_of = original if recording else lambda device: None
            done = list(train(state, data, plan))
            loop.graphs_of = original
            made = sum(each.steps["replayed"] for each in done if each.steps)
            if recording and not made and not DRY:
                wrong.append(f"{what}: no step was replayed, {done[-1].steps}")
            replays += made
            losses = [{**each.metrics, "seconds": 0} for each in done]
            weights = {name: value.tolist() for name, value in model.state_dict().items()}
            found.append((losses, weights, dropout.get_state().tolist()))
        if found[0] != found[1]:
            losses = [[each["train_loss"] for each in one[0]] for one in found]
            wrong.append(f"{what}: recorded steps are not those of others, losses {losses}")
    return replays, wrong


def check_tests() -> str:
    """Run the kernels' tests on the card; return pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["tests/unit/test_nn_card.py"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=150
        )
    except subprocess.TimeoutExpired:
        return "not finished in 150 s"
    if done.returncode:
        raise SystemExit(f"the kernels' tests fail:\n{done.stdout[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


# What is measured.


def mean_loss(model: Any, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch.x), batch.y)


def recorded(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: Callable[[Any, Batch], torch.Tensor] = mean_loss,
) -> Callable[[], None]:
    """Record a training step of a model, loss and optimizer included."""
    optimizer = make_optimizer(SGD, model.parameters())
    graphs = Directly() if DRY else CudaGraphs(DEVICE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = loss(model, Batch(x, y))
        losses.backward(torch.ones_like(losses))
        optimizer.step()

    for _ in range(3):
        graphs.apart(step)
    return graphs.record(step, ())


def batch_of(widths: tuple[int, ...], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples in the memory order of the loop's batches."""
    x = torch.randn(widths[0], size, device=DEVICE).t()
    return x, torch.randint(0, widths[-1], (size,), device=DEVICE)


def ours_of(widths: tuple[int, ...], epsilon: float, seed: int = 0, **options: Any) -> Any:
    rng = np.random.default_rng(seed)
    topology = random_topology(widths, epsilon, rng)
    return set_mlp(topology, kernel="csr", rng=rng, **options).to(DEVICE)


def steps(widths: tuple[int, ...], size: int) -> dict[str, float]:
    """Median milliseconds of a recorded step: ours, and dense in float32 and TF32."""
    x, y = batch_of(widths, size)
    calls = {"ours": recorded(ours_of(widths, EPSILON), x, y)}
    pairs = list(itertools.pairwise(widths))
    for name, tf32 in (("float32", False), ("TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        dense = sequential(nn.Linear(a, b) for a, b in pairs).to(DEVICE)
        calls[name] = recorded(dense, x, y)
    torch.backends.cuda.matmul.allow_tf32 = False
    return in_turns(calls)


def rewiring(rule: str, samples: int = 0) -> tuple[float, float]:
    """Median milliseconds of a rewiring of all layers, into the memory of recorded steps.

    As decided on the device and, for comparison, by the CPU. With the batch of a step, as many as
    the momentum lasts, or so many samples that are run through the network.
    """
    return tuple(_rewiring(rule, samples, there) for there in (True, False))  # type: ignore[return-value]  # two


def _rewiring(rule: str, samples: int, there: bool) -> float:
    model = ours_of(CIFAR, EPSILON)
    x, y = batch_of(CIFAR, BATCH)
    optimizer = make_optimizer(SGD, model.parameters())
    inputs = torch.randn(samples, CIFAR[0], device=DEVICE) if samples else None
    engine = attach(model, optimizer, rule, every=10**9, rng=0, samples=inputs)
    sparse = list(sparse_layers(model).values())
    window = engine._data.window if engine._data.captures else 1
    window = min(window, 2) if DRY else window

    def steps() -> None:
        for layer in sparse:
            nn.init.normal_(layer.values, std=0.1)  # as after an epoch, no weight is exactly 0
        engine._data.capture(engine._data.captures)
        for _ in range(window):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            engine._data.capture(engine._data.captures)

    steps()
    layers = [_Layer(layer, optimizer) for layer in sparse]

    def once() -> float:
        steps()
        wait()
        begin = time.perf_counter()
        engine.rewire()
        if not moved(layers):
            layers[:] = [_Layer(layer, optimizer) for layer in sparse]
        wait()
        return (time.perf_counter() - begin) * 1e3

    decide_on(DEVICE.type, there)
    once()
    rounds = ROUNDS if there or rule == "set" else 1  # which takes seconds
    times = [once() for _ in range(rounds)]
    decide_on(DEVICE.type)
    return statistics.median(times)


def epoch() -> tuple[float, dict[str, Any] | None]:
    """Median seconds of an epoch of the size of MNIST's by the training loop; how steps were made.

    With training, evaluation and rewiring, and a tenth of the core measures of all layers.
    """
    rng = np.random.default_rng(0)
    n = (14, 4) if DRY else (60_000, 10_000)
    x, y = rng.random((sum(n), MNIST[0]), np.float32), rng.integers(0, MNIST[-1], sum(n))
    data = Data("random", x[: n[0]], y[: n[0]], x[n[0] :], y[n[0] :], MNIST[-1])
    model = ours_of(MNIST, EPSILON)
    optimizer = make_optimizer(SGD, model.parameters())
    streams = {name: np.random.default_rng(i) for i, name in enumerate(("order", "rule"))}
    state = TrainState(model, optimizer, streams, torch.Generator(DEVICE))
    plan = TrainPlan(epochs=2 if DRY else 7, batch_size=MNIST_BATCH, rule=RULES["set"](), lr=0.01)
    done = list(train(state, data, plan))
    begin = time.perf_counter()
    measure(done[-1].topology)
    tenth = (time.perf_counter() - begin) / 10
    seconds = statistics.median(each.metrics["seconds"] for each in done[1:])
    return seconds + tenth, done[-1].steps


def seeds_together() -> tuple[dict[int, float], dict[int, float]]:
    """Milliseconds of a recorded step of one MNIST network and of ten together, and of an epoch.

    That is the training of an epoch, with all batches gathered, but without evaluation and
    rewiring, which are made run by run.
    """
    n = 14 if DRY else 60_000
    rng = np.random.default_rng(0)
    samples = Samples(
        rng.random((n, MNIST[0]), np.float32), rng.integers(0, MNIST[-1], n), device=DEVICE
    )
    plan = TrainPlan(epochs=9, batch_size=MNIST_BATCH, rule=RULES["set"](), lr=0.01)
    calls: dict[int, Callable[[], Any]] = {}
    steps: dict[int, Callable[[], None]] = {}
    for count in (1, SEEDS):
        trainings = []
        for seed in range(count):
            model = ours_of(MNIST, EPSILON, seed)
            streams = {name: np.random.default_rng(seed) for name in ("order", "rule")}
            optimizer = make_optimizer(SGD, model.parameters())
            state = TrainState(model, optimizer, streams, torch.Generator(DEVICE))
            trainings.append(Training(state, (samples, samples), plan))
        x, y = batch_of((count * MNIST[0], MNIST[-1]), MNIST_BATCH)
        if count == 1:
            alone, state = trainings[0], trainings[0].state
            made = loop._steps(state, alone.engine, plan)
            calls[1] = partial(loop._one_epoch, state, samples, plan, None, made)
            steps[1] = recorded(ours_of(MNIST, EPSILON), x, y)
        else:
            network = Network(trainings, partial(make_optimizer, SGD))
            calls[count] = network.epoch
            other = Network(trainings, partial(make_optimizer, SGD)).model
            losses = partial(together._losses, objective=CLASSES)
            steps[count] = recorded(other, x, y.expand(count, -1).contiguous(), losses)
    times: dict[int, list[float]] = {count: [] for count in calls}
    for call in calls.values():
        call()
    for _ in range(1 if DRY else 5):
        for count, call in calls.items():
            wait()
            begin = time.perf_counter()
            call()
            wait()
            times[count].append((time.perf_counter() - begin) * 1e3)
    found = in_turns({str(count): step for count, step in steps.items()})
    medians = {count: statistics.median(each) for count, each in times.items()}
    return {count: found[str(count)] for count in steps}, medians


def million() -> tuple[float, float, int]:
    """Milliseconds of a step, peak memory in GB, and links of the network of a million neurons."""
    model = ours_of(MILLION, 1 if DRY else 5.5)
    links = sum(layer.nnz for layer in sparse_layers(model).values())
    x, y = batch_of(MILLION, BATCH)
    if not DRY:
        torch.cuda.reset_peak_memory_stats()
    replay = recorded(model, x, y)
    time_of_step = in_turns({"ours": replay})["ours"]
    peak = 0.0 if DRY else torch.cuda.max_memory_allocated() / 1e9
    return time_of_step, peak, links


def free() -> None:
    gc.collect()  # engines, which hold recordings
    if not DRY:
        torch.cuda.empty_cache()


Row = tuple[str, str, str, str, str]


def compared(what: str, found: dict[str, float], least: dict[str, float]) -> list[Row]:
    rows = []
    for name, target in least.items():
        ratio = found[name] / found["ours"]
        passed = "yes" if ratio >= target else "no"
        measured = f"{found['ours']:.4f} ms, dense {name} {found[name]:.4f} ms"
        rows.append((what, f"{target:g} × dense {name}", measured, f"{ratio:.2f} ×", passed))
    return rows


def at_most(what: str, target: float, value: float, unit: str, more: str = "") -> Row:
    passed = "yes" if value <= target else "no"
    ratio = f"{value / target:.2f} of it"
    return what, f"at most {target:g} {unit}", f"{value:.4g} {unit}{more}", ratio, passed


def table() -> None:
    def of_steps(widths: tuple[int, ...], size: int, f32: float, tf32: float) -> list[Row]:
        name = f"step {'-'.join(map(str, widths))}, epsilon {EPSILON}, batch {size}"
        return compared(name, steps(widths, size), {"float32": f32, "TF32": tf32})

    def of_rewiring(name: str, rule: str, target: float, samples: int = 0) -> list[Row]:
        here, by_cpu = rewiring(rule, samples)
        more = f"; {by_cpu:.4g} ms decided by the CPU"
        return [at_most(f"{name} rewiring of all CIFAR-10 layers", target, here, "ms", more)]

    def of_epoch() -> list[Row]:
        seconds, made = epoch()
        return [at_most("an epoch of the size of MNIST's", 0.25, seconds, "s", f"; steps {made}")]

    def of_seeds() -> list[Row]:
        rows = []
        whole = seeds_together()
        for what, found in zip(("recorded step", "training of an epoch"), whole, strict=True):
            ratio = found[SEEDS] / found[1]
            name = f"{what} of {SEEDS} seeds together, MNIST network, against one"
            measured = f"{found[SEEDS]:.4f} ms, one {found[1]:.4f} ms"
            passed = "yes" if ratio <= 2 else "no"
            rows.append((name, "at most 2 × one", measured, f"{ratio:.2f} ×", passed))
        return rows

    def of_million() -> list[Row]:
        step, peak, links = million()
        name = f"step of {sum(MILLION):,} neurons, {links:,} links, batch {BATCH}"
        return [at_most(name, 12, step, "ms"), at_most("its peak memory", 2, peak, "GB")]

    parts: list[Callable[[], list[Row]]] = [
        lambda: of_steps(CIFAR, BATCH, 5, 2.4),
        lambda: of_steps(MNIST, MNIST_BATCH, 2.2, 1.2),
        lambda: of_rewiring("SET", "set", 2),
        of_epoch, of_seeds, of_million,
        lambda: of_steps(WIDE, BATCH, 35, 14),
        lambda: of_rewiring("RigL", "rigl", 20),
        lambda: of_rewiring("SNFS", "snfs", 60),
        lambda: of_rewiring("CTRE (similarities)", "ctre_sim", 60, 8 if DRY else 10_000),
    ]  # fmt: skip
    print("| what | target | measured | ratio | passed |\n|---|---|---|---|---|")
    for part in parts:
        if time.monotonic() - BEGAN > MOST_SECONDS:
            print("| not run | | the time was up | | no |")
            continue
        try:
            rows = part()
        except Exception as error:  # a row that fails does not take the others with it
            rows = [("failed", "", str(error).partition("\n")[0][:200], "", "no")]
        for row in rows:
            print("| " + " | ".join(row) + " |", flush=True)
        free()


# Tables for the code.


def layer(n_in: int, n_out: int, density: float) -> tuple[EdgeIndex, torch.Tensor]:
    n_edges = int(density * n_in * n_out)
    topology = random_topology((n_in, n_out), n_edges / (n_in + n_out), np.random.default_rng(0))
    index = EdgeIndex(topology["fc1"])
    return index, torch.randn(index.graph.n_edges, device=DEVICE)


def tune() -> None:
    """Print times by launch parameters, from which CONFIGURATIONS was chosen: layers of SET."""
    layers = [((8, 9, 0.3), 4)] if DRY else [
        ((3072, 4000, 0.0115), 128), ((4000, 1000, 0.025), 128), ((1000, 4000, 0.025), 128),
        ((784, 1000, 0.0455), 100), ((1000, 1000, 0.04), 100), ((16000, 16000, 0.0025), 128),
    ]  # fmt: skip
    edges_of, warps_of, blocks = (4, 8, 16, 32), (1, 2, 4), (32, 64, 128)
    if DRY:
        edges_of, warps_of, blocks = (4,), (1,), (4,)
    way, before = PRODUCTS["triton"], dict(card.CONFIGURATIONS)
    print("| layer | batch | kernel | microseconds of (samples, edges, warps) |\n|---|---|---|---|")
    for sizes, batch in layers:
        index, v = layer(*sizes)
        x, g = (torch.randn(n, batch, device=DEVICE) for n in index.graph.shape[::-1])
        calls = {
            "forward": partial(way.product, x, v, None, index, True),
            "backward": partial(way.gradients, g, x, v, index, True, True),
            "sampled": partial(way.gradients, g, x, v, index, False, False),
        }
        for kernel, call in calls.items():
            found = {}
            whole = (card.block_of(batch),) if kernel == "backward" else blocks
            for block, edges, warps in itertools.product(whole, edges_of, warps_of):
                if edges * block <= 2048 * warps:  # else registers do not hold them
                    row = card.Configuration(block, edges, warps)
                    card.CONFIGURATIONS.clear()
                    card.CONFIGURATIONS.update(dict.fromkeys(before, (row,)))
                    found[row] = of_products({"it": call})["it"] * 1e3
            best = sorted(found, key=lambda row: found[row])
            times = "; ".join(f"{tuple(row)}: {found[row]:.2f}" for row in best)
            print(f"| {sizes[0]} x {sizes[1]} | {batch} | {kernel} | {times} |", flush=True)
    card.CONFIGURATIONS.update(before)


def crossover() -> None:
    """Print times of our product and of dense ones, forward and backward, over densities."""
    sizes = [(8, 9, 3)] if DRY else [(3072, 4000, 128), (4096, 4096, 1024)]
    kinds = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16,
             "float64": torch.float64}  # fmt: skip
    print(
        "| layer | batch | density | number type | ours ms | dense ms |\n|---|---|---|---|---|---|"
    )
    for n_in, n_out, size in sizes:
        for density in (0.2,) if DRY else (0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3):
            index, values = layer(n_in, n_out, density)
            for name, dtype in kinds.items():
                v, weight = values.to(dtype), torch.randn(n_out, n_in, device=DEVICE, dtype=dtype)
                x = torch.randn(n_in, size, device=DEVICE, dtype=dtype)
                g = torch.randn(n_out, size, device=DEVICE, dtype=dtype)

                def ours(v=v, x=x, g=g, index=index):
                    PRODUCTS["triton"].product(x, v, None, index, True)
                    PRODUCTS["triton"].gradients(g, x, v, index, True, True)

                def dense(weight=weight, x=x, g=g):
                    return weight @ x, weight.T @ g, g @ x.T

                torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
                found = of_products({"ours": ours, "dense": dense}, times=4)
                torch.backends.cuda.matmul.allow_tf32 = False
                cells = (f"{n_in} x {n_out}", size, density, name)
                times = (f"{found['ours']:.4f}", f"{found['dense']:.4f}")
                print("| " + " | ".join(map(str, (*cells, *times))) + " |", flush=True)


# Number types as Triton names them, and the compute capability they are compiled for, times ten.
COMPILED = {"fp32": 90, "bf16": 90, "fp64": 80, "fp16": 80}


def compile_all(kinds: list[str]) -> None:
    """Compile each kernel in every form that `card` launches, and say how many."""
    import triton
    from triton.backends.compiler import GPUTarget

    from topokit.nn.kernels import card_kernels as kernels

    on_off = (False, True)
    finish = [{"RELU": r, "DROP": d} for r, d in ((False, False), (True, False), (True, True))]
    forms = {
        kernels.forward: [
            *({"PERMUTED": False, "MASK": False, "BIAS": b, **f} for b in on_off for f in finish),
            *({"PERMUTED": True, "MASK": m, "BIAS": False, **finish[0]} for m in on_off),
        ],
        kernels.backward: [{"MASK": m, "SUMS": m} for m in on_off],
        kernels.sampled: [{"WHOLE": w} for w in on_off],
        kernels.add_parts: [
            *({"MASK": False, "SUMS": False, "BIAS": b, **f} for b in on_off for f in finish),
            *({"MASK": True, "SUMS": m, "BIAS": False, **finish[0]} for m in on_off),
        ],
    }  # fmt: skip
    types = {kind: COMPILED[kind] for kind in kinds}
    count = 0
    for kernel, flags in forms.items():
        names = kernel.arg_names
        table = card.CONFIGURATIONS.get(kernel.__name__, card.CONFIGURATIONS["backward"])
        for (kind, capability), form, split in itertools.product(types.items(), flags, on_off):
            if split and "SPLIT" not in names:
                continue
            sums = "fp64" if kind == "fp64" else "fp32"
            constants: dict[str, Any] = {
                **form, "SPLIT": split, "ACC": getattr(kernels.tl, f"float{sums[2:]}"),
                "EDGES": table[-1].edges, "BLOCK": table[-1].samples, "VEC": 4,
            }  # fmt: skip
            constants = {name: value for name, value in constants.items() if name in names}
            arrays = dict.fromkeys(("parts", "units", "positions", "longer"), "*i32")
            arrays |= {"partial": f"*{sums}", "bits": "*i16", "limit": "i32", "scale": "i64"}
            signature = {
                name: "constexpr" if name in constants
                else "i32" if name.startswith("n_") or name.endswith("stride") or name == "batch"
                else arrays.get(name, f"*{kind}")
                for name in names
            }  # fmt: skip
            at = {(names.index(name),): value for name, value in constants.items()}
            source = triton.compiler.ASTSource(kernel, signature, at)
            target = GPUTarget("cuda", capability, 32)
            triton.compile(source, target=target, options={"num_warps": table[-1].warps})
            count += 1
    print(f"{count} forms of {len(forms)} kernels compile, in {', '.join(kinds)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--compile", nargs="?", const=",".join(COMPILED))
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    if options.compile:
        compile_all(options.compile.split(","))
        return
    if DRY:
        from tests.interpreter import patch_once

        patch_once()
        use_on_device("cpu", "triton")
        decide_on("cpu")
        models.chained = lambda parts, x: None  # the CPU's own way through several layers
        products.ONE_BY_ONE = ()  # nor its way through several runs
        decisions.graphs_of = lambda device: Directly()
    elif not torch.cuda.is_available():
        print(f"expected a graphics card, torch {torch.__version__} finds none; --dry runs without")
        raise SystemExit(2)
    import triton

    name = "no card, Triton's interpreter" if DRY else torch.cuda.get_device_name()
    today = datetime.datetime.now(tz=datetime.UTC).date()
    print(
        f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, triton "
        f"{triton.__version__}; {today}\n",
        flush=True,
    )
    if not DRY and (options.tune or options.crossover):
        tune() if options.tune else crossover()
        return
    if not DRY:
        print(f"Tests of the kernels: {check_tests()}.")
    count, worst = check_shapes(np.random.default_rng(0), 0 if DRY else 25)
    errors = ", ".join(f"{str(k).removeprefix('torch.')} {v:.1e}" for k, v in worst.items())
    print(f"{count} random shapes against float64, largest relative errors: {errors}.")
    count, n_recorded = check_rewirings(np.random.default_rng(0))
    print(f"{count} networks rewired three times, with the edges that the CPU chooses.")
    print(f"{n_recorded} of them by a decision that was recorded.")
    replays, wrong = check_training()
    print(f"{replays} steps of {len(TRAININGS)} short trainings were replayed.")
    print("\n".join(wrong or ["Their numbers are those of steps launched one by one."]) + "\n")
    table()
    if DRY:
        tune()
        crossover()
    print(f"\n{time.monotonic() - BEGAN:.0f} s in all.")
    if wrong:
        raise SystemExit("recorded steps are wrong, see above")


if __name__ == "__main__":
    main()

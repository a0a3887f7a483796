"""Time and memory against the number of edges, and the network with a million neurons.

    python benchmarks/scaling.py                  # 10^4 to 3 * 10^7 edges, one thread
    python benchmarks/scaling.py --million        # two epochs of the recipe set_mlp_million

Each size runs in a process of its own: one square layer with 20 edges per unit, trained with
momentum on batches of 32. Columns: seconds of one training step, of one SET rewiring (medians of
three, or a single run if it takes over ten seconds) and of the core measures, each also per edge,
and the peak of memory above that of the libraries, per edge.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

EDGES = [10**4, 10**5, 10**6, 10**7, 3 * 10**7]
EDGES_PER_UNIT = 20
BATCH = 32


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds(action: Callable[[], object]) -> float:
    """Median of three runs, or a single run if it takes over ten seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
        if times[0] > 10:
            break
    return statistics.median(times)


def one_size(n_edges: int) -> dict[str, float]:
    """Train, rewire and measure one layer; called in a process of its own."""
    import numpy as np
    import torch

    from topokit.generators import generate
    from topokit.measures import measure
    from topokit.nn.layers import sparse_layers
    from topokit.nn.models import set_mlp
    from topokit.rules import RULES
    from topokit.rules.rewire import rewire_network

    def build(n_units: int, rng: np.random.Generator) -> torch.nn.Module:
        sizes = [n_units, n_units]
        topology = generate(sizes, "erdos_renyi", density=min(1, EDGES_PER_UNIT / n_units), rng=rng)
        return set_mlp(topology, rng=rng)

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n_units = n_edges // EDGES_PER_UNIT

    def exercise(n_units: int) -> dict[str, float]:
        model = build(n_units, rng)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x, target = torch.randn(BATCH, n_units), torch.randn(BATCH, n_units)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            ((model(x) - target) ** 2).mean().backward()
            optimizer.step()

        def rewire() -> None:
            layers = sparse_layers(model)
            views = {name: layer.view() for name, layer in layers.items()}
            changes = rewire_network(
                views, RULES["set"](), drop_fraction=0.3, progress=0.5, rng=rng
            )
            for name, (update, values) in changes.items():
                layers[name].replace_graph(update, values, optimizer)

        step()
        result = {"step": seconds(step), "rewiring": seconds(rewire)}
        step()
        result["training peak"] = float(peak_bytes())
        topology = {name: layer.graph for name, layer in sparse_layers(model).items()}
        start = time.perf_counter()
        measure(topology)
        result["measuring"] = time.perf_counter() - start
        result["edges"] = float(sum(graph.n_edges for graph in topology.values()))
        return result

    exercise(100)  # loads compiled code and libraries before anything is measured
    before = peak_bytes()
    result = exercise(n_units)
    result["training bytes"] = result.pop("training peak") - before
    result["bytes"] = peak_bytes() - before
    return result


def table(edges: list[int]) -> None:
    """Print a line for each number of edges."""
    print("| edges | step s | ns/edge | rewiring s | ns/edge | measuring s | ns/edge |"
          " training bytes/edge | with measuring |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for n_edges in edges:
        command = [sys.executable, __file__, "--one", str(n_edges)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(answer.stdout)
        n = row["edges"]
        cells = [f"{int(n):,}"]
        for name in ("step", "rewiring", "measuring"):
            cells += [f"{row[name]:.3g}", f"{1e9 * row[name] / n:.0f}"]
        cells += [f"{row['training bytes'] / n:.0f}", f"{row['bytes'] / n:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def million() -> None:
    """Train the recipe and print time and memory."""
    import topokit as tk

    config = tk.load_recipe("set_mlp_million")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        history = tk.run(config, Path(folder) / "run")
        total = time.perf_counter() - start
        topology = history.topology(-1)
        timing = json.loads((Path(folder) / "run" / "timing.json").read_text(encoding="utf-8"))
    n_edges = sum(graph.n_edges for graph in topology.values())
    trained = timing["training_seconds"]
    samples = config.epochs * config.data.params["n_train"]
    print(f"{sum(config.model.widths):,} neurons, {n_edges:,} edges, {config.epochs} epochs")
    print(f"{total:.0f} s in all: training {trained:.0f} s, "
          f"core measures of every layer {timing['measuring_seconds']:.0f} s")  # fmt: skip
    print(f"{1e9 * trained / (n_edges * samples):.1f} ns for each edge and sample (with evaluation "
          f"and rewiring), peak memory {peak_bytes() / 2**30:.1f} GiB")  # fmt: skip
    print(f"test accuracy {history.epochs['test_accuracy'].iloc[-1]:.3f}")


def main() -> None:
    """Print the table, or time and memory for a million neurons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_size(arguments.one)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread for the table")
    if arguments.million:
        million()
    else:
        table(arguments.edges)


if __name__ == "__main__":
    main()

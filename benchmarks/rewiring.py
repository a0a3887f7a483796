"""Time of one rewiring against the number of edges.

    python benchmarks/rewiring.py [--edges 10000 100000 ...] [--rules set rigl ...]

Square layers with 20 edges per unit. Rules that score all absent edges are timed only for layers
with at most `--cells` possible edges. Prints a line for each rule and size: seconds (best of
three), edges per second, and the peak of memory allocated meanwhile, in bytes per edge.
"""

import argparse
import time
import tracemalloc

import numpy as np

from topokit.graph import LayerGraph, sample_absent
from topokit.rules import RULES, LayerView, rewire_network

EDGES_PER_UNIT = 20
LOCAL = ("set", "set_magnitude", "random", "itop", "path_weight", "sensitivity", "mest", "deep_r")


def layer(n_edges: int, rng: np.random.Generator, samples: int) -> LayerView:
    """Build a square random layer with the activations and gradients of a small batch."""
    n = max(2, n_edges // EDGES_PER_UNIT)
    empty = LayerGraph.from_edge_ids([], (n, n))
    graph = LayerGraph.from_edge_ids(sample_absent(empty, n_edges, rng), (n, n))
    values = rng.standard_normal(n_edges).astype(np.float32)
    inputs, outputs, output_grad = (
        rng.standard_normal((samples, n)).astype(np.float32) for _ in range(3)
    )
    extra = {
        "explored": graph,
        "sign": np.where(rng.random(n_edges) < 0.3, -1, 1) * np.sign(values),
        "sensitivity": rng.random(n_edges),
        "stalled": False,
    }
    return LayerView(graph, values, inputs, outputs, output_grad, extra)


def once(view: LayerView, name: str, seed: int) -> float:
    """Return the seconds of one rewiring with drop fraction 0.3."""
    rule, rng = RULES[name](), np.random.default_rng(seed)
    start = time.perf_counter()
    rewire_network({"fc1": view}, rule, drop_fraction=0.3, progress=0.5, rng=rng)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rules", nargs="+", default=[*RULES], choices=[*RULES])
    parser.add_argument("--cells", type=float, default=3e7)
    parser.add_argument("--samples", type=int, default=32)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'rule':<14} {'edges':>10} {'seconds':>9} {'edges/s':>10} {'bytes/edge':>10}")
    for n_edges in arguments.edges:
        view = layer(n_edges, rng, arguments.samples)
        cells = view.graph.n_in * view.graph.n_out
        for name in arguments.rules:
            if name == "static" or (
                name not in LOCAL and name != "gmp" and cells > arguments.cells
            ):
                continue
            seconds = min(once(view, name, seed) for seed in range(3))
            tracemalloc.start()
            once(view, name, 0)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print(
                f"{name:<14} {n_edges:>10,} {seconds:>9.4f} {n_edges / seconds:>10,.0f} "
                f"{peak / n_edges:>10,.0f}"
            )


if __name__ == "__main__":
    main()

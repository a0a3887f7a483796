"""Time of one rewiring against the number of links.

    python benchmarks/rewiring.py [--links 10000 100000 ...] [--rules set rigl ...]

Square layers with 20 links per unit for rules that never look at absent cells; rules that score
every absent cell are timed up to the size where the layer has `--cells` cells. Prints one line
a rule and size: seconds (best of three), links per second, and the peak of memory allocated
meanwhile, in bytes a link.
"""

import argparse
import time
import tracemalloc

import numpy as np

from topokit.graph import LayerGraph, sample_absent
from topokit.rules import RULES, LayerView, rewire_network

LINKS_PER_UNIT = 20
LOCAL = ("set", "set_magnitude", "random", "itop", "path_weight", "sensitivity", "mest", "deep_r")


def layer(n_links: int, rng: np.random.Generator, samples: int) -> LayerView:
    """Build a square random layer with captures of a small batch."""
    n = max(2, n_links // LINKS_PER_UNIT)
    empty = LayerGraph.from_edge_ids([], (n, n))
    graph = LayerGraph.from_edge_ids(sample_absent(empty, n_links, rng), (n, n))
    values = rng.standard_normal(n_links).astype(np.float32)
    inputs, outputs, output_grad = (
        rng.standard_normal((samples, n)).astype(np.float32) for _ in range(3)
    )
    extra = {
        "explored": graph,
        "sign": np.where(rng.random(n_links) < 0.3, -1, 1) * np.sign(values),
        "sensitivity": rng.random(n_links),
        "stalled": False,
    }
    return LayerView(graph, values, inputs, outputs, output_grad, extra)


def once(view: LayerView, name: str, seed: int) -> float:
    """Return the seconds of one rewiring at drop fraction 0.3."""
    rule, rng = RULES[name](), np.random.default_rng(seed)
    start = time.perf_counter()
    rewire_network({"fc1": view}, rule, drop_fraction=0.3, progress=0.5, rng=rng)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--rules", nargs="+", default=[*RULES], choices=[*RULES])
    parser.add_argument("--cells", type=float, default=3e7)
    parser.add_argument("--samples", type=int, default=32)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'rule':<14} {'links':>10} {'seconds':>9} {'links/s':>10} {'bytes/link':>10}")
    for n_links in arguments.links:
        view = layer(n_links, rng, arguments.samples)
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
                f"{name:<14} {n_links:>10,} {seconds:>9.4f} {n_links / seconds:>10,.0f} "
                f"{peak / n_links:>10,.0f}"
            )


if __name__ == "__main__":
    main()

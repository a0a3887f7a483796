"""What measuring costs: ``python benchmarks/measures.py [--large]`` prints medians and ratios."""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from topokit.graph import LayerGraph, Topology
from topokit.measures import CORE, LAYER_MEASURES, measure, power_law_of


def random_layer(n_in: int, n_out: int, *, n_edges: int, rng: np.random.Generator) -> LayerGraph:
    """Distinct uniform edges, close to the number asked for in huge layers."""
    cells = n_in * n_out
    if n_edges >= cells:
        return LayerGraph.from_edge_ids(np.arange(cells), (n_out, n_in))
    if cells <= 10**8:
        return LayerGraph.from_edge_ids(rng.permutation(cells)[:n_edges], (n_out, n_in))
    return LayerGraph.from_edge_ids(np.unique(rng.integers(0, cells, n_edges)), (n_out, n_in))


def network(widths: list[int], *, epsilon: float, rng: np.random.Generator) -> Topology:
    """Random network at SET's budget."""
    return {
        f"fc{i + 1}": random_layer(a, b, n_edges=min(a * b, round(epsilon * (a + b))), rng=rng)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


def median_ms(action, arguments) -> float:
    """Median wall-clock milliseconds over the arguments, each used once: nothing is cached."""
    times = []
    for argument in arguments:
        start = time.perf_counter()
        action(argument)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    """Time the core measures of the MNIST network, each measure alone, and a bootstrap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also 1e5 x 1e5 with 1e6 edges")
    options = parser.parse_args()
    widths = [784, 1000, 1000, 1000, 10]
    nets = [network(widths, epsilon=20, rng=np.random.default_rng(s)) for s in range(8)]
    measure(nets[0])
    whole = median_ms(measure, nets[1:])
    print(f"core measures, {'-'.join(map(str, widths))}, epsilon 20: {whole:.0f} ms an epoch")
    matrix = nets[0]["fc2"].to_csr()
    product = median_ms(lambda vector: matrix @ vector, [np.ones(1000)] * 50)
    print(f"  {whole / product:.0f} sparse matrix-vector products of one hidden layer")
    for name in [*LAYER_MEASURES]:
        fresh = [network(widths, epsilon=20, rng=np.random.default_rng(s)) for s in range(20, 23)]
        layers = [t["fc2"] for t in fresh]
        mark = "core" if name in CORE else "on demand"
        print(f"  {name:32s} {median_ms(LAYER_MEASURES[name], layers):9.2f} ms a layer  {mark}")
    rng = np.random.default_rng(0)
    fresh = [network(widths, epsilon=20, rng=np.random.default_rng(s)) for s in range(30, 36)]
    layers = [t["fc1"] for t in fresh]
    fit = median_ms(power_law_of, layers)
    boot = median_ms(lambda g: power_law_of(g, bootstrap=100, rng=rng), layers[:3])
    print(f"power-law bootstrap, 100 replicates: {boot:.0f} ms, {boot / fit:.0f} fits")
    if options.large:
        rng = np.random.default_rng(1)
        big = [{"fc1": random_layer(10**5, 10**5, n_edges=10**6, rng=rng)}]
        print(f"core measures, 1e5 x 1e5, 1e6 edges: {median_ms(measure, big) / 1000:.1f} s")


if __name__ == "__main__":
    main()

"""Time of the measures: ``python benchmarks/measures.py [--large] [--networkx]``.

Prints medians and ratios; benchmarks/RESULTS.md has results.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time

import numpy as np

from topokit.graph import LayerGraph, Topology
from topokit.measures import CORE, LAYER_MEASURES, NETWORK_MEASURES, measure, power_law_of

CONNECTIVITY = "algebraic_connectivity"


def random_layer(n_in: int, n_out: int, *, n_edges: int, rng: np.random.Generator) -> LayerGraph:
    """Distinct uniform edges; in huge layers approximately the number asked for."""
    cells = n_in * n_out
    if n_edges >= cells:
        return LayerGraph.from_edge_ids(np.arange(cells), (n_out, n_in))
    if cells <= 10**8:
        return LayerGraph.from_edge_ids(rng.permutation(cells)[:n_edges], (n_out, n_in))
    return LayerGraph.from_edge_ids(np.unique(rng.integers(0, cells, n_edges)), (n_out, n_in))


def network(widths: list[int], *, epsilon: float, rng: np.random.Generator) -> Topology:
    """Random network with the density of SET."""
    return {
        f"fc{i + 1}": random_layer(a, b, n_edges=min(a * b, round(epsilon * (a + b))), rng=rng)
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }


def median_ms(action, arguments) -> float:
    """Median processor milliseconds over the arguments, each used once, so that nothing is cached.

    Processor time, since other processes on a shared machine lengthen the wall time; one thread.
    """
    times = []
    for argument in arguments:
        start = time.process_time()
        action(argument)
        times.append(time.process_time() - start)
    return 1000 * float(np.median(times))


def main() -> None:
    """Time the core measures of the MNIST network, each measure alone, and a bootstrap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also 1e6 and 1e7 edges")
    parser.add_argument("--networkx", action="store_true", help="also compare with networkx")
    options = parser.parse_args()
    widths = [784, 1000, 1000, 1000, 10]
    nets = [network(widths, epsilon=20, rng=np.random.default_rng(s)) for s in range(8)]
    measure(nets[0], [*LAYER_MEASURES, *NETWORK_MEASURES])  # compiles
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
    if options.networkx:
        compare_with_networkx()
    if options.large:
        for n_edges in (10**6, 10**7):
            big = random_layer(10**5, 10**5, n_edges=n_edges, rng=np.random.default_rng(1))
            seconds = median_ms(measure, [{"fc1": big}]) / 1000
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(f"core measures, 1e5 x 1e5, {n_edges:.0e} edges: {seconds:.1f} s, {peak:.1f} GB")


def compare_with_networkx() -> None:
    """Both gaps of a 3072 x 4000 layer at 1 %, compared with networkx."""
    import networkx as nx

    from topokit.graph.convert import to_networkx

    graph = random_layer(3072, 4000, n_edges=122_880, rng=np.random.default_rng(0))
    start = time.perf_counter()
    ours = [LAYER_MEASURES[k](graph) for k in ("normalized_spectral_gap", CONNECTIVITY)]
    seconds = time.perf_counter() - start
    oracle = to_networkx(graph)
    for method in ("lanczos", "lobpcg"):
        start = time.perf_counter()
        theirs = [
            nx.algebraic_connectivity(oracle, normalized=n, method=method, tol=1e-8, seed=0)
            for n in (True, False)
        ]
        other = time.perf_counter() - start
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        print(
            f"3072 x 4000, 1 %, two gaps: {seconds:.2f} s; networkx {method} {other:.1f} s, "
            f"{other / seconds:.0f} times, {apart:.0e} apart"
        )


if __name__ == "__main__":
    main()

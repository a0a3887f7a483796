"""Print time and peak memory of every generator for a large layer.

Command: ``python benchmarks/generators.py [--units 100000] [--edges 1000000] [--names a,b]
[--repeats 3] [--limit 60]``. Each family runs in a process of its own. Times are processor times,
since the machine may be shared: the median of the repeats after a first small graph, which loads
compiled code. The peak is that of resident memory above its value after that graph.

With ``--contract`` every family is generated at every size of the contract and every density
instead, twice, and the number of edges and the equality of both graphs are checked (about 20
minutes). ``--expanders`` prints second singular values of `expander`, of one multiplicative lift
and of random graphs with the same degrees, lowest and highest of three seeds.
"""

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date

import numpy as np

from topokit.generators import GENERATORS
from topokit.graph import same_edges
from topokit.graph.spectra import leading_singular_values, mean_degree_bound

MUST = (
    "erdos_renyi", "fixed_fan_in", "fixed_fan_out", "biregular", "configuration", "small_world",
    "expander", "preferential_attachment", "chung_lu", "block", "band", "circulant", "radix",
    "butterfly",
)  # fmt: skip
SIZES = [(64, 10), (1, 500), (500, 1), (784, 1000), (1000, 784), (3072, 4000)]
LAYERS = [
    (784, 1000, 0.01), (300, 300, 0.03), (300, 300, 0.1), (300, 300, 0.3), (784, 300, 0.05),
    (784, 128, 0.1), (128, 128, 0.1), (64, 64, 0.1), (512, 512, 0.01), (512, 512, 0.05),
    (1000, 1000, 0.02), (1000, 1000, 0.1), (1000, 10, 0.3), (3072, 4000, 0.01), (3072, 4000, 0.1),
]  # fmt: skip
SHARES = [0.0, 2e-5, 0.01, 0.1, 0.6, 1.0]


def peak():
    """Peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(name, units, edges, repeats):
    """Return processor seconds and additional peak memory (MB) of a family, in this process."""
    family, density = GENERATORS[name], edges / units**2
    family(200, 200, density=0.05, rng=np.random.default_rng(0))
    before, seconds = peak(), []
    for seed in range(repeats):
        start = time.process_time()
        graph = family(units, units, density=density, rng=np.random.default_rng(seed))
        seconds.append(time.process_time() - start)
        if seconds[-1] > 20:
            break
    return {
        "seconds": statistics.median(seconds), "mb": peak() - before, "edges": graph.n_edges,
    }  # fmt: skip


def row(name, units, edges, repeats, limit):
    """Run one family in its own process; None if it exceeds the time limit or the memory."""
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--units",
        str(units),
        "--edges",
        str(edges),
    ]
    try:
        done = subprocess.run(
            [*command, "--repeats", str(repeats)],
            capture_output=True, text=True, timeout=limit, check=True,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    return json.loads(done.stdout)


def table(names, units, edges, repeats, limit):
    """Markdown lines, one for each family."""
    yield f"{units:,} x {units:,} units, {edges:,} edges:"
    yield ""
    yield "| family | must | processor seconds | additional MB | edges |"
    yield "|---|---|---|---|---|"
    for name in names:
        must = "yes" if name in MUST else ""
        found = row(name, units, edges, repeats, limit)
        if found is None:
            yield f"| {name} | {must} | over {limit} s or out of memory | | |"
        else:
            numbers = f"{found['seconds']:.2f} | {found['mb']:.0f} | {found['edges']:,}"
            yield f"| {name} | {must} | {numbers} |"


def contract(names):
    """Generate every family at every size and density; return whether all meet the contract."""
    sound = True
    for name in names:
        times, failures = [], []
        for cell in itertools.product(SIZES, SHARES):
            (n_in, n_out), density = cell
            start = time.process_time()
            draws = [
                GENERATORS[name](n_in, n_out, density=density, rng=np.random.default_rng(seed))
                for seed in (7, 7)
            ]
            times.append((time.process_time() - start, cell))
            wanted = round(density * n_in * n_out)
            exact = name not in ("erdos_renyi_bernoulli", "set_sampler")
            good = draws[0].shape == (n_out, n_in) and same_edges(*draws)
            if not good or (exact and draws[0].n_edges != wanted):
                failures.append((cell, draws[0]))
        seconds, slowest = max(times)
        print(
            f"{name}: {len(times)} cells, {len(failures)} failures; slowest (two graphs) "
            f"{seconds:.1f} s at {slowest}", *failures, flush=True,
        )  # fmt: skip
        sound &= not failures
    return sound


def expanders():
    """Print the table of second singular values."""
    names = ("expander", "cyclic_lift", "biregular")
    print("| layer | density | bound | " + " | ".join(names) + " | s, expander |")
    print("|---" * (len(names) + 4) + "|")
    for n_in, n_out, density in LAYERS:
        cells = []
        for name in names:
            start, values = time.process_time(), []
            for seed in range(3):
                rng = np.random.default_rng(seed)
                graph = GENERATORS[name](n_in, n_out, density=density, rng=rng)
                values.append(leading_singular_values(graph)[1])
            cells.append(f"{min(values):.2f} to {max(values):.2f}")
            if name == "expander":
                seconds = (time.process_time() - start) / 3
        bound = mean_degree_bound(graph)
        line = [f"{n_in} x {n_out}", f"{density:g}", f"{bound:.2f}", *cells, f"{seconds:.2f}"]
        print("| " + " | ".join(line) + " |", flush=True)


def main():
    """Print the table, or one family's numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--names", default=",".join(GENERATORS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--one")
    parser.add_argument("--contract", action="store_true")
    parser.add_argument("--expanders", action="store_true")
    given = parser.parse_args()
    names = MUST if given.names == "must" else given.names.split(",")
    if given.one:
        print(json.dumps(one(given.one, given.units, given.edges, given.repeats)))
    elif given.expanders:
        expanders()
    elif given.contract:
        sys.exit(not contract(names))
    else:
        print(f"{date.today()}, {platform.machine()}, Python {platform.python_version()}\n")
        for line in table(names, given.units, given.edges, given.repeats, given.limit):
            print(line, flush=True)


if __name__ == "__main__":
    main()

"""This checkout against another one: training steps, rewiring and measuring, taking turns.

    python benchmarks/versions.py ../before            # a checkout of another version
    python benchmarks/versions.py ../before --rounds 40 --threads 2
    python benchmarks/versions.py ../before --rounds 8 --only "1e5 x 1e5"

Each version runs in a process of its own that stays alive; the two are asked in turns for one piece
of the same work, so that what else the machine does falls on both alike. Printed are the medians of
each version and the ratio new / old: of the medians, and the median and quartiles of the ratios of
neighbouring turns. Only public names are used, so that versions of another layout can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

NETWORKS = {
    "3072-4000-1000-4000-10": ([3072, 4000, 1000, 4000, 10], 128),
    "784-1000-1000-1000-10": ([784, 1000, 1000, 1000, 10], 100),
}


def work(threads: int) -> dict[str, Callable[[], float]]:
    """Return the pieces of work by name, each a function that does it and returns milliseconds."""
    import numpy as np
    import torch
    from torch import nn

    import topokit as tk

    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    pieces: dict[str, Callable[[], float]] = {}
    for name, (widths, batch) in NETWORKS.items():
        topology = tk.generate(widths, "erdos_renyi", epsilon=20, rng=np.random.default_rng(0))
        model = tk.MODELS["set_mlp"](
            topology, rng=np.random.default_rng(1), generator=torch.Generator(), activation="relu",
            dropout=0.0,
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        engine = tk.attach(model, optimizer, "set", every=10**9, rng=np.random.default_rng(2))
        torch.manual_seed(0)
        x, y = torch.randn(batch, widths[0]), torch.randint(widths[-1], (batch,))

        def steps(model=model, optimizer=optimizer, x=x, y=y) -> float:
            start = clock()
            for _ in range(5):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            return (clock() - start) * 200

        def rewire(engine=engine) -> float:
            start = clock()
            engine.rewire()
            return (clock() - start) * 1000

        def measure(topology=topology) -> float:
            new = {
                key: tk.LayerGraph(graph.shape, np.array(graph.indptr), np.array(graph.indices))
                for key, graph in topology.items()  # what is known of a graph is kept with it
            }
            start = clock()
            tk.measure(new)
            return (clock() - start) * 1000

        pieces[f"training step, {name}"] = steps
        pieces[f"rewiring, {name}"] = rewire
        pieces[f"core measures, {name}"] = measure
    wide: list[tk.LayerGraph] = []

    def measure_wide() -> float:
        if not wide:
            rng = np.random.default_rng(1)
            ids = np.unique(rng.integers(0, 10**10, 10**6))
            wide.append(tk.LayerGraph.from_edge_ids(ids, (10**5, 10**5)))
        graph = tk.LayerGraph(wide[0].shape, np.array(wide[0].indptr), np.array(wide[0].indices))
        start = clock()
        tk.measure({"fc1": graph})
        return (clock() - start) * 1000

    pieces["core measures, 1e5 x 1e5 units, 1e6 edges"] = measure_wide
    return pieces


def serve(threads: int) -> None:
    """Answer each line, the name of a piece of work, with the milliseconds it took."""
    pieces = work(threads)
    print(json.dumps(list(pieces)), flush=True)
    for line in sys.stdin:
        print(pieces[line.rstrip("\n")](), flush=True)


def start(root: Path, threads: int) -> subprocess.Popen[str]:
    """Start a process that works with the package at `root`."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--serve", "--threads", str(threads)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
    )  # fmt: skip


def ask(process: subprocess.Popen[str], name: str) -> float:
    """Have a process do a piece of work; return its milliseconds."""
    assert process.stdin is not None
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(answer(process))


def answer(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="checkout of the version before")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the names of the work to be done")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.threads)
        return
    if options.other is None or not (options.other / "topokit").is_dir():
        parser.error(f"expected a checkout that holds the package topokit, got {options.other}")
    roots = (Path(__file__).resolve().parent.parent, options.other.resolve())
    new, old = (start(root, options.threads) for root in roots)
    names, _ = (json.loads(answer(process)) for process in (new, old))
    print("| what | new ms | old ms | new / old | of neighbouring turns |")
    print("|---|---|---|---|---|")
    for name in (name for name in names if options.only in name):
        taken: dict[str, list[float]] = {"new": [], "old": []}
        for turn in range(options.rounds + 3):
            order = [("new", new), ("old", old)]
            for key, process in order if turn % 2 else order[::-1]:
                taken[key].append(ask(process, name))
        a, b = taken["new"][3:], taken["old"][3:]  # the first turns warm up
        low, middle, high = statistics.quantiles([x / y for x, y in zip(a, b, strict=True)], n=4)
        first, second = statistics.median(a), statistics.median(b)
        print(
            f"| {name} | {first:.2f} | {second:.2f} | {first / second:.3f} | "
            f"{middle:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )
    for process in (new, old):
        process.kill()


if __name__ == "__main__":
    main()

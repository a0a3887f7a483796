"""What a long run's record costs: bytes and time an epoch, reading and going on.

    python benchmarks/record.py --epochs 2000

Counts what is written (files as written, lines as appended), in blocks of ten epochs, for a small
network rewired at random. Times are of the processor, without waiting for the disk.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from topokit.experiments.record import History
from topokit.experiments.recorder import Recorder
from topokit.experiments.rundir import RunDirectory
from topokit.graph import EdgeUpdate, LayerGraph, sample_absent
from topokit.measures import measure


def watch():
    """Count the bytes of all files that are moved into place, and of all lines."""
    import topokit.experiments.rundir as rundir
    import topokit.graph.snapshots as snapshots

    total = [0]
    for module in (rundir, snapshots):
        original = module.write_atomic

        def counted(path, original=original):
            from contextlib import contextmanager

            @contextmanager
            def write():
                with original(path) as temporary:
                    yield temporary
                    total[0] += Path(temporary).stat().st_size

            return write()

        module.write_atomic = counted
    add_line = RunDirectory.add_line

    def line(self, values, after):
        path = self.path / "record.jsonl"
        before = path.stat().st_size
        result = add_line(self, values, after)
        total[0] += path.stat().st_size - before
        return result

    RunDirectory.add_line = line
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2000)
    parser.add_argument("--checkpoint", type=int, default=18_000, help="bytes of a checkpoint")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shapes = {"fc1": (100, 64), "fc2": (60, 100), "fc3": (10, 60)}
    graphs = {
        name: LayerGraph.from_edge_ids(rng.permutation(a * b)[: a * b // 5], (a, b))
        for name, (a, b) in shapes.items()
    }
    total = watch()
    os.fsync = lambda descriptor: None
    folder = Path(tempfile.mkdtemp()) / "run"
    run = RunDirectory.create(folder, f"epochs = {options.epochs}\n", {"seed": 0})
    recorder = Recorder(run)
    metrics = dict.fromkeys(("train_loss", "test_loss", "test_accuracy", "seconds"), 1 / 3)
    frame = measure(graphs)
    bytes_, seconds, memory = [], [], []
    for epoch in range(options.epochs):
        before, start = total[0], time.process_time()
        changes = None
        if epoch:
            changes = {}
            for name, graph in graphs.items():
                n = int(0.3 * graph.n_edges)
                dropped = rng.choice(graph.n_edges, n, replace=False)
                changes[name] = EdgeUpdate.from_decisions(
                    graph, dropped, sample_absent(graph, n, rng)
                )
                graphs[name] = changes[name].after
            graphs = dict(graphs)
        frame["value"] = rng.random(len(frame))
        recorder.explore(graphs)
        recorder.write(epoch, metrics, graphs, frame, changes)
        run.write("checkpoint.pt", bytes(options.checkpoint))
        seconds.append(time.process_time() - start)
        bytes_.append(total[0] - before - options.checkpoint)
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    (folder / "checkpoint.pt").unlink()
    blocks = np.array(bytes_[: len(bytes_) // 10 * 10]).reshape(-1, 10).mean(axis=1)
    times = 1e3 * np.array(seconds[: len(seconds) // 10 * 10]).reshape(-1, 10).mean(axis=1)
    print("| epochs | bytes an epoch, without checkpoint | ms an epoch | largest memory, MB |")
    print("| --- | --- | --- | --- |")
    for at in sorted({0, 1, 2, 5, 10, len(blocks) // 4, len(blocks) // 2, len(blocks) - 1}):
        if at < len(blocks):
            last = 10 * at + 9
            row = f"{blocks[at]:,.0f} | {times[at]:.1f} | {memory[last]:.0f}"
            print(f"| {10 * at}..{last} | {row} |")
    spread = blocks[1:].max() / blocks[1:].min()
    print(f"largest over smallest block from epoch 10 on: {spread:.3f}")
    start = time.process_time()
    history = History.load(folder)
    print(f"History.load: {time.process_time() - start:.2f} s")
    slowest = 0.0
    for epoch in rng.integers(0, options.epochs, 50):
        start = time.process_time()
        history.topology(int(epoch))
        slowest = max(slowest, time.process_time() - start)
    print(f"the slowest of 50 epochs' topologies: {slowest * 1e3:.1f} ms")
    start = time.process_time()
    again = Recorder(run, upto=options.epochs - 1)
    opened = time.process_time() - start
    assert again.explored == recorder.explored
    print(f"going on: {opened:.2f} s, and {time.process_time() - start:.2f} s with explored edges")
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"size of the directory: {files / 1e6:.1f} MB; written: {total[0] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""SET against a static topology in restricted Boltzmann machines, on four binary sets.

Command: ``python figures/studies/rbm.py --data-dir DIR --runs RUNS [--seeds 5] [--workers 2]``.
Writes ``rbm.csv`` and ``rbm.png`` beside itself and prints the table of ``rbm.md``. Complete runs
are not repeated.
"""

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from topokit.plots import house_style

COMMON = ["threads=1", "measures.names=['fan_in','fan_out']", "measures.every=20"]
HERE = Path(__file__).parent
MNIST = ["data.n_train=6000", "epochs=60", "optimizer.lr=0.1"]
SETS = {
    "mnist": ("set_rbm_mnist", MNIST),
    "fashion_mnist": ("set_rbm_mnist", ["data.name=fashion_mnist", *MNIST]),
    "mushrooms": ("set_rbm_mushrooms", ["epochs=300", "optimizer.lr=0.05"]),
    "digits": (
        "set_rbm_mnist",
        [
            "data.name=digits",
            "model.widths=[64,100]",
            "topology.epsilon=5",
            "epochs=300",
            "batch_size=50",
            "optimizer.lr=0.1",
        ],
    ),
}
RULES = ("set", "static")
LABELS = {"set": "SET", "static": "static"}
AIS = {"runs": 100, "betas": 2000}


def one_run(job):
    """Train a run unless it exists; return its row of the table and its errors over epochs."""
    from topokit.experiments.config import load_recipe
    from topokit.experiments.record import History
    from topokit.experiments.runs import run

    name, rule, seed, folder, data_dir = job
    directory = folder / f"{name}-{rule}-{seed}"
    recipe, settings = SETS[name]
    if not (directory / "DONE").exists():
        choice = [f"rule.name={rule}", "rule.final=keep", f"seed={seed}"]
        run(
            load_recipe(recipe).override([*settings, *COMMON, *choice]),
            directory,
            data_dir=data_dir,
        )
    history = History.load(directory)
    errors = history.epochs["test_loss"].to_numpy()
    known = directory / "row.json"
    if known.exists():
        return json.loads(known.read_text()), errors
    row = {
        "data": name,
        "rule": rule,
        "seed": seed,
        "edges": history.topology(-1)["fc1"].n_edges,
        "test_error": float(errors[-1]),
    }
    row |= likelihood(directory, name, seed, data_dir)
    known.write_text(json.dumps(row))
    print(row, flush=True)
    return row, errors


def likelihood(directory, name, seed, data_dir):
    """Return `annealed` of a run of this study, with all samples of its set."""
    from topokit.data import load_data
    from topokit.experiments.preparation import STREAMS

    stream = np.random.SeedSequence(seed, spawn_key=(STREAMS.index("data"),))
    split = np.random.Generator(np.random.PCG64(stream))  # the split of the run
    return annealed(directory, load_data(name, data_dir=data_dir, rng=split))


def annealed(directory, data):
    """Mean test log-likelihood in nats, the partition function by annealed importance sampling."""
    import torch

    from topokit.experiments.loop import read_checkpoint
    from topokit.nn.models import MODELS
    from topokit.nn.rbm import annealed_log_partition, log_likelihood
    from topokit.read import topology_of

    torch.set_num_threads(1)
    state = read_checkpoint(directory / "checkpoint.pt")["model"]
    rng = np.random.default_rng(0)
    rbm = MODELS["set_rbm"](topology_of(state), rng=rng)
    rbm.load_state_dict(state)
    draws = torch.Generator().manual_seed(0)
    found = annealed_log_partition(rbm, torch.from_numpy(data.x_train), **AIS, generator=draws)
    value = log_likelihood(rbm, torch.from_numpy(data.x_test), found.log_z)
    shares = {"effective_runs": found.effective_runs, "largest_share": found.largest_share}
    return {"log_likelihood": value, **shares}


def interval(values):
    """Return the mean and the half width of its 95 % interval."""
    from topokit.experiments.statistics import mean_interval

    found = mean_interval(values)
    return found.mean, found.high - found.mean


def table(frame):
    """Markdown rows: means with intervals, and paired differences."""
    heads = "data, edges, seeds, SET error, static error, difference, ratio, SET nats, static nats"
    yield "| " + heads.replace(", ", " | ") + " |"
    yield "|---" * 9 + "|"
    for name in SETS:
        mine = frame[frame["data"] == name].set_index(["seed", "rule"]).unstack().dropna()  # noqa: PD010 - of a table with one value a cell
        if len(mine) < 2:
            continue
        errors, nats = mine["test_error"], mine["log_likelihood"]
        cells = [
            "{:.5f} ± {:.5f}".format(*interval(values))
            for values in (errors["set"], errors["static"], errors["set"] - errors["static"])
        ]
        cells.append("{:.2f}".format((errors["set"] / errors["static"]).mean()))
        cells += ["{:.1f} ± {:.1f}".format(*interval(nats[rule])) for rule in RULES]
        edges = f"{int(mine['edges'].iloc[0, 0]):,}"
        yield f"| {name} | {edges} | {len(mine)} | " + " | ".join(cells) + " |"


def picture(curves, path):
    """Draw the test error over epochs, a line for each seed."""
    with house_style(size=(11, 3)):
        figure = Figure(layout="constrained")
        panels = figure.subplots(1, len(SETS))
        styles = dict(zip(RULES, mpl.rcParams["axes.prop_cycle"], strict=False))
        for ax, name in zip(panels, SETS, strict=True):
            for (data, rule, seed), errors in curves.items():
                if data == name:
                    label = None if seed else LABELS[rule]
                    ax.plot(range(1, len(errors) + 1), errors, lw=0.9, label=label, **styles[rule])
            ax.set(xlabel="epochs", yscale="log", title=name)
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("test reconstruction error\n(mean square per unit)")
        panels[0].legend()
        figure.savefig(path, dpi=150, metadata={"Software": None})


def main():
    """Train the runs, write the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    jobs = [
        (name, rule, seed, given.runs, given.data_dir)
        for name, seed, rule in itertools.product(SETS, range(given.seeds), RULES)
    ]
    with ProcessPoolExecutor(given.workers) as pool:
        results = list(pool.map(one_run, jobs))
    frame = pd.DataFrame([row for row, _ in results])
    frame.to_csv(HERE / "rbm.csv", index=False, float_format="%.6g")
    picture(
        {job[:3]: errors for job, (_, errors) in zip(jobs, results, strict=True)}, HERE / "rbm.png"
    )
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()

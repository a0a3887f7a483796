"""SET against a static topology in restricted Boltzmann machines, on four binary sets.

    python figures/studies/rbm.py --data-dir DIR --runs RUNS [--seeds 5] [--workers 2]
    python figures/studies/rbm.py

The first form trains the runs (complete ones are not repeated) and writes ``rbm.csv`` and
``rbm_epochs.csv`` beside itself; both draw ``rbm.png`` from these and print the table of
``rbm.md``.
"""

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from topokit.plots.style import COLOURS, LINES, save
from topokit.plots.style import figure as styled

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


def curves_of(jobs, errors):
    """Return a row for each data set and epoch, with a column for each rule and seed."""
    runs = [
        pd.DataFrame(
            {"data": name, "epoch": range(len(curve)), "error": curve, "run": f"{rule}-{seed}"}
        )
        for (name, rule, seed, *_), curve in zip(jobs, errors, strict=True)
    ]
    table = pd.concat(runs).pivot(index=["data", "epoch"], columns="run", values="error")  # noqa: PD010
    return table.reindex(list(SETS), level="data").reset_index()


def picture(curves, path):
    """Draw the test error over epochs, a line for each seed."""
    with styled(size=(11, 3.2)) as first:
        page = first.get_figure()
        first.remove()
        panels = page.subplots(1, len(SETS))
        for ax, name in zip(panels, SETS, strict=True):
            mine = curves[curves["data"] == name]
            for run in curves.columns[2:]:
                rule, seed = run.split("-")
                at = RULES.index(rule)
                look = {"lw": 0.9, "color": COLOURS[at], "linestyle": LINES[at]}
                label = f"_{run}" if int(seed) else f"{LABELS[rule]}, single runs"
                ax.plot(mine["epoch"] + 1, mine[run], label=label, **look)
            ax.set(xlabel="epochs trained", yscale="log", title=name)
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("test reconstruction error\n(mean square per unit)")
        page.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        save(panels[0], path, dpi=150, metadata={"Software": "topokit"})


def main():
    """Train the runs if a folder for them is given; draw the figure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    if given.runs is not None:
        jobs = [
            (name, rule, seed, given.runs, given.data_dir)
            for name, seed, rule in itertools.product(SETS, range(given.seeds), RULES)
        ]
        with ProcessPoolExecutor(given.workers) as pool:
            rows, errors = zip(*pool.map(one_run, jobs), strict=True)
        write = {"index": False, "float_format": "%.6g"}
        pd.DataFrame(rows).to_csv(HERE / "rbm.csv", **write)
        curves_of(jobs, errors).to_csv(HERE / "rbm_epochs.csv", **write)
    picture(pd.read_csv(HERE / "rbm_epochs.csv"), HERE / "rbm.png")
    print("\n".join(table(pd.read_csv(HERE / "rbm.csv"))))


if __name__ == "__main__":
    main()

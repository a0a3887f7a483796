"""Tables and the figure of ``as_published``: the paper's own network, and the accuracy it reaches.

    topokit sweep as_published --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py as_published SWEEP... --data-dir DIR
    python figures/studies/make_studies.py as_published

The first form adds the finished runs of sweeps to the rows of single runs: ``_runs.csv`` (accuracy
of the last epochs, the best epoch, and after the last removal), ``_degrees.csv`` and
``_accuracy.csv`` (at log-spaced epochs); both make ``_pairs.csv``, ``_last.csv`` (degrees at the
last epoch), ``_conditions.csv`` and the figure from all rows. Hypotheses and statistics are in
PLAN.md. Intervals are 95 %, Student's t. Under a minute a run.
"""

import pandas as pd
import torch
from full_size import LATE, LAYERS, last_rows, last_table, legend, lines, rows_of, spread
from rows import HERE, difference_row, finished, merged, pairs_of, write

from topokit import data_of, model_of
from topokit.experiments.record import History
from topokit.experiments.statistics import mean_interval
from topokit.experiments.study import load_study
from topokit.nn import sparse_layers
from topokit.plots.style import COLOURS, save
from topokit.plots.style import figure as styled

STUDY = "as_published"
KEYS = ["arm", "data", "seed"]
PUBLISHED = {  # accuracy of SET, and of the network with a fixed sparse graph
    "mnist": (0.9874, 0.9768),
    "fashion_mnist": (0.8901, None),
}
PAIRS = (  # hypothesis, conditions, outcome; those of A are tested
    ("R2", "set-coupled", "static-coupled", "A"),
    ("R2", "set-per-step", "static-per-step", "A"),
    ("R3", "set-coupled", "set-per-step", "A"),
    ("described", "set-coupled", "static-coupled", "B"),
    ("described", "set-per-step", "static-per-step", "B"),
)
ARMS = {
    "set-coupled": ("SET, coupled decay", COLOURS[0], "-"),
    "set-per-step": ("SET, decay per step", COLOURS[1], "-"),
    "static-coupled": ("not rewired, coupled decay", COLOURS[0], ":"),
    "static-per-step": ("not rewired, decay per step", COLOURS[1], ":"),
}
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


@torch.no_grad()
def last_network(path, data_dir):
    """Return the accuracy of the network that a run ends with, and its number of edges."""
    model, data = model_of(path).eval(), data_of(path, data_dir=data_dir)
    found = model(torch.from_numpy(data.x_test)).argmax(1).numpy()
    edges = sum(layer.nnz for layer in sparse_layers(model).values())
    return {"F": float((found == data.y_test).mean()), "edges_left": edges}


def collected(sweeps, data_dir):
    """Return the rows of all runs known: of runs, of degrees and of accuracies."""
    runs, degrees, layers, accuracy = [], [], [], []
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path)
        name = {"arm": run.arm, "data": run.config.data.name, "seed": run.config.seed}
        print(run.name, flush=True)
        of_degrees, of_layers, of_accuracy, _ = rows_of(history, name)
        degrees, layers = degrees + of_degrees, layers + of_layers
        accuracy += of_accuracy
        values = history.epochs["test_accuracy"]
        row = name | {"done": len(values), "planned": run.config.epochs}
        row |= {"A": values.tail(LATE).mean(), "B": values.max(), "B_epoch": values.idxmax()}
        edges = sum(graph.n_edges for graph in history.topology(-1).values())
        row |= {"last": values.iloc[-1], "edges": edges} | last_network(path, data_dir)
        runs.append(row)
    parts = {"runs": runs, "degrees": degrees, "layers": layers, "accuracy": accuracy}
    return [
        merged(HERE / f"{STUDY}_{part}.csv", pd.DataFrame(rows), KEYS)
        for part, rows in parts.items()
    ]


def conditions(runs):
    """Return means over seeds with intervals, and whether the published value is reached (R1)."""
    rows = []
    for (data, arm), part in runs.groupby(["data", "arm"], sort=False):
        published = PUBLISHED[data][arm.startswith("static")]
        row = {"data": data, "arm": arm, "n": len(part), "published": published}
        part = part.assign(removal=part["A"] - part["F"])
        for outcome in ("A", "B", "F", "removal"):
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        row |= {"edges": part["edges"].mean(), "edges_left": part["edges_left"].mean()}
        known = published is not None and len(part) > 1
        rows.append(row | {"reached": bool(row["B_high"] >= published) if known else None})
    return pd.DataFrame(rows)


def pairs(runs):
    """Return the planned differences, paired by seed, of those that two seeds have."""
    rows = []
    for data, part in runs.groupby("data", sort=False):
        for hypothesis, a, b, outcome in PAIRS:
            both = [part[part["arm"] == arm].set_index("seed")[outcome] for arm in (a, b)]
            row = {"data": data, "hypothesis": hypothesis, "arm": a, "other": b}
            rows.append(difference_row(row | {"outcome": outcome}, *both))
    return pairs_of(rows)


def draw(accuracy, degrees):
    """Draw accuracy over the epochs beside the published values, and the spread of fan-ins."""
    sets = [data for data in PUBLISHED if data in set(accuracy["data"])]
    with styled(size=(10.5, 3.6 * len(sets))) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(len(sets), 3, squeeze=False)
        for row, data in zip(axes, sets, strict=True):
            own, spreads = (table[table["data"] == data] for table in (accuracy, degrees))
            lines(row[0], own, "accuracy", ARMS)
            _published(row[0], data, own)
            for ax, layer in zip(row[1:], LAYERS[:2], strict=True):
                spread(ax, spreads, layer, "fan_in", ARMS)
                ax.set(title=f"{TITLES[data]}: fan-in of {layer}", ylabel="variance over mean")
            for ax in row:
                ax.set(xscale="log", xlabel="epoch + 1")
        legend(page, axes[0, 1], accuracy["arm"], ARMS)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def _published(ax, data, accuracy):
    """Mark the published accuracies, and leave the first epochs below the axis."""
    words = ("published, SET", "published, fixed sparse graph")
    for value, dash, word, side in zip(
        PUBLISHED[data], ("--", "-."), words, ("bottom", "top"), strict=True
    ):
        if value is not None:
            ax.axhline(value, color="#555555", lw=0.9, ls=dash)
            ax.text(1.1, value, word, fontsize="x-small", color="#555555", va=side)
    late = accuracy[accuracy["epoch"] >= min(5, accuracy["epoch"].max())]["accuracy"]
    highest = max(late.max(), *(value or 0 for value in PUBLISHED[data]))
    room = 0.15 * (highest - late.min())
    ax.set(title=f"{TITLES[data]}: accuracy on the test images", ylabel="accuracy")
    ax.set(ylim=(late.min() - room, highest + 2 * room))


def make(sweeps, data_dir):
    """Make the tables and the figure, with the runs of these sweeps."""
    torch.set_num_threads(1)
    runs, degrees, layers, accuracy = collected(sweeps, data_dir)
    if not len(runs):
        raise SystemExit("expected finished runs in the folders, or rows of earlier ones, got none")
    write(f"{STUDY}_pairs", pairs(runs))
    write(f"{STUDY}_last", last_table(last_rows(degrees, layers, accuracy)))
    write(f"{STUDY}_conditions", conditions(runs))
    draw(accuracy, degrees)

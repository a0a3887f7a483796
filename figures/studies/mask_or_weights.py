"""Tables and the figure of ``mask_or_weights``: SET's graph, degrees, hubs and weights again.

    topokit sweep mask_or_weights --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py mask_or_weights SWEEP...
    python figures/studies/make_studies.py mask_or_weights

The first form adds the finished runs of sweeps to the rows of single runs, ``_epochs.csv``
(accuracy after each epoch) and ``_graphs.csv`` (the graphs of the first epoch, of ``set`` those of
the last); both make ``_conditions.csv``, ``_pairs.csv`` and the figure from all rows of whole
seeds. Hypotheses and statistics are in PLAN.md. Intervals are 95 %, Student's t.
"""

import itertools

import numpy as np
import pandas as pd
from rows import HERE, epochs_until, finished, merged, whole_seeds, write

from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired
from topokit.experiments.study import load_study
from topokit.measures import measure
from topokit.plots.style import COLOURS, save
from topokit.plots.style import figure as styled

STUDY = "mask_or_weights"
KEYS = ["data", "arm", "seed"]
LATE, EARLY = 5, 3  # epochs at the end and at the beginning over which accuracy is averaged
CHANCE = {"mnist": 0.1, "fashion_mnist": 0.1, "madelon": 0.5}
EQUAL = {"mnist": 0.002, "fashion_mnist": 0.002, "madelon": 0.01}
PAIRS = (
    ("M1", "graph", "Erdos-Renyi"),
    ("M2", "graph", "degrees"),
    ("M3", "degrees", "Erdos-Renyi"),
    ("M4", "graph", "moved"),
    ("M5", "signs", "graph"),
    ("M6", "weights", "graph"),
    ("M7", "expander", "Erdos-Renyi"),
    ("M7", "near-biregular", "Erdos-Renyi"),
)
LOOKS = {  # colour and dashes of each condition
    "set": ("#AAAAAA", "-"),
    "weights": (COLOURS[3], "-."),
    "signs": (COLOURS[2], (0, (5, 1))),
    "graph": (COLOURS[0], "-"),
    "degrees": (COLOURS[0], "--"),
    "moved": (COLOURS[0], ":"),
    "Erdos-Renyi": (COLOURS[6], "-"),
    "expander": (COLOURS[6], "--"),
    "near-biregular": (COLOURS[6], ":"),
}
SPREAD = ("fan_in.dispersion", "fan_out.dispersion")
MEASURES = ("normalized_spectral_gap", "algebraic_connectivity_giant")


def collected(sweeps):
    """Return the rows of all runs known: of epochs, and of graphs."""
    epochs, graphs = [], []
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path)
        name = {"data": run.cell["case"], "arm": run.arm, "seed": run.config.seed}
        name |= {"done": len(history.epochs), "planned": run.config.epochs}
        columns = ["epoch", "test_accuracy", "train_loss", "test_loss"]
        epochs += [{**name, **row} for row in history.epochs[columns].to_dict("records")]
        topology = history.topology(-1 if run.arm == "set" else 0)
        topology = {layer: g for layer, g in topology.items() if g.density < 1}
        found = measure(topology, [*MEASURES, "fan_in", "fan_out"])
        for layer, graph in topology.items():
            own = found[found["layer"] == layer].set_index("measure")["value"]
            row = {key: float(own[key]) for key in (*SPREAD, *MEASURES)}
            graphs.append({**name, "layer": layer, "edges": graph.n_edges, **row})
    return (
        merged(HERE / f"{STUDY}_epochs.csv", pd.DataFrame(epochs), KEYS),
        merged(HERE / f"{STUDY}_graphs.csv", pd.DataFrame(graphs), KEYS),
    )


def outcomes(epochs):
    """Return a row for each run: A, S, E95, E99, and the accuracy after 25 epochs."""
    rows = []
    for key, part in epochs.groupby(KEYS, sort=False):
        row = dict(zip(KEYS, key, strict=True))
        accuracy = part.sort_values("epoch")["test_accuracy"].to_numpy()
        row["A"], row["S"] = accuracy[-LATE:].mean(), accuracy[:EARLY].mean()
        for share in (95, 99):
            level, chance = share / 100 * row["A"], CHANCE[row["data"]]
            row[f"E{share}"] = epochs_until(accuracy, level, chance)
        rows.append(row | {"at25": accuracy[:25][-1], "last": accuracy[-1]})
    return pd.DataFrame(rows)


def conditions(runs, graphs):
    """Return means over seeds with their intervals, and means of the graphs' measures."""
    rows = []
    for (data, arm), part in runs.groupby(["data", "arm"], sort=False):
        row = {"data": data, "arm": arm, "n": len(part)}
        for outcome in ("A", "S", "E95", "E99", "at25"):
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        own = graphs[(graphs["data"] == data) & (graphs["arm"] == arm)]
        own = own[own["seed"].isin(part["seed"])]
        for layer, key in itertools.product(("fc1", "fc2", "fc3"), (*SPREAD, MEASURES[0])):
            row[f"{layer} {key}"] = own[own["layer"] == layer][key].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def pairs(runs):
    """Return the planned differences, paired by seed."""
    tables = []
    for data, part in runs.groupby("data", sort=False):
        rows = []
        for (hypothesis, a, b), outcome in itertools.product(PAIRS, ("A", "S")):
            both = [part[part["arm"] == arm].set_index("seed")[outcome] for arm in (a, b)]
            found = paired(both[0], both[1][both[0].index], rng=np.random.default_rng(0))
            row = {"data": data, "hypothesis": hypothesis, "arm": a, "other": b, "outcome": outcome}
            row |= {k: getattr(found, k) for k in ("n", "difference", "low", "high", "t_p")}
            row["equal"] = max(-found.low, found.high) <= EQUAL[data]
            rows.append(row)
        table = pd.DataFrame(rows)
        tables.append(table.assign(t_p_holm=adjusted(table["t_p"])))
    return pd.concat(tables, ignore_index=True)


def draw(epochs, runs, found):
    """Draw learning curves, and the planned differences with their intervals, set by set."""
    sets = [data for data in EQUAL if data in set(runs["data"])]
    with styled(size=(8.0, 3.6 * len(sets))) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(len(sets), 2, squeeze=False)
        for (left, right), data in zip(axes, sets, strict=True):
            own = epochs[epochs["data"] == data]
            for arm, (colour, dash) in LOOKS.items():
                part = own[own["arm"] == arm].groupby("epoch")["test_accuracy"].mean()
                if len(part):
                    left.plot(part.index + 1, part, ls=dash, color=colour, lw=1.2, label=arm)
            n = runs[runs["data"] == data]["seed"].nunique()
            words = f"{data}, mean of {n} seed{'s' if n > 1 else ''}"
            left.set(xscale="log", xlabel="epoch + 1", ylabel="test accuracy", title=words)
            part = found[(found["data"] == data) & (found["outcome"] == "A")][::-1]
            places = np.arange(len(part))
            half = 100 * (part["high"] - part["difference"]).fillna(0)
            right.errorbar(100 * part["difference"], places, xerr=half, fmt="o", ms=4, capsize=3)
            right.axvline(0, color="#777777", lw=0.8, ls=":")
            right.set_yticks(places, part["arm"] + " − " + part["other"])
            right.set(xlabel="points of accuracy, last five epochs", title="paired differences")
        page.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    epochs, graphs = collected(sweeps)
    epochs = whole_seeds(epochs, load_study(STUDY).arms, ["data"])
    runs = outcomes(epochs)
    found = pairs(runs)
    write(f"{STUDY}_conditions", conditions(runs, graphs))
    write(f"{STUDY}_pairs", found)
    draw(epochs, runs, found)

"""Tables and the figure of ``gap_over_training``: the gap over epochs, against null samples.

    topokit sweep gap_over_training --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py gap_over_training SWEEP...
    python figures/studies/make_studies.py gap_over_training

The first form adds the finished runs of sweeps to the rows of single runs in ``_scores.csv`` (each
layer and measure at log-spaced epochs, against 20 null samples) and ``_accuracy.csv``; both make
``_means.csv``, ``_tests.csv``, ``_last.csv`` and the figure from all rows of whole seeds.
Hypotheses and statistics are in PLAN.md. Intervals are 95 %, Student's t.
"""

import itertools

import numpy as np
import pandas as pd
from rows import HERE, finished, merged, whole_seeds, write
from scipy.stats import spearmanr, ttest_1samp

from topokit.experiments.config import is_log_spaced
from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval
from topokit.experiments.study import load_study
from topokit.measures import LAYER_MEASURES
from topokit.measures.nulls import null_scores
from topokit.plots.style import COLOURS, save
from topokit.plots.style import figure as styled

STUDY = "gap_over_training"
KEYS = ["arm", "seed"]
LAYERS = ("fc1", "fc2", "fc3")
MEASURES = ("normalized_spectral_gap", "algebraic_connectivity_giant")
NULL_SAMPLES = 20
LEARNING = ("set", "rigl", "ctre_sim")
LOOKS = {  # colour and dashes of each rule; dots are those of null samples
    "static": ("#777777", "-"),
    "set": (COLOURS[0], "--"),
    "rigl": (COLOURS[1], "-."),
    "ctre_sim": (COLOURS[2], (0, (5, 1))),
    "random": (COLOURS[4], (0, (3, 1, 1, 1))),
}


def collected(sweeps):
    """Return the rows of all runs known: scores, and accuracies."""
    scores, accuracies = [], []
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path)
        epochs = history.epochs
        name = {"arm": run.arm, "seed": run.config.seed}
        name |= {"done": len(epochs), "planned": run.config.epochs}
        if _known(name):
            continue
        print(f"{run.name}: {NULL_SAMPLES} null samples of each graph", flush=True)
        known: dict = {}
        for epoch in epochs["epoch"]:
            if not (is_log_spaced(epoch) or epoch == len(epochs) - 1):
                continue
            accuracy = epochs["test_accuracy"].iloc[epoch]
            accuracies.append({**name, "epoch": epoch, "accuracy": accuracy})
            for layer in LAYERS:
                graph = history.topology(epoch)[layer]
                if known.get(layer, (None,))[0] != graph:
                    known[layer] = graph, _scores(graph)
                for measure, score in known[layer][1].items():
                    row = {"epoch": epoch, "layer": layer, "measure": measure}
                    scores.append({**name, **row, **score._asdict()})
    return (
        merged(HERE / f"{STUDY}_scores.csv", pd.DataFrame(scores), KEYS),
        merged(HERE / f"{STUDY}_accuracy.csv", pd.DataFrame(accuracies), KEYS),
    )


def _known(name):
    """Return whether the table has a run already: null samples take minutes."""
    path = HERE / f"{STUDY}_scores.csv"
    if not path.is_file():
        return False
    table = pd.read_csv(path)
    same = [table[key] == name[key] for key in (*KEYS, "done")]
    return bool(np.logical_and.reduce(same).any())


def _scores(graph):
    """Return the scores of both measures against null samples, from seed 0."""
    measures = {name: LAYER_MEASURES[name] for name in MEASURES}
    return null_scores(graph, measures, twins=NULL_SAMPLES, rng=np.random.default_rng(0))


def means(scores):
    """Return mean value and z over seeds at each epoch, with intervals."""
    rows = []
    keys = ["arm", "layer", "measure", "epoch"]
    for key, part in scores.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"n": len(part)}
        for column in ("value", "null_mean", "z"):
            found = mean_interval(part[column])
            row |= {column: found.mean, f"{column}_low": found.low, f"{column}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def tests(scores):
    """Return the planned comparisons (G1 to G4) of each condition, layer and measure.

    Described besides: the value minus the mean of its null samples, which unlike z does not depend
    on how far these are from each other.
    """
    rows = []
    for (layer, measure), part in scores.groupby(["layer", "measure"], sort=False):
        last = part[part["epoch"] == part["planned"] - 1].set_index("seed")
        static = last[last["arm"] == "static"]["value"]
        for arm in list(LOOKS)[1:]:
            own = last[last["arm"] == arm]
            name = {"arm": arm, "layer": layer, "measure": measure}
            change = own["value"] - static[own.index]
            rows.append(name | {"hypothesis": "G1", "what": "value - static", **_row(change)})
            what = "G2" if arm in LEARNING else "G4"
            rows.append(name | {"hypothesis": what, "what": "z, last epoch", **_row(own["z"])})
            beyond = own["value"] - own["null_mean"]
            row = {"hypothesis": "described", "what": "value - null samples", **_row(beyond)}
            rows.append(name | row)
            over = part[(part["arm"] == arm) & (part["epoch"] > 0)]
            trend = [
                float(spearmanr(run["epoch"], run["z"], nan_policy="omit").statistic)
                for _, run in over.groupby("seed")
            ]
            rows.append(name | {"hypothesis": "G3", "what": "rho of z and epoch", **_row(trend)})
    table = pd.DataFrame(rows)
    tested = table["hypothesis"].isin(["G1", "G2"]) & table["arm"].isin(LEARNING)
    table.loc[tested, "t_p_holm"] = adjusted(table.loc[tested, "t_p"])
    return table


def _row(values):
    """Return mean, interval and the p-value of a t-test against 0."""
    values = np.asarray(values, float)
    found = mean_interval(values)
    values = values[~np.isnan(values)]
    p = float(ttest_1samp(values, 0).pvalue) if values.size > 1 and np.ptp(values) else np.nan
    return {"n": found.n, "mean": found.mean, "low": found.low, "high": found.high, "t_p": p}


def draw(table, n):
    """Draw both measures, and their z-scores below, of each layer over the epochs."""
    with styled(size=(9.5, 10.0)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(4, 3, sharex=True)
        panels = itertools.product(enumerate(MEASURES), (("value", 0), ("z", 1)), enumerate(LAYERS))
        for (i, measure), (column, j), (k, layer) in panels:
            ax = axes[2 * i + j, k]
            own = table[(table["measure"] == measure) & (table["layer"] == layer)]
            for arm, (colour, dash) in LOOKS.items():
                part = own[own["arm"] == arm]
                ax.plot(part["epoch"] + 1, part[column], ls=dash, color=colour, lw=1.2, label=arm)
                band = part[f"{column}_low"], part[f"{column}_high"]
                ax.fill_between(part["epoch"] + 1, *band, color=colour, alpha=0.2, lw=0)
                if column == "value":
                    ax.plot(part["epoch"] + 1, part["null_mean"], ":", color=colour, lw=1.0)
            if column == "z":
                ax.axhline(0, color="#777777", lw=0.8, ls=":")
            name = measure.replace("_", " ").removesuffix(" giant")
            ax.set(xscale="log", title=f"{layer}, {name}" + (", z" if j else ""))
        for ax in axes[-1]:
            ax.set_xlabel("epoch + 1")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        lines += axes[0, 0].plot([], [], ":", color="#444444")
        labels.append("null samples")
        words = f"means of {n} seed{'s' if n > 1 else ''}; bands: 95 % intervals"
        page.legend(lines, labels, loc="outside lower center", ncols=6, title=words)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    scores, accuracy = collected(sweeps)
    scores = whole_seeds(scores, load_study(STUDY).arms, [])
    table = means(scores)
    write(f"{STUDY}_means", table)
    write(f"{STUDY}_tests", tests(scores))
    last = accuracy[accuracy["epoch"] == accuracy["planned"] - 1]
    last = last[last["seed"].isin(scores["seed"].unique())]
    rows = [
        {"arm": arm, **mean_interval(part["accuracy"])._asdict()}
        for arm, part in last.groupby("arm", sort=False)
    ]
    write(f"{STUDY}_last", pd.DataFrame(rows))
    draw(table, scores["seed"].nunique())

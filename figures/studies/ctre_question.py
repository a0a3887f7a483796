"""Tables and the figure of ``ctre_question``: seven conditions, three densities, five data sets.

    topokit sweep ctre_question --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py ctre_question SWEEP... --data-dir DIR
    python figures/studies/make_studies.py ctre_question

The first form adds the finished runs of sweeps to the rows of single runs, ``_runs.csv``; both make
``_conditions.csv``, ``_pairs.csv`` and the figure from the rows of whole seeds. ``--data-dir`` (or
TOPOKIT_DATA) is needed for Madelon, whose informative features are found from its samples.
Hypotheses and statistics are in PLAN.md. Intervals are 95 %, Student's t.
"""

import itertools

import numpy as np
import pandas as pd
from madelon import informative_features
from rows import HERE, epochs_until, finished, merged, whole_seeds, write

from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired
from topokit.experiments.study import load_study
from topokit.plots.style import COLOURS, MARKERS, save
from topokit.plots.style import figure as styled

STUDY = "ctre_question"
CELL = ["data", "epsilon", "init"]
KEYS = [*CELL, "arm", "seed"]
LATE = 5  # last epochs over which accuracy is averaged
CHANCE = {"mnist": 0.1, "fashion_mnist": 0.1}  # one half in the other sets
OTHERS = ("set", "rigl", "snfs")
CTRE = ("ctre_sim", "ctre_seq")
OUTCOMES = (
    "A", "E95", "fan_in_dispersion", "fan_out_dispersion", "unused_inputs", "top_tenth",
    "informative",
)  # fmt: skip


def collected(sweeps, data_dir):
    """Return the rows of all runs known, with those of the finished runs of sweeps."""
    rows, features = [], None
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path)
        case = run.cell["case"]
        if case == "madelon" and features is None:
            features = informative_features(data_dir)
        accuracy = history.epochs["test_accuracy"].to_numpy()
        chance, late = CHANCE.get(case, 0.5), accuracy[-LATE:].mean()
        learns = late > chance + 0.05
        graph = history.topology(-1)["fc1"]
        fan_out = np.sort(graph.fan_out)[::-1]
        row = {
            "data": case,
            "epsilon": run.cell["topology.epsilon"],
            "init": run.cell["model.init"],
            "arm": run.arm,
            "seed": run.config.seed,
            "done": len(accuracy),
            "planned": run.config.epochs,
            "A": late,
            "last": accuracy[-1],
            "best": accuracy.max(),
            "E95": epochs_until(accuracy, 0.95 * late, chance) if learns else np.nan,
            "train_loss": history.epochs["train_loss"].iloc[-1],
            "edges": sum(g.n_edges for g in history.topology(-1).values()),
            "fan_in_dispersion": graph.fan_in.var(ddof=1) / graph.fan_in.mean(),
            "fan_out_dispersion": graph.fan_out.var(ddof=1) / graph.fan_out.mean(),
            "unused_inputs": (fan_out == 0).mean(),
            "top_tenth": fan_out[: round(fan_out.size / 10)].sum() / graph.n_edges,
            "informative": np.nan,
        }
        if case == "madelon":
            row["informative"] = graph.fan_out[features].sum() / graph.n_edges
        rows.append(row)
    return merged(HERE / f"{STUDY}_runs.csv", pd.DataFrame(rows), KEYS)


def conditions(runs):
    """Return means over seeds with their intervals; of E95 over those that learn, ``E95_n``."""
    rows = []
    for key, part in runs.groupby([*CELL, "arm"], sort=False):
        row = dict(zip([*CELL, "arm"], key, strict=True)) | {"n": len(part)}
        row["E95_n"] = part["E95"].count()
        for outcome in OUTCOMES:
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _of(part, arm, outcome="A"):
    return part[part["arm"] == arm].set_index("seed")[outcome]


def _best(part, arms):
    """Return the arm with the highest mean accuracy."""
    return max(arms, key=lambda arm: _of(part, arm).mean())


def pairs(runs):
    """Return the planned differences, paired by seed."""
    rows = []
    for key, part in runs.groupby(CELL, sort=False):
        names = dict(zip(CELL, key, strict=True))
        best = _best(part, OTHERS)
        wanted = [("from static", arm, "static", "A") for arm in (*OTHERS, *CTRE, "snip")]
        wanted += [("C1, C2", arm, best, "A") for arm in CTRE]
        wanted += [("C4", "ctre_sim", "set", "top_tenth")]
        for what, a, b, outcome in wanted:
            rows.append(names | _pair(what, a, b, outcome, _of(part, a, outcome), part))
    table = pd.DataFrame(rows)
    for _, part in table.groupby(["data", "init"], sort=False):
        table.loc[part.index, "t_p_holm"] = adjusted(part["t_p"])
    return pd.concat([table, _density(runs)], ignore_index=True)


def _pair(what, a, b, outcome, first, part):
    second = _of(part, b, outcome)
    found = paired(first, second[first.index], rng=np.random.default_rng(0))
    row = {"hypothesis": what, "arm": a, "other": b, "outcome": outcome}
    return row | {k: getattr(found, k) for k in ("n", "difference", "low", "high", "t_p")}


def _density(runs):
    """Return by how much CTRE's lead at epsilon 1 is larger than at epsilon 10 (C3)."""
    rows = []
    for key, part in runs.groupby(["data", "init"], sort=False):
        leads = {}
        for epsilon, own in part.groupby("epsilon"):
            ahead, behind = _best(own, CTRE), _best(own, OTHERS)
            leads[epsilon] = _of(own, ahead) - _of(own, behind)
        if {1, 10} <= set(leads):
            shared = leads[1].index.intersection(leads[10].index)
            found = paired(leads[1][shared], leads[10][shared], rng=np.random.default_rng(0))
            row = dict(zip(("data", "init"), key, strict=True)) | {"hypothesis": "C3"}
            row |= {"arm": "lead at epsilon 1", "other": "lead at epsilon 10", "outcome": "A"}
            numbers = ("n", "difference", "low", "high", "t_p")
            rows.append(row | {k: getattr(found, k) for k in numbers})
    return pd.DataFrame(rows)


def draw(table):
    """Draw the accuracy of each condition over epsilon: sets below each other, weights beside."""
    sets, inits = list(dict.fromkeys(table["data"])), ["glorot_dense_uniform", "he"]
    arms = list(load_study(STUDY).arms)
    with styled(size=(8.5, 2.7 * len(sets))) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(len(sets), 2, squeeze=False, sharey="row")
        for (i, data), (j, init) in itertools.product(enumerate(sets), enumerate(inits)):
            ax, own = axes[i, j], table[(table["data"] == data) & (table["init"] == init)]
            for k, arm in enumerate(arms):
                part = own[own["arm"] == arm].sort_values("epsilon")
                places = part["epsilon"] * 1.05 ** (k - len(arms) // 2)
                half = (part["A_high"] - part["A"]).fillna(0)
                options = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
                ax.errorbar(places, part["A"], half, ms=4, lw=1, capsize=2, label=arm, **options)
            words = "weights for dense layers" if j == 0 else "He's weights for the edges"
            seeds = sorted({int(n) for n in own["n"]}) or [0]
            n = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
            title = f"{data}, {words} (n = {n})"
            ax.set(xscale="log", xlabel="epsilon", xlim=(0.75, 13.5), title=title)
            ax.set_xticks([1, 5, 10], ["1", "5", "10"], minor=False)
            ax.set_xticks([], minor=True)
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy, last five epochs")
        page.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps, data_dir=None):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    runs = collected(sweeps, data_dir)
    runs = whole_seeds(runs, load_study(STUDY).arms, CELL)
    table = conditions(runs)
    write(f"{STUDY}_conditions", table)
    write(f"{STUDY}_pairs", pairs(runs))
    draw(table)

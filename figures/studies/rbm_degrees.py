"""Tables and the figure of ``rbm_degrees``: hidden degrees and likelihood of Boltzmann machines.

    topokit sweep rbm_degrees --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py rbm_degrees SWEEP... --data-dir DIR
    python figures/studies/make_studies.py rbm_degrees

The first form adds the finished runs of sweeps to the rows of single runs, ``_runs.csv``; both make
``_conditions.csv``, ``_pairs.csv``, ``_tests.csv`` (B1 to B4) and the figure from the rows of whole
seeds. ``--data-dir`` (or TOPOKIT_DATA) is needed for the samples whose likelihood is estimated.
Hypotheses and statistics are in PLAN.md. Intervals are 95 %, Student's t.
"""

import itertools

import numpy as np
import pandas as pd
from rbm import annealed
from rows import HERE, degree_row, finished, merged, whole_seeds, write

from topokit.data import load_data
from topokit.experiments.preparation import STREAMS
from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired
from topokit.experiments.study import load_study
from topokit.plots.style import COLOURS, MARKERS, save
from topokit.plots.style import figure as styled

STUDY = "rbm_degrees"
CELL = ["data", "hidden", "cd_steps"]
KEYS = [*CELL, "arm", "seed"]
FIRST = "set"
LEVEL = 0.05  # of the published p
MOST, FEWEST = 4, 1  # of five seeds: so many that something holds, so few that it does not
USABLE = 0.5  # largest share of one chain's weight with which an estimate is used
NUMBERS = ("n", "difference", "low", "high", "t_p")
KEPT = (
    "verdict", "alpha", "xmin", "n_tail", "decades", "p", "replicates", "dispersion",
    "dispersion_p", "minimum", "maximum", "linear_p",
)  # fmt: skip


def samples_of(config, data_dir):
    """Return the data of a run, split as it was."""
    stream = np.random.SeedSequence(config.seed, spawn_key=(STREAMS.index("data"),))
    split = np.random.Generator(np.random.PCG64(stream))
    return load_data(config.data.name, data_dir=data_dir, rng=split, **config.data.params)


def collected(sweeps, data_dir):
    """Return the rows of all runs known, with those of the finished runs of sweeps."""
    rows = []
    path_of_rows = HERE / f"{STUDY}_runs.csv"
    old = pd.read_csv(path_of_rows) if path_of_rows.is_file() else None
    for run, path in finished(load_study(STUDY), sweeps):
        config = run.config
        name = {"data": config.data.name, "hidden": config.model.widths[-1]}
        name |= {"cd_steps": run.cell["model.cd_steps"], "arm": run.arm, "seed": config.seed}
        history = History.load(path)
        name |= {"done": len(history.epochs), "planned": config.epochs}
        same = [] if old is None else [old[key] == name[key] for key in (*KEYS, "done")]
        if same and np.logical_and.reduce(same).any():
            continue  # an estimate takes minutes
        print(f"{run.name}: likelihood and degrees", flush=True)
        graph = history.topology(-1)["fc1"]
        found = degree_row(graph, "fan_in")
        row = name | {"edges": graph.n_edges} | {key: found[key] for key in KEPT}
        row |= annealed(path, samples_of(config, data_dir))
        rows.append(row | {"test_error": history.epochs["test_loss"].iloc[-1]})
    return merged(path_of_rows, pd.DataFrame(rows), KEYS)


def usable(runs):
    """Return the log-likelihood of each run, undefined where one chain decides the estimate."""
    return runs["log_likelihood"].where(runs["largest_share"] <= USABLE)


def conditions(runs):
    """Return means over seeds with their intervals, and how many seeds have each verdict."""
    rows = []
    for key, part in runs.groupby([*CELL, "arm"], sort=False):
        row = dict(zip([*CELL, "arm"], key, strict=True)) | {"n": len(part)}
        for outcome in ("nats", "dispersion", "test_error"):
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        row |= {"usable": int(part["nats"].notna().sum())}
        row |= {"power_law": int((part["verdict"] == "power law").sum())}
        rows.append(row | {"published_scale_free": int((part["linear_p"] < LEVEL).sum())})
    return pd.DataFrame(rows)


def pairs(runs):
    """Return by how many nats SET is ahead of each other condition (B1), paired by seed."""
    tables = []
    for _, whole in runs.groupby("data", sort=False):
        rows = []
        for key, part in whole.groupby(CELL, sort=False):
            own = part[part["arm"] == FIRST].set_index("seed")["nats"]
            for arm in [arm for arm in dict.fromkeys(part["arm"]) if arm != FIRST]:
                other = part[part["arm"] == arm].set_index("seed")["nats"]
                found = paired(own, other[own.index], rng=np.random.default_rng(0))
                row = dict(zip(CELL, key, strict=True)) | {"other": arm}
                rows.append(row | {k: getattr(found, k) for k in NUMBERS})
        table = pd.DataFrame(rows)
        tables.append(table.assign(t_p_holm=adjusted(table["t_p"])))
    return pd.concat(tables, ignore_index=True)


def tests(runs, found):
    """Return what the hypotheses ask: B1 and B4 of the pairs, B2 and B3 of degrees under SET."""
    rows = []
    for row in found.to_dict("records"):
        names = {key: row[key] for key in CELL} | {"other": row["other"], "n": row["n"]}
        holds = bool(row["difference"] > 0 and row["t_p_holm"] < LEVEL)
        rows.append(names | {"hypothesis": "B1", "value": row["difference"], "holds": holds})
    for key, part in found.groupby(["data", "hidden", "other"], sort=False):
        if len(part) > 1:
            names = dict(zip(("data", "hidden", "other"), key, strict=True))
            same = len(set(np.sign(part["difference"]))) == 1
            rows.append(names | {"hypothesis": "B4", "n": part["n"].min(), "holds": same})
    own = runs[runs["arm"] == FIRST]
    for (data, steps), part in own.groupby(["data", "cd_steps"], sort=False):
        counts = part.groupby("hidden")["linear_p"].agg(lambda p: int((p < LEVEL).sum()))
        names = {"data": data, "cd_steps": steps, "n": part["seed"].nunique()}
        if len(counts) > 1:
            holds = bool(counts.iloc[-1] >= MOST and counts.iloc[0] <= FEWEST)
            value = counts.iloc[-1] - counts.iloc[0]
            rows.append(names | {"hypothesis": "B2", "value": value, "holds": holds})
    for key, part in own.groupby(CELL, sort=False):
        count = int((part["verdict"] == "power law").sum())
        names = dict(zip(CELL, key, strict=True)) | {"n": len(part)}
        rows.append(names | {"hypothesis": "B3", "value": count, "holds": count <= FEWEST})
    return pd.DataFrame(rows).sort_values("hypothesis", kind="stable", ignore_index=True)


def draw(table):
    """Draw likelihood and dispersion over the width, for each data set and number of steps."""
    sets = list(dict.fromkeys(table["data"]))
    steps = sorted(table["cd_steps"].unique())
    outcomes = {"nats": "log-likelihood, nats", "dispersion": "variance over mean of fan-in"}
    rows = list(itertools.product(sets, outcomes))
    with styled(size=(3.2 * len(steps), 2.6 * len(rows))) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(len(rows), len(steps), squeeze=False, sharey="row")
        for (i, (data, outcome)), (j, step) in itertools.product(enumerate(rows), enumerate(steps)):
            ax, own = axes[i, j], table[(table["data"] == data) & (table["cd_steps"] == step)]
            for k, arm in enumerate(dict.fromkeys(table["arm"])):
                part = own[own["arm"] == arm].sort_values("hidden")
                half = (part[f"{outcome}_high"] - part[outcome]).fillna(0)
                look = {"color": COLOURS[k], "marker": MARKERS[k], "label": arm}
                places = part["hidden"] * 1.03 ** (k - 1.5)
                ax.errorbar(places, part[outcome], half, ms=4, lw=1, capsize=2, **look)
            widths = sorted(own["hidden"].unique())
            ax.set(xscale="log", xlabel="hidden units", title=f"{data}, CD-{step}")
            ax.set_xticks(widths, [str(width) for width in widths], minor=False)
            ax.set_xticks([], minor=True)
            if not j:
                ax.set_ylabel(outcomes[outcome])
            if outcome == "nats":  # intervals of the dense machine are of two seeds in places
                sparse = table[(table["data"] == data) & (table["arm"] != "dense")]
                low, high = sparse["nats_low"].min(), sparse["nats_high"].max()
                if np.isfinite([low, high]).all():
                    ax.set_ylim(low - 2, high + 2)
        n = table["n"].max()
        words = (
            f"means of {n} seed{'s' if n > 1 else ''} (likelihood: where usable), 95 % intervals"
        )
        lines = axes[0, 0].get_legend_handles_labels()
        page.legend(*lines, loc="outside lower center", ncols=4, title=words)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps, data_dir=None):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    runs = collected(sweeps, data_dir)
    runs = whole_seeds(runs, load_study(STUDY).arms, CELL)
    runs = runs.assign(nats=usable(runs))
    table, found = conditions(runs), pairs(runs)
    write(f"{STUDY}_pairs", found)
    write(f"{STUDY}_tests", tests(runs, found))
    write(f"{STUDY}_conditions", table)
    draw(table)

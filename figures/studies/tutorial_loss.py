"""Tables and the figure of ``tutorial_loss``: SET and static under three losses.

    topokit sweep tutorial_loss --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py tutorial_loss SWEEP...
    python figures/studies/make_studies.py tutorial_loss

The first form adds the finished runs of sweeps to the rows of single runs, ``_epochs.csv``
(log-spaced epochs, and the last) and ``_runs.csv``; both make ``_conditions.csv``, ``_pairs.csv``
and the figure from the rows of seeds with both conditions. Hypotheses and statistics are in
PLAN.md. Intervals are 95 %, Student's t.
"""

import numpy as np
import pandas as pd
from rows import HERE, finished, merged, whole_seeds, write
from scipy import stats

from topokit.experiments.config import is_log_spaced
from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired
from topokit.experiments.study import load_study
from topokit.plots.style import COLOURS, LINES, save
from topokit.plots.style import figure as styled

STUDY = "tutorial_loss"
KEYS = ["loss", "arm", "seed"]
LOSSES = ("squared_error_output_slope", "squared_error", "cross_entropy")
PUBLISHED = {"set": (0.8256, 0.0091), "static": (0.8060, 0.0061)}  # mean and sd of five seeds
PUBLISHED_SEEDS = 5
CLOSE = 0.02  # within which an interval agrees with a published mean (U4)
TITLES = {
    "squared_error_output_slope": "the authors' gradient",
    "squared_error": "squared error",
    "cross_entropy": "cross-entropy",
}


def collected(sweeps):
    """Return the rows of all runs known: of runs, and of their epochs."""
    runs, epochs = [], []
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path).epochs
        name = {"loss": run.config.model.loss, "arm": run.arm, "seed": run.config.seed}
        name |= {"done": len(history), "planned": run.config.epochs}
        last, accuracy = history.iloc[-1], history["test_accuracy"]
        row = {"A": last["test_accuracy"], "best": accuracy.max(), "best_epoch": accuracy.idxmax()}
        runs.append({**name, **row, **{k: last[k] for k in ("train_loss", "test_loss")}})
        kept = [e for e in history["epoch"] if is_log_spaced(e) or e == len(history) - 1]
        columns = ["epoch", "test_accuracy", "train_loss", "test_loss"]
        epochs += [{**name, **row} for row in history.loc[kept, columns].to_dict("records")]
    return (
        merged(HERE / f"{STUDY}_runs.csv", pd.DataFrame(runs), KEYS),
        merged(HERE / f"{STUDY}_epochs.csv", pd.DataFrame(epochs), KEYS),
    )


def against_published(values, arm):
    """Return the difference of the mean from the published one, with Welch's interval (U4)."""
    mean, sd = PUBLISHED[arm]
    parts = values.var(ddof=1) / len(values), sd**2 / PUBLISHED_SEEDS
    freedom = sum(parts) ** 2 / (
        parts[0] ** 2 / (len(values) - 1) + parts[1] ** 2 / (PUBLISHED_SEEDS - 1)
    )
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    difference = values.mean() - mean
    low, high = difference - half, difference + half
    agrees = low <= 0 <= high and max(-low, high) <= CLOSE
    return {"from_published": difference, "from_low": low, "from_high": high, "agrees": agrees}


def conditions(runs):
    """Return means over seeds with their intervals, and how far they are from the logs."""
    rows = []
    for (loss, arm), part in runs.groupby(["loss", "arm"], sort=False):
        row = {"loss": loss, "arm": arm, "n": len(part)}
        for outcome in ("A", "best", "train_loss", "test_loss"):
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        row["sd"] = mean_interval(part["A"]).sd
        own = against_published(part["A"], arm) if len(part) > 1 else {}
        rows.append(row | {"published": PUBLISHED[arm][0]} | own)
    return pd.DataFrame(rows)


def pairs(runs):
    """Return the planned differences, paired by seed: U1, U2, and U3 between losses."""
    ahead = {}
    for loss, part in runs.groupby("loss", sort=False):
        accuracy = part.pivot_table(index="seed", columns="arm", values="A")
        ahead[loss] = accuracy["set"] - accuracy["static"]
    slope, squared, entropy = LOSSES
    wanted = [("U1", slope, None), ("U2", squared, None)]
    wanted += [("U3", slope, entropy), ("U3", squared, entropy), ("described", entropy, None)]
    rows = []
    for hypothesis, one, other in wanted:
        if not {one, other or one} <= set(ahead):
            continue
        shared = ahead[one].index
        second = pd.Series(0.0, shared)
        if other is not None:
            shared = shared.intersection(ahead[other].index)
            second = ahead[other][shared]
        found = paired(ahead[one][shared], second, rng=np.random.default_rng(0))
        what = "set - static" + (f", minus that under {other}" if other else "")
        row = {"hypothesis": hypothesis, "loss": one, "what": what}
        rows.append(row | found._asdict())
    table = pd.DataFrame(rows)
    tested = table["hypothesis"] != "described"
    table.loc[tested, "t_p_holm"] = adjusted(table.loc[tested, "t_p"])
    return table


def draw(epochs, table):
    """Draw accuracy over epochs for each loss, a line for each seed, and the published means."""
    losses = [loss for loss in LOSSES if loss in set(table["loss"])]
    with styled(size=(max(5.0, 3.4 * len(losses)), 4.0)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(1, len(losses), squeeze=False, sharey=True)[0]
        for ax, loss in zip(axes, losses, strict=True):
            own = epochs[epochs["loss"] == loss]
            for arm, colour, dash in zip(PUBLISHED, COLOURS, LINES, strict=False):
                part = own[own["arm"] == arm]
                for at, (_, run) in enumerate(part.groupby("seed")):
                    label = None if at else f"{arm}, single runs"
                    places = run["epoch"] + 1, run["test_accuracy"]
                    ax.plot(*places, color=colour, ls=dash, lw=0.7, alpha=0.8, label=label)
                mean, sd = PUBLISHED[arm]
                mark = "*" if arm == "set" else "s"
                words = f"{arm}, published: mean ± sd of {PUBLISHED_SEEDS}"
                bar = {"color": colour, "capsize": 3, "ms": 6, "lw": 1, "label": words}
                ax.errorbar(own["epoch"].max() * 1.25 + 1, mean, sd, fmt=mark, mfc="white", **bar)
            n = table[table["loss"] == loss]["n"].min()
            title = f"{TITLES[loss]}\nn = {n} seed{'s' if n > 1 else ''}"
            ax.set(xscale="log", xlabel="epoch + 1", title=title)
        late = epochs[epochs["epoch"] >= epochs["epoch"].max() / 20]
        low = max(0.0, late["test_accuracy"].min() - 0.05)
        axes[0].set(ylabel="test accuracy", ylim=(low, None))
        shown = epochs.loc[epochs["test_accuracy"] >= low, "epoch"].min() + 1
        for ax in axes:  # the epochs before are below the vertical axis
            ax.set_xlim(left=shown * 0.8)
        page.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        save(axes[0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    runs, epochs = collected(sweeps)
    runs = whole_seeds(runs, load_study(STUDY).arms, ["loss"])
    epochs = whole_seeds(epochs, load_study(STUDY).arms, ["loss"])
    table = conditions(runs)
    write(f"{STUDY}_conditions", table)
    draw(epochs, table)
    write(f"{STUDY}_pairs", pairs(runs))

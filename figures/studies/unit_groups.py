"""Tables and the figure of ``unit_groups``: what the two groups of units under SET are.

    topokit sweep full_size --data-dir DIR --out SWEEP --only 'static-name=mnist-*' ...
    python figures/studies/unit_groups.py --data-dir DIR SWEEP...
    python figures/studies/unit_groups.py

The first form adds the finished runs of ``full_size`` (conditions static, per-step-only,
coupled-0, per-step-0) to the rows of single runs in ``unit_groups_runs.csv`` and
``unit_groups_removed.csv`` (accuracy after removing units of the first hidden layer), and keeps the
units of one run of each data set for the figures (``unit_groups_units.csv``); both make
``unit_groups.csv`` (means over seeds with 95 % intervals, Student's t), ``unit_groups_pairs.csv``
(K1 to K3 of PLAN.md) and the figures ``unit_groups.png`` (MNIST) and
``unit_groups_fashion_mnist.png``. What is computed, and what of it is exploratory, is in PLAN.md.
About a minute a run.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import LogLocator
from rows import HERE, difference_row, finished, merged, pairs_of, write
from scipy.stats import spearmanr

from topokit import data_of, model_of
from topokit.experiments.record import History
from topokit.experiments.statistics import mean_interval
from topokit.experiments.study import load_study
from topokit.plots.style import COLOURS, save
from topokit.plots.style import figure as styled

NAME, STUDY = "unit_groups", "full_size"
KEYS = ["arm", "data", "seed"]
RICH = 100  # a unit with more edges received is rich
SHARES = np.arange(5, 100, 5) / 100  # of the units of the first hidden layer that are removed
ORDERS = 5  # random orders
BEFORE = (100, 316)  # epochs of which the rich units are compared with those of the last
DRAWN = ("per-step-0", 0)  # the run of each data set whose units are drawn
ARMS = {
    "per-step-0": ("SET, decay per step", COLOURS[1]),
    "coupled-0": ("SET, coupled decay", COLOURS[0]),
    "per-step-only": ("not rewired, decay per step", COLOURS[1]),
    "static": ("not rewired, no decay", COLOURS[6]),
}
ORDER = {"most": (":", "most edges first"), "random": ("--", "random order"),
         "fewest": ("-", "fewest edges first"), "least": ("-.", "least sent first")}  # fmt: skip
PANELS = {
    "Networks under SET": ("per-step-0", "coupled-0"),
    "Networks that are not rewired": ("per-step-only", "static"),
}
PAIRS = (  # hypothesis, quantity, condition, and the other condition or quantity, or none
    ("K1", "E_fewest", "per-step-0", "E_random"),
    ("K1", "E_fewest", "coupled-0", "E_random"),
    ("K2", "E_gain", "per-step-0", "per-step-only"),
    ("K2", "E_gain", "coupled-0", "static"),
    ("K3", "rho", "per-step-0", None),
    ("K3", "rho", "coupled-0", None),
)
CLOSE = 2e-4  # two images, since sums may be in another order
LOSS = 0.005  # of accuracy, with which a network still counts as whole


@torch.no_grad()
def rows_of(path, data_dir):
    """Return what is said of a run, its accuracies after removals, and its units."""
    history, model, data = History.load(path), model_of(path), data_of(path, data_dir=data_dir)
    x, y = torch.from_numpy(data.x_test), torch.from_numpy(data.y_test)
    hidden = model.act1(model.fc1(x))

    def accuracy(keep):
        h = hidden * torch.from_numpy(keep)
        for name in ("fc2", "fc3"):
            h = model.get_submodule(f"act{name[-1]}")(model.get_submodule(name)(h))
        return float((model.fc4(h).argmax(1) == y).double().mean())

    last = history.topology(-1)
    fan_in, fan_out = last["fc1"].fan_in, last["fc2"].fan_out
    whole = accuracy(np.ones(len(fan_in), np.float32))
    recorded = float(history["test_accuracy"].iloc[-1])
    if abs(whole - recorded) > CLOSE:
        raise SystemExit(f"{path}: accuracy {whole}, recorded {recorded}")
    silent, rich = (hidden <= 0).all(0).numpy(), fan_in > RICH
    row = {
        "accuracy": whole, "rich": rich.sum(), "rich_edges": fan_in[rich].sum() / fan_in.sum(),
        "rho": spearmanr(fan_in, fan_out).statistic, "silent": silent.mean(),
        "silent_rich": silent[rich].mean() if rich.any() else np.nan,
        "silent_others": silent[~rich].mean(),
    }  # fmt: skip
    norm = np.sqrt(np.bincount(last["fc2"].indices, model.fc2.values.numpy() ** 2, len(fan_in)))
    sent = hidden.mean(0).numpy() * norm
    row["rich_sent"] = sent[rich].sum() / sent.sum()
    rng = np.random.default_rng(0)
    for epoch in BEFORE:
        before = history.topology(epoch)["fc1"].fan_in
        first = np.lexsort((rng.random(len(before)), -before))[: rich.sum()]
        row[f"rich_at_{epoch}"] = rich[first].mean() if rich.any() else np.nan
    orders = [("fewest", np.lexsort((rng.random(len(fan_in)), fan_in)))]
    orders += [("most", np.lexsort((rng.random(len(fan_in)), -fan_in)))]
    orders += [("least", np.lexsort((rng.random(len(fan_in)), sent)))]
    orders += [("random", rng.permutation(len(fan_in))) for _ in range(ORDERS)]
    removed = []
    for order, units in orders:
        for share in SHARES:
            keep = np.ones(len(fan_in), np.float32)
            keep[units[: round(share * len(units))]] = 0
            removed.append({"order": order, "share": share, "accuracy": accuracy(keep)})
    removed = pd.DataFrame(removed).groupby(["order", "share"], as_index=False).mean()
    row |= {f"E_{order}": part.mean() for order, part in removed.groupby("order")["accuracy"]}
    for order, part in removed.groupby("order"):
        bad = part.loc[part["accuracy"] < whole - LOSS, "share"]
        row[f"needed_{order}"] = 1 - (bad.min() - 0.05 if len(bad) else SHARES[-1])
    units = pd.DataFrame({"fan_in": fan_in, "fan_out": fan_out, "silent": silent.astype(int)})
    return row, removed, units


def collected(sweeps, data_dir):
    """Return the rows of runs, of removals and of units, also of runs in the folders of sweeps."""
    rows, removals, drawn = [], [], []
    for run, path in finished(load_study(STUDY), sweeps):
        if run.arm not in ARMS:
            continue
        row, removed, units = rows_of(path, data_dir)
        name = {"arm": run.arm, "data": run.config.data.name, "seed": run.config.seed}
        name |= {"done": run.config.epochs}
        print(f"{run.name}: {row}", flush=True)
        rows.append(name | row)
        removals.append(removed.assign(**name))
        if (run.arm, run.config.seed) == DRAWN:
            drawn.append(units.assign(**name))
    tables = [pd.DataFrame(rows)]
    tables += [pd.concat(found) if found else pd.DataFrame() for found in (removals, drawn)]
    runs, *others = [
        merged(HERE / f"{NAME}_{part}.csv", table, KEYS)
        for part, table in zip(("runs", "removed", "units"), tables, strict=True)
    ]
    return runs.assign(E_gain=runs["E_fewest"] - runs["E_random"]), *others


def means(runs):
    """Return means over seeds of each quantity, with intervals, one row for each condition."""
    rows = []
    for data in runs["data"].unique():
        for arm in ARMS:
            part = runs[(runs["data"] == data) & (runs["arm"] == arm)]
            for name in part.columns.difference([*KEYS, "done"], sort=False) if len(part) else ():
                found = mean_interval(part[name])
                rows.append({"data": data, "arm": arm, "quantity": name, "n": found.n,
                             "mean": found.mean, "low": found.low, "high": found.high})  # fmt: skip
    return pd.DataFrame(rows)


def pairs(runs):
    """Return K1 to K3, paired by seed; tested where two seeds have finished.

    The p-values are Holm-adjusted within a data set, over those of the six that can be made.
    """
    rows = []
    for data, part in runs.groupby("data", sort=False):
        for hypothesis, quantity, arm, other in PAIRS:
            own = part[part["arm"] == arm].set_index("seed")
            if other in ARMS:
                against = part[part["arm"] == other].set_index("seed")[quantity]
            else:
                against = own[other] if other else 0 * own[quantity]
            row = {"data": data, "hypothesis": hypothesis, "quantity": quantity, "arm": arm}
            rows.append(difference_row(row | {"other": other}, own[quantity], against))
    return pairs_of(rows)


def draw(runs, removed, units, data):
    """Draw the units of a run, and accuracy against the share removed, means over seeds."""
    runs, removed, units = (t[t["data"] == data] for t in (runs, removed, units))
    shown = [arm for arm in ARMS if arm in set(runs["arm"])]
    panels = {title: [arm for arm in arms if arm in shown] for title, arms in PANELS.items()}
    panels = {title: arms for title, arms in panels.items() if arms}
    with styled(size=(3.5 * (1 + len(panels)), 3.6)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(1, 1 + len(panels))
        for silent, label in ((0, "active for some image"), (1, "silent")):
            part = units[units["silent"] == silent]
            look = {"mfc": "none" if silent else COLOURS[1], "alpha": 0.6, "ms": 3.5, "ls": ""}
            axes[0].plot(
                part["fan_in"], part["fan_out"].clip(lower=0.5), "o", color=COLOURS[1], **look
            )
            axes[0].lines[-1].set_label(f"{label} ({len(part)})")
        arm, seed = DRAWN
        axes[0].set(xscale="log", yscale="log", xlabel="edges received (fan-in in fc1)")
        axes[0].set(ylabel="edges sent (fan-out in fc2)")
        for axis in (axes[0].xaxis, axes[0].yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:.0f}")
            axis.set_minor_formatter("")
        axes[0].set_title(f"Units, {ARMS[arm][0]}, seed {seed}")
        axes[0].legend()
        for ax, (title, arms) in zip(axes[1:], panels.items(), strict=True):
            for arm in arms:
                _curves(ax, removed[removed["arm"] == arm], runs[runs["arm"] == arm], arm)
            ax.set(title=title, ylim=(0, 1.02))
            ax.set_xlabel("share of units of the first hidden layer removed")
        axes[1].set_ylabel("accuracy on the test images")
        lines = [page.axes[1].plot([], [], color="#444444", ls=ls)[0] for ls, _ in ORDER.values()]
        lines += [page.axes[1].plot([], [], "s", color=ARMS[arm][1], ls="")[0] for arm in shown]
        words = [label for _, label in ORDER.values()] + [
            f"{ARMS[arm][0]} (n = {(runs['arm'] == arm).sum()})" for arm in shown
        ]
        page.legend(lines, words, loc="outside lower center", ncols=4)
        ending = "" if data == "mnist" else f"_{data}"
        save(axes[0], HERE / f"{NAME}{ending}.png", dpi=150, metadata={"Software": "topokit"})


def _curves(ax, removed, runs, arm):
    """Draw the mean accuracy after removals, with the interval from three seeds on."""
    for order, (dash, _) in ORDER.items():
        own = removed[removed["order"] == order]
        found = [mean_interval(part["accuracy"]) for _, part in own.groupby("share")]
        x = np.r_[0, SHARES]
        mean = np.r_[runs["accuracy"].mean(), [each.mean for each in found]]
        if len(own):
            ax.plot(x, mean, ls=dash, color=ARMS[arm][1])
        if len(runs) > 2:
            ends = np.clip([[each.low for each in found], [each.high for each in found]], 0, 1)
            ax.fill_between(SHARES, *ends, color=ARMS[arm][1], alpha=0.15, lw=0)


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", type=Path, nargs="*")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs, removed, units = collected(options.sweeps, options.data_dir)
    write(NAME, means(runs))
    write(f"{NAME}_pairs", pairs(runs))
    for data in units["data"].unique():
        draw(runs, removed, units, data)


if __name__ == "__main__":
    main()

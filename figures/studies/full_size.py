"""Tables and the figure of ``full_size`` and ``full_size_300``: degrees over 1,000 epochs.

    topokit sweep STUDY --data-dir DIR --out SWEEP
    python figures/studies/full_size.py STUDY SWEEP...
    python figures/studies/full_size.py STUDY

The first form adds the runs of sweeps, also those that have not finished, to the rows of single
runs in ``STUDY_degrees.csv`` (each side of each layer at log-spaced epochs), ``STUDY_layers.csv``
(survival, gap, connectivity; of fc1 the share of the edges that begin in the middle quarter of the
image), ``STUDY_accuracy.csv`` and ``STUDY_histograms.csv`` (how many units of fc1 have which
fan-in, at four epochs); both make the tables ``STUDY_last.csv``, ``STUDY_pairs.csv`` and
``STUDY_settled.csv`` of finished runs, ``STUDY_so_far.csv`` of those that were cut off, and the
figures ``STUDY.png`` (all runs on MNIST), ``STUDY_fashion_mnist.png`` and ``STUDY_answer.png``
(means, MNIST) from all rows. Hypotheses and statistics are in PLAN.md. Intervals are 95 %,
Student's t.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from rows import HERE, check_planned, degree_row, difference_row, merged, pairs_of, write

from topokit.experiments.config import is_log_spaced
from topokit.experiments.record import History
from topokit.experiments.statistics import mean_interval
from topokit.experiments.study import load_study
from topokit.measures import measure
from topokit.plots.style import COLOURS, save
from topokit.plots.style import figure as styled

KEYS = ["arm", "data", "seed"]
LAYERS = ("fc1", "fc2", "fc3")
SIDES = ("fan_in", "fan_out")
GAPS = ["normalized_spectral_gap", "algebraic_connectivity"]
FLOOR = 1e-5  # smaller p-values are drawn here
LATE = 50  # last epochs over which accuracy is averaged
SETTLED = 316  # epoch from which degrees are compared with those of the last
HISTOGRAMS = (0, 10, 100)  # epochs of which, and of the last, the degrees of fc1 are kept
PAIRS = (  # hypothesis, conditions, outcome, and of what layers' fan-in it is asked
    ("H1", "per-step-0", "static", "log_dispersion", ("fc1",)),
    ("H1", "coupled-0", "static", "log_dispersion", ("fc1",)),
    ("H3", "per-step-0", "coupled-0", "log_dispersion", LAYERS),
    ("H3", "coupled-0", "no-decay-0", "log_dispersion", LAYERS),
    ("H6", "per-step-0", "per-step-normal", "log_dispersion", LAYERS),
    ("H9", "per-step-0", "per-step-only", "accuracy", (None,)),
    ("H9", "coupled-0", "coupled-only", "accuracy", (None,)),
    ("H9", "no-decay-0", "static", "accuracy", (None,)),
    ("H9", "per-step-only", "static", "accuracy", (None,)),
    ("described", "per-step-0", "static", "accuracy", (None,)),  # not planned, not tested
    ("described", "coupled-0", "static", "accuracy", (None,)),
)
DRAWN = {  # conditions of the figure: label, colour, dashes
    "per-step-0": ("SET, decay per step", COLOURS[1], "-"),
    "coupled-0": ("SET, coupled decay", COLOURS[0], "-"),
    "no-decay-0": ("SET, no decay", COLOURS[2], "-"),
    "random-drop": ("random dropping", COLOURS[4], "-"),
    "per-step-only": ("decay per step, not rewired", COLOURS[1], ":"),
    "coupled-only": ("coupled decay, not rewired", COLOURS[0], ":"),
    "static": ("not rewired, no decay", COLOURS[6], ":"),
}
SHAPES = {
    "random": ("o", "none"), "broad": ("o", None), "heavy-tailed": ("^", None),
    "power law": ("*", None),
}  # fmt: skip


def rows_of(history, name):
    """Return the rows of a run: of degrees, layers, accuracy at log-spaced epochs, histograms."""
    epochs = history.epochs
    done, planned = len(epochs), int(history.config["epochs"])
    name = {**name, "done": done, "planned": planned}
    chosen = [e for e in epochs["epoch"] if is_log_spaced(e) or e == done - 1]
    degrees, layers, accuracy, histograms = [], [], [], []
    for epoch in chosen:
        graphs = history.topology(epoch)
        at = {**name, "epoch": epoch}
        for layer, side in itertools.product(LAYERS, SIDES):
            row = degree_row(graphs[layer], side)
            degrees.append({**at, "layer": layer, "side": side, **row})
        found = measure({layer: graphs[layer] for layer in LAYERS}, GAPS)
        for layer in LAYERS:
            own = found[found["layer"] == layer].set_index("measure")["value"]
            first = (history.ages(epoch, layer) == epoch).sum()
            share = {"survival": first / graphs[layer].n_edges, **own}
            share["central"] = central(graphs[layer]) if layer == "fc1" else np.nan
            layers.append({**at, "layer": layer, **share})
        part = epochs[epochs["epoch"] <= epoch].tail(LATE)
        line = epochs[epochs["epoch"] == epoch].iloc[0]
        accuracy.append(
            {**at, "accuracy": line["test_accuracy"], "late": part["test_accuracy"].mean()}
            | {"train_loss": line["train_loss"], "test_loss": line["test_loss"]}
        )
        if epoch in HISTOGRAMS or epoch == done - 1:
            found = zip(*np.unique(graphs["fc1"].fan_in, return_counts=True), strict=True)
            histograms += [{**at, "fan_in": degree, "units": units} for degree, units in found]
    return degrees, layers, accuracy, histograms


def central(graph):
    """Return the share of the edges that begin in the middle 14 x 14 of 28 x 28 pixels."""
    return graph.fan_out.reshape(28, 28)[7:21, 7:21].sum() / graph.n_edges


def collected(study, sweeps):
    """Return all rows known of a study, with those of the runs in the folders of sweeps."""
    parts = ("degrees", "layers", "accuracy", "histograms")
    found = tuple([] for _ in parts)
    for run in study.runs():
        for sweep in sweeps:
            path = sweep / "runs" / run.name
            if not path.is_dir():
                continue
            check_planned(run, path)
            history = History.load(path)
            data = run.config.data.name
            name = {"arm": run.arm, "data": data, "seed": run.config.seed}
            print(f"{run.name}: {len(history.epochs)} epochs", flush=True)
            for table, rows in zip(found, rows_of(history, name), strict=True):
                table += rows
    return [
        merged(HERE / f"{study.name}_{part}.csv", pd.DataFrame(rows), KEYS)
        for part, rows in zip(parts, found, strict=True)
    ]


def last_rows(degrees, layers, accuracy):
    """Return the last epoch of each run that has finished, one row for each layer and side."""
    last = degrees[degrees["epoch"] == degrees["planned"] - 1]
    keys = [*KEYS, "epoch", "layer"]
    last = last.merge(layers[[*keys, "survival", *GAPS]], on=keys)
    last = last.merge(accuracy[[*KEYS, "epoch", "accuracy", "late"]], on=[*KEYS, "epoch"])
    return last.assign(log_dispersion=np.log(last["dispersion"]))


def last_table(last):
    """Return means over seeds, verdicts and intervals (from two seeds on) at the last epoch."""
    rows = []
    for key, part in last.groupby(["data", "arm", "layer", "side"], sort=False):
        row = dict(zip(("data", "arm", "layer", "side"), key, strict=True))
        row |= {"n": len(part), "seeds": " ".join(map(str, part["seed"]))}
        interval = mean_interval(np.log(part["dispersion"]))
        row |= {"dispersion": np.exp(interval.mean)}
        row |= {"low": np.exp(interval.low), "high": np.exp(interval.high)}
        row["verdicts"] = ", ".join(f"{v} {n}" for v, n in part["verdict"].value_counts().items())
        row |= {k: part[k].median() for k in ("alpha", "xmin", "n_tail", "decades", "linear_p")}
        row |= {k: part[k].mean() for k in ("survival", *GAPS, "accuracy", "late")}
        rows.append(row)
    return pd.DataFrame(rows)


def so_far_table(degrees, layers, accuracy):
    """Return means over the seeds of runs that were cut off, at an epoch that all have reached.

    That is the last of the log-spaced ones, for each data set. Intervals are from two seeds on,
    those of the spread of its logarithm.
    """
    rows = []
    for data, own in degrees[degrees["done"] < degrees["planned"]].groupby("data", sort=False):
        epoch = max(e for e in range(own["done"].min()) if is_log_spaced(e))
        at = [t[(t["data"] == data) & (t["epoch"] == epoch)] for t in (own, layers, accuracy)]
        found = at[0].merge(at[1], on=[*KEYS, "done", "planned", "epoch", "layer"])
        found = found.merge(at[2], on=[*KEYS, "done", "planned", "epoch"])
        for key, part in found.groupby(["arm", "layer", "side"], sort=False):
            row = {"data": data, "epoch": epoch}
            row |= dict(zip(("arm", "layer", "side"), key, strict=True))
            row |= {"n": len(part), "seeds": " ".join(map(str, part["seed"]))}
            spread, late = mean_interval(np.log(part["dispersion"])), mean_interval(part["late"])
            row |= {name: np.exp(getattr(spread, name)) for name in ("mean", "low", "high")}
            counts = part["verdict"].value_counts().items()
            row["verdicts"] = ", ".join(f"{verdict} {n}" for verdict, n in counts)
            row |= {k: part[k].mean() for k in ("survival", *GAPS, "accuracy", "late")}
            rows.append(row | {"late_low": late.low, "late_high": late.high})
    return pd.DataFrame(rows)


def pairs_table(last):
    """Return the planned differences, paired by seed; tested where two seeds of both have finished.

    The p-values are Holm-adjusted within a data set, over those of the planned tests that can be
    made: they grow when further conditions have finished.
    """
    rows = []
    fan_in = last[last["side"] == "fan_in"].assign(accuracy=last["late"])
    planned = [(*names, layer) for *names, layers in PAIRS for layer in layers]
    for data, (hypothesis, a, b, outcome, layer) in itertools.product(
        last["data"].unique(), planned
    ):
        one = fan_in[(fan_in["data"] == data) & (fan_in["layer"] == (layer or "fc1"))]
        both = [one[one["arm"] == arm].set_index("seed")[outcome] for arm in (a, b)]
        row = {"data": data, "hypothesis": hypothesis, "arm": a, "other": b, "outcome": outcome}
        rows.append(difference_row(row | {"layer": layer}, *both))
    return pairs_of(rows)


def settled_table(degrees):
    """Return by how much the logarithm of variance over mean changes from epoch 316 to the last.

    Of runs that have finished; ``stays`` counts those whose verdict is the same at both.
    """
    done = degrees[(degrees["done"] == degrees["planned"]) & (degrees["side"] == "fan_in")]
    rows = []
    for key, part in done.groupby(["data", "arm", "layer"], sort=False):
        before, last = (
            part[part["epoch"] == epoch].set_index("seed")
            for epoch in (SETTLED, part["epoch"].max())
        )
        interval = mean_interval(np.log(last["dispersion"] / before["dispersion"]))
        row = dict(zip(("data", "arm", "layer"), key, strict=True)) | interval._asdict()
        rows.append(row | {"stays": int((last["verdict"] == before["verdict"]).sum())})
    return pd.DataFrame(rows)


# --- the figures ---------------------------------------------------------------------------------


def draw(name, degrees, layers, accuracy, data="mnist"):
    """Draw degrees, what the fit says, survival and accuracy over the epochs (log time)."""
    parts = [table[table["data"] == data] for table in (degrees, layers, accuracy)]
    with styled(size=(10.5, 8.0)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(3, 3)
        for ax, layer in zip(axes[0], LAYERS, strict=True):
            spread(ax, parts[0], layer, "fan_in")
            ax.set_title(f"{layer}, fan-in")
        axes[0, 0].set_ylabel("variance over mean")
        for ax, layer in zip(axes[1], LAYERS, strict=True):
            part = _side(parts[0], layer, "fan_in")
            lines(ax, part.assign(linear_p=part["linear_p"].clip(lower=FLOOR)), "linear_p")
            ax.axhline(0.05, color="#777777", lw=0.8, ls="--")
            ax.set(yscale="log", ylim=(FLOOR / 2, 1.5), title=f"{layer}, the published statistic")
        axes[1, 0].set_ylabel("one-tailed p, histogram against d^-2.5")
        spread(axes[2, 0], parts[0], "fc1", "fan_out")
        axes[2, 0].set(title="fc1, fan-out (pixels)", ylabel="variance over mean")
        lines(axes[2, 1], parts[1][parts[1]["layer"] == "fc1"], "survival")
        axes[2, 1].set(title="fc1, first edges never dropped", ylabel="share of the edges")
        lines(axes[2, 2], parts[2], "accuracy")
        late = parts[2][parts[2]["epoch"] > 3]["accuracy"]
        axes[2, 2].set(title="accuracy on the test images", ylim=(late.min() - 0.003, None))
        for ax in axes.ravel():
            ax.set(xscale="log", xlabel="epoch + 1")
        legend(page, axes[0, 0], parts[0]["arm"])
        save(axes[0, 0], HERE / f"{name}.png", dpi=150, metadata={"Software": "topokit"})


def _side(table, layer, side):
    return table[(table["layer"] == layer) & (table["side"] == side)]


def lines(ax, table, column, looks=DRAWN):
    """Draw a line for each run; all seeds of a condition look alike."""
    for arm, (_, colour, dash) in looks.items():
        for _, run in table[table["arm"] == arm].groupby("seed"):
            ax.plot(run["epoch"] + 1, run[column], color=colour, ls=dash, lw=1.1)


def spread(ax, table, layer, side, looks=DRAWN):
    """Draw the variance over the mean, with the verdict as the shape of each point."""
    part = _side(table, layer, side)
    lines(ax, part, "dispersion", looks)
    for arm, (_, colour, _) in looks.items():
        for verdict, (shape, face) in SHAPES.items():
            own = part[(part["arm"] == arm) & (part["verdict"] == verdict)]
            options = {"ms": 7 if shape == "*" else 4, "mfc": face or colour}
            ax.plot(own["epoch"] + 1, own["dispersion"], shape, color=colour, ls="", **options)
    ax.axhline(1, color="#777777", lw=0.8, ls=":")
    ax.set(yscale="log")


def draw_answer(name, degrees, accuracy, histograms, data="mnist"):
    """Draw the degrees of fc1 in one run, their spread and the accuracy, means over seeds.

    Means and intervals of the spread are those of its logarithm; a condition of one seed has none.
    """
    degrees, accuracy, histograms = (
        table[(table["data"] == data) & (table["done"] == table["planned"])]
        for table in (degrees, accuracy, histograms)
    )
    if histograms[histograms["arm"] == "coupled-0"].empty:
        return
    with styled(size=(10.5, 3.4)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(1, 3)
        seed = _tails(axes[0], histograms[histograms["arm"] == "coupled-0"])
        part = _side(degrees, "fc1", "fan_in")
        _bands(axes[1], part.assign(value=np.log(part["dispersion"])), np.exp)
        axes[1].axhline(1, color="#777777", lw=0.8, ls=":")
        axes[1].set(yscale="log", ylabel="variance over mean", title="Spread of the fan-in of fc1")
        _bands(axes[2], accuracy.assign(value=accuracy["accuracy"]), lambda values: values)
        late = accuracy[accuracy["epoch"] > 3]["accuracy"]
        axes[2].set(ylim=(late.min() - 0.003, None), title="Accuracy on the test images")
        for ax in axes[1:]:
            ax.set(xscale="log", xlabel="epoch + 1")
        axes[0].set_title(f"Fan-in of fc1, coupled decay, seed {seed}")
        handles, labels = axes[1].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside lower right", ncols=2)
        save(axes[0], HERE / f"{name}_answer.png", dpi=150, metadata={"Software": "topokit"})


def _tails(ax, histograms):
    """Draw the share of units with at least k edges at each epoch of a run; return its seed."""
    seed, run = next(iter(histograms.groupby("seed")))
    epochs = sorted(run["epoch"].unique())
    for k, epoch in enumerate(epochs):
        part = run[run["epoch"] == epoch].sort_values("fan_in")
        share = part["units"][::-1].cumsum()[::-1] / part["units"].sum()
        shade = 0.25 + 0.75 * k / max(len(epochs) - 1, 1)
        options = {"color": COLOURS[0], "alpha": shade, "ls": "-", "label": f"epoch {epoch}"}
        ax.step(part["fan_in"], share, where="pre", **options)
    ax.set(xscale="log", yscale="log", xlabel="fan-in k", ylabel="share of units with fan-in ≥ k")
    ax.legend(loc="lower left")
    return seed


def _bands(ax, table, transformed):
    """Draw means over seeds of the column ``value``, with bands of their intervals."""
    for arm, (label, colour, dash) in DRAWN.items():
        part = table[table["arm"] == arm]
        if part.empty:
            continue
        found = {epoch: mean_interval(own["value"]) for epoch, own in part.groupby("epoch")}
        epochs = np.array([*found]) + 1
        n = part["seed"].nunique()
        mean, low, high = (
            transformed(np.array([getattr(each, end) for each in found.values()]))
            for end in ("mean", "low", "high")
        )
        ax.plot(epochs, mean, color=colour, ls=dash, label=f"{label} (n = {n})")
        if n > 2:
            ax.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)


def legend(page, ax, arms, looks=DRAWN):
    """Explain below the panels the colours of those conditions that are drawn, and the shapes."""
    handles = [
        ax.plot([], [], color=colour, ls=dash, label=label)[0]
        for arm, (label, colour, dash) in looks.items()
        if arm in set(arms)
    ]
    for verdict, (shape, face) in SHAPES.items():
        options = {"color": "#444444", "mfc": face or "#444444", "ls": ""}
        handles += ax.plot([], [], shape, label=f"verdict: {verdict}", **options)
    page.legend(handles=handles, loc="outside lower center", ncols=4)


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("full_size", "full_size_300"))
    parser.add_argument("sweeps", type=Path, nargs="*")
    options = parser.parse_args()
    tables = collected(load_study(options.study), options.sweeps)
    last = last_rows(*tables[:3])
    if len(last):
        write(f"{options.study}_last", last_table(last))
        write(f"{options.study}_pairs", pairs_table(last))
        write(f"{options.study}_settled", settled_table(tables[0]))
    if len(so_far := so_far_table(*tables[:3])):
        write(f"{options.study}_so_far", so_far)
    else:
        (HERE / f"{options.study}_so_far.csv").unlink(missing_ok=True)
    for data in tables[0]["data"].unique():
        draw(options.study + ("" if data == "mnist" else f"_{data}"), *tables[:3], data=data)
    draw_answer(options.study, tables[0], *tables[2:])


if __name__ == "__main__":
    main()

"""Tables and figures of the shipped studies, from their finished sweeps.

    topokit sweep STUDY --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py STUDY SWEEP
    python figures/studies/make_studies.py STUDY

The first form writes ``STUDY*.csv`` beside itself and prints the tables; both make again those that
follow from other tables, and draw ``STUDY.png`` from them. Studies that keep rows of single runs
have modules of their own, ``STUDY.py``; of these several sweeps may be given, with any finished
runs. Intervals are 95 %: Student's t for means and paired differences, the bootstrap of
`rank_correlation` for correlations. Bootstraps and permutations have seed 0.
"""

import argparse
import importlib
import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd

from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired, rank_correlation
from topokit.experiments.sweep import sweep_frame
from topokit.measures import LAYER_MEASURES, VERDICTS
from topokit.measures.nulls import null_score
from topokit.plots.across import accuracy_against, arms_side_by_side
from topokit.plots.parts import legend_below, title_of
from topokit.plots.style import figure as styled
from topokit.plots.style import save

HERE = Path(__file__).parent
# Mean and deviation of the published logs by condition and epochs; unknown at other epochs.
PUBLISHED = {
    ("set", 400): (0.8256, 0.0091),
    ("static", 400): (0.8060, 0.0061),
    ("dense", 50): (0.825, float("nan")),
    ("dense", 400): (0.8198, 0.0026),
}
OWN = (
    "mask_or_weights", "gap_over_training", "ctre_question", "tutorial_loss",
    "structure_convergence", "rbm_degrees", "as_published",
)  # fmt: skip
NEED_SAMPLES = ("ctre_question", "rbm_degrees", "as_published")
MAP = ["topology.epsilon", "rule.drop_fraction", "optimizer.weight_decay", "rule.init"]
FEATURES = (
    "normalized_spectral_gap",
    "spectral_gap",
    "algebraic_connectivity",
    "algebraic_connectivity_giant",
    "ramanujan_margin",
    "giant_share",
)


def rng():
    """Return the generator of every bootstrap and permutation, always from seed 0."""
    return np.random.default_rng(0)


def write(name, table):
    """Write a table to a file and print it."""
    table.to_csv(HERE / f"{name}.csv", index=False, float_format="%.6g")
    shown = table.round(4).to_string(index=False, max_rows=60)
    print(f"\n{name} ({len(table)} rows)\n{shown}", flush=True)


def read(name):
    """Return a table that was written, or none if it was not."""
    path = HERE / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def final(frame, measure, layer="network"):
    """Return a row for each run: a measure at its last epoch."""
    rows = frame[(frame["measure"] == measure) & (frame["layer"] == layer)]
    return rows.loc[rows.groupby("run", sort=False)["epoch"].idxmax()].reset_index(drop=True)


def curves(frame):
    """Return a row for each run and epoch, with the accuracy in its own column."""
    rows = frame[(frame["measure"] == "test_accuracy") & (frame["layer"] == "network")]
    return rows.rename(columns={"value": "test_accuracy"})


def draw(name, *plots, size=(3.7, 2.7), columns=3):
    """Draw a figure with a panel for each plot; each is called with its axes."""
    rows = -(-len(plots) // columns)
    columns = min(columns, len(plots))
    with styled(size=(size[0] * columns, size[1] * rows)) as first:
        page = first.get_figure()
        first.remove()
        panels = page.subplots(rows, columns, squeeze=False).ravel()
        for plot, ax in zip(plots, panels, strict=False):
            plot(ax)
        save(panels[0], HERE / f"{name}.png", dpi=150, metadata={"Software": "topokit"})


def over_epochs(table, ax):
    """Draw a table of means over epochs with their intervals, a line and band for each condition.

    As `mean_over_seeds` draws it from single runs.
    """
    for arm, part in table.groupby("arm", sort=False):
        (line,) = ax.plot(part["epoch"], part["mean"], label=f"{arm} (n = {part['n'].max()})")
        ax.fill_between(
            part["epoch"], part["low"], part["high"], color=line.get_color(), alpha=0.2, lw=0
        )
    ax.set(xlabel="epoch", title="Mean over seeds, 95 % interval")


def runs_of(table):
    """Say of how many runs the means of a table are."""
    return f"mean and 95 % interval of {table['n'].max()} runs"


def means_alone(table, column, label, *, ax, **options):
    """Draw the means and intervals of a table, a row each, where single runs were not kept."""
    arms_side_by_side(table, column, color="C0", marker="none", ax=ax, **options)
    half, places = table["high"] - table[column], np.arange(len(table)) + 0.25
    style = {"fmt": "D", "color": "C0", "capsize": 2, "ms": 3.5, "lw": 1, "label": label}
    ax.errorbar(table[column], places, xerr=half, **style)
    legend_below(ax)


def pairs_of(table, column="value", first=None):
    """Compare all conditions of a table (or one with the others) pair by pair over seeds."""
    rows = []
    for a, b in itertools.combinations(dict.fromkeys(table["arm"]), 2):
        if first not in (None, a):
            continue
        both = [table[table["arm"] == arm].set_index("seed")[column] for arm in (a, b)]
        shared = both[0].index.intersection(both[1].index)
        found = paired(both[0][shared], both[1][shared], rng=rng())
        rows.append({"arm": a, "other": b, **found._asdict()})
    table = pd.DataFrame(rows)
    table["t_p_holm"] = adjusted(table["t_p"])
    return table


def tutorial_table(frame):
    """Write the accuracy of the three conditions beside that of the published logs."""
    last = final(frame, "test_accuracy")
    best = curves(frame).groupby(["arm", "run"], sort=False)["test_accuracy"].max().reset_index()
    rows = []
    for arm, part in last.groupby("arm", sort=False):
        now, top = (
            mean_interval(values)
            for values in (part["value"], best[best["arm"] == arm]["test_accuracy"])
        )
        ours = {"n": now.n, "accuracy": now.mean, "sd": now.sd, "low": now.low, "high": now.high}
        epochs = part["epoch"].max() + 1
        known = PUBLISHED.get((arm, epochs), (float("nan"), float("nan")))
        published = dict(zip(("published", "published_sd"), known, strict=True))
        rows.append({"arm": arm, "epochs": epochs, **ours, "best": top.mean} | published)
    write("tutorial_table", pd.DataFrame(rows))
    write("tutorial_table_pairs", pairs_of(last))
    runs = last.rename(columns={"value": "accuracy"}).assign(epochs=last["epoch"] + 1)
    write("tutorial_table_runs", runs[["arm", "epochs", "seed", "accuracy"]])
    rows = [
        {"arm": arm, "epoch": epoch, **mean_interval(part["test_accuracy"])._asdict()}
        for (arm, epoch), part in curves(frame).groupby(["arm", "epoch"], sort=False)
    ]
    write("tutorial_table_epochs", pd.DataFrame(rows))


def figure_of_tutorial():
    """Draw accuracy beside that of the published logs after as many epochs, and its course.

    Where single runs and the course were not kept, only means and intervals are drawn.
    """
    table, runs, epochs = (read(f"tutorial_table{part}") for part in ("", "_runs", "_epochs"))
    for part in (table, runs):
        if part is not None:
            part["condition"] = part["arm"] + ", " + part["epochs"].astype(str) + " epochs"
    known = table.dropna(subset="published")
    published = {row.condition: (row.published, row.published_sd) for row in known.itertuples()}
    label = f"here: {runs_of(table)}"
    words = "published logs, as many epochs: mean ± sd of 5 (dense: no sd)"

    def side_by_side(ax):
        options = {"arm": "condition", "published": published, "published_label": words, "ax": ax}
        if runs is not None:
            arms_side_by_side(runs, "accuracy", **options)
        else:
            means_alone(table, "accuracy", label, **options)
            title_of(ax, "Accuracy here and in the published logs")
        ax.set_xlabel("test accuracy, last epoch")

    def course(ax):
        over_epochs(epochs, ax)
        ax.set_ylabel("test accuracy")
        legend_below(ax)

    plots = [side_by_side] if epochs is None else [side_by_side, course]
    draw("tutorial_table", *plots, size=(5.0, 2.8))


def spectral_gap_accuracy(frame):
    """Write accuracy and speed of learning against measures of expansion, by family."""
    keys = ["run", "arm", "data.name", "topology.densities", "seed"]
    accuracy = curves(frame)
    runs = final(frame, "test_accuracy").rename(columns={"value": "accuracy"})[[*keys, "accuracy"]]
    runs["early"] = runs["run"].map(
        accuracy[accuracy["epoch"] < 3].groupby("run")["test_accuracy"].mean()
    )
    sparse = frame[frame["layer"].isin(["fc1", "fc2"]) & (frame["epoch"] == 0)]
    means = sparse.pivot_table(index="run", columns="measure", values="value", aggfunc="mean")
    runs = runs.merge(means[[*FEATURES, "components"]], left_on="run", right_index=True)
    runs["density"] = runs["topology.densities"].str.extract(r"([\d.]+)")[0].astype(float)
    write("spectral_gap_accuracy_runs", runs.drop(columns=["run", "topology.densities"]))
    numbers = [*FEATURES, "components", "accuracy", "early"]
    families = (
        runs.groupby(["data.name", "density", "arm"], sort=False)[numbers].mean().reset_index()
    )
    counted = runs.groupby(["data.name", "density", "arm"], sort=False).size()
    families.insert(3, "n", counted.to_numpy())
    write("spectral_gap_accuracy_families", families)
    write("spectral_gap_accuracy_pairs", pairs_of_families(runs))


def pairs_of_families(runs):
    """Compare the expander with each other family over seeds, panel by panel."""
    pairs = [
        pairs_of(part, "accuracy", first="lift").assign(data=data, density=density)
        for (data, density), part in runs.groupby(["data.name", "density"], sort=False)
    ]
    return pd.concat(pairs)


def table_of_correlations():
    """Write the rank correlations, from the tables of families and of single runs."""
    both = (read(f"spectral_gap_accuracy_{part}") for part in ("families", "runs"))
    write("spectral_gap_accuracy_correlations", correlations(*both))


def correlations(families, runs):
    """Return rank correlations of accuracy and speed with each measure, over families and runs.

    Within density the bootstrap draws, and the test permutes, families with all their densities.
    """
    rows = []
    for data, part in families.groupby("data.name", sort=False):
        own = runs[runs["data.name"] == data]
        whole = {"strata": part["density"], "clusters": part["arm"]}
        for outcome, measure in itertools.product(("accuracy", "early"), FEATURES):
            for name, table, options in (
                ("families, all densities", part, {}),
                ("families, within density", part, whole),
                (
                    "families, within density, giant share held fixed",
                    part,
                    {**whole, "controls": [part["giant_share"]]},
                ),
                ("families, within family", part, {"strata": part["arm"]}),
                ("runs, within density", own, {"strata": own["density"]}),
            ):
                if "held fixed" in name and measure == "giant_share":
                    continue
                found = rank_correlation(table[measure], table[outcome], rng=rng(), **options)
                row = {"data": data, "outcome": outcome, "measure": measure, "over": name}
                rows.append(row | found._asdict())
        for outcome in ("accuracy", "early"):
            found = rank_correlation(part["density"], part[outcome], rng=rng(), strata=part["arm"])
            row = {
                "data": data,
                "outcome": outcome,
                "measure": "density",
                "over": "families, within family",
            }
            rows.append(row | found._asdict())
    table = pd.DataFrame(rows)
    table["p_bh"] = adjusted(table["p"], method="bh")
    return table


def figure_of_families():
    """Draw accuracy against the normalised gap: a panel for each set and density.

    The correlation is that of the families' means, since runs of one family are no independent
    evidence of what differs between families.
    """
    runs = read("spectral_gap_accuracy_runs").rename(columns={"accuracy": "test_accuracy"})
    both = ["normalized_spectral_gap", "test_accuracy"]

    def panel(data, density):
        part = runs[(runs["data.name"] == data) & (runs["density"] == density)]
        means = part.groupby("arm", sort=False)[both].mean()
        found = rank_correlation(means[both[0]], means[both[1]], rng=rng())
        words = f"ρ = {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}], n = {found.n} families"

        def plot(ax):
            accuracy_against(part, both[0], ax=ax)
            ax.set_title(f"{data}, density {density:g}\n{words}")

        return plot

    panels = itertools.product(("mnist", "fashion_mnist"), sorted(runs["density"].unique()))
    draw("spectral_gap_accuracy", *(panel(*choice) for choice in panels), size=(4.6, 4.0))


def single_runs(frame, keys):
    """Return dispersion and scale-free verdict of every layer and side of each run's last epoch."""
    rows = []
    laws = {"fan_in": "power_law", "fan_out": "power_law_fan_out"}
    for layer, (side, law) in itertools.product(("fc1", "fc2", "fc3"), laws.items()):
        spread = final(frame, f"{side}.dispersion", layer).set_index("run")
        table = spread[[*keys, "seed", "value"]].rename(columns={"value": "dispersion"})
        for name in ("verdict", "alpha", "versus_lognormal", "versus_poisson"):
            table[name] = final(frame, f"{law}.{name}", layer).set_index("run")["value"]
        words = [VERDICTS[int(code)] for code in table["verdict"]]
        rows.append(table.assign(verdict=words, layer=layer, side=side))
    return pd.concat(rows, ignore_index=True)


def verdict_rows(runs, keys):
    """Return means over seeds of what `single_runs` returns, and how many have each verdict."""
    rows = []
    for key, part in runs.groupby(["layer", "side", *keys], sort=False):
        names = dict(zip(("layer", "side", *keys), key, strict=True))
        interval = mean_interval(part["dispersion"])
        row = {name: names[name] for name in (*keys, "layer", "side")}
        row |= {"n": interval.n, "dispersion": interval.mean, "sd": interval.sd}
        row |= {"low": interval.low, "high": interval.high}
        row |= {name: int((part["verdict"] == name).sum()) for name in VERDICTS}
        rows.append(row | {k: part[k].median() for k in ("alpha", "versus_lognormal")})
    return pd.DataFrame(rows)


def er_to_heavy_tails(frame, directory):
    """Write dispersion and verdict of every layer and side, pairs of conditions, null samples."""
    keys = ["data.name", "arm"]
    write("er_to_heavy_tails", verdict_rows(single_runs(frame, keys), keys))
    rows, over_time = [], []
    for layer, side in itertools.product(("fc1", "fc2", "fc3"), ("fan_in", "fan_out")):
        for data, part in final(frame, f"{side}.dispersion", layer).groupby(
            "data.name", sort=False
        ):
            found = pairs_of(part)
            rows.append(found.assign(data=data, layer=layer, side=side))
        every = frame[(frame["layer"] == layer) & (frame["measure"] == f"{side}.dispersion")]
        for key, part in every.groupby(["data.name", "arm", "epoch"], sort=False):
            interval = mean_interval(part["value"])
            names = dict(zip(("data", "arm", "epoch"), key, strict=True))
            over_time.append(names | {"layer": layer, "side": side, **interval._asdict()})
    table = pd.concat(rows, ignore_index=True)
    table["t_p_holm"] = adjusted(table["t_p"])
    first = ["data", "layer", "side"]
    write("er_to_heavy_tails_pairs", table[[*first, *(c for c in table if c not in first)]])
    write("er_to_heavy_tails_epochs", pd.DataFrame(over_time))
    write("er_to_heavy_tails_nulls", null_samples(frame, directory))
    accuracy = final(frame, "test_accuracy")
    rows = [
        {"data": data, "arm": arm, **mean_interval(part["value"])._asdict()}
        for (data, arm), part in accuracy.groupby(["data.name", "arm"], sort=False)
    ]
    write("er_to_heavy_tails_accuracy", pd.DataFrame(rows))


def figure_of_dispersion():
    """Draw the dispersion of both sides of the first layer over the epochs, by set."""
    table = read("er_to_heavy_tails_epochs")

    def panel(data, side):
        part = table[(table["layer"] == "fc1") & (table["side"] == side) & (table["data"] == data)]

        def plot(ax):
            over_epochs(part, ax)
            ax.axhline(1, color="#777777", lw=0.8, ls=":", label="a Poisson law")
            words = f"{data}, fc1 {side.replace('_', '-')}"
            ax.set(title=words, ylabel="variance over mean")
            legend_below(ax)

        return plot

    panels = itertools.product(("mnist", "fashion_mnist"), ("fan_in", "fan_out"))
    draw("er_to_heavy_tails", *(panel(*choice) for choice in panels), columns=2)


def null_samples(frame, directory):
    """Return measures of the last layers against null samples with the same degrees."""
    rows = []
    runs = frame[["run", "arm", "data.name"]].drop_duplicates()
    for run, arm, data in runs.itertuples(index=False):
        graph = History.load(directory / "runs" / run).topology(-1)["fc1"]
        for measure in ("normalized_spectral_gap", "butterflies"):
            score = null_score(graph, LAYER_MEASURES[measure], twins=20, rng=rng())
            rows.append({"data": data, "arm": arm, "measure": measure, "z": score.z})
    return pd.DataFrame(
        {
            "data": data,
            "arm": arm,
            "measure": measure,
            **mean_interval(part["z"])._asdict(),
        }
        for (data, arm, measure), part in pd.DataFrame(rows).groupby(
            ["data", "arm", "measure"], sort=False
        )
    )


def heavy_tails_map(frame):
    """Write single runs of sixteen settings, and means over seeds."""
    runs = single_runs(frame, MAP)
    write("heavy_tails_map_runs", runs)
    write("heavy_tails_map", verdict_rows(runs, MAP))


def table_of_effects():
    """Write the effect of each of four settings, from the table of single runs."""
    write("heavy_tails_map_effects", effects(read("heavy_tails_map_runs")))


def effects(runs):
    """Return the effect of each of four settings on the dispersion of the fan-in.

    Over all cells of the other settings for each layer (Holm-adjusted together), and for fc1 by how
    edges are grown. Intervals are those of all pairs, in which the cells differ, too, and, as
    ``seeds_low`` and ``seeds_high``, of the means over the cells of each seed.
    """
    fan_in = runs[runs["side"] == "fan_in"]
    parts = [("both", layer, fan_in[fan_in["layer"] == layer]) for layer in ("fc1", "fc2", "fc3")]
    grown = parts[0][-1].groupby("rule.init", sort=False)
    parts += [(init, "fc1", part) for init, part in grown]
    rows = []
    for key, (init, layer, part) in itertools.product(MAP, parts):
        values = list(dict.fromkeys(part[key]))
        if len(values) != 2:  # a part of the map, or of runs that grow edges in one way
            continue
        low, high = values
        others = [*(k for k in MAP if k != key), "seed"]
        both = [
            part[part[key] == v].set_index(others)["dispersion"].sort_index() for v in (high, low)
        ]
        found = paired(*both, rng=rng())
        seeds = mean_interval((both[0] - both[1]).groupby("seed").mean())
        row = {"setting": key, "from": low, "to": high, "grown": init, "layer": layer}
        row |= found._asdict() | {"seeds": seeds.n}
        rows.append(row | {"seeds_low": seeds.low, "seeds_high": seeds.high})
    table = pd.DataFrame(rows)
    whole = table["grown"] == "both"
    table.loc[whole, "t_p_holm"] = adjusted(table.loc[whole, "t_p"])
    return table


def figure_of_map():
    """Draw the dispersion of the fan-in of the first layer in every cell of the map."""
    runs = read("heavy_tails_map_runs")
    runs = runs[(runs["layer"] == "fc1") & (runs["side"] == "fan_in")]
    cells = runs[MAP].itertuples(index=False)
    names = [f"epsilon {e:g}, drop {z:g}, decay {w:g}, {i}" for e, z, w, i in cells]
    runs.insert(0, "setting", names)

    def plot(ax):
        arms_side_by_side(runs, "dispersion", arm="setting", ax=ax)
        title_of(ax, "Fan-in of fc1 after the last epoch")
        ax.set(ylabel="", xlabel="variance over mean (1 in a random graph)")

    draw("heavy_tails_map", plot, size=(5.5, 4.0))


def main():
    """Read the command line."""
    studies = {
        "tutorial_table": (tutorial_table, figure_of_tutorial),
        "spectral_gap_accuracy": (
            spectral_gap_accuracy, table_of_correlations, figure_of_families,
        ),
        "er_to_heavy_tails": (er_to_heavy_tails, figure_of_dispersion),
        "heavy_tails_map": (heavy_tails_map, table_of_effects, figure_of_map),
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=[*studies, *OWN])
    parser.add_argument("sweep", type=Path, nargs="*")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("TOPOKIT_DATA"))
    options = parser.parse_args()
    if options.study in OWN:
        more = {"data_dir": options.data_dir} if options.study in NEED_SAMPLES else {}
        importlib.import_module(options.study).make(options.sweep, **more)
        return
    tables, *later = studies[options.study]
    if len(options.sweep) > 1:
        parser.error("expected one sweep of this study, whose tables are of one")
    for sweep in options.sweep:
        more = (sweep,) if options.study == "er_to_heavy_tails" else ()
        tables(sweep_frame(sweep), *more)
    for make in later:
        make()


if __name__ == "__main__":
    main()

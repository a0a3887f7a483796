"""Tables and the figure of ``locality``: the gap and accuracy on original and shuffled pixels.

    topokit sweep locality --data-dir DIR --out SWEEP
    python figures/studies/locality.py SWEEP...
    python figures/studies/locality.py

The first form adds the finished runs of sweeps to the rows of single runs in ``locality_runs.csv``;
both make the other tables and ``locality.png`` from all rows. Hypotheses and statistics are in
PLAN.md. Intervals are 95 %: Student's t, for correlations the bootstrap over families within each
density as planned, and as ``families_low`` and ``families_high`` that over the ten families with
all their densities, which are not independent of each other.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from rows import HERE, merged, write
from scipy.stats import rankdata

from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired, rank_correlation
from topokit.experiments.study import load_study
from topokit.plots.style import COLOURS, MARKERS, save
from topokit.plots.style import figure as styled

KEYS = ["data", "shuffled", "density", "arm", "seed"]
PANEL = ["data", "density"]
MEASURES = ("normalized_spectral_gap", "algebraic_connectivity_giant", "giant_share")
LOCAL = ("band", "receptive field", "small-world 0.05", "small-world 0.3", "block, few bridges")
OTHERS = ("lift", "near-biregular", "Erdos-Renyi")
PAIRS = (("lift", "Erdos-Renyi"), ("lift", "Chung-Lu"))
EQUAL = 0.005  # two families are called equal if the interval of their difference is within this
RESAMPLES = 2000


def collected(sweeps):
    """Return the rows of all runs known, with those of the finished runs of sweeps."""
    rows = []
    for run in load_study("locality").runs():
        for sweep in sweeps:
            path = sweep / "runs" / run.name
            if not (path / "DONE").is_file():
                continue
            history = History.load(path)
            first = history.measures[history.measures["epoch"] == 0]
            first = first[first["layer"].isin(["fc1", "fc2"])].groupby("measure")["value"].mean()
            config = run.config
            rows.append(
                {
                    "data": config.data.name,
                    "shuffled": int(config.data.params["shuffle_pixels"]),
                    "density": config.topology.densities[0],
                    "arm": run.arm,
                    "seed": config.seed,
                    "done": len(history.epochs),
                    "accuracy": history.epochs["test_accuracy"].iloc[-1],
                    **{name: first[name] for name in MEASURES},
                }
            )
    return merged(HERE / "locality_runs.csv", pd.DataFrame(rows), KEYS)


def whole(runs):
    """Return the runs of the seeds that all conditions have finished."""
    seeds = runs.groupby("seed").size()
    cells = runs[KEYS[:-1]].drop_duplicates().shape[0]
    return runs[runs["seed"].isin(seeds[seeds == cells].index)]


def ranks(values, density):
    """Return ranks within each density, centred and of length 1 together."""
    found = np.empty(len(values))
    for group in np.unique(density):
        own = rankdata(values[density == group])
        found[density == group] = (own - own.mean()) / own.size
    length = np.linalg.norm(found)
    return found / length if length else np.full(len(values), np.nan)


def correlations(families):
    """Return rho of accuracy and gap within density on both variants, and their difference."""
    rows = []
    for data, part in families.groupby("data"):
        both = [part[part["shuffled"] == s].sort_values([*PANEL, "arm"]) for s in (0, 1)]
        for table, variant in zip(both, ("original", "shuffled"), strict=True):
            for measure in MEASURES:
                found, whole = (
                    rank_correlation(
                        table[measure], table["accuracy"], strata=table["density"],
                        clusters=clusters, resamples=RESAMPLES, rng=np.random.default_rng(0),
                    )
                    for clusters in (None, table["arm"])
                )  # fmt: skip
                names = {"data": data, "variant": variant, "measure": measure}
                rows.append(names | found._asdict() | _whole(*whole[2:]))
        for measure in MEASURES:
            (seen, (low, high)), (_, whole) = (difference(both, measure, w) for w in (False, True))
            names = {"data": data, "variant": "shuffled - original", "measure": measure}
            names |= {"n": len(both[0]), "rho": seen, "low": low, "high": high}
            rows.append(names | _whole(*whole))
    return pd.DataFrame(rows)


def _whole(low, high, p=np.nan):
    return {"families_low": low, "families_high": high, "families_p": p}


def difference(both, measure, whole=False):
    """Return the difference of rho between two variants of one table, and its interval.

    Families are drawn with replacement within each density, or `whole`, the same ones at each
    density; always the same ones for both variants.
    """
    density = both[0]["density"].to_numpy()
    columns = [[table[name].to_numpy() for name in (measure, "accuracy")] for table in both]

    def change(take):
        before, after = (
            np.prod([ranks(column[take], density[take]) for column in pair], axis=0).sum()
            for pair in columns
        )
        return after - before

    rng, drawn = np.random.default_rng(0), []
    places = [np.flatnonzero(density == d) for d in np.unique(density)]
    size = places[0].size  # in the order of families: tables are sorted by density and family
    for _ in range(RESAMPLES):
        some = rng.integers(size, size=(1 if whole else len(places), size))
        every = np.broadcast_to(some, (len(places), size))
        drawn.append(change(np.concatenate([own[k] for own, k in zip(places, every, strict=True)])))
    return change(slice(None)), np.nanpercentile(drawn, [2.5, 97.5])


def advantage(runs):
    """Return by how much local families are ahead, on both variants, and the difference (L3)."""
    rows = []
    for key, part in runs.groupby(PANEL, sort=False):
        means = [
            part[part["arm"].isin(group)].groupby(["shuffled", "seed"])["accuracy"].mean()
            for group in (LOCAL, OTHERS)
        ]
        ahead = means[0] - means[1]
        row = dict(zip(PANEL, key, strict=True)) | {"n": part["seed"].nunique()}
        for column, name in ((0, "original"), (1, "shuffled")):
            found = mean_interval(ahead.loc[column])
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        found = paired(ahead.loc[0], ahead.loc[1], rng=np.random.default_rng(0))
        row |= {"lost": found.difference, "lost_low": found.low, "lost_high": found.high}
        rows.append(row | {"t_p": found.t_p})
    table = pd.DataFrame(rows)
    return table.assign(t_p_holm=adjusted(table["t_p"]))


def pairs(runs):
    """Return the planned differences between two families, paired by seed (L4)."""
    rows = []
    for key, part in runs.groupby([*PANEL, "shuffled"], sort=False):
        for a, b in PAIRS:
            both = [part[part["arm"] == arm].set_index("seed")["accuracy"] for arm in (a, b)]
            found = paired(*both, rng=np.random.default_rng(0))
            row = dict(zip([*PANEL, "shuffled"], key, strict=True)) | {"arm": a, "other": b}
            row |= {k: getattr(found, k) for k in ("n", "difference", "low", "high", "t_p")}
            rows.append(row | {"equal": max(-found.low, found.high) <= EQUAL})
    table = pd.DataFrame(rows)
    return table.assign(t_p_holm=adjusted(table["t_p"]))


def draw(families):
    """Draw accuracy against the normalised gap: sets below each other, variants side by side."""
    arms = list(dict.fromkeys(families["arm"]))
    densities = sorted(families["density"].unique())
    inside = ("white", (COLOURS[1], 0.4), COLOURS[2])  # so that they differ without colours, too
    looks = [
        {"color": colour, "mfc": filling, "ls": "", "ms": 5}
        for colour, filling in zip(COLOURS, inside, strict=False)
    ]
    with styled(size=(8.5, 6.5)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(2, 2, sharey="row", sharex=True)
        for (data, shuffled), ax in zip(
            itertools.product(("mnist", "fashion_mnist"), (0, 1)), axes.ravel(), strict=True
        ):
            part = families[(families["data"] == data) & (families["shuffled"] == shuffled)]
            for (i, arm), (j, density) in itertools.product(enumerate(arms), enumerate(densities)):
                own = part[(part["arm"] == arm) & (part["density"] == density)]
                options = {"marker": (*MARKERS, "<", ">", "*")[i], **looks[j]}
                ax.plot(own[MEASURES[0]], own["accuracy"], **options)
            ax.set_title(f"{data}, {'shuffled pixels' if shuffled else 'original pixels'}")
        for ax in axes[1]:
            ax.set_xlabel("normalised spectral gap, mean of fc1 and fc2")
        for ax in axes[:, 0]:
            ax.set_ylabel("accuracy, mean over seeds")
        lines = [
            axes[0, 0].plot([], [], (*MARKERS, "<", ">", "*")[i], color="#444444", label=arm)[0]
            for i, arm in enumerate(arms)
        ]
        lines += [
            axes[0, 0].plot([], [], marker="s", label=f"density {d:g}", **looks[j])[0]
            for j, d in enumerate(densities)
        ]
        page.legend(handles=lines, loc="outside lower center", ncols=5)
        save(axes[0, 0], HERE / "locality.png", dpi=150, metadata={"Software": "topokit"})


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", type=Path, nargs="*")
    runs = whole(collected(parser.parse_args().sweeps))
    print(f"seeds that are whole: {sorted(runs['seed'].unique())}")
    keys = KEYS[:-1]
    families = runs.groupby(keys, sort=False)[["accuracy", *MEASURES]].mean().reset_index()
    families.insert(4, "n", runs.groupby(keys, sort=False).size().to_numpy())
    write("locality_families", families)
    write("locality_correlations", correlations(families))
    write("locality_advantage", advantage(runs))
    write("locality_pairs", pairs(runs))
    draw(families)


if __name__ == "__main__":
    main()

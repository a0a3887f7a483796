"""Tables and the figure of ``structure_convergence``: when the structure of each rule settles.

    topokit sweep structure_convergence --data-dir DIR --out SWEEP
    python figures/studies/make_studies.py structure_convergence SWEEP...
    python figures/studies/make_studies.py structure_convergence

The first form adds the finished runs of sweeps to the rows of single runs, ``_layers.csv`` (each
layer's T), ``_accuracy.csv`` and ``_overlap.csv`` (log-spaced epochs); both make ``_rules.csv``,
``_pairs.csv``, ``_tests.csv`` (V1 to V3) and the figure from the rows of whole seeds. Hypotheses
and statistics are in PLAN.md. Intervals are 95 %: Student's t, for V3 a bootstrap.
"""

import itertools

import numpy as np
import pandas as pd
from rows import HERE, finished, merged, whole_seeds, write

from topokit.experiments.config import is_log_spaced
from topokit.experiments.record import History
from topokit.experiments.statistics import adjusted, mean_interval, paired, rank_correlation
from topokit.experiments.study import load_study
from topokit.graph import LayerGraph
from topokit.measures import structure_convergence
from topokit.plots.style import COLOURS, LINES, MARKERS, save
from topokit.plots.style import figure as styled

STUDY = "structure_convergence"
CELL = ["network", "schedule"]
KEYS = [*CELL, "arm", "seed"]
LEVELS = {"T70": 0.7, "T80": 0.8, "T90": 0.9}
LATE = 5  # last epochs over which accuracy is averaged
FIRST = "set"
READINGS = ("path_weight", "sensitivity", "weight_over_gradient", "gradient_over_weight")
CLAIMED = 7  # times sooner than SET, says the abstract of arXiv 2103.07674


def cores(topologies):
    """Yield the core of each epoch but the last: its edges that the next epoch has, too."""
    for before, after in itertools.pairwise(topologies):
        yield {
            name: LayerGraph.from_edge_ids(
                np.intersect1d(graph.edge_ids, after[name].edge_ids, assume_unique=True),
                graph.shape,
            )
            for name, graph in before.items()
        }


def settled(overlap, level, epochs):
    """Return T: the first epoch from which on no core's overlap with the next is below a level.

    Parameters
    ----------
    overlap : sequence of float
        Jaccard index of the core of epoch 0 and that of epoch 1, and so on.
    level : float
        In (0, 1].
    epochs : int
        Number of epochs of the run, which "not settled" counts as.
    """
    low = np.flatnonzero(~(np.asarray(overlap, float) >= level))
    first = int(low[-1]) + 1 if low.size else 0
    return first if first < len(overlap) else epochs


def collected(sweeps):
    """Return the rows of all runs known: of layers, of accuracies, and of overlaps over epochs."""
    layers, accuracies, overlaps = [], [], []
    for run, path in finished(load_study(STUDY), sweeps):
        history = History.load(path)
        accuracy = history.epochs["test_accuracy"].to_numpy()
        name = {"network": run.cell["case"], "schedule": run.cell["rule.schedule"]}
        name |= {"arm": run.arm, "seed": run.config.seed}
        name |= {"done": len(accuracy), "planned": run.config.epochs}
        late = {"A": accuracy[-LATE:].mean(), "last": accuracy[-1], "best": accuracy.max()}
        accuracies.append({**name, **late})
        found = structure_convergence(cores(history.topology(e) for e in history.recorded)).overlap
        edges = {layer: graph.n_edges for layer, graph in history.topology(0).items()}
        for layer, values in found.items():
            times = {key: settled(values, level, len(accuracy)) for key, level in LEVELS.items()}
            layers.append({**name, "layer": layer, "edges": edges[layer], **times})
        shares = [edges[layer] for layer in found]
        mean = np.average(list(found.values()), axis=0, weights=shares)
        for epoch in range(len(mean)):
            if is_log_spaced(epoch) or epoch == len(mean) - 1:
                overlaps.append({**name, "epoch": epoch, "overlap": mean[epoch]})
    tables = {"layers": layers, "accuracy": accuracies, "overlap": overlaps}
    return [
        merged(HERE / f"{STUDY}_{part}.csv", pd.DataFrame(rows), KEYS)
        for part, rows in tables.items()
    ]


def outcomes(layers, accuracy):
    """Return a row for each run: T at each level, a mean over layers weighted by edges, and A."""
    rows = []
    for key, part in layers.groupby(KEYS, sort=False):
        times = {name: np.average(part[name], weights=part["edges"]) for name in LEVELS}
        rows.append(dict(zip(KEYS, key, strict=True)) | times)
    return pd.DataFrame(rows).merge(accuracy[[*KEYS, "planned", "A"]], on=KEYS, how="left")


def rules(runs):
    """Return means over seeds with their intervals."""
    rows = []
    for key, part in runs.groupby([*CELL, "arm"], sort=False):
        row = dict(zip([*CELL, "arm"], key, strict=True)) | {"n": len(part)}
        for outcome in ("A", *LEVELS):
            found = mean_interval(part[outcome])
            row |= {outcome: found.mean, f"{outcome}_low": found.low, f"{outcome}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _of(part, arm, outcome):
    return part[part["arm"] == arm].set_index("seed")[outcome]


def pairs(runs):
    """Return what each rule has more than SET of each outcome, paired by seed."""
    tables = []
    for key, part in runs.groupby(CELL, sort=False):
        rows = []
        others = [arm for arm in dict.fromkeys(part["arm"]) if arm != FIRST]
        for arm, outcome in itertools.product(others, ("A", *LEVELS)):
            own = _of(part, arm, outcome)
            found = paired(own, _of(part, FIRST, outcome)[own.index], rng=np.random.default_rng(0))
            numbers = ("n", "difference", "low", "high", "t_p")
            row = dict(zip(CELL, key, strict=True)) | {"arm": arm, "outcome": outcome}
            rows.append(row | {k: getattr(found, k) for k in numbers})
        table = pd.DataFrame(rows)
        tables.append(table.assign(t_p_holm=adjusted(table["t_p"])))
    return pd.concat(tables, ignore_index=True)


def tests(runs):
    """Return what the hypotheses V1 to V3 ask."""
    rows = [*_sooner(runs), *_spread(runs), *_relation(runs)]
    return pd.DataFrame(rows)


def ratios(part, arm):
    """Return T(0.8) of SET over that of a rule, by seed; infinite where the rule's is 0."""
    own = _of(part, arm, "T80")
    with np.errstate(divide="ignore", invalid="ignore"):
        return _of(part, FIRST, "T80")[own.index] / own


def _sooner(runs):
    """Yield how many times sooner than SET each reading settles (V1)."""
    for network, part in runs[runs["schedule"] == "constant"].groupby("network", sort=False):
        for arm in READINGS:
            if arm not in set(part["arm"]):
                continue
            values = ratios(part, arm)
            row = {"hypothesis": "V1", "network": network, "arm": arm, "n": len(values)}
            if not np.isfinite(values).all():  # it is at once settled: no ratio to bound
                yield row | {"value": values.mean(), "holds": False}
                continue
            found = mean_interval(values)
            row |= {"value": found.mean, "low": found.low, "high": found.high}
            yield row | {"holds": bool(found.high < CLAIMED)}


def _spread(runs):
    """Yield by how much T(0.8) spreads less over rules under the cosine (V2)."""
    for network, part in runs.groupby("network", sort=False):
        cells = {"index": "seed", "columns": "schedule", "values": "T80"}
        spread = part.pivot_table(**cells, aggfunc="std")
        if not {"constant", "cosine"} <= set(spread.columns):
            continue
        spread = spread.dropna()
        found = paired(spread["cosine"], spread["constant"], rng=np.random.default_rng(0))
        cosine = part[part["schedule"] == "cosine"]
        every = bool((cosine["T80"] < cosine["planned"]).all())
        row = {"hypothesis": "V2", "network": network, "n": found.n, "value": found.difference}
        row |= {"low": found.low, "high": found.high, "p": found.t_p}
        yield row | {"all_settle": every, "holds": every and bool(found.high < 0)}


def _relation(runs):
    """Yield the rank correlation of T(0.8) and A over the means of the rules (V3)."""
    means = runs.groupby([*CELL, "arm"], sort=False)[["T80", "A"]].mean().reset_index()
    cells = means["network"] + ", " + means["schedule"]
    for cell, part in [*means.groupby(cells, sort=False), ("all, within each", means)]:
        strata = cells[part.index]
        found = rank_correlation(part["T80"], part["A"], strata=strata, rng=0)
        row = {"hypothesis": "V3", "network": cell, "n": found.n, "value": found.rho}
        yield row | {"low": found.low, "high": found.high, "p": found.p}
    if len(set(means.groupby(cells)["arm"].agg(frozenset))) > 1:
        return  # networks differ in their rules
    options = {"strata": cells, "clusters": means["arm"], "rng": 0}
    whole = rank_correlation(means["T80"], means["A"], **options)
    row = {"hypothesis": "described", "network": "all, rules as units", "n": means["arm"].nunique()}
    yield row | {"value": whole.rho, "low": whole.low, "high": whole.high, "p": whole.p}


def draw(overlap, runs):
    """Draw the overlap over epochs, and accuracy against T(0.8), for each network and schedule."""
    cells = list(dict.fromkeys(zip(runs["network"], runs["schedule"], strict=True)))
    arms = [arm for arm in load_study(STUDY).arms if arm in set(runs["arm"])]
    marks = (*MARKERS, "*")
    looks = {
        arm: {"color": COLOURS[i % 7], "ls": LINES[i % 6], "marker": marks[i], "ms": 4, "lw": 1.2}
        for i, arm in enumerate(arms)
    }
    with styled(size=(3.6 * len(cells), 6.2)) as first:
        page = first.get_figure()
        first.remove()
        axes = page.subplots(2, len(cells), squeeze=False)
        for (above, below), (network, schedule) in zip(axes.T, cells, strict=True):
            for arm, look in looks.items():
                own = [
                    table[
                        (table["network"] == network)
                        & (table["schedule"] == schedule)
                        & (table["arm"] == arm)
                    ]
                    for table in (overlap, runs)
                ]
                mean = own[0].groupby("epoch")["overlap"].mean()
                above.plot(mean.index + 1, mean, **look | {"marker": ""})
                below.plot(own[1]["T80"], own[1]["A"], **look | {"ls": ""})
            n = runs[(runs["network"] == network) & (runs["schedule"] == schedule)]["seed"]
            words = f"{network}, {schedule}\nmeans of {n.nunique()} seeds"
            above.set(xscale="log", xlabel="epoch + 1", ylim=(0, 1.02), title=words)
            below.set(xlabel="T(0.8), each point a run")
        axes[0, 0].set_ylabel("overlap of successive cores")
        axes[1, 0].set_ylabel("accuracy, last five epochs")
        both = [axes[0, 0].plot([], [], label=arm, **look)[0] for arm, look in looks.items()]
        page.legend(handles=both, loc="outside lower center", ncols=5)
        save(axes[0, 0], HERE / f"{STUDY}.png", dpi=150, metadata={"Software": "topokit"})


def make(sweeps):
    """Write the tables and the figure, with the runs of sweeps added to those that are here."""
    layers, accuracy, overlap = collected(sweeps)
    planned = {}
    for run in load_study(STUDY).runs():
        planned.setdefault(run.cell["case"], set()).add(run.arm)
    layers, overlap = (whole_seeds(t, planned.__getitem__, CELL) for t in (layers, overlap))
    runs = outcomes(layers, accuracy)
    draw(overlap, runs)
    write(f"{STUDY}_tests", tests(runs))
    write(f"{STUDY}_pairs", pairs(runs))
    write(f"{STUDY}_rules", rules(runs))

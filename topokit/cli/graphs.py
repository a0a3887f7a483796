"""Commands on graphs: ``analyze``, ``generate`` and ``list``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topokit.cli import console
from topokit.cli.options import (
    Json,
    MaybeWhole,
    Plugins,
    Settings,
    Whole,
    comma_separated,
    words_of,
)
from topokit.plugins import load_plugins
from topokit.tables import choose

if TYPE_CHECKING:
    import pandas as pd

    from topokit.generators import Description
    from topokit.graph import Topology

__all__ = ["analyze", "generate", "list_"]

KEPT = {
    "exact": "graphs with the same degrees",
    "expected": "graphs with the same degrees on average",
    "erdos_renyi": "random graphs with the same number of edges",
}


def analyze(
    target: Path,
    /,
    *,
    measures: str | None = None,
    epoch: MaybeWhole = None,
    bootstrap: MaybeWhole = None,
    deep: bool = False,
    nulls: Whole = 0,
    null_model: str | None = None,
    seed: MaybeWhole = None,
    transpose: bool | None = None,
    entry: str | None = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Measure the graphs of a run, topology, matrix, checkpoint or GraphML file.

    Parameters
    ----------
    target
        RUN, or a file of a format in 'topokit list formats'.
    measures
        Comma-separated names from 'topokit list measures', or 'all'; by default the core
        measures. For a run also explored_fraction and edge_age.
    epoch
        A recorded epoch of a run, by default the last; -2 is the last but one.
    bootstrap
        Number of replicates for the power-law p-values, by default 100; 0 skips them.
    deep
        Also report every step of the scale-free test for each layer and side: distance from a
        random layer, tail indices, four distributions fitted to all degrees, tiers.
    nulls
        Number of null samples for z-scores and p-values of the size-dependent measures; 0 skips
        them.
    null_model
        What null samples keep of a layer: the degrees, 'exact' (the default) or 'expected' (on
        average), or the number of edges alone, 'erdos_renyi'.
    seed
        Seed of the bootstrap and of the null samples, by default 0.
    transpose
        Matrices of the file have input units as rows, as the SET authors' files do.
    entry
        Which state dict or array of a file that holds several.
    """
    from topokit.plots.report import verdict_sentences
    from topokit.read import read_topologies

    load_plugins(plugin or ())
    names = _measure_names(measures)
    fits = names is None or any(name.startswith(("power_law", "core")) for name in names)
    if epoch is not None and target.is_file():
        raise ValueError(f"--epoch: expected a run, whose epochs are recorded, {target} is a file")
    if bootstrap is not None and not (fits or deep):
        raise ValueError(f"--bootstrap: no fit of a power law is asked for with {measures}")
    if deep and bootstrap == 0:
        raise ValueError("--bootstrap: expected at least 1 with --deep, got 0")
    if seed is not None and not (deep or nulls or (fits and bootstrap != 0)):
        raise ValueError("--seed: nothing is drawn at random without bootstrap or null samples")
    if null_model is not None and not nulls:
        raise ValueError("--null-model: expected the number of null samples, too: --nulls 100")
    null_model = null_model or "exact"
    choose("null model", null_model, KEPT)
    bootstrap, seed = 100 if bootstrap is None else bootstrap, seed or 0
    epoch = -1 if epoch is None else epoch
    topology, previous, about = read_topologies(target, epoch, transpose=transpose, entry=entry)
    frame = _measured(target, topology, previous, names, epoch)
    found: dict[str, Any] = {"target": str(target), **about}
    found |= {"measures": frame.to_dict("records"), "verdicts": []}
    if deep:
        found |= _deep(topology, bootstrap, seed)
    elif fits:
        found["verdicts"] = verdict_sentences(topology, bootstrap=bootstrap, seed=seed)
    if nulls:
        found["nulls"] = _null_rows(topology, nulls, seed, null_model)
    if json:
        console.print_json(found)
    else:
        _print_analysis(found, frame, measures)
        if nulls:
            _print_nulls(found["nulls"], nulls, null_model)
        console.print_sentences(found["verdicts"])
        if deep:
            console.say(f"all layers and sides together: {found['tier']}")
    return 0


def _measured(
    target: Path,
    topology: Topology,
    previous: Topology | None,
    names: list[str] | None,
    epoch: int,
) -> pd.DataFrame:
    """Return measures of a topology, and those that need several epochs of the run."""
    import pandas as pd

    from topokit.measures import measure
    from topokit.read import RUN_MEASURES, run_rows

    of_run = [name for name in names or () if name in RUN_MEASURES]
    others = None if names is None else [name for name in names if name not in of_run]
    frame = measure(topology, others, previous=previous)
    if not of_run:
        return frame
    rows = pd.DataFrame(run_rows(target, of_run, epoch), columns=frame.columns)
    return pd.concat([frame, rows], ignore_index=True) if len(frame) else rows


def _print_analysis(found: dict[str, Any], frame: pd.DataFrame, measures: str | None) -> None:
    """Print notes on how a file was read, and the measures."""
    for sentence in found.get("notes", ()):
        console.note(f"note: {sentence}")
    of_epoch = f", epoch {found['epoch']}" if "epoch" in found else ""
    if len(frame) or measures is None:
        console.print_measures(frame, title=f"{found['target']}{of_epoch}")
    elif not found["verdicts"]:
        console.note(
            f"nothing to show of {found['target']}{of_epoch}: {measures} compares with an earlier "
            "epoch, and there is none"
        )


def _print_nulls(rows: list[dict[str, Any]], samples: int, null_model: str) -> None:
    """Print the comparison with null samples, and what its numbers are."""
    console.print_rows(rows, title=f"against {samples} null samples, {KEPT[null_model]}")
    scored = sum(not math.isnan(row["p_value"]) for row in rows)
    console.say(
        f"z is (value - null_mean) / null_sd; two-sided p-values by rank, at least "
        f"{2 / (samples + 1):.2g} with {samples} samples; {scored} tests, no correction for their "
        "number"
    )


def _measure_names(measures: str | None) -> list[str] | None:
    """Return the names asked for, or None for the core measures."""
    if measures is None:
        return None
    if measures.strip() == "all":
        from topokit.measures import CHANGE_MEASURES, LAYER_MEASURES, NETWORK_MEASURES

        return [*LAYER_MEASURES, *NETWORK_MEASURES, *CHANGE_MEASURES]
    return comma_separated(measures)


def _deep(topology: Topology, bootstrap: int, seed: int) -> dict[str, Any]:
    """Return the degree reports of all layers and sides, the verdicts, and the joint tier."""
    import dataclasses

    from topokit.measures import degree_report, scale_free_tier
    from topokit.measures.scalefree import bootstrap_stream

    rows, fits, sentences = [], [], []
    for i, (layer, graph) in enumerate(topology.items()):
        for side in ("fan_in", "fan_out"):
            rng = bootstrap_stream(seed, i, side)
            report = degree_report(graph, side, bootstrap=bootstrap, rng=rng)
            fits.append(report.fit)
            numbers = dataclasses.asdict(report)
            for key, value in numbers.items():
                if hasattr(value, "_asdict"):
                    numbers[key] = value._asdict()
            numbers["fit"]["comparisons"] = {
                name: ratio._asdict() for name, ratio in report.fit.comparisons.items()
            }
            rows.append({"layer": layer, **numbers})
            words = {"layer": layer, "side": side.replace("_", "-"), "verdict": report.fit.verdict}
            sentences.append({**words, "sentence": report.sentence})
    return {"degrees": rows, "verdicts": sentences, "tier": scale_free_tier(fits)}


def _null_rows(topology: Topology, samples: int, seed: int, null: str) -> list[dict[str, Any]]:
    """Return the null scores of every layer as rows."""
    import numpy as np

    from topokit.measures.nulls import null_scores

    rows = []
    for i, (layer, graph) in enumerate(topology.items()):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i, 2)))
        for name, score in null_scores(graph, twins=samples, null=null, rng=rng).items():
            rows.append({"layer": layer, "measure": name, **score._asdict()})
    return rows


def generate(
    generator: str,
    /,
    *,
    widths: str,
    density: float | None = None,
    epsilon: float | None = None,
    densities: str | None = None,
    seed: Whole = 0,
    out: Path | None = None,
    settings: Settings | None = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Generate a topology and report its edges, degrees, repairs and guarantee.

    Parameters
    ----------
    generator
        A name from 'topokit list generators'.
    widths
        Units of each layer, input first: 784,1000,10.
    density
        Share of possible edges; alternatively give --epsilon.
    epsilon
        Density as in the SET papers: epsilon (n_in + n_out) / (n_in n_out) in each layer.
    densities
        How the edges are divided among the layers, a name from 'topokit list densities'.
    seed
        Seed of the random generator.
    out
        File for the topology (.npz); by default it is not saved.
    settings
        Parameters of the generator: KEY=VALUE ..., e.g. beta=0.3.
    """
    import dataclasses

    import numpy as np

    from topokit.experiments.config import parse_settings
    from topokit.generators import describe
    from topokit.generators import generate as generate_topology
    from topokit.graph.convert import save_topology, suffix_of

    if out is not None:
        suffix_of(out)
    load_plugins(plugin or ())
    try:
        sizes = [int(width) for width in widths.split(",")]
    except ValueError:
        raise ValueError(f"expected --widths like 784,1000,10, got {widths!r}") from None
    rng = np.random.default_rng(seed)
    topology = generate_topology(
        sizes,
        generator,
        density=density,
        epsilon=epsilon,
        densities=densities,
        rng=rng,
        **parse_settings(words_of("--set", settings)),
    )
    if out is not None:
        save_topology(out, topology)
    facts = {layer: describe(graph) for layer, graph in topology.items()}
    if json:
        layers = [{"layer": layer, **dataclasses.asdict(fact)} for layer, fact in facts.items()]
        console.print_json({"generator": generator, "seed": seed, "layers": layers})
    else:
        rows = [_described(layer, fact) for layer, fact in facts.items()]
        console.print_rows(rows, title=f"{generator}, seed {seed}")
        console.say(f"guarantee: {next(iter(facts.values())).guarantee or 'none stated'}")
        for layer, fact in facts.items():
            console.say(f"{layer} repairs: {'; '.join(fact.repairs) or 'none'}")
        if out is not None:
            console.note(f"written to {out}; next: topokit analyze {console.shown(out)}")
    return 0


def _described(layer: str, facts: Description) -> dict[str, Any]:
    """Return the description of a generated layer as a row."""
    return {
        "layer": layer,
        "n_in": facts.n_in,
        "n_out": facts.n_out,
        "requested": "" if facts.requested_edges is None else facts.requested_edges,
        "edges": facts.n_edges,
        "density": facts.density,
        "fan_in": "-".join(map(str, facts.fan_in)),
        "fan_out": "-".join(map(str, facts.fan_out)),
        "components": facts.components,
        "sigma_2": facts.sigma_2,
        "bound": facts.bound,
    }


def list_(
    table: str | None = None,
    name: str | None = None,
    /,
    *,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """List generators, initial topologies, rules, measures, plots, data sets, recipes and more.

    Parameters
    ----------
    table
        The name of one table; by default all tables, with the numbers of their entries.
    name
        One entry of it, to read all about.
    """
    from topokit.cli.catalogue import NOTES, TABLES, about, rows_of

    load_plugins(plugin or ())
    if table is None:
        if json:
            console.print_json({each: rows_of(each) for each in TABLES})
            return 0
        counts = [{"table": each, "entries": len(entries())} for each, entries in TABLES.items()]
        console.print_rows(counts, title="tables")
        console.say("next: topokit list TABLE, and topokit list TABLE NAME for one entry")
        return 0
    if table not in TABLES and (homes := [each for each in TABLES if table in TABLES[each]()]):
        commands = " or ".join(f"topokit list {each} {table}" for each in homes)
        raise ValueError(f"{table!r} is no table, but in one: {commands}")
    choose("table", table, TABLES)
    if name is not None:
        row, text = about(table, name)
        if json:
            console.print_json(row)
        else:
            console.say(text)
        return 0
    rows = rows_of(table)
    if json:
        console.print_json(rows)
        return 0
    short: list[dict[str, Any]] = [
        {key: row[key] for key in ("name", "scope", "what") if key in row} for row in rows
    ]
    for row, brief in zip(rows, short, strict=True):
        brief["what"] += f" [{row['parameters']}]" if row.get("parameters") else ""
    console.print_rows(short, title=table)
    if table in NOTES:
        console.say(NOTES[table]())
    return 0

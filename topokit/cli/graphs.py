"""Commands about graphs: ``analyze``, ``generate`` and ``list``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topokit import console
from topokit.cli.options import Json, Plugins, Settings, import_plugins

__all__ = ["analyze", "generate", "list_"]


def analyze(
    target: Path,
    /,
    *,
    measures: str | None = None,
    epoch: int = -1,
    bootstrap: int = 100,
    seed: int = 0,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Measure the graphs of a run, topology, matrix, checkpoint or GraphML file.

    Parameters
    ----------
    target
        RUN, TOPOLOGY.npz, MATRIX.npz, .mtx, CHECKPOINT.pt, .safetensors or GRAPH.graphml.
    measures
        Comma-separated names from 'topokit list measures'; by default the core measures.
    epoch
        Which epoch of a run; -1 is the last.
    bootstrap
        Replicates behind the power-law p-value in the verdicts; 0 skips the p-value.
    seed
        Seed of the bootstrap.
    """
    from topokit.measures import measure
    from topokit.read import read_topologies
    from topokit.report import verdict_sentences

    import_plugins(plugin)
    names = [name.strip() for name in measures.split(",") if name.strip()] if measures else None
    topology, previous, about = read_topologies(target, epoch)
    frame = measure(topology, names, previous=previous)
    wanted = names is None or any(name.startswith("power_law") for name in names)
    verdicts = verdict_sentences(topology, bootstrap=bootstrap, seed=seed) if wanted else []
    if json:
        console.print_json(
            {
                "target": str(target),
                **about,
                "measures": frame.to_dict("records"),
                "verdicts": verdicts,
            }
        )
    else:
        console.print_measures(frame, title=f"{target}" + _of_epoch(about))
        console.print_sentences(verdicts)
    return 0


def generate(
    generator: str,
    /,
    *,
    widths: str,
    density: float | None = None,
    epsilon: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    settings: Settings | None = None,
    plugin: Plugins | None = None,
    json: Json = False,
) -> int:
    """Generate a topology and describe it.

    Parameters
    ----------
    generator
        A name from 'topokit list generators'.
    widths
        Units of each layer, input first: 784,1000,10.
    density
        Share of possible edges; or give --epsilon.
    epsilon
        SET's budget: density = epsilon (n_in + n_out) / (n_in n_out) in each layer.
    out
        Where to write the topology (.npz).
    """
    import numpy as np

    from topokit.config import parse_settings
    from topokit.convert import save_topology
    from topokit.generators import generate as generate_topology

    import_plugins(plugin)
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
        rng=rng,
        **parse_settings(settings or []),
    )
    if out is not None:
        save_topology(out, topology)
    rows = console.topology_rows(topology)
    if json:
        console.print_json({"generator": generator, "seed": seed, "layers": rows})
    else:
        console.print_rows(rows, title=f"{generator}, seed {seed}")
        if out is not None:
            console.note(f"written to {out}; next: topokit analyze {out}")
    return 0


def list_(table: str | None = None, /, *, plugin: Plugins | None = None, json: Json = False) -> int:
    """List what there is: generators, rules, measures, plots, data sets, models, recipes.

    Parameters
    ----------
    table
        One table; by default a summary of all.
    """
    from topokit.catalogue import TABLES, rows_of
    from topokit.config import choose

    import_plugins(plugin)
    names = list(TABLES) if table is None else [table]
    for name in names:
        choose("table", name, TABLES)
    listing = {name: rows_of(name) for name in names}
    if json:
        console.print_json(listing if table is None else listing[table])
    else:
        for name, rows in listing.items():
            console.print_rows(rows, title=name)
    return 0


def _of_epoch(about: dict[str, Any]) -> str:
    return f", epoch {about['epoch']}" if "epoch" in about else ""

"""Measures by name, of layers, networks and changes; and `measure`, which computes them.

This package holds measures of degrees, spectra, connectivity, structure, weights and change, the
power-law fit and its verdict, and scores against null samples. To add a measure, write the function
in the module of its kind and add a line to `LAYER_MEASURES`, `NETWORK_MEASURES` or
`CHANGE_MEASURES`. Imports from `graph`, and from `generators` for null samples; never torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from numpy import iscomplexobj

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.graph.convert import GraphLike, as_topology, topology_and_previous
from topokit.measures.change import (
    expected_explored_fraction,
    expected_jaccard,
    explored_fraction,
    jaccard,
    jaccard_excess,
    kept_core,
    structure_convergence,
    survival_curve,
    topology_distance,
    turnover,
)
from topokit.measures.connectivity import (
    active_flow,
    components,
    distances,
    efficiency,
    giant_share,
    network_components,
    network_giant_share,
    robustness,
    robustness_curve,
)
from topokit.measures.degree import (
    ccdf,
    dispersion_test,
    evenness_fan_in,
    evenness_fan_out,
    fan_in,
    fan_out,
    gini,
)
from topokit.measures.degree_report import (
    TIERS,
    DegreeReport,
    binomial_distance,
    degree_report,
    full_support_aic,
    scale_free_tier,
    set_style_correlation,
    tail_index,
)
from topokit.measures.expansion import (
    imdb,
    mixing_certificate,
    percolation,
    sweep_cut,
    universal_cover_margin,
)
from topokit.measures.rivals import LikelihoodRatio
from topokit.measures.scalefree import (
    VERDICTS,
    PowerLawFit,
    describe_fit,
    fit_power_law,
    power_law,
    power_law_fan_out,
    power_law_of,
)
from topokit.measures.spectral import (
    algebraic_connectivity,
    algebraic_connectivity_giant,
    network_algebraic_connectivity,
    network_normalized_gap,
    network_spectral_gap,
    normalized_spectral_gap,
    ramanujan_margin,
    singular_values,
    spectral_gap,
)
from topokit.measures.structure import (
    assortativity,
    barber_modularity,
    butterflies,
    find_communities,
    hub_alignment,
    nestedness,
    pair_clustering,
    rich_club,
    robins_alexander,
)
from topokit.measures.weighted import (
    path_kernel_trace,
    path_norm,
    spectrum_exponent,
    strengths,
    synflow_saliency,
    synflow_score,
    weighted_gaps,
)
from topokit.plugins import core_measures, place_of, table_for
from topokit.tables import Table, hint, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CHANGE_MEASURES",
    "CORE",
    "LAYER_MEASURES",
    "NETWORK",
    "NETWORK_MEASURES",
    "TIERS",
    "VERDICTS",
    "DegreeReport",
    "LikelihoodRatio",
    "PowerLawFit",
    "active_flow",
    "algebraic_connectivity",
    "algebraic_connectivity_giant",
    "assortativity",
    "barber_modularity",
    "binomial_distance",
    "butterflies",
    "ccdf",
    "components",
    "degree_report",
    "describe_fit",
    "dispersion_test",
    "distances",
    "efficiency",
    "evenness_fan_in",
    "evenness_fan_out",
    "expected_explored_fraction",
    "expected_jaccard",
    "explored_fraction",
    "fan_in",
    "fan_out",
    "find_communities",
    "fit_power_law",
    "full_support_aic",
    "giant_share",
    "gini",
    "hub_alignment",
    "imdb",
    "jaccard",
    "jaccard_excess",
    "kept_core",
    "measure",
    "mixing_certificate",
    "nestedness",
    "network_algebraic_connectivity",
    "network_components",
    "network_giant_share",
    "network_normalized_gap",
    "network_spectral_gap",
    "normalized_spectral_gap",
    "pair_clustering",
    "path_kernel_trace",
    "path_norm",
    "percolation",
    "power_law",
    "power_law_fan_out",
    "power_law_of",
    "prepare",
    "ramanujan_margin",
    "rich_club",
    "robins_alexander",
    "robustness",
    "robustness_curve",
    "scale_free_tier",
    "set_style_correlation",
    "singular_values",
    "spectral_gap",
    "spectrum_exponent",
    "strengths",
    "structure_convergence",
    "survival_curve",
    "sweep_cut",
    "synflow_saliency",
    "synflow_score",
    "tail_index",
    "topology_distance",
    "turnover",
    "universal_cover_margin",
    "weighted_gaps",
]

LAYER_MEASURES: dict[str, Callable[[Any], Any]] = {
    "fan_in": fan_in,
    "fan_out": fan_out,
    "evenness_fan_in": evenness_fan_in,
    "evenness_fan_out": evenness_fan_out,
    "power_law": power_law,
    "power_law_fan_out": power_law_fan_out,
    "spectral_gap": spectral_gap,
    "normalized_spectral_gap": normalized_spectral_gap,
    "ramanujan_margin": ramanujan_margin,
    "algebraic_connectivity": algebraic_connectivity,
    "algebraic_connectivity_giant": algebraic_connectivity_giant,
    "components": components,
    "giant_share": giant_share,
    "universal_cover_margin": universal_cover_margin,
    "imdb": imdb,
    "mixing_certificate": mixing_certificate,
    "percolation": percolation,
    "butterflies": butterflies,
    "robins_alexander": robins_alexander,
    "pair_clustering": pair_clustering,
    "assortativity": assortativity,
    "nestedness": nestedness,
    "rich_club": rich_club,
    "efficiency": efficiency,
    "distances": distances,
    "robustness": robustness,
}
LAYER_MEASURES = Table("measure", LAYER_MEASURES)

NETWORK_MEASURES: dict[str, Callable[[Any], Any]] = {
    "network_spectral_gap": network_spectral_gap,
    "network_normalized_gap": network_normalized_gap,
    "algebraic_connectivity": network_algebraic_connectivity,
    "components": network_components,
    "giant_share": network_giant_share,
    "active_flow": active_flow,
    "hub_alignment": hub_alignment,
}
NETWORK_MEASURES = Table("measure", NETWORK_MEASURES)

CHANGE_MEASURES: dict[str, Callable[[EdgeUpdate], Any]] = {
    "turnover": turnover,
    "jaccard": jaccard,
    "jaccard_excess": jaccard_excess,
}
CHANGE_MEASURES = Table("measure", CHANGE_MEASURES)


CORE: tuple[str, ...] = (
    "fan_in",
    "fan_out",
    "evenness_fan_in",
    "evenness_fan_out",
    "power_law",
    "power_law_fan_out",
    "spectral_gap",
    "normalized_spectral_gap",
    "ramanujan_margin",
    "algebraic_connectivity",
    "algebraic_connectivity_giant",
    "components",
    "giant_share",
    "active_flow",
    "turnover",
    "jaccard",
)
"""Names measured every epoch."""

NETWORK = "network"
"""Name in the column ``layer`` for measures of the whole network."""


def _rows(
    layer: str, name: str, value: Any, function: Callable[..., Any]
) -> list[tuple[str, str, float]]:
    """Return the rows of one value; a tuple is flattened to one row for each field."""
    fields = getattr(value, "_fields", None)
    parts = [value] if fields is None else list(value)
    for part in parts:
        if not (isinstance(part, Real) or getattr(part, "ndim", None) == 0) or iscomplexobj(part):
            raise TypeError(
                f"measure {name!r}{place_of(function)}: expected a number or a named tuple of "
                f"numbers, got {type(value).__name__}{'' if part is value else f' {value!r}'}"
            )
    names = [name] if fields is None else [f"{name}.{field}" for field in fields]
    return [(layer, each, float(part)) for each, part in zip(names, parts, strict=True)]


def _tables(
    names: Iterable[Any],
) -> tuple[list[str], dict[str, dict[str, Callable[[Any], Any]]]]:
    """Return names, "core" and functions replaced by theirs, and the tables with the functions."""
    tables: dict[str, dict[str, Callable[[Any], Any]]] = {
        "layer": LAYER_MEASURES, "network": NETWORK_MEASURES, "change": CHANGE_MEASURES
    }  # fmt: skip
    found: list[str] = []
    own: dict[str, Callable[[Any], Any]] = {}
    for name in names:
        known = [key for table in tables.values() for key, f in table.items() if f is name]
        if name == "core":
            found += [*CORE, *core_measures()]
        elif not callable(name) or known:
            found.append(known[0] if known else name)
        else:
            key = getattr(name, "__name__", type(name).__name__)
            if own.setdefault(key, name) is not name:
                raise ValueError(f"names: expected functions of different names, got two {key!r}")
            of = table_for("measure", key, name)
            tables = {
                scope: {k: f for k, f in table.items() if k != key}
                for scope, table in tables.items()
            }
            tables[of][key] = name
            found.append(key)
    return list(dict.fromkeys(found)), tables


def _check(names: Iterable[Any], tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a ValueError if a name is in no table, or a measure lacks the field named."""
    known = sorted({name for table in tables.values() for name in table})
    for name in names:
        base, _, field = name.partition(".") if isinstance(name, str) else (name, "", "")
        if base not in known:
            raise ValueError(f"unknown measure {name!r}; {nearest('measure', base, known)}")
        if field and field not in (fields := _fields(base, tables)):
            raise ValueError(
                f"unknown field {field!r} of measure {base!r}; {hint(field, fields)}"
                f"fields: {', '.join(fields) or 'none'}"
            )


def _fields(name: str, tables: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the fields of a measure whose value is a named tuple; none for others."""
    tiny = LayerGraph.from_edge_ids([0], (1, 1))
    arguments = {"layer": tiny, "network": {"fc1": tiny}, "change": EdgeUpdate.between(tiny, tiny)}
    found: list[str] = []
    for of, table in tables.items():
        if name in table:
            found += getattr(table[name](arguments[of]), "_fields", ())
    return tuple(found)


def measure(
    topology: GraphLike,
    names: Iterable[str | Callable[..., Any]] | str | Callable[..., Any] | None = None,
    *,
    previous: GraphLike | None = None,
    changes: Mapping[str, EdgeUpdate] | None = None,
) -> pd.DataFrame:
    """Return measures of every layer, of the whole network, and of the change since `previous`.

    Parameters
    ----------
    topology : dict of LayerGraph
        Or whatever `topokit.graph.convert.as_topology` reads: one layer's graph, a model or its
        state dict, the path of a file. A run is measured at its last recorded epoch and, unless
        `previous` is given, compared with the epoch recorded before.
    names : iterable of str or callable, optional
        Names in the tables `LAYER_MEASURES`, `NETWORK_MEASURES` and `CHANGE_MEASURES` (a name
        in several tables selects all of them), a single field such as ``"power_law.alpha"``, or
        functions of one's own, such as ``f(graph) -> float`` (for which of the tables is decided
        as in ``topokit.register.measure``). ``"core"``, the default, stands for `CORE` and the
        measures registered.
    previous : dict of LayerGraph, optional
        The topology recorded before. Layers that are missing in it, or have another shape there,
        get no rows of change.
    changes : mapping of str to EdgeUpdate, optional
        The change of each layer since the topology before, where it is known; edges in both count
        as kept. By default found by comparing with `previous`.

    Returns
    -------
    pandas.DataFrame
        Columns ``layer``, ``measure``, ``value`` (float64, ``nan`` where undefined). First the
        layers in order, then the layer ``"network"``, then the changes of the layers. Tuples
        are flattened: ``fan_in.mean``.

    Raises
    ------
    ValueError
        If a name is in no table; the message suggests the nearest names.
    TypeError
        If a measure returns no number.

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> frame = measure({"fc1": dense}, ["fan_in.mean", "components"])
    >>> frame.to_dict("split")["data"]
    [['fc1', 'fan_in.mean', 3.0], ['fc1', 'components', 1.0], ['network', 'components', 1.0]]
    >>> def share_of_hubs(graph):
    ...     return (graph.fan_out > 1).mean()
    >>> measure({"fc1": dense}, [share_of_hubs])["value"].tolist()
    [1.0]
    """
    import pandas as pd

    topology, before = topology_and_previous(topology)
    earlier = before if previous is None else as_topology(previous)
    if names is None or isinstance(names, str) or callable(names):
        names = ["core" if names is None else names]
    wanted, tables = _tables(names)
    _check(wanted, tables)
    bases = list(dict.fromkeys(name.split(".")[0] for name in wanted))
    whole = {name for name in wanted if "." not in name}
    rows: list[tuple[str, str, float]] = []

    def take(of: str, layer: str, argument: Any) -> None:
        table = tables[of]
        for base in bases:
            if base in table:
                found = _rows(layer, base, table[base](argument), table[base])
                rows.extend(row for row in found if base in whole or row[1] in wanted)

    for layer, graph in topology.items():
        take("layer", layer, graph)
    take("network", NETWORK, topology)
    for layer, graph in topology.items():
        old = None if earlier is None else earlier.get(layer)
        if changes is not None and layer in changes:
            take("change", layer, changes[layer])
        elif old is not None and old.shape == graph.shape:
            take("change", layer, EdgeUpdate.between(old, graph))
    return pd.DataFrame(rows, columns=["layer", "measure", "value"]).astype({"value": float})


def prepare(names: Iterable[str] | None = None) -> None:
    """Compile what measures need by measuring a small network, so that later calls are fast.

    Parameters
    ----------
    names : iterable of str, optional
        As for `measure`. Cost about 50 ms, and some seconds once after an installation.

    Examples
    --------
    >>> prepare(["spectral_gap"])
    """
    import numpy as np

    n = 160  # beyond dense linear algebra
    unit = np.arange(n)
    ring = np.concatenate([unit * n + (unit + step) % n for step in (0, 1, 5)])
    graph = LayerGraph.from_edge_ids(np.union1d(ring, unit[: n // 2]), (n, n))
    network = {"fc1": graph, "fc2": graph}
    measure(network, names, previous=network)

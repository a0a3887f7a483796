"""Measures by name, of layers, networks and changes; and `measure`, which computes them.

This package holds measures of degrees, spectra, connectivity, structure, weights and change, the
power-law fit and its verdict, and scores against null samples. To add a measure, write the function
in the module of its kind and add a line to `LAYER_MEASURES`, `NETWORK_MEASURES` or
`CHANGE_MEASURES`. Imports from `graph`, and from `generators` for null samples; never torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

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
from topokit.tables import hint, listed

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

NETWORK_MEASURES: dict[str, Callable[[Any], Any]] = {
    "network_spectral_gap": network_spectral_gap,
    "network_normalized_gap": network_normalized_gap,
    "algebraic_connectivity": network_algebraic_connectivity,
    "components": network_components,
    "giant_share": network_giant_share,
    "active_flow": active_flow,
    "hub_alignment": hub_alignment,
}

CHANGE_MEASURES: dict[str, Callable[[EdgeUpdate], Any]] = {
    "turnover": turnover,
    "jaccard": jaccard,
    "jaccard_excess": jaccard_excess,
}


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


def _rows(layer: str, name: str, value: Any) -> Iterable[tuple[str, str, float]]:
    """Yield the rows of one value; a tuple is flattened to one row for each field."""
    fields = getattr(value, "_fields", None)
    if fields is None:
        yield layer, name, float(value)
    else:
        for field, part in zip(fields, value, strict=True):
            yield layer, f"{name}.{field}", float(part)


def _check(names: Iterable[str]) -> None:
    """Raise a ValueError if a name is in no table, or a measure lacks the field named."""
    known = sorted({*LAYER_MEASURES, *NETWORK_MEASURES, *CHANGE_MEASURES})
    for name in names:
        base, _, field = name.partition(".") if isinstance(name, str) else (name, "", "")
        if base not in known:
            raise ValueError(
                f"unknown measure {name!r}; {hint(base, known)}measures: {listed(known)}"
            )
        if field and field not in _fields(base):
            fields = _fields(base)
            raise ValueError(
                f"unknown field {field!r} of measure {base!r}; {hint(field, fields)}"
                f"fields: {', '.join(fields) or 'none'}"
            )


def _fields(name: str) -> tuple[str, ...]:
    """Return the fields of a measure whose value is a named tuple; none for others."""
    tiny = LayerGraph.from_edge_ids([0], (1, 1))
    found: list[str] = []
    tables: tuple[tuple[Mapping[str, Callable[[Any], Any]], Any], ...] = (
        (LAYER_MEASURES, tiny),
        (NETWORK_MEASURES, {"fc1": tiny}),
        (CHANGE_MEASURES, EdgeUpdate.between(tiny, tiny)),
    )
    for table, argument in tables:
        if name in table:
            found += getattr(table[name](argument), "_fields", ())
    return tuple(found)


def measure(
    topology: GraphLike,
    names: Iterable[str] | None = None,
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
    names : iterable of str, optional
        Names in the tables `LAYER_MEASURES`, `NETWORK_MEASURES` and `CHANGE_MEASURES` (a name
        in several tables selects all of them), or a single field such as ``"power_law.alpha"``.
        By default `CORE`.
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

    Examples
    --------
    >>> dense = LayerGraph.from_edge_ids(range(6), (2, 3))
    >>> frame = measure({"fc1": dense}, ["fan_in.mean", "components"])
    >>> frame.to_dict("split")["data"]
    [['fc1', 'fan_in.mean', 3.0], ['fc1', 'components', 1.0], ['network', 'components', 1.0]]
    """
    import pandas as pd

    topology, before = topology_and_previous(topology)
    earlier = before if previous is None else as_topology(previous)
    if isinstance(names, str):
        names = [names]
    wanted = list(CORE) if names is None else list(dict.fromkeys(names))
    if names is not None:
        _check(wanted)
    bases = list(dict.fromkeys(name.split(".")[0] for name in wanted))
    whole = {name for name in wanted if "." not in name}
    rows: list[tuple[str, str, float]] = []

    def take(table: Mapping[str, Callable[[Any], Any]], layer: str, argument: Any) -> None:
        for base in bases:
            if base in table:
                found = _rows(layer, base, table[base](argument))
                rows.extend(row for row in found if base in whole or row[1] in wanted)

    for layer, graph in topology.items():
        take(LAYER_MEASURES, layer, graph)
    take(NETWORK_MEASURES, NETWORK, topology)
    for layer, graph in topology.items():
        old = None if earlier is None else earlier.get(layer)
        if changes is not None and layer in changes:
            take(CHANGE_MEASURES, layer, changes[layer])
        elif old is not None and old.shape == graph.shape:
            take(CHANGE_MEASURES, layer, EdgeUpdate.between(old, graph))
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

"""Families of graphs by name, densities of layers, and `generate` for whole networks.

This package holds every function that makes a `LayerGraph` from sizes, a density and a random
generator, and the helpers that such functions share. To add a family, write the function in the
module of its kind and add a line to the table behind `GENERATORS`. Imports from `topokit.graph` and
`topokit.tables`, never torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from topokit.generators.algebraic import (
    affine_permutations,
    affine_plane,
    generalized_quadrangle,
    hypercube,
    lps,
    margulis,
    net,
    projective_plane,
    quadratic_residues,
)
from topokit.generators.degrees import (
    bsf,
    chung_lu,
    graph_with_degrees,
    preferential_attachment,
    randomized_twin,
    rmat,
    switched_twin,
)
from topokit.generators.density import (
    DENSITIES,
    density_from_epsilon,
    epsilon_from_density,
    layer_densities,
    shapes_of,
)
from topokit.generators.description import Description, describe
from topokit.generators.expander import expander, ramanujan
from topokit.generators.lifts import cyclic_lift, double_cover, random_lift, two_lift
from topokit.generators.peg import peg
from topokit.generators.provenance import recorded
from topokit.generators.random import (
    biregular,
    configuration,
    erdos_renyi,
    erdos_renyi_bernoulli,
    fixed_fan_in,
    fixed_fan_out,
    hub,
    nested,
    set_sampler,
)
from topokit.generators.spatial import (
    band,
    block,
    circulant,
    geometric,
    receptive_field,
    small_world,
)
from topokit.generators.structured import (
    benes_network,
    butterfly,
    butterfly_network,
    clash_free,
    de_bruijn,
    group_shuffle,
    kautz,
    monarch,
    radix,
    radix_network,
    x_net,
)
from topokit.graph import LayerGraph, Topology
from topokit.tables import Table, as_generator, check_names, choose

__all__ = [
    "DENSITIES",
    "GENERATORS",
    "NETWORKS",
    "Description",
    "density_from_epsilon",
    "describe",
    "epsilon_from_density",
    "generate",
    "generate_layers",
    "graph_with_degrees",
    "layer_densities",
    "randomized_twin",
    "switched_twin",
]

_FAMILIES: dict[str, Callable[..., LayerGraph]] = {
    "erdos_renyi": erdos_renyi,
    "erdos_renyi_bernoulli": erdos_renyi_bernoulli,
    "set_sampler": set_sampler,
    "fixed_fan_in": fixed_fan_in,
    "fixed_fan_out": fixed_fan_out,
    "biregular": biregular,
    "configuration": configuration,
    "expander": expander,
    "ramanujan": ramanujan,
    "cyclic_lift": cyclic_lift,
    "random_lift": random_lift,
    "two_lift": two_lift,
    "peg": peg,
    "double_cover": double_cover,
    "small_world": small_world,
    "band": band,
    "circulant": circulant,
    "receptive_field": receptive_field,
    "geometric": geometric,
    "block": block,
    "preferential_attachment": preferential_attachment,
    "bsf": bsf,
    "chung_lu": chung_lu,
    "rmat": rmat,
    "nested": nested,
    "hub": hub,
    "butterfly": butterfly,
    "benes": butterfly,
    "radix": radix,
    "de_bruijn": de_bruijn,
    "kautz": kautz,
    "monarch": monarch,
    "group_shuffle": group_shuffle,
    "clash_free": clash_free,
    "x_net": x_net,
    "projective_plane": projective_plane,
    "affine_plane": affine_plane,
    "net": net,
    "generalized_quadrangle": generalized_quadrangle,
    "lps": lps,
    "margulis": margulis,
    "quadratic_residues": quadratic_residues,
    "hypercube": hypercube,
    "affine_permutations": affine_permutations,
}

GENERATORS: dict[str, Callable[..., LayerGraph]] = {
    name: recorded(name, family) for name, family in _FAMILIES.items()
}
"""Families by name: ``(n_in, n_out, *, density, rng, **params) -> LayerGraph``.

`rng` may be an integer seed. `describe` reports how each graph that they return was made.
"""
GENERATORS = Table("generator", GENERATORS)

NETWORKS: dict[str, Callable[..., list[LayerGraph]]] = {
    "butterfly": butterfly_network,
    "benes": benes_network,
    "radix": radix_network,
}
"""Families whose layers depend on each other: ``(shapes, *, densities, rng, **params)``."""
NETWORKS = Table("generator", NETWORKS)


def generate(
    widths: Sequence[int],
    generator: str | Callable[..., LayerGraph],
    *,
    density: float | None = None,
    epsilon: float | None = None,
    densities: str | Sequence[float] | None = None,
    rng: np.random.Generator | int,
    **params: Any,
) -> Topology:
    """Generate the topology of a whole network: one layer graph between successive widths.

    Parameters
    ----------
    widths : sequence of int
        Units of each layer, input first.
    generator : str or callable
        A name of `GENERATORS`, or ``f(n_in, n_out, *, density, rng, **params) -> LayerGraph``.
    density : float, optional
        Edges over possible edges, in [0, 1]. Exactly one of `density`, `epsilon` and a list of
        `densities` is required.
    epsilon : float, optional
        SET's budget: ``epsilon (n_in + n_out)`` edges in each layer, at most all possible edges.
    densities : str or sequence of float, optional
        How layers share the budget, a name of `DENSITIES`; by default "uniform" with `density`
        and "er" with `epsilon`. Under another rule than "er", `epsilon` sets the budget of the
        whole network. Or a list with the density of each layer.
    rng : numpy.random.Generator or int
        An integer is a seed.
    **params
        Parameters of the generator.

    Returns
    -------
    dict of LayerGraph
        Layers "fc1", "fc2", ... from input to output.

    Raises
    ------
    ValueError
        If a name, a width, a budget or a parameter is wrong; the message names the right ones.

    Notes
    -----
    Cost: that of the generator for each layer.

    References
    ----------
    .. [1] Mocanu et al., Nature Communications 9:2383, 2018.
    .. [2] Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> generate([64, 100, 10], "erdos_renyi", epsilon=5, rng=np.random.default_rng(0))
    {'fc1': LayerGraph(64 -> 100, 820 edges), 'fc2': LayerGraph(100 -> 10, 550 edges)}
    """
    choose("generator", generator, GENERATORS)
    shapes = {f"fc{i}": shape for i, shape in enumerate(shapes_of(widths), start=1)}
    return generate_layers(
        shapes, generator, density=density, epsilon=epsilon, densities=densities, rng=rng, **params
    )


def generate_layers(
    shapes: Mapping[str, Sequence[int]],
    generator: str | Callable[..., LayerGraph],
    *,
    density: float | None = None,
    epsilon: float | None = None,
    densities: str | Sequence[float] | None = None,
    rng: np.random.Generator | int,
    **params: Any,
) -> Topology:
    """Generate a graph for each layer of a network whose layers need not be a chain.

    Parameters
    ----------
    shapes : mapping of str to sequence of int
        Dimensions of each layer's weight by name, ``(n_out, n_in)`` or ``(n_out, n_in, kh, kw)``. A
        convolution's graph has ``n_in kh kw`` input units.
    generator : str or callable
        A name of `GENERATORS`, or a function as for `generate`. Families of `NETWORKS`, whose
        layers depend on each other, take the layers in the order given.
    density, epsilon, densities
        The budget, as for `generate`; kernels count in the allocation "erk".
    rng : numpy.random.Generator or int
        An integer is a seed.
    **params
        Parameters of the generator.

    Returns
    -------
    dict of LayerGraph
        In the order of `shapes`.

    Raises
    ------
    ValueError
        If a name, a size, a budget or a parameter is wrong; the message names the right ones.

    Examples
    --------
    >>> shapes = {"conv": (8, 3, 3, 3), "fc": (10, 8)}
    >>> generate_layers(shapes, "erdos_renyi", density=0.5, densities="erk", rng=0)
    {'conv': LayerGraph(27 -> 8, 72 edges), 'fc': LayerGraph(8 -> 10, 76 edges)}
    """
    rng = as_generator(rng)
    function = choose("generator", generator, GENERATORS)
    check_names("generator", _name(generator), function, params)
    shares = layer_densities(
        list(shapes.values()), density=density, epsilon=epsilon, densities=densities
    )
    sizes = [(shape[0], math.prod(shape[1:])) for shape in shapes.values()]
    if isinstance(generator, str) and generator in NETWORKS:
        graphs = NETWORKS[generator](sizes, densities=shares, rng=rng, **params)
    else:
        family = recorded(_name(generator), function)
        graphs = [
            family(n_in, n_out, density=share, rng=rng, **params)
            for (n_out, n_in), share in zip(sizes, shares, strict=True)
        ]
    return dict(zip(shapes, graphs, strict=True))


def _name(generator: str | Callable[..., LayerGraph]) -> str:
    """Return the name of a generator, which may be a function."""
    if isinstance(generator, str):
        return generator
    return str(getattr(generator, "__name__", type(generator).__name__))

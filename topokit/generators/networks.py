"""Whole networks of families whose layers depend on the layers before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from topokit.generators.origin import recorded
from topokit.generators.structured import butterfly, radix
from topokit.graph import LayerGraph

__all__ = ["benes_network", "butterfly_network", "radix_network"]


def radix_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """RadiX layers with strides that grow by the radix of each layer, starting anew when full."""
    return _network("radix", radix, shapes, densities, False, rng, params)


def butterfly_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """Butterfly stages, one digit after the other, starting anew after the last digit."""
    return _network("butterfly", butterfly, shapes, densities, False, rng, params)


def benes_network(
    shapes: Sequence[tuple[int, int]],
    *,
    densities: Sequence[float],
    rng: np.random.Generator,
    **params: Any,
) -> list[LayerGraph]:
    """Butterfly stages up to the last digit and back again: a Beneš network."""
    return _network("benes", butterfly, shapes, densities, True, rng, params)


def _network(
    name: str,
    function: Any,
    shapes: Sequence[tuple[int, int]],
    densities: Sequence[float],
    mirrored: bool,
    rng: np.random.Generator,
    params: dict[str, Any],
) -> list[LayerGraph]:
    """Layers whose strides are products of the radices before them."""
    layer = recorded(name, function)
    if "stride" in params:
        return [
            layer(n_in, n_out, density=share, rng=rng, **params)
            for (n_out, n_in), share in zip(shapes, densities, strict=True)
        ]
    graphs, strides, up = [], [1], True
    for (n_out, n_in), share in zip(shapes, densities, strict=True):
        graphs.append(layer(n_in, n_out, density=share, rng=rng, stride=strides[-1], **params))
        units = params.get("order") or n_in
        radix_here = max(round(share * units), 1)
        if up and strides[-1] * radix_here < units and radix_here > 1:
            strides.append(strides[-1] * radix_here)
        elif mirrored and len(strides) > 1:
            up = False
            strides.pop()
        else:
            up, strides = True, [1]
    return graphs

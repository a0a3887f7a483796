"""Replace the dense layers of any torch model by sparse ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from torch import nn

from topokit.generators.density import layer_densities
from topokit.graph import LayerGraph
from topokit.nn.conv import SparseConv2d
from topokit.nn.layers import INITS, SparseLinear, initial_values
from topokit.tables import as_generator, choose

__all__ = ["sparsify"]


def sparsify(
    model: nn.Module,
    *,
    generator: str | Callable[..., LayerGraph] = "erdos_renyi",
    density: float | None = None,
    epsilon: float | None = None,
    only: Collection[str] = ("*",),
    skip: Collection[str] = (),
    init: str | None = "he",
    kernel: str = "auto",
    rng: np.random.Generator | int,
) -> nn.Module:
    """Replace a model's linear layers and convolutions by sparse ones, in place.

    Parameters
    ----------
    model : torch.nn.Module
    generator : str or callable
        A name of `topokit.GENERATORS`, or ``f(n_in, n_out, *, density, rng) -> LayerGraph``.
    density : float, optional
        Share of each layer's possible edges, in (0, 1].
    epsilon : float, optional
        SET's budget instead: ``epsilon * (n_in + n_out)`` edges in each layer, at most all possible
        ones. Exactly one of `density` and `epsilon` is required.
    only, skip : collection of str
        Layers to replace, and those of them to leave dense: names as in ``named_modules()``, or
        patterns such as ``"encoder.*.linear?"``. The name of a container selects all layers in it.
    init : str or None
        New values, a name of `topokit.nn.INITS`; None keeps the dense weights of the edges.
    kernel : {"auto", "csr", "dense"}
    rng : numpy.random.Generator or int

    Returns
    -------
    torch.nn.Module
        `model` itself, or the new layer if `model` is one. Make the optimizer afterwards.

    Raises
    ------
    ValueError
        If a choice is unknown, a name or pattern matches no module, neither or both budgets are
        given, or nothing can be replaced.

    Notes
    -----
    Only modules whose type is exactly ``torch.nn.Linear``, or ``torch.nn.Conv2d`` with one group
    and numeric zero padding, are replaced. Others stay dense: packed projections of attention,
    grouped convolutions, weights shared by two modules. Biases keep their values.

    Examples
    --------
    >>> complete = lambda n_in, n_out, *, density, rng: LayerGraph.from_edge_ids(
    ...     range(n_in * n_out), (n_out, n_in))
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> model = sparsify(model, generator=complete, density=1, rng=np.random.default_rng(0))
    >>> from topokit.nn import sparse_layers
    >>> list(sparse_layers(model))
    ['0', '2']
    """
    if 0 in (density, epsilon):
        raise ValueError(f"expected a budget above 0, got density={density}, epsilon={epsilon}")
    if init is not None:
        choose("init", init, INITS)
    rng = as_generator(rng)
    make = _generator(generator) if isinstance(generator, str) else generator
    modules = dict(model.named_modules())
    for name in (*only, *skip):
        if not _fits_any(name, modules):
            choose("module", name, {name: None for name in modules if name})
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in modules.items():
        weight: Any = getattr(module, "weight", None)
        wanted = _within(name, only) and not _within(name, skip)
        if not wanted or not _replaceable(module) or owners[id(weight)] > 1:
            continue
        n_out, n_in = weight.flatten(1).shape
        (share,) = layer_densities([(n_out, n_in)], density=density, epsilon=epsilon)
        graph = make(n_in, n_out, density=share, rng=rng)
        kind: Any = SparseLinear if isinstance(module, nn.Linear) else SparseConv2d
        layer = kind.from_dense(module, graph, kernel=kernel)
        if init is not None:
            layer.values.data.copy_(initial_values(init, graph, rng))
        replaced[module] = layer
    if not replaced:
        raise ValueError("expected a model with torch.nn.Linear or Conv2d layers not skipped")
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in replaced:
                module._modules[name] = replaced[child]
    return replaced.get(model, model)


def _generator(name: str) -> Callable[..., LayerGraph]:
    from topokit.generators import GENERATORS

    return choose("generator", name, GENERATORS)


def _replaceable(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return plain and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def _within(name: str, names: Collection[str]) -> bool:
    """Return whether a module or one that contains it has one of the names, or fits a pattern."""
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in names)


def _fits_any(pattern: str, modules: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in modules)

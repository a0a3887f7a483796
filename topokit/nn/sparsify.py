"""Replace the dense layers of any torch model by sparse ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from topokit.foreign import first_few
from topokit.generators.density import layer_densities
from topokit.graph import LayerGraph
from topokit.nn import conv
from topokit.nn.attention import SparseMultiheadAttention, dense_only
from topokit.nn.fused import fuse
from topokit.nn.kinds import (
    Weight,
    check_module,
    exchange_modules,
    joined,
    linear_of,
    weights_of,
)
from topokit.nn.layers import INITS, SparseLinear, initial_values
from topokit.nn.recurrent import SparseRecurrent, SparseRecurrentCell
from topokit.nn.sparsity import (
    DenseLayer,
    SparsityReport,
    dense_layers,
    shared_parameters,
    sparsity_report,
    why_dense,
)
from topokit.tables import as_generator, choose, need

__all__ = ["SparsifyWarning", "sparsify"]

NAMED = 5  # layers that the warning names

# What is carried over from a replaced module: hooks and their options.
HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks",
    "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip


class SparsifyWarning(UserWarning):
    """A layer that was to be sparse stays dense, or has no edge."""


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
    report: Callable[[SparsityReport], object] | None = None,
    rng: np.random.Generator | int,
) -> nn.Module:
    """Replace a model's layers by sparse ones, in place.

    Parameters
    ----------
    model : torch.nn.Module
    generator : str or callable
        A name of `topokit.GENERATORS`, or ``f(n_in, n_out, *, density, rng) -> LayerGraph``.
    density : float, optional
        Share of each layer's possible edges, in (0, 1]. Those of a convolution with groups are the
        edges within the groups.
    epsilon : float, optional
        SET's budget instead: ``epsilon * (n_in + n_out)`` edges in each layer, at most all possible
        ones. Exactly one of `density` and `epsilon` is required.
    only, skip : collection of str
        Layers to replace, and those of them to leave dense: names as in ``named_modules()``, or
        patterns such as ``"encoder.*.linear?"``. A container's name selects all layers in it, and
        of a layer that stands in several places each name does; layers within attention and
        recurrent modules have the names given below.
    init : str or None
        New values, a name of `topokit.nn.INITS`; None keeps the dense weights of the edges.
    kernel : {"auto", "csr", "dense"}
    report : callable, optional
        Called with a `SparsityReport` at the end; ``report=print`` prints which layers are sparse,
        which stay dense and why. `topokit.nn.sparsity_report` makes the same report later.
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

    Warns
    -----
    SparsifyWarning
        Once, if a chosen layer stays dense or has no edge; it names them.

    Notes
    -----
    Replaced are modules whose type is exactly one of these of ``torch.nn``, with all their options:

    - ``Linear``, and ``Conv1D`` of transformers (GPT-2), a linear layer too;
    - ``Conv1d``, ``Conv2d``, ``Conv3d`` and ``ConvTranspose1d``, ``2d`` and ``3d``. With groups the
      generator makes the graph of the stored weight, whose rows have the columns of their group;
    - ``MultiheadAttention``, as `SparseMultiheadAttention` with the layers ``q_proj``, ``k_proj``,
      ``v_proj`` and ``out_proj``. Transformer layers call it, in evaluation too: their fast path is
      switched off;
    - ``LSTM``, ``GRU``, ``RNN`` and their cells, as `SparseRecurrent` with a layer for each weight,
      ``weight_ih_l0``, ``weight_hh_l0``, ...: the gates are rows of one layer.

    Other modules stay dense: subclasses, whose forward may differ; weights that two modules share;
    pruned, parametrized or normalised weights (weight norm); layers not yet initialised. Values and
    biases are trained where the dense parameters were, frozen ones stay frozen. Forward and
    backward hooks, dtype, device, mode and names stay. Biases keep their values. Lists, dicts and
    methods that the model keeps beside its children hold the new layers, too. A module that
    reads the weight of a layer in place of calling it (as attention in torchvision's Swin does)
    gets a dense copy, with gradients at the edges: right, but without the saving. A
    ``torch.nn.Sequential`` with a sparse linear layer before a ReLU becomes a
    `topokit.nn.Sequential`, which computes both in one kernel.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    >>> model = sparsify(model, density=0.1, report=print, rng=0)
    layer  kind          in  out  edges  density
    0      SparseLinear  40   30    120    0.100
    2      SparseLinear  30   20     60    0.100
    2 sparse layers with 180 edges (density 0.1), 0 dense
    """
    if 0 in (density, epsilon):
        raise ValueError(f"expected a budget above 0, got density={density}, epsilon={epsilon}")
    check_module(model)
    for key, names in (("only", only), ("skip", skip)):
        listed = isinstance(names, Collection) and not isinstance(names, str)
        good = listed and all(isinstance(name, str) for name in names)
        need(good, key, "a list of names or patterns", names)
    need(report is None or callable(report), "report", "a function", report)
    if init is not None:
        choose("init", init, INITS)
    rng = as_generator(rng)
    make = _generator(generator) if isinstance(generator, str) else generator
    modules = dict(model.named_modules())
    candidates = _candidates(modules)
    aliases = _aliases(model)
    _check_names((*only, *skip), aliases, candidates)
    shared = shared_parameters(model)
    reasons: dict[str, str] = {}
    stayed: dict[str, str] = {}
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layers in candidates.items():
        chosen = []
        for layer in layers:
            if why := _why_not(layer, aliases[name], only, skip):
                reasons[joined(name, layer.layer)] = why
            else:
                chosen.append(layer)
        if not chosen:
            continue
        module = modules[name]
        if why := why_dense(module, name, shared):
            stayed[name or type(module).__name__] = why
            continue
        graphs, values = {}, {}
        for layer in chosen:
            graph = _graph(layer, make, rng, density=density, epsilon=epsilon)
            graphs[layer.layer] = graph
            if init is not None:
                values[layer.layer] = initial_values(init, graph, rng)
        replaced[module] = _replacement(module, graphs, values, kernel)
    if not replaced:
        raise ValueError(
            "expected a model with layers that can be replaced (such as torch.nn.Linear or Conv2d) "
            "and are not skipped" + (f"; {_listed(stayed)}" if stayed else ", got none")
        )
    model = exchange_modules(model, replaced)
    dense_only(model)
    fuse(model)
    made = sparsity_report(model, reasons=reasons)
    _warn(stayed, made.empty)
    if report is not None:
        report(made)
    return model


def _why_not(
    layer: DenseLayer, aliases: Iterable[str], only: Collection[str], skip: Collection[str]
) -> str:
    """Return why a layer is not to be replaced, given all names of its module; "" if it is."""
    names = [joined(alias, layer.layer) for alias in aliases]
    if not any(_within(name, only) for name in names):
        return "not among `only`"
    return "in `skip`" if any(_within(name, skip) for name in names) else ""


def _replacement(
    module: nn.Module,
    graphs: dict[str, LayerGraph],
    values: Mapping[str, torch.Tensor],
    kernel: str,
) -> nn.Module:
    """Return the sparse module for a dense one, with new values where there are some."""
    new = _sparse(module, graphs, kernel)
    for name, start in values.items():
        inner: Any = new.get_submodule(name) if name else new
        inner.values.data.copy_(start)
    _carry_over(module, new)
    return new


def _candidates(modules: Mapping[str, nn.Module]) -> dict[str, list[DenseLayer]]:
    """Return the layers of each module that has some of a known kind, by the module's name."""
    found: dict[str, list[DenseLayer]] = {}
    counted: set[str] = set()
    for name, module in modules.items():
        if name in counted:
            continue
        if isinstance(module, nn.MultiheadAttention):
            counted.add(joined(name, "out_proj"))
        if layers := dense_layers(module):
            found[name] = layers
    return found


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Return all names of each module, which may stand in several places, by the first of them."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return {every[0]: every for every in names.values()}


def _check_names(
    names: Iterable[str], aliases: Mapping[str, list[str]], candidates: Mapping[str, Any]
) -> None:
    """Raise a ValueError for a name or pattern that no module or layer has."""
    modules = [alias for every in aliases.values() for alias in every]
    inner = {
        joined(alias, each.layer)
        for name, layers in candidates.items()
        for each in layers
        for alias in aliases[name]
    }
    known = [*modules, *sorted(inner - set(modules))]
    for name in names:
        if not any(fnmatchcase(each, name) for each in known):
            choose("module", name, {each: None for each in known if each})


def _graph(
    layer: DenseLayer,
    make: Callable[..., LayerGraph],
    rng: np.random.Generator,
    *,
    density: float | None,
    epsilon: float | None,
) -> LayerGraph:
    """Return the graph of a new layer; with groups, one made in the shape of the stored weight."""
    n_out, n_in, groups = layer.n_out, layer.n_in, layer.weight.groups
    (share,) = layer_densities([(n_out, n_in)], density=density, epsilon=epsilon)
    if groups > 1 and epsilon is not None:
        share = min(1.0, share * groups)
    made: Any = make(n_in // groups, n_out, density=share, rng=rng)  # with groups: as stored
    shape = (n_out, n_in // groups)
    if not isinstance(made, LayerGraph) or made.shape != shape:
        got = made.shape if isinstance(made, LayerGraph) else made
        got = got if got is None or isinstance(got, tuple) else type(got).__name__
        raise ValueError(
            f"expected a generator that returns a LayerGraph of shape {shape}, (n_out, n_in), got "
            f"{got} for layer {layer.layer or layer.weight.leaf!r}"
        )
    return (
        made if groups == 1 else LayerGraph.from_ids_in_groups(made.edge_ids, (n_out, n_in), groups)
    )


def _sparse(module: Any, graphs: dict[str, LayerGraph], kernel: str) -> nn.Module:
    """Return the sparse module that replaces a dense one, with its weights at the edges."""
    if isinstance(module, nn.MultiheadAttention):
        return SparseMultiheadAttention.from_dense(module, graphs, kernel=kernel)
    if isinstance(module, nn.RNNBase):
        return SparseRecurrent.from_dense(module, graphs, kernel=kernel)
    if isinstance(module, nn.RNNCellBase):
        return SparseRecurrentCell.from_dense(module, graphs, kernel=kernel)
    if isinstance(module, nn.Linear):
        return SparseLinear.from_dense(module, graphs[""], kernel=kernel)
    if weights_of(module) == [Weight("", "weight", "in_out")]:
        trained = module.weight.requires_grad, module.bias.requires_grad
        linear = linear_of(module.weight.t(), module.bias, trained=trained)
        return SparseLinear.from_dense(linear.train(module.training), graphs[""], kernel=kernel)
    return getattr(conv, f"Sparse{type(module).__name__}").from_dense(
        module, graphs[""], kernel=kernel
    )


def _carry_over(old: nn.Module, new: nn.Module) -> None:
    """Move hooks and a user's own attributes to the module that replaces another."""
    for hooks in HOOKS:
        new.__dict__[hooks] = old.__dict__[hooks]
    for name, value in old.__dict__.items():
        own = not name.startswith("_") and not isinstance(value, torch.Tensor)
        if own and name not in new.__dict__ and not hasattr(type(new), name):
            setattr(new, name, value)


def _warn(stayed: Mapping[str, str], empty: Collection[str]) -> None:
    """Issue the one warning, if a layer stayed dense or has no edge."""
    parts = [_listed(stayed)] if stayed else []
    if empty:
        parts.append(f"without any edge: {first_few(empty, NAMED)}")
    if parts:
        text = "; ".join(parts)
        hint = "topokit.nn.sparsity_report(model) lists all layers"
        warnings.warn(f"{text}. {hint}", SparsifyWarning, stacklevel=3)


def _listed(stayed: Mapping[str, str]) -> str:
    words = (f"{name} ({why})" for name, why in stayed.items())
    return f"stays dense: {first_few(words, NAMED)}"


def _generator(name: str) -> Callable[..., LayerGraph]:
    from topokit.generators import GENERATORS

    return choose("generator", name, GENERATORS)


def _within(name: str, names: Collection[str]) -> bool:
    """Return whether a module or one that contains it has one of the names, or fits a pattern."""
    parts = name.split(".")
    around = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return any(fnmatchcase(each, pattern) for pattern in names for each in around)

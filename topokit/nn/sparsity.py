"""Which layers of a model are sparse, which are dense, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from topokit.nn.extract import computed_name, kept_edges, layers_in, parts_of
from topokit.nn.kinds import Weight, check_module, has_no_layers, joined, matrix_of, weights_of
from topokit.nn.layers import EdgeLayer

__all__ = [
    "LayerSparsity", "REPLACEABLE", "SparsityReport", "dense_layers", "shared_parameters",
    "sparsity_report", "why_dense",
]  # fmt: skip

REPLACEABLE: frozenset[type[nn.Module]] = frozenset(
    {
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
        nn.ConvTranspose3d, nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell,
        nn.GRUCell, nn.RNNCell,
    }
)  # fmt: skip
"""Types of modules that `sparsify` replaces; subclasses may compute otherwise."""

_OUT_PROJECTIONS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
_GPT_LINEAR = "transformers.pytorch_utils.Conv1D"  # a linear layer, its weight (n_in, n_out)

STATE_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DenseLayer(NamedTuple):
    """A layer of a dense module: its name in the module, its weight and its shape."""

    layer: str
    weight: Weight
    n_out: int
    n_in: int


def dense_layers(module: nn.Module) -> list[DenseLayer]:
    """Return the layers that a module would have if it were sparse.

    The output projection of attention, a module of its own, counts as the attention's. Layers of a
    module that is not initialised have no units. In a module of an unknown kind, they are the
    matrices whose name says that they are weights.

    Examples
    --------
    >>> [(each.layer, each.n_in, each.n_out) for each in dense_layers(nn.LSTM(3, 2))]
    [('weight_ih_l0', 3, 8), ('weight_hh_l0', 2, 8)]
    """
    if isinstance(module, EdgeLayer) or has_no_layers(module):
        return []
    weights = weights_of(module)
    if weights is None:
        weights = [] if _is_lazy(module) else layers_in(module)[0]
    found = []
    for weight in weights:
        tensor = getattr(module, weight.leaf, None)
        if isinstance(tensor, torch.Tensor):
            n_out, width = 0, 0
            if not is_lazy(tensor):
                n_out, width = matrix_of(weight, torch.empty(tensor.shape, device="meta")).shape
            found.append(DenseLayer(weight.layer, weight, n_out, width * weight.groups))
    if isinstance(module, nn.MultiheadAttention):
        n_out, n_in = module.out_proj.weight.shape
        found.append(DenseLayer("out_proj", Weight("out_proj", "out_proj"), n_out, n_in))
    return found


def _is_lazy(module: nn.Module) -> bool:
    return any(is_lazy(parameter) for parameter in module.parameters(recurse=False))


def shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Return, by the parameter's id, the modules of every parameter that several modules hold."""
    holders: dict[int, list[str]] = {}
    for name, part in model.named_modules():
        for key in {id(p) for p in part._parameters.values() if p is not None}:
            holders.setdefault(key, []).append(name or type(part).__name__)
    return {key: names for key, names in holders.items() if len(names) > 1}


def why_dense(module: nn.Module, name: str, shared: Mapping[int, list[str]]) -> str:
    """Return why `sparsify` cannot replace a module, "" if it can.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
        Its name in the model.
    shared : mapping
        As `shared_parameters` returns.

    Examples
    --------
    >>> why_dense(nn.Linear(3, 2), "fc", {})
    ''
    >>> why_dense(nn.Bilinear(3, 2, 4), "pairs", {})
    'there is no sparse Bilinear'
    """
    inner = list(module.modules())
    computing: list[Any] = [hook for part in inner for hook in part._forward_pre_hooks.values()]
    for hook in computing:
        if computed_name(hook) is not None:
            return f"its weight is computed by torch.nn.utils ({type(hook).__name__})"
    if any(is_parametrized(part) for part in inner):
        return "its weight is parametrized"
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return "it is not initialised; pass a batch through the model first"
    own = type(module)
    if own not in REPLACEABLE and f"{own.__module__}.{own.__qualname__}" != _GPT_LINEAR:
        bases = [kind.__name__ for kind in type(module).__mro__[1:] if kind in REPLACEABLE]
        if bases:
            return f"{type(module).__name__} is a subclass of {bases[0]} and may compute otherwise"
        return f"there is no sparse {type(module).__name__}"
    if any("forward" in part.__dict__ for part in inner):
        return "its forward method was replaced"
    if type(getattr(module, "out_proj", None)) not in (type(None), *_OUT_PROJECTIONS):
        return f"its out_proj is a {type(module.out_proj).__name__}"
    return _why_tensors(module, name, shared) or _why_hooks(module, inner)


def _why_tensors(module: nn.Module, name: str, shared: Mapping[int, list[str]]) -> str:
    """Return what is special about a module's tensors, "" if nothing is."""
    known = {"weight", "bias", "weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    known |= {f"{part}_proj_weight" for part in ("in", "q", "k", "v")}
    known |= {"in_proj_bias", "bias_k", "bias_v"}
    known |= {name for names in getattr(module, "_all_weights", ()) for name in names}
    for part in module.modules():
        held = {**part._parameters, **part._buffers}
        held |= {n: t for n, t in part.__dict__.items() if isinstance(t, torch.Tensor)}
        if further := held.keys() - known:
            return f"it holds further tensors ({', '.join(sorted(further))})"
    for parameter in module.parameters():
        if type(parameter) is not nn.Parameter:
            return f"it holds a {type(parameter).__name__}"
        if parameter.layout != torch.strided:
            return f"it holds a {parameter.layout}"
        if parameter.is_meta:
            return "its parameters are on the meta device"
        if parameter.dtype not in DTYPES:
            return f"it is of {parameter.dtype}"
        hooks: Any = parameter
        if hooks._backward_hooks or getattr(hooks, "_post_accumulate_grad_hooks", None):
            return "its parameters have hooks"
        holders = shared.get(id(parameter), [])
        others = [each for each in holders if each not in (name, joined(name, "out_proj"))]
        if others:
            return f"it shares a parameter with {', '.join(others)}"
    return ""


def _why_hooks(module: nn.Module, inner: list[nn.Module]) -> str:
    if any(getattr(part, hooks, None) for part in inner for hooks in STATE_HOOKS):
        return "it has hooks on its state dict"
    for part in inner:
        if part is not module and (part._forward_hooks or part._forward_pre_hooks):
            return f"its {type(part).__name__} has hooks"
    return ""


@dataclass(frozen=True)
class LayerSparsity:
    """One layer of a `SparsityReport`.

    Parameters
    ----------
    name : str
        As in ``named_modules()``; the layers inside a dense module have the names that they would
        have in a sparse one.
    kind : str
        The type of the module.
    n_in, n_out : int
        Units on both sides; 0 for a matrix that belongs to no layer.
    edges, possible : int
        Edges, all possible ones in a dense layer; possible are those within a convolution's groups.
    reason : str
        Why the layer is dense; empty for a sparse layer.
    """

    name: str
    kind: str
    n_in: int
    n_out: int
    edges: int
    possible: int
    reason: str = ""

    @property
    def density(self) -> float:
        """Edges over possible edges; ``nan`` if there are none."""
        return self.edges / self.possible if self.possible else math.nan


@dataclass(frozen=True)
class SparsityReport:
    """Which layers of a model are sparse, which are dense, and why; printed as a table.

    Made by `sparsity_report`, and by `topokit.sparsify` for its argument `report`.

    Parameters
    ----------
    layers : tuple of LayerSparsity

    Examples
    --------
    >>> print(sparsity_report(nn.Sequential(nn.Linear(3, 2), nn.Embedding(5, 3))))
    layer  kind         in  out  edges  density
    0      Linear        3    2      6    1.000  dense: not chosen
    1      Embedding     3    5     15    1.000  dense: a table, no layer
    0 sparse layers, 2 dense
    """

    layers: tuple[LayerSparsity, ...]

    @property
    def sparse(self) -> tuple[LayerSparsity, ...]:
        """The sparse layers."""
        return tuple(layer for layer in self.layers if not layer.reason)

    @property
    def dense(self) -> tuple[LayerSparsity, ...]:
        """The layers and tables that are dense."""
        return tuple(layer for layer in self.layers if layer.reason)

    @property
    def empty(self) -> tuple[str, ...]:
        """Names of the sparse layers without any edge."""
        return tuple(layer.name for layer in self.sparse if not layer.edges)

    @property
    def density(self) -> float:
        """Edges over possible edges of all sparse layers together; ``nan`` if there are none."""
        possible = sum(layer.possible for layer in self.sparse)
        return sum(layer.edges for layer in self.sparse) / possible if possible else math.nan

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "kind", "in", "out", "edges", "density", "")]
        for layer in self.layers:
            reason = f"dense: {layer.reason}" if layer.reason else ""
            reason = "no edges" if not layer.edges and not reason else reason
            sizes = (str(n) if n else "-" for n in (layer.n_in, layer.n_out))
            rows.append(
                (layer.name, layer.kind, *sizes, str(layer.edges), f"{layer.density:.3f}", reason)
            )
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = []
        for row in rows:
            left = [row[i].ljust(widths[i]) for i in (0, 1)]
            right = [row[i].rjust(widths[i]) for i in range(2, 6)]
            lines.append("  ".join([*left, *right, row[6]]).rstrip())
        summary = f"{len(self.sparse)} sparse layers"
        if self.sparse:
            edges = sum(layer.edges for layer in self.sparse)
            summary += f" with {edges} edges (density {self.density:.3g})"
        return "\n".join([*lines, f"{summary}, {len(self.dense)} dense"])

    def __repr__(self) -> str:
        return f"<SparsityReport: {len(self.sparse)} sparse layers, {len(self.dense)} dense>"


def sparsity_report(
    model: nn.Module, *, reasons: Mapping[str, str] | None = None
) -> SparsityReport:
    """Return which layers of a model are sparse, which are dense, and why.

    Parameters
    ----------
    model : torch.nn.Module
    reasons : mapping of str to str, optional
        Why layers are dense, by name, where it is known; otherwise that `sparsify` cannot replace
        them, or that they were not chosen.

    Returns
    -------
    SparsityReport
        In the order of ``named_modules()``. Biases and normalisations are left out, embeddings and
        other matrices of parameters are listed as dense.

    Notes
    -----
    O(number of modules and parameters).

    Examples
    --------
    >>> import topokit as tk
    >>> model = tk.sparsify(nn.Sequential(nn.Linear(40, 20)), density=0.1, rng=0)
    >>> report = sparsity_report(model)
    >>> report.density, report.dense, report.empty
    (0.1, (), ())
    """
    check_module(model)
    return SparsityReport(tuple(_rows(model, reasons or {})))


def _rows(model: nn.Module, reasons: Mapping[str, str]) -> Iterator[LayerSparsity]:
    shared, counted = shared_parameters(model), set()
    for name, part in parts_of(model):
        if name in counted:
            continue
        kind = type(part).__name__
        if isinstance(part, EdgeLayer):
            graph = kept_edges(part.graph, part._buffers.get("values_mask"))
            yield LayerSparsity(
                name or "layer", kind, graph.n_in, graph.n_out, graph.n_edges, graph.n_possible
            )
            continue
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            n_out, n_in = part.weight.shape
            cells = n_out * n_in
            yield LayerSparsity(name, kind, n_in, n_out, cells, cells, "a table, no layer")
            continue
        if has_no_layers(part):
            continue
        if isinstance(part, nn.MultiheadAttention):
            counted.add(joined(name, "out_proj"))  # listed with the attention
        layers = dense_layers(part)
        why = why_dense(part, name, shared) if layers else ""
        for each in layers:
            full = joined(name, each.layer) or each.weight.leaf
            possible = each.n_in * each.n_out // each.weight.groups
            reason = reasons.get(full) or why or "not chosen"
            yield LayerSparsity(full, kind, each.n_in, each.n_out, possible, possible, reason)
        for leaf, shape in [] if _is_lazy(part) else layers_in(part)[1]:
            cells, full = math.prod(shape), joined(name, leaf)
            yield LayerSparsity(full, kind, 0, 0, cells, cells, "a matrix, no layer")

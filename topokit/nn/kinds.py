"""The kinds of torch modules that hold layers, and how each stores the weights of its layers."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from topokit.foreign import check_bytes, first_few
from topokit.graph import LayerGraph
from topokit.nn.kernels.ops import composed, uncompiled

__all__ = [
    "BLOCKS",
    "COMPRESSED",
    "DenseWeight",
    "OfLayers",
    "Weight",
    "check_kind",
    "check_layers",
    "check_module",
    "compressed_matrix",
    "exchange_modules",
    "graph_of",
    "has_no_layers",
    "joined",
    "linear_of",
    "low_rank_note",
    "matrix_of",
    "not_written",
    "own_numbers",
    "read_only",
    "thirds",
    "transposed_note",
    "weights_of",
]

_LOW_RANK = re.compile(r"(^|[._])lora([._]|$)", re.IGNORECASE)
_NORM = re.compile(r"Norm(\dd)?$")
_NO_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU,
    nn.modules.batchnorm._NormBase,
)  # fmt: skip

_OF_TORCH = re.compile(r"in_proj_(weight|bias)$|(weight|bias)_(ih|hh|hr)($|_l\d)")

_NAMED = 4  # layers in a note
_KERNELS = ("weight", "weight_orig", "weight_v")
_TURNED = (
    "read as (n_out, n_in), but by the normalisation after them rather transposed convolutions, "
    "(n_in, n_out); transpose=True (--transpose) turns all layers, and a model knows its own"
)

BLOCKS = (torch.sparse_bsr, torch.sparse_bsc)
COMPRESSED = (torch.sparse_csr, torch.sparse_csc, *BLOCKS)
"""Layouts of sparse tensors with compressed rows or columns, `BLOCKS` those of dense blocks."""


class Weight(NamedTuple):
    """The weight of one layer in a module: its name, where it is stored and how.

    Parameters
    ----------
    layer : str
        What is appended to the module's name, "" if the module is the layer.
    leaf : str
        The attribute that holds the tensor.
    stored : {"out_in", "in_out", "transposed"}
        Dimensions of the tensor: ``(n_out, n_in / groups, ...)``, as in ``torch.nn.Linear`` and
        ``Conv2d``; ``(n_in, n_out)``; or ``(in_channels, out_channels / groups, ...)``, as in
        ``torch.nn.ConvTranspose2d``.
    groups : int
    part : tuple of int, optional
        Number and count of the equal parts that layers stored in one tensor are, by rows.
    """

    layer: str
    leaf: str
    stored: str = "out_in"
    groups: int = 1
    part: tuple[int, int] = (0, 1)


_WRITES = re.compile(
    r"_?[^_].*[^_]_|__(setitem|set|i(add|sub|mul|truediv|floordiv|mod|pow|and|or|xor))__"
)


class _Related(type(torch.Tensor)):  # type: ignore[misc]  # torch's has no name
    """Counts parameters of torch, too, where somebody asks whether an object is a `DenseWeight`.

    Comparisons (``torch.testing.assert_close``) take two tensors if one is of the other's type.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or isinstance(instance, nn.Parameter)


def _is_weight(x: Any) -> bool:
    """Return whether an object is a `DenseWeight` itself."""
    return issubclass(type(x), DenseWeight)


def not_written(what: str) -> ValueError:
    """Return the refusal of a change of a sparse layer's dense weight."""
    return ValueError(  # a TypeError would let Python try ``a * b`` for ``a *= b``
        f"expected a change of a sparse layer's values, got {what} of its dense weight, a copy, so "
        "that the layer would stay as it is; change layer.values, which has a number for each "
        "edge, or call layer.take(weight, None) with a dense weight (for numbers of your own, "
        "clone the weight first); a weight that two layers share is one layer in both places, and "
        "tools that take the name of a parameter (torch.nn.utils.prune) are given 'values'"
    )


class DenseWeight(torch.Tensor, metaclass=_Related):
    """A dense weight computed from the values of edges, that refuses to be written to.

    It is a copy: initialisations, clamps and the like, which change a layer through its ``weight``,
    would have no effect. Views of it (``weight.data``, ``weight[0]``) refuse, too; what is computed
    from it is an ordinary tensor.
    """

    @classmethod
    @uncompiled
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as with an ordinary tensor, unless a weight is written to."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        written = [kwargs.get("out")]
        if _WRITES.fullmatch(name):
            written += [*args[:1], *(kwargs.get(key) for key in ("self", "input", "tensor"))]
        listed = [x for each in written for x in (each if isinstance(each, list) else [each])]
        if any(_is_weight(x) for x in listed):
            raise not_written(name)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if getattr(func, "__self__", None) is torch.Tensor._base:
            return result  # torch's compiler asks a view for its base until there is none
        return cls._views(result, [x for x in args[:1] if _is_weight(x)])

    @classmethod
    def _views(cls, result: Any, given: list[torch.Tensor]) -> Any:
        """Return a result whose views of a weight refuse to be written to."""
        if isinstance(result, list | tuple) and type(result) in (list, tuple):
            return type(result)(cls._views(x, given) for x in result)
        if given and type(result) is torch.Tensor and result.layout == torch.strided:
            places = [x.untyped_storage().data_ptr() for x in (result, *given)]
            return result.as_subclass(cls) if places[0] == places[1] != 0 else result
        return result

    def __repr__(self) -> str:  # type: ignore[override]  # torch's has an option
        """As of an ordinary tensor."""
        return repr(self.as_subclass(torch.Tensor))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as an ordinary tensor."""
        return self.detach().clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        """Return an ordinary tensor."""
        return self.detach().clone()


class OfLayers(nn.Module):
    """A module whose layers have the names of weights of torch's module: these cannot be set.

    Examples
    --------
    >>> module = OfLayers()
    >>> module.q_proj, module.bias_k = nn.Linear(4, 4), nn.Parameter(torch.zeros(1, 1, 4))
    >>> module.in_proj_weight = nn.Parameter(torch.ones(12, 4))
    Traceback (most recent call last):
    ValueError: expected a change of the layers q_proj, got a tensor for 'in_proj_weight', which ...
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a tensor in place of a layer, or where torch's module has a weight or bias."""
        layers: dict[str, Any] = self.__dict__.get("_modules", {})
        if isinstance(value, torch.Tensor) and (name in layers or _OF_TORCH.match(name)):
            raise ValueError(
                f"expected a change of the layers {', '.join(layers)}, got a tensor for {name!r}, "
                "which the module would not compute with; change values or bias of its layers, or "
                "call take(weight, bias) of one with a dense weight"
            )
        super().__setattr__(name, value)


def read_only(weight: torch.Tensor) -> torch.Tensor:
    """Return a dense weight that refuses to be written to; itself where torch follows operators.

    Examples
    --------
    >>> weight = read_only(torch.ones(2, 2))
    >>> weight + 1
    tensor([[2., 2.],
            [2., 2.]])
    >>> weight.data.fill_(0)
    Traceback (most recent call last):
    ValueError: expected a change of a sparse layer's values, got fill_ of its dense weight, ...
    """
    if composed(weight):
        return weight
    compiler: Any = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if compiler is not None:  # it cannot follow the class: functions given a weight stay uncompiled
        getattr(compiler, "nontraceable_tensor_subclasses", {DenseWeight}).add(DenseWeight)
    return weight.as_subclass(DenseWeight)


def check_module(model: Any) -> None:
    """Raise a ValueError unless `model` is a module of torch.

    Examples
    --------
    >>> check_module([])
    Traceback (most recent call last):
    ValueError: expected a torch.nn.Module, got list; several models go into a torch.nn.ModuleList
    """
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(
            f"expected a torch.nn.Module, got {got}; several models go into a torch.nn.ModuleList"
        )


def has_no_layers(module: nn.Module) -> bool:
    """Return whether a module is a table or a normalisation, whose parameters join no units.

    Examples
    --------
    >>> has_no_layers(nn.Embedding(5, 3)), has_no_layers(nn.LayerNorm([4, 5]))
    (True, True)
    """
    return isinstance(module, _NO_LAYERS) or bool(_NORM.search(type(module).__name__))


def low_rank_note(names: Iterable[str]) -> str:
    """Return a note about the layers of some names that are factors of low-rank changes.

    Adapters (LoRA) add the product of two small layers to a weight, of which the weight alone shows
    nothing. Libraries call them ``lora_A`` and ``lora_B``, ``lora_down``, ``to_q_lora.up`` and the
    like.

    Examples
    --------
    >>> low_rank_note(["fc", "flora.fc"])
    ''
    >>> low_rank_note(["fc.base_layer", "fc.lora_A.default", "fc.lora_B.default"])
    'fc.lora_A.default, fc.lora_B.default are factors of low-rank changes (LoRA), listed as ...'
    """
    found = [name for name in names if _LOW_RANK.search(name)]
    if not found:
        return ""
    return (
        f"{first_few(found, _NAMED)} are factors of low-rank changes (LoRA), listed as "
        "layers; the weights that they change are read without them: merge them into the weights "
        "(in peft merge_and_unload()) to read what the model computes with"
    )


def weights_of(module: nn.Module) -> list[Weight] | None:
    """Return the weights of a module's layers; None for a module of no known kind.

    Examples
    --------
    >>> [(weight.layer, weight.leaf) for weight in weights_of(nn.MultiheadAttention(4, 2))]
    [('q_proj', 'in_proj_weight'), ('k_proj', 'in_proj_weight'), ('v_proj', 'in_proj_weight')]
    >>> weights_of(nn.ConvTranspose2d(4, 6, 3, groups=2))[0].groups
    2
    """
    for kind, weights in _KINDS:
        if isinstance(module, kind):
            return weights(module)
    if any(kind.__name__ == "Conv1D" for kind in type(module).__mro__):
        held = module._parameters.get("weight", module.__dict__.get("weight"))
        if hasattr(module, "nf") or (held is not None and held.ndim == 2):
            return [Weight("", "weight", "in_out")]  # of GPT-2: y = x @ weight + bias
    return None


def _of_convolution(module: Any) -> list[Weight]:
    stored = "transposed" if module.transposed else "out_in"
    return [Weight("", "weight", stored, int(module.groups))]


def _of_attention(module: Any) -> list[Weight]:
    names = ("q_proj", "k_proj", "v_proj")  # out_proj is a module of its own
    if module._qkv_same_embed_dim:
        return [Weight(n, "in_proj_weight", part=(i, 3)) for i, n in enumerate(names)]
    return [Weight(name, f"{name}_weight") for name in names]


def _of_recurrent(module: Any) -> list[Weight]:
    names = [name for layer in module._all_weights for name in layer]
    return [Weight(name, name) for name in names if name.startswith("weight")]


def _of_cell(module: Any) -> list[Weight]:
    return [Weight(name, name) for name in ("weight_ih", "weight_hh")]


_KINDS: tuple[tuple[Any, Callable[[Any], list[Weight]]], ...] = (
    (nn.Linear | nn.Bilinear, lambda module: [Weight("", "weight")]),
    (nn.modules.conv._ConvNd, _of_convolution),
    (nn.MultiheadAttention, _of_attention),
    (nn.RNNBase, _of_recurrent),
    (nn.RNNCellBase, _of_cell),
)


def joined(module: str, layer: str) -> str:
    """Return the name of a layer in a module: ``attn`` and ``q_proj`` give ``attn.q_proj``.

    Examples
    --------
    >>> joined("attn", "q_proj"), joined("fc1", ""), joined("", "weight_ih")
    ('attn.q_proj', 'fc1', 'weight_ih')
    """
    return ".".join(name for name in (module, layer) if name)


def matrix_of(weight: Weight, tensor: torch.Tensor) -> torch.Tensor:
    """Return a stored tensor as the matrix ``(n_out, n_in / groups)`` of the possible edges.

    A convolution's inputs are its input channels times the cells of its kernel, in the order of
    ``weight.flatten(1)``. `torch.nn.Bilinear` has the pairs of its two inputs.

    Examples
    --------
    >>> up = nn.ConvTranspose1d(4, 6, 3, groups=2)
    >>> matrix_of(weights_of(up)[0], up.weight).shape
    torch.Size([6, 6])
    """
    number, count = weight.part
    if count > 1:
        tensor = tensor.chunk(count)[number]
    if weight.stored == "in_out":
        return tensor.t()
    if weight.stored == "transposed":
        groups, width = weight.groups, tensor.shape[1]
        blocks = tensor.reshape(groups, tensor.shape[0] // groups, width, -1)
        return blocks.transpose(1, 2).reshape(groups * width, -1)
    return tensor.reshape(tensor.shape[0], -1)


def graph_of(weight: Weight, tensor: torch.Tensor) -> LayerGraph:
    """Return the graph of the entries of a stored tensor that are not zero.

    Of a sparse tensor, every stored entry is an edge.

    Examples
    --------
    >>> conv = nn.Conv2d(6, 6, 3, groups=6)
    >>> graph_of(weights_of(conv)[0], conv.weight)
    LayerGraph(54 -> 6, 54 edges)
    """
    if tensor.layout == torch.strided:
        matrix = matrix_of(weight, tensor.detach() != 0)
        n_out, width = matrix.shape
        ids = torch.nonzero(matrix.reshape(-1)).reshape(-1).cpu().numpy()
    else:
        rows, columns = tensor.detach().to_sparse_coo().coalesce().indices().cpu().numpy()
        (n_out, width), pair = tuple(tensor.shape), (rows, columns)
        if weight.stored == "in_out":
            (n_out, width), pair = (width, n_out), (columns, rows)
        ids = pair[0] * width + pair[1]
    shape = (int(n_out), int(width) * weight.groups)
    return LayerGraph.from_ids_in_groups(ids, shape, weight.groups)


def compressed_matrix(tensor: torch.Tensor) -> Any:
    """Return a tensor of compressed rows or columns, of numbers or blocks, as a matrix of scipy.

    Its numbers are True at each stored entry.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # torch calls them beta
    ...     compressed_matrix(torch.eye(4).to_sparse_bsc((2, 2))).nnz
    8
    """
    shape = int(tensor.shape[0]), int(tensor.shape[1])
    by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    pointers = (tensor.crow_indices() if by_row else tensor.ccol_indices()).numpy()
    inner = (tensor.col_indices() if by_row else tensor.row_indices()).numpy()
    stored = np.ones(tuple(tensor.values().shape), bool)
    if tensor.layout not in BLOCKS:
        build = sp.csr_array if by_row else sp.csc_array
        return build((stored, inner, pointers), shape=shape)
    if by_row:
        return sp.bsr_array((stored, inner, pointers), shape=shape)
    turned = stored.transpose(0, 2, 1)  # scipy has blocks by rows only
    return sp.bsr_array((turned, inner, pointers), shape=shape[::-1]).T


def check_kind(module: object, kind: type[nn.Module]) -> None:
    """Raise a TypeError unless a module is of a kind.

    Examples
    --------
    >>> check_kind(nn.Linear(2, 1), nn.LSTM)
    Traceback (most recent call last):
    TypeError: expected a torch.nn.LSTM, got Linear
    """
    if not isinstance(module, kind):
        raise TypeError(f"expected a torch.nn.{kind.__name__}, got {type(module).__name__}")


def check_layers(layers: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise a ValueError unless there is a layer of each name, and no other.

    Examples
    --------
    >>> check_layers({"q_proj": nn.Linear(2, 2)}, ["q_proj", "out_proj"])
    Traceback (most recent call last):
    ValueError: expected q_proj, out_proj, got q_proj
    """
    if {*layers} != {*names}:
        raise ValueError(f"expected {', '.join(names)}, got {', '.join(layers)}")


def linear_of(
    matrix: torch.Tensor, bias: torch.Tensor | None, *, trained: tuple[bool, bool]
) -> nn.Linear:
    """Return a dense linear layer with copies of an (n_out, n_in) matrix and a bias.

    `trained` says of each whether it requires gradients.

    Examples
    --------
    >>> linear_of(torch.ones(2, 3), None, trained=(False, False))
    Linear(in_features=3, out_features=2, bias=False)
    """
    n_out, n_in = matrix.shape
    layer = nn.Linear(n_in, n_out, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(matrix.detach().clone(), requires_grad=trained[0])
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=trained[1])
    return layer


def thirds(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the three equal parts of a tensor's rows.

    Examples
    --------
    >>> [part.tolist() for part in thirds(torch.arange(6))]
    [[0, 1], [2, 3], [4, 5]]
    """
    third = tensor.shape[0] // 3
    whole = tensor.to_dense() if tensor.layout != torch.strided else tensor
    return tuple(whole[i * third : (i + 1) * third] for i in range(3))


def own_numbers(tensor: torch.Tensor) -> Any:
    """Return a tensor as an array of numpy, after checking that it has its own memory.

    Raises
    ------
    ValueError
        If it is sparse or without numbers, or claims more of them than there is memory.

    Examples
    --------
    >>> own_numbers(torch.arange(3)).tolist()
    [0, 1, 2]
    """
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError("a graph in tensors without numbers")
    check_bytes(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
    return tensor.cpu().numpy()


def transposed_note(state: Mapping[str, torch.Tensor]) -> str:
    """Return a note on layers of a state dict that are rather transposed convolutions; "" if none.

    Their kernels are stored as (n_in, n_out, ...), which a bias would show. Where there is none, it
    is a normalisation as the next part of the same module, with a number for each output; not
    where several convolutions come first, whose normalisations follow together.

    Examples
    --------
    >>> state = {"0.weight": torch.ones(4, 2, 3, 3), "1.weight": torch.ones(2)}
    >>> transposed_note(state).split(", but")[0]
    '0: read as (n_out, n_in)'
    >>> transposed_note({**state, "0.bias": torch.ones(2)})  # which shows it
    ''
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        prefix, _, leaf = key.rpartition(".")
        parts.setdefault(prefix, {})[leaf] = tensor
    found, before = [], ""
    for (name, own), (after, norm) in itertools.pairwise(parts.items()):
        kernels = [t for leaf, t in own.items() if t.ndim > 2 and leaf in _KERNELS]
        alike = name.rpartition(".")[0] == after.rpartition(".")[0]
        if kernels and "bias" not in own and alike and name != before:
            rows, columns = kernels[0].shape[:2]
            units = {len(t) for t in norm.values() if t.ndim == 1}
            if units == {columns} and rows != columns and all(t.ndim < 2 for t in norm.values()):
                found.append(name)
        before = after if kernels and alike else ""  # the part after a convolution
    return f"{first_few(found, _NAMED)}: {_TURNED}" if found else ""


# --- modules in place of others -------------------------------------------------------------------

_OF_MODULES = frozenset(nn.Module().__dict__)  # what torch keeps: parameters, children, hooks


def exchange_modules(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in place of others in a model, wherever its parts hold them; return the model.

    That is as children, and in what a ``forward`` may also call: attributes that are lists, tuples,
    sets, dicts, methods and partial functions, in any depth. A list that kept the old module would
    go on computing with it, while the new one, whose parameters are trained, computes nothing.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> model.order = [model[0], ("first", model[0].forward)]
    >>> _ = exchange_modules(model, {model[0]: nn.Linear(2, 2)})
    >>> model.order[0] is model[0], model.order[1][1].__self__ is model[0]
    (True, True)
    """
    exchanged: nn.Module = _exchanged(model, new, {})
    return exchanged


def _exchanged(value: Any, new: Mapping[nn.Module, nn.Module], seen: dict[int, Any]) -> Any:
    """Return a value with other modules in it; lists, sets, dicts and modules stay themselves."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, nn.Module):
        found = seen[id(value)] = new.get(value, value)
        if found is value:
            held = {k: v for k, v in value.__dict__.items() if k not in _OF_MODULES}
            for name, child in _changed(value._modules.items(), new, seen):
                value._modules[name] = child
            for name, other in _changed(held.items(), new, seen):
                value.__dict__[name] = other
        return found
    if isinstance(value, dict | list):
        seen[id(value)] = value
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, other in _changed(pairs, new, seen):
            value[key] = other
    elif isinstance(value, set):
        for old in [each for each in value if each in new]:
            value.remove(old)
            value.add(new[old])
    elif isinstance(value, tuple):
        parts = [_exchanged(part, new, seen) for part in value]
        if any(a is not b for a, b in zip(parts, value, strict=True)):
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    elif isinstance(value, types.MethodType):
        owner = _exchanged(value.__self__, new, seen)
        if owner is not value.__self__:
            return getattr(owner, value.__name__, value)
    elif isinstance(value, functools.partial):
        given = (value.func, value.args, value.keywords)
        function, args, keywords = (_exchanged(part, new, seen) for part in given)
        if function is not value.func or args is not value.args:
            return type(value)(function, *args, **keywords)
    return value


def _changed(
    pairs: Iterable[tuple[Any, Any]], new: Mapping[nn.Module, nn.Module], seen: dict[int, Any]
) -> list[tuple[Any, Any]]:
    """Return the pairs of which `_exchanged` gives another value, with that value."""
    after = [(key, old, _exchanged(old, new, seen)) for key, old in pairs]
    return [(key, found) for key, old, found in after if found is not old]

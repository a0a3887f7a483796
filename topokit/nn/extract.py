"""Read the topology of a torch module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from topokit.foreign import ReadingNote
from topokit.graph import LayerGraph, Topology
from topokit.nn.kinds import (
    Weight,
    graph_of,
    has_no_layers,
    joined,
    low_rank_note,
    weights_of,
)
from topokit.nn.layers import EdgeLayer
from topokit.nn.masks import (
    WEIGHT,
    inverted_note,
    is_coded,
    is_mask,
    is_of_weights,
    says_mask,
    why_unread,
)

__all__ = ["computed_name", "kept_edges", "layers_in", "parts_of", "topology_of_module"]

_NAMED = 8  # what a warning names at most


def topology_of_module(module: nn.Module) -> Topology:
    """Return the layers of a torch module; `topokit.topology_of` also reads other sources.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    dict of LayerGraph
        In the order of ``named_modules()``, under the layer's name there.

    Warns
    -----
    topokit.foreign.ReadingNote
        If matrices of parameters are left out, a weight is shared by two modules, or layers are
        factors of low-rank changes of others: names them.

    Raises
    ------
    ValueError
        If no layer was found, or one has no values yet.

    Notes
    -----
    O(number of weights).

    What a module's layers are:

    - ``Linear``; a class called ``Conv1D``, whose weight is (in, out) as in GPT-2; ``Bilinear``,
      whose inputs are the pairs of its two inputs.
    - Convolutions: output channels against input channels times kernel cells. Edges lie within the
      groups, so the density with g groups is at most 1 / g. Transposed ones likewise, with the
      cells as their weight stores them.
    - ``MultiheadAttention``: ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.
    - ``LSTM``, ``GRU``, ``RNN`` and their cells: ``weight_ih_l0``, ``weight_hh_l0``, ...; the gates
      are stacked, as torch stores them.
    - In other modules, tensors of at least two dimensions called ``weight`` or ``..._weight``. All
      other matrices of parameters are named in a warning.
    - Sparse layers have their graph, without edges whose values are pruned.
    - Embeddings and normalisations are no layers. A weight shared by two modules is one layer, with
      the first name; a warning names the other.

    Weights are those that the module computes with: weight norm, spectral norm, pruning and
    parametrizations are evaluated. A mask is what ``torch.nn.utils.prune`` keeps, and any tensor of
    the weight's shape called ``mask`` or ``<weight>_mask`` in the module, or with such a name in a
    parametrization (``torch.ao.pruning`` included), where the computed weight is zero wherever the
    mask is. A module whose mask has other numbers than 0 and 1, such as scores that are learnt, is
    left out; a mask of another shape, such as one for units, is named and not used.

    Examples
    --------
    >>> topology_of_module(nn.Linear(4, 3))
    {'weight': LayerGraph(4 -> 3, 12 edges)}
    """
    topology: Topology = {}
    notes: list[str] = []
    owners: dict[tuple[int, str], str] = {}
    for name, part in parts_of(module):
        if isinstance(part, EdgeLayer):
            topology[name or "layer"] = kept_edges(part.graph, part._buffers.get("values_mask"))
            continue
        if has_no_layers(part):
            continue
        if any(is_lazy(parameter) for parameter in part.parameters(recurse=False)):
            raise ValueError(
                f"expected initialised layers, got a lazy one at {name!r}; pass a batch through "
                "the model first"
            )
        weights, rest = layers_in(part)
        for weight in weights:
            layer = joined(name, weight.layer) or weight.leaf
            stored = part._parameters.get(weight.leaf)
            key = (id(stored), weight.layer if weight.part[1] > 1 else "")
            first = owners.setdefault(key, layer) if stored is not None else layer
            if first != layer:
                notes.append(f"{layer} holds the weight of {first}, which is listed once")
            else:
                pattern, why = _pattern(part, weight.leaf, layer)
                if why:
                    notes.append(f"{layer} is left out ({why})")
                    continue
                stored = part._parameters.get(f"{weight.leaf}_orig", stored)
                if stored is not None and pattern.shape == stored.shape and pattern is not stored:
                    notes += filter(None, [inverted_note(pattern, stored, layer)])
                if is_coded(pattern):
                    notes.append(f"{layer} has integers, of which 0 is taken for a weight of 0")
                if n := not_finite_in(pattern):
                    notes.append(f"{n} weights of {layer} are nan or infinite; they are edges")
                topology[layer] = graph_of(weight, pattern)
        notes += [f"{joined(name, leaf)} {tuple(shape)} is left out" for leaf, shape in rest]
        notes += [f"{joined(name, leaf)} is not used" for leaf in _unused_masks(part, weights)]
        if callable(getattr(type(part), "weight", None)):
            notes.append(f"{name or type(part).__name__}, which is quantized, is left out")
    if not topology:
        raise ValueError(
            "expected weights of layers in the module (sparse layers, or weights of at least two "
            "dimensions), found none" + "".join(f"; {note}" for note in notes)
        )
    if note := low_rank_note(topology):
        notes.insert(0, note)
    if notes:
        more = f"; and {len(notes) - _NAMED} more" if len(notes) > _NAMED else ""
        warnings.warn("; ".join(notes[:_NAMED]) + more, ReadingNote, stacklevel=3)
    return topology


def _unused_masks(part: nn.Module, weights: Iterable[Weight]) -> list[str]:
    """Return names and shapes of a layer's own masks that fit none of its weights."""
    masks = {
        leaf: tensor
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and tensor.numel() > 1 and is_of_weights(leaf)
    }
    tensors = [_computed(part, leaf) for leaf in {each.leaf for each in weights}] if masks else []
    return [
        f"{leaf} {tuple(mask.shape)}"
        for leaf, mask in masks.items()
        if tensors and not any(_fits(mask, tensor) for tensor in tensors)
    ]


def _zero_points(part: nn.Module) -> list[torch.Tensor]:
    """Return a module's own tensors whose name says zero, as that of zero points does."""
    own = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
    return [tensor for name, tensor in own.items() if "zero" in name]


def kept_edges(graph: LayerGraph, mask: torch.Tensor | None) -> LayerGraph:
    """Return a sparse layer's graph without the edges that a mask of its values leaves out."""
    if mask is None:
        return graph
    if mask.shape != (graph.n_edges,):
        raise ValueError(f"expected a mask of {graph.n_edges} edges, got {tuple(mask.shape)}")
    ids = graph.ids_in_groups[mask.cpu().numpy() != 0]
    return LayerGraph.from_ids_in_groups(ids, graph.shape, graph.groups)


def not_finite_in(tensor: torch.Tensor) -> int:
    """Return how many numbers of a tensor, of the stored ones if it is sparse, are not finite."""
    if tensor.layout != torch.strided:
        tensor = tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return 0
    try:
        return tensor.numel() - int(torch.isfinite(tensor).sum())
    except (RuntimeError, NotImplementedError):  # some kinds of 8 bits
        return tensor.numel() - int(torch.isfinite(tensor.float()).sum())


def parts_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model, without those that compute parametrizations."""
    inside = None
    for name, part in module.named_modules():
        if inside is not None and (name == inside or name.startswith(f"{inside}.")):
            continue
        inside = None
        if name.rpartition(".")[2] == "parametrizations":
            inside = name
            continue
        yield name, part


def layers_in(part: nn.Module) -> tuple[list[Weight], list[tuple[str, torch.Size]]]:
    """Return the weights of a module's own layers, and names and shapes of other matrices.

    In a module of an unknown kind, tensors called ``weight`` or ``..._weight`` are weights. They
    are taken for (n_in, n_out) if the length of the bias says so.
    """
    known = weights_of(part)
    weights, rest = list(known or []), []
    used = {weight.leaf for weight in weights}
    for leaf in _own_tensors(part):
        tensor = _computed(part, leaf)
        says = leaf.endswith("mask") or says_mask(leaf)
        if leaf in used or sum(n != 1 for n in tensor.shape) < 2 or says:
            continue
        if known is None and WEIGHT.fullmatch(leaf):
            layer = "" if leaf == "weight" else leaf
            weights.append(Weight(layer, leaf, _orientation(part, tensor)))
        elif leaf in part._parameters or leaf not in part._buffers:
            rest.append((leaf, tensor.shape))
    return weights, rest


def _own_tensors(part: nn.Module) -> list[str]:
    """Return the attributes with a module's own tensors, those that are computed under one name."""
    computed = {computed_name(hook): hook for hook in part._forward_pre_hooks.values()}
    computed.pop(None, None)
    pieces = {f"{name}{end}" for name in computed for end in ("_orig", "_g", "_v", "_u", "_mask")}
    names = [*computed, *getattr(part, "parametrizations", ())]
    for table in (part._parameters, part._buffers):
        names += [
            name for name, tensor in table.items() if tensor is not None and name not in pieces
        ]
    return names


def computed_name(hook: Any) -> str | None:
    """Return the name of the tensor that a hook of torch.nn.utils computes before each forward."""
    if isinstance(hook, WeightNorm | SpectralNorm):
        return hook.name
    return hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else None


def _orientation(part: nn.Module, tensor: torch.Tensor) -> str:
    bias = getattr(part, "bias", None)
    if tensor.ndim != 2 or not isinstance(bias, torch.Tensor) or bias.ndim != 1:
        return "out_in"
    n_rows, n_columns = tensor.shape
    return "in_out" if n_rows != len(bias) == n_columns else "out_in"


def _pattern(part: nn.Module, leaf: str, layer: str) -> tuple[torch.Tensor, str]:
    """Return a tensor that is not zero at the edges, a mask or else the computed weight.

    The text says why it is not known which edges there are; "" if it is.
    """
    tensor = _computed(part, leaf)
    if tensor.is_meta:
        raise ValueError(f"expected weights with values, got {layer!r} on the meta device")
    mask = _own_mask(part, leaf, tensor)
    if mask is None:
        return tensor, why_unread(tensor, _zero_points(part))
    return mask, "" if is_mask(mask) else "its mask has other numbers than 0 and 1"


@torch.no_grad()
def _computed(part: nn.Module, leaf: str) -> torch.Tensor:
    """Return a module's tensor as its next forward would compute it."""
    hooks: list[Any] = [h for h in part._forward_pre_hooks.values() if computed_name(h) == leaf]
    for hook in hooks:
        if isinstance(hook, SpectralNorm):
            return hook.compute_weight(part, do_power_iteration=False)
        return hook.compute_weight(part) if isinstance(hook, WeightNorm) else hook.apply_mask(part)
    modes = [(step, step.training) for steps in _steps(part, leaf) for step in steps.modules()]
    for step, _ in modes:  # some update buffers, or draw at random, in training
        step.training = False
    tensor = getattr(part, leaf)
    for step, training in modes:
        step.training = training
    return tensor


def _own_mask(part: nn.Module, leaf: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the mask of a weight, None without one.

    A mask is a tensor of the weight's shape, or one that broadcasts to it, called ``mask`` or
    ``<weight>_mask`` in the module itself, or with a name that ends with ``mask`` in one of the
    weight's parametrizations. That of a parametrization counts only if it has no numbers but 0 and
    1 (others are scores, of which a mask is computed) and the computed weight is zero wherever the
    mask is.
    """
    for name in (f"{leaf}_mask", f"mask_{leaf}", "mask"):
        mask = getattr(part, name, None)
        if isinstance(mask, torch.Tensor) and _fits(mask, tensor):
            return mask.expand_as(tensor)
    both = None
    for step in _steps(part, leaf):
        named = {**dict(step.named_parameters()), **dict(step.named_buffers())}
        for name, mask in named.items():
            if name.endswith("mask") and _fits(mask, tensor) and is_mask(mask):
                both = mask != 0 if both is None else both & (mask != 0)
    if both is None:
        return None
    both = both.expand_as(tensor)
    return both if not bool((tensor[~both] != 0).any()) else None


def _steps(part: nn.Module, leaf: str) -> Iterable[nn.Module]:
    """Return the parametrizations of one of a module's tensors."""
    if not is_parametrized(part, leaf):
        return ()
    return part.parametrizations[leaf]  # type: ignore[index]  # torch types it as a module


def _fits(mask: torch.Tensor, tensor: torch.Tensor) -> bool:
    pairs = zip(mask.shape, tensor.shape, strict=False)
    return mask.ndim == tensor.ndim and all(m in (1, n) for m, n in pairs)

"""What optimizers keep for each edge, and how it follows a layer's graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from topokit.graph import EdgeUpdate, LayerGraph
from topokit.nn.kernels.graphs import DeviceUpdate

__all__ = [
    "STARTS",
    "carried",
    "carry_state",
    "compacted",
    "find_holders",
    "stamp_of",
    "tensor_of",
    "unwrapped",
]

# One table for all optimizers: an entry of the state for each edge, and the start of a grown edge.
# Neutral is a start after which a grown edge moves about as far as the edges of its layer do, not
# several learning rates at once. For a sum or mean of gradients that is 0. For a sum or mean of
# squared gradients (a scale, by which a step is divided) it is the mean of the edges that stay: at
# 0, Adam's first step is three learning rates long. For a step length it is the first one; for a
# second copy of the weights it is the weight.
STARTS: dict[str, str] = {
    "momentum_buffer": "zero",  # SGD, RMSprop, Muon
    "exp_avg": "zero",  # Adam, AdamW, NAdam, RAdam, Adamax, Lion, Adan
    "exp_avg_sq": "mean",  # Adam, AdamW, NAdam, RAdam
    "max_exp_avg_sq": "mean",  # Adam, AdamW with amsgrad
    "exp_inf": "mean",  # Adamax
    "square_avg": "mean",  # RMSprop, Adadelta
    "grad_avg": "zero",  # RMSprop, centered
    "acc_delta": "mean",  # Adadelta
    "sum": "mean",  # Adagrad
    "variance": "mean",  # Adafactor
    "ax": "value",  # ASGD
    "prev": "zero",  # Rprop
    "step_size": "lr",  # Rprop
    "exp_avg_slow": "zero",  # AdEMAMix
    "exp_avg_diff": "zero",  # Adan
    "neg_pre_grad": "zero",  # Adan
    "z": "value",  # schedule-free SGD and AdamW
    "slow_buffer": "value",  # Lookahead
}
"""Start of a grown edge for each entry of an optimizer's state: "zero", "mean" (of the edges that
stay), "value" (its weight) or "lr" (the first learning rate)."""


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer of torch within a wrapper that has it as ``optimizer``.

    Wrappers of accelerate and Lightning are no full optimizers: they have no hooks.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"expected an optimizer of torch, got {type(optimizer).__name__}")
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        raise ValueError(
            "expected an optimizer that keeps the state of all parameters, got "
            "ZeroRedundancyOptimizer; use a plain one"
        )
    return optimizer


def find_holders(
    optimizers: Iterable[torch.optim.Optimizer], layers: Mapping[str, Any]
) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizer that holds each layer's values; layers of none are left out.

    Raises
    ------
    ValueError
        If a parameter is held by two of them.
    """
    owner: dict[int, torch.optim.Optimizer] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if owner.setdefault(id(parameter), optimizer) is not optimizer:
                    names = [n for n, layer in layers.items() if layer.values is parameter]
                    raise ValueError(
                        "expected each parameter in one optimizer, got "
                        f"{f'the values of {names[0]!r}' if names else 'one'} in two"
                    )
    return {
        name: owner[id(layer.values)] for name, layer in layers.items() if id(layer.values) in owner
    }


def stamp_of(graph: LayerGraph) -> int:
    """Return a number that differs for graphs with other edges, but for one pair in 2**32."""
    return crc32(graph.indices.tobytes(), crc32(graph.indptr.tobytes()))


def carry_state(
    optimizer: torch.optim.Optimizer,
    parameter: torch.Tensor,
    update: EdgeUpdate,
    values: NDArray[Any] | torch.Tensor,
    grown_state: str | Mapping[str, str] = "neutral",
) -> None:
    """Move everything an optimizer keeps for each edge of a layer to its new graph.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    parameter : torch.Tensor
        The layer's edge values, still of the old graph.
    update : EdgeUpdate
    values : (update.after.n_edges,) array or tensor
        Edge values of the new graph.
    grown_state : {"neutral", "zero"} or mapping
        The start of grown edges: as in `STARTS`, all 0, or as in `STARTS` with other entries named
        by the mapping.

    Notes
    -----
    Edges that stay keep their entries bit for bit; single numbers, such as counts of steps, stay
    as they are. State that is not one number for each edge (directions of LBFGS, preconditioners,
    quantized blocks) cannot follow a graph; it is reset, with a warning. O(n_edges).
    """
    if isinstance(optimizer, torch.optim.LBFGS):  # its directions are of all parameters together
        optimizer.state.clear()
        optimizer._numel_cache = None
        return
    state = optimizer.state.get(parameter)
    if not state:
        return
    kind, before = type(optimizer).__name__, (update.before.n_edges,)
    per_edge = [name for name, entry in state.items() if getattr(entry, "shape", None) == before]
    other = [name for name in state if name not in per_edge and not _is_single(state[name])]
    if other:
        state.clear()
        warnings.warn(
            f"the state {', '.join(map(repr, other))} of {kind} is not one number for each edge: "
            "what it keeps for a rewired layer starts anew at each rewiring",
            stacklevel=2,
        )
        return
    starts = {**STARTS, **(grown_state if isinstance(grown_state, Mapping) else {})}
    (group,) = (g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    for name in per_edge:
        if name not in starts and grown_state != "zero":
            warnings.warn(
                f"{kind} keeps {name!r} for each edge, which topokit does not know: edges that "
                f'stay keep it and grown edges start at 0; say grown_state={{{name!r}: "zero"}}, '
                'or "mean" or "value", when you attach',
                stacklevel=2,
            )
        start = "zero" if grown_state == "zero" else starts.get(name, "zero")
        state[name] = carried(update, state[name], _fill(start, update, state[name], values, group))


def _is_single(entry: Any) -> bool:
    """Return whether an entry of a state is no array: a number, a name, nothing."""
    if isinstance(entry, torch.Tensor):
        return entry.numel() == 1
    return entry is None or isinstance(entry, int | float | str)


def _fill(
    start: str,
    update: EdgeUpdate,
    entry: torch.Tensor,
    values: NDArray[Any] | torch.Tensor,
    group: Mapping[str, Any],
) -> Any:
    """Return what grown edges start from: a number, or a tensor that has one for every edge."""
    if start == "value":
        return tensor_of(values)
    if start == "lr":
        return float(group.get("initial_lr", group["lr"]))
    if start == "mean" and entry.numel():
        kept, grown = _moves(update, entry.device)
        stay = compacted(kept, ~grown, len(kept) - update.n_grown)
        some = entry[stay] if stay.numel() else entry
        return some.to(torch.promote_types(entry.dtype, torch.float32)).mean()
    return 0


def _moves(update: EdgeUpdate, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the source of each edge, with 0 for grown ones, and the mask of these, on a device."""
    if isinstance(update, DeviceUpdate):
        return update.kept.to(device), update.new.to(device)
    source = torch.from_numpy(np.array(update.source)).to(device)
    return source.clamp(min=0), source < 0


def carried(update: EdgeUpdate, per_edge: torch.Tensor, fill: Any = 0) -> torch.Tensor:
    """Return a per-edge tensor, of any dtype on any device, as `EdgeUpdate.carry` does.

    `fill` may also be a tensor that has a number for every edge, of which grown edges get theirs.
    """
    kept, grown = _moves(update, per_edge.device)
    moved = per_edge[kept] if per_edge.numel() else per_edge.new_zeros(update.after.n_edges)
    if torch.is_tensor(fill):
        return torch.where(grown, fill.to(moved), moved)
    return moved.masked_fill_(grown, fill)


def tensor_of(values: NDArray[Any] | torch.Tensor) -> torch.Tensor:
    """Return a tensor itself, or a copy of an array as one."""
    return values if torch.is_tensor(values) else torch.from_numpy(np.array(values))


def compacted(x: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``x[mask]``, given the number of its elements, so that no device is waited for.

    Where they are more, those beyond the number are left out; where fewer, the rest are zeros.

    Examples
    --------
    >>> compacted(torch.tensor([4, 5, 6]), torch.tensor([True, False, True]), 2)
    tensor([4, 6])
    """
    # All others to a place that is cut off.
    place = torch.where(mask, mask.cumsum(0) - 1, count).clamp_(max=count)
    return x.new_zeros(count + 1).scatter_(0, place, x)[:count]

"""What optimizers keep for each edge, and how it follows a layer's graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
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
    "entries_of",
    "find_holders",
    "keepers_of",
    "kept_outside",
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
    "slow_param": "value",
    "slow_params": "value",
    "lookahead_slow_buff": "value",
    "slow_momentum": "zero",
    "old_p": "value",  # SAM
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
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ValueError(
            "expected an optimizer whose steps torch lets others count, got "
            f"{type(optimizer).__name__}, whose __init__ does not call that of "
            "torch.optim.Optimizer; attach the one within it"
        )
    if not getattr(type(optimizer).step, "hooked", False):  # as its first zero_grad would do
        optimizer._patch_step_function()
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


# Optimizers within others.
#
# SAM makes steps with an optimizer that it holds; Lookahead keeps slow weights in a state of its
# own around another. Whichever of them `attach` is given, each may have entries for every edge.
# They are found through attributes, from wrappers inwards; a state that two share is moved once.

NESTED = 4  # lists and dictionaries within each other that are looked into


def keepers_of(given: Iterable[Any]) -> list[Any]:
    """Return optimizers and wrappers of them with all optimizers that these hold, each once.

    Examples
    --------
    >>> inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    >>> outer = torch.optim.SGD(inner.param_groups, lr=0.1)
    >>> outer.base_optimizer = inner
    >>> keepers_of([outer]) == [outer, inner]
    True
    """
    found: list[Any] = []
    waiting = [*given]
    while waiting:
        keeper = waiting.pop(0)
        if any(keeper is each for each in found):
            continue
        found.append(keeper)
        inner = getattr(keeper, "optimizer", None)  # may be a property: see `unwrapped`
        for content in [inner, *getattr(keeper, "__dict__", {}).values()]:
            waiting += [x for x in _within(content, 1) if isinstance(x, torch.optim.Optimizer)]
    return found


def entries_of(keepers: Iterable[Any], parameter: torch.Tensor) -> list[tuple[Any, dict[str, Any]]]:
    """Return what each of some optimizers keeps for a parameter, that of a shared state once."""
    found: dict[int, tuple[Any, dict[str, Any]]] = {}
    for keeper in keepers:
        state = getattr(keeper, "state", None)
        entry = state.get(parameter) if isinstance(state, Mapping) else None
        if entry and isinstance(entry, dict):
            found.setdefault(id(entry), (keeper, entry))
    return list(found.values())


def kept_outside(keepers: list[Any], values: Iterable[torch.Tensor]) -> str:
    """Return where an optimizer keeps numbers for each edge outside its state; "" if nowhere.

    Such are lists of slow weights, or one vector of them: by position, and the same position is
    another edge after a rewiring. A place counts if it has tensors of the shapes of all `values`,
    or one as long as all parameters together.

    Examples
    --------
    >>> values = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = torch.optim.SGD([values], lr=0.1)
    >>> optimizer.slow_weights = [values.detach().clone()]
    >>> kept_outside([optimizer], [values])
    "'slow_weights' of SGD"
    """
    wanted = {value.shape for value in values}
    states = [getattr(keeper, "state", None) for keeper in keepers]
    for keeper in keepers:
        groups = getattr(keeper, "param_groups", None) or []
        own = {id(p): p.numel() for group in groups for p in group["params"]}
        places = {**getattr(keeper, "__dict__", {})}
        for name in ("param_groups", "defaults"):
            places.pop(name, None)
        state = places.pop("state", None)
        if isinstance(state, Mapping):
            places["state"] = [v for key, v in state.items() if not torch.is_tensor(key)]
        for name in {name for group in groups for name in group} - {"params"}:
            places[name] = [group.get(name) for group in groups]
        for name, content in places.items():
            if any(content is each for each in states):
                continue
            shapes = {x.shape for x in _within(content) if torch.is_tensor(x) and id(x) not in own}
            if wanted and (wanted <= shapes or torch.Size([sum(own.values())]) in shapes):
                return f"{name!r} of {type(keeper).__name__}"
    return ""


def _within(content: Any, depth: int = NESTED) -> Iterator[Any]:
    """Yield an object, or what lists and dictionaries in it hold."""
    if isinstance(content, Mapping | list | tuple) and depth >= 0:
        for each in content.values() if isinstance(content, Mapping) else content:
            yield from _within(each, depth - 1)
    else:
        yield content


def stamp_of(graph: LayerGraph) -> int:
    """Return a number that differs for graphs with other edges, but for one pair in 2**32."""
    return crc32(graph.indices.tobytes(), crc32(graph.indptr.tobytes()))


def carry_state(
    optimizer: Any,
    parameter: torch.Tensor,
    update: EdgeUpdate,
    values: NDArray[Any] | torch.Tensor,
    grown_state: str | Mapping[str, str] = "neutral",
    *,
    done: int | None = None,
) -> None:
    """Move everything an optimizer keeps for each edge of a layer to its new graph.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer or list
        One, or several with their wrappers. What optimizers within them keep is moved, too: see
        `keepers_of`.
    parameter : torch.Tensor
        The layer's edge values, still of the old graph.
    update : EdgeUpdate
    values : (update.after.n_edges,) array or tensor
        Edge values of the new graph.
    grown_state : {"neutral", "zero"} or mapping
        The start of grown edges: as in `STARTS`, all 0, or as in `STARTS` with other entries named
        by the mapping.
    done : int, optional
        The stamp of the new graph (`stamp_of`): a state that has it stays as it is.

    Notes
    -----
    Edges that stay keep their entries bit for bit; single numbers, such as counts of steps, stay
    as they are. State that is not one number for each edge (directions of LBFGS, preconditioners,
    quantized blocks) cannot follow a graph; it is reset, with a warning. O(n_edges).
    """
    if not isinstance(optimizer, list):
        unwrapped(optimizer)  # raises an error if it is none
    keepers = keepers_of(optimizer if isinstance(optimizer, list) else [optimizer])
    groups = [group for keeper in keepers for group in getattr(keeper, "param_groups", ())]
    group: Mapping[str, Any] = next(
        (g for g in groups if any(p is parameter for p in g["params"])), {}
    )
    reset = [keeper for keeper in keepers if isinstance(keeper, torch.optim.LBFGS)]
    for keeper in reset:  # its directions are of all parameters together
        if done is None or keeper.state.get(parameter, {}).get("graph") != done:
            keeper.state.clear()
            keeper._numel_cache = None
    for keeper, state in entries_of([k for k in keepers if k not in reset], parameter):
        if done is None or state.get("graph") != done:
            _carry(type(keeper).__name__, state, update, values, grown_state, group)


def _carry(
    kind: str,
    state: dict[str, Any],
    update: EdgeUpdate,
    values: NDArray[Any] | torch.Tensor,
    grown_state: str | Mapping[str, str],
    group: Mapping[str, Any],
) -> None:
    """Move what one optimizer keeps for a layer."""
    before = (update.before.n_edges,)
    per_edge = [name for name, entry in state.items() if getattr(entry, "shape", None) == before]
    other = [name for name in state if name not in per_edge and not _is_single(state[name])]
    if other:
        state.clear()
        warnings.warn(
            f"the state {', '.join(map(repr, other))} of {kind} is not one number for each edge: "
            "what it keeps for a rewired layer starts anew at each rewiring",
            stacklevel=3,
        )
        return
    starts = {**STARTS, **(grown_state if isinstance(grown_state, Mapping) else {})}
    for name in per_edge:
        if name not in starts and grown_state != "zero":
            warnings.warn(
                f"{kind} keeps {name!r} for each edge, which topokit does not know: edges that "
                f'stay keep it and grown edges start at 0; say grown_state={{{name!r}: "zero"}}, '
                'or "mean" or "value", when you attach',
                stacklevel=3,
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

"""What is done to ``torch.nn.parallel.DistributedDataParallel`` around a model that is rewired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import nn

from topokit.nn.layers import EdgeLayer, sparse_layers

__all__ = [
    "WRAPPER",
    "bare",
    "check_torch",
    "fit_wrappers",
    "keep_graphs_local",
    "make_reducer",
    "refuse_join",
    "with_state",
]

WRAPPER = nn.parallel.DistributedDataParallel
BUFFERS = ("indptr", "indices", "shape")
# What DistributedDataParallel has without promising it; there from torch 2.6 to 2.14.
UNPROMISED = (
    "_assign_modules_buffers", "_build_debug_param_to_name_mapping", "_build_params_for_reducer",
    "_ddp_init_helper", "_join_config", "parameters_to_ignore", "reducer", "static_graph",
)  # fmt: skip


def bare(model: nn.Module) -> nn.Module:
    """Return the model that DistributedDataParallel wraps; others as they are."""
    return model.module if isinstance(model, WRAPPER) else model


def check_torch(wrapper: WRAPPER) -> None:
    """Raise a ValueError if DistributedDataParallel lacks what is needed to rewire its model."""
    missing = [name for name in UNPROMISED if not hasattr(wrapper, name)]
    if missing:
        raise ValueError(_other_torch(f"it has no {', '.join(missing)}"))


def _other_torch(what: str) -> str:
    return (
        f"the DistributedDataParallel of torch {torch.__version__} is not one whose model topokit "
        f"knows how to rewire ({what}); use a version from 2.6 to 2.14, or reduce the gradients "
        "before each step with topokit.nn.distributed.reduce_gradients"
    )


def keep_graphs_local(
    wrappers: Iterable[WRAPPER], model: nn.Module, layers: Mapping[str, EdgeLayer]
) -> None:
    """Keep DistributedDataParallel from sending the graphs at every forward pass.

    The processes agree on the graphs. Sent anyway, in place, they would be checked and indexed
    anew at every step. A later wrapper reads the attribute of the model that it wraps, an existing
    one has read it already.
    """
    names = {f"{name}.{buffer}" if name else buffer for name in layers for buffer in BUFFERS}
    known = getattr(model, "_ddp_params_and_buffers_to_ignore", ())
    model._ddp_params_and_buffers_to_ignore = sorted({*known, *names})  # type: ignore[assignment]  # list
    for wrapper in wrappers:
        inner = {id(layer) for layer in layers.values()}
        for name, layer in sparse_layers(wrapper.module).items():
            if id(layer) in inner:
                wrapper.parameters_to_ignore |= {
                    f"{name}.{buffer}" if name else buffer for buffer in BUFFERS
                }
        wrapper._assign_modules_buffers()  # it sends none only if this list was empty before


def fit_wrappers(wrappers: Iterable[WRAPPER], names: Iterable[str]) -> None:
    """Make DistributedDataParallel expect gradients of the new lengths of some layers, `names`.

    Raises
    ------
    ValueError
        If a communication hook keeps a state for each bucket.
    """
    for wrapper in wrappers:
        for hook in with_state(wrapper):
            raise ValueError(
                f"the number of edges of {', '.join(names)} changed, and the communication hook "
                f"{hook} keeps a state of the old sizes; use a hook without state, or a rule that "
                "keeps the number of edges"
            )
        make_reducer(wrapper)


def with_state(wrapper: WRAPPER) -> list[str]:
    """Return the names of communication hooks that have a state besides a process group."""
    hooks = getattr(wrapper, "_comm_hooks", ())
    return [
        getattr(hook, "__name__", str(hook))
        for hook, state in hooks
        if not isinstance(state, type(None) | dist.ProcessGroup)
    ]


def make_reducer(wrapper: WRAPPER) -> None:
    """Give DistributedDataParallel a reducer for the present sizes of its parameters.

    A reducer copies gradients into buckets laid out for the lengths it was made with, and is called
    by hooks on the parameters' gradient accumulators, which are new where a length changed
    (`EdgeLayer.replace_graph`). So a new one is made, in the way DistributedDataParallel itself
    makes one when it is unpickled. Not collective; O(parameters).

    Raises
    ------
    ValueError
        If this version of torch makes one in another way.
    """
    before = wrapper.reducer
    parameters, sparse = wrapper._build_params_for_reducer()
    mapping = wrapper._build_debug_param_to_name_mapping(parameters)
    try:
        wrapper._ddp_init_helper(parameters, sparse, mapping, wrapper.static_graph)
    except TypeError as error:
        raise ValueError(_other_torch(str(error))) from error
    if wrapper.reducer is before:
        raise ValueError(_other_torch("its reducer stayed as it was"))
    if wrapper.static_graph:
        wrapper._static_graph_delay_allreduce_enqueued = False  # the next step is the first
        wrapper.reducer._set_static_graph()
        wrapper.logger._set_static_graph()  # type: ignore[union-attr]  # is set
    for hook, state in getattr(wrapper, "_comm_hooks", ()):
        dist._register_comm_hook(wrapper.reducer, state, hook)


def refuse_join(models: Iterable[WRAPPER]) -> None:
    """Raise a ValueError within ``DistributedDataParallel.join``.

    A process that has used up its data takes no further steps there, and could not rewire.
    """
    for wrapper in models:
        if wrapper._join_config.enable:
            raise ValueError(
                "expected the same number of steps in every process, got a loop within "
                "DistributedDataParallel.join; use a sampler that gives every process as many "
                "batches (torch.utils.data.DistributedSampler)"
            )

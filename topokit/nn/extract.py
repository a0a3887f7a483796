"""Read the topology of a torch module, a state dict or a checkpoint file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topokit.graph import Topology
from topokit.nn.checkpoints import layers_of, mask_of, read_checkpoint, topology_of_state

__all__ = ["topology_of", "topology_of_module"]


def topology_of(
    source: nn.Module | Mapping[str, Any] | str | os.PathLike[str],
) -> Topology:
    """Return the topology of a network: the edges of each of its layers.

    Parameters
    ----------
    source : torch.nn.Module, mapping of tensors, or path
        A model, a ``state_dict`` (also one inside a checkpoint's ``state_dict`` or ``model``),
        or a file of one: ``.pt``, ``.pth``, ``.ckpt`` or ``.bin``, read with
        ``weights_only=True``, or ``.safetensors``. No code in a file is run.

    Returns
    -------
    dict of LayerGraph
        In the order of the state, under the layer's name (``fc1`` for ``fc1.weight``, but
        ``attn.in_proj_weight``). A layer's edges are the first of these that exists: the graph of a
        topokit layer (exact); the mask of ``torch.nn.utils.prune`` or of a parametrization
        (exact); the pattern of a sparse tensor; the weights that are not zero. In the last case
        an edge whose weight is exactly zero cannot be seen. A layer without zeros has density 1.
        Weights of more than two dimensions (convolutions) are flattened: shape ``(n_out, in *
        kernel)``. Vectors do not count as layers; nor, in a module, do embeddings. (In a bare state
        dict an embedding cannot be distinguished from a linear layer and is listed as one.)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, holds anything but tensors, or no layer was found.
    TypeError
        If `source` is none of these.

    Notes
    -----
    O(number of weights).

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> topology_of(model)
    {'0': LayerGraph(4 -> 3, 12 edges), '2': LayerGraph(3 -> 2, 6 edges)}
    """
    if isinstance(source, nn.Module):
        return topology_of_module(source)
    if isinstance(source, Mapping):
        return topology_of_state(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"expected a checkpoint, found no file at {path}")
        return topology_of_state(read_checkpoint(path), str(path))
    raise TypeError(f"expected a torch module, a state dict or a path, got {type(source).__name__}")


def topology_of_module(module: nn.Module) -> Topology:
    """Return the layers of a torch module; see `topology_of`.

    Examples
    --------
    >>> topology_of_module(nn.Linear(4, 3))
    {'weight': LayerGraph(4 -> 3, 12 edges)}
    """
    return layers_of(_module_state(module), "the module")


def _module_state(module: nn.Module) -> dict[str, Any]:
    """Return a module's state with parametrizations computed and embeddings left out."""
    state = dict(module.state_dict())
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(part, nn.Embedding | nn.EmbeddingBag):
            state.pop(f"{prefix}weight", None)
        if isinstance(part, nn.modules.conv._ConvTransposeNd):
            for key in ("weight", "weight_orig", "weight_mask"):
                if prefix + key in state:
                    state[prefix + key] = state[prefix + key].transpose(0, 1)
        for leaf in getattr(part, "parametrizations", {}):
            if mask_of(state, f"{prefix}parametrizations.{leaf}.") is None:
                with torch.no_grad():
                    state[f"{prefix}parametrizations.{leaf}.original"] = getattr(part, leaf)
    return state

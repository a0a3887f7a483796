"""Read the layers of a state dict, and checkpoint files of torch and of safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topokit.graph import LayerGraph, Topology

__all__ = ["layers_of", "mask_of", "read_checkpoint", "topology_of_state"]

_WEIGHT = re.compile(r"(?:(?P<layer>.*)\.)?(?P<leaf>(?:\w+_)?weight(?:_(?:ih|hh)_l\d+\w*)?)")
_MASK = re.compile(r"(?P<layer>.*?)\.?parametrizations\.(?P<leaf>\w+)\.\d+\.\w+")
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")

_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def topology_of_state(content: Any, where: str = "the state dict") -> Topology:
    """Return the layers of a state dict, or of the one in a checkpoint; see `topology_of`.

    Parameters
    ----------
    content : mapping of tensors
        Or a checkpoint, a mapping that has one in its ``state_dict`` or ``model``.
    where : str
        What it came from, for messages.

    Raises
    ------
    ValueError
        If no layer was found, or a stored graph is damaged.

    Examples
    --------
    >>> topology_of_state({"fc1.weight": torch.tensor([[0.0, 1.0], [2.0, 3.0]])})
    {'fc1': LayerGraph(2 -> 2, 3 edges)}
    """
    return layers_of(_unwrapped(content), where)


def _unwrapped(content: Any) -> Mapping[str, Any]:
    """Return the state dict in a checkpoint: the content itself or a well-known entry of it."""
    if isinstance(content, Mapping) and not any(_is_layer_key(key) for key in content):
        for name in _NESTED:
            if isinstance(content.get(name), Mapping):
                return _unwrapped(content[name])
    return content if isinstance(content, Mapping) else {}


def _is_layer_key(key: Any) -> bool:
    return isinstance(key, str) and bool(
        key.rpartition(".")[2] in ("indptr", "weight_orig")
        or _WEIGHT.fullmatch(key)
        or _MASK.fullmatch(key)
    )


def layers_of(state: Mapping[str, Any], where: str) -> Topology:
    """Return the layers of a state dict, in the order of its keys."""
    topology: Topology = {}
    for key, entry in state.items():
        if not isinstance(key, str) or not isinstance(entry, torch.Tensor):
            continue
        layer, _, leaf = key.rpartition(".")
        prefix = f"{layer}." if layer else ""
        name = layer or leaf
        if leaf == "indptr" and {f"{prefix}indices", f"{prefix}shape"} <= state.keys():
            topology[layer or "layer"] = _stored(state, prefix, where)
        elif leaf.endswith("_orig") and f"{prefix}{leaf[:-5]}_mask" in state:
            mask = state[f"{prefix}{leaf[:-5]}_mask"]
            _add(topology, name if leaf == "weight_orig" else f"{prefix}{leaf[:-5]}", mask)
        elif leaf == "original" and "parametrizations." in key:
            outer, _, inner = layer.rpartition("parametrizations.")
            mask = mask_of(state, prefix)
            label = outer.rstrip(".") or inner if inner == "weight" else f"{outer}{inner}"
            _add(topology, label, entry if mask is None else mask)
        elif _WEIGHT.fullmatch(key):
            _add(topology, name if leaf == "weight" else key, entry)
    if not topology:
        raise ValueError(
            f"expected weights of layers (keys such as 'fc1.weight' with at least two dimensions) "
            f"in {where}, found none"
        )
    return topology


def mask_of(state: Mapping[str, Any], prefix: str) -> torch.Tensor | None:
    """Return a parametrization's 0/1 buffer of the weight's shape, None if there is none."""
    original = state.get(f"{prefix}original")
    for key, entry in state.items():
        fits = (
            key.startswith(prefix)
            and key != f"{prefix}original"
            and isinstance(entry, torch.Tensor)
            and isinstance(original, torch.Tensor)
            and entry.shape == original.shape
        )
        if fits and (entry.dtype == torch.bool or bool(((entry == 0) | (entry == 1)).all())):
            return entry
    return None


def _stored(state: Mapping[str, Any], prefix: str, where: str) -> LayerGraph:
    """Return the graph that a topokit layer stores."""
    indptr, indices, shape = (
        state[prefix + name].detach().cpu().numpy() for name in ("indptr", "indices", "shape")
    )
    try:
        n_out, n_in = (int(n) for n in shape)
        return LayerGraph((n_out, n_in), np.array(indptr), np.array(indices))
    except (ValueError, TypeError) as error:
        raise ValueError(f"damaged graph of layer {prefix[:-1]!r} in {where}: {error}") from error


def _add(topology: Topology, name: str, weight: torch.Tensor) -> None:
    """Add the pattern of a weight of two or more dimensions."""
    if weight.ndim < 2:
        return
    weight = weight.detach().cpu()
    shape = (int(weight.shape[0]), int(np.prod(weight.shape[1:], dtype=np.int64)))
    if weight.layout != torch.strided:
        rows, columns = weight.to_sparse_coo().coalesce().indices().numpy()
        ids = rows * shape[1] + columns
    else:
        ids = torch.nonzero((weight != 0).reshape(-1)).reshape(-1).numpy()
    topology[name] = LayerGraph.from_edge_ids(ids, shape)


def read_checkpoint(path: Path) -> Any:
    """Return the content of a torch or safetensors file; raise a ValueError if it is damaged."""
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"expected a torch checkpoint of tensors only at {path}; it is damaged or holds other "
            f"objects, which are not loaded ({type(error).__name__}: {first[:160]})"
        ) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file: length of a JSON header, header, one buffer."""
    raw = path.read_bytes()
    try:
        length = int.from_bytes(raw[:8], "little")
        if len(raw) < 8 or length > len(raw) - 8:
            raise ValueError(f"a header of {length} bytes in a file of {len(raw)}")
        header = json.loads(raw[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        buffer = bytearray(raw[8 + length :])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(name, entry, buffer) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"expected a safetensors file at {path}, but it has {what}") from error


def _tensor(name: str, entry: dict[str, Any], buffer: bytearray) -> torch.Tensor:
    """Return a tensor of a safetensors buffer, after checking its position and size."""
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"the unknown dtype {entry['dtype']!r} at {name!r}")
    dtype, shape = _SAFETENSORS[entry["dtype"]], [int(n) for n in entry["shape"]]
    begin, end = (int(n) for n in entry["data_offsets"])
    count = int(np.prod(shape, dtype=np.float64)) if shape else 1
    right = min(shape, default=0) >= 0 and end - begin == count * dtype.itemsize
    if not right or not 0 <= begin <= end <= len(buffer):
        raise ValueError(
            f"a wrong size at {name!r}: bytes {begin}..{end} of {len(buffer)} for shape {shape}"
        )
    if not count:
        return torch.empty(shape, dtype=dtype)
    piece = buffer[begin:end]
    return torch.frombuffer(piece, dtype=dtype, count=count).reshape(shape)

"""The layers of a state dict: which entries are weights, which are masks, and how they lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from topokit.foreign import Reading, check_bytes, check_units, first_few, printable
from topokit.graph import LayerGraph, Topology
from topokit.graph.convert import from_coordinates, from_dense, stored_entries
from topokit.nn.extract import kept_edges, not_finite_in
from topokit.nn.kinds import (
    BLOCKS,
    COMPRESSED,
    compressed_matrix,
    low_rank_note,
    own_numbers,
    thirds,
    transposed_note,
)
from topokit.nn.masks import (
    DEPTH,
    MASK_WORDS,
    Masks,
    inverted_note,
    is_coded,
    is_mask,
    split_key,
    weight_name,
    why_unread,
    zero_points,
)

__all__ = ["topology_of_state"]

_NO_STATE = re.compile(r"(.*_)?(optim\w*|schedulers?)(_.*)?|masks?|sparsifier|scaler")

_MOST = 6  # names in a note


def topology_of_state(content: Any, options: Reading | None = None) -> Topology:
    """Return the layers of a state dict, or of the one in a checkpoint.

    `topokit.topology_of` describes what is read; this function raises no warning but collects
    notes.

    Parameters
    ----------
    content : mapping of tensors
        A state dict, or dictionaries that have one inside; other entries are ignored.
    options : Reading, optional
        Which state dict, which orientation; receives the notes.

    Returns
    -------
    dict of LayerGraph
        In the order of the keys.

    Raises
    ------
    ValueError
        If there is no layer, there are several state dicts and none was chosen, the orientation
        is undecided, or a stored graph is damaged.

    Notes
    -----
    O(number of weights).

    Examples
    --------
    >>> topology_of_state({"fc1.weight": torch.tensor([[0.0, 1.0], [2.0, 3.0]])})
    {'fc1': LayerGraph(2 -> 2, 3 edges)}
    """
    options = options or Reading()
    found = dict(_states_in(content, "", 0)) if isinstance(content, Mapping) else {}
    state = _chosen(content, found, options)
    masks = Masks(content, state, found)
    reader = _StateReader(state, masks, options)
    for key in state:
        reader.read(key)
    if not reader.topology:
        _read_masks_alone(reader, masks)
    reader.finish()
    return reader.topology


# --- finding the state dict ----------------------------------------------------------------------


def _chosen(content: Any, found: Mapping[str, Any], options: Reading) -> dict[str, torch.Tensor]:
    """Return the state dict to read, of those found by their paths."""
    if not isinstance(content, Mapping):
        raise ValueError(f"no dictionary of tensors but {type(content).__name__}")
    names = ", ".join(repr(printable(name)) for name in found)
    if options.entry is not None:
        if options.entry in found:
            return _tensors(found[options.entry])
        raise ValueError(f"no state dict {options.entry!r}; it has {names or 'none'}")
    if len(found) > 1:
        raise ValueError(
            f"several state dicts: {names}; choose one with entry={next(iter(found))!r} "
            "(--entry on the command line)"
        )
    return _tensors(next(iter(found.values()), content))


def _states_in(content: Mapping[Any, Any], path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the dictionaries that hold layers, with their paths; not those inside of them."""
    tensors = _tensors(content)
    if any(_is_layer(key, tensors) for key in tensors):
        yield path, content
    elif depth < DEPTH:
        for key, entry in content.items():
            if isinstance(key, str) and isinstance(entry, Mapping) and not _NO_STATE.fullmatch(key):
                yield from _states_in(entry, f"{path}.{key}" if path else key, depth + 1)


def _tensors(content: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a dictionary; arrays of numpy become tensors."""
    found = {}
    for key, entry in content.items():
        if isinstance(entry, np.ndarray) and entry.dtype.kind in "biuf":
            entry = torch.tensor(entry)
        if isinstance(key, str) and isinstance(entry, torch.Tensor):
            found[key] = entry.detach()
    return found


def _is_layer(key: str, state: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a key is that of a layer's weight or stored graph."""
    prefix, leaf = split_key(key)
    if leaf in ("indptr", "bitmask"):
        return f"{prefix}shape" in state
    return weight_name(prefix, leaf) is not None and state[key].ndim > 1


# --- reading the layers ---------------------------------------------------------------------------


def _read_masks_alone(reader: _StateReader, masks: Masks) -> None:
    """Read masks without weights: entries that say mask, or a state of zeros and ones only."""
    named = {name: tensor for name, tensor in masks.entries.items() if is_mask(tensor)}
    every = reader.state
    if not named and every and all(t.ndim > 1 and is_mask(t) for t in every.values()):
        named = dict(every)
    for name, tensor in named.items():
        words = [word for word in name.split(".") if word not in MASK_WORDS]
        layer = re.sub(r"(^mask_|_mask$)", "", ".".join(words)).removesuffix(".weight")
        reader.add(layer or name, tensor)
        masks.used.add(name)
        reader.used.add(name)
    if reader.topology:
        reader.notes.append(f"read as masks, without weights: {first_few(named, _MOST)}")


class _StateReader:
    """The layers found so far in a state dict, and what was noticed."""

    def __init__(self, state: dict[str, torch.Tensor], masks: Masks, options: Reading) -> None:
        self.state, self.masks, self.options = state, masks, options
        self.topology: Topology = {}
        self.used: set[str] = set()
        self.notes: list[str] = options.notes
        self.left_out: list[str] = []
        self.input_first: list[str] = []  # weights whose bias shows that they are (in, out)
        self.either: list[str] = []  # square weights, whose bias shows nothing
        self.against: list[str] = []
        self.turned: dict[bool, list[str]] = {True: [], False: []}  # by whether a bias agrees
        self.coded: list[str] = []  # weights as integers
        self.zero_points = zero_points(state)
        self.owners: dict[Any, str] = {}  # the layer of each piece of memory
        self.kernels = False  # whether a weight has more than two dimensions
        self.zeros = 0
        self.not_finite: dict[str, int] = {}

    def read(self, key: str) -> None:
        """Read the layer of which `key` is the weight or the stored graph, if it is of one."""
        prefix, leaf = split_key(key)
        if leaf == "indptr" and {f"{prefix}indices", f"{prefix}shape"} <= self.state.keys():
            self._read_stored(prefix)
        elif leaf == "bitmask" and {f"{prefix}compressed", f"{prefix}shape"} <= self.state.keys():
            self._put(prefix[:-1].removesuffix(".weight") or "layer", self._packed(prefix))
        elif (weight := weight_name(prefix, leaf)) is not None:
            self._read_weight(key, weight)

    def _read_stored(self, prefix: str) -> None:
        """Read the graph that a topokit layer stores, unless it is that of a layer before."""
        layer, graph = prefix[:-1] or "layer", self._stored(prefix)
        names = [prefix + name for name in ("indices", "values")]
        held = [self.state[name] for name in names if name in self.state]
        if not self._is_known(layer, *held):
            self._put(layer, graph)

    def _read_weight(self, key: str, weight: str) -> None:
        """Read the layer whose weight, of the name `weight`, is stored at `key`."""
        tensor = self.state[key]
        if tensor.ndim < 2 or key in self.used:
            return
        outer, base = split_key(weight)
        layer = outer[:-1] or base if base == "weight" else weight
        bias = self.state.get(outer + base.replace("weight", "bias"))
        if bias is not None and bias.shape == tensor.shape:  # one number for each unit
            return
        self.used.add(key)
        cells = self._cells(key, weight, tensor, layer)
        if cells is None:
            return
        input_first = self._input_first(key, tensor, bias)
        if input_first is None:
            self.left_out.append(
                f"{layer} (a grouped transposed convolution, of which the model knows the groups)"
            )
            return
        if base == "in_proj_weight" and not input_first and cells.shape[0] % 3 == 0:
            for part, piece in zip("qkv", thirds(cells), strict=True):
                self.add(f"{outer}{part}_proj", piece)
            return
        if re.fullmatch("[qkv]_proj_weight", base):
            layer = f"{outer}{base[:6]}"
        self.add(layer, cells, input_first=input_first)

    def _cells(
        self, key: str, weight: str, tensor: torch.Tensor, layer: str
    ) -> torch.Tensor | None:
        """Return a tensor that is not zero at the edges: a mask, or the weight; None if unknown."""
        mask = self.masks.of(weight, key)
        if mask is not None:
            self.masks.used.add(mask)
            return self._masked(mask, tensor, layer)
        if key == weight and self._is_known(layer, tensor):
            return None
        if why := why_unread(tensor, self.zero_points.get(split_key(weight)[0], ())):
            self.left_out.append(f"{layer} ({why})")
            return None
        self.coded += [layer] * is_coded(tensor)
        return self._computed(*split_key(key), tensor, layer)

    def _is_known(self, layer: str, *tensors: torch.Tensor) -> bool:
        """Note a layer whose tensors are those of one before, tied to it; return whether it is."""
        if any(t.layout != torch.strided or t.is_meta or not t.numel() for t in tensors):
            return False
        place = tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in tensors)
        first = self.owners.setdefault(place, layer)
        if first != layer:
            self.notes.append(f"{layer} holds the weight of {first}, which is listed once")
        return first != layer

    def add(self, layer: str, tensor: torch.Tensor, *, input_first: bool = False) -> None:
        """Add the pattern of a tensor of two or more dimensions."""
        if tensor.ndim < 2:
            return
        self.kernels |= tensor.ndim > 2
        graph = self._graph(tensor, layer, input_first)
        if graph is not None:
            self._put(layer, graph)

    def _put(self, layer: str, graph: LayerGraph) -> None:
        if layer in self.topology:
            raise ValueError(f"two layers called {layer!r}")
        self.topology[layer] = graph

    def _stored(self, prefix: str) -> LayerGraph:
        """Return the graph that a topokit layer stores."""
        names = [f"{prefix}{name}" for name in ("indptr", "indices", "shape")]
        indptr, indices, shape = (own_numbers(self.state[name]) for name in names)
        self.used.update(names)
        try:
            n_out, n_in = (int(n) for n in shape)
            check_units(n_out, n_in, indices.size)
            graph = LayerGraph((n_out, n_in), np.array(indptr), np.array(indices))
            return kept_edges(graph, self.state.get(f"{prefix}values_mask"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"damaged graph of layer {prefix[:-1]!r}: {error}") from error

    def _packed(self, prefix: str) -> LayerGraph:
        """Return the graph of a bit mask: eight cells a byte, the lowest bit first, by rows."""
        names = [f"{prefix}{name}" for name in ("bitmask", "shape", "compressed", "row_offsets")]
        self.used.update(names)
        bits, shape = own_numbers(self.state[names[0]]), own_numbers(self.state[names[1]]).ravel()
        sizes = [int(n) for n in shape]
        fits = len(sizes) == 2 and min(sizes) >= 0 and bits.dtype == np.uint8
        if not fits or bits.shape != (sizes[0], -(-sizes[1] // 8)):
            raise ValueError(f"a bit mask {bits.dtype} {bits.shape} of shape {sizes} at {prefix!r}")
        check_bytes(8 * bits.size, bits.size)
        cells = np.unpackbits(bits, axis=1, bitorder="little")[:, : sizes[1]]
        graph = from_dense(cells)
        if graph.n_edges != self.state[names[2]].numel():
            raise ValueError(
                f"{graph.n_edges} cells and {self.state[names[2]].numel()} values at {prefix!r}"
            )
        return graph

    def _masked(self, mask: str, tensor: torch.Tensor, layer: str) -> torch.Tensor | None:
        """Return a weight's mask in the weight's shape."""
        cells = self.masks.entries[mask]
        if not is_mask(cells):
            self.left_out.append(f"{layer} (its mask {mask!r} has other numbers than 0 and 1)")
            return None
        if cells.shape != tensor.shape:
            try:
                cells = torch.broadcast_to(cells, tensor.shape)
            except RuntimeError:
                shapes = f"{tuple(cells.shape)} for {tuple(tensor.shape)}"
                self.left_out.append(f"{layer} (its mask {mask!r} has shape {shapes})")
                return None
        self.notes += filter(None, [inverted_note(cells, tensor, printable(layer))])
        return cells

    def _computed(
        self, prefix: str, leaf: str, tensor: torch.Tensor, layer: str
    ) -> torch.Tensor | None:
        """Return a tensor with the zeros of a weight that has no mask; None if it is not known."""
        if leaf.endswith("_v"):  # weight norm: direction times length
            return self._times(tensor, f"{prefix}{leaf[:-2]}_g")
        if not leaf.startswith("original"):
            return tensor
        parts = [key for key in self.state if key.startswith(prefix)]
        if leaf == "original0" and f"{prefix}original1" in parts:
            direction = self.state[f"{prefix}original1"]
            self.used.add(f"{prefix}original1")
            length_only = tensor.ndim == direction.ndim and set(tensor.shape[1:]) == {1}
            if len(parts) == 2 and length_only:
                self.notes.append(f"{layer} read as weight norm, from original0 and original1")
                return self._times(direction, f"{prefix}original0")
            self.left_out.append(
                f"{layer} (computed from {first_few(parts, _MOST)}; the model knows how)"
            )
            return None
        others = [k for k in parts if k != f"{prefix}original" and self.state[k].ndim > 1]
        if others:
            self.used.update(others)
            self.left_out.append(
                f"{layer} (computed from {first_few(parts, _MOST)}; the model knows how)"
            )
            return None
        self.notes.append(f"{layer}: a parametrization changes its stored weights, which were read")
        return tensor

    def _times(self, direction: torch.Tensor, length: str) -> torch.Tensor:
        """Return the cells of weight norm that are not zero."""
        self.used.add(length)
        factor = self.state.get(length)
        if factor is None:
            return direction
        name = length.removesuffix("_g").removesuffix(".original0")
        self.not_finite[name] = not_finite_in(direction) + not_finite_in(factor)
        return (direction != 0) & (factor != 0)

    def _input_first(
        self, key: str, tensor: torch.Tensor, bias: torch.Tensor | None
    ) -> bool | None:
        """Return whether input units are a weight's first dimension; None if it has groups."""
        rows, columns = tensor.shape[:2]
        units = bias.shape[0] if bias is not None and bias.ndim == 1 else None
        shown = None if units is None or rows == columns else units == columns
        other = units is not None and tensor.ndim > 2 and units not in (rows, columns)
        if other and columns and (units or 1) % columns == 0:
            return None
        if self.options.transpose is not None:
            if shown is not None and shown != self.options.transpose and units in (rows, columns):
                self.against.append(key)
            elif self.options.transpose and tensor.ndim == 2 and (shown or units is None):
                self.turned[bool(shown)].append(key)
            return self.options.transpose
        if shown and units == columns:
            if tensor.ndim == 2:
                self.input_first.append(key)
            return True
        if tensor.ndim == 2 and units == rows == columns:
            self.either.append(key)
        return False

    def _graph(self, tensor: torch.Tensor, layer: str, input_first: bool) -> LayerGraph | None:
        """Return the graph of a tensor's cells that are not zero, or that a sparse one stores."""
        if tensor.is_meta or tensor.is_quantized or tensor.is_nested:
            kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else "nested"
            self.left_out.append(f"{layer} ({kind}: no numbers that can be read)")
            return None
        if tensor.layout != torch.strided:
            return self._sparse_graph(tensor.cpu(), layer, input_first)
        check_bytes(tensor.numel(), tensor.untyped_storage().nbytes(), printable(layer))
        try:
            cells = (tensor if tensor.dtype == torch.bool else tensor != 0).cpu()
        except (RuntimeError, NotImplementedError):
            self.left_out.append(f"{layer} ({tensor.dtype} cannot be compared with zero)")
            return None
        self.not_finite[layer] = not_finite_in(tensor)
        cells = cells.transpose(0, 1) if input_first else cells
        shape = int(cells.shape[0]), int(np.prod(cells.shape[1:], dtype=np.int64))
        check_units(*shape, cells.numel())
        return from_dense(cells.reshape(shape).numpy())

    def _sparse_graph(
        self, tensor: torch.Tensor, layer: str, input_first: bool
    ) -> LayerGraph | None:
        """Return the graph of the stored entries of a sparse tensor."""
        if tensor.layout == torch.sparse_coo:
            index, values = tensor._indices().numpy(), tensor._values()
            if values.ndim != 1:
                self.left_out.append(f"{layer} (a sparse tensor of dense blocks)")
                return None
            sizes = tuple(tensor.shape[1:])
            for axis, (column, size) in enumerate(zip(index, tensor.shape, strict=True)):
                if column.size and not (column.min() >= 0 and column.max() < size):
                    raise ValueError(f"indices outside dimension {axis} of {layer!r}")
            rows, rest = index[0], np.ravel_multi_index(tuple(index[1:]), sizes)
            shape = (int(tensor.shape[0]), int(np.prod(sizes, dtype=np.float64)))
        elif tensor.layout in COMPRESSED and tensor.ndim == 2:
            values = tensor.values()
            if values.ndim != (3 if tensor.layout in BLOCKS else 1):
                self.left_out.append(f"{layer} (a sparse tensor of dense blocks)")
                return None
            shape = (int(tensor.shape[0]), int(tensor.shape[1]))
            check_units(*shape, values.numel())
            rows, rest, _ = stored_entries(compressed_matrix(tensor))
        else:
            self.left_out.append(f"{layer} ({tensor.layout} of {tensor.ndim} dimensions)")
            return None
        if input_first and tensor.ndim == 2:
            rows, rest, shape = rest, rows, shape[::-1]
        elif input_first:
            self.left_out.append(f"{layer} (a sparse tensor of {tensor.ndim} dimensions)")
            return None
        check_units(*shape, len(rows))
        self.zeros += int((values == 0).sum())
        self.not_finite[layer] = not_finite_in(values)
        return from_coordinates(rows, rest, shape)

    def finish(self) -> None:
        """Check the orientation, note what was not used, and raise if there is no layer."""
        self._check_orientation()
        self._note_how()
        self._note_unused()
        rest = {
            key: tensor
            for key, tensor in self.state.items()
            if tensor.ndim > 1
            and tensor.numel()
            and key not in self.used
            and key not in self.masks.entries
        }
        if not self.topology and self.left_out:
            raise ValueError(f"no layer that can be read; {'; '.join(self.notes)}")
        if not self.topology:
            has = _shaped(rest or self.state, self.state) or "no tensors"
            raise ValueError(
                "no weights of layers (keys such as 'fc1.weight' with at least two dimensions) "
                f"but {'; '.join([has, *self.notes])}"
            )
        if rest:
            self.notes.append(f"not read, by its name no weight: {_shaped(rest, rest)}")

    def _check_orientation(self) -> None:
        """Raise a ValueError if some weights are (n_in, n_out) and of others it is not known."""
        if self.input_first and self.either:
            turned = first_few(self.input_first, _MOST)
            raise ValueError(
                f"weights (n_in, n_out), as their biases show ({turned}), beside square ones of "
                f"which that cannot be told ({first_few(self.either, _MOST)}); say "
                "transpose=True (--transpose) or transpose=False (--no-transpose) for all"
            )

    def _note_how(self) -> None:
        """Note how weights were read that could be read otherwise."""
        against = f"read with transpose={self.options.transpose} against what their biases show"
        without = self.turned[False] if self.turned[True] else []
        for words, names in (
            ("read as (n_in, n_out), as their biases show", self.input_first),
            ("integers, of which 0 is taken for a weight of 0", self.coded),
            (against, self.against),
            ("read as (n_in, n_out) like the others, without a bias that shows it", without),
        ):
            if names:
                self.notes.append(f"{words}: {first_few(names, _MOST)}")
        if self.zeros:
            self.notes.append(
                f"{self.zeros} stored entries of sparse tensors are zero; they are edges"
            )
        found = [low_rank_note(map(printable, self.topology))]
        found += [transposed_note(self.state)] if self.options.transpose is None else []
        self.notes += filter(None, found)
        self.options.note_not_finite(self.not_finite)
        if not self.kernels:
            self.options.note_order([graph.shape for graph in self.topology.values()])

    def _note_unused(self) -> None:
        """Note layers that were left out, and masks that belong to no weight."""
        self.left_out = list(dict.fromkeys(self.left_out))
        if self.left_out:
            self.notes.append(f"left out: {first_few(self.left_out, _MOST, '; ')}")
        lost = {n: t for n, t in self.masks.entries.items() if n not in self.masks.used}
        lost |= self.masks.vectors
        if lost:
            self.notes.append(f"masks that were not used: {_shaped(lost, lost)}")


def _shaped(names: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return names with the shapes of their tensors, the first few only."""
    return first_few((f"{name} {tuple(tensors[name].shape)}" for name in names), _MOST)

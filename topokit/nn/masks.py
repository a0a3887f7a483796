"""Names of weights and masks in a checkpoint, and the weights that masks are for."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch

from topokit.foreign import check_bytes

__all__ = [
    "WEIGHT", "Masks", "inverted_note", "is_coded", "is_mask", "is_of_weights", "says_mask",
    "split_key", "weight_name", "why_unread", "zero_points",
]  # fmt: skip

WEIGHT = re.compile(r"(\w+_)?weight(_(ih|hh|hr)\w*)?")
"""Names of the weights of layers in torch's modules."""
STORED_AS = ("_orig", "_v", "")
"""Endings of a stored weight: of pruning and old spectral norm; of old weight norm; plain."""

WORD = re.compile(r"[._]+")
MASK_WORDS = frozenset({"mask", "masks"})
DEPTH = 5
"""Depth of dictionaries in a checkpoint that are looked at."""


def split_key(key: str) -> tuple[str, str]:
    """Return a key's beginning, up to its last point, and what follows.

    Examples
    --------
    >>> split_key("block.fc1.weight"), split_key("weight")
    (('block.fc1.', 'weight'), ('', 'weight'))
    """
    prefix, point, leaf = key.rpartition(".")
    return prefix + point, leaf


def weight_name(prefix: str, leaf: str) -> str | None:
    """Return the name of the weight that an entry stores, whole or as a part; None if none.

    Examples
    --------
    >>> weight_name("fc1.", "weight_orig"), weight_name("1.parametrizations.weight.", "original")
    ('fc1.weight', '1.weight')
    """
    if "parametrizations." in prefix and leaf.startswith("original"):
        outer, _, inner = prefix.rpartition("parametrizations.")
        return outer + inner.rstrip(".")
    if says_mask(prefix + leaf):
        return None
    for ending in STORED_AS:
        base = leaf.removesuffix(ending)
        if leaf.endswith(ending) and WEIGHT.fullmatch(base):
            return prefix + base
    return f"{prefix}{leaf[:-5]}" if leaf.endswith("_orig") else None


def says_mask(key: str) -> bool:
    """Return whether a key's name is that of a mask: not that of a layer which works on masks.

    Examples
    --------
    >>> [says_mask(key) for key in ("fc1.weight_mask", "masks.fc1.weight", "mask_head.weight")]
    [True, True, False]
    """
    *outer, leaf = key.split(".")
    words = leaf.split("_")
    return not MASK_WORDS.isdisjoint(outer) or words[0] in MASK_WORDS or words[-1] in MASK_WORDS


def is_of_weights(key: str) -> bool:
    """Return whether a key's name is that of a mask, and neither of a bias nor of edge values.

    Examples
    --------
    >>> [is_of_weights(key) for key in ("fc1.mask", "fc1.bias_mask", "fc1.values_mask")]
    [True, False, False]
    """
    words = WORD.split(key.rpartition(".")[2])
    return says_mask(key) and not {"bias", "values"} & {*words}


class Masks:
    """The tensors of a checkpoint whose name says mask, by the words of the weight they are for."""

    def __init__(
        self, content: Mapping[Any, Any], state: Mapping[str, Any], states: Container[str]
    ) -> None:
        """Look in the chosen `state`, and in `content` but for the `states` at other paths."""
        self.entries: dict[str, torch.Tensor] = {}
        self.vectors: dict[str, torch.Tensor] = {}  # one number for each unit; they are not used
        self.used: set[str] = set()
        self._for: dict[tuple[str, ...], list[str]] = {}
        for key, tensor in state.items():
            self._add([key], tensor, key)
        self._inside = frozenset(self.entries)
        self._outside(content, [], states)

    def _outside(self, content: Mapping[Any, Any], keys: list[str], states: Container[str]) -> None:
        """Look for masks beside the state dicts."""
        is_state = ".".join(keys) in states
        for key, entry in content.items():
            if not isinstance(key, str):
                continue
            if isinstance(entry, Mapping) and len(keys) < DEPTH and (not is_state or not keys):
                self._outside(entry, [*keys, key], states)
            elif isinstance(entry, torch.Tensor) and not is_state:
                self._add([*keys, key], entry.detach(), ".".join([*keys, key]))

    def _add(self, keys: list[str], tensor: torch.Tensor, name: str) -> None:
        words = [[word for word in WORD.split(key) if word] for key in keys]
        if not any(says_mask(key) for key in keys):
            return
        if tensor.ndim < 2:
            if tensor.numel() > 1 and is_of_weights(name):
                self.vectors[name] = tensor
            return
        self.entries[name] = tensor
        parts = [tuple(word for word in part if word not in MASK_WORDS) for part in words]
        for start in range(len(parts)):
            meant = tuple(word for part in parts[start:] for word in part)
            if name not in self._for.setdefault(meant, []):
                self._for[meant].append(name)

    def of(self, weight: str, key: str) -> str | None:
        """Return the name of the mask of a weight; raise a ValueError if there are several."""
        words = [word for word in WORD.split(weight) if word]
        bare = words[:-1] if words[-1:] == ["weight"] else words
        found: list[str] = []
        for meant in (words, bare):
            short = meant[1:] if meant[:1] == ["module"] else meant
            for candidate in (tuple(meant), tuple(short)):
                found += [n for n in self._for.get(candidate, []) if n not in found]
        if "parametrizations" in key:
            prefix, _ = split_key(key)
            found += [n for n in self.entries if n.startswith(prefix) and n not in found]
        if (own := [name for name in found if name in self._inside]) and found != own:
            found = own  # those of the state dict itself come first
        if len(found) > 1:
            raise ValueError(
                f"several masks of {weight!r}: {', '.join(map(repr, found))}; keep one of them"
            )
        return found[0] if found else None


def is_mask(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is boolean or has no numbers but 0 and 1."""
    if tensor.dtype == torch.bool or tensor.is_meta or tensor.layout != torch.strided:
        return not tensor.is_meta
    return bool(((tensor == 0) | (tensor == 1)).all())


def inverted_note(mask: torch.Tensor, weight: torch.Tensor, layer: str) -> str:
    """Return a note if a mask is 1 exactly where the weight stored beside it is 0; "" otherwise.

    Examples
    --------
    >>> mask, weight = torch.tensor([[True, False]]), torch.tensor([[0.0, 2.0]])
    >>> inverted_note(mask, weight, "fc"), inverted_note(~mask, weight, "fc")
    ('the mask of fc is 1 exactly where its weights are 0: it may say what is left out', '')
    """
    if any(t.is_meta or t.layout != torch.strided or t.is_quantized for t in (mask, weight)):
        return ""
    try:
        inverted = torch.equal(mask != 0, weight == 0)
    except (RuntimeError, NotImplementedError):  # a type that cannot be compared
        return ""
    mixed = bool((mask != 0).any()) and bool((mask == 0).any())
    what = f"the mask of {layer} is 1 exactly where its weights are 0"
    return f"{what}: it may say what is left out" if inverted and mixed else ""


def is_coded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has integers that are no pattern: more than one number besides 0.

    Such are the codes of quantized weights.

    Examples
    --------
    >>> [is_coded(torch.tensor(numbers)) for numbers in ([0, 7, 7], [0, 7, 3], [0.0, 7.0, 3.0])]
    [False, True, False]
    """
    real = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    if real or tensor.layout != torch.strided or _without_numbers(tensor):
        return False
    check_bytes(tensor.numel(), tensor.untyped_storage().nbytes())
    try:
        others = tensor[tensor != 0]
    except (RuntimeError, NotImplementedError):  # a type that cannot be compared
        return False
    return bool((others != others[:1]).any())


def why_unread(tensor: torch.Tensor, zero_points: Iterable[torch.Tensor]) -> str:
    """Return why it is not known which weights are zero, given their codes; "" if it is.

    In eight bits with a sign there is one code for each weight, and 0 stands for 0 unless a zero
    point is moved. Other types of integers hold several weights in a number (two of four bits, say)
    or have no sign, so that another number than 0 stands for 0.

    Examples
    --------
    >>> codes = torch.tensor([[0, 7], [3, 0]])
    >>> why_unread(codes.to(torch.int8), []), why_unread(codes.to(torch.int8), [torch.tensor([3])])
    ('', 'quantized with a zero point: which codes stand for 0 is not known here')
    """
    if not is_coded(tensor):
        return ""
    if tensor.dtype != torch.int8:
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"codes of quantized weights in {kind}, of which it is not known which stand for 0"
    if any(_without_numbers(point) or bool((point.float() != 0).any()) for point in zero_points):
        return "quantized with a zero point: which codes stand for 0 is not known here"
    return ""


def zero_points(state: Mapping[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Return the tensors whose name says zero, by the beginning of the names of their layer.

    Examples
    --------
    >>> list(zero_points({"fc.weight_zero_point": torch.ones(1), "fc.weight": torch.ones(2, 2)}))
    ['fc.']
    """
    found: dict[str, list[torch.Tensor]] = {}
    for key, tensor in state.items():
        prefix, leaf = split_key(key)
        if "zero" in leaf:
            found.setdefault(prefix.removesuffix("weight."), []).append(tensor)
    return found


def _without_numbers(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or tensor.is_quantized or tensor.is_nested

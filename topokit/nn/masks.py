"""Masks in a checkpoint: tensors whose name says so, and the weights that they are for."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

import torch

__all__ = ["Masks", "is_mask", "says_mask"]

WORD = re.compile(r"[._]+")
MASK_WORDS = frozenset({"mask", "masks"})
DEPTH = 5
"""Depth of dictionaries in a checkpoint that are looked at."""


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


class Masks:
    """The tensors of a checkpoint whose name says mask, by the words of the weight they are for."""

    def __init__(
        self, content: Mapping[Any, Any], state: Mapping[str, Any], states: Container[str]
    ) -> None:
        """Look in the chosen `state`, and in `content` but for the `states` at other paths."""
        self.entries: dict[str, torch.Tensor] = {}
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
        if tensor.ndim < 2 or not any(says_mask(key) for key in keys):
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
            prefix = key[: key.rfind(".") + 1]
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

"""Faults that change nothing a caller could observe, each with its reason.

A fault is known by the function it is in, the source line it begins in, and what it puts there.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXPLAINED", "Explained"]


class Explained(NamedTuple):
    """Why one fault cannot be noticed."""

    where: str
    line: str
    before: str
    after: str
    why: str


EXPLAINED: list[Explained] = []

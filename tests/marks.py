"""Marks of single parameters of a test, and a program that some tests need."""

import shutil
from collections.abc import Callable, Iterable
from typing import Any

import pytest

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
"""The Chromium of this machine, None without one."""


def fast_where(keep: Callable[..., bool], values: Iterable[Any]) -> list[Any]:
    """Return the parameters of a test; those that do not fit `keep` are marked as slow.

    A tuple is one value for each argument of the test.
    """
    found = []
    for value in values:
        each = value if isinstance(value, tuple) else (value,)
        marks = () if keep(*each) else pytest.mark.slow
        words = all(isinstance(word, str) for word in each)
        found.append(pytest.param(*each, marks=marks, id="-".join(each) if words else None))
    return found

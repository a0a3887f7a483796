"""Names available in docstring examples: ``history``, a short run; and no waiting for the disk."""

import functools
import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

# Compiled modules are kept on disk, whatever the environment says: to rewrite the assertions of all
# tests takes each process ten seconds, and every command in a process of its own would compile the
# package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The module imports triton, which tests want in a process of its own; it has no examples.
collect_ignore = ["topokit/nn/kernels/card_kernels.py"]

NEED_A_RUN = tuple(
    f"topokit.plots.{module}" for module in ("animation", "degrees", "growth", "history", "summary")
)


@functools.cache
def _short_run() -> Any:
    """Return a run of three epochs of a small network on the digits."""
    import topokit as tk

    settings = ["epochs=3", "model.widths=[64,40,10]", "topology.epsilon=4"]
    return tk.run(tk.load_recipe("set_mlp_digits").override(settings), tempfile.mkdtemp())


@pytest.fixture(autouse=True)
def _names_in_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if request.node.name.startswith(NEED_A_RUN):
        doctest_namespace["history"] = _short_run()


@pytest.fixture(scope="session", autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Skip fsync: it takes milliseconds at every epoch, and no test ends with a loss of power."""
    original = os.fsync
    os.fsync = lambda descriptor: None
    yield
    os.fsync = original


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of every later search for garbage.

    That is modules and ten thousand tests, none of which ends before the last test does.
    """
    gc.collect()
    gc.freeze()

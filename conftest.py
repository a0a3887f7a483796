"""Names available in docstring examples: ``history``, a short run."""

import functools
import tempfile
from typing import Any

import pytest

NEED_A_RUN = tuple(
    f"topokit.plots.{module}" for module in ("animation", "growth", "history", "summary")
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

"""Which edges enter: every function answers ``(view, occupied, n, rng) -> (n,) edge ids``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, sample_absent
from topokit.rules.rewire import LayerView

__all__ = ["uniform"]


def uniform(
    view: LayerView, occupied: LayerGraph, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Grow `n` edges drawn uniformly from all absent ones. O(n_edges + n log n)."""
    return sample_absent(occupied, n, rng)

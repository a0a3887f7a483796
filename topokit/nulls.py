"""Null models: how far a measure is from graphs with the same degrees, otherwise random."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from topokit.generators import randomized_twin
from topokit.graph import LayerGraph

__all__ = ["NullScore", "null_score"]

NAN = float("nan")


class NullScore(NamedTuple):
    """A measure beside its degree-preserving null; see `null_score`."""

    value: float
    null_mean: float
    null_sd: float
    z: float
    p_value: float


def null_score(
    graph: LayerGraph,
    measure: Callable[[LayerGraph], float],
    *,
    twins: int = 20,
    rng: np.random.Generator,
) -> NullScore:
    """Compare a measure with its values on random graphs of the same degrees.

    Separates what the degrees alone explain (many 4-cycles where there are hubs) from wiring.

    Parameters
    ----------
    graph : LayerGraph
    measure : callable
        From a layer graph to a float, such as ``LAYER_MEASURES["butterflies"]``.
    twins : int
        Number of degree-preserving twins, 2 or more.
    rng : numpy.random.Generator

    Returns
    -------
    NullScore
        ``value``; mean and standard deviation over the twins; ``z`` = (value - mean) / sd,
        ``nan`` where all twins agree to rounding (the degrees fix the measure); two-sided rank
        ``p_value``, at least 2 / (twins + 1). ``nan`` where the measure is undefined. Cost
        `twins` times that of the measure and of 20 curveball sweeps.

    Raises
    ------
    ValueError
        If fewer than two twins are asked for.

    References
    ----------
    .. [1] Strona et al., "A fast and unbiased procedure to randomize ecological binary matrices
       with fixed row and column totals", Nature Communications 5, 2014.
    .. [2] Milo et al., "Network motifs: simple building blocks of complex networks", Science
       298, 2002.

    Examples
    --------
    >>> from topokit.measures import LAYER_MEASURES
    >>> blocks = [8 * i + j for i in range(8) for j in range(8) if i // 4 == j // 4]
    >>> graph = LayerGraph.from_edge_ids(blocks, (8, 8))
    >>> score = null_score(graph, LAYER_MEASURES["butterflies"], rng=np.random.default_rng(0))
    >>> score.z > 3
    True
    """
    if twins < 2:
        raise ValueError(f"expected at least 2 twins, got {twins}")
    value = float(measure(graph))
    found = np.array([measure(randomized_twin(graph, rng=rng)) for _ in range(twins)], float)
    if np.isnan(value) or np.isnan(found).any():
        return NullScore(value, NAN, NAN, NAN, NAN)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    above = int(np.count_nonzero(found >= value))
    below = int(np.count_nonzero(found <= value))
    p_value = min(1.0, 2 * (min(above, below) + 1) / (twins + 1))
    fixed = sd <= 1e-9 * max(1.0, abs(mean))
    return NullScore(value, mean, sd, NAN if fixed else (value - mean) / sd, p_value)

"""The random stream of growth: numbers that are a function of a key and a counter.

Rules draw a key from their numpy generator for each choice among absent edges, each random choice
of edges to drop, and the values of grown edges. A device that computes the same function gets the
same numbers, in parallel. Drawn from the generator itself: the noise of `topokit.rules.drop.softly`
and of steps (Deep R), and the order of blocks in `topokit.rules.structured`. Where scores decide,
two devices choose the same edges only if their scores are equal to the last digit. Initial graphs
and initial weights do not use the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topokit.graph import LayerGraph, distinct, pick_absent, union

__all__ = ["GROWTH", "Stream", "absent_drawn", "stream_of"]

GROWTH = "philox4x32-10"
"""What the stream is called in the records of runs; another function needs another name."""


@dataclass(frozen=True)
class Stream:
    """The numbers of one key; each method starts at the first.

    Parameters
    ----------
    key : int
        From 0 to 2**64 - 1. A key is for one draw.

    Notes
    -----
    Number i is half of a block of Philox 4x32-10 (`topokit.graph.philox`). Equal keys give equal
    results on every machine, to the last bit.

    References
    ----------
    .. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> stream = Stream(7)
    >>> stream.subset(10, 3).tolist(), stream.subset(10, 7).tolist()
    ([0, 7, 9], [1, 2, 3, 4, 5, 6, 8])
    """

    key: int

    def subset(self, n: int, k: int) -> NDArray[np.int64]:
        """Return `k` distinct integers below `n`, increasing, each subset with equal probability.

        They are the first `k` distinct ones of the stream; where `k` is more than half of `n`, they
        are all but the first ``n - k``. O(k) time and memory.

        Raises
        ------
        ValueError
            Unless 0 <= k <= n.
        """
        from topokit.graph import philox

        if not 0 <= k <= n:
            raise ValueError(f"cannot pick {k} of {n} integers")
        if 2 * k > n:
            keep = np.ones(n, bool)
            keep[self.subset(n, n - k)] = False
            return np.flatnonzero(keep)
        # Each round draws as many as are missing, so the last number that is drawn is always a new
        # integer: the set is that of the first k distinct ones, however it is computed.
        chosen, drawn, key = np.empty(0, np.int64), 0, np.uint64(self.key)
        while chosen.size < k:
            start, drawn = drawn, drawn + k - chosen.size
            chosen = union(chosen, distinct(philox.integers(key, start, drawn, n)))
        return chosen

    def uniforms(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return numbers `at`, counted from 0, as odd multiples of ``2**-53`` between 0 and 1.

        Neither 0 nor 1 occurs, and both ends are equally far from the nearest value.
        """
        from topokit.graph import philox

        return philox.uniforms(np.uint64(self.key), np.asarray(at, np.int64))

    def uniforms_where(self, mask: NDArray[np.bool_], *, first: int) -> NDArray[np.float64]:
        """Return the numbers of `uniforms` at ``first + i`` where a flat mask is true at i."""
        from topokit.graph import philox

        return philox.uniforms_where(np.uint64(self.key), first, mask)

    def uniform(self, low: float, high: float, size: int) -> NDArray[np.float64]:
        """Return the first `size` numbers between two bounds, as numpy's generators do."""
        return low + (high - low) * self.uniforms(np.arange(size))

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return the first `size` numbers as draws from N(0, 1), as numpy's generators do."""
        from topokit.graph import philox

        return philox.normals(np.uint64(self.key), size)


def stream_of(rng: np.random.Generator) -> Stream:
    """Draw a key from a numpy generator and return its stream."""
    return Stream(int(rng.integers(0, 2**64, dtype=np.uint64)))


def absent_drawn(occupied: LayerGraph, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `n` absent edges uniformly, by one key from `rng`; ids, increasing.

    O(n_edges + n) time and memory.

    Raises
    ------
    ValueError
        If fewer than `n` edges are absent.

    Examples
    --------
    >>> graph = LayerGraph.from_edge_ids([0, 2], (1, 4))
    >>> absent_drawn(graph, 2, np.random.default_rng(0)).tolist()
    [1, 3]
    """
    return pick_absent(occupied, n, stream_of(rng).subset)

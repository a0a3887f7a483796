"""A synthetic data set of any size, for networks wider than available real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topokit.data.samples import Data

__all__ = ["synthetic"]


def synthetic(
    *,
    data_dir: Path | None = None,
    rng: np.random.Generator,
    n_features: int = 1024,
    n_classes: int = 10,
    n_train: int = 1024,
    n_test: int = 256,
    informative: float = 0.1,
    signal: float = 1.0,
) -> Data:
    """Return samples of Gaussian distributions, one for each class, with different means.

    For benchmarks with many features: the classes can be learnt, but the accuracy says nothing
    about real data.

    Parameters
    ----------
    data_dir : path, optional
        Not used: nothing is read.
    rng : numpy.random.Generator
        Draws the centres and the samples.
    n_features, n_classes, n_train, n_test : int
        At least 1 each.
    informative : float
        Share of the features whose mean depends on the class, in (0, 1].
    signal : float
        Standard deviation of the class centres; that of the noise is 1.

    Returns
    -------
    Data
        Classes alternate, so their numbers of samples differ by at most one in each part.

    Raises
    ------
    ValueError
        If a size or the share is out of range.

    References
    ----------
    .. [1] Curci, Mocanu, Pechenizkiy, "Truly sparse neural networks at scale", arXiv 2102.01732,
       2021, use a different artificial data set of 65,536 features for the same purpose.

    Examples
    --------
    >>> data = synthetic(rng=np.random.default_rng(0), n_features=20, n_train=6, n_test=3)
    >>> data.x_train.shape, data.y_test.tolist()
    ((6, 20), [0, 1, 2])
    """
    sizes = {
        "n_features": n_features, "n_classes": n_classes, "n_train": n_train, "n_test": n_test,
    }  # fmt: skip
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}")
    if not 0 < informative <= 1:
        raise ValueError(f"expected a share of informative features in (0, 1], got {informative}")
    centres = np.zeros((n_classes, n_features), np.float32)
    chosen = rng.permutation(n_features)[: max(1, round(informative * n_features))]
    centres[:, chosen] = signal * rng.standard_normal((n_classes, chosen.size), np.float32)

    def part(n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        y = np.arange(n, dtype=np.int64) % n_classes
        x = rng.standard_normal((n, n_features), np.float32)
        x += centres[y]
        return x, y

    (x_train, y_train), (x_test, y_test) = part(n_train), part(n_test)
    source = f"synthetic; classes differ in {round(informative, 4):g} of {n_features} features"
    return Data("synthetic", x_train, y_train, x_test, y_test, n_classes, None, source)

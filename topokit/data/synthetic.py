"""A made-up set of any size, for networks wider than any real set at hand."""

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
    """Draw noise around a class centre: Gaussian clouds that differ in a share of the features.

    A stand-in for wide data: it can be learnt, and nothing is to be concluded from how well.

    Parameters
    ----------
    data_dir : path, optional
        Not used: nothing is read.
    rng : numpy.random.Generator
        Draws centres and samples.
    n_features, n_classes, n_train, n_test : int
        At least one of each.
    informative : float
        Share of the features whose mean depends on the class, in (0, 1].
    signal : float
        Standard deviation of the centres; that of the noise is 1.

    Returns
    -------
    Data
        Classes alternate, so each part has equally many of each (or one more).

    Raises
    ------
    ValueError
        If a size or the share is out of range.

    References
    ----------
    .. [1] Curci, Mocanu, Pechenizkiy, Truly sparse neural networks at scale, arXiv 2102.01732,
       2021, use an artificial set of 65,536 features for the same purpose; theirs is another one.

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
    source = f"drawn: {round(informative, 4):g} of {n_features} features tell the classes apart"
    return Data("synthetic", x_train, y_train, x_test, y_test, n_classes, None, source)

"""Top eigenvalues of symmetric operators by Lanczos; unconverged ones are never returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

__all__ = ["DENSE", "Product", "top_eigenvalues"]

DENSE = 128  # below this many units on the smaller side, dense linear algebra
TOLERANCE = 1e-7  # residual over the largest eigenvalue; the value's error is its square
PRODUCTS = 30_000  # cap on restarts: band-like graphs give nan, never a wrong value

Product = Callable[[NDArray[Any]], NDArray[Any]]


def top_eigenvalues(product: Product, size: int, k: int) -> NDArray[np.float64] | None:
    """The `k` largest eigenvalues of a symmetric operator, decreasing; None if unconverged."""
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    try:
        found, vectors = eigsh(
            operator,
            k=k,
            which="LA",
            v0=start,
            tol=TOLERANCE,
            ncv=min(size, 32 + 2 * k),
            maxiter=max(50, PRODUCTS // 32),
        )
    except ArpackError:
        return None
    order = np.argsort(found)[::-1]
    return found[order] if vectors.shape[1] == k else None

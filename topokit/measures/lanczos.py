"""Top eigenvalues of symmetric operators by Lanczos; unconverged ones are never returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

__all__ = ["DENSE", "Product", "top_eigenpairs", "top_eigenvalues"]

DENSE = 128  # below this many units on the smaller side, dense linear algebra
TOLERANCE = 1e-7  # residual over the largest eigenvalue; the value's error is its square
PRODUCTS = 30_000  # cap on restarts: band-like graphs give nan, never a wrong value

Product = Callable[[NDArray[Any]], NDArray[Any]]


def top_eigenpairs(
    product: Product, size: int, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The `k` largest eigenvalues, decreasing, and their vectors; None if unconverged."""
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    try:
        found, vectors = eigsh(
            operator,
            k=k,
            which="LA",
            v0=start,
            tol=TOLERANCE,
            ncv=min(size, 20 + 2 * k),
            maxiter=PRODUCTS // 20,
        )
    except ArpackError:
        return None
    order = np.argsort(found)[::-1]
    return (found[order], vectors[:, order]) if found.size == k else None


def top_eigenvalues(product: Product, size: int, k: int) -> NDArray[np.float64] | None:
    """The `k` largest eigenvalues of a symmetric operator, decreasing; None if unconverged."""
    pairs = top_eigenpairs(product, size, k)
    return None if pairs is None else pairs[0]

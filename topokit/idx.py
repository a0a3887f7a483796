"""The IDX format of MNIST: a strict reader."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_idx"]


def read_idx(path: str | Path, *, magic: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in IDX format, compressed if its name ends in ``.gz``.

    Parameters
    ----------
    path : path
    magic : int
        The first four bytes, big-endian: 2049 for labels (n,), 2051 for images (n, rows, columns).
        The last byte is the number of dimensions.

    Returns
    -------
    (n,) or (n, rows, columns) uint8

    Raises
    ------
    ValueError
        If the file is not exactly that: another magic number, missing or further bytes, damaged
        compression. The message names the file, what was expected and what came.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels"
    >>> _ = path.write_bytes(struct.pack(">II", 2049, 3) + bytes([7, 2, 1]))
    >>> read_idx(path, magic=2049).tolist()
    [7, 2, 1]
    """
    path = Path(path)
    n_dimensions = magic & 0xFF
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read()
        else:
            content = path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: expected an intact gzip file, got: {error}") from None
    header = 4 * (1 + n_dimensions)
    if len(content) < header:
        raise ValueError(
            f"{path}: expected an IDX header of {header} bytes, got a file of {len(content)}"
        )
    got, *shape = struct.unpack(f">{1 + n_dimensions}I", content[:header])
    if got != magic:
        raise ValueError(f"{path}: expected the IDX magic number {magic}, got {got}")
    expected = math.prod(shape)
    if len(content) - header != expected:
        raise ValueError(
            f"{path}: expected {expected} bytes of data for shape {tuple(shape)}, "
            f"got {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)

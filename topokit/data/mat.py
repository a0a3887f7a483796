"""Reading arrays of MATLAB v5 files within bounds."""

from __future__ import annotations

import math
import os
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from topokit.foreign import check_bytes, open_regular, size_of

__all__ = ["read_mat"]

_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
"""Types of stored numbers."""

_CLASSES = range(6, 16)
"""Classes of full arrays of numbers; MATLAB stores them as the smallest type that fits."""

_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x0800


def read_mat(path: str | os.PathLike[str], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the numeric arrays of a MATLAB v5 file (``save -v7`` and earlier) by name.

    Parameters
    ----------
    path : path
    names : tuple of str
        Variables to read; others are skipped.

    Raises
    ------
    ValueError
        If the file is damaged, of another version, or one of the variables is not a full real
        array of numbers. Sizes are checked before memory is allocated.

    Notes
    -----
    scipy's reader is compiled code that crashes on some damaged files.

    References
    ----------
    .. [1] MathWorks, "MAT-File Format", 2019, chapter 1 (level 5).

    Examples
    --------
    >>> import scipy.io, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "a.mat")
    >>> scipy.io.savemat(path, {"X": np.eye(2), "Z": "text"}, do_compression=True)
    >>> read_mat(path, ("X", "Y"))
    {'X': array([[1., 0.],
           [0., 1.]])}
    """
    found: dict[str, NDArray[Any]] = {}
    with open_regular(path) as file:
        size = size_of(file)
        header = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None or header[124:126] not in (b"\x00\x01", b"\x01\x00"):
            raise ValueError("no header of a MATLAB v5 file")
        while start := file.read(8):
            if len(start) < 8:
                raise EOFError("a file that ends within a variable")
            kind, length = (int(n) for n in np.frombuffer(start, f"{order}u4"))
            if length > size - file.tell():
                raise EOFError("a variable longer than the file")
            if kind == _COMPRESSED:
                content = _unpacked(file, length, size, order)
            elif kind == _MATRIX:
                content = file.read(length)
            else:
                raise ValueError(f"an element of type {kind} in place of a variable")
            name, array = _matrix(content, order, names)
            if name in found:
                raise ValueError(f"two variables {name!r}")
            if array is not None:
                found[name] = array
    return found


def _unpacked(file: BinaryIO, length: int, size: int, order: str) -> bytes:
    """Return the content of a compressed variable."""
    unpacker = zlib.decompressobj()
    raw = file.read(length)
    start = unpacker.decompress(raw, 8)
    if len(start) < 8:
        raise EOFError("a compressed variable that is cut")
    kind, expected = (int(n) for n in np.frombuffer(start, f"{order}u4"))
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} in place of a variable")
    check_bytes(expected, size)
    content = unpacker.decompress(unpacker.unconsumed_tail, expected + 1)
    if len(content) != expected:
        raise EOFError(f"{len(content)} of {expected} bytes of a compressed variable")
    return content


def _element(content: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """Return type and bytes of the element at a position, and the position after it."""
    if len(content) < at + 8:
        raise EOFError("a variable that ends too early")
    kind, length = (int(n) for n in np.frombuffer(content, f"{order}u4", 2, at))
    if kind >> 16:  # up to four bytes, packed beside the type
        kind, length, first = kind & 0xFFFF, kind >> 16, at + 4
        after = at + 8
        if length > 4:
            raise ValueError(f"a small element of {length} bytes")
    else:
        first = at + 8
        after = first + -(-length // 8) * 8
    if first + length > len(content):
        raise EOFError("an element longer than its variable")
    return kind, content[first : first + length], after


def _matrix(content: bytes, order: str, names: tuple[str, ...]) -> tuple[str, NDArray[Any] | None]:
    """Return name and array of a variable; None for one that is not wanted."""
    _, flags, at = _element(content, 0, order)
    _, sizes, at = _element(content, at, order)
    _, label, at = _element(content, at, order)
    name = label.decode("latin-1")
    if name not in names:
        return name, None
    flag = int(np.frombuffer(flags, f"{order}u4", 1)[0])
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        raise ValueError(f"{name} not a full real array of numbers (class {flag & 0xFF})")
    shape = tuple(int(n) for n in np.frombuffer(sizes, f"{order}i4"))
    kind, raw, _ = _element(content, at, order)
    if kind not in _TYPES:
        raise ValueError(f"{name} of numbers of type {kind}")
    numbers = np.frombuffer(raw, f"{order}{_TYPES[kind]}")
    if min(shape, default=-1) < 0 or math.prod(shape) != numbers.size:
        raise ValueError(f"{numbers.size} numbers for {name} {shape}")
    array = numbers.reshape(shape[::-1]).T
    return name, array.astype(array.dtype.newbyteorder("="), copy=False)

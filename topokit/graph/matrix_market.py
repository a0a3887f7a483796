"""Reading Matrix Market files within bounds."""

from __future__ import annotations

import io
import os
import re
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from topokit.foreign import check_bytes, check_units, open_regular, printable, size_of

__all__ = ["read_matrix_market"]

_ALLOWED = np.zeros(256, bool)
_ALLOWED[np.frombuffer(b"0123456789+-.eEdDnNaAiIfFtTyY \t\r\n", np.uint8)] = True

_FIELDS = {"real": 1, "double": 1, "integer": 1, "complex": 2, "pattern": 0}
"""Numbers of an entry."""


def read_matrix_market(path: str | os.PathLike[str]) -> Any:
    r"""Return the matrix in a Matrix Market file.

    Parameters
    ----------
    path : path

    Returns
    -------
    scipy.sparse.coo_array or (n_out, n_in) array
        Sparse with all entries, zeros included, if the file lists coordinates; dense if it lists
        all cells. Symmetric matrices are completed.

    Raises
    ------
    ValueError
        If the file is damaged; the message names the line where it can. Claims of sizes are
        compared with the number of lines.

    Notes
    -----
    O(size of the file); its numbers are read by pandas. scipy's reader is compiled code that
    crashes on some damaged files.

    References
    ----------
    .. [1] Boisvert, Pozo, Remington, "The Matrix Market exchange formats: initial design", NISTIR
       5935, 1996.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "a.mtx")
    >>> with open(path, "w") as file:
    ...     _ = file.write("%%MatrixMarket matrix coordinate pattern general\n2 3 1\n2 1\n")
    >>> read_matrix_market(path).todense()
    array([[False, False, False],
           [ True, False, False]])
    """
    with open_regular(path) as file:
        raw = file.read(size_of(file))
    kind, field, symmetry, at = _banner(raw)
    sizes, end, line = _sizes(raw, at, kind)
    body = np.frombuffer(raw, np.uint8, offset=end)
    wrong = np.flatnonzero(~_ALLOWED[body])[:1]
    if wrong.size:
        place = end + int(wrong[0])
        line += raw.count(b"\n", at, place)
        raise ValueError(
            f"line {line}: expected numbers, got the character "
            f"{raw[place : place + 1].decode('latin-1')!r}"
        )
    if symmetry != "general" and sizes[0] != sizes[1]:
        raise ValueError(f"a {symmetry} matrix of {sizes[0]} x {sizes[1]}")
    if kind == "array":
        return _dense(raw, end, sizes, _FIELDS[field], symmetry)
    return _sparse(raw, end, sizes, _FIELDS[field], symmetry)


def _banner(raw: bytes) -> tuple[str, str, str, int]:
    """Return the words of the first line, and where it ends."""
    end = raw.find(b"\n")
    words = raw[: end if 0 <= end < 200 else 200].decode("latin-1").lower().split()
    if len(words) != 5 or words[0] not in ("%%matrixmarket", "%matrixmarket"):
        raise ValueError("no line '%%MatrixMarket matrix coordinate real general' at its beginning")
    _, thing, kind, field, symmetry = words
    known = (
        thing == "matrix"
        and kind in ("coordinate", "array")
        and field in _FIELDS
        and symmetry in ("general", "symmetric", "skew-symmetric", "hermitian")
        and not (kind == "array" and field == "pattern")
    )
    if not known:
        raise ValueError(f"line 1: the unknown kind {printable(' '.join(words[1:]))!r}")
    return kind, field, symmetry, end + 1 if end >= 0 else len(raw)


def _sizes(raw: bytes, at: int, kind: str) -> tuple[list[int], int, int]:
    """Return the numbers of the size line, where it ends, and its number."""
    line = 2
    while raw[at : at + 1] in (b"%", b"\n", b"\r"):  # comments and blank lines
        end = raw.find(b"\n", at)
        at, line = (end + 1, line + 1) if end >= 0 else (len(raw), line)
    end = raw.find(b"\n", at)
    end = len(raw) if end < 0 else end
    text = raw[at : min(end, at + 80)].decode("latin-1")
    wanted = ["rows", "columns", "entries"][: 3 if kind == "coordinate" else 2]
    numbers = text.split()
    if len(numbers) != len(wanted) or not all(n.isascii() and n.isdigit() for n in numbers):
        words = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
        raise ValueError(f"line {line}: expected the numbers of {words}, got {printable(text)!r}")
    sizes = [int(n) for n in numbers]
    claimed = sizes[2] if kind == "coordinate" else 0
    lines = raw.count(b"\n", end) + 1
    if claimed > lines:
        raise ValueError(f"line {line}: {claimed} entries, but there are {lines - 1} lines below")
    check_units(sizes[0], sizes[1], claimed)
    return sizes, end, line


def _numbers(raw: bytes, at: int, types: list[str]) -> list[NDArray[Any]]:
    """Return the columns of numbers from a position on."""
    import pandas as pd

    if not raw[at:].strip():
        return [np.empty(0, kind) for kind in types]
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of more numbers than columns
        try:
            frame = pd.read_csv(
                io.BytesIO(memoryview(raw)[at:]),
                sep=r"\s+",
                header=None,
                names=list(range(len(types))),
                dtype=dict(enumerate(types)),
                index_col=False,
                engine="c",
                keep_default_na=False,
            )
        except pd.errors.ParserWarning:
            raise ValueError(f"lines of more than {len(types)} numbers") from None
        except OverflowError:
            raise ValueError("an integer of more than 64 bits") from None
        except (ValueError, TypeError) as error:
            place = re.search(r"in column (\d+)", str(error))
            if place is None:
                raise
            number, kind = int(place[1]), types[int(place[1])]
            wanted = "finite numbers" if kind == "float64" else "integers"
            raise ValueError(f"expected {wanted} in column {number + 1}") from None
    columns = [frame[column].to_numpy() for column in frame.columns]
    for number, column in enumerate(columns):
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise ValueError(f"expected finite numbers in column {number + 1}")
    return columns


def _sparse(raw: bytes, at: int, sizes: list[int], fields: int, symmetry: str) -> Any:
    """Return the entries by coordinates."""
    n_out, n_in, count = sizes
    rows, columns, *values = _numbers(raw, at, ["int64", "int64"] + ["float64"] * fields)
    if len(rows) != count:
        raise ValueError(f"{len(rows)} entries, not the {count} of the size line")
    for name, index, size in (("row", rows, n_out), ("column", columns, n_in)):
        if count and (index.min() < 1 or index.max() > size):
            raise ValueError(f"{name}s {index.min()}..{index.max()}, not within 1..{size}")
    stored = np.ones(count, bool)
    if values:
        stored = np.logical_or.reduce([value != 0 for value in values])
    rows, columns = rows - 1, columns - 1
    if symmetry != "general":
        off = rows != columns
        diagonal = None if off.all() else [value[~off] for value in values]
        _check_diagonal(diagonal, symmetry)
        rows, columns, stored = (
            np.concatenate([a, b[off]])
            for a, b in ((rows, columns), (columns, rows), (stored, stored))
        )
    return sp.coo_array((stored, (rows, columns)), shape=(n_out, n_in))


def _check_diagonal(values: list[NDArray[Any]] | None, symmetry: str) -> None:
    """Raise a ValueError if the numbers on the diagonal contradict the symmetry."""
    if values is None:
        return
    if symmetry == "skew-symmetric":
        raise ValueError("an entry on the diagonal of a skew-symmetric matrix, which has none")
    if symmetry == "hermitian" and len(values) == 2 and np.any(values[1]):
        raise ValueError("an imaginary number on the diagonal of a hermitian matrix")


def _dense(raw: bytes, at: int, sizes: list[int], fields: int, symmetry: str) -> Any:
    """Return whether each cell is not zero; files list them by columns."""
    n_out, n_in = sizes
    cells = n_out * n_in
    check_bytes(8 * cells, len(raw))
    if symmetry != "general":
        cells = n_out * (n_out + 1 if symmetry != "skew-symmetric" else n_out - 1) // 2
    columns = _numbers(raw, at, ["float64"] * fields)
    if len(columns[0]) != cells:
        raise ValueError(f"{len(columns[0])} numbers, not {cells} for {n_out} x {n_in}")
    present = np.logical_or.reduce([column != 0 for column in columns])
    if symmetry == "general":
        return present.reshape(n_in, n_out).T
    found = np.zeros((n_out, n_in), bool)
    if symmetry == "hermitian":
        diagonal = np.cumsum(np.arange(n_out, 0, -1)) - np.arange(n_out, 0, -1)
        _check_diagonal([column[diagonal] for column in columns], symmetry)
    first = 1 if symmetry == "skew-symmetric" else 0
    upper = np.triu_indices(n_out, first)  # by rows of the transpose, as the file by columns
    found[upper[1], upper[0]] = present
    return found | found.T

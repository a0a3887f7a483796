"""Rows of numbers in large text files, read in blocks of lines within a fixed memory."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topokit.foreign import open_regular, printable

__all__ = ["Lines", "lines_of", "numbers_of"]

BLOCK = 1 << 20
"""Bytes that are read at once."""

LONGEST = 1 << 16
"""Bytes that a line may have."""


class Lines(NamedTuple):
    """Some lines of a file, each with as many values as expected.

    Parameters
    ----------
    first : int
        The number of the first one in the file, from 1.
    text : bytes
    starts : (n + 1,) int64
        Where each line begins, and the end of the text.
    separator : str
        A comma, or a space for any white space.
    """

    first: int
    text: bytes
    starts: NDArray[np.int64]
    separator: str

    def numbers(
        self, which: NDArray[np.bool_] | None = None, dtype: Any = np.float32
    ) -> NDArray[Any]:
        """Return the values of all lines, or of those that `which` marks.

        Returns
        -------
        (n, n_values) of `dtype`
            Finite.

        Raises
        ------
        ValueError
            If a value is no finite number; the message has the number of its line.
        """
        lines = self._chosen(which)
        if not lines:
            return np.empty((0, 0), dtype)
        import pandas as pd

        try:
            with np.errstate(over="ignore"):  # infinite then, and refused
                frame = pd.read_csv(
                    io.BytesIO(b"".join(lines)),
                    header=None,
                    sep="," if self.separator == "," else r"\s+",
                    dtype=dtype,
                    na_filter=False,
                    quoting=3,
                    encoding="latin-1",
                )
            values = frame.to_numpy()
        except (ValueError, OverflowError):
            values = np.empty((0, 0))
        if len(values) != len(lines) or not np.isfinite(values).all():
            self._refuse(which, dtype)
        return np.asarray(values, dtype)

    def _chosen(self, which: NDArray[np.bool_] | None) -> list[bytes]:
        if which is None or which.all():
            which = np.ones(len(self.starts) - 1, bool)
        starts, ends = self.starts[:-1][which], self.starts[1:][which]
        lines = [self.text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += b"\n"
        return lines

    def number_of(self, which: NDArray[np.bool_] | None, row: int) -> int:
        """Return the number in the file of the line of a row of `numbers`."""
        return self.first + int(row if which is None else np.flatnonzero(which)[row])

    def _refuse(self, which: NDArray[np.bool_] | None, dtype: Any) -> None:
        """Raise a ValueError that names the first value that is no finite number of a type."""
        largest = float(np.finfo(dtype).max)
        for row, line in enumerate(self._chosen(which)):
            for value in line.decode("latin-1").split("," if self.separator == "," else None):
                if not _size(value.strip()) <= largest:
                    number = self.number_of(which, row)
                    shown = printable(value.strip()[:40])
                    what = "too large" if _size(value.strip()) < math.inf else "no finite number"
                    raise ValueError(f"line {number}: '{shown}', which is {what}")
        raise ValueError(f"a row that is divided, after line {self.first - 1}")


def _size(text: str) -> float:
    """Return the absolute value of a number; infinity for anything else."""
    try:
        return math.inf if "_" in text or math.isnan(float(text)) else abs(float(text))
    except ValueError:
        return math.inf


def lines_of(
    path: Path, *, values: int, separator: str, most: int | None = None
) -> Iterator[Lines]:
    r"""Yield the lines of a text file in blocks; one whose name ends in ``.gz`` is unpacked.

    Empty lines at the end do not count.

    Parameters
    ----------
    path : path
    values : int
        How many there must be in each line.
    separator : str
        A comma, or a space for any white space.
    most : int, optional
        How many lines there may be.

    Raises
    ------
    ValueError
        If a line has another number of values or is too long, if there are more lines, or if the
        compression is damaged or cut off. The message has the number of the line.

    Notes
    -----
    Memory: `BLOCK` bytes and what their lines are turned into, whatever the size of the file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "points.csv"
    >>> _ = path.write_text("1,2\n3,4\n5,6\n")
    >>> [lines.numbers().tolist() for lines in lines_of(path, values=2, separator=",")]
    [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]
    """
    first, blank = 1, 0  # the number of the next line, and of the first empty one
    for text in _blocks(path):
        starts, counts = _counted(text, separator)
        empty = np.flatnonzero(counts == 0)
        filled = np.flatnonzero(counts)
        if not blank and empty.size:
            blank = first + int(empty[0])
        if blank and filled.size and first + int(filled[-1]) > blank:
            raise ValueError(f"line {blank}: no values, not {values}")
        wrong = filled[counts[filled] != values]
        if wrong.size:
            number, found = first + int(wrong[0]), int(counts[wrong[0]])
            raise ValueError(f"line {number}: {found} values, not {values}")
        if most is not None and filled.size and first - 1 + filled.size > most:
            raise ValueError(f"more than {most:,} lines")
        if filled.size:
            starts = starts[: filled.size + 1]
            yield Lines(first, text[: int(starts[-1])], starts, separator)
        first += len(counts)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks that end with a line."""
    done = 0  # lines in the blocks before
    with open_regular(path) as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        rest, ended = b"", False
        while not ended:
            pieces, size = [rest], 0
            try:
                while size < BLOCK and (piece := file.read1(BLOCK)):
                    pieces.append(piece)
                    size += len(piece)
                ended = size < BLOCK
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                done += sum(piece.count(b"\n") for piece in pieces)
                raise ValueError(
                    f"gzip data that are damaged or cut off after line {done}: {error}"
                ) from None
            block = b"".join(pieces)
            end = len(block) if ended else block.rfind(b"\n") + 1
            rest = block[end:]
            if end:
                yield block[:end]
            done += block.count(b"\n")
            if len(rest) > LONGEST:
                raise ValueError(f"line {done + 1}: more than {LONGEST:,} bytes")


def _counted(text: bytes, separator: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where lines begin (and the end), and how many values each has."""
    codes = np.frombuffer(text, np.uint8)
    if (codes == 0).any():
        raise ValueError("no text: it has bytes of value 0")
    returns = np.flatnonzero(codes == ord("\r"))
    if (codes[np.minimum(returns + 1, len(codes) - 1)] != ord("\n")).any():
        raise ValueError("a carriage return that does not end a line")  # pandas cuts rows there
    starts = np.append(0, np.flatnonzero(codes == ord("\n")) + 1)
    if starts[-1] < len(codes):
        starts = np.append(starts, len(codes))
    white = (codes == ord(" ")) | ((codes >= 9) & (codes <= 13))
    begins = ~white
    begins[1:] &= white[:-1]  # a run of other characters begins here
    words = _between(begins, starts)
    if separator == ",":
        return starts, np.where(words > 0, _between(codes == ord(","), starts) + 1, 0)
    return starts, words


def _between(marks: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many marks lie between successive positions."""
    return np.diff(np.searchsorted(np.flatnonzero(marks), starts))


def numbers_of(
    path: Path, *, values: int, separator: str, rows: int | None = None, dtype: Any = np.float32
) -> NDArray[Any]:
    """Return all values of a file with as many in each line.

    Parameters
    ----------
    path, values, separator
        As for `lines_of`.
    rows : int, optional
        How many lines there must be.
    dtype : dtype

    Returns
    -------
    (rows, values) of `dtype`

    Raises
    ------
    ValueError
        As `lines_of`, and if there are fewer lines or a value is no finite number.
    """
    found = [
        lines.numbers(dtype=dtype)
        for lines in lines_of(path, values=values, separator=separator, most=rows)
    ]
    n = sum(map(len, found))
    if rows is not None and n != rows:
        raise ValueError(f"{n:,} lines, not {rows:,}")
    if not n:
        raise ValueError("no lines")
    return np.concatenate(found)

"""Reading files from outside: regular files only, bounded memory, each failure one sentence.

All readers of files that a user names open them with `open_regular`, work within `refusals`, and
read arrays with `read_arrays`. Nothing is unpickled. What a file claims about sizes is compared
with what it has before memory is allocated.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import stat
import struct
import unicodedata
import warnings
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LIMIT",
    "Reading",
    "ReadingNote",
    "check_bytes",
    "check_units",
    "count_not_finite",
    "first_few",
    "note_matrices",
    "open_regular",
    "open_zip",
    "printable",
    "read_array",
    "read_arrays",
    "read_text",
    "refusals",
    "what_is",
]

LIMIT = 192 * 2**20
"""Bytes that a file may unpack to, or four times its size if that is more. Raise it for a large,
well-compressed file that you trust: ``topokit.foreign.LIMIT = 2**33``."""

LIMIT_UNITS = 4_000_000
"""Units that a layer in a file may have, or 64 for each edge if that is more: the arrays of
measures have an element for each unit, and a file of a few bytes can claim billions."""

LIMIT_MEMBERS = 30_000
"""Members of a zip archive."""


class ReadingNote(UserWarning):
    """What a reader saw and did not use, or how it understood what can be read in two ways."""


@dataclass
class Reading:
    """How to read a file, and what was noticed.

    Parameters
    ----------
    transpose : bool, optional
        Whether matrices have input units as rows; None: output units are rows, unless a state
        dict's biases show otherwise.
    entry : str, optional
        Which state dict or array of the file to read.
    notes : list of str
        Filled by the reader.
    """

    transpose: bool | None = None
    entry: str | None = None
    notes: list[str] = field(default_factory=list)

    def note_not_finite(self, counts: Mapping[str, int]) -> None:
        """Note the layers of which weights are nan or infinite, given how many of each are."""
        found = [f"{printable(name)} ({n:,})" for name, n in counts.items() if n]
        if found:
            words = first_few(found, 6)
            self.notes.append(f"weights that are nan or infinite count as edges: {words}")

    def note_order(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Note that layers, given as (n_out, n_in), would follow each other the other way round."""
        if self.transpose is None and _follow_turned(shapes):
            self.notes.append(f"{TURNED}: say transpose=True (--transpose) {INPUTS_AS_ROWS}")

    def needs_none(self, what: str) -> None:
        """Raise a ValueError if an option is given that `what` has no use for."""
        if self.transpose is not None:
            raise ValueError(f"no orientation to choose (transpose): {what} states its own")
        if self.entry is not None:
            raise ValueError(f"no entry {self.entry!r} to choose: {what} has no entries")


TURNED = "each layer has as many inputs as the next one has outputs"
INPUTS_AS_ROWS = "if rows are inputs, as in Keras, Flax and SET's sparse code"


def _follow_turned(shapes: Sequence[tuple[int, int]]) -> bool:
    """Return whether layers, given as (n_out, n_in), follow each other only the other way round.

    Examples
    --------
    >>> _follow_turned([(784, 300), (300, 10)]), _follow_turned([(300, 784), (10, 300)])
    (True, False)
    >>> _follow_turned([(300, 300), (300, 300)]), _follow_turned([(784, 10)])
    (False, False)
    """
    pairs = list(pairwise(shapes))
    as_read = all(n_out == n_in for (n_out, _), (_, n_in) in pairs)
    return not as_read and all(n_in == n_out for (_, n_in), (n_out, _) in pairs)


def note_matrices(shapes: Sequence[tuple[int, int]]) -> None:
    """Warn if matrices, read as (n_out, n_in), would follow each other the other way round."""
    if _follow_turned(shapes):
        words = f"{TURNED}: transpose the matrices {INPUTS_AS_ROWS}"
        warnings.warn(words, ReadingNote, stacklevel=4)


@contextmanager
def refusals(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Turn any failure within the block into one sentence that names the file.

    Parameters
    ----------
    path : path
    expected : str
        What the file should be, such as "a Matrix Market file".

    Raises
    ------
    ValueError
        For every exception but a missing file, a missing permission and an interruption, which
        are passed on. If the first bytes of the file show what it is, the message says so.

    Examples
    --------
    >>> with refusals("a.mtx", "a Matrix Market file"):
    ...     raise ValueError("line 2: '4 3', not three numbers")
    Traceback (most recent call last):
    ValueError: a.mtx: expected a Matrix Market file, got: line 2: '4 3', not three numbers
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise  # it is one already
        kind = what_is(path)
        reason = kind or _reason(error)
        raise ValueError(f"{printable(str(path))}: expected {expected}, got: {reason}") from error


def _reason(error: Exception) -> str:
    """Return the cause of a failure in a line."""
    text = printable(" ".join(str(error).split()))
    text = text if len(text) <= 400 else f"{text[:400]}..."
    if isinstance(error, KeyError):
        return f"no entry {text}"
    if isinstance(error, MemoryError):
        return "more than fits into memory"
    if isinstance(error, RecursionError):
        return "parts nested too deeply"
    if isinstance(error, EOFError | zipfile.BadZipFile | struct.error):
        return f"a damaged or incomplete file ({text or type(error).__name__})"
    if isinstance(error, ValueError | TypeError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories; Cf has those that reverse text


def shell_word(word: Any) -> str:
    """Return a path or word as it is typed in a shell, for commands that a user may copy.

    Examples
    --------
    >>> shell_word("my runs/a"), shell_word("-x")
    ("'my runs/a'", './-x')
    """
    text = str(word)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def printable(text: str, keep: str = "") -> str:
    r"""Return text with control characters, line breaks and the like escaped.

    Names of layers, runs and files may come from strangers; terminals obey control characters, and
    XML and HTML cannot hold them. Characters in `keep` stay.

    Examples
    --------
    >>> print(printable("fc1\x1b[31m"))
    fc1\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode()
        if unicodedata.category(c) in CONTROLS and c not in keep
        else c
        for c in text
    )


def first_few(words: Iterable[str], most: int, between: str = ", ") -> str:
    """Return the first `most` of some words for a message, printable, and how many more there are.

    Examples
    --------
    >>> first_few(["fc1", "fc2", "fc3"], 2)
    'fc1, fc2 and 1 more'
    """
    words = [printable(word) for word in words]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + more


_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (run 'git lfs pull')",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89hdf\r\n": "an HDF5 file (Keras, MATLAB v7.3); save its arrays with numpy.savez",
    b"%pdf": "a PDF document",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\xfd7zxz": "an xz archive; unpack it first",
    b"bzh": "a bzip2 archive; unpack it first",
    b"rar!": "a RAR archive; unpack it first",
}


def what_is(path: str | os.PathLike[str]) -> str:
    """Return what a file evidently is instead of what was expected; "" if that cannot be told."""
    try:
        with open_regular(path) as file:
            start = file.read(256)
    except (OSError, ValueError):
        return ""
    if not start:
        return "an empty file"
    lowered = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    name = str(path).lower()
    for beginning, words in _BEGINNINGS.items():
        if lowered.startswith(beginning) and not (beginning == b"\x1f\x8b" and ".gz" in name):
            return words
    return ""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; pipes, devices and folders are refused without waiting.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder, pipe, device or socket.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise FileNotFoundError(f"found no file at {printable(str(path))}") from None
    except PermissionError:
        raise
    except OSError as error:  # a socket, or a device without a driver
        raise ValueError(f"{printable(str(path))}: expected a file: {error.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise ValueError(f"{printable(str(path))}: expected a file, got {kind}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def size_of(file: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def check_bytes(claimed: int, file_size: int, what: str = "the file") -> None:
    """Raise a ValueError if unpacking would take more bytes than `LIMIT` allows.

    Examples
    --------
    >>> check_bytes(2**40, 1000)
    Traceback (most recent call last):
    ValueError: the file unpacks to 1,099,511,627,776 bytes, more than the 201,326,592 that are
    read; if you trust it, raise topokit.foreign.LIMIT
    """
    allowed = max(LIMIT, 4 * file_size)
    if claimed > allowed:
        raise ValueError(
            f"{what} unpacks to {claimed:,} bytes, more than the {allowed:,} that are read; "
            "if you trust it, raise topokit.foreign.LIMIT"
        )


def check_units(n_out: int, n_in: int, n_edges: int) -> None:
    """Raise a ValueError if a layer claims more units than its edges make plausible.

    Examples
    --------
    >>> check_units(2, 2**31 - 1, 3)
    Traceback (most recent call last):
    ValueError: a layer of 2147483647 -> 2 units with 3 edges; at most 4,000,000 units, or 64 for
    each edge, are read; if you trust the file, raise topokit.foreign.LIMIT_UNITS
    """
    if n_out < 0 or n_in < 0:
        raise ValueError(f"a layer of {n_in} -> {n_out} units")
    if n_out + n_in > max(LIMIT_UNITS, 64 * n_edges):
        raise ValueError(
            f"a layer of {n_in} -> {n_out} units with {n_edges} edges; at most {LIMIT_UNITS:,} "
            "units, or 64 for each edge, are read; if you trust the file, raise "
            "topokit.foreign.LIMIT_UNITS"
        )


def count_not_finite(values: NDArray[Any]) -> int:
    """Return how many numbers are nan or infinite.

    Examples
    --------
    >>> count_not_finite(np.array([1.0, np.nan, -np.inf]))
    2
    """
    if values.dtype.kind not in "fc" or not values.size:
        return 0
    step = max(1, (1 << 22) // max(1, values[0].size))
    blocks = (values[start : start + step] for start in range(0, len(values), step))
    return sum(int(block.size - np.count_nonzero(np.isfinite(block))) for block in blocks)


def read_text(path: str | os.PathLike[str], *, limit: int = 2**20) -> str:
    """Return the text of a small UTF-8 file, of at most `limit` bytes."""
    with open_regular(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return raw.decode("utf-8-sig")


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip archive after checking its number of members and their sizes together.

    Only members that are stored or deflated and not encrypted are accepted: the other methods
    unpack without a bound.
    """
    size = size_of(file)
    if size > 46 * LIMIT_MEMBERS:  # less cannot hold as many entries of 46 bytes or more
        entries, piece = 0, b""
        while block := file.read(2**20):
            entries += (piece + block).count(b"PK\x01\x02") - piece.count(b"PK\x01\x02")
            piece = block[-3:]
        if entries > LIMIT_MEMBERS:
            raise ValueError(f"an archive of {entries:,} members; at most {LIMIT_MEMBERS:,}")
        file.seek(0)
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = set()
    for member in members:
        if member.filename in names:
            raise ValueError(f"an archive with two members {member.filename!r}")
        names.add(member.filename)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compression method {member.compress_type} at {member.filename!r}")
        if member.flag_bits & 1:
            raise ValueError(f"the encrypted member {member.filename!r}")
    check_bytes(sum(member.file_size for member in members), size, "the archive")
    return archive


_HEADER = re.compile(
    rb"\s*\{\s*['\"]descr['\"]:\s*['\"](?P<dtype>[<>|=]?[biufcSUO]\d*)['\"],"
    rb"\s*['\"]fortran_order['\"]:\s*(?P<fortran>True|False),"
    rb"\s*['\"]shape['\"]:\s*\((?P<shape>[\dL, ]{0,400})\),?\s*\}\s*"
)


def read_array(file: Any, size: int) -> NDArray[Any]:
    """Return the array of an ``.npy`` file of `size` bytes, read from its beginning.

    Raises
    ------
    ValueError
        If it is damaged, holds Python objects (they are never unpickled) or records, or has
        another number of bytes than its header says.

    Notes
    -----
    numpy's own reader allocates what the header claims. The header is read by a pattern, not
    evaluated.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise ValueError("no numpy array")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > 10_000:
        raise ValueError(f"a header of {length} bytes")
    header = _HEADER.fullmatch(file.read(length))
    if header is None:
        raise ValueError("an array that is not of plain numbers")
    if b"O" in header["dtype"]:
        raise ValueError("an array of Python objects, which are not unpickled")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(n) for n in re.findall(rb"\d+", header["shape"]))
    expected = math.prod(shape) * dtype.itemsize
    if expected != size - 8 - width - length or len(shape) > 16:
        raise ValueError(f"{size - 8 - width - length} bytes for an array {dtype} {shape}")
    if not expected:
        check_units(0, max(shape, default=0), 0)
        return np.empty(shape, dtype)
    raw = file.read(expected + 1)
    if len(raw) != expected:
        raise EOFError(f"{len(raw)} of {expected} bytes")
    flat = np.frombuffer(raw, dtype)
    by_column = header["fortran"] == b"True"
    array: NDArray[Any] = flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def read_arrays(
    path: str | os.PathLike[str], names: Container[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` or ``.npy`` file by name; nothing is unpickled.

    Parameters
    ----------
    path : path
        The array of an ``.npy`` file is called like the file.
    names : set of str, optional
        Read only these; those that the file does not have are left out.

    Notes
    -----
    Memory is that of the arrays, at most `LIMIT` or four times the size of the file.
    """
    with open_regular(path) as file:
        start = file.read(6)
        file.seek(0)
        if start == b"\x93NUMPY":
            return {Path(path).stem: read_array(file, size_of(file))}
        arrays = {}
        with open_zip(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"two arrays {name!r}: a member with .npy and one without")
                if names is None or name in names:
                    with archive.open(member) as content:
                        try:
                            arrays[name] = read_array(content, member.file_size)
                        except ValueError as error:
                            raise ValueError(f"{error} at {name!r}") from None
                        content.read(1)  # compares the checksum at the end
        return arrays

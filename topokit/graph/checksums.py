"""Checksums: of bytes, of lines of JSON, and in the comment of a zip archive."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "check_kinds", "check_regular", "digest", "read_file", "read_seal", "seal", "seal_in", "stamp",
    "stamped", "unseal",
]  # fmt: skip

_STAMPED = re.compile(r'(\{.+), "digest": "([0-9a-f]{32})"\}', re.DOTALL)
_END = b"PK\x05\x06"  # begins the last record of a zip archive, of 22 bytes and the comment
_LONGEST = 4096  # of a comment that is a seal


def digest(*parts: Any) -> str:
    """Return the checksum of bytes or arrays: SHA-256, shortened to 32 hexadecimal digits.

    Examples
    --------
    >>> digest(b"a", b"b") == digest(b"ab"), digest(b"ab") == digest(b"ac")
    (True, False)
    """
    sums = hashlib.sha256()
    for part in parts:
        sums.update(part)
    return sums.hexdigest()[:32]


def stamp(values: Mapping[str, Any]) -> str:
    """Return values as one line of JSON whose last entry, ``digest``, is the rest's checksum.

    Examples
    --------
    >>> line = stamp({"epoch": 3})
    >>> stamped(line)["epoch"]
    3
    >>> stamped(line.replace("3", "4", 1))
    Traceback (most recent call last):
    ValueError: its content does not match its checksum
    """
    body = json.dumps(values)
    return f'{body[:-1]}, "digest": "{digest(body.encode())}"}}'


def stamped(line: str | bytes) -> dict[str, Any]:
    """Return the values of a line made by `stamp`, the digest included.

    Raises
    ------
    ValueError
        If the line is none, or was changed.
    """
    text = line if isinstance(line, str) else line.decode("ascii", "replace")
    match = _STAMPED.fullmatch(text)
    if match is None:
        raise ValueError("it has no checksum" if text.strip() else "it is empty")
    body = match[1] + "}"
    if digest(body.encode()) != match[2]:
        raise ValueError("its content does not match its checksum")
    return {**json.loads(body), "digest": match[2]}


def check_kinds(values: Mapping[str, Any], **kinds: type) -> None:
    """Raise a ValueError if entries of a line are of other kinds.

    Examples
    --------
    >>> check_kinds({"epoch": "3"}, epoch=int)
    Traceback (most recent call last):
    ValueError: its epoch is of type str
    """
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise ValueError(f"its {key} is of type {type(values[key]).__name__}")


# A zip archive may end with a comment, which its readers ignore. The seal is a stamped line there,
# with the checksum of all bytes before it, so that a file of numpy or torch stays one of theirs.


def seal(archive: bytes, **about: Any) -> bytes:
    """Return a zip archive with a checksum of all its bytes, and what it is about, as its comment.

    Parameters
    ----------
    archive : bytes
        As written by ``numpy.savez`` or ``torch.save``; an older seal is replaced.
    **about
        Values for JSON.

    Returns
    -------
    bytes
        Read by numpy, torch and every other reader of zip archives as before.

    Raises
    ------
    ValueError
        If it is no zip archive.

    Notes
    -----
    O(size).

    Examples
    --------
    >>> import io, numpy as np
    >>> buffer = io.BytesIO()
    >>> np.savez(buffer, ids=np.arange(3))
    >>> sealed = seal(buffer.getvalue(), epoch=4)
    >>> unseal(sealed)["epoch"], np.load(io.BytesIO(sealed))["ids"].tolist()
    (4, [0, 1, 2])
    >>> unseal(buffer.getvalue()) is None
    True
    """
    at = archive.rfind(_END)
    if at < 0 or len(archive) < at + 22:
        raise ValueError("expected a zip archive")
    length = len(stamp({**about, "content": digest()}))  # all digests are equally long
    body = archive[: at + 20] + struct.pack("<H", length)
    return body + stamp({**about, "content": digest(body)}).encode()


def unseal(archive: bytes) -> dict[str, Any] | None:
    """Return what a sealed archive is about, after checking all its bytes; None if not sealed.

    Raises
    ------
    ValueError
        If a byte of it was changed.
    """
    about = seal_in(archive)
    if about is not None and about.get("content") != digest(archive[: archive.rfind(_END) + 22]):
        raise ValueError("its content does not match its checksum")
    return about


def read_seal(path: Path) -> dict[str, Any] | None:
    """Return what a sealed file is about, from its end alone; None if it is not sealed.

    Raises
    ------
    ValueError
        If the seal was changed; the other bytes are not checked.
    OSError
        As in `read_file`.
    """
    return seal_in(read_file(path, last=_LONGEST))


def seal_in(end: bytes) -> dict[str, Any] | None:
    """Return the seal at the end of an archive, of which only the seal is checked."""
    at = end.rfind(_END)
    comment = end[at + 22 :] if at >= 0 else b""
    return stamped(comment) if comment else None


def read_file(path: Path, *, last: int | None = None) -> bytes:
    """Return the content of a regular file, or its last bytes.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is something else (a link, a folder, a pipe, a device), which is not opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    check_regular(path)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if last is not None:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - last))
        return file.read()


def check_regular(path: Path) -> None:
    """Raise a ValueError if a path is there and is not a regular file; links are not followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
        came = kinds.get(stat.S_IFMT(mode), "a device or socket")
        raise ValueError(f"expected a regular file at {path}, found {came}; remove it")

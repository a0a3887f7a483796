"""Writing files: whole or not at all, one process at a time, under names that are safe."""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl: Any = None  # type: ignore[no-redef]  # a stand-in

__all__ = [
    "check_writable", "is_temporary", "locked", "remove_temporaries", "safe_name", "write_atomic",
]  # fmt: skip

PREFIX, SUFFIX = ".topokit-tmp-", ".tmp"  # of every temporary file, and of no other
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
DAY = 86_400.0  # seconds; where files cannot be locked, a temporary file this old is abandoned
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
_swept: set[str] = set()  # folders in which this process has removed abandoned temporary files
_writing: set[str] = set()  # temporary files of this process


# --- writing a file as a whole --------------------------------------------------------------------


@contextmanager
def write_atomic(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    A reader of `path` finds the old content or the new one, never a part of it, even if the process
    is killed or the disk is full.

    Parameters
    ----------
    path : path
        A file, or nothing yet. Its folder must exist.
    sync : bool
        Whether the content and the new name are on the disk when the block ends, so that they
        survive a loss of power; without, they survive the end of the process.

    Yields
    ------
    Path
        An empty file in the same folder, to be written by this name.

    Raises
    ------
    ValueError
        If `path` is a symbolic link, which is never followed, or anything but a regular file.
    OSError
        If writing fails, with `path` as its ``filename``, not the temporary name.

    Notes
    -----
    The temporary file is created exclusively, under a random name, and removed if the block fails.
    A process that is killed cannot remove it; the next process that writes to the folder does. The
    writer of a temporary file holds a lock on it, which ends with the writer: a temporary file that
    can be locked has been abandoned. Cost: one listing of the folder for each process.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with write_atomic(folder / "notes.txt") as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['notes.txt']
    """
    target = Path(path)
    _refuse_other_kinds(target)
    with _errors_name(target):
        _sweep(target.parent)
        with _temporary_file(target.parent) as temporary:
            yield temporary
            if sync:
                _flush(temporary)
            _refuse_other_kinds(target)
            os.replace(temporary, target)
            if sync:
                _flush(target.parent)


def check_writable(folder: str | os.PathLike[str], *, made: bool = False) -> None:
    """Raise the error that making a folder, or a file in it, would end with after long work.

    Parameters
    ----------
    folder : path
    made : bool
        Whether the folder is made, with those above it, if it is missing.

    Raises
    ------
    OSError
        With `folder` as its ``filename``.

    Examples
    --------
    >>> check_writable("/proc/version/results", made=True)
    Traceback (most recent call last):
    NotADirectoryError: [Errno 20] Not a directory: '/proc/version/results'
    """
    place = Path(folder)
    while made and not os.path.lexists(place) and place.parent != place:
        place = place.parent
    try:
        mode = place.stat().st_mode
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    number = 0
    if not stat.S_ISDIR(mode):
        number = errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(place).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(folder))


def is_temporary(name: str) -> bool:
    """Return whether a file name is one of `write_atomic`'s temporary files."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def remove_temporaries() -> None:
    """Remove the temporary files of this process, which is about to end without its cleanup."""
    for path in tuple(_writing):
        with suppress(OSError):
            os.unlink(path)


def _refuse_other_kinds(path: Path) -> None:
    """Raise an error unless there is a regular file, or nothing, at a path."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
    found = kinds.get(stat.S_IFMT(mode), "a special file")
    raise ValueError(
        f"expected a file or nothing at {path}, found {found}, which is not replaced; choose "
        "another name"
    )


@contextmanager
def _errors_name(target: Path) -> Iterator[None]:
    """Raise OSErrors that name no file, the temporary one or the folder again with the target."""
    # Libraries wrap the error of the system in words of their own; its number has a clear text.
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else os.fsdecode(error.filename)
        ours = named in (None, str(target.parent)) or is_temporary(os.path.basename(named))
        if error.errno is None or not ours:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error


@contextmanager
def _temporary_file(folder: Path) -> Iterator[Path]:
    """Yield the path of a new empty file, locked on POSIX; remove it if it is still there."""
    path, descriptor = _created(folder)
    place = os.path.abspath(path)  # wherever the process is then
    _writing.add(place)
    if fcntl is None:  # Windows, where an open file cannot be renamed
        os.close(descriptor)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        _writing.discard(place)
        if fcntl is not None:
            os.close(descriptor)


def _created(folder: Path) -> tuple[Path, int]:
    """Create an empty file under a random name and lock it; return its path and descriptor."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666)
        except FileExistsError:
            continue
        if fcntl is not None:
            with suppress(OSError):  # no locks in this file system: see `_abandoned`
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # another process removed it before it was locked


def _flush(path: Path) -> None:
    """Write a file's content, or a folder's list of names, to the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # folders cannot be opened
    descriptor = os.open(path, (os.O_RDONLY if folder else os.O_RDWR) | NO_LINKS * (not folder))
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise  # some network file systems refuse it for folders, and need it not
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove temporary files of processes that have ended, once for each folder and process."""
    place = os.path.abspath(folder)
    if place in _swept:
        return
    try:
        found = [entry.path for entry in os.scandir(folder) if is_temporary(entry.name)]
    except PermissionError:  # may be written to without being listed
        found = []
    for path in found:
        with suppress(OSError):  # another process removes it, or it belongs to another user
            if _abandoned(path):
                os.unlink(path)
    _swept.add(place)


def _abandoned(path: str) -> bool:
    """Return whether the writer of a temporary file has ended."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    descriptor = os.open(path, os.O_RDWR | NO_LINKS)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in HELD:
                    return False
            else:
                return True
        return time.time() - os.fstat(descriptor).st_mtime > DAY
    finally:
        os.close(descriptor)


# --- one process at a time ------------------------------------------------------------------------


@contextmanager
def locked(
    path: str | os.PathLike[str], *, what: str | None = None, shared: bool = False
) -> Iterator[None]:
    """Hold a lock on a file for the time of the block; it also ends with the process.

    Parameters
    ----------
    path : path
        Made if it does not exist; its content is neither read nor changed, and it is not removed
        afterwards. Its folder must exist.
    what : str, optional
        What is locked, for messages; by default the folder of the file.
    shared : bool
        Whether others may hold a shared lock at the same time (on Windows: any lock).

    Raises
    ------
    ValueError
        If another process holds the lock, or `path` is a symbolic link or no regular file.
    OSError
        If the file cannot be made, or its file system has no locks; names the file and the cause.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / ".lock"
    >>> with locked(place, what="the run r"), locked(place, what="the run r"):
    ...     pass
    Traceback (most recent call last):
    ValueError: another process is writing to the run r; wait for it or choose another --out
    """
    # The lock is that of the operating system on an open file (`flock`), which ends when the
    # process does, however it ends. A file that exists is opened as it is: never through a link
    # (which could point to a file of the user) and never truncated.
    target = Path(path)
    while True:
        _refuse_other_kinds(target)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o666)
        try:
            try:
                _lock(descriptor, shared)
            except OSError as error:
                if error.errno in HELD:
                    raise ValueError(
                        f"another process is writing to {what or target.parent}; wait for it or "
                        "choose another --out"
                    ) from None
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise OSError(
                    error.errno,
                    f"cannot lock the file ({reason}); choose a folder on a file system with "
                    "locks, such as a local disk",
                    str(target),
                ) from None
            if os.fstat(descriptor).st_nlink:  # else it was removed before it was locked
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> None:
    """Lock an open file for this process, or raise an OSError at once."""
    if fcntl is not None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    elif not shared:
        _lock_byte(descriptor)


def _lock_byte(descriptor: int) -> None:
    """Lock the first byte of an open file on Windows, which has no shared locks."""
    msvcrt: Any = importlib.import_module("msvcrt")
    os.lseek(descriptor, 0, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


# --- names ----------------------------------------------------------------------------------------

LONGEST = 100  # characters of a safe name
PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_+=,.-]*[A-Za-z0-9_+=,-])?")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # Windows


def safe_name(name: str, *, among: Iterable[str] = ()) -> str:
    """Return a name made of letters, digits and ``_+=,.-`` that is safe as a file name.

    A name that is safe already is returned as it is. In another one each other character becomes
    ``_``, and ``~`` and a hash of the name are added, so that different names stay different.

    Parameters
    ----------
    name : str
        Such as that of a layer: any text.
    among : iterable of str
        Other names used in the same folder. A name that differs from one of them in upper and lower
        case only gets the hash as well, since some file systems do not tell them apart.

    Returns
    -------
    str
        At most 100 characters: no separators, no leading dot or hyphen, no ``..``, not empty and
        not a name that Windows reserves.

    Examples
    --------
    >>> safe_name("features.0")
    'features.0'
    >>> safe_name("x/../../holiday")
    'x_holiday~...'
    """
    alike = any(other != name and other.casefold() == name.casefold() for other in among)
    plain = PLAIN.fullmatch(name) and not RESERVED.fullmatch(name) and ".." not in name
    if plain and len(name) <= LONGEST and not alike:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    words = re.sub(r"[^A-Za-z0-9_+=,-]+", "_", name)[: LONGEST - 17].lstrip("-") or "_"
    return f"{words}~{digest}"

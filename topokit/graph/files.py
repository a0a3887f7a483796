"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["write_atomic"]


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; move it into place if all went well.

    Whoever reads `path` finds the old content or the new, never half of it: also when the
    process is killed or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

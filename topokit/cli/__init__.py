"""The command ``topokit``.

This package holds the commands, the options they share, and what they print. Invalid input ends
with one or two lines on standard error and exit code 2. Imports from all other packages.
"""

from __future__ import annotations

import os
import sys

from topokit.cli import interrupts

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1, 2 (invalid input) or 130 (interrupted)."""
    if arguments is None:
        _open_closed_streams()
    tokens = sys.argv[1:] if arguments is None else arguments
    with interrupts.handled(lasting=arguments is None):  # before the imports, which take a while
        from topokit.cli.commands import execute

        code = execute(tokens)
        if arguments is None and code == interrupts.EXIT_CODE:
            interrupts.end()  # Python's own end would let a second signal kill it
        return code


def _open_closed_streams() -> None:
    """Open streams that were closed before the start: libraries write to them while imported.

    Their descriptors are the lowest free ones, so that no file of a run takes their places.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the end

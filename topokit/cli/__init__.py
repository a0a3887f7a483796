"""The command ``topokit``.

This package holds the commands, the options they share, and what they print. Invalid input ends
with one or two lines on standard error and exit code 2. Imports from all other packages.
"""

from __future__ import annotations

import sys

from topokit.cli import interrupts

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1, 2 (invalid input) or 130 (interrupted)."""
    tokens = sys.argv[1:] if arguments is None else arguments
    with interrupts.handled(lasting=arguments is None):  # before the imports, which take a while
        from topokit.cli.commands import execute

        code = execute(tokens)
        if arguments is None and code == interrupts.EXIT_CODE:
            interrupts.end()  # Python's own end would let a second signal kill it
        return code

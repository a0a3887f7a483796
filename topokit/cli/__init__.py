"""The command ``topokit``.

This package holds the commands, the options they share, and what they print. Invalid input ends
with one or two lines on standard error and exit code 2. Imports from all other packages.
"""

from __future__ import annotations

import os
import sys

import cyclopts

from topokit.cli import console, figures, graphs, runs, studies

__all__ = ["app", "main"]

app = cyclopts.App(
    name="topokit",
    help="Train sparse networks, record the graph of every layer, and measure how it evolves.",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _command in (
    runs.train,
    runs.resume,
    runs.verify,
    graphs.analyze,
    graphs.generate,
    figures.plot,
    figures.report,
    studies.sweep,
    studies.compare,
):
    app.command(_command)
app.command(graphs.list_, name="list")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 1, 2 (invalid input) or 130 (interrupted)."""
    tokens = sys.argv[1:] if arguments is None else arguments
    console.show_log()
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt as stop:
        console.complain(str(stop) or "interrupted")
        return 130
    except cyclopts.CycloptsError as error:
        console.complain(f"{_first_line(error)} (see 'topokit --help')")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, FileNotFoundError, FloatingPointError, TypeError) as error:
        if os.environ.get("TOPOKIT_TRACEBACK"):
            raise
        console.complain(str(error))
        return 2
    except OSError as error:
        console.complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        named_by_user = PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError
        return 2 if isinstance(error, named_by_user) else 1
    return int(code) if isinstance(code, int) else 0


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without the frame that cyclopts draws around it."""
    lines = [line.strip(" │╭╮╰╯─") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)

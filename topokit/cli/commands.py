"""The list of commands, and how a command ends: its exit code and the sentence for an error."""

from __future__ import annotations

import os
import re
import warnings
from difflib import get_close_matches
from typing import Any

import cyclopts

from topokit.cli import console, figures, graphs, interrupts, runs, studies
from topokit.foreign import ReadingNote
from topokit.plugins import TABLES, told

__all__ = ["app", "execute"]

app = cyclopts.App(
    name="topokit",
    help="Train sparse networks, record the graph of every layer, and measure how it evolves.",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    console=console.HELP,
    default_parameter=cyclopts.Parameter(negative=()),  # no --no-OPTION, no --empty-OPTION
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
app.command(runs.info)

OURS = (ValueError, FloatingPointError, TypeError, OSError, MemoryError)
"""Errors that a command ends with in a sentence; others are faults of topokit."""


def execute(tokens: list[str]) -> int:
    """Run a command and return the exit code; see `topokit.cli.main`."""
    console.show_log()
    console.STDOUT.failure = console.STDERR.failure = None
    code = _executed(tokens)
    console.STDOUT.flush()
    failure = console.STDOUT.failure
    if failure is not None and not isinstance(failure, BrokenPipeError):  # a reader may leave
        console.complain(f"not all results could be printed: {failure}")
        return max(code, 1)
    return code


def _executed(tokens: list[str]) -> int:
    """Run a command; print what was noticed on the way, and what went wrong, if anything."""
    try:
        os.getcwd()
    except FileNotFoundError:
        console.complain("the working folder has been removed: change to another one (cd)")
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown(warnings.showwarning)
            code = app(tokens, exit_on_error=False, print_error=False)
    except KeyboardInterrupt as stop:
        with interrupts.telling():
            console.complain(str(stop) or "interrupted")
        return interrupts.EXIT_CODE
    except SystemExit as stop:
        if not (words := told(stop)):
            raise
        console.complain(words)
        return 2
    except cyclopts.CycloptsError as error:
        if isinstance(error, cyclopts.UnusedCliTokensError):
            console.complain(_too_many(error, tokens))
            return 2
        key, words = _hint(error, tokens), _first_line(error)
        if key:  # which of our options is spelt alike is then no help
            words = words.partition(" Did you mean")[0]
        else:
            key = f"see '{_help(tokens)}'"
        console.complain(f"{words} ({key})")
        return 2
    except Exception as error:
        if os.environ.get("TOPOKIT_TRACEBACK"):
            raise
        if not isinstance(error, MemoryError) and (words := told(error)):
            console.complain(words)
            return 2
        if not isinstance(error, OURS):
            raise
        words, code = console.sentence(error)
        console.complain(words + _of_a_plugin(words, tokens))
        return code
    return int(code) if isinstance(code, int) else 0


def _shown(other: Any) -> Any:
    """Return what shows a warning: notes on what was read as a line, others by `other`."""

    def show(message: Any, category: Any, *place: Any) -> None:
        if issubclass(category, ReadingNote):
            console.note(str(message))
        else:
            other(message, category, *place)

    return show


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without the frame that cyclopts draws around it."""
    lines = [line.strip(" │╭╮╰╯─") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _help(tokens: list[str]) -> str:
    """Return the command that explains the command that was given, or the list of all."""
    known = bool(tokens) and not tokens[0].startswith("-") and tokens[0] in app
    return f"topokit {tokens[0]} --help" if known else "topokit --help"


def _of_a_plugin(words: str, tokens: list[str]) -> str:
    """Return how a variant of one's own is found, if a name is unknown and no plugin was given."""
    unknown = re.match(r"(?:run .*: )?unknown ([a-z ]+) '", words)
    if unknown is None or unknown[1] not in {*TABLES, "figure"} or "did you mean" in words:
        return ""
    if any(word.partition("=")[0] == "--plugin" for word in tokens):
        return ""
    return f"; one of your own is loaded with --plugin FILE.py ('{_help(tokens)}')"


def _too_many(error: cyclopts.UnusedCliTokensError, tokens: list[str]) -> str:
    """Return what was expected instead of more words than a command takes."""
    words = error.unused_tokens or []
    if tokens[:1] == ["train"] and words and all("=" in word for word in words):
        keys = [word for word in tokens[1:] if "=" in word and not word.startswith("-")]
        return f"keys of the configuration follow --set: --set {' '.join(keys)}"
    return f"expected no further argument, got {' '.join(words)} (see '{_help(tokens)}')"


def _hint(error: cyclopts.CycloptsError, tokens: list[str]) -> str:
    """Return how a configuration key is set, if one was given to ``train`` as an option."""
    if tokens[:1] != ["train"] or not isinstance(error, cyclopts.UnknownOptionError):
        return ""
    from topokit.experiments.config import load_recipe
    from topokit.experiments.study import flattened

    token = error.token
    option, _, value = str(token and (token.keyword or token.value)).partition("=")
    name = option.lstrip("-").replace("-", "_")
    keys = flattened(load_recipe("set_mlp_digits").to_dict())
    ends = {key.rpartition(".")[2]: key for key in reversed(keys)} | {key: key for key in keys}
    key = next((ends[end] for end in get_close_matches(name, ends, n=1, cutoff=0.8)), None)
    after = tokens[tokens.index(option) + 1 :] if option in tokens else []
    if not value and after and not after[0].startswith("-"):
        value = after[0]
    return "" if key is None else f"a key of the configuration: --set {key}={value or 'VALUE'}"

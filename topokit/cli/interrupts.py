"""Interrupts: Ctrl-C, SIGTERM and SIGHUP end a command with one line, at any time, however often.

Imports only the standard library, since it is needed before everything else is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

__all__ = ["EXIT_CODE", "end", "handled", "saying", "telling"]

EXIT_CODE = 130
# Ctrl-C, the end of a batch job, and the end of the terminal or of the connection to it.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it
_words: list[Callable[[], str]] = []  # of the commands that run, innermost last
_stopping = False  # whether an interrupt has been raised already
_told = False  # whether the line has been printed, or is about to be
_telling = False  # whether it is being printed

# The first signal raises KeyboardInterrupt, so that temporary files are removed, workers are
# stopped and the progress bar is taken away; `execute` prints the line. A second one does not wait
# for that: it prints the line, if that has not been done, and ends the process. So does the first
# one during an import, where libraries written in C turn the exception into other errors or lose
# it. To end at any time is safe: files are written as a whole, temporary ones are removed here too,
# and workers end with this process. SIGHUP stays ignored where it is, as `nohup` has it.


@contextmanager
def handled(*, lasting: bool) -> Iterator[None]:
    """Handle interrupts in the block; if `lasting`, until the process ends."""
    global _stopping, _told
    _stopping = _told = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, _on_signal)
        for number in SIGNALS
        if number in SIGNALS[:2] or signal.getsignal(number) is not signal.SIG_IGN
    }
    hook, sys.unraisablehook = sys.unraisablehook, _on_unraisable
    try:
        yield
    except KeyboardInterrupt:  # before or after the command itself
        if lasting:
            _leave()
        raise
    finally:
        if lasting:
            _stopping = _told = True  # nothing is left to be said, or to be cleaned up
        else:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def saying(words: Callable[[], str]) -> Iterator[None]:
    """Say `words()` if the block is interrupted, such as how to continue."""
    _words.append(words)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words()) from None
    finally:
        _words.pop()


def end() -> NoReturn:
    """End the process at once, after an interrupt whose line has been printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or none at all
            stream.flush()
    os._exit(EXIT_CODE)


@contextmanager
def telling() -> Iterator[None]:
    """Print the line in the block: no second one is printed, nor is it cut off by one signal more.

    One after that ends the process, should the line find no reader.
    """
    global _told, _telling
    _telling = _told = True
    try:
        yield
    finally:
        _telling = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt the first time; end the process the second, or during an import."""
    global _stopping, _telling
    if _telling:
        _telling = False
        return
    if _stopping or _importing(frame):
        _leave()
    _stopping = True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _on_unraisable(unraisable: Any) -> None:
    """End the process if an interrupt was raised where Python can only print it."""
    if unraisable.exc_type is KeyboardInterrupt:
        _leave()
    sys.__unraisablehook__(unraisable)


def _leave() -> NoReturn:
    """Print the line, if that has not been done, and end the process at once."""
    global _told
    # The exception does not get to what removes them; the module may not be there, or in part.
    remove = getattr(sys.modules.get("topokit.graph.files"), "remove_temporaries", None)
    if remove is not None:
        remove()
    if not _told:
        _told = True
        line = f"topokit: {_words[-1]() if _words else 'interrupted'}\n"
        try:
            if os.isatty(2):
                line = f"{SHOW_CURSOR}\r{line}"
            os.write(2, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass
    os._exit(EXIT_CODE)

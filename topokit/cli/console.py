"""Output of the commands: results, tables, progress and errors."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from topokit.foreign import printable
from topokit.foreign import shell_word as shown

if TYPE_CHECKING:
    import pandas as pd

    from topokit.experiments.record import History

LINES = "\n\t"  # control characters that messages may have
# Characters of our messages for terminals that have only ASCII; others are shown as \\uNNNN.
ASCII = {"→": "->", "–": "-", "—": "-", "…": "...", "×": "x", "≤": "<=", "≥": ">=", "²": "^2"}


class Stream:
    """Standard output or error, whichever it is at each use. A failure never ends a command.

    Parameters
    ----------
    name : str
        ``"stdout"`` or ``"stderr"``.

    Attributes
    ----------
    failure : Exception or None
        Why writing failed; from then on nothing is written.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self.name), name)

    @property
    def encoding(self) -> str:
        """Encoding of the stream, ``ascii`` if it is closed."""
        return getattr(getattr(sys, self.name), "encoding", None) or "ascii"

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        file = getattr(sys, self.name)
        return file is not None and not file.closed and file.isatty()

    def write(self, text: str) -> int:
        """Write text, with other characters where the encoding lacks some."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._try("flush")

    def _try(self, method: str, *text: str) -> None:
        file = getattr(sys, self.name)
        if file is None or self.failure is not None:  # closed by whoever started the command
            return
        try:
            try:
                getattr(file, method)(*text)
            except UnicodeEncodeError:
                file.write(_encodable(text[0], self.encoding))
        except (OSError, ValueError) as error:  # a full disk, a reader that left, a closed file
            self.failure = error
            with suppress(OSError, ValueError, AttributeError):  # nor may the flush at exit fail
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _encodable(text: str, encoding: str) -> str:
    """Return text with the characters that an encoding lacks replaced."""
    for character, plain in ASCII.items():
        text = text.replace(character, plain)
    return text.encode(encoding, "backslashreplace").decode(encoding)


STDOUT, STDERR = Stream("stdout"), Stream("stderr")
WIDE = None if STDOUT.isatty() else 120  # columns when the output is a file or a pipe
OUT = Console(file=cast("Any", STDOUT), highlight=False, soft_wrap=True, width=WIDE)
ERR = Console(file=cast("Any", STDERR), highlight=False, soft_wrap=True)
HELP = Console(file=cast("Any", STDOUT), highlight=False)

# Columns of the table at the end of a run, and their measures.
SUMMARY = {
    "fan-in var/mean": "fan_in.dispersion",
    "fan-out var/mean": "fan_out.dispersion",
    "largest fan-in": "fan_in.maximum",
    "normalized gap": "normalized_spectral_gap",
}


def say(text: str) -> None:
    """Print a line of the result on standard output."""
    OUT.print(printable(text, keep=LINES), markup=False)


def note(text: str) -> None:
    """Print a note on standard error."""
    ERR.print(printable(text, keep=LINES), style="dim", markup=False)


class _Notes(logging.Handler):
    """Print log records as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def show_log() -> None:
    """Print the log records of topokit as notes, from now on in this process."""
    log = logging.getLogger("topokit")
    if not any(isinstance(handler, _Notes) for handler in log.handlers):
        log.addHandler(_Notes())
    log.setLevel(logging.INFO)


def complain(text: str) -> None:
    """Print an error on standard error."""
    ERR.print(f"topokit: {printable(text, keep=LINES)}", style="bold red", markup=False)


# What to do about errors of the system, and whether they are the user's to mend (exit code 2).
ADVICE = {
    errno.ENOSPC: ("the disk is full: free some space or write to another disk", 1),
    errno.EDQUOT: ("your quota of disk space is used up: free some or write elsewhere", 1),
    errno.EFBIG: ("raise the limit of the size of files: ulimit -f", 1),
    errno.EIO: ("the disk or the network to it failed", 1),
    errno.ENOMEM: ("close other programs or use a smaller network", 1),
    errno.EMFILE: ("raise the limit of open files: ulimit -n", 1),
    errno.EACCES: ("choose another place or ask for permission", 2),
    errno.EPERM: ("choose another place or ask for permission", 2),
    errno.EROFS: ("choose another place", 2),
    errno.ENOENT: ("make its folder first, or correct the name", 2),
    errno.ENOTDIR: ("a part of the path is no folder: correct the name", 2),
    errno.EISDIR: ("expected a file: correct the name", 2),
    errno.EEXIST: ("choose another name", 2),
    errno.ENAMETOOLONG: ("choose a shorter name", 2),
    errno.ELOOP: ("its links lead in a circle: correct the name", 2),
}


def sentence(error: Exception) -> tuple[str, int]:
    """Return one sentence about an error, with the file and what to do, and the exit code."""
    if isinstance(error, MemoryError):
        return f"out of memory: {error or 'use a smaller network or fewer processes'}", 1
    if not isinstance(error, OSError):
        return str(error), 2
    notes = "".join(f"; {line}" for line in getattr(error, "__notes__", []))
    if error.errno is None:  # one of our own, whose text says all of that
        return f"{error}{notes}", 2 if isinstance(error, FileNotFoundError) else 1
    cause = error.strerror or os.strerror(error.errno)
    place = "" if error.filename is None else f": {os.fsdecode(error.filename)}"
    advice, code = ADVICE.get(error.errno, ("", 1))
    if advice and cause == os.strerror(error.errno):  # else it has advice of its own
        notes = f"; {advice}{notes}"
    return f"{cause}{place}{notes}", code


def print_json(value: Any) -> None:
    """Print JSON on standard output; undefined numbers are ``null``."""
    STDOUT.write(json.dumps(_plain(value), indent=2) + "\n")
    STDOUT.flush()


def _plain(value: Any) -> Any:
    """Return a value with numbers that JSON cannot hold replaced by ``None``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def number(value: Any) -> str:
    """Format a number for a table: four significant digits, a dash if undefined."""
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_rows(rows: Iterable[Mapping[str, Any]], *, title: str) -> None:
    """Print rows as a table, numbers aligned to the right.

    Texts are folded to fit the width. Numbers are never cut: columns for which there is no room
    follow in further tables, each of which begins with the first column again.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = _table(rows, dict.fromkeys(columns), title)
    room = OUT.width
    if OUT.measure(table, options=OUT.options.update(width=10**6)).maximum <= room:
        OUT.print(table, markup=False, soft_wrap=False)
        return
    longest = {
        c: max((len(number(row[c])) for row in rows if c in row), default=0) for c in columns
    }
    for head in HEADS:
        short = {c: max(n, min(len(c), head)) for c, n in longest.items() if n <= SHORT}
        groups = _groups(columns, {c: short.get(c, HEADS[-1]) for c in columns}, room)
        if len(groups) == 1:
            break
    widths = {c: short.get(c) for c in columns}  # short columns are not folded, others are
    for group in groups:
        part = _table(rows, {column: widths[column] for column in group}, title)
        OUT.print(part, markup=False, soft_wrap=False)


SHORT = 24  # characters of a column that is not folded
HEADS = (28, 20, 12)  # characters after which heads are folded; the last also the least of a column


def _groups(columns: list[str], least: Mapping[str, int], room: int) -> list[list[str]]:
    """Divide columns into tables that fit, each beginning with the first column."""
    groups, used = [columns[:1]], 1 + sum(least[column] + 3 for column in columns[:1])
    first = used
    for column in columns[1:]:
        if used + least[column] + 3 > room and len(groups[-1]) > 1:
            groups.append(columns[:1])
            used = first
        groups[-1] = [*groups[-1], column]
        used += least[column] + 3
    return groups


def _table(rows: list[Mapping[str, Any]], widths: Mapping[str, int | None], title: str) -> Table:
    """Return a table of some columns, those without a width as wide as there is room."""
    table = Table(title=_cell(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column, width in widths.items():
        numeric = all(isinstance(row.get(column, 0), int | float) for row in rows)
        justify: Any = "right" if numeric else "left"
        head = _cell(column) if width is None else Text(_broken(printable(column), width))
        table.add_column(head, justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(_cell(number(row[c])) if c in row else "" for c in widths))
    return table


def _broken(head: str, width: int) -> str:
    """Return a head in lines that end at its points, strokes and blanks where they are near."""
    lines = [""]
    for part in re.findall(r"[^/._ ]*[/._ ]?", head):
        if len(lines[-1] + part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _cell(text: str) -> Text:
    """Return text for a table: no markup, no control characters, not even line breaks."""
    return Text(printable(text))


def print_measures(frame: pd.DataFrame, *, title: str) -> None:
    """Print a frame of layer, measure and value as a table with a column for each layer."""
    from topokit.plots.tables import number as worded

    layers = list(dict.fromkeys(frame["layer"]))
    rows: dict[str, dict[str, Any]] = {}
    for layer, measure, value in frame.itertuples(index=False):
        shown = worded(value, measure) if measure.endswith(".verdict") else float(value)
        rows.setdefault(measure, {"measure": measure})[layer] = shown
    for row in rows.values():
        row |= {layer: row.get(layer, "") for layer in layers}
    print_rows(({k: r[k] for k in ("measure", *layers)} for r in rows.values()), title=title)


def print_sentences(verdicts: Iterable[Mapping[str, str]]) -> None:
    """Print the verdict on the degree distribution of each layer and side."""
    for verdict in verdicts:
        say(f"{verdict['layer']} {verdict['side']}: {verdict['sentence']}")


def run_summary(history: History, directory: Path) -> dict[str, Any]:
    """Return the numbers shown at the end of a run."""
    from topokit.experiments.record import best_epoch

    epochs = history.epochs
    timing = history.timing
    share = float("nan")
    if timing.get("training_seconds"):
        share = timing["measuring_seconds"] / timing["training_seconds"]
    accuracy = epochs["test_accuracy"]
    return {
        "run": str(directory),
        "seed": history.config.get("seed"),
        "epochs": len(epochs),
        "final_test_loss": float(epochs["test_loss"].iloc[-1]),
        "final_test_accuracy": float(accuracy.iloc[-1]),
        "best_test_accuracy": float(accuracy.max()),
        "best_epoch": int(epochs["epoch"].iloc[best_epoch(epochs)]),
        "edges": {name: graph.n_edges for name, graph in history.topology(-1).items()},
        "training_seconds": float(timing.get("training_seconds", float("nan"))),
        "measuring_share": share,
    }


def print_summary(history: History, summary: Mapping[str, Any]) -> None:
    """Print the results of a run, its directory and a command to continue with."""
    frame = history.measures
    ends = [history.recorded[0], history.recorded[-1]]
    rows = []
    for layer, edges in summary["edges"].items():
        row: dict[str, Any] = {"layer": layer, "edges": edges}
        for head, measure in SUMMARY.items():
            mine = frame[(frame["layer"] == layer) & (frame["measure"] == measure)]
            values = [mine[mine["epoch"] == e]["value"] for e in ends]
            if all(len(v) for v in values):
                row[head] = " → ".join(f"{float(v.iloc[0]):.4g}" for v in values)
        rows.append(row)
    print_rows(rows, title=f"epoch {ends[0]} → {ends[1]}")
    if math.isnan(summary["final_test_accuracy"]):
        ending = f"test error {summary['final_test_loss']:.4f}, smallest"
    else:
        ending = (
            f"test accuracy {summary['final_test_accuracy']:.4f}, best "
            f"{summary['best_test_accuracy']:.4f}"
        )
    of = f"of {ends[0]} to {ends[1]}"  # the progress counts epochs from 1
    say(f"{ending} at epoch {summary['best_epoch']} {of}; seed {summary['seed']}")
    seconds, share = summary["training_seconds"], summary["measuring_share"]
    say(
        f"training took {seconds:.1f} s and measuring {share * seconds:.1f} s "
        f"({100 * share:.1f} % of training)"
    )
    run = summary["run"]
    say(f"results are in {run}")
    say(f"next: topokit plot {shown(run)}")

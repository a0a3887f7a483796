"""Checking every file of a run directory, and recovering what is damaged."""

from __future__ import annotations

import functools
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from topokit.experiments.rundir import (
    EXPORTS,
    Record,
    RunDirectory,
    as_json,
    changed_keys,
    epochs_of,
    readable_lines,
    shown,
)
from topokit.experiments.upgrade import frame_of, lines_of, read_old
from topokit.foreign import shell_word
from topokit.graph import snapshots
from topokit.graph.checksums import check_kinds, digest, read_file, seal_in, stamped, unseal

__all__ = ["Finding", "Verdict", "verify"]

LOST = "cannot be recovered"
POSSIBLE = "can be recovered"
DONE = "was recovered"
PATIENCE = 0.1  # seconds


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file of a run.

    Parameters
    ----------
    file, problem : str
    state : str
        "can be recovered", "was recovered" or "cannot be recovered".
    remedy : str
        What recovering does, or what else can be done.
    """

    file: str
    problem: str
    state: str
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """What `verify` found out about a run.

    Parameters
    ----------
    run : str
        Its path.
    schema, epochs : int
        The version of its format, and the number of epochs recorded.
    finished : bool
    findings : tuple of Finding
    """

    run: str
    schema: int
    epochs: int
    finished: bool
    findings: tuple[Finding, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether nothing is damaged, or everything was recovered."""
        return all(finding.state == DONE for finding in self.findings)

    def sentence(self) -> str:
        """Return the verdict and the findings as lines of text."""
        kind = "finished" if self.finished else "unfinished"
        head = f"{self.run}: {kind}, {self.epochs} epochs, schema {self.schema}"
        if not self.findings:
            sums = "" if self.schema > 1 else " (a run of this schema has no checksums)"
            return f"{head}: every file is intact{sums}"
        lines = [f"  {f.file}: {f.problem}; {f.state}: {f.remedy}" for f in self.findings]
        return "\n".join([f"{head}: damaged" if not self.intact else head, *lines])


def verify(directory: str | os.PathLike[str], *, recover: bool = False) -> Verdict:
    """Check every file of a run, and recover what is damaged if asked to.

    Files can be rebuilt from the record, and an unfinished run can go back to the last epoch that
    is whole, if its checkpoint is not of a later one. Damaged files are kept in the folder
    ``damaged`` of the run.

    Parameters
    ----------
    directory : path
    recover : bool

    Returns
    -------
    Verdict

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If it is no run directory or was written by a newer topokit; with `recover` also if another
        process is writing to it.

    Notes
    -----
    Reads the whole directory once.

    Examples
    --------
    >>> import tempfile
    >>> from topokit.experiments.rundir import RunDirectory
    >>> run = RunDirectory.create(tempfile.mkdtemp(), "epochs = 2", {"seed": 0})
    >>> verify(run.path).intact
    True
    >>> _ = (run.path / "config.toml").write_text("epochs = 3")
    >>> [(finding.file, finding.state) for finding in verify(run.path).findings]
    [('config.toml', 'can be recovered')]
    >>> verify(run.path, recover=True).intact, (run.path / "config.toml").read_text()
    (True, 'epochs = 2')
    """
    run = RunDirectory.open(directory)
    with run.lock() if recover else nullcontext():
        check = _Check(run).all()
        if not recover or not check.found:
            return check.verdict()
        for finding, action in check.found:
            if finding.state == POSSIBLE:
                action()
        after = _Check(run).all()
    left = {(finding.file, finding.problem) for finding, _ in after.found}
    before = [
        finding if finding.state != POSSIBLE else replace(finding, state=DONE)
        for finding, _ in check.found
        if (finding.file, finding.problem) not in left
    ]
    verdict = after.verdict()
    return replace(verdict, findings=(*before, *verdict.findings))


def _unix(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _once(content: bytes) -> bytes:
    """Leave out lines that repeat the line before; no two lines of a record are the same."""
    lines = content.splitlines(keepends=True)
    return b"".join(
        line for line, before in zip(lines, [b"", *lines], strict=False) if line != before
    )


_MENDS: tuple[tuple[str, str, Callable[[bytes], bytes]], ...] = (
    ("its lines end as on Windows, as after a conversion of text files", "convert them", _unix),
    ("it has lines twice, as after an append that was repeated", "delete the repeated ones", _once),
)
"""What can be undone in a record without loss: what is wrong, the remedy, and how."""


def _nothing() -> None:
    """Recover nothing."""


@dataclass
class _Check:
    """The checks of one run, and what they found."""

    run: RunDirectory
    record: Record | None = None
    finished: bool = False
    saved: int = 0  # epochs of the checkpoint, if it is intact
    found: list[tuple[Finding, Callable[[], None]]] = field(default_factory=list)

    def verdict(self) -> Verdict:
        epochs = len(self.record.lines) if self.record else 0
        schema = self.record.schema if self.record else 0
        findings = tuple(finding for finding, _ in self.found)
        return Verdict(str(self.run.path), schema, epochs, self.finished, findings)

    def add(
        self, file: str, problem: Any, remedy: str, action: Callable[[], None] | None = None
    ) -> None:
        state = LOST if action is None else POSSIBLE
        words = str(problem).removeprefix(f"{file} of run {self.run.path} is damaged: ")
        words = words.removesuffix(
            f"; 'topokit verify {shell_word(self.run.path)}' says what can be recovered"
        )
        self.found.append((Finding(file, words, state, remedy), action or _nothing))

    def all(self) -> _Check:
        if self.run.is_old():
            self._old()
            return self
        ended = os.path.lexists(self.run.path / "DONE")  # before the record: it is written last
        mark = self._mark()
        saved = self._saved()  # before the record: a run that goes on writes that first
        problem = self._lines()
        if self.record and self.record.torn and not problem:
            time.sleep(PATIENCE)  # the line may be about to be written
            problem = self._lines()
        record = self.record
        if record is None:
            self.add("record.jsonl", problem, "the run has to be started again in another folder")
            return self
        self.finished = mark is not None and mark.get("run") == record.run
        self._checkpoint(record, problem, saved)
        if problem:
            self._cut_lines(record, problem, mark)
            return self
        if record.torn:
            words = "its last line is incomplete, as after an interruption"
            self.add("record.jsonl", words, "delete that part", lambda: self._cut(record.lines))
        self._texts(record)
        self._topologies(record)
        if ended:
            self._end(record, mark)
        return self

    # The record.

    def _lines(self) -> str:
        try:
            content = read_file(self.run.path / "record.jsonl")
        except FileNotFoundError:
            return "it is missing"
        except ValueError as error:
            return str(error)
        self.record, problem = readable_lines(content, self.run.path)
        for words, remedy, mend in _MENDS if problem else ():
            mended = mend(content)
            record, left = readable_lines(mended, self.run.path)
            if mended != content and not left:
                self.record, problem = record, ""
                undo = functools.partial(self._replace, "record.jsonl", mended)
                self.add("record.jsonl", words, remedy, undo)
                break
        return problem

    def _cut_lines(self, record: Record, problem: str, mark: dict[str, Any] | None) -> None:
        whole = len(record.lines)
        accepted = b'"accepted"' in read_file(self.run.path / "record.jsonl")[record.size :]
        same = mark is not None and epochs_of(record.config) == mark["epochs"] and not accepted
        if self.finished and mark and self._exports_intact(mark) and same:
            words = f"rebuild the lines after epoch {whole - 1} from the frames"
            self.add("record.jsonl", problem, words, lambda: self._rebuild(record, mark["epochs"]))
        elif not self.finished and self.saved and self.saved <= whole:
            words = f"go back to the first {whole} epochs, resume does the others again"
            self.add("record.jsonl", problem, words, lambda: self._cut(record.lines))
        else:
            words = f"only the first {whole} epochs can be read; start the run again elsewhere"
            self.add("record.jsonl", problem, words)

    def _cut(self, lines: list[dict[str, Any]]) -> None:
        """Keep the first epochs, and put the files of the others aside."""
        run, record = self.run, self.record
        assert record is not None
        content = read_file(run.path / "record.jsonl")
        end = record.starts[len(lines)] if len(lines) < len(record.starts) else record.size
        self._aside("record.jsonl")
        run.write("record.jsonl", content[:end])
        for epoch in snapshots.recorded(run.topology) if run.topology.is_dir() else []:
            if epoch >= len(lines):
                self._aside(f"topology/{epoch:06d}.npz")

    def _rebuild(self, record: Record, epochs: int) -> None:
        """Write the lines after the readable ones from the frames of a finished run."""
        run = self.run
        content = read_file(run.path / "record.jsonl")[: record.size]
        frames = [frame_of(run, name) for name in EXPORTS[:2]]
        assert frames[0] is not None
        lines = lines_of(frames[0], frames[1])
        self._aside("record.jsonl")
        run.write("record.jsonl", content)
        last = record.last
        for line in lines[len(record.lines) : epochs]:
            path = run.topology / f"{line['epoch']:06d}.npz"
            check = (unseal(read_file(path)) or {}).get("digest", "")
            saved = ""
            if line["epoch"] == epochs - 1 and run.checkpoint.exists():
                saved = (seal_in(read_file(run.checkpoint)) or {}).get("digest", "")
            values = {**line, "run": record.run, "topology": check, "checkpoint": saved}
            last = run.add_line(values, last)
        run.finish()

    # The other files.

    def _mark(self) -> dict[str, Any] | None:
        """Return the content of the mark of the end, None if there is none or it is damaged."""
        try:
            mark = stamped(read_file(self.run.path / "DONE").rstrip(b"\n"))
            check_kinds(mark, run=str, record=str, epochs=int, files=dict)
            return mark
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def _saved(self) -> dict[str, Any] | Exception | None:
        """Return the seal of the checkpoint, or what is wrong with it."""
        try:
            return unseal(read_file(self.run.checkpoint))
        except (FileNotFoundError, ValueError) as error:
            return error

    def _checkpoint(
        self, record: Record, problem: str, about: dict[str, Any] | Exception | None
    ) -> None:
        epochs = len(record.lines)
        try:
            if isinstance(about, Exception):
                raise about
            if about is None or about["run"] != record.run:
                raise ValueError("it belongs to another run" if about else "it has no checksum")
            self.saved = int(about["epoch"])
            if problem and self.saved > epochs:
                return  # its line is damaged: nothing to compare it with
            known = 1 <= self.saved <= epochs
            if not known or record.lines[self.saved - 1]["checkpoint"] not in (about["digest"], ""):
                raise ValueError("it is not the one that was saved at this point of the run")
        except FileNotFoundError:
            if epochs > 1:
                self._checkpoint_lost("it is missing", epochs)
        except (ValueError, KeyError, TypeError) as error:
            self.saved = 0
            self._checkpoint_lost(error, epochs)

    def _checkpoint_lost(self, error: Any, epochs: int) -> None:
        if self.finished:
            self.add("checkpoint.pt", error, "the weights are lost, the results are not")
        elif epochs <= 1:
            words = "put it aside, resume starts from epoch 0"
            self.add("checkpoint.pt", error, words, lambda: self._aside("checkpoint.pt"))
        else:
            words = "the run cannot go on; start it again in another folder"
            self.add("checkpoint.pt", error, words)

    def _texts(self, record: Record) -> None:
        texts = {
            "config.toml": record.config.encode(),
            "environment.json": as_json(record.environment),
        }
        for name, right in texts.items():
            try:
                content = read_file(self.run.path / name)
                if content == right:
                    continue
                problem = "it was changed" if content.strip() else "it is empty"
                if name == "config.toml" and content.strip():
                    problem += shown(
                        changed_keys(record.config, content.decode("utf-8", "replace"))
                    )
            except FileNotFoundError:
                problem = "it is missing"
            except ValueError as error:
                problem = str(error)
            self.add(
                name, problem, "put back what the record says",
                functools.partial(self._replace, name, right),
            )  # fmt: skip

    def _topologies(self, record: Record) -> None:
        try:
            self.run.check_folder()
        except ValueError as error:
            self.add("topology", error, "put the folder itself there")
            return
        for epoch in range(len(record.lines)):
            try:
                snapshots.check(self.run.topology, epoch, record.checks)
            except ValueError as error:
                file = f"topology/{epoch:06d}.npz"
                if not self.finished and 0 < self.saved <= epoch:
                    words = f"go back to the first {epoch} epochs, resume does the others again"
                    kept = record.lines[:epoch]
                    self.add(file, error, words, functools.partial(self._cut, kept))
                    return
                words = "its graphs, and those up to the next keyframe, are lost"
                self.add(file, error, words)

    def _end(self, record: Record, mark: dict[str, Any] | None) -> None:
        run, planned = self.run, epochs_of(record.config)
        try:
            run.finished(record)
        except ValueError as error:
            if planned == len(record.lines) and self.finished and mark:
                self._other_record(record, mark)
            elif planned == len(record.lines):
                self.add("DONE", error, "write it again", lambda: self._finish("DONE"))
            else:
                words = "put it aside, the run is not finished"
                self.add("DONE", error, words, lambda: self._aside("DONE"))
                self.finished = False
            return
        for name in EXPORTS:
            problem = self._export_problem(name, mark or {})
            if problem:
                words = "write it again from the record"
                self.add(name, problem, words, functools.partial(self._finish, name))

    def _other_record(self, record: Record, mark: dict[str, Any]) -> None:
        """Say what to do about a record that is whole, but not the one the run ended with."""
        problem = "it is not the one that the run ended with"
        if not self._exports_intact(mark):
            self.add("record.jsonl", problem, "what the run ended with is lost")
            return
        frames = [frame_of(self.run, name) for name in EXPORTS[:2]]
        assert frames[0] is not None
        pairs = zip(record.lines, lines_of(frames[0], frames[1]), strict=True)
        first = next((i for i, (a, b) in enumerate(pairs) if _values(a) != _values(b)), None)
        if first is None:  # such as of a copy that ended on its own: the times differ
            self.add("DONE", problem, "write it again", lambda: self._finish("DONE"))
            return
        before = record.lines[first]["before"]
        kept = replace(record, lines=record.lines[:first], size=record.starts[first], last=before)
        self._cut_lines(kept, f"{problem}: the values of epoch {first} differ", mark)

    def _exports_intact(self, mark: dict[str, Any]) -> bool:
        return not any(self._export_problem(name, mark) for name in EXPORTS[:2])

    def _export_problem(self, name: str, mark: dict[str, Any]) -> str:
        try:
            right = digest(read_file(self.run.path / name)) == mark.get("files", {}).get(name)
            return "" if right else "its content does not match its checksum"
        except FileNotFoundError:
            return "it is missing"
        except ValueError as error:
            return str(error)

    # Recovering.

    def _aside(self, name: str) -> None:
        """Move a file into the folder of damaged ones, under a name that is free there."""
        path = self.run.path / name
        if not os.path.lexists(path):
            return
        folder = self.run.path / "damaged"
        folder.mkdir(exist_ok=True)
        flat = name.replace("/", "-")
        names = [flat, *(f"{flat}-{i}" for i in range(2, 1000))]
        path.rename(next(folder / n for n in names if not os.path.lexists(folder / n)))

    def _replace(self, name: str, content: bytes) -> None:
        self._aside(name)
        self.run.write(name, content)

    def _finish(self, name: str) -> None:
        for file in (name, *EXPORTS):
            if file == name or not _is_file(self.run.path / file):
                self._aside(file)
        self.run.finish()

    # Runs of schema 1.

    def _old(self) -> None:
        run = self.run
        try:
            self.record = record = read_old(run)
        except ValueError as error:
            self.add("the record", error, "runs of schema 1 have no second copy of anything")
            return
        try:
            self.finished = run.finished(record)
        except ValueError as error:
            words = "put it aside, the run is not finished"
            self.add("DONE", error, words, lambda: self._aside("DONE"))
        for epoch in range(len(record.lines)):
            try:
                snapshots.load(run.topology, epoch)
            except ValueError as error:
                self.add(f"topology/{epoch:06d}.npz", error, "its graphs are lost")
        try:
            with zipfile.ZipFile(io.BytesIO(read_file(run.checkpoint))) as archive:
                if archive.testzip():
                    raise ValueError("its content does not match its checksums")
        except FileNotFoundError:
            if record.lines:
                self._checkpoint_lost("it is missing", len(record.lines))
        except Exception as error:  # zipfile raises errors of many kinds
            self._checkpoint_lost(error, len(record.lines))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _values(line: dict[str, Any]) -> str:
    """Return what a line of the record says about its epoch, but for times."""
    metrics = {k: float(value) for k, value in line["metrics"].items() if k != "seconds"}
    measures = [[layer, measure, float(value)] for layer, measure, value in line["measures"]]
    return json.dumps([metrics, measures])  # where nan equals nan

"""The folder of a run: its files, its identity, and the lines of its record."""

from __future__ import annotations

import io
import json
import os
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from topokit.foreign import first_few, shell_word
from topokit.graph import snapshots
from topokit.graph.checksums import (
    check_kinds,
    check_regular,
    digest,
    read_file,
    read_seal,
    stamp,
    stamped,
)
from topokit.graph.files import check_writable, is_temporary, locked, write_atomic
from topokit.tables import choose
from topokit.toml import flattened

__all__ = ["MEASURE_COLUMNS", "SCHEMA", "Record", "RunDirectory", "changed_keys", "writable"]

SCHEMA = 2
MEASURE_COLUMNS = ["run", "epoch", "layer", "measure", "value"]
EXPORTS = ("epochs.parquet", "measures.parquet", "timing.json")
FILES = {
    ".lock", "config.toml", "environment.json", "record.jsonl", "topology", "checkpoint.pt", "DONE",
    "figures", "damaged", *EXPORTS,
}  # fmt: skip
MADE = {".lock", "environment.json", "record.jsonl"}  # one is there from the beginning

# How a change or a loss in a run directory is noticed. The first line of `record.jsonl` is the
# identity of the run (a random id, the text of its configuration, its environment, a checksum of
# its data), and every epoch appends one line with the metrics, the measures, and the checksums of
# the files written for that epoch. Each line has the checksum of itself and of the line before, so
# that no line can be changed, left out or moved. All other files are compared with it:
#
#   config.toml, environment.json   must be the texts in the identity
#   topology/NNNNNN.npz             its checksum is in the line of its epoch
#   checkpoint.pt                   its checksum is in the line of the epoch before it
#   DONE                            has the checksums of the last line and of the exported files
#
# An epoch is written in the order topology, line, checkpoint. After a crash the record is therefore
# at most one epoch ahead of the checkpoint, and may end in a part of a line; resuming cuts both.
# The work and the bytes of an epoch do not depend on how many there were before.


@dataclass(frozen=True)
class Record:
    """What a run directory says happened.

    Parameters
    ----------
    schema : int
        1 for runs from before there were checksums, else 2.
    run : str
        The run's identity; empty in schema 1.
    config : str
        Text of the configuration.
    environment : dict
    data : str
        Checksum of the data set, as loaded.
    lines : list of dict
        For each epoch from 0: ``epoch``, ``metrics``, ``measures`` (layer, measure, value),
        ``seconds`` of measuring, and the checksums ``topology`` and ``checkpoint``.
    starts : list of int
        Position in the file of each of these lines.
    last : str
        Checksum of the last line of the file.
    size : int
        Length of the whole lines of the file.
    torn : bool
        Whether a part of a line follows.
    ended : bool
        Whether the mark of the end was there before the record was read.
    plugins : list of dict
        The plugins that were loaded, as the record has them; see `topokit.plugins.loaded`.
    device : str
        Where the run was trained last.
    growth : str
        The random stream of growth (`topokit.rules.stream`); empty in runs from before it.
    """

    schema: int
    run: str
    config: str
    environment: dict[str, Any]
    data: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    last: str = ""
    size: int = 0
    torn: bool = False
    ended: bool = False
    plugins: list[dict[str, str]] = field(default_factory=list)
    device: str = "cpu"
    growth: str = ""

    @property
    def checks(self) -> dict[int, str] | None:
        """Checksum of the topology file of each epoch; None in schema 1."""
        if self.schema < 2:
            return None
        return {line["epoch"]: line["topology"] for line in self.lines}

    def frames(self, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the frames of epochs and of measures, for a run of that name."""
        rows = [{"run": name, "epoch": line["epoch"], **line["metrics"]} for line in self.lines]
        epochs = pd.DataFrame(rows, columns=None if rows else ["run", "epoch"])
        values = [(name, line["epoch"], *row) for line in self.lines for row in line["measures"]]
        measures = pd.DataFrame(values, columns=MEASURE_COLUMNS)
        return epochs, measures.astype({"value": float}) if values else measures

    def timing(self) -> dict[str, float]:
        """Return the seconds spent in training and in measuring so far."""
        return {
            "epochs": len(self.lines),
            "training_seconds": sum(line["metrics"].get("seconds", 0.0) for line in self.lines),
            "measuring_seconds": sum(line["seconds"] for line in self.lines),
        }


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run, and its files.

    Every file but the record is written under a temporary name and then moved into place; the
    record is appended to. An interruption therefore leaves no partial file but a last line.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config_toml: str,
        environment: dict[str, Any],
        *,
        data: str = "",
    ) -> RunDirectory:
        """Make the folder of a new run, or of one interrupted before its first checkpoint.

        Parameters
        ----------
        path : path
        config_toml : str
        environment : dict
            Versions, seed and command.
        data : str
            Checksum of the data set.

        Raises
        ------
        ValueError
            As in `check_free`.
        """
        run = cls(Path(path))
        run.check_free(config_toml)
        run.path.mkdir(parents=True, exist_ok=True)
        run.write("config.toml", config_toml.encode())
        run.write("environment.json", as_json(environment))
        run.write("record.jsonl", f"{identity(config_toml, environment, data)}\n".encode())
        return run

    def check_free(self, config_toml: str) -> None:
        """Raise an error unless a run with this configuration can start in the folder.

        It can if there is no such folder, if it is empty, or if it holds the beginning of a run
        with the same configuration that was interrupted before its first checkpoint.

        Raises
        ------
        ValueError
            If it cannot.
        OSError
            If the folder cannot be made or written to.
        """
        path = self.path
        if not path.exists() and not path.is_symlink():
            check_writable(path, made=True)
            return
        hint = "choose another --out"
        if path.is_dir():
            names = {entry.name for entry in path.iterdir() if not is_temporary(entry.name)}
            if names <= {".lock"}:
                check_writable(path)
                return
            if "config.toml" in names and names <= FILES and names & MADE:
                if not _same_config(self.config(), config_toml):
                    words = self._differing(config_toml)
                    hint = f"it holds a run with another configuration ({words}); {hint}"
                elif not self._begun():
                    return
                else:
                    hint = f"'topokit resume {shell_word(path)}' continues that run"
        raise ValueError(f"expected a new or empty folder, {path} is there already; {hint}")

    def _differing(self, config_toml: str) -> str:
        """Return in words how another configuration differs from that of the folder."""
        there = (self.path / "config.toml").read_text(encoding="utf-8")
        texts = ("about.", "device ")  # which may differ
        found = [words for words in changed_keys(there, config_toml) if not words.startswith(texts)]
        return first_few(found, 3)

    def holds(self, config_toml: str) -> bool:
        """Return whether the folder holds a run with this configuration that has begun.

        Raises
        ------
        ValueError
            If a file of that run is damaged.
        """
        if not (self.path / "config.toml").is_file():
            return False
        return _same_config(self.config(), config_toml) and self._begun()

    def _begun(self) -> bool:
        """Whether there is something to go on from; anything unclear counts as such."""
        if any(os.path.lexists(self.path / name) for name in ("checkpoint.pt", "DONE", *EXPORTS)):
            return True
        return len(self.read().lines) > 1  # the first epoch is recorded before its checkpoint

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Open the folder of a run.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it is no run directory.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"expected a run directory, found no folder {path}")
        there = {name for name in FILES if os.path.lexists(path / name)}
        if "record.jsonl" not in there and not ("config.toml" in there and there & MADE):
            sweep = any(path.glob("runs/*/config.toml"))
            what = f"a sweep: name {path}/runs/*" if sweep else "none"
            raise ValueError(
                f"expected a run directory (with config.toml, made by 'topokit train'), "
                f"{path} is {what}"
            )
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the run."""
        return writable(self.path.resolve().name)

    @property
    def checkpoint(self) -> Path:
        """The file from which the run can be continued."""
        return self.path / "checkpoint.pt"

    @property
    def topology(self) -> Path:
        """The folder of the topologies of all epochs."""
        return self.path / "topology"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for this process; the lock ends when the process ends.

        Raises
        ------
        ValueError
            If another process holds it.
        OSError
            If the folder cannot be locked.
        """
        with locked(self.path / ".lock", what=f"the run {self.path}"):
            yield

    # Reading.

    def check_folder(self) -> None:
        """Raise a ValueError if the folder of topologies is a link, or no folder."""
        path = self.topology
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise ValueError(f"expected a folder at {path}, found something else; remove it")

    def config(self) -> dict[str, Any]:
        """Return the configuration in ``config.toml``."""
        try:
            return tomllib.loads(self.config_text())
        except tomllib.TOMLDecodeError as error:
            raise self.damaged("config.toml", error) from error

    def config_text(self) -> str:
        """Return the text of ``config.toml``."""
        try:
            return read_file(self.path / "config.toml").decode()
        except FileNotFoundError:
            raise self.damaged("config.toml", "it is missing") from None
        except UnicodeDecodeError as error:
            raise self.damaged("config.toml", error) from error

    def read(self) -> Record:
        """Return the record, whose lines are all checked.

        Raises
        ------
        ValueError
            If a line is damaged, lines are missing, or the record is of a newer topokit.
        """
        self.check_folder()
        ended = os.path.lexists(self.path / "DONE")
        if self.is_old():
            from topokit.experiments.upgrade import read_old

            return replace(read_old(self), ended=ended)
        least = self._epochs_of_checkpoint()  # before the record, which is written first
        record = read_lines(self._content("record.jsonl"), self.path)
        if least and least[0] != record.run:
            raise self.damaged("checkpoint.pt", "it belongs to another run")
        if least and least[1] > len(record.lines):
            words = f"the checkpoint is of epoch {least[1]}, the record has {len(record.lines)}"
            raise self.damaged("record.jsonl", words)
        return replace(record, ended=ended)

    def compare(self, record: Record) -> None:
        """Compare the record with the other small files of the folder.

        Raises
        ------
        ValueError
            If configuration, environment or the mark of the end differ from it.
        """
        if record.ended:  # else it may have come while the record was read
            self.finished(record)
        if record.schema < 2:
            return
        if self.config_text() != record.config:
            raise ValueError(
                f"config.toml of run {self.path} is not the one it was made with"
                f"{shown(changed_keys(record.config, self.config_text()))}; 'topokit verify "
                f"{shell_word(self.path)} --recover' puts that back, 'topokit resume "
                f"{shell_word(self.path)} --accept "
                "config' continues an unfinished run with the new one"
            )
        if self._content("environment.json") != as_json(record.environment):
            raise self.damaged("environment.json", "it is not the one the run was made with")

    def is_old(self) -> bool:
        """Return whether the run is of schema 1, or was killed before it had a record."""
        if os.path.lexists(self.path / "record.jsonl"):
            return False
        try:
            return not read_file(self.path / "DONE")  # an empty file in schema 1
        except FileNotFoundError:
            return True

    def _content(self, name: str) -> bytes:
        try:
            return read_file(self.path / name)
        except FileNotFoundError:
            raise self.damaged(name, "it is missing") from None

    def _epochs_of_checkpoint(self) -> tuple[str, int] | None:
        """Return run and epoch of the checkpoint, None if there is none or the run has ended."""
        if os.path.lexists(self.path / "DONE"):
            return None
        try:
            seal = read_seal(self.checkpoint)
            if seal is None:
                raise ValueError("it has no checksum")
            return str(seal["run"]), int(seal["epoch"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged("checkpoint.pt", error) from error

    def damaged(self, name: str, why: Any) -> ValueError:
        """Return the error about a file of the run."""
        words = str(why)
        if words.startswith("expected a regular file"):
            return ValueError(words)
        return ValueError(
            f"{name} of run {self.path} is damaged: {words}; 'topokit verify "
            f"{shell_word(self.path)}' says what can be recovered"
        )

    # The end of a run.

    @property
    def done(self) -> bool:
        """Whether the run has ended as planned.

        Raises
        ------
        ValueError
            If the run is marked as ended but has not.
        """
        return os.path.lexists(self.path / "DONE") and self.finished(self.read())

    def finished(self, record: Record) -> bool:
        """Return whether the run has ended as planned; see `done`."""
        try:
            content = read_file(self.path / "DONE")
        except FileNotFoundError:
            return False
        planned, got = epochs_of(record.config), len(record.lines)
        if planned != got:
            raise self.damaged("DONE", f"{got} of {planned} epochs were recorded")
        if record.schema < 2:
            return True
        try:
            mark = stamped(content.rstrip(b"\n"))
        except ValueError as error:
            raise self.damaged("DONE", error) from error
        if mark.get("run") != record.run:
            raise self.damaged("DONE", "it belongs to another run")
        if mark.get("record") != record.last:
            raise self.damaged("record.jsonl", "it is not the one that the run ended with")
        return True

    def finish(self) -> None:
        """Write the frames for other tools, and mark the run as ended."""
        record = self.read()
        files = self.exported(record)
        for name, content in files.items():
            self.write(name, content)
        mark = {
            "schema": SCHEMA, "run": record.run, "epochs": len(record.lines),
            "record": record.last,
            "files": {name: digest(content) for name, content in files.items()},
        }  # fmt: skip
        self.write("DONE", stamp(mark).encode() + b"\n")

    def exported(self, record: Record) -> dict[str, bytes]:
        """Return names and contents of the files that are written at the end for other tools."""
        frames = record.frames(self.name)
        parquet = []
        for frame in frames:
            buffer = io.BytesIO()
            frame.to_parquet(buffer, index=False)
            parquet.append(buffer.getvalue())
        return dict(zip(EXPORTS, [*parquet, as_json(record.timing())], strict=True))

    # Writing.

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name and move it into place."""
        with write_atomic(self.path / name) as temporary:
            temporary.write_bytes(content)

    def add_line(self, values: Mapping[str, Any], after: str) -> str:
        """Append a line to the record, on disk when this returns; return its checksum.

        Parameters
        ----------
        values : mapping
        after : str
            Checksum of the line before.
        """
        line = stamp({**values, "before": after})
        path = self.path / "record.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        check_regular(path)
        file = os.open(path, flags)
        try:
            size = os.fstat(file).st_size
            content = memoryview(line.encode() + b"\n")
            try:
                while content:
                    content = content[os.write(file, content) :]
                os.fsync(file)
            except OSError as error:  # such as a full disk: leave whole lines
                os.ftruncate(file, size)
                raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(file)
        return str(stamped(line)["digest"])

    def cut(self, record: Record, epochs: int) -> Record:
        """Delete the lines and the topologies of all epochs but the first ones.

        Parameters
        ----------
        record : Record
            As `read` returned it.
        epochs : int
            How many to keep.

        Returns
        -------
        Record
            As `read` would return it now.
        """
        if epochs < len(record.lines) or record.torn:
            at = record.starts[epochs] if epochs < len(record.lines) else record.size
            path = self.path / "record.jsonl"
            with path.open("r+b") as file:
                file.truncate(at)
                os.fsync(file.fileno())
            record = self.read()
        if self.topology.is_dir():
            snapshots.truncate(self.topology, epochs - 1)
        return record


def writable(text: str) -> str:
    r"""Return text from the file system or a command line as text that can be written.

    Names of files may be of any bytes; those that are no UTF-8 come as surrogates and are shown.

    Examples
    --------
    >>> writable("Läufe"), writable("L\udce4ufe")
    ('Läufe', 'L\\xe4ufe')
    """
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def identity(config: str, environment: Mapping[str, Any], data: str) -> str:
    """Return the first line of a record, with a new random identity."""
    return stamp({
        "kind": "run", "schema": SCHEMA, "run": uuid.uuid4().hex,
        "topokit": environment.get("packages", {}).get("topokit-nn", ""),
        "data": data, "environment": environment, "config": config,
    })  # fmt: skip


def read_lines(content: bytes, path: Path) -> Record:
    """Return the record of run `path` in the content of its file of lines.

    Raises
    ------
    ValueError
        If a line is damaged, or there is none.
    """
    record, problem = readable_lines(content, path)
    if record is None or problem:
        raise ValueError(
            f"record.jsonl of run {path} is damaged: {problem}; 'topokit verify "
            f"{shell_word(path)}' says what can be recovered"
        )
    return record


def readable_lines(content: bytes, path: Path) -> tuple[Record | None, str]:
    """Return the record in the lines before the first damaged one, and what is wrong with that.

    The record is None if the first line is damaged; without a damaged line the text is empty.

    Raises
    ------
    ValueError
        If the record is of a newer topokit.
    """
    *lines, rest = content.split(b"\n")
    record: Record | None = None
    epochs: list[dict[str, Any]] = []
    starts: list[int] = []
    # after each line that is right: its checksum, position, what is known of the run, and epochs
    ends: list[tuple[str, int, Record | None, int]] = [("", 0, None, 0)]
    problem = ""
    if lines:
        _check_schema(lines[0], path)
    for i, line in enumerate(lines):
        last, position, record, _ = ends[-1]
        try:
            values = stamped(line)
            if values["kind"] == "run" and not i:
                record = _beginning(values)
            elif record is None or values["before"] != last or values["run"] != record.run:
                del ends[max(len(ends) - 1, 1) :]  # which of the two is wrong is not known
                del ends[len(ends) if ends[-1][3] else 1 :]
                raise ValueError("it does not follow the line before")
            elif values["kind"] == "accepted":
                check_kinds(values, now=choose("change", values["what"], CHANGES))
                record = replace(record, **{values["what"]: values["now"]})
            elif values["kind"] != "epoch" or values["epoch"] != len(epochs):
                raise ValueError(f"expected epoch {len(epochs)}, got {values.get('epoch')}")
            else:
                check_kinds(values, metrics=dict, measures=list, topology=str, checkpoint=str)
                epochs.append(values)
                starts.append(position)
        except (ValueError, KeyError, TypeError) as error:
            problem = f"line {i + 1}: {error}"
            break
        ends.append((values["digest"], position + len(line) + 1, record, len(epochs)))
    last, size, record, n = ends[-1]
    if record is None:
        return None, problem or "it is empty"
    epochs, starts = epochs[:n], starts[:n]
    found = replace(record, lines=epochs, starts=starts, last=last, size=size, torn=bool(rest))
    return found, problem


CHANGES = {"config": str, "data": str, "plugins": list, "growth": str, "device": str}
"""What may change while a run is resumed, and the kind of the value."""


def _beginning(values: Mapping[str, Any]) -> Record:
    """Return the record of which only the first line is known."""
    check_kinds(values, run=str, config=str, environment=dict, data=str)
    environment = values["environment"]
    record = Record(SCHEMA, values["run"], values["config"], environment, values["data"])
    usual = {"plugins": [], "device": "cpu", "growth": ""}
    return replace(record, **{key: environment.get(key, value) for key, value in usual.items()})


def _check_schema(line: bytes, path: Path) -> None:
    """Raise a ValueError if the first line of a record is of a newer schema."""
    try:
        schema = json.loads(line)["schema"]
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(
            f"run {path} was written by a newer topokit (schema {schema}, this one reads up to "
            f"{SCHEMA}): pip install -U topokit-nn"
        )


def changed_keys(before: str, now: str) -> list[str]:
    r"""Return the keys in which two TOML texts differ, with both values.

    Examples
    --------
    >>> changed_keys("seed = 1\n[optimizer]\nlr = 0.1", "seed = 1\n[optimizer]\nlr = 0.2")
    ['optimizer.lr is 0.2 and was 0.1']
    """
    try:
        old, new = (flattened(tomllib.loads(text)) for text in (before, now))
    except ValueError as error:
        return [f"it is not valid TOML: {error}"]
    unset = "not set"
    changed = {
        key: (new.get(key, unset), old.get(key, unset))
        for key in {**old, **new}
        if old.get(key, unset) != new.get(key, unset)
    }
    return [
        f"{key} is {now} and was {then}" if len(f"{now}{then}") < 80 else f"{key} was changed"
        for key, (now, then) in changed.items()
    ]


def shown(found: list[str]) -> str:
    """Return differences for a message, the first four only."""
    return f" ({first_few(found, 4, '; ')})" if found else " (in its spelling only)"


def _same_config(there: Mapping[str, Any], config_toml: str) -> bool:
    """Return whether two configurations give the same run: all but texts and device is equal."""
    new = tomllib.loads(config_toml)
    apart = {"about": None, "device": None}
    return {**there, **apart} == {**new, **apart}


def epochs_of(config: str) -> int | None:
    """Return how many epochs a configuration asks for."""
    try:
        return tomllib.loads(config).get("epochs")
    except tomllib.TOMLDecodeError:
        return None


def as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()

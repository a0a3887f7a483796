"""Run directories of schema 1, which have no checksums: reading them, and adding what they lack."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd

from topokit.experiments.rundir import EXPORTS, Record, RunDirectory, identity
from topokit.graph import snapshots
from topokit.graph.checksums import read_file, read_seal, seal, seal_in, stamp, stamped

__all__ = ["frame_of", "lines_of", "read_old", "upgrade"]


def read_old(run: RunDirectory) -> Record:
    """Return the record of a run of schema 1, from its frames.

    Raises
    ------
    ValueError
        If a file is damaged, or epochs are missing.
    """
    config = run.config_text()
    run.config()
    try:
        environment = json.loads(read_file(run.path / "environment.json"))
        if not isinstance(environment, dict):
            raise ValueError("it is no table")
    except FileNotFoundError:
        environment = {}
    except ValueError as error:
        raise run.damaged("environment.json", error) from error
    epochs, measures = (frame_of(run, name) for name in EXPORTS[:2])
    n_rows = 0 if epochs is None else len(epochs)
    stored = snapshots.recorded(run.topology) if run.topology.is_dir() else []
    if epochs is None and run.checkpoint.exists() and read_seal(run.checkpoint) is not None:
        raise run.damaged("record.jsonl", "it is missing")
    if epochs is None and len(stored) > 1:
        raise run.damaged("epochs.parquet", "it is missing")
    if n_rows and (len(stored) > n_rows + 1 or measures is None):
        name = "epochs.parquet" if measures is not None else "measures.parquet"
        raise run.damaged(name, "epochs are missing from it")
    lines: list[dict[str, Any]] = []
    try:
        if epochs is not None:
            lines = lines_of(epochs, measures)
    except (ValueError, KeyError, TypeError) as error:
        raise run.damaged("epochs.parquet or measures.parquet", error) from error
    if lines:
        lines[0]["seconds"] = _seconds(run)
    return Record(1, "", config, environment, lines=lines)


def frame_of(run: RunDirectory, name: str) -> pd.DataFrame | None:
    """Return a frame of a run, None if there is none."""
    try:
        return pd.read_parquet(io.BytesIO(read_file(run.path / name)))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.filename:
            raise
        raise run.damaged(name, error) from error
    except Exception as error:  # pyarrow raises errors of many kinds
        raise run.damaged(name, error) from error


def lines_of(epochs: pd.DataFrame, measures: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the lines of a record that says what two frames say."""
    if epochs["epoch"].tolist() != list(range(len(epochs))):
        raise ValueError("its epochs do not count from 0")
    columns = [name for name in epochs.columns if name not in ("run", "epoch")]
    lines: list[dict[str, Any]] = [
        {
            "kind": "epoch", "run": "", "epoch": epoch, "seconds": 0.0, "measures": [],
            "metrics": {name: float(row[name]) for name in columns},
            "topology": "", "checkpoint": "",
        }
        for epoch, row in enumerate(epochs.to_dict("records"))
    ]  # fmt: skip
    if measures is not None:
        rows = measures[["epoch", "layer", "measure", "value"]].itertuples(index=False)
        for epoch, layer, measure, value in rows:
            if 0 <= epoch < len(lines):
                lines[epoch]["measures"].append([str(layer), str(measure), float(value)])
    return lines


def _seconds(run: RunDirectory) -> float:
    """Return the seconds spent in measuring, 0 if unknown."""
    try:
        timing = json.loads(read_file(run.path / "timing.json"))
        return float(timing["measuring_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def upgrade(run: RunDirectory, record: Record, *, data: str, epochs: int) -> None:
    """Turn an unfinished run of schema 1 into one of the present schema.

    The files of schema 1 stay readable as such until the last step, so that an interrupted upgrade
    can be done again.

    Parameters
    ----------
    run : RunDirectory
    record : Record
        As `read_old` returned it.
    data : str
        Checksum of the data set.
    epochs : int
        Number of epochs of the checkpoint; later ones are not kept.

    Raises
    ------
    ValueError
        If a topology is missing or damaged, or the record has fewer epochs.
    """
    if epochs > len(record.lines):
        words = f"the checkpoint is of epoch {epochs}, the record has {len(record.lines)}"
        raise run.damaged("epochs.parquet", words)
    lines = [identity(record.config, record.environment, data)]
    first = stamped(lines[0])
    last, previous = first["digest"], None
    check = ""
    if epochs:
        sealed = seal(read_file(run.checkpoint), run=first["run"], epoch=epochs)
        check = (seal_in(sealed) or {})["digest"]
        run.write("checkpoint.pt", sealed)
    for line in record.lines[:epochs]:
        previous = snapshots.seal_again(run.topology, previous, line["epoch"], run=first["run"])
        values = {**line, "run": first["run"], "topology": previous.check, "before": last}
        if line["epoch"] == epochs - 1:
            values["checkpoint"] = check
        lines.append(stamp(values))
        last = stamped(lines[-1])["digest"]
    run.write("record.jsonl", ("\n".join(lines) + "\n").encode())
    for name in EXPORTS:
        (run.path / name).unlink(missing_ok=True)

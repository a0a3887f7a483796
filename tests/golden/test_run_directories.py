"""Run directories that earlier versions wrote load, and go on, for ever.

What follows the last epoch of an unfinished one is written anew as in `test_golden`.
"""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from topokit.experiments.record import History
from topokit.experiments.rundir import SCHEMA, RunDirectory
from topokit.experiments.runs import resume
from topokit.experiments.verify import verify
from topokit.rules.stream import GROWTH

FOLDER = Path(__file__).parent
OLD = FOLDER / "run-schema-1"
CLOSE = {"rtol": 1e-4, "atol": 1e-9, "check_dtype": False}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_finished_run_loads(schema):
    run = FOLDER / f"run-schema-{schema}" / "finished"
    history = History.load(run)
    frames = (pd.read_parquet(run / f"{name}.parquet") for name in ("epochs", "measures"))
    for frame, now in zip(frames, (history.epochs, history.measures), strict=True):
        pd.testing.assert_frame_equal(frame, now)
    assert RunDirectory(run).read().schema == schema
    assert history.recorded == [0, 1, 2]
    assert [graph.n_edges for graph in history.topology(2).values()] == [240, 84, 66]
    assert history.ages(2, "fc1").max() == 2
    assert history.config["epochs"] == 3
    assert resume(run).recorded == [0, 1, 2]
    assert verify(run).intact


@pytest.mark.parametrize("schema", [1, 2])
def test_an_unfinished_run_goes_on_in_the_present_schema(schema, tmp_path, threads):
    run = shutil.copytree(FOLDER / f"run-schema-{schema}" / "unfinished", tmp_path / "run")
    before = History.load(run)
    assert before.recorded == [0, 1, 2]
    with pytest.raises(ValueError, match=r"random stream of another version .* --accept growth"):
        resume(run)  # its first edges were drawn from the stream before Philox
    assert History.load(run).recorded == [0, 1, 2]
    history = resume(run, accept="growth")
    assert RunDirectory(run).read().schema == SCHEMA
    assert RunDirectory(run).read().growth == GROWTH
    late = history.measures.query("epoch >= 2").drop(columns="run").reset_index(drop=True)
    for name, now in (
        ("epochs", history.epochs.drop(columns=["run", "seconds"])),
        ("measures", late),
    ):
        path = OLD / f"unfinished-{name}.csv"
        if os.environ.get("TOPOKIT_GOLDEN") == "update":
            now.to_csv(path, index=False, float_format="%.9g")
        pd.testing.assert_frame_equal(now, pd.read_csv(path), **CLOSE)
    pd.testing.assert_frame_equal(history.epochs[:3], before.epochs)
    for name, graph in before.topology(2).items():
        assert graph == history.topology(2)[name]
    assert verify(run).intact


def test_an_environment_that_is_no_table_is_damaged(tmp_path):
    run = shutil.copytree(OLD / "unfinished", tmp_path / "run")
    (run / "environment.json").write_text("[]\n")
    with pytest.raises(ValueError, match=r"environment.json of run .* is damaged: it is no table"):
        History.load(run)

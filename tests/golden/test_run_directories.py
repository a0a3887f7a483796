"""Run directories that earlier versions wrote load, and go on, for ever."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from topokit.experiments.record import History
from topokit.experiments.rundir import SCHEMA, RunDirectory
from topokit.experiments.runs import resume
from topokit.experiments.verify import verify

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
    history = resume(run)
    assert RunDirectory(run).read().schema == SCHEMA
    epochs = pd.read_csv(OLD / "unfinished-epochs.csv")
    pd.testing.assert_frame_equal(history.epochs.drop(columns=["run", "seconds"]), epochs, **CLOSE)
    late = history.measures.query("epoch >= 2").drop(columns="run").reset_index(drop=True)
    measures = pd.read_csv(OLD / "unfinished-measures.csv")
    pd.testing.assert_frame_equal(late, measures, **CLOSE)
    pd.testing.assert_frame_equal(history.epochs[:3], before.epochs)
    for name, graph in before.topology(2).items():
        assert graph == history.topology(2)[name]
    assert verify(run).intact

"""One tiny run's frames, as they were: a change that must not alter results leaves them alone.

Write them anew with ``TOPOKIT_GOLDEN=update pytest tests/golden`` and say in the changelog why.
"""

import os
from pathlib import Path

import pandas as pd
import pytest

from topokit.experiments.config import load_recipe
from topokit.experiments.runs import run

FOLDER = Path(__file__).parent
SETTINGS = ["epochs=3", "model.widths=[64,40,30,10]", "batch_size=200", "threads=1"]
TOLERANCE = 1e-4  # relative, whatever the size of a value
NOTHING = 1e-12  # zeros may be off by the rounding of a sum


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    import torch

    threads = torch.get_num_threads()
    directory = tmp_path_factory.mktemp("golden") / "run"
    yield run(load_recipe("set_mlp_digits").override(SETTINGS), directory)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["epochs", "measures"])
def test_frames_are_as_they_were(history, name):
    frame = getattr(history, name).drop(columns=["run", "seconds"], errors="ignore")
    path = FOLDER / f"{name}.csv"
    if os.environ.get("TOPOKIT_GOLDEN") == "update":
        frame.to_csv(path, index=False, float_format="%.9g")
    expected = pd.read_csv(path)
    keys = [column for column in ("epoch", "layer", "measure") if column in expected]
    merged = expected.merge(frame, on=keys, how="left", suffixes=("", "_now"))
    for column in expected.columns.difference(keys):
        now = merged[f"{column}_now"]
        assert now.isna().equals(merged[column].isna()), column
        off = merged[(now - merged[column]).abs() > TOLERANCE * merged[column].abs() + NOTHING]
        assert off.empty, off.to_string()

"""Committed tables of the studies quote the intervals of `topokit.experiments.statistics`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[2] / "figures" / "studies"
MEANS = {
    "er_to_heavy_tails": "dispersion",
    "er_to_heavy_tails_accuracy": "mean",
    "er_to_heavy_tails_epochs": "mean",
    "er_to_heavy_tails_nulls": "mean",
    "heavy_tails_map": "dispersion",
    "tutorial_table": "accuracy",
}
PAIRS = [
    "er_to_heavy_tails_pairs",
    "heavy_tails_map_effects",
    "locality_pairs",
    "spectral_gap_accuracy_pairs",
    "tutorial_table_pairs",
]


@pytest.mark.parametrize("name", MEANS)
def test_intervals_of_means_are_students(name):
    table = pd.read_csv(FOLDER / f"{name}.csv")
    half = stats.t.ppf(0.975, table["n"] - 1) * table["sd"] / np.sqrt(table["n"])
    mean = table[MEANS[name]]
    np.testing.assert_allclose(table["low"], mean - half, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(table["high"], mean + half, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_intervals_of_pairs_agree_with_their_p_values(name):
    table = pd.read_csv(FOLDER / f"{name}.csv").query("t_p < 0.99")
    half = table["high"] - table["difference"]
    np.testing.assert_allclose(half, table["difference"] - table["low"], rtol=1e-3)
    t = stats.t.ppf(0.975, table["n"] - 1) * table["difference"].abs() / half
    np.testing.assert_allclose(2 * stats.t.sf(t, table["n"] - 1), table["t_p"], rtol=1e-3)
    excludes = (table["low"] > 0) | (table["high"] < 0)
    assert (excludes == (table["t_p"] < 0.05)).all()

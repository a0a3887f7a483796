"""What counts as independent in the studies' tables: seeds, and families of graphs."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from topokit.experiments.statistics import mean_interval, rank_correlation

FOLDER = Path(__file__).parents[2] / "figures" / "studies"


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script beside the studies' tables."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        for module in (name, "rows"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    return load


def map_runs(module, of_seed):
    """Runs of all sixteen settings; the larger epsilon widens by a number that is the seed's."""
    choices = [(3.0, 20.0), (0.1, 0.3), (2e-4, 2e-3), ("zeros", "he_normal")]
    rows = []
    for values in itertools.product(*choices):
        for (seed, wider), layer in itertools.product(enumerate(of_seed), ("fc1", "fc2", "fc3")):
            row = dict(zip(module.MAP, values, strict=True)) | {"layer": layer, "side": "fan_in"}
            spread = 1 + 0.1 * seed + wider * (values[0] == 20) * (1 + (values[3] == "zeros"))
            rows.append(row | {"seed": seed, "dispersion": spread})
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_effects_of_settings_have_intervals_over_seeds(script):
    module = script("make_studies")
    table = module.effects(map_runs(module, [0.1, 0.2, 0.6]))
    assert len(table) == 4 * 3 + 3 * 2  # grown edges have one value where they are held fixed
    epsilon = table[table["setting"] == "topology.epsilon"].set_index(["grown", "layer"])
    for grown, times, pairs in (("both", 1.5, 24), ("zeros", 2, 12), ("he_normal", 1, 12)):
        row = epsilon.loc[(grown, "fc1")]
        expected = mean_interval(times * np.array([0.1, 0.2, 0.6]))
        assert row["difference"] == pytest.approx(expected.mean)
        assert (row["n"], row["seeds"]) == (pairs, 3)
        assert [row["seeds_low"], row["seeds_high"]] == pytest.approx(expected[3:])
        assert row["low"] > row["seeds_low"]  # pairs of one seed are not independent
    adjusted = table["t_p_holm"].notna()
    assert not adjusted[table["grown"] != "both"].any()


def test_committed_effects_follow_from_single_runs(script):
    module = script("make_studies")
    table = pd.read_csv(FOLDER / "heavy_tails_map_effects.csv")
    again = module.effects(pd.read_csv(FOLDER / "heavy_tails_map_runs.csv"))
    columns = ["n", "difference", "low", "high", "t_p", "t_p_holm", "seeds_low", "seeds_high"]
    pd.testing.assert_frame_equal(table[columns], again[columns], rtol=1e-4, atol=1e-5)


def family_means(rng, outcome, densities=(0.03, 0.06, 0.12), n=10):
    """Means of families that keep their order at each density."""
    gap, noise = rng.standard_normal((2, n))
    rows = []
    for k, density in enumerate(densities):
        part = pd.DataFrame({"arm": [f"family {i}" for i in range(n)], "density": density})
        rows.append(part.assign(gap=gap + k, **{outcome: 10 * k - gap + noise}))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.slow
def test_families_at_three_densities_are_ten_units(script):
    module = script("make_studies")
    means = family_means(np.random.default_rng(3), "accuracy").assign(data="mnist", seed=0)
    means = means.rename(columns={"data": "data.name"}).assign(early=means["accuracy"])
    for feature in module.FEATURES:
        means[feature] = means["gap"]
    means["giant_share"] = np.tile(np.random.default_rng(4).standard_normal(10), 3)
    table = module.correlations(means, means)
    table = table[(table["outcome"] == "accuracy") & (table["measure"] == "spectral_gap")]
    row = table.set_index("over").loc["families, within density"]
    one = means[means["density"] == 0.03]
    alone = rank_correlation(one["gap"], one["accuracy"], rng=0)
    apart = rank_correlation(means["gap"], means["accuracy"], strata=means["density"], rng=0)
    assert row["rho"] == pytest.approx(alone.rho)
    assert row["p"] == pytest.approx(alone.p, rel=0.5, abs=0.005)
    assert row["high"] - row["low"] > 1.2 * (apart.high - apart.low)
    assert row["high"] - row["low"] == pytest.approx(alone.high - alone.low, rel=0.1)


@pytest.mark.slow
def test_locality_has_both_intervals(script, monkeypatch):
    module = script("locality")
    monkeypatch.setattr(module, "RESAMPLES", 400)
    rng = np.random.default_rng(5)
    parts = [
        family_means(rng, "accuracy").assign(data="mnist", shuffled=shuffled) for shuffled in (0, 1)
    ]
    parts[1]["gap"] = parts[0]["gap"]  # the same graphs
    families = pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)
    for measure in module.MEASURES:
        families[measure] = families["gap"]
    table = module.correlations(families)
    table = table[table["measure"] == module.MEASURES[0]].set_index("variant")
    for variant, part in zip(("original", "shuffled"), parts, strict=True):
        one = part[part["density"] == 0.03]
        row, alone = table.loc[variant], rank_correlation(one["gap"], one["accuracy"], rng=0)
        assert row["rho"] == pytest.approx(alone.rho)
        wide = row["families_high"] - row["families_low"]
        assert wide == pytest.approx(alone.high - alone.low, rel=0.2)
        assert wide > 1.2 * (row["high"] - row["low"])
    change = table.loc["shuffled - original"]
    assert change["rho"] == pytest.approx(
        table.loc["shuffled", "rho"] - table.loc["original", "rho"]
    )
    assert change["families_low"] < change["low"] < change["rho"] < change["high"]
    same = [parts[0].assign(**{module.MEASURES[0]: parts[0]["gap"]})] * 2
    for whole in (False, True):
        seen, bounds = module.difference(same, module.MEASURES[0], whole)
        assert (seen, *bounds) == (0, 0, 0)


def test_values_beside_their_null_samples(script):
    """A run whose null samples hardly differ has a huge z; its value is as far below them."""
    module = script("gap_over_training")
    rows = []
    for arm, seed, epoch in itertools.product(module.LOOKS, range(5), (0, 1, 2)):
        below = 0.1 + 0.01 * seed if arm != "static" else 0.0
        spread = 1e-4 if seed == 3 else 0.01
        row = {"arm": arm, "seed": seed, "planned": 3, "epoch": epoch, "layer": "fc1"}
        row |= {"measure": module.MEASURES[0], "value": 0.7 - below * epoch / 2, "null_mean": 0.7}
        rows.append(row | {"z": (row["value"] - 0.7) / spread})
    table = module.tests(pd.DataFrame(rows)).set_index(["arm", "hypothesis"])
    beside = table.loc[("rigl", "described")]
    expected = mean_interval(-(0.1 + 0.01 * np.arange(5)))
    assert [beside["mean"], beside["low"], beside["high"]] == pytest.approx(
        [expected.mean, expected.low, expected.high]
    )
    assert beside["high"] < 0 < table.loc[("rigl", "G2"), "high"]
    assert np.isnan(beside["t_p_holm"])
    assert table["t_p_holm"].notna().sum() == 2 * len(module.LEARNING)


def test_rules_at_two_schedules_are_as_many_units_as_rules(script):
    module = script("structure_convergence")
    rows = [
        {"network": "mlp", "schedule": schedule, "arm": f"rule {i}", "T80": i, "A": (3 * i) % 8}
        for schedule, i in itertools.product(("constant", "cosine"), range(8))
    ]
    table = pd.DataFrame(list(module._relation(pd.DataFrame(rows)))).set_index("network")
    both, units = table.loc["all, within each"], table.loc["all, rules as units"]
    assert (both["n"], units["n"], units["hypothesis"]) == (16, 8, "described")
    assert units["value"] == pytest.approx(both["value"])
    assert units["p"] == pytest.approx(table.loc["mlp, constant", "p"], abs=0.06)
    assert np.isnan(units["low"])
    rows = [row for row in rows if (row["schedule"], row["arm"]) != ("cosine", "rule 3")]
    assert len(list(module._relation(pd.DataFrame(rows)))) == 3

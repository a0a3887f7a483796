"""What CTRE was made for: at epsilon 1 on Madelon it finds the features that carry the classes."""

import numpy as np
import pytest

from topokit.data import load_data
from topokit.experiments.config import load_recipe
from topokit.experiments.runs import run

EPOCHS = 12


def informative_features(data_dir):
    """Those that are combinations of each other; the 480 probes correlate with nothing."""
    rng = np.random.default_rng(0)
    data = load_data("madelon", data_dir=data_dir, scale="standard", rng=rng)
    related = np.abs(np.corrcoef(np.concatenate([data.x_train, data.x_test]).T))
    np.fill_diagonal(related, 0)
    return np.flatnonzero(related.max(axis=1) > 0.5)


@pytest.mark.slow
@pytest.mark.data
def test_ctre_links_the_informative_features_and_set_does_not(data_dir, tmp_path):
    chosen = informative_features(data_dir)
    assert chosen.size == 20
    shares = {}
    for rule in ("ctre_sim", "set"):
        settings = [f"epochs={EPOCHS}", "threads=1", "measures.names=[]", f"rule.name={rule}"]
        config = load_recipe("ctre_mlp_madelon").override([*settings, "rule.init=he_uniform"])
        history = run(config, tmp_path / rule, data_dir=data_dir)
        fan_out = history.topology(-1)["fc1"].fan_out
        shares[rule] = fan_out[chosen].sum() / fan_out.sum()
        assert history.topology(0)["fc1"].n_edges == fan_out.sum() == 1500
    assert shares["ctre_sim"] > 0.25  # 4 % of the features have a quarter of the edges
    assert shares["set"] < 0.06

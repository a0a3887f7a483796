"""Make the table of the Madelon study from a finished sweep.

topokit sweep madelon --out runs/madelon --data-dir DIR
python figures/studies/madelon.py runs/madelon --data-dir DIR
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import topokit
from topokit.data import load_data
from topokit.experiments.statistics import mean_interval
from topokit.experiments.sweep import runs_of

HERE = Path(__file__).parent
FIRST = "ctre_sim"


def informative_features(data_dir: Path) -> np.ndarray:
    """Return the features that are combinations of others; the 480 probes are independent noise."""
    rng = np.random.default_rng(0)
    data = load_data("madelon", data_dir=data_dir, scale="standard", rng=rng)
    related = np.abs(np.corrcoef(np.concatenate([data.x_train, data.x_test]).T))
    np.fill_diagonal(related, 0)
    return np.flatnonzero(related.max(axis=1) > 0.5)


def rows(sweep: Path, data_dir: Path) -> pd.DataFrame:
    """Return a table with a row for each finished run."""
    chosen = informative_features(data_dir)
    found = []
    for path in runs_of(sweep):
        if not (path / "DONE").is_file():
            continue
        history = topokit.History.load(path)
        config = history.config
        fan_out = history.topology(-1)["fc1"].fan_out
        found.append(
            {
                "init": config["model"].get("init", "he"),
                "rule": config["rule"]["name"],
                "seed": config.get("seed", 0),
                "last": history.epochs["test_accuracy"].iloc[-1],
                "best": history.epochs["test_accuracy"].max(),
                "train_loss": history.epochs["train_loss"].iloc[-1],
                "informative": fan_out[chosen].sum() / fan_out.sum(),
            }
        )
    return pd.DataFrame(found)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each condition: means, intervals, and the paired difference to the first."""
    result = []
    for (init, rule), part in runs.groupby(["init", "rule"], sort=False):
        accuracy = mean_interval(part["last"])
        first = runs[(runs["init"] == init) & (runs["rule"] == FIRST)].set_index("seed")["last"]
        behind = mean_interval((first - part.set_index("seed")["last"]).dropna())
        result.append(
            {
                "init": init, "rule": rule, "n": accuracy.n, "accuracy": accuracy.mean,
                "low": accuracy.low, "high": accuracy.high, "best_epoch": part["best"].mean(),
                "train_loss": part["train_loss"].mean(), "informative": part["informative"].mean(),
                "behind_ctre_sim": behind.mean, "behind_low": behind.low,
                "behind_high": behind.high, "pairs": behind.n,
            }
        )  # fmt: skip
    return pd.DataFrame(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    given = parser.parse_args()
    made = table(rows(given.sweep, given.data_dir))
    made.to_csv(HERE / "madelon.csv", index=False, float_format="%.4f")
    print(made.round(3).to_string(index=False))

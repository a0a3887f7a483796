"""Error rates of the verdict: ``python benchmarks/verdicts.py [--out FILE.md]``.

How often degrees from other distributions are classified as a power law, how often true bounded
power laws are detected, and whether bootstrap p-values are uniform under the null. Intervals are
95 % Clopper-Pearson. About two minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, kstest

from topokit.generators import GENERATORS
from topokit.measures import VERDICTS, fit_power_law
from topokit.measures.powerlaw import sample_zeta

SIZES = (300, 1000, 2000, 4000)
REPLICATES = 200


def graph_degrees(name: str, n: int, density: float, rng: np.random.Generator) -> np.ndarray:
    """Fan-in of a square layer from a generator."""
    return GENERATORS[name](n, n, density=density, rng=rng).fan_in


def negative_binomial(size: float, mean: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Overdispersed degrees, at most as many as the layer has units on the other side."""
    return np.minimum(rng.negative_binomial(size, size / (size + mean), n), n)


LAWS = {
    "Erdos-Renyi, mean 4.7": lambda n, rng: graph_degrees("erdos_renyi", n, 4.7 / n, rng),
    "Erdos-Renyi, mean 10": lambda n, rng: graph_degrees("erdos_renyi", n, 10 / n, rng),
    "Erdos-Renyi, mean 40": lambda n, rng: graph_degrees("erdos_renyi", n, 40 / n, rng),
    "biregular, mean 10.3": lambda n, rng: graph_degrees("biregular", n, 10.3 / n, rng),
    "negative binomial, size 2, mean 10": lambda n, rng: negative_binomial(2, 10, n, rng),
    "negative binomial, size 1, mean 20": lambda n, rng: negative_binomial(1, 20, n, rng),
    "negative binomial, size 0.5, mean 20": lambda n, rng: negative_binomial(0.5, 20, n, rng),
}


def share(count: int, draws: int) -> str:
    """Return a share with its exact (Clopper-Pearson) interval, in per cent."""
    low, high = binomtest(count, draws).proportion_ci(0.95, method="exact")
    return f"{100 * count / draws:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def verdicts(draw, n: int, draws: int) -> dict[str, int]:
    """Return the number of samples with each verdict."""
    counts = dict.fromkeys(VERDICTS, 0)
    for seed in range(draws):
        rng = np.random.default_rng([seed, n])
        fit = fit_power_law(draw(n, rng), n_other=n, bootstrap=REPLICATES, rng=rng)
        counts[fit.verdict] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say("# Error rates of the verdict\n")
    say(
        f"`python benchmarks/verdicts.py`, {options.seeds} seeds in each row, "
        f"{REPLICATES} replicates.\n"
    )
    say("## Other distributions: share of seeds with each verdict\n")
    say("| distribution | n | power law (95 % interval) | heavy-tailed | broad | random |")
    say("|---|---|---|---|---|---|")
    for name, draw in LAWS.items():
        for n in SIZES:
            counts = verdicts(draw, n, options.seeds)
            rest = " | ".join(
                f"{100 * counts[v] / options.seeds:.1f} %" for v in reversed(VERDICTS[:3])
            )
            say(f"| {name} | {n} | {share(counts['power law'], options.seeds)} | {rest} |")
    say("\n## True bounded power laws: share detected\n")
    say("| exponent | n | power law (95 % interval) | heavy-tailed or power law |")
    say("|---|---|---|---|")
    for alpha in (2.2, 2.4, 2.5, 2.6, 2.8):
        for n in (1000, 4000):

            def draw(n, rng, alpha=alpha):
                return sample_zeta(n, alpha=alpha, upper=n, rng=rng)

            counts = verdicts(draw, n, options.seeds)
            heavy = counts["power law"] + counts["heavy-tailed"]
            say(
                f"| {alpha} | {n} | {share(counts['power law'], options.seeds)} | "
                f"{100 * heavy / options.seeds:.1f} % |"
            )
    say(
        "\n## Bootstrap p-values under the null: Kolmogorov-Smirnov test of uniformity, "
        "200 samples\n"
    )
    say("| exponent, x_min | n | p-value of the test | share below 0.1 |")
    say("|---|---|---|---|")
    for alpha, xmin in ((2.2, 1), (2.5, 2), (2.8, 1)):
        p = []
        for seed in range(200):
            rng = np.random.default_rng([seed, 7])
            sample = sample_zeta(1000, alpha=alpha, xmin=xmin, upper=1000, rng=rng)
            fit = fit_power_law(sample, xmin=xmin, n_other=1000, bootstrap=REPLICATES, rng=rng)
            p.append(fit.p_value)
        test = kstest(p, "uniform").pvalue
        say(f"| {alpha}, {xmin} | 1000 | {test:.2f} | {100 * np.mean(np.array(p) < 0.1):.1f} % |")
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

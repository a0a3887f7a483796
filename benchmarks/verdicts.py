"""Error rates of the verdict: ``python benchmarks/verdicts.py [--out FILE.md]``.

How often degrees of each kind are called broad, heavy-tailed or a power law, by sample size and
bound, and whether bootstrap p-values are uniform under the null. Intervals are 95 %
Clopper-Pearson. About twenty minutes on one core; ``--kinds lognormal`` runs the kinds with that
word.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, kstest

from topokit.generators import GENERATORS
from topokit.measures import VERDICTS, fit_power_law
from topokit.measures.powerlaw import sample_zeta
from topokit.measures.scalefree import fit_degrees

SIZES = (300, 1000, 4000)
REPLICATES = 100
LESS = ("narrow", "regular", "complete", "empty")

Draw = Callable[[int, int, np.random.Generator], np.ndarray]


class Kind(NamedTuple):
    """Samples of one kind: ``draw(n, bound, rng)``, their bounds (0: the sample size), sizes."""

    draw: Draw
    bounds: tuple[int, ...] = (0,)
    sizes: tuple[int, ...] = SIZES


def layer(name: str, mean: float, **parameters: object) -> Kind:
    """Fan-in of a square layer from a generator."""
    generator = GENERATORS[name]

    def draw(n: int, bound: int, rng: np.random.Generator) -> np.ndarray:
        return generator(n, n, density=mean / n, rng=rng, **parameters).fan_in

    return Kind(draw)


def clipped(sample: Callable[[int, np.random.Generator], np.ndarray], *bounds: int) -> Kind:
    """Rounded samples, those beyond the bound put on the bound."""

    def draw(n: int, bound: int, rng: np.random.Generator) -> np.ndarray:
        return np.clip(np.rint(sample(n, rng)), 0, bound).astype(int)

    return Kind(draw, bounds or (0,))


def weights_law(log_weight: Callable[[np.ndarray], np.ndarray], *bounds: int) -> Kind:
    """Samples of the law on 1..bound that is proportional to these weights."""

    def draw(n: int, bound: int, rng: np.random.Generator) -> np.ndarray:
        k = np.arange(1.0, bound + 1)
        logs = log_weight(k)
        weights = np.exp(logs - logs.max())
        return 1 + rng.choice(bound, n, p=weights / weights.sum())

    return Kind(draw, bounds or (0,))


def zeta(alpha: float, xmin: int = 1) -> Draw:
    """A bounded power law, from `xmin` on."""
    return lambda n, bound, rng: sample_zeta(n, alpha=alpha, xmin=xmin, upper=bound, rng=rng)


def negative_binomial(size: float, mean: float, *bounds: int) -> Kind:
    """Overdispersed degrees."""
    return clipped(lambda n, rng: rng.negative_binomial(size, size / (size + mean), n), *bounds)


def two_kinds(n: int, bound: int, rng: np.random.Generator) -> np.ndarray:
    """A random bulk of mean 10 and 5 % random hubs of mean 100."""
    mean = np.where(rng.random(n) < 0.05, 100, 10)
    return rng.binomial(bound, np.minimum(mean / bound, 1))


def mixed(n: int, bound: int, rng: np.random.Generator) -> np.ndarray:
    """A power law of exponent 2.5 from 10 on above a uniform bulk that has 80 % of the values."""
    tail = sample_zeta(n, alpha=2.5, xmin=10, upper=bound, rng=rng)
    return np.where(rng.random(n) < 0.2, tail, rng.integers(1, 10, n))


OTHERS = {
    "Erdos-Renyi, mean 4.7": layer("erdos_renyi", 4.7),
    "Erdos-Renyi, mean 40": layer("erdos_renyi", 40),
    "biregular, mean 10.3": layer("biregular", 10.3),
    "uniform on 0..30": clipped(lambda n, rng: rng.integers(0, 31, n), 30),
    "binomial, mean 3 of 10": clipped(lambda n, rng: rng.binomial(10, 0.3, n), 10),
    "geometric, mean 10": clipped(lambda n, rng: rng.geometric(0.1, n), 30, 0),
    "geometric, mean 4": clipped(lambda n, rng: rng.geometric(0.25, n), 10),
    "negative binomial, size 2, mean 10": negative_binomial(2, 10),
    "negative binomial, size 0.5, mean 20": negative_binomial(0.5, 20, 50, 0),
    "bulk with hubs, 5 % of mean 100": Kind(two_kinds),
    # a fixed set of units that gain edges in proportion to their degree: geometric degrees
    "preferential attachment, mean 10": layer("preferential_attachment", 10, heavy="fan_in"),
    "lognormal, mu 1, sigma 1": clipped(lambda n, rng: rng.lognormal(1, 1, n)),
    "lognormal, mu 2.3, sigma 0.8": clipped(lambda n, rng: rng.lognormal(2.3, 0.8, n)),
    "lognormal, mu 0, sigma 1.5": clipped(lambda n, rng: rng.lognormal(0, 1.5, n)),
    "stretched exponential, 0.5": clipped(lambda n, rng: 5 * rng.weibull(0.5, n)),
    "power law 1.5 with cut-off at 20": weights_law(lambda k: -1.5 * np.log(k) - k / 20),
}

POWER_LAWS = {
    "exponent 1.8": Kind(zeta(1.8), (50, 0)),
    "exponent 2.2": Kind(zeta(2.2), (50, 0)),
    "exponent 2.5": Kind(zeta(2.5), (50, 0)),
    "exponent 2.8": Kind(zeta(2.8), (50, 0)),
    "exponent 3.2": Kind(zeta(3.2)),
    "exponent 2.5 from 3 on": Kind(zeta(2.5, 3)),
    "exponent 2.5 from 10 on, 20 %": Kind(mixed),
    "(k + 5)^-2.5": weights_law(lambda k: -2.5 * np.log(k + 5)),
}


def share(count: int, draws: int) -> str:
    """Return a share with its exact (Clopper-Pearson) interval, in per cent."""
    low, high = binomtest(count, draws).proportion_ci(0.95, method="exact")
    return f"{100 * count / draws:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def verdicts(kind: Kind, n: int, bound: int, draws: int) -> dict[str, int]:
    """Return the number of samples with each verdict."""
    counts = dict.fromkeys(VERDICTS, 0)
    for seed in range(draws):
        rng = np.random.default_rng([seed, n, bound])
        sample = kind.draw(n, bound or n, rng)
        fit = fit_degrees(sample, n_other=bound or n, bootstrap=REPLICATES, rng=rng)
        counts[fit.verdict] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--kinds", default="", help="only kinds with this word")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    def rates(title: str, kinds: dict[str, Kind]) -> None:
        say(f"\n## {title}\n")
        say("| degrees | bound | n | power law | heavy-tailed | broad | random | narrower |")
        say("|---|---|---|---|---|---|---|---|")
        for name, kind in kinds.items():
            if options.kinds not in name:
                continue
            for bound in kind.bounds:
                for n in kind.sizes:
                    counts = verdicts(kind, n, bound, options.seeds)
                    both = share(counts["power law"], options.seeds)
                    heavy = share(counts["heavy-tailed"], options.seeds)
                    rest = [counts["broad"], counts["random"], sum(counts[v] for v in LESS)]
                    words = " | ".join(f"{100 * c / options.seeds:.0f} %" for c in rest)
                    say(f"| {name} | {bound or 'n'} | {n} | {both} | {heavy} | {words} |")

    seeds = "" if options.seeds == 200 else f" --seeds {options.seeds}"
    say("# Error rates of the verdict\n")
    say(
        f"`python benchmarks/verdicts.py{seeds}`: {options.seeds} samples in each row, "
        f"{REPLICATES} replicates of the bootstrap,\nshares with 95 % Clopper-Pearson intervals. "
        "The bound is `n_other`, the largest possible degree."
    )
    rates("Not a power law: false positives", OTHERS)
    rates("Power laws: true positives", POWER_LAWS)
    if options.kinds:
        return
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

"""The power-law fit and igraph's C code: ``python benchmarks/powerlaw.py [--replicates 1000]``.

Both fit the same samples of 4,000 values and repeat the whole fit, x_min scan included, on the
same number of bootstrap replicates; runs alternate, medians are printed. igraph resamples from an
unbounded power law, so topokit's is unbounded here too.
"""

from __future__ import annotations

import argparse
import time

import igraph
import numpy as np

from topokit.measures.powerlaw import bootstrap_p, fit_tail, sample_zeta, tally

N = 4000


def samples(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Degrees of a scale-free side, of a random layer, and of one in between."""
    return {
        "zeta 2.5": sample_zeta(N, alpha=2.5, xmin=2, rng=rng),
        "zeta 2.2, from 5": sample_zeta(N, alpha=2.2, xmin=5, upper=N, rng=rng),
        "binomial, mean 31": rng.binomial(N, 31 / N, N),
        "negative binomial": rng.negative_binomial(2, 2 / 12, N),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    precision = float(np.sqrt(0.25 / options.replicates))
    warm = tally(sample_zeta(100, alpha=2.5, rng=rng))
    bootstrap_p(warm, fit_tail(warm), replicates=2, rng=rng)
    head = f"{'sample':18s} {'x_min':>11s} {'alpha difference':>16s} {'p':>11s}"
    print(f"{head} {'topokit':>8s} {'igraph':>8s} {'ratio':>6s}")
    for name, sample in samples(rng).items():
        values = sample[sample > 0]
        times: list[list[float]] = [[], []]
        for repeat in range(options.repeats):
            start = time.perf_counter()
            table = tally(values)
            fit = fit_tail(table)
            stream = np.random.default_rng(repeat)
            p = bootstrap_p(table, fit, replicates=options.replicates, rng=stream)
            times[0].append(time.perf_counter() - start)
            start = time.perf_counter()
            other = igraph.power_law_fit(values, method="discrete", p_precision=precision)
            other_p = other.p
            times[1].append(time.perf_counter() - start)
        ours, theirs = (float(np.median(t)) for t in times)
        print(
            f"{name:18s} {fit.xmin:5.0f} {other.xmin:5.0f} {abs(fit.alpha - other.alpha):16.1e} "
            f"{p:5.2f} {other_p:5.2f} {ours:7.2f}s {theirs:7.2f}s {theirs / ours:5.1f}x"
        )


if __name__ == "__main__":
    main()

import dataclasses
import re

import numpy as np
import pytest

from topokit.generators import GENERATORS
from topokit.graph import LayerGraph
from topokit.measures import (
    LAYER_MEASURES,
    VERDICTS,
    LikelihoodRatio,
    degree_report,
    describe_fit,
    fit_power_law,
    power_law_of,
)
from topokit.measures.powerlaw import fit_tail, log_zeta, sample_zeta, tally
from topokit.measures.rivals import RIVALS
from topokit.measures.scalefree import PowerLawFit, judge

SIDE_MEASURES = {"fan_in": "power_law", "fan_out": "power_law_fan_out"}


def random_layer(n_out, n_in, n_edges, seed):
    ids = np.random.default_rng(seed).permutation(n_out * n_in)[:n_edges]
    return LayerGraph.from_edge_ids(ids, (n_out, n_in))


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "expected at least one value to fit, got an empty sample"),
        ([1, -2], {}, "expected a sample of non-negative integers, got -2"),
        ([1, 2.5], {}, "expected a sample of non-negative integers, got 2.5"),
        ([1, np.nan], {}, "expected a sample of non-negative integers, got nan"),
        ([[1]], {}, r"expected a flat sample of integers, got shape \(1, 1\)"),
        (["a"], {}, "expected a sample of non-negative integers, got dtype"),
        ([1, 2], {"bootstrap": 5}, r"expected rng=numpy.random.default_rng\(seed\)"),
        ([1, 2], {"bootstrap": -1}, "expected bootstrap to be a number of replicates, got -1"),
        ([1, 2], {"xmin": 0}, "expected xmin to be a positive integer, got 0"),
        ([1, 9], {"n_other": 5}, "expected degrees of at most n_other=5, got 9"),
    ],
)
def test_wrong_samples_are_named(samples, options, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(samples, **options)


@pytest.mark.parametrize("samples", [[0], [7], [0, 0], [3] * 40, [1, 2], [0, 5, 5, 6]])
def test_small_samples_have_a_verdict(samples):
    fit = fit_power_law(samples, bootstrap=3, rng=np.random.default_rng(0))
    assert fit.verdict in VERDICTS
    assert describe_fit(fit).startswith(fit.verdict)


def test_lists_and_arrays_and_floats_are_one_sample():
    values = [1, 1, 2, 3, 5, 8]
    fits = [fit_power_law(v) for v in (values, np.array(values, np.int8), np.array(values, float))]
    assert {fit.alpha for fit in fits} == {fits[0].alpha}


@pytest.mark.slow
def test_random_layers_are_random():
    found = [
        power_law_of(random_layer(1000, 784, 35_680, seed), side).verdict
        for seed in range(30)
        for side in ("fan_in", "fan_out")
    ]
    assert found.count("random") >= 56
    assert found.count("power law") == 0


@pytest.mark.slow
def test_zeta_draws_are_power_laws():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.append(fit_power_law(rng.zipf(2.5, 1000), bootstrap=100, rng=rng).verdict)
    assert found.count("power law") >= 48


def test_negative_binomial_degrees_are_broad():
    found = [
        fit_power_law(np.random.default_rng(seed).negative_binomial(2, 0.2, 1000)).verdict
        for seed in range(100)
    ]
    assert found.count("broad") == 100


def test_no_bootstrap_no_power_law():
    fit = fit_power_law(np.random.default_rng(0).zipf(2.5, 1000))
    assert fit.verdict == "heavy-tailed"
    assert np.isnan(fit.p_value)
    assert fit.failed == ("no bootstrap was asked for",)


def test_narrow_degrees_are_said_to_be_narrow():
    fit = fit_power_law([5] * 500 + [6] * 500)
    assert fit.verdict == "regular"
    assert describe_fit(fit).startswith("regular: all degrees are 5 or 6 (")
    fit = fit_power_law([4] * 100 + [5] * 800 + [6] * 100)
    assert fit.verdict == "narrow"
    assert describe_fit(fit).startswith("narrow: narrower than random (")


@pytest.mark.parametrize(
    ("ids", "shape", "fan_in", "fan_out"),
    [
        ([], (3, 4), "empty", "empty"),
        ([], (0, 4), "empty", "empty"),
        (range(12), (3, 4), "complete", "complete"),
        ([0, 5, 10, 15], (4, 4), "regular", "regular"),
        ([0, 1, 2, 3], (1, 5), "regular", "random"),
        ([0, 1, 4, 5, 8, 9], (3, 4), "regular", "random"),
    ],
)
def test_layers_without_randomness_are_not_random(ids, shape, fan_in, fan_out):
    graph = LayerGraph.from_edge_ids(ids, shape)
    for side, verdict in (("fan_in", fan_in), ("fan_out", fan_out)):
        fit = power_law_of(graph, side)
        assert fit.verdict == verdict
        assert describe_fit(fit).startswith(f"{verdict}: ")
        assert VERDICTS[int(LAYER_MEASURES[SIDE_MEASURES[side]](graph).verdict)] == verdict


def test_a_radix_layer_is_regular():
    graph = GENERATORS["biregular"](256, 256, density=1 / 8, rng=np.random.default_rng(0))
    assert power_law_of(graph).verdict == "regular"
    report = degree_report(graph, bootstrap=5, rng=0)
    assert report.tier == "not scale-free"  # but not "Erdős–Rényi not rejected" either


def test_p_is_never_printed_as_zero():
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.zipf(2.5, 3000), np.full(2000, 40)])
    fit = fit_power_law(samples, xmin=1, bootstrap=20, rng=rng)
    assert fit.p_value == 0
    assert fit.p_text == "p < 0.05"
    for text in (repr(fit), describe_fit(fit), " ".join(fit.failed)):
        assert not re.search(r"p_?(value)? ?= ?0(\.0*)?[^.\d]", text + " ")
    assert "p < 0.05" in repr(fit)
    assert "p < 0.05" in describe_fit(fit)


def test_a_verdict_that_a_bootstrap_could_change_says_so():
    sample = np.random.default_rng(0).zipf(2.5, 1000)
    fit = fit_power_law(sample)
    assert fit.label == "heavy-tailed (not bootstrapped)"
    assert "needs a bootstrap" in describe_fit(fit)
    tested = fit_power_law(sample, bootstrap=50, rng=0)
    assert tested.label == tested.verdict == "power law"


@pytest.mark.parametrize("seed", range(10))
def test_bounded_degrees_are_not_heavy_tailed(seed):
    """Each of these was called heavy-tailed while only the power law knew the bound."""
    rng = np.random.default_rng(seed)
    for sample, bound in (
        (rng.integers(0, 31, 1000), 30),
        (np.minimum(rng.geometric(0.1, 1000), 30), 30),
        (rng.binomial(10, 0.3, 300), 10),
        (rng.integers(0, 11, 300), 10),
        (np.where(rng.random(1000) < 0.05, 100, 10) + rng.integers(-3, 4, 1000), 1000),
    ):
        fit = fit_power_law(sample, n_other=bound, bootstrap=20, rng=rng)
        assert fit.verdict not in ("heavy-tailed", "power law"), (bound, fit)


def test_a_lognormal_law_for_all_degrees_counts_against_a_tail():
    def verdicts(draw):
        found = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            sample = np.minimum(draw(rng), 1000)
            found.append(fit_power_law(sample, n_other=1000, bootstrap=30, rng=rng))
        return found

    wrong = verdicts(lambda rng: np.rint(rng.lognormal(1, 1, 1000)).astype(int))
    assert sum(fit.verdict == "power law" for fit in wrong) <= 2
    right = verdicts(lambda rng: sample_zeta(1000, alpha=2.5, upper=1000, rng=rng))
    assert sum(fit.verdict == "power law" for fit in right) >= 15
    assert (
        np.median([fit.lognormal_aic for fit in wrong])
        < 0
        < np.median([fit.lognormal_aic for fit in right])
    )


def test_sentence_says_what_was_tested():
    rng = np.random.default_rng(0)
    sentence = describe_fit(fit_power_law(rng.zipf(2.5, 1000), bootstrap=50, rng=rng))
    for words in ("power law: wider than random", "alpha = 2.", "x_min", "not rejected, p = "):
        assert words in sentence


def test_sentence_lists_laws_with_commas():
    fit = fit_power_law(np.random.default_rng(0).poisson(10, 1000))
    sentence = describe_fit(fit)
    assert "exponential and lognormal" in sentence
    assert "poisson and exponential" not in sentence
    assert fit_power_law([1, 2, 3, 4]).verdict in describe_fit(fit_power_law([1, 2, 3, 4]))


def test_bounded_law_recovers_flat_exponents():
    rng = np.random.default_rng(0)
    table = tally(sample_zeta(20_000, alpha=1.2, upper=784, rng=rng))
    assert fit_tail(table, xmin=1, upper=784).alpha == pytest.approx(1.2, abs=0.02)
    assert fit_tail(table, xmin=1).alpha > 1.3


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.7, 4.0, 25.0])
def test_truncated_zeta_is_the_sum(alpha):
    k = np.arange(3, 901.0)
    exact = np.log((k**-alpha).sum())
    assert float(log_zeta(alpha, 3, 900)) == pytest.approx(exact, abs=1e-9)


@pytest.mark.slow
def test_bootstrap_p_is_uniform_under_the_null():
    from scipy.stats import kstest

    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sample = sample_zeta(300, alpha=2.5, rng=rng)
        p.append(fit_power_law(sample, xmin=1, bootstrap=50, rng=rng).p_value)
    # ties at multiples of 1/50: spread them over their cells
    spread = np.array(p) + np.random.default_rng(0).uniform(-0.01, 0.01, 200)
    assert kstest(spread, "uniform").pvalue > 0.01


def test_sides_and_words():
    graph = random_layer(20, 30, 100, 0)
    assert power_law_of(graph, "fan_out").n == 30
    with pytest.raises(ValueError, match="expected side 'fan_in' or 'fan_out', got 'left'"):
        power_law_of(graph, "left")
    with pytest.raises(ValueError, match="together with bootstrap"):
        power_law_of(graph, bootstrap=5)


RATIO = LikelihoodRatio(3.0, 0.003, 5.0)
EVEN = LikelihoodRatio(0.0, 1.0, 0.0)
PASSING = PowerLawFit(
    alpha=2.5, xmin=10.0, n=1000, n_tail=100, ks_distance=0.05, p_value=0.5,
    comparisons=dict.fromkeys(RIVALS, EVEN)
    | dict.fromkeys(["poisson", "exponential", "negative_binomial", "two_components"], RATIO),
    verdict="random", failed=(), alpha_error=0.1, mean=5.0, dispersion=9.0, dispersion_p=1e-9,
    maximum=100, upper=1000.0,
)  # fmt: skip


def against(name, *ratio):
    return {"comparisons": PASSING.comparisons | {name: LikelihoodRatio(*ratio)}}


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({}, "power law", None),
        ({"dispersion_p": 0.0099}, "power law", None),
        ({"dispersion_p": 0.01}, "random", "not wider than a random graph"),
        ({"dispersion_p": np.nan}, "random", "not wider than a random graph"),
        ({"n_tail": 50}, "power law", None),
        ({"n_tail": 49}, "heavy-tailed", "the tail has only 49 values"),
        ({"n_tail": 20}, "heavy-tailed", "the tail has only 20 values"),
        ({"n_tail": 19}, "broad", "the tail has only 19 values"),
        ({"n": 5000}, "power law", None),
        ({"n": 5001}, "heavy-tailed", "the tail is only 2.0% of the values"),
        ({"maximum": 64}, "power law", None),  # log10(6.4) = 0.806
        ({"maximum": 63}, "heavy-tailed", "the tail spans only 0.8 decades"),  # 0.799
        ({"maximum": 20}, "heavy-tailed", "the tail spans only 0.3 decades"),
        ({"p_value": 0.1}, "power law", None),
        ({"p_value": 0.09}, "heavy-tailed", "rejected by the bootstrap (p = 0.09)"),
        ({"p_value": np.nan}, "heavy-tailed", "no bootstrap was asked for"),
        ({"alpha": 1.51}, "power law", None),
        ({"alpha": 1.5}, "heavy-tailed", "the exponent is outside 1.5 to 3.5"),
        ({"alpha": 3.49}, "power law", None),
        ({"alpha": 3.5}, "heavy-tailed", "the exponent is outside 1.5 to 3.5"),
        (against("exponential", 1.9, 0.06, 9.9), "broad", "the tail is not heavier"),
        (against("exponential", 1.9, 0.06, 10.1), "power law", None),
        (against("exponential", -3.0, 0.003, -5.0), "broad", "the tail is not heavier"),
        (against("poisson", 1.6, 0.11, 5.0), "heavy-tailed", "not better than Poisson"),
        (against("poisson", 1.7, 0.09, 5.0), "power law", None),
        (against("negative_binomial", 1.9, 0.06, 9.9), "broad", "the tail is not heavier than neg"),
        (against("negative_binomial", 2.0, 0.04, 9.9), "power law", None),
        (against("two_components", 1.9, 0.06, 9.9), "broad", "the tail is not heavier than a bulk"),
        (against("two_components", 1.9, 0.06, 10.1), "power law", None),
        (against("stretched_exponential", -2.1, 0.04, -3.0), "heavy-tailed", "stretched expon"),
        (against("stretched_exponential", -1.9, 0.06, -3.0), "power law", None),
        (against("cutoff", -1.7, 0.04, -1.5), "heavy-tailed", "a power law with cut-off is better"),
        (against("cutoff", -1.6, 0.06, -1.3), "power law", None),
        (against("curved", -1.7, 0.04, -1.5), "heavy-tailed", "a curved power law is better"),
        (against("curved", -1.6, 0.06, -1.3), "power law", None),
        ({"lognormal_aic": -0.1}, "heavy-tailed", "lognormal is better for all degrees"),
        ({"lognormal_aic": 0.1}, "power law", None),
        ({"dispersion_p": 0.991}, "narrow", "not wider than a random graph"),
        ({"dispersion_p": 0.991, "minimum": 99}, "regular", "not wider"),
        ({"dispersion_p": 0.5, "minimum": 99}, "random", "not wider"),
        ({"dispersion_p": np.nan, "minimum": 100}, "regular", "not wider"),
        ({"dispersion_p": np.nan, "minimum": 1000, "maximum": 1000}, "complete", "not wider"),
        ({"dispersion_p": np.nan, "maximum": 0}, "empty", "not wider"),
        (against("lognormal", -2.1, 0.04, -3.0), "heavy-tailed", "lognormal is better"),
        (against("lognormal", -1.9, 0.06, -3.0), "power law", None),
    ],
)  # fmt: skip
def test_each_guard_of_the_verdict_on_both_sides_of_its_limit(change, verdict, reason):
    found, failed = judge(dataclasses.replace(PASSING, **change))
    assert found == verdict
    if reason is None:
        assert failed == ()
    else:
        assert len(failed) == 1
        assert failed[0].startswith(reason)


def test_a_cached_fit_cannot_be_changed_through_its_comparisons():
    graph = random_layer(40, 50, 300, seed=0)
    comparisons = power_law_of(graph).comparisons
    with pytest.raises(TypeError, match="does not support item assignment"):
        comparisons["poisson"] = EVEN
    assert list(comparisons) == list(RIVALS)
    assert np.isfinite([ratio.log_ratio for ratio in comparisons.values()]).all()
    with pytest.raises(KeyError, match="gumbel"):
        comparisons["gumbel"]


@pytest.mark.parametrize("bootstrap", [-1, 1.5])
def test_a_number_of_replicates_is_checked_everywhere(bootstrap):
    graph = random_layer(40, 50, 300, seed=0)
    with pytest.raises(ValueError, match="expected bootstrap to be a number of replicates"):
        power_law_of(graph, bootstrap=bootstrap, rng=0)


def test_a_tail_that_is_too_short_is_called_that():
    sentence = describe_fit(fit_power_law([10**9, 1, 1, 1, 2, 2, 3]))
    assert sentence.endswith("not heavy-tailed: the tail has only 2 values")

"""Intervals cover, p-values are uniform under the null, partial means what it says."""

import numpy as np
import pytest
from scipy import stats

from topokit.experiments.statistics import adjusted, mean_interval, paired, rank_correlation


@pytest.mark.parametrize("n", [5, 20])
def test_intervals_cover_as_often_as_they_say(rng, n):
    samples = rng.standard_normal((400, n))
    found = [mean_interval(x, resamples=499, rng=rng) for x in samples]
    covered = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.90 <= covered <= 0.985


def test_an_interval_says_n_and_leaves_out_what_is_undefined(rng):
    result = mean_interval([1.0, np.nan, 3.0, 2.0], rng=rng)
    assert (result.n, result.mean, result.sd) == (3, 2.0, 1.0)
    one, none = mean_interval([4.0], rng=rng), mean_interval([], rng=rng)
    assert (one.n, one.mean) == (1, 4.0)
    assert np.isnan([one.low, one.high, one.sd, none.mean, none.low]).all()
    assert mean_interval([2.0, 2.0], rng=rng)[1:] == (2.0, 0.0, 2.0, 2.0)


def test_one_rng_one_interval():
    x = np.arange(6.0)
    first, second = (mean_interval(x, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_paired_against_scipy(rng):
    a = rng.standard_normal(10)
    b = a + 0.3 + 0.4 * rng.standard_normal(10)
    result = paired(a, b, rng=rng)
    assert result.n == 10
    assert result.difference == pytest.approx(np.mean(a - b))
    assert result.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert result.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    exact = stats.permutation_test((a, b), _mean_of_differences, permutation_type="samples")
    assert result.permutation_p == pytest.approx(exact.pvalue)
    assert result.low < result.difference < result.high


def _mean_of_differences(x, y):
    return np.mean(x - y)


def test_many_pairs_draw_signs(rng):
    a = rng.standard_normal(40)
    assert paired(a + 1, a, rng=rng).permutation_p == pytest.approx(1 / 10_000)
    assert paired(a, rng.permutation(a), rng=rng).permutation_p > 0.01


def test_pairs_without_a_difference(rng):
    same = paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], rng=rng)
    assert (same.n, same.difference) == (3, 0.0)
    assert np.isnan([same.permutation_p, same.t_p, same.wilcoxon_p]).all()
    constant = paired([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], rng=rng)
    assert (constant.difference, constant.permutation_p) == (1.0, 0.25)
    assert np.isnan(paired([1.0], [0.0], rng=rng).low)
    with pytest.raises(ValueError, match=r"two arms of one length, got shapes \(2,\) and \(3,\)"):
        paired([1, 2], [1, 2, 3], rng=rng)


def test_plain_rank_correlation_is_spearmans(rng):
    x = rng.integers(0, 9, 60).astype(float)
    y = x + rng.standard_normal(60) * 3
    result = rank_correlation(x, y, rng=rng, resamples=499)
    assert result.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert result.low < result.rho < result.high
    assert result.p == pytest.approx(1 / 500)


def test_partial_correlation_is_the_textbook_formula(rng):
    x, z = rng.standard_normal((2, 80))
    y = z + 0.5 * rng.standard_normal(80)
    r = stats.spearmanr(np.array([x + z, y, z]).T).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    result = rank_correlation(x + z, y, controls=[z], rng=rng, resamples=199)
    assert result.rho == pytest.approx(expected)


def test_what_density_explains_alone_is_not_found(rng):
    """Gap and accuracy both grow with density and are unrelated otherwise."""
    density = np.repeat([0.01, 0.05, 0.2], 20)
    gap, accuracy = (np.log(density) + 0.2 * rng.standard_normal(60) for _ in range(2))
    assert rank_correlation(gap, accuracy, rng=rng, resamples=199).rho > 0.8
    within = rank_correlation(gap, accuracy, strata=density, rng=rng, resamples=499)
    assert within.p > 0.05
    assert within.low < 0 < within.high


@pytest.mark.parametrize("strata", [None, np.repeat([0, 1, 2], 6)], ids=["plain", "within"])
def test_p_values_are_uniform_under_the_null(rng, strata):
    found = [
        rank_correlation(*rng.standard_normal((2, 18)), strata=strata, rng=rng, resamples=99).p
        for _ in range(150)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.001


def test_an_effect_within_groups_is_found(rng):
    groups = np.repeat(np.arange(6), 10)
    x = rng.standard_normal(60)
    y = x + 0.5 * rng.standard_normal(60) - 10 * groups
    assert rank_correlation(x, y, strata=groups, rng=rng, resamples=199).rho > 0.7
    words = np.array([f"group {g}" for g in groups])
    again = rank_correlation(x, y, strata=words, rng=rng, resamples=199)
    assert again.rho == pytest.approx(rank_correlation(x, y, strata=groups, rng=rng).rho)


def test_undefined_correlations(rng):
    flat = rank_correlation(np.ones(9), np.arange(9), rng=rng)
    assert flat.n == 9
    assert np.isnan(flat[1:]).all()
    assert rank_correlation([1, 2, 3], [1, 2, 3], rng=rng).n == 3
    one_each = rank_correlation(np.arange(9), np.arange(9), strata=np.arange(9), rng=rng)
    assert np.isnan(one_each.rho)
    gappy = rank_correlation([1, 2, 3, 4, 5, np.nan], range(6), rng=rng, resamples=99)
    assert (gappy.n, round(gappy.rho, 9)) == (5, 1.0)
    with pytest.raises(ValueError, match="columns of one length"):
        rank_correlation([1, 2], [1, 2, 3], rng=rng)
    with pytest.raises(ValueError, match="columns of one length"):
        rank_correlation([1, 2], [1, 2], strata=[1], rng=rng)
    with pytest.raises(ValueError, match="a level between 0 and 1, got 95"):
        rank_correlation([1, 2], [1, 2], level=95, rng=rng)


def test_adjusted_p_values():
    p = [0.001, 0.02, np.nan, 0.04, 0.5]
    holm, bh = adjusted(p), adjusted(p, method="bh")
    assert holm[[0, 1, 3, 4]] == pytest.approx([0.004, 0.06, 0.08, 0.5])
    assert bh[[0, 1, 3, 4]] == pytest.approx([0.004, 0.04, 0.04 * 4 / 3, 0.5])
    assert np.isnan([holm[2], bh[2]]).all()
    assert adjusted([0.9, 0.8]).max() <= 1
    assert adjusted([]).size == 0
    with pytest.raises(ValueError, match="a method of holm, bh, got 'bonferroni'"):
        adjusted(p, method="bonferroni")
    with pytest.raises(ValueError, match=r"p-values in \[0, 1\]"):
        adjusted([1.5])

"""Intervals cover, p-values are uniform under the null, partial means what it says."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from topokit.experiments.statistics import adjusted, mean_interval, paired, rank_correlation

NORMAL = np.random.Generator.standard_normal
EXPONENTIAL = np.random.Generator.standard_exponential


def _lognormal(rng, size):
    return rng.lognormal(0, 1, size)


def _within_chance(share, expected, samples):
    """Whether a share of samples is that expected: four standard errors, 1 failure in 16,000."""
    return abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / samples)


@pytest.mark.parametrize(
    ("draw", "mean", "n", "coverage"),
    [
        # exact for the normal law; for the others from 3,000,000 samples (standard error 0.0002)
        (NORMAL, 0, 3, 0.95),
        (NORMAL, 0, 5, 0.95),
        (NORMAL, 0, 10, 0.95),
        (EXPONENTIAL, 1, 3, 0.8844),
        (EXPONENTIAL, 1, 5, 0.8828),
        (EXPONENTIAL, 1, 10, 0.9003),
        (_lognormal, np.exp(0.5), 3, 0.8379),
        (_lognormal, np.exp(0.5), 5, 0.8211),
        (_lognormal, np.exp(0.5), 10, 0.8393),
    ],
)
@pytest.mark.slow
def test_intervals_of_a_mean_cover_as_often_as_documented(draw, mean, n, coverage):
    samples = draw(np.random.default_rng(n), (4000, n))
    found = [mean_interval(x) for x in samples]
    covered = np.mean([i.low <= mean <= i.high for i in found])
    assert _within_chance(covered, coverage, 4000)


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.9675), (5, 0.9659), (10, 0.9581)])
def test_intervals_of_paired_differences_cover_even_if_both_sides_are_skewed(n, coverage):
    rng = np.random.default_rng(n)
    a, b = rng.standard_exponential((2, 2000, n))
    found = [mean_interval(x - y) for x, y in zip(a, b, strict=True)]
    assert _within_chance(np.mean([i.low <= 0 <= i.high for i in found]), coverage, 2000)
    result = paired(a[0], b[0], rng=rng)
    assert (result.low, result.high) == found[0][3:]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_an_interval_of_a_mean_is_students(rng, level):
    x = rng.standard_normal(7)
    found = mean_interval(x, level=level)
    expected = stats.t.interval(level, 6, loc=x.mean(), scale=stats.sem(x))
    assert found[3:] == pytest.approx(expected)


def test_an_interval_says_n_and_leaves_out_what_is_undefined():
    result = mean_interval([1.0, np.nan, 3.0, 2.0])
    assert (result.n, result.mean, result.sd) == (3, 2.0, 1.0)
    one, none = mean_interval([4.0]), mean_interval([])
    assert (one.n, one.mean, none.n) == (1, 4.0, 0)
    assert np.isnan([one.low, one.high, one.sd, none.mean, none.low]).all()
    assert mean_interval([2.0, 2.0])[1:] == (2.0, 0.0, 2.0, 2.0)
    with pytest.raises(ValueError, match=r"a vector of values, got shape \(1, 2\)"):
        mean_interval([[1.0, 2.0]])
    with pytest.raises(ValueError, match="a level between 0 and 1, got 1"):
        mean_interval([1.0, 2.0], level=1)


def test_bounds_of_accuracies_are_not_cut_at_one():
    found = mean_interval([0.90, 0.999, 0.999])
    assert found.high > 1
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


def test_zero_lies_outside_an_interval_exactly_if_the_t_test_says_so(rng):
    for shift in np.linspace(0.1, 2, 20):
        result = paired(rng.standard_normal(5) + shift, np.zeros(5), rng=rng)
        assert (result.low <= 0 <= result.high) == (result.t_p >= 0.05)


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
    with pytest.raises(
        ValueError, match=r"two conditions of one length, got shapes \(2,\) and \(3,\)"
    ):
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


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("strata", [[0] * 10, [0] * 10 + [1] * 10, [0, 1, 2, 3, 4] * 3])
@pytest.mark.slow
def test_intervals_of_correlations_cover_as_often_as_documented(r, strata):
    """At least 0.93, so that 300 samples cover 0.87 or more up to four standard errors."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(300):
        x, noise = rng.standard_normal((2, len(strata)))
        y = r * x + np.sqrt(1 - r**2) * noise
        found.append(rank_correlation(x, y, strata=strata, resamples=199, rng=rng))
    mean = np.mean([one.rho for one in found])  # what the statistic estimates at this size
    covered = np.mean([one.low <= mean <= one.high for one in found])
    assert covered >= 0.93 - 4 * np.sqrt(0.93 * 0.07 / 300)


def test_few_points_have_a_correlation_and_no_interval(rng):
    nine, ten = (rank_correlation(*rng.standard_normal((2, n)), rng=rng) for n in (9, 10))
    assert -1 <= nine.rho <= 1
    assert 0 < nine.p <= 1
    assert np.isnan([nine.low, nine.high]).all()
    assert -1 <= ten.low < ten.high <= 1


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


def test_an_integer_is_a_seed(rng):
    x, y = rng.standard_normal((2, 20))
    for function in (paired, rank_correlation):
        assert function(x, y, rng=3) == function(x, y, rng=np.random.default_rng(3))


ALMOST = [  # on paper their sum is 0, as numbers of the computer it is not
    ([-0.9, 2.6, -1.3, -0.3, 1.7, 0.4], [0.7, 0.3, 0.6, -0.2, 0.3, 0.5]),
    ([-1.4, 0.9, -0.6, 1.3, 0.3], [0.4, -0.9, 0.0, 0.8, 0.2]),
    ([1, 0, 0, 0, 1, -3, 1, 1], [0.7, -0.1, 0.1, 0.2, -0.3, 0.1, -0.2, 0.5]),
]


@pytest.mark.parametrize(("a", "b"), ALMOST)
def test_a_difference_of_0_but_for_rounding_is_beyond_none(a, b):
    assert 0 < abs(np.subtract(a, b).sum()) < 1e-15
    assert paired(a, b, rng=0).permutation_p == 1
    assert paired(a * 3, b * 3, rng=0).permutation_p == 1  # random sign changes


@pytest.mark.parametrize(
    ("x", "y", "strata"),
    [
        ([2, 2, 0, 0, 0, 2], [3, 1, 1, 1, 3, 1], None),
        ([2, 2, 0, 0, 0, 0], [0, 2, 1, 1, 3, 3], [0, 1, 1, 1, 0, 0]),
        ([0, 0, 2, 1, 1, 0], [3, 1, 3, 1, 3, 3], [1, 1, 1, 0, 0, 0]),
        ([0, 0, 2, 2, 1, 1], [3, 3, 3, 3, 1, 1], [0, 0, 1, 1, 1, 0]),
    ],
)
def test_a_correlation_of_0_but_for_rounding_is_beyond_none(x, y, strata):
    found = rank_correlation(x, y, strata=strata, rng=0)
    assert abs(found.rho) < 1e-15
    assert found.p == 1


def test_differences_equal_on_paper_have_equal_ranks():
    hundred = np.array([83, 82, 84, 85, 81, 80, 79]), np.array([82, 81, 85, 83, 80, 82, 78])
    a, b = (each / 100 for each in hundred)
    assert len(set(np.abs(a - b))) > len(set(np.abs(hundred[0] - hundred[1])))
    expected = stats.wilcoxon(hundred[0] - hundred[1]).pvalue
    assert paired(a, b, rng=0).wilcoxon_p == expected
    assert paired(a * 1e-9, b * 1e-9, rng=0).wilcoxon_p == expected
    assert np.isnan(paired([0.1 + 0.2, 0.5], [0.3, 0.5], rng=0).wilcoxon_p)


@pytest.mark.parametrize(
    ("a", "n", "mean"),
    [
        ([np.inf, 1, 2], 3, np.inf), ([-np.inf, 1, 2], 3, -np.inf),
        ([np.inf, -np.inf, 2], 3, np.nan), ([np.inf, np.nan, 2], 2, np.inf), ([np.inf], 1, np.inf),
    ],
)  # fmt: skip
def test_infinite_values_leave_no_interval_and_no_p(a, n, mean):
    found = mean_interval(a)
    assert found.n == n
    assert np.array_equal([found.mean], [mean], equal_nan=True)
    assert np.isnan(found[2:]).all()
    both = paired(a, np.zeros(len(a)), rng=0)
    assert both.n == n
    assert np.isnan(both[2:]).all()
    assert paired([np.inf, 1, 2], [np.inf, 0, 1], rng=0)[:2] == (2, 1.0)


def test_intervals_of_correlations_stay_within_1():
    found = rank_correlation(range(10), range(10), rng=0)
    assert found.low <= found.high <= found.rho == 1


@pytest.mark.parametrize(
    "strata",
    [
        [1.0] * 6 + [2.0] * 4 + [np.nan] * 2,
        ["a"] * 6 + ["b"] * 4 + [np.nan] * 2,
        np.array(["a"] * 6 + ["b"] * 4 + [None] * 2, object),
    ],
)
def test_points_of_no_group_are_left_out(strata):
    x, y = np.arange(12.0), np.array([3, 1, 2, 5, 4, 6, 4, 3, 2, 1, 9, 8.0])
    found = rank_correlation(x, y, strata=strata, rng=0)
    assert found == rank_correlation(x[:10], y[:10], strata=[1] * 6 + [2] * 4, rng=0)
    assert found.n == 10


def test_series_with_labels_in_another_order_are_refused():
    seeds = [3, 1, 2, 0, 5]
    a, b = pd.Series([0.1, 0.2, 0.3, 0.5, 0.9], seeds), pd.Series([0.0, 0.1, 0.1, 0.4, 0.6], seeds)
    found = paired(a, b, rng=0)
    assert found == paired(a.to_numpy(), b.to_numpy(), rng=0)
    assert paired(a, b.set_axis(range(10, 15)), rng=0) == found  # rows of two parts of a table
    for other in (b.sort_index(), b.set_axis([3, 1, 2, 0, 4]), b[::-1], b[:4]):
        for call in (
            lambda other=other: paired(a, other, rng=0),
            lambda other=other: rank_correlation(a, other, rng=0),
            lambda other=other: rank_correlation(a, b, controls=[other], rng=0),
            lambda other=other: rank_correlation(a, b, strata=other > 0.1, rng=0),
        ):
            with pytest.raises(ValueError, match="same labels in the same order, got 3, 1, 2, 0"):
                call()
    two = pd.MultiIndex.from_product([["x"], seeds])
    with pytest.raises(ValueError, match="same labels in the same order"):
        paired(a.set_axis(two), b.set_axis(two[::-1]), rng=0)


def families(rng, r, *, densities=3, n=10):
    """Points of families that nearly keep their order at each density, and labels of both."""
    x, noise = rng.standard_normal((2, n))
    y = r * x + np.sqrt(1 - r**2) * noise
    points = [
        np.tile(each, densities) + 0.05 * rng.standard_normal(n * densities) for each in (x, y)
    ]
    return *points, np.repeat(np.arange(densities), n), np.tile(np.arange(n), densities)


def test_points_of_a_cluster_are_no_further_evidence(rng):
    """The same points at three densities say as much as at one."""
    x, y = rng.standard_normal((2, 10))
    y = y - 0.8 * x
    one = rank_correlation(x, y, rng=0)
    three = [np.tile(x, 3), np.tile(y, 3)], np.repeat([1, 2, 3], 10), np.tile(list("abcdefghij"), 3)
    order = rng.permutation(30)  # of the rows of a table
    points, strata, clusters = [each[order] for each in three[0]], three[1][order], three[2][order]
    found = rank_correlation(*points, strata=strata, clusters=clusters, rng=0)
    assert found.rho == pytest.approx(one.rho)
    # as in one stratum, but for the order of the families in which both draw
    assert [found.low, found.high] == pytest.approx([one.low, one.high], abs=0.06)
    assert found.p == pytest.approx(one.p, rel=0.3, abs=0.01)
    apart = rank_correlation(*points, strata=strata, rng=0)
    assert apart.rho == pytest.approx(one.rho)
    assert apart.high - apart.low < 0.8 * (found.high - found.low)
    assert apart.p < found.p


def test_clusters_of_one_point_each_change_nothing_but_the_draws(rng):
    x, y = rng.standard_normal((2, 12))
    plain = rank_correlation(x, y, rng=0)
    assert rank_correlation(x, y, clusters=range(12), rng=0) == plain
    held = rank_correlation(x, y, controls=[x**2], clusters=range(12), rng=0)
    assert held == rank_correlation(x, y, controls=[x**2], rng=0)


def test_few_clusters_have_no_interval(rng):
    nine, ten = (families(rng, 0.5, n=n) for n in (9, 10))
    found = [rank_correlation(x, y, strata=s, clusters=c, rng=0) for x, y, s, c in (nine, ten)]
    assert [np.isnan(each.low) for each in found] == [True, False]
    assert [each.n for each in found] == [27, 30]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: np.where(c == 3, 4, c),  # twice in a stratum
        lambda c: np.r_[10, c[1:]],  # in one stratum alone
        lambda c: np.where(np.arange(30) == 5, np.nan, c),  # of no cluster in one stratum
    ],
)
def test_clusters_that_are_not_in_each_stratum_are_refused(rng, change):
    x, y, strata, clusters = families(rng, 0.5)
    with pytest.raises(ValueError, match="one point of each cluster in each stratum"):
        rank_correlation(x, y, strata=strata, clusters=change(clusters), rng=0)
    gappy = np.where(np.arange(30) == 7, np.nan, x)
    with pytest.raises(ValueError, match="one point of each cluster in each stratum"):
        rank_correlation(gappy, y, strata=strata, clusters=clusters, rng=0)
    with pytest.raises(ValueError, match="columns of one length"):
        rank_correlation(x, y, strata=strata, clusters=clusters[:-1], rng=0)


@pytest.mark.slow
def test_clusters_are_covered_as_documented():
    rng = np.random.default_rng(1)
    for r in (0.0, 0.5, 0.9):
        found = []
        for _ in range(200):
            x, y, strata, clusters = families(rng, r)
            options = {"strata": strata, "resamples": 199, "rng": rng}
            found.append(rank_correlation(x, y, clusters=clusters, **options))
        mean = np.mean([one.rho for one in found])
        covered = np.mean([one.low <= mean <= one.high for one in found])
        assert covered >= 0.93 - 4 * np.sqrt(0.93 * 0.07 / 200)
        if r == 0:
            small = np.mean([one.p <= 0.05 for one in found])
            assert _within_chance(small, 0.05, 200)


@pytest.mark.parametrize("scale", [1, 1e-200, 1e200])
def test_values_equal_on_paper_have_equal_ranks(scale):
    thirds = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.4, 0.3], [0.3, 0.4, 0.5]]
    x = np.array([sum(each) / 3 for each in thirds] + [0.7, 0.1]) * scale
    assert len(set(x)) > 4  # two pairs are equal on paper
    y = np.array([1, 2, 3, 4, 5, 0])
    expected = stats.spearmanr([2, 2, 3, 3, 4, 1], y).statistic
    assert rank_correlation(x, y, rng=0).rho == pytest.approx(expected)
    assert rank_correlation(-x, y, rng=0).rho == pytest.approx(-expected)
    assert rank_correlation(y, x, rng=0).rho == pytest.approx(expected)


def test_values_that_differ_keep_their_ranks():
    x = np.array([0, 1e-300, 1e-20, 1, 1 + 1e-11, 1e20, -1e-300])
    y = np.arange(7)
    expected = stats.spearmanr(x, y).statistic
    assert rank_correlation(x, y, rng=0).rho == pytest.approx(expected)

"""Summaries of degrees worked out by hand."""

import numpy as np
import pytest
from scipy.stats import chi2

from topokit.graph import LayerGraph
from topokit.measures import LAYER_MEASURES
from topokit.measures.degree import dispersion_test, gini, hub_share


def layer(degrees, n_in):
    """A layer whose output units have these degrees."""
    ids = [row * n_in + column for row, k in enumerate(degrees) for column in range(k)]
    return LayerGraph.from_edge_ids(ids, (len(degrees), n_in))


def test_a_summary_has_each_of_its_numbers():
    found = LAYER_MEASURES["fan_in"](layer([0, 1, 1, 6], 9))
    assert found.mean == 2
    assert found.maximum == 6
    assert found.isolated == 1
    assert found.dispersion == pytest.approx((4 + 1 + 1 + 16) / 4 / 2)
    assert found.gini == pytest.approx(1 - 2 * (0 + 0.125 / 2 + 3 * 0.125 / 2 + 1.25 / 2) / 4)


def test_evenness_by_hand():
    found = LAYER_MEASURES["evenness_fan_in"](layer([1, 1, 2, 4], 5))
    assert found.entropy == pytest.approx(0.5 * np.log(2) + 2 * 0.25 * np.log(4))
    shares = np.array([1, 1, 2, 4]) / 8
    assert found.edge_entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4))
    assert found.effective_number == pytest.approx(64 / 22)
    assert found.skewness == pytest.approx((-1 - 1 + 0 + 8) / 4 / 1.5**1.5)


@pytest.mark.parametrize(
    ("degrees", "n_other"), [([3, 0, 1], 4), ([1, 0], 1), ([2, 2, 0], 2), ([5, 1, 0, 2], 6)]
)
def test_dispersion_of_edges_placed_without_repetition(degrees, n_other):
    k, cells = np.array(degrees), len(degrees) * n_other
    factor = (cells - k.sum()) / (cells - 1)
    statistic = ((k - k.mean()) ** 2).sum() / (k.mean() * factor)
    dispersion, p_value = dispersion_test(degrees, n_other=n_other)
    assert dispersion == pytest.approx(k.var() / k.mean())
    assert p_value == pytest.approx(chi2.sf(statistic, k.size - 1))


def test_dispersion_against_a_poisson_law():
    k = np.array([0, 1, 5, 2])
    assert dispersion_test(k)[1] == pytest.approx(chi2.sf(4 * k.var() / k.mean(), 3))


def test_there_is_no_dispersion_of_one_unit_nor_of_full_layers():
    assert np.isnan(dispersion_test([3], n_other=5)[1])
    assert np.isnan(dispersion_test([2, 2], n_other=2)[1])
    assert np.isnan(dispersion_test([0, 0], n_other=2)).all()


def test_shares_of_units_are_counted_exactly():
    """7 % of 100 units are 7, although their product in floating point is above."""
    from fractions import Fraction
    from math import ceil

    from topokit.measures.degree import count_of

    for n in (1, 3, 10, 30, 100, 700):
        for percent in range(1, 101):
            assert count_of(percent / 100, n) == ceil(Fraction(percent * n, 100))


@pytest.mark.parametrize("wrong", [[3, -1], [2, float("nan")], [2, float("inf")]])
def test_shares_of_what_is_no_amount_are_refused(wrong):
    """Gini's coefficient of -1 and 3 would be 1, and the largest of them 1.5 of all edges."""
    for measure in (gini, hub_share):
        with pytest.raises(ValueError, match="expected finite values of 0 or more, got"):
            measure(wrong)


@pytest.mark.parametrize(
    ("degrees", "n_other", "message"),
    [
        ([5, 0], 3, "expected degrees in 0..n_other=3, got 5"),
        ([3, -1], None, "non-negative integers, got -1"),
        ([1.5, 2.5], None, "non-negative integers, got 1.5"),
        ([2, float("nan")], None, "non-negative integers, got nan"),
    ],
)
def test_what_are_no_degrees_of_a_layer_is_not_tested(degrees, n_other, message):
    with pytest.raises(ValueError, match=message):
        dispersion_test(degrees, n_other=n_other)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokit.graph import LayerGraph
from topokit.rules.drop import (
    lowest,
    nothing,
    official_removal,
    random,
    signed_magnitude,
    smallest_magnitude,
    softly,
)
from topokit.rules.rewire import LayerView


def view_of(values):
    values = np.asarray(values, dtype=float)
    return LayerView(LayerGraph.from_edge_ids(range(values.size), (1, values.size)), values)


small = st.lists(st.integers(-4, 4), max_size=12)


@given(small, st.data())
def test_lowest_is_a_stable_sort(scores, data):
    n = data.draw(st.integers(0, len(scores)))
    assert lowest(scores, n).tolist() == sorted(np.argsort(scores, kind="stable")[:n].tolist())


@given(small, st.data())
def test_signed_magnitude_splits_in_proportion(values, data):
    n = data.draw(st.integers(0, len(values)))
    view = view_of(values)
    dropped = signed_magnitude(view, n, np.random.default_rng(0))
    assert len(set(dropped.tolist())) == n
    values = view.values
    zero, negative, positive = ((values == 0).sum(), (values < 0).sum(), (values > 0).sum())
    if n <= zero:
        assert (values[dropped] == 0).all()
        return
    share = (n - zero) / (negative + positive)
    assert abs((values[dropped] > 0).sum() - share * positive) <= 0.5 + 1e-9
    kept = np.delete(values, dropped)
    for sign in (1, -1):
        out, stay = sign * values[dropped], sign * kept
        if (out > 0).any() and (stay > 0).any():
            assert out[out > 0].max() <= stay[stay > 0].min()


def test_signed_magnitude_ignores_the_other_sign_s_scale(rng):
    view = view_of([-0.01, -0.02, -0.03, -0.04, 10, 20, 30, 40])
    assert signed_magnitude(view, 4, rng).tolist() == [0, 1, 4, 5]
    assert smallest_magnitude(view, 4, rng).tolist() == [0, 1, 2, 3]


def test_one_sign_only(rng):
    assert signed_magnitude(view_of([-3, -1, -2]), 2, rng).tolist() == [1, 2]
    assert signed_magnitude(view_of([3, 1, 2]), 2, rng).tolist() == [1, 2]


@pytest.mark.parametrize("drop", [smallest_magnitude, signed_magnitude])
def test_diverged_weights_and_impossible_counts_are_refused(drop, rng):
    with pytest.raises(ValueError, match="did training diverge"):
        drop(view_of([1.0, np.nan]), 1, rng)
    with pytest.raises(ValueError, match="cannot drop 3 of 2 edges"):
        lowest([1.0, 2.0], 3)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_random_drops_a_uniform_subset(n, rng):
    view = view_of(np.arange(5))
    counts = np.zeros(5)
    for _ in range(2000):
        dropped = random(view, n, rng)
        assert np.unique(dropped).size == n
        counts[dropped] += 1
    assert np.abs(counts - 400 * n).max() < 5 * 18  # 5 sd of a binomial (2000, 1/5)


def test_nothing(rng):
    assert nothing(view_of([1.0]), 0, rng).size == 0
    with pytest.raises(ValueError, match="the static rule keeps every edge"):
        nothing(view_of([1.0]), 1, rng)


def test_official_removal_edge_cases():
    assert official_removal([], 0.3).size == 0
    assert official_removal([2.0], 0.3).tolist() == [0]
    with pytest.raises(ValueError, match=r"zeta in \[0, 1\]"):
        official_removal([1.0], 1.3)
    with pytest.raises(ValueError, match="diverge"):
        official_removal([np.nan], 0.3)


def test_official_removal_is_signed_magnitude_and_a_little_more(rng):
    values = rng.standard_normal(1000)
    removed = official_removal(values, 0.3)
    ours = signed_magnitude(view_of(values), 300, rng)
    assert 300 <= removed.size <= 303
    assert np.setdiff1d(ours, removed).size <= 1


def test_softly_keeps_in_proportion_to_a_power_of_the_importance(rng):
    counts = np.zeros(4)
    for _ in range(2000):
        counts[softly([0.0, 1.0, 2.0, 5.0], 3, rng, exponent=1)] += 1
    assert counts[0] == 2000
    assert np.abs(1 - counts[1:] / 2000 - np.array([1, 2, 5]) / 8).max() < 0.05
    assert softly([3.0, 1.0, 2.0], 1, rng, exponent=1e6).tolist() == [1]
    with pytest.raises(ValueError, match="importances of at least 0, got -1"):
        softly([-1.0, 1.0], 1, rng)

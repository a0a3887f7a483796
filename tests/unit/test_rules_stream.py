import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chisquare, kstest

from topokit.graph import LayerGraph, philox
from topokit.rules import drop, grow
from topokit.rules.rewire import LayerView
from topokit.rules.stream import Stream, absent_drawn

# kat_vectors of Random123 1.14, lines "philox4x32 10": counter, key, block
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
KEYS = st.integers(0, 2**64 - 1)


def words(text):
    return [np.uint64(int(word, 16)) for word in text.split()]


def number(key, at):
    return int(philox.pair(np.uint64(key), np.uint64(at // 2))[at % 2])


def first_distinct(key, n, k):
    """Return the first distinct integers below n of the stream, by Python's own integers."""
    found, at = set(), 0
    while len(found) < k:
        product = number(key, at) * n
        at += 1
        if product % 2**64 >= 2**64 % n:
            found.add(product >> 64)
    return sorted(found)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_blocks_are_those_that_its_authors_published(counter, key, expected):
    assert [int(word) for word in philox.block(*words(counter), *words(key))] == [
        int(word) for word in words(expected)
    ]


def test_words_of_key_and_counter_are_in_the_order_that_is_documented():
    key, half = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    ordered = words("76543210 FEDCBA98 0 0 89ABCDEF 01234567")
    block = [int(word) for word in philox.block(*ordered)]
    even, odd = philox.pair(np.uint64(key), np.uint64(half))
    assert (int(even), int(odd)) == (block[0] | block[1] << 32, block[2] | block[3] << 32)


@given(KEYS, st.integers(1, 2**62 - 1), st.integers(0, 5))
def test_integers_are_the_upper_half_of_a_product_without_the_unequal_ones(key, n, start):
    products = [number(key, at) * n for at in range(start, 12)]
    expected = [product >> 64 for product in products if product % 2**64 >= 2**64 % n]
    assert philox.integers(np.uint64(key), start, 12, n).tolist() == expected


def test_numbers_are_left_out_where_integers_would_be_unequal():
    n = 3 * 2**60  # 2**64 % n is 2**60, a sixteenth of all numbers
    kept = philox.integers(np.uint64(1), 0, 100_000, n).size / 100_000
    assert kept == pytest.approx(15 / 16, abs=0.004)


@given(KEYS, st.integers(1, 20))
def test_a_subset_is_the_first_distinct_integers_or_all_but_them(key, n):
    for k in range(n + 1):
        subset = Stream(key).subset(n, k).tolist()
        if 2 * k <= n:
            assert subset == first_distinct(key, n, k)
        else:
            assert subset == sorted(set(range(n)) - set(first_distinct(key, n, n - k)))


def test_a_subset_that_does_not_exist_is_refused():
    for n, k in ((3, 4), (3, -1), (0, 1)):
        with pytest.raises(ValueError, match=f"cannot pick {k} of {n} integers"):
            Stream(0).subset(n, k)
    assert Stream(0).subset(0, 0).size == 0


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (6, 3), (6, 4), (7, 5), (5, 4)])
def test_every_subset_is_equally_likely(n, k):
    keys = np.random.default_rng(n + k).integers(0, 2**64, 4000, np.uint64)
    counts = Counter(tuple(Stream(int(key)).subset(n, k).tolist()) for key in keys)
    possible = list(itertools.combinations(range(n), k))
    assert chisquare([counts[subset] for subset in possible]).pvalue > 1e-3


@pytest.mark.parametrize("keys", [range(4000), range(0, 4000 << 32, 1 << 32)])
def test_neighbouring_keys_give_independent_subsets(keys):
    counts = Counter(tuple(Stream(key).subset(5, 2).tolist()) for key in keys)
    possible = list(itertools.combinations(range(5), 2))
    assert chisquare([counts[subset] for subset in possible]).pvalue > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_grown_edges_are_uniform_over_the_absent_ones(groups, k):
    edges = [0, 5, 12] if groups == 1 else [0, 5, 15]
    graph = LayerGraph.from_edge_ids(edges, (4, 4), groups)
    inside = [i for i in range(16) if groups == 1 or (i // 4 // 2) == (i % 4 // 2)]
    absent = [i for i in inside if i not in edges]
    if groups == 1:  # a small layer has few subsets: leave five cells
        graph = LayerGraph.from_edge_ids(absent[5:] + edges, (4, 4))
        absent = absent[:5]
    rng = np.random.default_rng(k)
    counts = Counter(tuple(absent_drawn(graph, k, rng).tolist()) for _ in range(3000))
    possible = list(itertools.combinations(absent, k))
    assert set(counts) <= set(possible)
    assert chisquare([counts[subset] for subset in possible]).pvalue > 1e-3


def test_growth_in_a_huge_layer_and_in_a_nearly_complete_one():
    huge = LayerGraph.from_edge_ids([3, 10**12], (2**10, 2**30))
    ids = absent_drawn(huge, 1000, np.random.default_rng(0))
    assert np.all(np.diff(ids) > 0)
    assert kstest(ids / 2.0**40, "uniform").pvalue > 1e-3
    full = LayerGraph.from_edge_ids(np.delete(np.arange(10**6), [7, 500, 999_999]), (1000, 1000))
    assert absent_drawn(full, 3, np.random.default_rng(0)).tolist() == [7, 500, 999_999]
    with pytest.raises(ValueError, match="cannot pick 4 absent edges: only 3 are absent"):
        absent_drawn(full, 4, np.random.default_rng(0))


def test_uniform_numbers_depend_on_their_place_alone():
    at = np.array([5, 2, 2**40 + 1, 2**40, 3, 5])
    drawn = Stream(3).uniforms(at)
    expected = [(number(3, int(i)) >> 11 | 1) / 2**53 for i in at]
    assert drawn.tolist() == expected
    many = Stream(4).uniforms(np.arange(20_000))
    assert kstest(many, "uniform").pvalue > 1e-3
    assert 0 < many.min() < many.max() < 1
    assert Stream(4).uniform(-2, 1, 20_000) == pytest.approx(3 * many - 2, abs=1e-15)


@given(KEYS, st.integers(0, 2**40), st.lists(st.booleans(), max_size=12))
def test_uniform_numbers_of_a_mask_are_those_of_their_places(key, first, mask):
    drawn = Stream(key).uniforms_where(np.array(mask, bool), first=first)
    places = first + np.flatnonzero(mask)
    assert drawn.tolist() == Stream(key).uniforms(places).tolist()


def test_normal_numbers_are_the_quantiles_of_the_uniform_ones():
    drawn = Stream(5).standard_normal(20_001)
    assert drawn == pytest.approx(ndtri(Stream(5).uniforms(np.arange(20_001))), rel=4e-15, abs=0)
    assert kstest(drawn, "norm").pvalue > 1e-3
    assert np.array_equal(Stream(5).standard_normal(1000), drawn[:1000])


def test_the_stream_stays_the_same_to_the_last_bit():
    """Other bits would be another stream: GROWTH needs another name then."""
    stream = Stream(2**64 - 3)
    assert stream.subset(10**12, 3).tolist() == [134321318181, 226307301673, 531030517507]
    drawn = stream.standard_normal(43)
    assert [float(drawn[i]).hex() for i in (0, 1, 3, 42)] == [
        "0x1.3eeab98742cb4p-4", "-0x1.808b5c1531e53p-1", "0x1.535c996272b78p+1",
        "-0x1.b9cff07a3b857p+0",
    ]  # fmt: skip
    far = ["-0x1.06b48528cea51p+3", "0x1.06b48528cea51p+3", "-0x1.14cb793b8ba25p+2"]
    assert [philox._quantile(odd).hex() for odd in (1, 2**53 - 1, 2**36 + 1)] == far


@pytest.mark.parametrize("power", [0, 1, 5, 10, 20, 30, 40, 48, 50, 51])
def test_quantiles_at_both_ends(power):
    odd = 2**power | 1
    expected = ndtri(odd / 2**53)
    assert philox._quantile(odd) == pytest.approx(expected, rel=1e-14, abs=0)
    assert philox._quantile(2**53 - odd) == pytest.approx(-expected, rel=1e-14, abs=0)


def test_random_choices_do_not_depend_on_blocks_of_rows(monkeypatch):
    graph = LayerGraph.from_edge_ids([1, 8, 17], (6, 5))
    scores = np.where(np.arange(30).reshape(6, 5) % 3 > 0, 0.0, 1.0)
    whole = [choose(graph, 14, lambda rows: scores[rows], np.random.default_rng(0))
             for choose in (grow.best_positive, grow.sample_by_score)]  # fmt: skip
    original = grow.top_absent
    monkeypatch.setattr(grow, "top_absent", lambda *args: original(*args, block_cells=7))
    parts = [choose(graph, 14, lambda rows: scores[rows], np.random.default_rng(0))
             for choose in (grow.best_positive, grow.sample_by_score)]  # fmt: skip
    for one, other in zip(whole, parts, strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize("choose", [grow.best_positive, grow.sample_by_score])
def test_edges_without_a_score_are_chosen_uniformly_after_the_others(choose):
    graph = LayerGraph.from_edge_ids([0], (2, 4))
    scores = np.array([[5.0, 0, 0, 3], [0, 0, 0, 0]])
    rng = np.random.default_rng(1)
    counts = Counter(
        tuple(choose(graph, 3, lambda rows: scores[rows], rng).tolist()) for _ in range(2000)
    )
    assert all(3 in chosen for chosen in counts)
    possible = [(*sorted((3, *two)),) for two in itertools.combinations([1, 2, 4, 5, 6, 7], 2)]
    assert chisquare([counts[chosen] for chosen in possible]).pvalue > 1e-3


def test_edges_are_drawn_in_proportion_to_their_scores():
    graph = LayerGraph.from_edge_ids([0], (1, 5))
    scores = np.array([[9.0, 1, 2, 3, 4]])
    rng = np.random.default_rng(2)
    drawn = [int(grow.sample_by_score(graph, 1, lambda r: scores[r], rng)[0]) for _ in range(4000)]
    assert chisquare(np.bincount(drawn)[1:], [400, 800, 1200, 1600]).pvalue > 1e-3


def test_random_dropping_is_uniform():
    view = LayerView(LayerGraph.from_edge_ids(range(6), (2, 3)), np.ones(6))
    rng = np.random.default_rng(3)
    counts = Counter(tuple(drop.random(view, 2, rng).tolist()) for _ in range(3000))
    possible = list(itertools.combinations(range(6), 2))
    assert chisquare([counts[chosen] for chosen in possible]).pvalue > 1e-3

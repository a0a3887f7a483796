import numpy as np

from topokit.measures.degree_report import set_style_correlation, tail_index


def test_moment_estimates_separate_light_and_heavy_tails():
    rng = np.random.default_rng(0)
    assert tail_index(rng.poisson(30, 4000), rng=rng).moments < 0
    assert tail_index(rng.poisson(30, 4000), rng=rng).hill > 0
    assert abs(tail_index(rng.zipf(3.0, 20_000), share=0.02, rng=rng).moments - 0.5) < 0.2


def test_undefined_is_nan():
    for sample in ([], [1] * 5, [0] * 100, [3] * 500):
        assert np.isnan(tail_index(sample).moments)
        assert np.isnan(set_style_correlation(sample).p_value)


def test_the_set_paper_test_calls_an_exponential_scale_free():
    sample = np.random.default_rng(0).geometric(0.1, 1000)
    assert set_style_correlation(sample).p_value < 0.05


def test_three_estimates_of_a_known_index():
    def mean(draw):
        return np.mean([tail_index(draw(np.random.default_rng(s))) for s in range(10)], axis=0)

    hill, moments, _, kernel = mean(lambda rng: rng.pareto(2, 8000) + 1)
    np.testing.assert_allclose([hill, moments, kernel], 0.5, atol=0.05)
    _, moments, _, kernel = mean(lambda rng: rng.random(8000))
    np.testing.assert_allclose([moments, kernel], -1, atol=0.1)
    _, moments, _, kernel = mean(lambda rng: rng.exponential(1, 8000))
    np.testing.assert_allclose([moments, kernel], 0, atol=0.1)

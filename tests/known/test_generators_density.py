"""Published and hand-worked densities."""

import pytest

from topokit.generators import DENSITIES, density_from_epsilon, epsilon_from_density


def test_erk_of_lenet_at_ninety_percent():
    shapes = [(300, 784), (100, 300), (10, 100)]
    shares = DENSITIES["erk"](shapes, density=0.1)
    assert shares == pytest.approx([0.079568, 0.230189, 1.0], abs=5e-7)
    assert sum(round(p * a * b) for p, (a, b) in zip(shares, shapes, strict=True)) == 26_620
    assert epsilon_from_density(784, 300, shares[0]) == pytest.approx(17.264151, abs=1e-6)


def test_erk_of_the_set_mlp_at_98_percent():
    shapes = [(1000, 784), (1000, 1000), (1000, 1000), (10, 1000)]
    shares = DENSITIES["erk"](shapes, density=0.02)
    assert shares == pytest.approx([0.018716, 0.016450, 0.016450, 0.830715], abs=5e-7)
    assert epsilon_from_density(784, 1000, shares[0]) == pytest.approx(8.224904, abs=1e-6)


def test_kernels_count_in_erk_but_not_in_er():
    shapes = [(16, 3, 3, 3), (32, 16, 3, 3), (10, 512)]
    er = DENSITIES["er"](shapes, density=0.2)
    erk = DENSITIES["erk"](shapes, density=0.2)
    assert er[1] / er[2] == pytest.approx((48 / 512) / (522 / 5120))
    assert erk[1] / erk[2] == pytest.approx((54 / 4608) / (522 / 5120))
    assert DENSITIES["erk"]([s[::-1] for s in shapes], density=0.2) == pytest.approx(erk)


def test_several_layers_saturate_one_after_the_other():
    shares = DENSITIES["er"]([(1000, 1000), (10, 1000), (10, 10)], density=0.03)
    assert shares[1:] == [1.0, 1.0]
    assert shares[0] * 1e6 == pytest.approx(0.03 * 1_010_100 - 10_100)


@pytest.mark.parametrize(
    ("n_in", "n_out", "edges"), [(784, 1000, 23192), (1000, 1000, 26000), (3312, 3000, 82056)]
)
def test_set_budget(n_in, n_out, edges):
    assert density_from_epsilon(n_in, n_out, 13) * n_in * n_out == pytest.approx(edges)

"""Products that are all ones, and spectra of designs in closed form."""

import numpy as np
import pytest

from topokit.generators import GENERATORS, describe, generate


def singular_values(graph):
    return np.linalg.svd(graph.to_csr().toarray(), compute_uv=False)


def product(topology):
    result = None
    for graph in topology.values():
        matrix = graph.to_csr().toarray()
        result = matrix if result is None else matrix @ result
    return result


@pytest.mark.parametrize(
    ("name", "width", "degree", "layers"),
    [
        ("butterfly", 64, 2, 6),
        ("butterfly", 81, 3, 4),
        ("radix", 64, 4, 3),
        ("radix", 1000, 10, 3),
        ("de_bruijn", 81, 3, 4),
        ("monarch", 64, 8, 2),
    ],
)
def test_one_path_joins_each_input_and_output(name, width, degree, layers):
    topology = generate(
        [width] * (layers + 1), name, density=degree / width, rng=np.random.default_rng(0)
    )
    assert all(set(graph.fan_in) == {degree} for graph in topology.values())
    assert (product(topology) == 1).all()


def test_benes_goes_up_and_back():
    topology = generate([8] * 6, "benes", density=0.25, rng=np.random.default_rng(0))
    graphs = list(topology.values())
    assert np.array_equal(graphs[0].indices, graphs[4].indices)
    assert np.array_equal(graphs[1].indices, graphs[3].indices)
    assert (product(topology) > 0).all()


@pytest.mark.parametrize(
    ("order", "radix", "copies"), [(8, 2, [3, 1, 2, 5]), (9, 3, [2, 4, 1]), (16, 4, [1, 1, 3])]
)
def test_radix_nets_with_copies_have_equally_many_paths(order, radix, copies):
    widths = [order * copy for copy in copies]
    topology = generate(
        widths, "radix", density=radix / order, order=order, rng=np.random.default_rng(0)
    )
    assert [describe(graph).repairs for graph in topology.values()] == [()] * (len(widths) - 1)
    assert (product(topology) == np.prod(copies[1:-1])).all()


def test_kautz_layers_join_every_pair_in_two_steps_more_than_needed():
    topology = generate([81] * 6, "kautz", density=3 / 81, rng=np.random.default_rng(0))
    assert (product(topology) > 0).all()
    for graph in topology.values():
        assert set(graph.fan_in) == set(graph.fan_out) == {3}


@pytest.mark.parametrize("seed", range(3))
def test_deep_random_layers_join_every_input_with_every_output(seed):
    for name in ("x_net", "group_shuffle", "clash_free"):
        topology = generate(
            [200, 160, 240, 160, 200, 120], name, density=0.05, rng=np.random.default_rng(seed)
        )
        assert (product(topology) > 0).all(), name


def test_groups_that_are_not_shuffled_never_mix():
    groups = generate([64] * 4, "block", density=1 / 8, groups=8, ratio=0.0,
                      rng=np.random.default_rng(0))  # fmt: skip
    assert (product(groups) > 0).mean() < 0.2


def test_components_of_single_layers():
    for stride, components in [(1, 1), (10, 10), (100, 100)]:
        graph = GENERATORS["radix"](
            1000, 1000, density=0.01, stride=stride, rng=np.random.default_rng(0)
        )
        assert describe(graph).components == components


@pytest.mark.parametrize("q", [2, 3, 5, 7])
def test_projective_planes(q):
    n = q * q + q + 1
    rng = np.random.default_rng(0)
    graph = GENERATORS["projective_plane"](n, n, density=(q + 1) / n, q=q, rng=rng)
    assert singular_values(graph) == pytest.approx([q + 1] + [np.sqrt(q)] * (n - 1))


@pytest.mark.parametrize(("k", "q"), [(3, 5), (7, 7), (4, 11)])
def test_nets(k, q):
    rng = np.random.default_rng(0)
    graph = GENERATORS["net"](k * q, q * q, density=1 / q, q=q, rng=rng)
    expected = [np.sqrt(k * q)] + [np.sqrt(q)] * (k * (q - 1)) + [0] * (k - 1)
    assert singular_values(graph) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("q", [7, 11, 103])
def test_quadratic_residues(q):
    rng = np.random.default_rng(0)
    graph = GENERATORS["quadratic_residues"](q, q, density=(q - 1) / 2 / q, q=q, rng=rng)
    assert singular_values(graph)[1:] == pytest.approx(np.full(q - 1, np.sqrt((q + 1) / 4)))


def test_hypercube():
    graph = GENERATORS["hypercube"](32, 32, density=6 / 32, rng=np.random.default_rng(0))
    values, counts = np.unique(np.round(singular_values(graph), 6), return_counts=True)
    assert dict(zip(values, counts, strict=True)) == {0: 10, 2: 15, 4: 6, 6: 1}


@pytest.mark.parametrize(("p", "q"), [(5, 7), (13, 5), (17, 5), (5, 11)])
def test_lps_graphs_are_ramanujan(p, q):
    n = q * (q * q - 1) // 2
    graph = GENERATORS["lps"](n, n, density=(p + 1) / n, p=p, q=q, rng=np.random.default_rng(0))
    assert set(graph.fan_in) == set(graph.fan_out) == {p + 1}
    assert singular_values(graph)[1] <= 2 * np.sqrt(p) + 1e-9


@pytest.mark.parametrize("z", [40, 16, 200, 20])
def test_clash_free_patterns(z):
    draw = GENERATORS["clash_free"]
    graph = draw(800, 1000, density=0.01, z=z, rng=np.random.default_rng(0))
    assert graph.n_edges == 8000
    assert describe(graph).components == 1
    plain = draw(800, 1000, density=0.01, z=z, dither=False, rng=np.random.default_rng(0))
    if z % 8 == 0:
        assert set(plain.fan_in) == {8}
        assert set(plain.fan_out) == {10}
        assert describe(plain).components == z // 8


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("projective_plane", {"q": 30}, "q must be a prime power; 29 and 31 are the nearest to 30"),
        ("net", {"q": 2}, "q must be a prime power that gives 10 and 12 units; 4 is the smallest"),
        ("lps", {"p": 7}, "p must be a prime, 1 modulo 4; 5 and 13 are nearest to 7"),
        ("clash_free", {"z": 3}, "z must divide n_in; 2 and 4 are the nearest to 3"),
        ("hub", {"hubs": 9}, "expected at most 6 hubs with 60 edges and 10 units"),
        ("small_world", {"beta": 2}, r"expected beta in \[0, 1\]"),
        ("radix", {"stride": 0}, "expected a stride of at least 1, got 0"),
        ("band", {"shuffle": "all"}, "expected shuffle to be one of none, fan_in, fan_out, both"),
    ],
)
def test_errors_name_what_is_possible(name, params, message):
    n_in, n_out = (16, 10) if name == "clash_free" else (12, 10)
    with pytest.raises(ValueError, match=message):
        GENERATORS[name](n_in, n_out, density=0.5, rng=np.random.default_rng(0), **params)


def test_receptive_fields_leave_no_unit_isolated():
    for n_in in (784, 512):
        for r in (0.0, 0.1, 0.25):
            graph = GENERATORS["receptive_field"](
                n_in, 1000, density=0.01, r=r, rng=np.random.default_rng(0)
            )
            assert graph.fan_out.min() > 0
            assert np.ptp(graph.fan_in) <= 1


@pytest.mark.parametrize("q", [4, 8, 9])
def test_projective_planes_over_fields_of_prime_power_order(q):
    n = q * q + q + 1
    rng = np.random.default_rng(0)
    graph = GENERATORS["projective_plane"](n, n, density=(q + 1) / n, q=q, rng=rng)
    assert singular_values(graph) == pytest.approx([q + 1] + [np.sqrt(q)] * (n - 1))


@pytest.mark.parametrize("q", [2, 3, 4, 5, 8, 9])
def test_affine_planes(q):
    rng = np.random.default_rng(0)
    graph = GENERATORS["affine_plane"](q * q, q * q + q, density=1 / q, q=q, rng=rng)
    assert set(graph.fan_in) == {q}
    assert set(graph.fan_out) == {q + 1}
    expected = [np.sqrt(q * q + q)] + [np.sqrt(q)] * (q * q - 1)
    assert singular_values(graph) == pytest.approx(expected)


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7])
def test_generalized_quadrangles(q):
    n = (q + 1) * (q * q + 1)
    rng = np.random.default_rng(0)
    graph = GENERATORS["generalized_quadrangle"](n, n, density=(q + 1) / n, q=q, rng=rng)
    assert set(graph.fan_in) == set(graph.fan_out) == {q + 1}
    middle = q * (q + 1) ** 2 // 2
    expected = [q + 1] + [np.sqrt(2 * q)] * middle + [0] * (n - 1 - middle)
    assert singular_values(graph) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [3, 8])
def test_nets_of_prime_power_order(k):
    rng = np.random.default_rng(0)
    graph = GENERATORS["net"](k * 8, 64, density=1 / 8, q=8, rng=rng)
    expected = [np.sqrt(k * 8)] + [np.sqrt(8)] * (k * 7) + [0] * (k - 1)
    assert singular_values(graph) == pytest.approx(expected, abs=1e-6)


def test_quadratic_residues_of_a_prime_power():
    rng = np.random.default_rng(0)
    graph = GENERATORS["quadratic_residues"](27, 27, density=13 / 27, q=27, rng=rng)
    assert singular_values(graph)[1:] == pytest.approx(np.full(26, np.sqrt(7)))


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("z", [1, 4, 16, 80])
def test_clash_free_reads_each_memory_once_a_cycle(kind, z):
    graph = GENERATORS["clash_free"](
        80, 100, density=0.1, z=z, kind=kind, rng=np.random.default_rng(0)
    )
    assert set(graph.fan_out) == {10}
    assert graph.n_edges == 800
    if not describe(graph).repairs:
        assert set(graph.fan_in) == {8}
    with pytest.raises(ValueError, match="expected kind 1, 2 or 3, got 4"):
        GENERATORS["clash_free"](80, 100, density=0.1, kind=4, rng=np.random.default_rng(0))

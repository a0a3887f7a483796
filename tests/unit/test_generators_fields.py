import itertools

import numpy as np
import pytest

from topokit.generators.fields import field_of_order, field_order, prime_power


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 8, 9, 16, 25, 27])
def test_axioms_of_a_field(q):
    field = field_of_order(q)
    a, b, c = (v.ravel() for v in np.meshgrid(*[np.arange(q)] * 3, indexing="ij"))
    add, multiply = field.add, field.multiply
    assert np.array_equal(add(a, b), add(b, a))
    assert np.array_equal(multiply(a, b), multiply(b, a))
    assert np.array_equal(add(add(a, b), c), add(a, add(b, c)))
    assert np.array_equal(multiply(multiply(a, b), c), multiply(a, multiply(b, c)))
    assert np.array_equal(multiply(a, add(b, c)), add(multiply(a, b), multiply(a, c)))
    assert np.array_equal(field.subtract(add(a, b), b), a)
    assert sorted(field.exp.tolist()) == list(range(1, q))
    assert field.squares.size == (q - 1 if q % 2 == 0 else (q - 1) // 2)
    assert set(field.squares) == set(multiply(np.arange(1, q), np.arange(1, q)))


def test_prime_powers():
    found = [n for n in range(40) if prime_power(n)]
    assert found == [
        2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32, 37,
    ]  # fmt: skip
    for n in found:
        p, k = prime_power(n)
        assert p**k == n
        assert prime_power(p) == (p, 1)


@pytest.mark.parametrize(
    ("q", "kind", "message"),
    [
        (30, "prime power", "q must be a prime power; 29 and 31 are the nearest to 30"),
        (15, "prime power", "q must be a prime power; 13 and 16 are the nearest to 15"),
        (9, "prime", "q must be a prime; 7 and 11 are the nearest to 9"),
        (1, "prime power", "q must be a prime power; 2 is the nearest to 1"),
        (13, "prime power, 3 modulo 4", "3 modulo 4; 11 and 19 are the nearest to 13"),
        (3, "prime power", "q must be a prime power that gives many; 7 is the smallest, got 3"),
    ],
)
def test_the_error_for_an_invalid_order_gives_the_nearest(q, kind, message):
    with pytest.raises(ValueError, match=message):
        field_order(q, lambda k: k > 5, "many", kind)


def test_the_smallest_order_that_fits():
    for least, kind in itertools.product((2, 24, 26, 28), ("prime power", "prime")):
        q = field_order(None, lambda k, least=least: k >= least, "enough", kind)
        assert q == {2: (2, 2), 24: (25, 29), 26: (27, 29), 28: (29, 29)}[least][kind == "prime"]


def test_no_field_of_composite_order():
    with pytest.raises(ValueError, match="expected a prime power, got 12"):
        field_of_order(12)

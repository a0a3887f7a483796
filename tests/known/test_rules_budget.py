"""Densities that a pruning may not have."""

import pytest

from topokit.rules.budget import cubic_density


@pytest.mark.parametrize(("initial", "final"), [(1.0, 0.0), (0.2, 0.5), (1.5, 0.5), (1.0, -0.1)])
def test_densities_to_prune_to_are_positive_and_falling(initial, final):
    with pytest.raises(ValueError, match="expected 0 < final <= initial <= 1"):
        cubic_density(0.5, initial=initial, final=final)
    assert cubic_density(0.5, initial=0.3, final=0.3) == pytest.approx(0.3)

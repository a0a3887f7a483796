"""The campaigns on run directories with small counts."""

import re

import pytest

from tests.campaigns import bitflips, damages


def faults(lines):
    return [line for line in lines if re.match("- ", line)]


@pytest.mark.slow
def test_damaged_run_directories_give_the_same_result_or_are_refused():
    lines = damages.campaign(14, 1)
    assert faults(lines) == []
    assert sum("|" in line for line in lines) == 2 + 5


@pytest.mark.slow
def test_no_flipped_bit_goes_unseen():
    assert faults(bitflips.campaign(20, 1)) == []

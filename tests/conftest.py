"""Shared fixtures: a seeded generator, hypothesis profiles, a non-interactive backend."""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

mpl.use("Agg")

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("fast", max_examples=25, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("thorough", max_examples=500, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("TOPOKIT_HYPOTHESIS", "fast"))


@pytest.fixture
def rng():
    return np.random.default_rng(20_180_620)


@pytest.fixture
def data_dir():
    """The folder of real data sets; without one the test is skipped."""
    folder = os.environ.get("TOPOKIT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TOPOKIT_DATA is not set: real data sets are not available")
    return Path(folder)


def pytest_configure(config):
    """Tests loop over all rules with their default settings, which some rules warn about."""
    line = "ignore:the rule .* with its default settings equals:UserWarning"
    config.addinivalue_line("filterwarnings", line)

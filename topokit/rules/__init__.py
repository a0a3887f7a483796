"""Rules by name: each entry is a factory whose keyword arguments are its hyper-parameters."""

from collections.abc import Callable

from topokit.rules.published import random_rewiring, set_, set_magnitude, static
from topokit.rules.rewire import SCHEDULES, LayerView, UpdateRule, drop_count, rewire

__all__ = ["RULES", "SCHEDULES", "LayerView", "UpdateRule", "drop_count", "rewire"]

RULES: dict[str, Callable[..., UpdateRule]] = {
    "static": static,
    "set": set_,
    "set_magnitude": set_magnitude,
    "random": random_rewiring,
}

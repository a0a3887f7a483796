"""Rules by name: each entry is a factory whose keyword arguments are its hyper-parameters."""

from collections.abc import Callable

from topokit.rules.exploring import deep_r, itop, mest
from topokit.rules.network import rewire_network
from topokit.rules.published import (
    ctre_seq,
    ctre_sim,
    random_rewiring,
    rigl,
    set_,
    set_magnitude,
    snfs,
    static,
)
from topokit.rules.rewire import SCHEDULES, LayerView, UpdateRule, drop_count, rewire
from topokit.rules.topological import cht
from topokit.rules.variants import gmp, granet, path_weight, sensitivity

__all__ = [
    "RULES",
    "SCHEDULES",
    "LayerView",
    "UpdateRule",
    "drop_count",
    "rewire",
    "rewire_network",
]

RULES: dict[str, Callable[..., UpdateRule]] = {
    "static": static,
    "set": set_,
    "set_magnitude": set_magnitude,
    "random": random_rewiring,
    "ctre_sim": ctre_sim,
    "ctre_seq": ctre_seq,
    "rigl": rigl,
    "snfs": snfs,
    "mest": mest,
    "deep_r": deep_r,
    "cht": cht,
    "itop": itop,
    "gmp": gmp,
    "granet": granet,
    "path_weight": path_weight,
    "sensitivity": sensitivity,
}

"""Where a run is computed: the device, and what else is needed to repeat it."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from topokit.experiments.config import DEVICES, RunConfig
from topokit.plugins import loaded
from topokit.tables import choose

__all__ = ["choose_device", "environment_of", "information"]

PACKAGES = ("topokit-nn", "torch", "numpy", "scipy", "numba", "pandas", "networkx")
OPTIONAL = ("scikit-learn", "triton", "igraph", "rustworkx", "dask", "lightning", "skorch")

_log = logging.getLogger("topokit.experiments")


def choose_device(setting: str) -> torch.device:
    """Return the device that a setting means on this machine.

    Parameters
    ----------
    setting : {"cpu", "cuda", "auto"}
        ``"cuda"`` is the first GPU that torch finds (``CUDA_VISIBLE_DEVICES`` chooses among
        several); ``"auto"`` is that, if there is one, else the CPU, and is said in the log.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the setting is another one, or ``"cuda"`` and torch finds no GPU.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    choose("device", setting, dict.fromkeys(DEVICES))
    why = _without_cuda()
    if setting == "cuda" and why:
        raise ValueError(
            f"device: expected a GPU for 'cuda', got none: {why}; use device 'cpu', or 'auto' for "
            "whatever there is"
        )
    if setting == "auto":
        chosen, reason = ("cpu", why) if why else ("cuda", torch.cuda.get_device_name(0))
        _log.info("device auto: %s (%s)", chosen, reason)
        return torch.device(chosen)
    return torch.device(setting)


def _without_cuda() -> str:
    """Return why there is no GPU to use; "" if there is one."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} was built without CUDA"
    return f"torch {torch.__version__} finds no CUDA device"


def environment_of(config: RunConfig, nproc: int, device: torch.device) -> dict[str, Any]:
    """Return versions, machine, device, seed and command: what is needed to repeat the run.

    Parameters
    ----------
    config : RunConfig
    nproc : int
        Number of processes that train together.
    device : torch.device
    """
    plugins = loaded()
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "seed": config.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device.type,
        **gpu,
        "nproc": nproc,
        "threads": torch.get_num_threads(),
        "packages": _versions(PACKAGES),
        **({"plugins": plugins} if plugins else {}),
    }


def information() -> dict[str, Any]:
    """Return what is on this machine, and what runs would use.

    Returns
    -------
    dict
        ``python``, ``platform``, ``packages`` (versions; of optional ones only those that are
        there), ``cores``, ``threads`` (of a run, unless it sets them), ``gpus`` (names and
        memory), ``auto`` (the device that the setting ``"auto"`` means here) and ``why``.

    Examples
    --------
    >>> found = information()
    >>> found["auto"] in ("cpu", "cuda"), "torch" in found["packages"]
    (True, True)
    """
    why = _without_cuda()
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    there = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions((*PACKAGES, *OPTIONAL)),
        "cores": len(there(0)) if there else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards],
        "auto": "cpu" if why else "cuda",
        "why": why or cards[0].name,
        "data": os.environ.get("TOPOKIT_DATA", ""),
    }


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

"""What a run that starts from a finished one takes over of its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topokit.experiments.loop import read_checkpoint
from topokit.nn.initial_topology import WEIGHTS
from topokit.nn.layers import sparse_layers
from topokit.tables import choose

__all__ = ["take_over"]


@torch.no_grad()
def take_over(model: nn.Module, source: str | os.PathLike[str], weights: str) -> None:
    """Set the weights of a new model from those that a finished run has at its end.

    Parameters
    ----------
    model : torch.nn.Module
        With the graphs that the run has at its end.
    source : path
        The directory of the run.
    weights : {"fresh", "signs", "values"}
        Nothing; the signs of its edges' weights, with the absolute values of the model (an edge of
        weight 0 keeps the model's sign); or all its parameters.

    Raises
    ------
    FileNotFoundError, ValueError
        If the checkpoint of the run is missing, damaged or of another model.

    Examples
    --------
    >>> import tempfile
    >>> from topokit.experiments.runs import run
    >>> widths, folder = {"model.widths": [64, 20, 10]}, Path(tempfile.mkdtemp())
    >>> first = run("set_mlp_digits", folder / "first", epochs=2, **widths)
    >>> start = {"topology.generator": "run", "topology.run": "first"}
    >>> again = run("static_mlp_digits", folder / "again", epochs=1, **widths, **start)
    >>> again.topology(0)["fc1"] == first.topology(-1)["fc1"]
    True
    """
    if choose("choice of weights", weights, {name: name for name in WEIGHTS}) == "fresh":
        return
    found: dict[str, Any] = read_checkpoint(Path(source) / "checkpoint.pt")["model"]
    try:
        if weights == "values":
            model.load_state_dict(found)
            return
        for name, layer in sparse_layers(model).items():
            theirs = found[f"{name}.values"].to(layer.values.device)
            if any(
                not torch.equal(found[f"{name}.{key}"], value.cpu()) for key, value in _edges(layer)
            ):
                raise ValueError(f"layer {name} has other edges")
            ours = layer.values
            ours.copy_(torch.where(theirs == 0, ours, torch.copysign(ours, theirs)))
    except (KeyError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"the checkpoint of run {source}, whose weights are to be taken over, is of another "
            f"model: {first}"
        ) from None


def _edges(layer: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, getattr(layer, name)) for name in ("indptr", "indices")]

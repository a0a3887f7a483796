"""What is used of DistributedDataParallel without being promised, in one process."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.unit.test_nn_engine_owned import backward, small
from topokit.nn.wrappers import UNPROMISED, bare, check_torch, make_reducer
from topokit.rules import RULES, rewire

pytestmark = pytest.mark.slow  # torch imports its compiler for it


@pytest.fixture
def wrapper():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield nn.parallel.DistributedDataParallel(small())
    finally:
        dist.destroy_process_group()


def test_a_new_reducer_fits_new_sizes(wrapper):
    check_torch(wrapper)
    layer = wrapper.module[0]
    view = layer.view()
    update, values = rewire(view, RULES["set"](), n_drop=9, n_grow=2, rng=np.random.default_rng(0))
    layer.replace_graph(update, values)
    before = wrapper.reducer
    make_reducer(wrapper)
    assert wrapper.reducer is not before
    backward(wrapper)
    assert layer.values.grad.shape == (update.after.n_edges,)
    alone = small()
    alone.load_state_dict(wrapper.module.state_dict())
    backward(alone)
    for p, q in zip(wrapper.module.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("name", UNPROMISED)
def test_another_torch_is_refused_in_words(wrapper, name, monkeypatch):
    where = nn.parallel.DistributedDataParallel if name.startswith("_") else wrapper
    if name in wrapper.__dict__:
        where = wrapper
    monkeypatch.delattr(where, name)
    message = rf"torch .* is not one .* \(it has no {name}\); .*reduce_gradients"
    with pytest.raises(ValueError, match=message):
        check_torch(wrapper)


def test_other_arguments_and_a_reducer_that_stays_are_refused(wrapper, monkeypatch):
    monkeypatch.setattr(
        nn.parallel.DistributedDataParallel, "_ddp_init_helper", lambda self, other: None
    )
    with pytest.raises(ValueError, match=r"not one whose model topokit knows .* positional"):
        make_reducer(wrapper)
    monkeypatch.setattr(
        nn.parallel.DistributedDataParallel, "_ddp_init_helper", lambda self, *_: None
    )
    with pytest.raises(ValueError, match="its reducer stayed as it was"):
        make_reducer(wrapper)
    assert bare(wrapper) is wrapper.module

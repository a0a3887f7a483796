"""Trainings of two processes: ``python -m tests.end_to_end.processes PORT OUT``.

Each case of `CASES` trains a small network; each process writes what came out of all of them.
"""

import copy
import datetime
import gc
import importlib
import os
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from topokit.graph import LayerGraph
from topokit.nn import SparseLinear, sparse_layers
from topokit.nn.distributed import reduce_gradients
from topokit.nn.engine import attach
from topokit.rules import RULES, UpdateRule

PARAMS = {name: {"final_density": 0.2} for name in ("gmp", "granet", "chtss")}
ROWS, EPOCH = 12, 3
STEPS, HALF = 4 * EPOCH, 2 * EPOCH + 1
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@dataclass(frozen=True)
class Case:
    """One training of `STEPS` steps and 4 rewirings."""

    rule: str
    every: int | str = EPOCH
    optimizer: str = "sgd"
    streams: bool = False  # whether processes have different random streams
    ddp: dict | None = field(default_factory=dict)  # None: gradients reduced by hand
    inner: bool = False  # attach to the model within DDP
    before: bool = False  # attach before wrapping
    cut: int = 6  # rows of the first process
    micro: int = 1  # backward passes of a step
    samples: str = ""  # "same" or "parts" of the training inputs
    clip: float = 0.0  # largest norm of the gradients
    closure: bool = False  # a rewiring off the schedule
    params: dict = field(default_factory=dict)  # of the rule


CASES = {
    **{f"{name} by steps": Case(name, streams=True) for name in RULES},
    **{f"{name} by epochs": Case(name, "epoch", "adam") for name in RULES},
    "buckets are views": Case("granet", ddp={"gradient_as_bucket_view": True}),
    "static graph": Case("granet", ddp={"static_graph": True}),
    "unused are looked for": Case("granet", ddp={"find_unused_parameters": True}, inner=True),
    "buffers are sent": Case("rigl", ddp={"broadcast_buffers": True}, inner=True),
    "attached first": Case("gmp", before=True, optimizer="adam"),
    "attached inside": Case("gmp", inner=True, optimizer="adam"),
    "without DDP": Case("mest", ddp=None),
    "unequal parts": Case("mest", ddp=None, cut=9, optimizer="adam"),
    "an empty part": Case("granet", ddp=None, cut=12),
    "unequal parts under DDP": Case("rigl", cut=8),
    "accumulated": Case("snfs", micro=3),
    "accumulated, rigl": Case("rigl", micro=2, optimizer="adam"),
    "samples": Case("ctre_sim", samples="same", streams=True),
    "samples in parts": Case("ctre_sim", samples="parts", streams=True),
    "clipped": Case("mest", clip=0.05, params={"gradient_weight": 5.0}),
    "not clipped": Case("mest", params={"gradient_weight": 5.0}),
    "closure": Case("rigl", closure=True),
    "noise": Case("deep_r", streams=True, params={"l1": 0.01, "temperature": 1e-3}),
}  # fmt: skip


def network(seed=0):
    rng = np.random.default_rng(seed)
    graphs = [
        LayerGraph.from_edge_ids(rng.permutation(n_in * n_out)[: n_in * n_out // 3], (n_out, n_in))
        for n_in, n_out in ((12, 16), (16, 16), (16, 4))
    ]
    layers = [SparseLinear(graph, rng=rng).double() for graph in graphs]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def data():
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.normal(size=(ROWS * 4, 12)))
    return x, torch.from_numpy(rng.integers(0, 4, ROWS * 4))


def train(case, rank=0, size=1, *, until=STEPS, state=None, start=0):
    """Train and return everything that should be equal."""
    x, y = data()
    model = network()
    optimizer = OPTIMIZERS[case.optimizer](model.parameters())
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    samples = {"": None, "same": x, "parts": x[: len(x) // 2] if rank == 0 else x[len(x) // 2 :]}
    by_epochs = case.every == "epoch"
    options = {
        "every": case.every,
        "total": 5 if by_epochs else 5 * EPOCH,
        "epoch_steps": EPOCH,
        "samples": x if size == 1 and case.samples else samples[case.samples],
        "rng": 1 + rank if case.streams else 1,
        "gradients": "mean" if case.ddp is not None else "sum",
        **PARAMS.get(case.rule, {}),
        **case.params,
    }
    if case.before:
        engine = attach(model, optimizer, case.rule, **options)
    whole = model
    if size > 1 and case.ddp is not None:
        whole = nn.parallel.DistributedDataParallel(model, **case.ddp)
    if not case.before:
        engine = attach(model if case.inner else whole, optimizer, case.rule, **options)
    if state is not None:
        engine.load_state_dict(state["engine"])

    for step in range(start, until):
        batch = torch.arange(ROWS) + ROWS * (step % 4)
        mine = batch if size == 1 else (batch[: case.cut], batch[case.cut :])[rank]
        if case.closure and step == EPOCH + 1:
            engine.rewire(lambda mine=mine: nn.functional.cross_entropy(whole(x[mine]), y[mine]))
        optimizer.zero_grad()
        weight = len(mine) / ROWS * (size if case.ddp is not None else 1)
        for part, rows in enumerate(mine.tensor_split(case.micro)):
            if not len(rows):
                continue
            loss = nn.functional.cross_entropy(whole(x[rows]), y[rows]) * len(rows) / len(mine)
            if part < case.micro - 1 and whole is not model:
                with whole.no_sync():
                    (loss * weight).backward()
            else:
                (loss * weight).backward()
        if size > 1 and case.ddp is None:
            reduce_gradients(model, average=False)
        if case.clip:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
        if (step + 1) % EPOCH == 0:
            engine.end_epoch(None if rank else 0.5)
    layers = sparse_layers(model)
    return {
        "graphs": {name: layer.graph.edge_ids for name, layer in layers.items()},
        "values": [p.detach().numpy() for p in model.parameters()],
        "optimizer": [
            np.asarray(entry)
            for p in model.parameters()
            for _, entry in sorted(optimizer.state[p].items())
        ],
        "outputs": model(x).detach().numpy(),
        "memory": {
            entry: [np.asarray(a) for a in engine.memory[entry].values()]
            for entry in engine.memory
            if entry not in ("accuracies", "batches", "trained")
        },
        "accuracies": engine.memory["accuracies"],
        "updates": engine.updates,
        "names": list(engine.topology),
        "stream": engine.state_dict()["rng"],
        "state": {
            "engine": engine.state_dict(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
    }


def refused(act):
    """Return the message of the error that a function raises in this process."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals(rank):
    """Return the messages of what is refused."""

    def attached(model=None, rule="set", **options):
        model = network() if model is None else model
        made = torch.optim.SGD(model.parameters(), lr=options.pop("lr", 0.1), momentum=0.9)
        return attach(model, made, rule, **{"every": 5, "rng": 0, **options})

    def failing():
        def drop(view, n, rng):
            raise ValueError("this rule drops nothing")

        attached(rule=UpdateRule(drop, drop)).rewire()

    def drifted():
        model = network()
        engine = attached(model)
        with torch.no_grad():
            model[2].values += rank
        engine.rewire()

    def joined():
        model = nn.parallel.DistributedDataParallel(network())
        engine = attached(model)
        with model.join(throw_on_early_termination=False):
            engine.rewire()

    def hooked():
        from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

        model = nn.parallel.DistributedDataParallel(network())
        model.register_comm_hook(powerSGD_hook.PowerSGDState(None), powerSGD_hook.powerSGD_hook)
        attached(model).rewire(grow=False)

    def sharded():
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = network()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        attached(model)

    def divided():
        from torch.distributed.optim import ZeroRedundancyOptimizer

        model = network()
        made = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
        attach(model, made, "set", every=5, rng=0)

    lists = {
        "graphs": lambda: attached(network(rank)),
        "rule": lambda: attached(rule=("set", "rigl")[rank]),
        "parameters of the rule": lambda: attached(
            rule="gmp", total=10, final_density=(0.1, 0.2)[rank]
        ),
        "options": lambda: attached(drop_fraction=(0.1, 0.2)[rank]),
        "optimizer": lambda: attached(lr=(0.1, 0.2)[rank]),
        "one fails": lambda: attached(rule=("set", "no such rule")[rank]),
        "both fail": lambda: attached(rule="no such rule"),
        "rule fails": failing,
        "weights drift": drifted,
        "join": joined,
        "comm hook with a state": hooked,
        "FSDP": sharded,
        "ZeRO": divided,
    }
    found = {name: refused(act) for name, act in lists.items()}
    alone = attached(network(rank), process_group=None)
    alone.rewire()
    found["alone"] = str(alone.updates)
    return found


def resumed(case, rank, size):
    """Train half, save the first process's state, go on with it in every process."""
    half = train(case, rank, size, until=HALF)["state"]
    box = [copy.deepcopy(half)]  # the optimizer that goes on writes into the state it was given
    dist.broadcast_object_list(box, src=0)
    return train(case, rank, size, state=box[0], start=HALF), half


RESUMED = {"resumed snfs": Case("snfs"), "resumed sensitivity": Case("sensitivity", streams=True)}


def main(rank, size, port, out):
    torch.set_num_threads(1)
    gc.freeze()  # what is imported is not searched at each rewiring
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )  # fmt: skip
    results = {name: train(case, rank, size) for name, case in CASES.items()}
    states = {}
    for name, case in RESUMED.items():
        results[name], states[name] = resumed(case, rank, size)
    content = {"results": results, "refusals": refusals(rank), "states": states}
    torch.save(content, f"{out}/{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    importlib.import_module("torch._dynamo")  # as optimizers do later
    child = os.fork()  # what both need is imported once
    main(0 if child else 1, 2, int(sys.argv[1]), sys.argv[2])
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

"""Two processes that train one model, against one process with the whole batch."""

import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.end_to_end.processes import CASES, HALF, RESUMED, train

pytestmark = pytest.mark.slow  # two processes import everything

TIME_LIMIT = 900  # seconds; 40 on two idle cores


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found; they run all cases one after the other."""
    out, port = tmp_path_factory.mktemp("pair"), str(free_port())
    command = [sys.executable, "-m", "tests.end_to_end.processes", port, str(out)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIME_LIMIT)
    assert done.returncode == 0, done.stderr
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


def equal(a, b, tolerance):
    assert list(a["graphs"]) == list(b["graphs"])
    for name, ids in a["graphs"].items():
        np.testing.assert_array_equal(ids, b["graphs"][name])
    for part in ("values", "optimizer"):
        for x, y in zip(a[part], b[part], strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a["outputs"], b["outputs"], rtol=0, atol=tolerance)
    assert a["memory"].keys() == b["memory"].keys()
    for entry, arrays in a["memory"].items():
        for x, y in zip(arrays, b["memory"][entry], strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)
    assert a["accuracies"] == b["accuracies"]
    assert a["updates"] == b["updates"]
    assert a["stream"] == b["stream"]
    assert a["names"] == b["names"]


@pytest.mark.parametrize("name", [*CASES, *RESUMED])
def test_two_processes_train_as_one_with_the_whole_batch(pair, name):
    case = {**CASES, **RESUMED}[name]
    one = train(case)
    two = [found["results"][name] for found in pair]
    equal(two[0], two[1], 0)
    equal(two[0], one, 1e-10)
    assert one["updates"] == (5 if case.closure else 4)
    moved = any(
        not np.array_equal(ids, start)
        for ids, start in zip(one["graphs"].values(), first_graphs(), strict=True)
    )
    assert moved == (case.rule != "static")


def first_graphs():
    from tests.end_to_end.processes import network
    from topokit.nn import sparse_layers

    return [layer.graph.edge_ids for layer in sparse_layers(network()).values()]


def test_one_process_goes_on_from_the_state_of_two(pair):
    state = pair[0]["states"]["resumed snfs"]
    case = RESUMED["resumed snfs"]
    equal(train(case, state=state, start=HALF), train(case), 1e-10)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("graphs", "process 1 and process 0 differ in 0, 2, 4"),
        ("rule", "process 1 and process 0 differ in rule"),
        ("parameters of the rule", "differ in rule"),
        ("options", "differ in options"),
        ("optimizer", "differ in optimizer"),
        ("one fails", "no such rule"),
        ("both fail", "unknown rule 'no such rule'"),
        ("rule fails", "this rule drops nothing"),
        ("weights drift", "process 1 and process 0 differ in 2; wrap the model in Distributed"),
        ("join", "the same number of steps in every process"),
        ("comm hook with a state", "powerSGD_hook keeps a state of the old sizes"),
        ("FSDP", "cannot be rewired; use DistributedDataParallel"),
        ("ZeRO", "got ZeroRedundancyOptimizer"),
        ("alone", "1"),
    ],
)
def test_what_would_go_wrong_is_refused_in_every_process(pair, name, words):
    for found in pair:
        assert words in found["refusals"][name]

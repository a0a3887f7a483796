import itertools
import json
import re
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.plots.animation import (
    _animation,
    frames,
    javascript_player,
    save_animation,
    save_gif,
)


def run_of(graphs):
    """The attributes of a History that these functions read: one layer, a graph for each epoch."""
    topologies = [{"fc1": graph} for graph in graphs]
    return SimpleNamespace(
        recorded=list(range(len(topologies))), topology=topologies.__getitem__, name="run"
    )


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(8)
    return run_of([erdos_renyi(40, 30, density=0.2, rng=rng) for _ in range(5)])


def test_frames_hold_the_first_and_the_last_epoch_and_all_edges(run):
    found = frames(run, n_frames=3, blocks=10)
    assert found["epochs"] == [0, 2, 4]
    layer = found["layers"]["fc1"]
    assert layer["edges"] == [240, 240, 240]
    # 10 by 10 blocks of 3 by 4 cells, densities in 1/99 of that of the densest block.
    blocks = np.array(layer["blocks"])
    assert blocks.shape == (3, 10, 10)
    assert blocks.max() == 99
    found = (blocks * layer["densest"] / 99 * 12).sum(axis=(1, 2))
    np.testing.assert_allclose(found, 240, rtol=0.02)


def test_distributions_of_frames_are_those_of_the_degrees(run):
    side = frames(run)["layers"]["fc1"]["fan_out"]
    assert side["units"] == 40
    for (k, share), epoch in zip(side["ccdf"], run.recorded, strict=True):
        fan_out = run.topology(epoch)["fc1"].fan_out
        np.testing.assert_allclose(share, [np.mean(fan_out >= at) for at in k], rtol=1e-3)


def test_at_most_as_many_epochs_are_shown_as_asked_for(run):
    assert frames(run, n_frames=1)["epochs"] == [4]
    assert javascript_player(run, n_frames=1).count("data:image/png;base64") == 1


def test_frames_stay_small_whatever_the_degrees():
    degrees = np.arange(500)
    ids = np.concatenate([row * 500 + np.arange(k) for row, k in enumerate(degrees)])
    run = run_of([LayerGraph.from_edge_ids(ids, (500, 500))])
    assert len(json.dumps(frames(run))) < 10_000


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(LayerGraph.from_edge_ids([], (4, 3)), id="empty", marks=pytest.mark.slow),
        pytest.param(LayerGraph.from_edge_ids([0], (1, 1)), id="one unit"),
    ],
)
def test_degenerate_graphs_can_be_shown(graph, tmp_path):
    json.dumps(frames(run_of([graph, graph])), allow_nan=False)
    save_gif(run_of([graph, graph]), tmp_path / "a.gif")


@pytest.mark.slow
def test_the_gif_has_a_frame_for_each_epoch_and_is_the_same_when_made_twice(run, tmp_path):
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    one, two = (save_gif(run, tmp_path / name, n_frames=3) for name in ("one.gif", "two.gif"))
    with Image.open(one) as animation:
        assert animation.n_frames == 3
    assert one.read_bytes() == two.read_bytes()
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == opened


def test_the_player_is_self_contained(run):
    page = javascript_player(run, n_frames=2)
    assert page.count("data:image/png;base64") == 2
    assert "<script" in page


def test_what_cannot_be_shown_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="run run has not recorded an epoch yet"):
        frames(run_of([]))
    with pytest.raises(ValueError, match="expected at least 1 frame and 1 block, got 0 and 24"):
        frames(run, n_frames=0)
    with pytest.raises(ValueError, match="expected at least 1 frame, got 0"):
        javascript_player(run, n_frames=0)
    with pytest.raises(ValueError, match="expected a layer of fc1, got 'fc9'"):
        save_gif(run, tmp_path / "a.gif", layer="fc9")
    with pytest.raises(ValueError, match="expected seconds above 0, got 0"):
        save_gif(run, tmp_path / "a.gif", seconds=0)


@pytest.mark.parametrize("ending", ["html", "gif"])
def test_a_folder_that_is_missing_is_refused_before_anything_is_drawn(
    run, ending, tmp_path, monkeypatch
):
    monkeypatch.setattr("topokit.plots.animation._animation", None)
    with pytest.raises(FileNotFoundError, match="missing"):
        save_animation(run, tmp_path / "missing" / f"a.{ending}")


@pytest.mark.slow
@pytest.mark.parametrize(("n_frames", "seconds"), [(2, 6.0), (5, 8.0), (3, 0.9)])
def test_a_loop_lasts_as_long_as_asked_for(run, tmp_path, n_frames, seconds):
    path = save_gif(run, tmp_path / "a.gif", n_frames=n_frames, seconds=seconds)
    with Image.open(path) as animation:
        each = [animation.seek(i) or animation.info["duration"] for i in range(n_frames)]
    assert sum(each) == pytest.approx(1000 * seconds, rel=0.02)
    page = javascript_player(run, n_frames=n_frames, seconds=seconds)
    assert f", {1000 * seconds / n_frames:.0f}" in page.replace(".0,", ",")


@pytest.mark.slow
def test_a_page_is_the_same_when_made_twice(run, tmp_path):
    one, two = (
        save_animation(run, tmp_path / name, n_frames=1).read_text(encoding="utf-8")
        for name in ("one.html", "two.html")
    )
    assert one == two
    (name,) = set(re.findall(r"_anim_img(\w+)", one))
    other = javascript_player(run, n_frames=1)  # two in one notebook have names of their own
    assert name not in other


def test_a_gif_has_the_ending_of_one(run, tmp_path):
    for name in ("a.mp4", "a.png", "a"):
        with pytest.raises(ValueError, match=r"expected a file ending in \.gif, got"):
            save_gif(run, tmp_path / name)


def test_the_random_graph_moves_and_a_single_degree_is_seen():
    rng = np.random.default_rng(0)
    regular = LayerGraph.from_edge_ids(np.arange(6), (3, 2))
    graphs = [
        regular,
        erdos_renyi(20, 30, density=0.5, rng=rng),
        erdos_renyi(20, 30, density=0.1, rng=rng),
    ]
    with _animation(run_of(graphs), layer=None, side="fan_in", n_frames=3) as (animation, _):
        animation._draw_was_started = True  # it warns if it is not used
        nulls, curves = [], []
        for frame in range(3):
            null, _, line, *_ = animation._func(frame)[0].axes.lines
            nulls.append(null.get_xdata().tolist())
            curves.append((len(line.get_xdata()), line.get_marker()))
    assert curves[0] == (1, "o")
    assert {marker for _, marker in curves[1:]} == {"none"}
    assert all(a != b for a, b in itertools.combinations(nulls, 2))

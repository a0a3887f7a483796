"""What every figure guarantees: loops over the tables of plots."""

from __future__ import annotations

import functools
import io
import itertools
import re
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.marks import fast_where
from topokit.generators import erdos_renyi
from topokit.graph import LayerGraph
from topokit.measures import measure
from topokit.plots import ACROSS_PLOTS, HISTORY_PLOTS, LAYER_PLOTS
from topokit.plots.parts import covers, drawn_in
from topokit.plots.style import figure, house_style, inches, save

GRAPHS = {
    "random": erdos_renyi(30, 20, density=0.2, rng=np.random.default_rng(1)),
    "empty": LayerGraph.from_edge_ids([], (4, 3)),
    "one unit": LayerGraph.from_edge_ids([0], (1, 1)),
    "disconnected": LayerGraph.from_edge_ids([0, 5, 15], (4, 4)),
    "dense": LayerGraph.from_edge_ids(range(30), (5, 6)),
}


@dataclass
class Run:
    """The attributes of a History that figures read, without a run directory."""

    topologies: list[dict[str, LayerGraph]]
    epochs: pd.DataFrame
    measures: pd.DataFrame
    name: str = "run"
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def recorded(self) -> list[int]:
        return list(range(len(self.topologies)))

    def topology(self, epoch: int) -> dict[str, LayerGraph]:
        return self.topologies[epoch]


def make_run(graphs: list[LayerGraph]) -> Run:
    """A run of one layer with one of these graphs at each epoch."""
    topologies = [{"fc1": graph} for graph in graphs]
    frames = []
    for epoch, now in enumerate(topologies):
        before = topologies[epoch - 1] if epoch else None
        frame = measure(now, previous=before).assign(run="run", epoch=epoch)
        frames.append(frame[["run", "epoch", "layer", "measure", "value"]])
    n = np.arange(len(graphs))
    losses = {"train_loss": 1 / (n + 1), "test_loss": 1 / (n + 1)}
    epochs = pd.DataFrame(
        {"run": "run", "epoch": n, **losses, "test_accuracy": 0.5 + n / 100, "seconds": 1.0}
    )
    return Run(topologies, epochs, pd.concat(frames, ignore_index=True))


@pytest.fixture(scope="module", params=GRAPHS)
def history(request):
    return make_run([GRAPHS[request.param]] * 3)


def texts(figure: Figure) -> list[str]:
    """Every title, label, tick, legend entry and annotation of a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def check(draw: Any) -> None:
    """Drawing returns the given axes, labelled, leaves no figure open and no setting changed."""
    settings, opened = dict(mpl.rcParams), plt.get_fignums()
    figure = Figure()
    ax = figure.add_subplot()
    assert draw(ax=ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel() or all(panel.get_ylabel() for panel in ax.child_axes)
    assert ax.get_title()
    assert not [
        text for text in texts(figure) if re.search(r"\b(links?|film|twins?|arms?)\b", text)
    ]
    figure.canvas.draw()
    assert plt.get_fignums() == opened
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("name", LAYER_PLOTS)
def test_a_plot_of_any_graph_keeps_the_contract(name, kind):
    check(lambda ax: LAYER_PLOTS[name](GRAPHS[kind], ax=ax))


@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_a_plot_of_any_run_keeps_the_contract(name, history):
    check(lambda ax: HISTORY_PLOTS[name](history, ax=ax))


RUNS = pd.DataFrame(
    [(f"condition {i}", seed, epoch, i + seed / 9, 0.5 + i / 10 + epoch / 100 + seed / 99)
     for i in range(2) for seed in range(2) for epoch in range(2)],
    columns=["arm", "seed", "epoch", "normalized_spectral_gap", "test_accuracy"],
)  # fmt: skip
OF_RUNS = ("accuracy_against", "arms_side_by_side")  # take a row for each run, not for each epoch
PLOTS = {**LAYER_PLOTS, **HISTORY_PLOTS, **ACROSS_PLOTS}
FILLING = (  # one graph, run or table of runs fills the axes
    *("adjacency", "input_map", "degree_heatmap", "network"),
    *("summary", "summary_across", "growth_flow"),
)
SHARED = [name for name in PLOTS if name not in FILLING]


@pytest.fixture(scope="module")
def plot():
    """Draws a figure of any table by its name, from small data."""
    rng = np.random.default_rng(2)
    run = make_run([erdos_renyi(30, 20, density=0.2 + i / 99, rng=rng) for i in range(3)])
    data = {**dict.fromkeys(LAYER_PLOTS, GRAPHS["random"]), **dict.fromkeys(HISTORY_PLOTS, run)}
    data |= dict.fromkeys(OF_RUNS, RUNS[RUNS["epoch"] == 1])
    return lambda name, **options: PLOTS[name](data.get(name, RUNS), **options)


def artists(ax, gid):
    """The artists with a mark, in an axes and its panels."""
    return [found for found in ax.findobj() if found.get_gid() == gid]


def looks(found):
    """The colours of artists: one for each, or the darkest of its colour map."""
    colours = set()
    for artist in found:
        mapped = getattr(artist, "get_array", lambda: None)() is not None
        if mapped:
            colour = artist.get_cmap()(1.0)
        elif hasattr(artist, "get_facecolor"):
            colour = artist.get_facecolor()
        else:
            colour = artist.get_color()
        colours.add(to_hex(np.ravel(to_rgba_array(colour)[0])))
    return colours


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_without_axes_makes_a_new_figure(name, plot):
    mine = plt.figure().add_subplot()
    settings = dict(mpl.rcParams)
    ax = plot(name)
    try:
        assert ax.figure is not mine.figure
        assert not any((mine.lines, mine.collections, mine.images, mine.patches))
        assert not mine.get_title()
        assert dict(mpl.rcParams) == settings
    finally:
        plt.close("all")


@pytest.mark.parametrize("name", PLOTS)
def test_label_colour_and_properties_reach_the_artist(name, plot):
    ax = Figure().add_subplot()
    plot(name, ax=ax, label="mine", color="#123456", gid="given", alpha=0.75)
    found = artists(ax, "given")
    assert found
    assert {artist.get_alpha() for artist in found} == {0.75}
    assert any("mine" in text for text in texts(ax.figure))
    drawn = [artist for artist in ax.findobj() if "#123456" in str(colours_of(artist))]
    assert drawn


def colours_of(artist):
    """Every colour of an artist in hexadecimal digits, that at the end of its colour map too."""
    found = []
    for name in ("get_color", "get_facecolor", "get_edgecolor"):
        if hasattr(artist, name):
            found += [to_hex(colour) for colour in to_rgba_array(getattr(artist, name)())]
    if hasattr(artist, "get_cmap"):
        found += [to_hex(artist.get_cmap()(place)) for place in (0.0, 0.3, 1.0)]
    return found


@pytest.mark.parametrize("name", PLOTS)
def test_an_unknown_property_is_refused_by_name(name, plot):
    with pytest.raises((AttributeError, TypeError), match="nonsense"):
        plot(name, ax=Figure().add_subplot(), nonsense=1)


@pytest.mark.parametrize("name", SHARED)
def test_two_on_one_axes_have_two_colours_and_one_legend(name, plot):
    ax = Figure(layout="constrained").add_subplot()
    cycle = ["#aa0000", "#00aa00", "#0000aa", "#aaaa00", "#00aaaa"]
    ax.set_prop_cycle(color=cycle)
    plot(name, ax=ax, label="first run", gid="first")
    plot(name, ax=ax, label="second run", gid="second")
    if name == "verdict_timeline":  # the second run has rows of its own
        rows = [text.get_text() for text in ax.get_yticklabels()]
        assert rows == ["first run, fc1", "second run, fc1"]
        return
    first, second = artists(ax, "first"), artists(ax, "second")
    assert first
    assert looks(first).isdisjoint(looks(second))
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert any("first run" in word for word in words)
    assert any("second run" in word for word in words)
    assert len(set(words)) == len(words)
    ax.figure.draw_without_rendering()


@pytest.mark.parametrize("name", [name for name in SHARED if name in HISTORY_PLOTS])
def test_all_of_a_second_run_is_in_sight(name):
    """The first one fixes no limits, neither of the axes nor of panels in it."""
    ax = Figure(layout="constrained").add_subplot()
    for seed, density in enumerate((0.5, 0.2)):
        rng = np.random.default_rng(seed)
        run = make_run([erdos_renyi(30, 20, density=density + i / 99, rng=rng) for i in range(3)])
        run.epochs["test_accuracy"] -= 0.3 * seed
        PLOTS[name](run, ax=ax, label=f"run {seed}")
    for one in (ax, *ax.child_axes):
        if one.has_data():
            low, high = sorted(one.get_ylim())
            assert low <= one.dataLim.y0, name
            assert one.dataLim.y1 <= high, name


@pytest.mark.parametrize("name", FILLING)
def test_a_figure_that_fills_its_axes_wants_an_empty_one(name, plot):
    ax = Figure().add_subplot()
    plot(name, ax=ax)
    with pytest.raises(ValueError, match=f"expected an empty axes, since {name} fills it"):
        plot(name, ax=ax)


@pytest.mark.parametrize("name", SHARED)
def test_colours_are_those_of_the_axes_cycle(name, plot):
    ax = Figure().add_subplot()
    ax.set_prop_cycle(color=["#ab12cd"])
    with mpl.rc_context({"axes.prop_cycle": mpl.cycler(color=["#ab12cd"])}):
        plot(name, ax=ax)
    found = {colour for artist in ax.findobj() for colour in colours_of(artist)}
    assert "#ab12cd" in found or name == "verdict_timeline"


@pytest.mark.parametrize("name", ["degree_distribution", "degree_heatmap", "arms_side_by_side"])
def test_a_figure_of_the_command_is_that_of_the_function_in_its_style(name, plot):
    pictures = []
    with figure(size="page") as ax:
        plot(name, ax=ax)
        save(ax, target := io.BytesIO(), format="rgba", dpi=50)
        pictures.append(target.getvalue())
    with house_style(size="page"):
        ax = plot(name)
    try:
        save(ax, target := io.BytesIO(), format="rgba", dpi=50)
    finally:
        plt.close(ax.figure)
    pictures.append(target.getvalue())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("name", PLOTS)
def test_nothing_is_cut_off_and_legends_cover_nothing(name, plot):
    with figure() as ax:
        plot(name, ax=ax)
        ax.figure.draw_without_rendering()
        page = ax.figure.bbox
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts):
            box = text.get_window_extent()
            assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, text.get_text()
            assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, text.get_text()
        legend = ax.get_legend()
        if legend is None:
            return
        box = legend.get_window_extent()
        assert page.x0 - 1 <= box.x0 < box.x1 <= page.x1 + 1
        assert page.y0 - 1 <= box.y0 < box.y1 <= page.y1 + 1
        assert not [artist for artist in drawn_in(ax) if covers(box, artist)]


@pytest.mark.parametrize("name", PLOTS)
def test_legends_are_in_a_figure_without_a_layout_too(name, plot):
    ax = Figure().add_subplot()
    for label in ("one", "other") if name in SHARED else ("one",):
        plot(name, ax=ax, label=label)
    ax.figure.draw_without_rendering()
    page, legend = ax.figure.bbox, ax.get_legend()
    if legend is not None:
        box = legend.get_window_extent()
        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1
        assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1


def of_layers(*graphs):
    """A run of several layers, three epochs of each."""
    topologies = [{f"fc{i + 1}": graph for i, graph in enumerate(graphs)} for _ in range(3)]
    run = make_run([graphs[0]] * 3)
    run.topologies = topologies
    frames = [measure(topology).assign(run="run", epoch=e) for e, topology in enumerate(topologies)]
    run.measures = pd.concat(frames, ignore_index=True)
    return run


def chain(*widths, density=0.3):
    rng = np.random.default_rng(5)
    pairs = itertools.pairwise(widths)
    return [erdos_renyi(a, b, density=density, rng=rng) for a, b in pairs]


def named_like_a_deep_network(run):
    """The same run with the names of layers of a residual network."""
    names = {f"fc{i + 1}": f"stage{i // 4}.block{i % 4}.conv1" for i in range(99)}
    run.topologies = [{names[k]: g for k, g in each.items()} for each in run.topologies]
    run.measures["layer"] = run.measures["layer"].replace(names)
    return run


DEPTHS = {
    "four layers, one of them complete": lambda: of_layers(
        *chain(30, 40, 40, 40), *chain(40, 10, density=1)
    ),
    "high degrees": lambda: of_layers(*chain(784, 100, 100, density=0.6), *chain(100, 10)),
    "14 layers": lambda: named_like_a_deep_network(of_layers(*chain(30, *[24] * 13, 10))),
}


@functools.cache
def deep_run(kind):
    return DEPTHS[kind]()


def texts_that_meet(figure):
    """Pairs of texts that cover each other, of what is shown of a figure."""
    figure.draw_without_rendering()
    hidden = set()  # labels of ticks outside the limits
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text not in hidden]
    found = [(text.get_text(), text.get_window_extent()) for text in shown]
    pairs = itertools.combinations([(text, box) for text, box in found if text.strip()], 2)
    return [(a, b) for (a, one), (b, two) in pairs if one.padded(-1).overlaps(two.padded(-1))]


@pytest.mark.parametrize("kind", fast_where(lambda kind: "four" in kind, DEPTHS))
@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_texts_of_a_figure_are_apart(name, kind):
    with figure(size=(7.2, 7.6) if name == "summary" else "column") as ax:
        HISTORY_PLOTS[name](deep_run(kind), ax=ax)
    assert texts_that_meet(ax.figure) == []


def test_text_in_svg_is_text():
    with figure() as ax:
        LAYER_PLOTS["spectrum"](GRAPHS["random"], ax=ax)
        save(ax, target := io.BytesIO(), format="svg")
    assert ">Singular values of the biadjacency</text>" in target.getvalue().decode()


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "PDF"])
def test_a_file_has_no_date(kind, tmp_path):
    with figure() as ax:
        save(ax, tmp_path / f"a.{kind}", dpi=20)
    content = (tmp_path / f"a.{kind}").read_bytes()
    assert not re.search(rb"CreationDate|<dc:date>|tIME", content)


def test_sizes_have_names():
    assert inches("column")[0] < inches("page")[0] < 7.5
    assert inches((4, 3)) == (4, 3)
    with pytest.raises(ValueError, match="got 'colum'; did you mean 'column'"):
        inches("colum")
    with pytest.raises(ValueError, match="above 0 inches, got 0 and 3"):
        inches((0, 3))


def pixels(name, run):
    """The pixels of a figure of a run."""
    with figure() as ax:
        HISTORY_PLOTS[name](run, ax=ax)
        target = io.BytesIO()
        save(ax, target, format="rgba", dpi=40)
    return target.getvalue()


@pytest.fixture(scope="module")
def three_runs():
    """Two runs of equal graphs, and one of others."""
    even, again = (
        [erdos_renyi(30, 20, density=0.3, rng=np.random.default_rng(4))] * 3 for _ in "ab"
    )
    hubs = [LayerGraph.from_edge_ids(np.arange(90 + 9 * i), (20, 30)) for i in range(3)]
    return make_run(even), make_run(again), make_run(hubs + hubs[:1])


@pytest.mark.parametrize("name", HISTORY_PLOTS)
@pytest.mark.slow
def test_a_figure_of_a_run_shows_that_run(name, three_runs):
    first, again, other = (pixels(name, run) for run in three_runs)
    assert first == again
    assert first != other


@pytest.mark.parametrize("arms", [0, 1, 3])
@pytest.mark.parametrize("name", ACROSS_PLOTS)
def test_a_plot_of_many_runs_keeps_the_contract(name, arms):
    rows = [
        {"arm": f"condition {i}", "seed": seed, "epoch": epoch,
         "normalized_spectral_gap": i + seed / 9,
         "test_accuracy": 0.5 + i / 10 + epoch / 100 + seed / 99}
        for i in range(arms) for seed in range(3) for epoch in range(1 if name in OF_RUNS else 2)
    ]  # fmt: skip
    columns = ["arm", "seed", "epoch", "normalized_spectral_gap", "test_accuracy"]
    check(lambda ax: ACROSS_PLOTS[name](pd.DataFrame(rows, columns=columns), ax=ax))


@functools.cache
def a_million_edges(n_in, n_out):
    return erdos_renyi(n_in, n_out, density=1 / 16, rng=np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYER_PLOTS)
def test_the_file_of_a_layer_with_a_million_edges_is_small(name):
    # All singular values of the square layer would take half a minute.
    graph = a_million_edges(*((1000, 16_000) if name == "spectrum" else (4000, 4000)))
    assert graph.n_edges == 1_000_000
    target = io.BytesIO()
    with figure() as ax:
        LAYER_PLOTS[name](graph, ax=ax)
        save(ax, target, format="png", dpi=200)
    assert target.tell() < 1_000_000

"""Animations of a run: mp4, GIF, matplotlib's JavaScript player, and data for other players."""

from __future__ import annotations

import hashlib
import html
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from topokit.experiments.record import as_run
from topokit.experiments.views import recorded_epochs
from topokit.foreign import printable
from topokit.graph.files import write_atomic
from topokit.measures import ccdf
from topokit.measures.degree import degrees_of
from topokit.plots.history import evenly_spaced, layer_of
from topokit.plots.layer import UNITS, block_densities, null_ccdf, null_steps
from topokit.plots.parts import reference
from topokit.plots.style import COLOURS, RC, literal, plain_degrees

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation

    from topokit.experiments.record import History, RunLike
    from topokit.graph import LayerGraph

__all__ = ["ANIMATIONS", "frames", "javascript_player", "need_ffmpeg", "save_animation", "save_gif"]

ANIMATIONS = ("mp4", "gif", "html")
POINTS = 48  # largest number of points of a distribution in `frames`


def frames(history: RunLike, *, n_frames: int = 60, blocks: int = 24) -> dict[str, Any]:
    """Return degree distributions and block densities of a run's epochs as plain numbers.

    Parameters
    ----------
    history : History
    n_frames : int
        Largest number of epochs, evenly spaced, with the first and the last among them.
    blocks : int
        Number of blocks along each side of the adjacency matrix, ordered by degree.

    Returns
    -------
    dict
        ``epochs`` (list of int) and ``layers``. Each layer has ``shape`` (n_out, n_in); for each
        epoch ``edges`` and ``blocks`` (rows of densities in 0..99, where 99 is the density of the
        ``densest`` block of the run); and for ``fan_in`` and ``fan_out`` the number of ``units``,
        the ``nulls`` (distributions in random layers, one for each number of edges), and for each
        epoch the place of its ``null`` among them, the ``ccdf`` (two lists, k and the share of
        units with degree at least k, at most 48 values) and the ``dispersion`` (variance over mean,
        ``None`` without edges).

    Raises
    ------
    ValueError
        If the run has no recorded epoch or a number is below 1.

    Notes
    -----
    O(edges) for each epoch shown. The size of the result depends on the number of epochs and
    blocks, not on the number of edges.

    Examples
    --------
    >>> found = frames(history, n_frames=2)
    >>> found["epochs"], found["layers"]["fc1"]["shape"], len(found["layers"]["fc1"]["blocks"])
    ([0, 2], [40, 64], 2)
    """
    if n_frames < 1 or blocks < 1:
        raise ValueError(f"expected at least 1 frame and 1 block, got {n_frames} and {blocks}")
    # Encoding. A page cannot hold all edges of a run, so each epoch is reduced to what is visible
    # in the animation. Densities are integers in 0..99: one byte each once encoded, and finer than
    # grey levels can be distinguished. The scale is the densest block of the whole run, so that
    # colours compare between epochs. A distribution keeps at most 48 of its distinct degrees,
    # spaced geometrically as on the logarithmic axis it is drawn on, and four digits. An epoch of a
    # layer takes about 2 kB whatever its size; time is O(edges) for each epoch.
    history = as_run(history)
    epochs = _shown(history, n_frames)
    topologies = [history.topology(epoch) for epoch in epochs]
    layers = {}
    for name, last in topologies[-1].items():
        graphs = [topology[name] for topology in topologies]
        density = [block_densities(graph, blocks) for graph in graphs]
        densest = max([float(cells.max(initial=0)) for cells in density] + [1e-12])
        layers[name] = {
            "shape": list(last.shape),
            "edges": [graph.n_edges for graph in graphs],
            "blocks": [np.rint(99 * cells / densest).astype(int).tolist() for cells in density],
            "densest": round(densest, 6),
            **{side: _distributions(graphs, side) for side in UNITS},
        }
    return {"epochs": epochs, "layers": layers}


def save_gif(
    history: RunLike,
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_frames: int = 40,
    seconds: float = 8.0,
) -> Path:
    """Write a GIF of one layer's degrees and adjacency over the epochs of a run.

    Parameters
    ----------
    history : History
    path : path
        Ending in .gif.
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_frames : int
        Largest number of epochs, evenly spaced.
    seconds : float
        Duration of one loop.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the run has no such layer or no epoch, a number is out of range, or the path has another
        ending.

    Examples
    --------
    >>> import tempfile
    >>> save_gif(history, tempfile.mkdtemp() + "/degrees.gif", n_frames=2).stat().st_size > 1000
    True
    """
    path = Path(path)
    _ending(path, ("gif",))
    return _save(history, path, "gif", layer, side, n_frames, seconds)


def save_animation(
    history: RunLike,
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_frames: int = 40,
    seconds: float = 8.0,
) -> Path:
    """Write an animation of one layer's degrees and adjacency as .mp4, .gif or .html.

    Parameters
    ----------
    history : History
    path : path
        Its ending says which: a film (needs the program ffmpeg, which the package imageio-ffmpeg
        brings too), a GIF, or a page with a player that loads nothing from elsewhere.
    layer, side, n_frames, seconds
        As for `save_gif`.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        As for `save_gif`; or if the ending is another, or ffmpeg is missing for .mp4.

    Examples
    --------
    >>> import tempfile
    >>> path = save_animation(history, tempfile.mkdtemp() + "/degrees.html", n_frames=2)
    >>> path.read_text().startswith("<!doctype html>")
    True
    """
    path = Path(path)
    kind = _ending(path, ANIMATIONS)
    return _save(history, path, kind, layer, side, n_frames, seconds)


def _ending(path: Path, kinds: tuple[str, ...]) -> str:
    """Return the kind of file that a name ends in; raise a ValueError if it is another."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        raise ValueError(
            f"expected a file ending in {', '.join('.' + k for k in kinds)}, got {path.name!r}"
        )
    return kind


def need_ffmpeg() -> str:
    """Return the path of the program ffmpeg; raise a ValueError if there is none.

    It is matplotlib's setting ``animation.ffmpeg_path`` (by default ``ffmpeg`` on the search path),
    else the one that the package imageio-ffmpeg brings with it.
    """
    found = shutil.which(str(mpl.rcParams["animation.ffmpeg_path"]))
    if found is None and importlib.util.find_spec("imageio_ffmpeg") is not None:
        with suppress(RuntimeError):  # it has none for this machine
            found = str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    if found is None:
        raise ValueError(
            "mp4 needs the program ffmpeg, found none: install it, or pip install imageio-ffmpeg, "
            "or use gif or html"
        )
    return found


def _save(
    history: RunLike,
    path: Path,
    kind: str,
    layer: str | None,
    side: str,
    n_frames: int,
    seconds: float,
) -> Path:
    """Write an animation of a kind, in one step."""
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if not seconds > 0:
        raise ValueError(f"expected seconds above 0, got {seconds}")
    program = need_ffmpeg() if kind == "mp4" else ""
    if kind == "html":
        with write_atomic(path, sync=False) as temporary:
            player = javascript_player(
                history, layer=layer, side=side, n_frames=n_frames, seconds=seconds
            )
            name = html.escape(printable(as_run(history).name))
            page = HTML.format(name=name, player=_named_by_content(player))
            temporary.write_text(page, encoding="utf-8")
        return path
    with (
        write_atomic(path, sync=False) as temporary,
        _animation(history, layer=layer, side=side, n_frames=n_frames) as (animation, n),
        TemporaryDirectory() as folder,
        mpl.rc_context({"animation.ffmpeg_path": program} if program else {}),
    ):
        made = os.path.join(folder, f"animation.{kind}")  # the writers go by the ending
        fps: Any = n / seconds
        if kind == "gif":
            writer: Any = PillowWriter(fps=fps)
        else:  # even numbers of pixels, as H.264 needs, and colours that every player knows
            even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
            writer = FFMpegWriter(fps=fps, extra_args=even)
        animation.save(made, writer=writer, dpi=110 if kind == "gif" else 160)
        shutil.copyfile(made, temporary)
    return path


HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Degrees and edges of {name}</title>
<style>body {{ margin: 1rem; font-family: sans-serif; }} img {{ max-width: 100%; }}</style></head>
<body>{player}</body></html>
"""


def javascript_player(
    history: RunLike,
    *,
    layer: str | None = None,
    side: str = "fan_in",
    n_frames: int = 30,
    seconds: float | None = None,
) -> str:
    """Return an animation of one layer's degrees and adjacency, in matplotlib's HTML player.

    The HTML is self-contained: frames are inlined. In a notebook, show it with
    ``IPython.display.HTML``.

    Parameters
    ----------
    history : History
    layer : str, optional
        By default the first.
    side : str
        ``"fan_in"`` or ``"fan_out"``.
    n_frames : int
        Largest number of epochs, evenly spaced. About 30 kB each.
    seconds : float, optional
        Duration of one loop; by default five epochs a second.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the run has no such layer or no epoch.

    Examples
    --------
    >>> "data:image/png;base64" in javascript_player(history, n_frames=2)
    True
    """
    settings = {"savefig.dpi": 100, "animation.embed_limit": 100}
    with (
        _animation(history, layer=layer, side=side, n_frames=n_frames) as (animation, n),
        mpl.rc_context(cast("Any", settings)),
    ):
        if seconds is not None and not seconds > 0:
            raise ValueError(f"expected seconds above 0, got {seconds}")
        fps: Any = 5 if seconds is None else n / seconds
        return _without_icons(str(animation.to_jshtml(fps=fps, default_mode="loop")))


SIGNS = {
    "fa-minus": "−", "fa-fast-backward": "|◀", "fa-step-backward": "◂",
    "fa-play fa-flip-horizontal": "◀", "fa-pause": "❚❚", "fa-play": "▶", "fa-step-forward": "▸",
    "fa-fast-forward": "▶|", "fa-plus": "+",
}  # fmt: skip


def _named_by_content(player: str) -> str:
    """Return the player of a page with a name made from its content, not drawn at random."""
    drawn = re.search(r'id="_anim_img([0-9a-f]+)"', player)
    if drawn is None:
        return player
    digest = hashlib.sha256(player.replace(drawn[1], "").encode()).hexdigest()
    return player.replace(drawn[1], digest[:32])


def _without_icons(player: str) -> str:
    """Return matplotlib's player with signs on its buttons instead of icons from the network."""
    player = re.sub(r"<link[^>]*>", "", player)
    return re.sub(
        r'<i class="fa ([^"]*)"></i>', lambda found: SIGNS.get(found[1], found[1]), player
    )


@contextmanager
def _animation(
    history: RunLike, *, layer: str | None, side: str, n_frames: int
) -> Iterator[tuple[FuncAnimation, int]]:
    """Yield an animation of two panels, degrees and adjacency, and its number of frames."""
    from matplotlib.animation import FuncAnimation

    history = as_run(history)
    epochs = _shown(history, n_frames)
    topologies = [history.topology(epoch) for epoch in epochs]
    name = str(layer_of(history, layer))
    graphs = [topology[name] for topology in topologies]
    curves = [_curve(degrees_of(graph, side)[0]) for graph in graphs]
    nulls = [null_steps(graph, side) for graph in graphs]
    density = [block_densities(graph, 80) for graph in graphs]
    word = side.replace("_", "-")
    with mpl.rc_context(cast("Any", RC)):
        fig = Figure(figsize=(7, 2.9), layout="constrained")
        FigureCanvasAgg(fig)
        left, right = fig.subplots(1, 2)
        (null,) = left.step([], [], where="pre", **reference(label="random graph"))
        (first,) = left.step([], [], where="pre", color=COLOURS[1], ls="--", label="first epoch")
        (line,) = left.step([], [], where="pre", color=COLOURS[0], ls="-", label="this epoch")
        _set(first, curves[0])
        largest = max([float(k[-1]) for k, _ in (*curves, *nulls) if k.size] + [1.0])
        n_units = max(degrees_of(graphs[0], side)[0].size, 1)
        left.set(
            xscale="log", yscale="log", xlim=(0.8, 1.3 * largest), ylim=(0.5 / n_units, 1.5),
            xlabel=f"{word} k", ylabel=f"share of {UNITS[side]} with {word} ≥ k",
        )  # fmt: skip
        plain_degrees(left.xaxis)
        left.legend(loc="lower left")
        highest = max([float(cells.max(initial=0)) for cells in density] + [1e-12])
        n_out, n_in = graphs[0].shape
        image = right.imshow(
            density[0], cmap="Greys", vmin=0, vmax=highest, aspect="auto",
            extent=(0, max(n_in, 1), max(n_out, 1), 0), interpolation="nearest",
        )  # fmt: skip
        right.set(xlabel="input units by degree", ylabel="output units by degree")
        fig.colorbar(image, ax=right, label="density of the block")
        title = fig.suptitle("")

        def show(frame: int) -> tuple[Any, ...]:
            _set(line, curves[frame])
            _set(null, nulls[frame])
            image.set_data(density[frame])
            title.set_text(f"{literal(name)}, epoch {epochs[frame]}")
            return line, null, image, title

        show(0)

        yield FuncAnimation(fig, show, frames=len(epochs)), len(epochs)


def _set(line: Line2D, curve: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """Make a line that of other steps; one value alone is a dot, which steps would not show."""
    line.set_data(*curve)
    line.set_marker("o" if curve[0].size == 1 else "none")
    line.set_markersize(3.5)


def _shown(history: History, n_frames: int) -> list[int]:
    """Return the epochs to show; raise a ValueError if none is recorded."""
    recorded_epochs(history)
    return evenly_spaced(history, n_frames, "frame")


def _curve(degrees: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return P(K >= k) at the positive degrees, thinned to at most `POINTS` values."""
    k, share = ccdf(degrees)
    k, share = k[k > 0], share[k > 0]
    if k.size > POINTS:
        at = np.unique(np.rint(np.geomspace(1, k.size, POINTS)).astype(int)) - 1
        k, share = k[at], share[at]
    return k, share


def _distributions(graphs: list[LayerGraph], side: str) -> dict[str, Any]:
    """Return the distributions of one side at every epoch, and their nulls."""
    nulls = {(graph.shape, graph.n_edges): graph for graph in graphs}
    places = {key: i for i, key in enumerate(nulls)}
    return {
        "ccdf": [_lists(*_curve(degrees_of(graph, side)[0])) for graph in graphs],
        "nulls": [
            _lists(*null_ccdf(graph, side)) if graph.n_edges else [[], []]
            for graph in nulls.values()
        ],
        "null": [places[graph.shape, graph.n_edges] for graph in graphs],
        "units": int(degrees_of(graphs[0], side)[0].size),
        "dispersion": [_dispersion(degrees_of(graph, side)[0]) for graph in graphs],
    }


def _dispersion(degrees: NDArray[np.int64]) -> float | None:
    """Return variance over mean of the degrees to four digits; None without edges."""
    return float(f"{degrees.var() / degrees.mean():.4g}") if degrees.any() else None


def _lists(k: NDArray[np.int64], share: NDArray[np.float64]) -> list[list[float]]:
    """Return a distribution as two lists, with shares to four digits and above 1e-6."""
    seen = share > 1e-6
    return [k[seen].tolist(), [float(f"{value:.4g}") for value in share[seen]]]

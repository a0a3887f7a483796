import copy
import html
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from tests.contract.test_plots import make_run
from topokit.experiments.record import Recording, conditions
from topokit.generators import erdos_renyi, generate
from topokit.graph import LayerGraph
from topokit.measures import degree_report, describe_fit, measure
from topokit.measures.scalefree import bootstrap_stream
from topokit.plots import HISTORY_PLOTS, report
from topokit.plots.report import CAPTIONS, _same_limits, verdict_sentences, write_report
from topokit.plots.tables import compared, measure_tables


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Figures of few pixels, which take a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(3)
    run = make_run([erdos_renyi(40, 30, density=0.2, rng=rng) for _ in range(3)])
    run.name, run.config = "a & b", {"seed": 4, "rule": {"name": "set"}}
    run.environment = {"command": "topokit train <recipe>"}
    return run


def of_seed(run, seed):
    """The same record as if of another seed."""
    other = copy.copy(run)
    other.config = run.config | {"seed": seed}
    return other


@pytest.fixture(scope="module")
def page(run, coarse, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report([run, of_seed(run, 5)], path, bootstrap=2) == path
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_loads_nothing(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "@import" not in page
    assert len(page) < 5_000_000


def test_captions_are_those_of_the_table():
    assert set(CAPTIONS) == set(HISTORY_PLOTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_every_history_plot_has_a_caption(name, page):
    assert len(CAPTIONS[name]) > 40
    assert CAPTIONS[name].endswith(".")
    assert f">{html.escape(CAPTIONS[name])}<" in page


@pytest.mark.slow
def test_a_page_begins_with_what_was_found(page):
    finding, table = page.index('class="finding"'), page.index("<table")
    assert page.index("<main>") < finding < table < page.index("<img ")
    assert page.index("<nav ") < page.index("<main>")
    assert "at epoch 2 " in page[finding:table]


@pytest.mark.slow
def test_every_entry_of_the_contents_leads_somewhere(page):
    contents = page[page.index("<nav ") : page.index("</nav>")]
    targets = re.findall(r'href="#([^"]*)"', contents)
    assert len(targets) > len(HISTORY_PLOTS)
    assert all(page.count(f'id="{target}"') == 1 for target in targets)


@pytest.mark.slow
def test_several_runs_are_side_by_side_and_told_once(page):
    assert page.count("<h2") == 6
    assert page.count("<h3>Turnover</h3>") == 1
    assert page.count('alt="Plot of a &amp; b: turnover.') == 2
    assert page.count('class="player"') == 1
    assert page.count('class="panel"') == 2


def test_conditions_are_compared_with_the_intervals_of_student(run, tmp_path):
    runs = []
    for name, seed, final in (
        ("set", 0, 0.8),
        ("set", 1, 0.9),
        ("static", 0, 0.7),
        ("static", 1, 0.7),
    ):
        one = copy.copy(run)
        one.name, one.config = f"{name}-seed{seed}", {"seed": seed, "rule": {"name": name}}
        one.epochs = run.epochs.assign(test_accuracy=[0.5, 0.6, final])
        runs.append(one)
    found = compared(
        [
            report._run(r, i, a, 0)
            for i, (r, a) in enumerate(zip(runs, conditions(runs), strict=True))
        ]
    )
    half = stats.t.ppf(0.975, 1) * np.std([0.8, 0.9], ddof=1) / np.sqrt(2)
    assert [row[:3] for row in found["rows"]] == [
        ["set", 2, f"0.8500 [{0.85 - half:.4f}, {0.85 + half:.4f}]"],
        ["static", 2, "0.7000 [0.7000, 0.7000]"],
    ]
    assert found["pairs"] == [
        ["set − static", f"+0.1500 [{0.15 - half:+.4f}, {0.15 + half:+.4f}]", 2]
    ]


@pytest.mark.parametrize("bootstrap", [0, 20])
def test_verdicts_are_those_of_degree_reports_or_said_to_be_without_bootstrap(bootstrap):
    wide = LayerGraph.from_edge_ids(
        np.concatenate(
            [300 * i + np.arange(min(300, max(1, int(600 / (i + 1))))) for i in range(400)]
        ),
        (400, 300),
    )
    topology = {
        "narrow": erdos_renyi(40, 30, density=0.2, rng=np.random.default_rng(1)),
        "wide": wide,
    }
    rows = verdict_sentences(topology, bootstrap=bootstrap, seed=3)
    for i, row in enumerate(rows):
        side = row["side"].replace("-", "_")
        found = degree_report(
            topology[row["layer"]], side, bootstrap=20, rng=bootstrap_stream(3, i // 2, side)
        )
        if bootstrap:
            assert row["label"] == row["verdict"] == found.fit.verdict
            assert row["sentence"] == describe_fit(found.fit)
        elif row["verdict"] != found.fit.verdict:
            assert row["label"] == "heavy-tailed (not bootstrapped)"
    assert bootstrap or "(not bootstrapped)" in rows[2]["label"]


@pytest.mark.slow
def test_no_probability_is_zero(page):
    assert not re.search(r"p = 0(?![.\d])|p = 0\.0+(?!\d)", page)


def test_names_of_fourteen_layers_stay_whole(run, tmp_path):
    deep = make_run([run.topologies[0]["fc1"]] * 2)
    names = [f"blocks.{i}.attention.projection" for i in range(14)]
    deep.topologies = [dict.fromkeys(names, t["fc1"]) for t in deep.topologies]
    frame = deep.measures
    deep.measures = pd.concat([frame.assign(layer=name) for name in names], ignore_index=True)
    tables = measure_tables([deep])
    assert all(row[0] in names for table in tables for row in table["rows"])
    assert all(len(table["heads"]) <= 9 for table in tables)
    told = [head for table in tables for head in table["heads"][1:]]
    assert len(told) == frame["measure"].nunique()


def test_the_caption_of_a_user_s_plot_is_the_start_of_its_docstring(run, monkeypatch):
    def mine(history, *, ax=None):
        """Number of edges over epochs.

        More about it.
        """
        return ax

    monkeypatch.setattr(report, "drawable", lambda history: {"mine": mine})
    assert report._figures(run)[0][1] == "Number of edges over epochs."


@pytest.mark.slow
def test_every_image_has_a_description(page):
    images = re.findall(r"<img [^>]*>", page)
    assert images
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)


@pytest.mark.slow
def test_names_and_commands_are_escaped_once(page):
    assert "a &amp; b" in page
    assert "&amp;amp;" not in page
    assert "topokit train &lt;recipe&gt;" in page


@pytest.mark.slow
def test_every_run_has_its_row(page):
    assert len(re.findall(r'<tr id="run-\d">', page)) == 2


@pytest.mark.slow
def test_a_page_written_twice_is_the_same(run, tmp_path, monkeypatch):
    """With one plot of a run; that all are drawn the same twice is tested with those of files."""
    few, runs = {"turnover": HISTORY_PLOTS["turnover"]}, [run, of_seed(run, 5)]
    monkeypatch.setattr(report, "drawable", lambda history: few)
    one, two = (
        write_report(runs, tmp_path / name, bootstrap=2).read_text(encoding="utf-8")
        for name in ("one.html", "two.html")
    )
    assert one.count("<img ") == 1 + 2 * (1 + 2)
    assert one == two


@pytest.mark.slow
def test_a_run_that_goes_on_is_said_to_be_unfinished(run, page, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_figures", lambda history: [])
    part = make_run([run.topologies[0]["fc1"]] * 3)
    part.config = {"seed": 4, "epochs": 10}
    text = write_report([part], tmp_path / "part.html", bootstrap=2).read_text(encoding="utf-8")
    assert "<td>3 of 10</td>" in text
    assert "Unfinished: 3 of 10 epochs reached" in text
    assert "nfinished" not in page
    assert text.count('class="panels single"') == 1


def test_a_run_without_epochs_is_refused(run, tmp_path):
    empty = make_run([run.topologies[0]["fc1"]])
    empty.topologies = []
    with pytest.raises(ValueError, match="run run has not recorded an epoch yet"):
        write_report([empty], tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match=r"found no folder .*nowhere"):
        write_report(str(tmp_path / "nowhere"), tmp_path / "report.html")


def test_verdicts_cover_layers_and_sides(run):
    rows = verdict_sentences(run.topology(0), bootstrap=0)
    assert [(row["layer"], row["side"]) for row in rows] == [("fc1", "fan-in"), ("fc1", "fan-out")]
    assert all(row["sentence"] for row in rows)


@pytest.mark.slow
def test_the_page_of_two_hundred_epochs_is_small(tmp_path, monkeypatch):
    # Every figure is made, and none is turned into pixels: other pages have theirs.
    monkeypatch.setattr(report, "save", lambda ax, target, **options: target.write(b"-"))
    rng = np.random.default_rng(6)
    widths = [784, 1000, 1000, 1000, 10]
    run = make_run([erdos_renyi(4, 3, density=0.5, rng=rng)])
    drawn = [generate(widths, "erdos_renyi", epsilon=20, rng=rng) for _ in range(20)]
    run.topologies = drawn * 10  # the page keeps what it shows of each epoch, new or not
    one = measure(
        run.topologies[0], ["fan_in", "power_law", "normalized_spectral_gap", "components"]
    )
    run.measures = pd.concat(
        [one.assign(run="run", epoch=epoch) for epoch in range(200)], ignore_index=True
    )
    run.epochs = run.epochs.loc[[0] * 200].assign(epoch=range(200))
    page = write_report([run], tmp_path / "report.html", bootstrap=0)
    assert page.stat().st_size < 5_000_000


def test_an_axis_with_one_value_does_not_stretch_the_others():
    figure = Figure()
    moving, still, other = figure.subplots(3)
    moving.plot([0, 1, 2], [0.2, 0.3, 0.3])
    moving.set_ylim(-0.01, 0.4)
    still.plot([0, 1, 2], [0, 0, 0])
    still.set_ylim(-0.1, 1)
    _same_limits([moving, still], "y")
    assert moving.get_ylim() == still.get_ylim() == (-0.01, 0.4)
    other.plot([0, 1], [7, 7])
    other.set_ylim(6, 8)
    _same_limits([moving, other], "y")
    assert other.get_ylim() == (-0.01, 8)
    still.set_ylim(-0.1, 1)
    _same_limits([still, still], "y")
    assert still.get_ylim() == (-0.1, 1)


@pytest.mark.parametrize("where", ["missing/page.html", "folder", "link.html", "file/page.html"])
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_drawn(run, where, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "other.html")
    (tmp_path / "file").write_text("")
    told = []
    with pytest.raises((OSError, ValueError), match=where.replace(".", r"\.")):
        write_report([run], tmp_path / where, tell=told.append, progress=lambda *_: told.append(""))
    assert told == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "link.html"]


def rows_of(*runs):
    """The values of runs, as the report has them."""
    return [
        report._run(run, i, arm, 0)
        for i, (run, arm) in enumerate(zip(runs, conditions(runs), strict=True))
    ]


def noted(name, seed=None, graph=None, layer="fc1", **columns):
    """A record of two epochs of one layer that noted these numbers."""
    run = Recording(name=name)
    run.config = {} if seed is None else {"seed": seed, "rule": {"name": name.partition("-")[0]}}
    graph = LayerGraph.from_edge_ids(range(12), (3, 4)) if graph is None else graph
    for epoch in range(2):
        run(epoch, {layer: graph})
        run.note(epoch, **{key: values[epoch] for key, values in columns.items()})
    return run


def test_runs_of_unknown_seeds_share_none():
    runs = [
        noted(f"{name}-seed{i}", test_accuracy=(0, 0.5 + i / 9)) for name in "ab" for i in (0, 1)
    ]
    rows = rows_of(*runs)
    assert [row["seed"] for row in rows] == [None] * 4
    assert compared(rows)["pairs"] == []
    assert [row[1] for row in compared(rows)["rows"]] == [2, 2]


def test_a_layer_is_named_in_a_table_only_if_all_runs_have_it():
    one, two = (noted(f"{n}-seed0", 0, layer=n, test_accuracy=(0, 1)) for n in ("conv", "fc"))
    assert compared(rows_of(one))["heads"][3] == "fan-in variance / mean, conv"
    assert compared(rows_of(one, two))["heads"][3] == "fan-in variance / mean, first layer"


def test_scores_of_two_kinds_have_no_common_mean():
    runs = [noted("a-seed0", 0, val_acc=(0.1, 0.5)), noted("a-seed1", 1, val_loss=(3.0, 2.0))]
    found = compared(rows_of(*runs, noted("b-seed0", 0, val_acc=(0.1, 0.4))))
    assert found["rows"][0][2] == "0.5000 (val acc); 2.0000 (val loss)"
    assert found["rows"][1][2] == "0.4000 (val acc)"
    assert found["pairs"] == []


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1.0, ("0.4000", "0.3500 [", "+0.2000 [")),
        (1e-5, ("0.00000400", "0.00000350 [", "+0.00000200 [")),
    ],
)
def test_small_scores_and_differences_are_no_zeros(scale, words):
    runs = [
        noted(f"{name}-seed{seed}", seed, test_loss=(9.0, scale * (mean + seed / 10)))
        for name, mean in (("a", 0.3), ("b", 0.1))
        for seed in (0, 1)
    ]
    rows = rows_of(*runs)
    found = compared(rows)
    shown = (rows[1]["final"], found["rows"][0][2], found["pairs"][0][1])
    assert all(text.startswith(start) for text, start in zip(shown, words, strict=True))


def test_what_some_runs_of_a_condition_show_is_told():
    ids = [300 * i + j for i in range(400) for j in range(min(300, max(1, int(600 / (i + 1)))))]
    wide = LayerGraph.from_edge_ids(ids, (400, 300))
    plain = erdos_renyi(300, 400, density=0.02, rng=np.random.default_rng(1))
    for order in ([wide, plain, plain], [plain, wide, plain], [plain, wide]):
        runs = [
            noted(f"a-seed{i}", i, graph, test_accuracy=(0, 1)) for i, graph in enumerate(order)
        ]
        ((_, words),) = report._findings(rows_of(*runs))
        assert f"fc1 fan-in (in 1 of {len(order)} runs)" in words
        assert "no layer has degrees wider" not in words
    both = [noted(f"a-seed{i}", i, plain, test_accuracy=(0, 1)) for i in range(2)]
    assert "no layer has degrees wider" in report._findings(rows_of(*both))[0][1]


def test_a_run_that_ends_without_a_number_is_said_to():
    (row,) = rows_of(noted("a", 0, test_accuracy=(0.5, np.nan)))
    words = report._findings([row])[-1][1]
    assert words.startswith("It ended at a test accuracy that is no finite number (best 0.5000 at")


@pytest.mark.parametrize("name", ["page.pdf", "page.png", "run.v2"])
def test_a_page_has_the_ending_of_one(run, tmp_path, name):
    with pytest.raises(ValueError, match=r"expected a page ending in \.html, got"):
        write_report([run], tmp_path / name)
    assert list(tmp_path.iterdir()) == []

import html
import re

import numpy as np
import pandas as pd
import pytest

from tests.contract.test_plots import make_run
from topokit.generators import erdos_renyi, generate
from topokit.measures import measure
from topokit.plots import HISTORY_PLOTS, report
from topokit.plots.report import CAPTIONS, verdict_sentences, write_report


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(3)
    run = make_run([erdos_renyi(40, 30, density=0.2, rng=rng) for _ in range(3)])
    run.name, run.config = "a & b", {"seed": 4, "rule": {"name": "set"}}
    run.environment = {"command": "topokit train <recipe>"}
    return run


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report([run, run], path, bootstrap=2) == path
    return path.read_text(encoding="utf-8")


def test_the_page_loads_nothing(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "@import" not in page
    assert len(page) < 5_000_000


def test_captions_are_those_of_the_table():
    assert set(CAPTIONS) == set(HISTORY_PLOTS)


@pytest.mark.parametrize("name", HISTORY_PLOTS)
def test_every_history_plot_has_a_caption(name, page):
    assert len(CAPTIONS[name]) > 40
    assert CAPTIONS[name].endswith(".")
    assert f"<figcaption>{html.escape(CAPTIONS[name])}</figcaption>" in page


def test_the_caption_of_a_user_s_plot_is_the_start_of_its_docstring(run, monkeypatch):
    def mine(history, *, ax=None):
        """Number of edges over epochs.

        More about it.
        """
        return ax

    monkeypatch.setattr(report, "drawable", lambda history: {"mine": mine})
    assert report._figures(run)[0]["caption"] == "Number of edges over epochs."


def test_every_image_has_a_description(page):
    images = re.findall(r"<img [^>]*>", page)
    assert images
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)


def test_names_and_commands_are_escaped_once(page):
    assert "a &amp; b" in page
    assert "&amp;amp;" not in page
    assert "topokit train &lt;recipe&gt;" in page


def test_every_run_has_its_section_and_its_row(page):
    assert page.count("<section") == 2
    assert page.count('href="#run-') == 2


@pytest.mark.slow
def test_a_page_written_twice_is_the_same(run, page, tmp_path):
    again = write_report([run, run], tmp_path / "again.html", bootstrap=2)
    assert again.read_text(encoding="utf-8") == page


def test_a_run_that_goes_on_is_said_to_be_unfinished(run, page, tmp_path):
    part = make_run([run.topologies[0]["fc1"]] * 3)
    part.config = {"seed": 4, "epochs": 10}
    text = write_report([part], tmp_path / "part.html", bootstrap=2).read_text(encoding="utf-8")
    assert "<td>3 of 10</td>" in text
    assert "Unfinished: 3 of 10 epochs reached" in text
    assert "nfinished" not in page


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
def test_the_page_of_two_hundred_epochs_is_small(tmp_path):
    rng = np.random.default_rng(6)
    widths = [784, 1000, 1000, 1000, 10]
    run = make_run([erdos_renyi(4, 3, density=0.5, rng=rng)])
    run.topologies = [generate(widths, "erdos_renyi", epsilon=20, rng=rng) for _ in range(200)]
    one = measure(
        run.topologies[0], ["fan_in", "power_law", "normalized_spectral_gap", "components"]
    )
    run.measures = pd.concat(
        [one.assign(run="run", epoch=epoch) for epoch in range(200)], ignore_index=True
    )
    run.epochs = run.epochs.loc[[0] * 200].assign(epoch=range(200))
    page = write_report([run], tmp_path / "report.html")
    assert page.stat().st_size < 5_000_000

"""The report in a browser, light and dark, narrow and wide: it moves, sorts and prints."""

import json
import re
import subprocess

import numpy as np
import pytest

from tests.contract.test_plots import make_run
from tests.marks import BROWSER
from topokit.generators import erdos_renyi
from topokit.plots import report
from topokit.plots.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the page in"),
]

VISIT = """
<script>
window.addEventListener("load", () => {
  const seen = { fetched: performance.getEntriesByType("resource").map(entry => entry.name) };
  const player = document.querySelector(".player"), panels = [...player.querySelectorAll(".panel")];
  const [slider, button] = ["input", "button"].map(tag => player.querySelector(tag));
  const says = () => panels.map(panel => panel.querySelector("output").textContent);
  const path = () => player.querySelector("path.now").getAttribute("d");
  const canvas = player.querySelector("canvas");
  const move = to => { slider.value = to; slider.dispatchEvent(new Event("input")); };
  seen.hidden = player.hidden; seen.opened = says();
  move(0); seen.first = says(); seen.path = path(); seen.painted = canvas.toDataURL();
  move(2); seen.moved = says(); seen.changed = path() !== seen.path;
  seen.repainted = canvas.toDataURL() !== seen.painted; seen.blocks = [canvas.height, canvas.width];
  const labels = player.querySelector(".matrix").querySelectorAll(".to, .name");
  seen.axes = [...labels].map(e => e.textContent);
  move(0); button.click(); seen.playing = button.textContent;
  const table = document.querySelector("#measures ~ .scroll table.sortable");
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
  const head = table.tHead.rows[0].cells[1].querySelector("button");
  head.click(); seen.up = column(); head.click(); seen.down = column();
  seen.width = innerWidth; seen.wide = document.documentElement.scrollWidth <= innerWidth;
  const style = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
  seen.page = style("body", "backgroundColor"); seen.ink = style("main", "color");
  seen.picture = style("main img", "filter");
  const box = selector => document.querySelector(selector).getBoundingClientRect();
  seen.beside = box("nav").right <= box("main").left + 1;
  seen.found = box("p.finding").bottom;
  const clipped = e => e.scrollWidth > e.clientWidth + 1;
  seen.clipped = [...document.querySelectorAll("th")].filter(clipped).length;
  let left = 90;
  const waiting = setInterval(() => {  // until it has played to the end
    if (button.textContent === "Pause" && left-- > 0) return;
    clearInterval(waiting);
    seen.played = says(); seen.ended = button.textContent;
    document.body.dataset.seen = JSON.stringify(seen);
  }, 100);
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page on two conditions with another number of edges at every epoch."""
    rng = np.random.default_rng(3)
    runs = []
    for name in ("set", "static"):
        run = make_run([erdos_renyi(40, 30, density=0.1 + 0.02 * i, rng=rng) for i in range(5)])
        run.name, run.config = name, {"rule": {"name": name}, "seed": 0}
        runs.append(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "DPI", 20)
        page = write_report(runs, tmp_path_factory.mktemp("report") / "report.html", bootstrap=2)
    text = page.read_text(encoding="utf-8").replace("</body>", VISIT + "</body>")
    page.write_text(text, encoding="utf-8")
    return page


@pytest.fixture(
    scope="module", params=[f"{a}, {b}" for a in ("phone", "desk") for b in ("light", "dark")]
)
def visit(page, request, tmp_path_factory):
    """What a visitor sees: what the script above noted, and what the console said."""
    place, scheme = request.param.split(", ")
    size = {"phone": "400,800", "desk": "1400,1000"}[place]
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--virtual-time-budget=10000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    noted = re.search(r'<body[^>]* data-seen="([^"]*)"', answer.stdout)
    assert noted, answer.stderr[-2000:]
    seen = json.loads(noted.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    console = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return place, scheme, seen, console


def test_the_console_is_silent_and_nothing_is_fetched(visit):
    _, _, seen, console = visit
    assert console == []
    assert seen["fetched"] == []


def test_the_player_moves_all_runs_at_once(visit):
    seen = visit[2]
    assert not seen["hidden"]
    assert len(seen["first"]) == 2
    for i in range(2):
        assert seen["opened"][i].startswith("epoch 4, ")  # the result comes first
        assert seen["first"][i].startswith("epoch 0, test accuracy 0.5000, variance / mean ")
        assert seen["moved"][i].startswith("epoch 2, ")
        assert seen["played"][i].startswith("epoch 4, ")
    assert seen["changed"]
    assert seen["repainted"]
    assert seen["blocks"] == [24, 24]
    assert (seen["playing"], seen["ended"]) == ("Pause", "Play")


def test_the_matrix_of_edges_says_what_its_sides_are(visit):
    names = ["output units, highest fan-in first", "30", "input units, highest fan-out first", "40"]
    assert visit[2]["axes"] == names


def test_tables_sort_both_ways(visit):
    seen = visit[2]
    assert seen["up"] != seen["down"]
    assert seen["up"] == seen["down"][::-1]


def test_the_page_fits_the_screen_and_says_the_finding_on_it(visit):
    place, _, seen, _ = visit
    assert seen["wide"]
    assert seen["clipped"] == 0
    assert seen["found"] < 800
    assert seen["beside"] == (place == "desk")


def test_dark_readers_get_a_dark_page_with_dark_figures(visit):
    _, scheme, seen, _ = visit
    page, ink = (sum(map(int, re.findall(r"\d+", seen[name])[:3])) for name in ("page", "ink"))
    assert (page < 100 < 600 < ink) if scheme == "dark" else (ink < 100 < 600 < page)
    assert ("invert" in seen["picture"]) == (scheme == "dark")


def test_the_page_prints_with_everything_in_it(page, tmp_path):
    target = tmp_path / "report.pdf"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={target}",
        f"--user-data-dir={tmp_path / 'profile'}", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    sheets = re.findall(rb"/Type\s*/Page\b", target.read_bytes())
    assert 4 <= len(sheets) <= 40

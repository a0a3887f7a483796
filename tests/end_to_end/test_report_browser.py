"""The report in a browser: the player moves, tables sort, nothing is loaded or logged."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.contract.test_plots import make_run
from topokit.generators import erdos_renyi
from topokit.plots.report import write_report

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the page in"),
]

VISIT = """
<script>
window.addEventListener("load", () => {
  const seen = { fetched: performance.getEntriesByType("resource").map(entry => entry.name) };
  const player = document.querySelector(".player");
  const part = tag => player.querySelector(tag);
  const [slider, button, says] = [part("input"), part("button"), part("output")];
  const path = () => player.querySelector("path.now").getAttribute("d");
  const canvas = player.querySelector("canvas"), painted = canvas.toDataURL();
  seen.hidden = player.hidden; seen.first = says.textContent; seen.path = path();
  slider.value = 2; slider.dispatchEvent(new Event("input"));
  seen.moved = says.textContent; seen.changed = path() !== seen.path;
  seen.repainted = canvas.toDataURL() !== painted; seen.blocks = [canvas.height, canvas.width];
  button.click(); seen.playing = button.textContent;
  const table = [...document.querySelectorAll("table.sortable")].pop();
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
  const head = table.tHead.rows[0].cells[0].querySelector("button");
  head.click(); seen.up = column(); head.click(); seen.down = column();
  seen.wide = document.documentElement.scrollWidth <= window.innerWidth;
  setTimeout(() => {
    seen.played = says.textContent; seen.ended = button.textContent;
    document.body.dataset.seen = JSON.stringify(seen);
  }, 2500);
});
</script>
"""


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """What a visitor sees: what the script above noted, and what the console said."""
    rng = np.random.default_rng(3)
    run = make_run([erdos_renyi(40, 30, density=0.1 + 0.02 * i, rng=rng) for i in range(5)])
    folder = tmp_path_factory.mktemp("report")
    page = write_report([run, run], folder / "report.html", bootstrap=2)
    text = page.read_text(encoding="utf-8").replace("</body>", VISIT + "</body>")
    page.write_text(text, encoding="utf-8")
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=400,800",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
        "--virtual-time-budget=10000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    noted = re.search(r'<body[^>]* data-seen="([^"]*)"', answer.stdout)
    assert noted, answer.stderr[-2000:]
    seen = json.loads(noted.group(1).replace("&quot;", '"').replace("&amp;", "&"))
    return seen, [line for line in answer.stderr.splitlines() if "CONSOLE" in line]


def test_the_console_is_silent_and_nothing_is_fetched(visit):
    seen, console = visit
    assert console == []
    assert seen["fetched"] == []


def test_the_player_moves(visit):
    seen, _ = visit
    assert not seen["hidden"]
    assert seen["first"].startswith("epoch 0, test accuracy 0.5000, variance / mean ")
    assert seen["moved"].startswith("epoch 2, ")
    assert seen["changed"]
    assert seen["repainted"]
    assert seen["blocks"] == [24, 24]
    assert (seen["playing"], seen["ended"]) == ("Pause", "Play")
    assert seen["played"].startswith("epoch 4, ")


def test_tables_sort_both_ways(visit):
    seen, _ = visit
    assert seen["up"] != seen["down"]
    assert seen["up"] == seen["down"][::-1]


def test_the_page_is_no_wider_than_a_phone(visit):
    assert visit[0]["wide"]

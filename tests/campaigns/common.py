"""What all campaigns share: the command line, and their sections of tests/CAMPAIGNS.md.

A campaign is a script that attacks topokit many times with random but repeatable inputs and counts
what happens. ``python tests/campaigns/NAME.py --count N --seed S`` runs it and prints a table;
``--write`` also puts the table into tests/CAMPAIGNS.md. ``test_NAME.py`` beside it runs the same
campaign with a small count in the suite.
"""

import argparse
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).parents[1] / "CAMPAIGNS.md"
HEAD = """# Campaigns

Attacks on topokit by many random inputs, kept as scripts in `tests/campaigns/`. Each table was
printed by the command above it. Short forms of all campaigns are part of the test suite.
"""


def main(name: str, title: str, campaign: Callable[[int, int], list[str]], *, count: int) -> int:
    """Run a campaign from the command line.

    ``campaign(count, seed)`` returns the lines of its section, in Markdown.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"update {PAGE.name}")
    options = parser.parse_args()
    start = time.perf_counter()
    lines = campaign(options.count, options.seed)
    seconds = time.perf_counter() - start
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    command = shlex.join(["python", f"tests/campaigns/{name}.py", *arguments])
    made = f"Python {platform.python_version()}, {platform.system()}; {seconds:.0f} s."
    body = "\n".join([f"## {title}", "", f"`{command}`", "", *lines, "", made])
    print(body)
    if options.write:
        write_section(name, body)
    return 0


def write_section(name: str, body: str) -> None:
    """Put a section into the page, in place of its earlier text if there is one."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else HEAD
    block = f"{begin}\n{body}\n{end}\n"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}\n", re.DOTALL)
    if pattern.search(page):
        page = pattern.sub(lambda _: block, page)
    else:
        page = f"{page}\n{block}"
    PAGE.write_text(page, encoding="utf-8")


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]

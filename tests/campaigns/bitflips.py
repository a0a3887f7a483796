"""Flip one bit of one file of a run directory, and use the run."""

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns import damages
from tests.campaigns.common import main, table

TITLE = "One bit flipped in a run directory"


def uses(path, right, file):
    """The result of each use of a run with a flipped bit."""
    got, how, why = damages.guarded(damages.load, path)
    yield "load", "different" if how == "same" and got != right["load"] else how, why
    yield "verify", *damages.verified(path, True)
    if path.name.startswith("unfinished"):
        got, how, why = damages.guarded(damages.go_on, path)
        yield "resume", "different" if how == "same" and got != right["resume"] else how, why


def campaign(count, seed):
    """Return the lines of the section; see `tests.campaigns.common.main`."""
    rng = np.random.default_rng(seed)
    totals, faults, flips = {}, [], Counter()
    with damages.quick(), tempfile.TemporaryDirectory() as folder:
        root = damages.make_runs(Path(folder))
        targets, right = [], {}
        for base, end in (("finished-0", "finished-0"), ("unfinished-0", "whole-0")):
            right[base] = {"load": damages.load(root / base), "resume": damages.load(root / end)}
            names = [f.relative_to(root / base) for f in damages.files_of(root / base)]
            groups = {}
            for name in names:
                groups.setdefault(name.parts[0], []).append(name)
            targets += [(base, group, groups[group]) for group in groups]
        path = root / "work"
        for i in range(count):
            base, group, files = targets[i % len(targets)]
            shutil.copytree(root / base, path / base)
            file = path / base / files[rng.integers(len(files))]
            content = bytearray(file.read_bytes())
            at = int(rng.integers(8 * len(content)))
            content[at // 8] ^= 1 << at % 8
            file.write_bytes(content)
            flips[group] += 1
            for use, how, why in uses(path / base, right[base], file):
                totals.setdefault((group, use), Counter())[how] += 1
                if how in damages.RESULTS[2:]:
                    faults.append(f"- {base}, {file.name}, bit {at}, {use}: {how} {why}")
            shutil.rmtree(path)
    rows = [
        [group, flips[group], use, *(totals[group, use][how] for how in damages.RESULTS)]
        for group, use in sorted(totals)
    ]
    lines = [
        f"{count} flips of one bit, of files of a finished and an unfinished run in turn. "
        "Columns as for damaged run directories.",
        "",
        *table(["file", "flips", "use", *damages.RESULTS], rows),
    ]
    return [*lines, "", *faults] if faults else lines


if __name__ == "__main__":
    sys.exit(main("bitflips", TITLE, campaign, count=2400))

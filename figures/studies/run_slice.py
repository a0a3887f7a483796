"""Run some runs of a study one after the other, until a time of day; resume what was begun.

    python figures/studies/run_slice.py STUDY SWEEP 'coupled-0-*seed1' 'static-*' --until 22:05

Patterns name runs (one that matches none lists some names) and are taken in order. SWEEP is the
folder of a sweep: the runs are those that ``topokit sweep STUDY --out SWEEP`` would make, which
goes on with them, and so does this script when it is called again. Runs that are cut off stay as
they are after their last epoch.
"""

import argparse
import datetime as dt
from fnmatch import fnmatchcase
from pathlib import Path

from topokit.experiments.runs import resume, run
from topokit.experiments.study import load_study


def chosen(study, patterns):
    """Return the planned runs that match, in the order of the patterns, each once."""
    planned = {run.name: run for run in load_study(study).runs()}
    found = {}
    for pattern in patterns:
        names = [name for name in planned if fnmatchcase(name, pattern)]
        if not names:
            some = ", ".join(list(planned)[:3])
            raise SystemExit(f"expected a pattern of run names ({some}, ...), got {pattern!r}")
        found |= {name: planned[name] for name in names}
    return found


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("sweep", type=Path)
    parser.add_argument("patterns", nargs="+", metavar="PATTERN")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--until", type=dt.time.fromisoformat, default=dt.time.max)
    options = parser.parse_args()

    def over(epoch, _):
        if dt.datetime.now().time() >= options.until:
            raise KeyboardInterrupt

    for name, planned in chosen(options.study, options.patterns).items():
        path = options.sweep / "runs" / name
        begun = (path / "checkpoint.pt").is_file()
        try:
            if begun:
                history = resume(path, data_dir=options.data_dir, progress=over)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                history = run(planned.config, path, data_dir=options.data_dir, progress=over)
        except KeyboardInterrupt:
            print(f"{name}: stopped")
            return
        print(f"{name}: {len(history.epochs)} epochs", flush=True)


if __name__ == "__main__":
    main()

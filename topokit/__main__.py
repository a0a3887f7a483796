"""Run the command ``topokit`` as ``python -m topokit``."""

import sys

from topokit.cli import main

sys.exit(main())

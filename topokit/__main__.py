"""``python -m topokit`` is the command ``topokit``."""

import sys

from topokit.cli import main

sys.exit(main())

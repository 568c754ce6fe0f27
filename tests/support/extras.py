"""The extra ``uvloop``, kept beside the environment: in it, every test would run in that loop."""

from __future__ import annotations

import sys
from pathlib import Path

UVLOOP = Path(sys.prefix) / "uvloop"  # scripts/test installs it there

"""What is kept beside the environment, because in it every process would be another one."""

from __future__ import annotations

import sys
from pathlib import Path

# scripts/test installs them there
UVLOOP = Path(sys.prefix) / "uvloop"
OPENTELEMETRY = Path(sys.prefix) / "opentelemetry"  # its SDK, and an exporter

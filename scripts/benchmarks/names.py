"""Names and numbers that all sides share."""

from __future__ import annotations

from pathlib import Path

KEY = "bench"
GROUP = "bench_workers"
HOME = Path(__file__).resolve().parents[2] / ".bench"  # what the others need
COUNT = 100  # most messages per read where both sides are told so

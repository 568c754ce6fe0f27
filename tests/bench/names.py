"""Names and numbers that all sides share."""

from __future__ import annotations

KEY = "bench"
GROUP = "bench_workers"
COUNT = 100  # most messages per read where both sides are told so

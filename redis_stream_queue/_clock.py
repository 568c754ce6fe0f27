"""Clocks, named by use. Both go on while the machine is suspended only where the kernel can."""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def mono_ms() -> int:
    """Milliseconds for durations and deadlines; the same in all processes of the machine."""
    if _BOOTTIME is None:
        return time.monotonic_ns() // 1_000_000
    return time.clock_gettime_ns(_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the epoch, for what is stored."""
    return time.time_ns() // 1_000_000

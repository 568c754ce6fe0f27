"""Clocks, named by use. Both go on while the machine is suspended only where the kernel can."""

from __future__ import annotations

import functools
import time

_mono_ns = (
    functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)


def mono_ms() -> int:
    """Milliseconds for durations and deadlines; the same in all processes of the machine."""
    return _mono_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the epoch, for what is stored."""
    return time.time_ns() // 1_000_000

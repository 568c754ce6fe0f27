"""Clocks, named by use, and spans of time for people to read.

Both clocks go on while the machine is suspended only where the kernel can.
"""

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


def span_text(ms: int) -> str:
    """A span for people to read, such as ``1.5 h`` or ``250 ms``."""
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size_ms:
            return f"{ms / size_ms:.1f} {unit}"
    return f"{ms} ms"

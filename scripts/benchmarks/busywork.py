"""A fixed amount of work for the processor: iterations, never a time, so that contention shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

Work = Callable[[int], None]
SAMPLE_NS = 20_000_000


def burn(iterations: int) -> None:
    """Plain Python; holds the GIL like any Python code."""
    x = 1
    for _ in range(iterations):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF


def digest(iterations: int) -> None:
    """OpenSSL; lets go of the GIL for the whole time."""
    import hashlib  # costs memory, and only these handlers need it

    hashlib.pbkdf2_hmac("sha256", b"bench", b"salt", max(iterations, 1))


WORKS: dict[str, Work] = {"burn": burn, "digest": digest}


def iterations_per_ms(work: Work) -> float:
    """How many iterations take a millisecond here while nothing else runs."""
    count = 100
    while _elapsed_ns(work, count) < SAMPLE_NS:
        count *= 2
    return median(count * 1e6 / _elapsed_ns(work, count) for _ in range(7))


def _elapsed_ns(work: Work, count: int) -> int:
    begin = time.perf_counter_ns()
    work(count)
    return time.perf_counter_ns() - begin

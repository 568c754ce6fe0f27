"""What a message does, whoever carries it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ..busywork import burn
from ..notes import note

URL_ENV = "BENCH_URL"


def nothing(number: int) -> None:
    now = time.monotonic_ns()
    note(now, now)


def work(iterations: int) -> None:
    begin = time.monotonic_ns()
    burn(iterations)
    note(begin, time.monotonic_ns())


def push_main(push: Callable[[str, int, int], None]) -> None:
    """The command line of a peer: push, and say how long it took."""
    kind, count, iterations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    push(kind, 1, 1)  # connected
    begin = time.perf_counter()
    push(kind, count, iterations)
    print(time.perf_counter() - begin)

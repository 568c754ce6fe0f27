"""Work without any queue: ``python -m scripts.benchmarks.busy WORK N:COUNT [N:COUNT]``.

Says "ready", waits for a line, does COUNT times N iterations of each kind, noting begin and end of
each as the handlers do, and says when it began and ended. The long ones lie evenly between.
"""

from __future__ import annotations

import sys
import time

from .busywork import WORKS
from .notes import note


def main(kind: str, *portions: str) -> None:
    work = WORKS[kind]
    work(1)
    amounts = _mixed([tuple(map(int, portion.split(":"))) for portion in portions])
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic_ns()
    for iterations in amounts:
        begin = time.monotonic_ns()
        work(iterations)
        note(begin, time.monotonic_ns())
    print(started, time.monotonic_ns(), flush=True)


def _mixed(portions: list[tuple[int, ...]]) -> list[int]:
    placed = [
        ((index + 0.5) / count, iterations)
        for iterations, count in portions
        for index in range(count)
    ]
    return [iterations for _, iterations in sorted(placed)]


if __name__ == "__main__":
    main(*sys.argv[1:])

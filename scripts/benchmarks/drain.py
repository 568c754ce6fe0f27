"""Drain of messages that need no work: how much of the raw loop's rate is left.

The pools run on default settings, as users do; with the raw loop's batches they are there, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from .bench import Bench
from .figures import Figure, Goal, ratio_at_least
from .names import COUNT
from .processes import consumers, pool, raw_loops
from .server import BenchServer

LABELS = {
    "batch": "batch",
    "batch_async": "batch, async",
    "each": "@per_message",
    "each_async": "@per_message, async",
}
GOALS = {("batch", 2): 0.80, ("batch_async", 2): 0.80, ("each", 2): 0.50, ("each_async", 2): 0.50}
SAME_COUNT = ("--batch-size", str(COUNT))

Setting = Callable[[], AbstractContextManager[object]]


@dataclass
class _Case:
    name: str
    processes: int
    setting: Setting
    goal: Goal | None = None
    ours: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        cases = list(_cases(bench, server))
        count = bench.size(200_000, 10_000)
        for _ in bench.each_round():
            for case in cases:
                raw = partial(raw_loops, server, case.processes)
                case.base.append(_rate(server, raw, count))
                case.ours.append(_rate(server, case.setting, count))
    return [Figure(c.name, "msg/s", c.ours, c.base, _raw(c), c.goal) for c in cases]


def _raw(case: _Case) -> str:
    return f"{case.processes} raw loop" + ("s" if case.processes > 1 else "")


def _cases(bench: Bench, server: BenchServer) -> list[_Case]:
    cases = [
        _Case(f"consumer, {label}", 1, partial(consumers, server, "library", handler, count=1))
        for handler, label in LABELS.items()
    ]
    for workers in (1, 2, 4):
        for handler, label in LABELS.items():
            least = GOALS.get((handler, workers))
            cases.append(
                _Case(
                    f"pool of {workers}, {label}",
                    workers,
                    partial(pool, server, handler, workers, cwd=bench.new_directory()),
                    None if least is None else ratio_at_least(least),
                )
            )
    for handler in ("batch", "each"):
        cases.append(
            _Case(
                f"pool of 2, {LABELS[handler]}, batches of {COUNT}",
                2,
                partial(pool, server, handler, 2, *SAME_COUNT, cwd=bench.new_directory()),
            )
        )
    return cases


def _rate(server: BenchServer, setting: Setting, count: int) -> float:
    """Messages per second from the first read to the last acknowledgement."""
    server.empty()
    with setting():
        started = server.fill(count)
        ended = server.wait_done()
    return count * 1e9 / (ended - started)

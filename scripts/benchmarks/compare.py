"""Celery, RQ, Dramatiq and redis-stream-queue 0.1.3 on the same server with the same tasks, beside
ours and the raw loop.

Two workers each. Messages are pushed first; the drain then counts from the start of the first to
the end of the last message, as the handlers note them, so booting does not count.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from . import original
from .bench import Bench
from .boot_memory import SETTLE_S, pss_mb
from .busywork import burn, iterations_per_ms
from .figures import Figure
from .notes import count_notes, read_notes
from .server import BenchServer
from .systems import RAW, SYSTEMS, System

WORK_MS = 2
TIMEOUT_S = 120.0
PUSH, DRAIN, WORK, MEMORY = "push", "drain, no work", f"drain, {WORK_MS} ms", "memory, 2 workers"

_Values = dict[str, list[float]]


def run(bench: Bench) -> list[Figure]:
    original.install()
    for system in SYSTEMS:
        system.install()
    iterations = round(WORK_MS * iterations_per_ms(burn))
    with BenchServer(tcp=True) as server:  # 0.1.3 knows no other way
        one = _Comparison(bench, server, iterations)
        for _ in bench.each_round():
            for system in (RAW, *SYSTEMS):
                bench.say(system.name)
                one.measure(system)
    return one.figures()


class _Comparison:
    def __init__(self, bench: Bench, server: BenchServer, iterations: int) -> None:
        self._bench = bench
        self._server = server
        self._iterations = iterations
        self._values: dict[str, _Values] = defaultdict(lambda: defaultdict(list))

    def figures(self) -> list[Figure]:
        return [
            Figure(f"{what}: {system.name}", unit, of[system.name], of.get(RAW.name, ()), RAW.name)
            for what, unit in (
                (PUSH, "msg/s"),
                (DRAIN, "msg/s"),
                (WORK, "msg/s"),
                (MEMORY, "MB"),
            )
            for of in [self._values[what]]
            for system in SYSTEMS
        ]

    def measure(self, system: System) -> None:
        note = self._note(system)
        many = system.many // (10 if self._bench.quick else 1)
        pushed_s, rate, memory = self._drain(system, "nothing", many)
        if system is not RAW:  # it has no way of its own to push
            note(PUSH, many / pushed_s)
        note(DRAIN, rate)
        note(MEMORY, memory)
        _, rate, _ = self._drain(system, "work", self._bench.size(4000, 400))
        note(WORK, rate)

    def _note(self, system: System) -> Callable[[str, float], None]:
        return lambda what, value: self._values[what][system.name].append(value)

    def _drain(self, system: System, kind: str, count: int) -> tuple[float, float, float]:
        """Seconds to push, messages per second, MB at rest afterwards."""
        self._server.empty()
        pushed_s = system.push(self._server, kind, count, self._iterations)
        count += 1  # the one with which the pusher connected
        notes = self._bench.new_directory()
        with system.workers(self._server, kind, notes) as pids:
            self._server.wait(lambda: count_notes(str(notes)) == count, TIMEOUT_S, "all are done")
            time.sleep(SETTLE_S)
            memory = sum(map(pss_mb, pids()))
        done = read_notes(str(notes))
        elapsed_ns = max(n.second for n in done) - min(n.first for n in done)
        return pushed_s, count * 1e9 / elapsed_ns, memory

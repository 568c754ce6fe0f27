"""kill -9 of a busy worker beside an idle one: until its message runs there."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from .bench import Bench
from .figures import Figure, below
from .names import GROUP, KEY
from .notes import Note, count_notes, read_notes
from .processes import modules, pool
from .server import BenchServer

TIMEOUT_S = 15.0
SMALL = '{"number": 1}'


def run(bench: Bench) -> list[Figure]:
    kills = bench.size(20, 5)
    ours: list[float] = []
    base: list[float] = []
    with BenchServer() as server:
        base += _raw_ms(bench, server, kills)
        ours += _pool_ms(bench, server, kills)
    return [
        Figure(
            "pool of 2, worker killed",
            "ms",
            ours,
            base,
            "death seen, XPENDING, XCLAIM",
            below(15, "ms"),
        )
    ]


def _pool_ms(bench: Bench, server: BenchServer, kills: int) -> list[float]:
    """Kill the worker that hangs in a message, again and again in one pool."""
    server.empty()
    notes = bench.new_directory()
    taken: list[float] = []
    with pool(server, "hold", 2, cwd=bench.new_directory(), notes=notes) as process:
        for number in range(1, kills + 1):
            bench.say(f"kill {number} of {kills}")
            server.client.xadd(KEY, {"data": SMALL})
            victim = _wait_notes(server, notes, 2 * number - 1)[-1]
            server.wait_blocked(1)
            killed = time.monotonic_ns()
            os.kill(victim.pid, signal.SIGKILL)
            taken.append((_wait_notes(server, notes, 2 * number)[-1].first - killed) / 1e6)
            server.wait_done(TIMEOUT_S)
            server.wait_blocked(2)
            assert process.alive
    return taken


def _raw_ms(bench: Bench, server: BenchServer, kills: int) -> list[float]:
    """The least there is: a process sees the death of its child and claims what that held."""
    taken: list[float] = []
    for _ in range(kills):
        server.empty()
        notes = bench.new_directory()
        with modules(1, "raw", "hold", server.url, notes=notes) as [child]:
            server.client.xadd(KEY, {"data": SMALL})
            _wait_notes(server, notes, 1)
            taken.append(_claim_after_death_ms(server, child))
    return taken


def _claim_after_death_ms(server: BenchServer, child: subprocess.Popen[str]) -> float:
    watch = os.pidfd_open(child.pid)
    try:
        killed = time.monotonic_ns()
        os.kill(child.pid, signal.SIGKILL)
        select.select([watch], [], [])
        held = server.client.xpending_range(
            KEY, GROUP, "-", "+", 10, consumername=f"raw-{child.pid}"
        )
        claimed = server.client.xclaim(KEY, GROUP, "mate", 0, [held[0]["message_id"]])
        assert len(claimed) == 1
        return (time.monotonic_ns() - killed) / 1e6
    finally:
        os.close(watch)


def _wait_notes(server: BenchServer, notes: Path, count: int) -> list[Note]:
    """All notes in the order of time, once there are so many."""
    server.wait(lambda: count_notes(str(notes)) >= count, TIMEOUT_S, f"{count} executions")
    return sorted(read_notes(str(notes)), key=lambda note: note.first)

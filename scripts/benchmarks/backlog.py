"""Much in the pending list, much in the stream: does anything get slower?

The pending entries belong to a consumer that has been silent for an hour, so all of them are due.
What the pool sends to the server meanwhile is read from SLOWLOG.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from . import slowlog
from .bench import Bench
from .figures import Figure, at_least, at_most, ratio_above
from .processes import pool, raw_loops
from .server import BenchServer

WORKERS = 2
DEAD = "dead-consumer"
HOUR_MS = 3_600_000
BEGIN_S = 0.5  # from ready until the recovery or the drain is in full swing
FAST_MS = 10.0
MOST_ASKED = 20_000  # entries that one command may look at, whatever the size of the list
WINDOW_S = 5.0
ENTRY_STEP = 1_000_000

Setting = Callable[[], AbstractContextManager[object]]


@dataclass
class _Load:
    """Figures of one size; ``sent`` is what the pools sent in all rounds."""

    size: int
    rates: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    recovered: list[float] = field(default_factory=list)
    sent: list[slowlog.Sent] = field(default_factory=list)

    def command_figures(self, name: str) -> list[Figure]:
        """How long they took, and the most that one of them asked for."""
        times = sorted(command.took_ms for command in self.sent if not command.inside_script)
        fast = sum(took < FAST_MS for took in times) / len(times) * 100
        largest = max(command.asks_for for command in self.sent)
        return [
            Figure(f"{name}: commands below 10 ms", "%", [fast], goal=at_least(99.9, "%")),
            Figure(f"{name}: slowest command", "ms", [times[-1]]),
            Figure(
                f"{name}: most entries per command",
                "",
                [largest],
                goal=at_most(MOST_ASKED, "entries"),
            ),
        ]


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        slowlog.stop(server.client)
        return _pending_figures(bench, server) + _stream_figures(bench, server)


# -- a long pending list ---------------------------------------------------------------------------


def _pending_figures(bench: Bench, server: BenchServer) -> list[Figure]:
    sizes = (10, 10_000, bench.size(1_000_000, 50_000))
    loads = [_Load(size) for size in sizes]
    count = bench.size(200_000, 10_000)
    for _ in bench.each_round():
        for load in loads:
            load.base.append(_new_per_s(bench, server, _Load(0), count))
            load.rates.append(_new_per_s(bench, server, load, count))
    figures = []
    for load in loads:
        name = f"{load.size:,} pending"
        versus = "the same, none pending"
        figures += [
            Figure(f"{name}: new", "msg/s", load.rates, load.base, versus, ratio_above(0.8)),
            Figure(f"{name}: old meanwhile", "msg/s", load.recovered),
            *load.command_figures(name),
        ]
    return figures


def _new_per_s(bench: Bench, server: BenchServer, load: _Load, count: int) -> float:
    """Rate at which new messages are read while the old ones are being recovered."""
    server.empty()
    server.abandon(load.size, DEAD, HOUR_MS)
    server.settle()
    with pool(server, "batch", WORKERS, cwd=bench.new_directory(), wait=False):
        slowlog.start(server.client)
        time.sleep(BEGIN_S)
        left = _held_by_the_dead(server)
        slowlog.stop(server.client)
        started = server.fill(count)
        slowlog.start(server.client)
        elapsed_s = (server.wait_read() - started) / 1e9
        load.recovered.append((left - _held_by_the_dead(server)) / elapsed_s)
        load.sent += _sent(server)
    return count / elapsed_s


def _sent(server: BenchServer) -> list[slowlog.Sent]:
    slowlog.stop(server.client)
    sent = slowlog.sent(server.client)
    slowlog.forget(server.client)
    return sent


def _held_by_the_dead(server: BenchServer) -> int:
    return next((c["pending"] for c in server.consumers() if c["name"] == DEAD.encode()), 0)


# -- a long stream ---------------------------------------------------------------------------------


def _stream_figures(bench: Bench, server: BenchServer) -> list[Figure]:
    """A stream with so many unread entries, filled up again before each measurement."""
    load = _Load(bench.size(10_000_000, 1_000_000))
    window_s = bench.size(int(WINDOW_S * 10), 10) / 10
    server.empty()
    for _ in bench.each_round():
        raw = partial(raw_loops, server, WORKERS, wait=False)
        _fill_up(bench, server, load.size)
        load.base.append(_read_per_s(server, raw, window_s))
        _sent(server)  # not ours
        _fill_up(bench, server, load.size)
        ours = partial(pool, server, "batch", WORKERS, cwd=bench.new_directory(), wait=False)
        load.rates.append(_read_per_s(server, ours, window_s))
        load.sent += _sent(server)
    name = f"{load.size:,} in the stream"
    return [
        Figure(f"{name}: drain", "msg/s", load.rates, load.base, f"{WORKERS} raw loops"),
        *load.command_figures(name),
    ]


def _fill_up(bench: Bench, server: BenchServer, size: int) -> None:
    while (missing := size - server.group()["lag"]) > 0:
        bench.say(f"{missing:,} more entries")
        server.fill_many(min(missing, ENTRY_STEP))
    server.settle()


def _read_per_s(server: BenchServer, setting: Setting, window_s: float) -> float:
    """Messages per second in a window that begins when the drain is under way."""
    before = server.group()["entries-read"] or 0
    with setting():
        server.wait(
            lambda: (server.group()["entries-read"] or 0) > before, 30, "the drain has begun"
        )
        time.sleep(BEGIN_S)
        slowlog.start(server.client)
        read, began = server.group()["entries-read"], time.monotonic()
        time.sleep(window_s)
        return float((server.group()["entries-read"] - read) / (time.monotonic() - began))

"""What was done to whom and when: the faults, and which of them can explain what."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time

MASTER_LAG_S = 0.84  # a master renews at the latest so long after its worker did (min_idle: 1 s)
TAIL_S = 0.05  # how long a fault's effects may outlast it


@dataclass
class Fault:
    """One fault. Times are seconds since the epoch; end_s: inf while it lasts.

    host: whom it hit, "" = all. pool: the life of a pool (``A3``). pid: the one process.
    severs: it separates the host from Redis, or stops all of the host.
    ids: messages that it dropped from the pending list.
    """

    kind: str
    begin_s: float
    end_s: float = float("inf")
    host: str = ""
    pool: str = ""
    pid: int = 0
    severs: bool = False
    ids: frozenset[str] = frozenset()

    def overlaps(self, begin_s: float, end_s: float) -> bool:
        return self.begin_s <= end_s and begin_s <= self.end_s + TAIL_S

    def __str__(self) -> str:
        whom = " ".join(filter(None, [self.pool or self.host, f"pid {self.pid}" * bool(self.pid)]))
        return f"{self.kind} {whom} ({self.end_s - self.begin_s:.2f} s)"


@dataclass
class Faults:
    """All faults of a run; safe to use from several threads."""

    all: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, **whom: object) -> Fault:
        """A fault that begins now and has not ended."""
        fault = Fault(kind, time(), **whom)  # type: ignore[arg-type]
        with self._lock:
            self.all.append(fault)
        return fault

    @contextmanager
    def during(self, kind: str, **whom: object) -> Iterator[Fault]:
        """A fault that lasts as long as the block."""
        fault = self.add(kind, **whom)
        try:
            yield fault
        finally:
            fault.end_s = time()

    def moment(self, kind: str, **whom: object) -> Fault:
        """A fault without duration: record it before doing it."""
        fault = self.add(kind, **whom)
        fault.end_s = fault.begin_s
        return fault

    def killed_at(self, pid: int, pool: str) -> float | None:
        """When we killed this process, if we did."""
        for fault in self.all:
            if fault.kind == "kill" and fault.pid == pid and fault.pool == pool:
                return fault.begin_s
        return None

    def dropped(self, entry_id: str) -> list[Fault]:
        """When somebody deleted the consumer that held this message."""
        return [f for f in self.all if entry_id in f.ids]

    def slow(self, host: str, at_s: float) -> bool:
        """Was the network of this host slow at this moment?"""
        return any(
            f.kind in ("slow network", "slow line") and f.host == host and f.overlaps(at_s, at_s)
            for f in self.all
        )

    def has_run_for(self, pid: int, pool: str, since_s: float, for_s: float) -> float:
        """When a process had been running for so long since then; stopped time does not count."""
        until_s = since_s + for_s
        stops = [f for f in self.all if f.kind == "stop" and (f.pid, f.pool) == (pid, pool)]
        for stop in sorted(stops, key=lambda f: f.begin_s):
            if stop.overlaps(since_s, until_s):
                until_s += stop.end_s - max(stop.begin_s, since_s)
        return until_s

    def severed(self, host: str, pool: str, pid: int) -> list[Fault]:
        """When a process was separated from Redis, or stopped with nobody to keep its leases.

        A stopped worker has a master that renews for it, a worker without a master renews for
        itself: only both together count.
        """
        severed = [f for f in self.all if f.severs and f.host in ("", host)]
        stopped = [f for f in self.all if f.kind == "stop" and f.pid == pid and f.pool == pool]
        helpless = [
            f for f in self.all if f.pool == pool and f.kind in ("stop master", "kill master")
        ]
        for one in stopped:
            for other in helpless:
                # The master may not yet have renewed what its worker no longer did.
                begin_s = max(one.begin_s, other.begin_s - MASTER_LAG_S)
                end_s = min(one.end_s, other.end_s)
                if other.kind != "stop master":
                    end_s = one.end_s
                if begin_s < end_s:
                    severed.append(Fault(f"stop + {other.kind}", begin_s, end_s, host, pool, pid))
        return severed


def longest_span_s(faults: list[Fault], begin_s: float, end_s: float, gap_s: float) -> float:
    """Length of the longest chain of faults that touches this time, up to its end.

    Faults less than ``gap_s`` apart count as one.
    """
    longest = start_s = until_s = 0.0
    for fault in sorted(faults, key=lambda f: f.begin_s):
        if not fault.overlaps(begin_s - gap_s, end_s):
            continue
        if not until_s or fault.begin_s > until_s + gap_s:
            start_s = fault.begin_s
        until_s = max(until_s, min(fault.end_s, end_s))
        longest = max(longest, until_s - start_s)
    return longest

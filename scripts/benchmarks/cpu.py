"""Messages that need the processor, beside two busy loops without any queue.

The speed of a machine that is shared with others changes by half within seconds, so the busy loops
and the pool take turns, a second or so each. The pool idles meanwhile, which costs the busy loops
half a percent.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from dataclasses import dataclass, field
from statistics import mean

from .bench import Bench
from .busywork import WORKS, iterations_per_ms
from .figures import Figure, Goal, at_most, ratio_at_least
from .notes import Note, read_notes
from .processes import modules, pool
from .server import BenchServer

WORKERS = 2
LONG_SHARE, LONGER = 0.01, 200  # of the heavy-tailed mix
SEED = 7
RARELY_S = 0.5
BUSY = "2 busy loops"


@dataclass
class _Case:
    """``turns`` times ``count`` messages of ``ms``; ``longer``: how much longer one of 100 is."""

    name: str
    work: str
    ms: float
    count: int
    turns: int = 1
    longer: int = 1
    goal: Goal | None = None
    ours: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # see _longest_wait_ms


def run(bench: Bench) -> list[Figure]:
    per_ms = {name: iterations_per_ms(work) for name, work in WORKS.items()}
    cases = _cases(bench)
    with BenchServer() as server:
        for _ in bench.each_round():
            for case in cases:
                _measure(bench, server, case, max(round(case.ms * per_ms[case.work]), 1))
    figures = [Figure(c.name, "msg/s", c.ours, c.base, BUSY, c.goal) for c in cases]
    for case in cases:
        if case.longer > 1:
            goal = at_most(250, "ms") if case.work == "digest" else None
            name = f"{case.name}: idle while messages wait"
            figures.append(Figure(name, "ms", case.waits, goal=goal))
    return figures


def _cases(bench: Bench) -> list[_Case]:
    turns = bench.size(6, 1)
    mix = bench.size(6000, 600)
    even, tail = ratio_at_least(0.97), ratio_at_least(0.95)
    return [
        _Case("0.1 ms", "burn", 0.1, bench.size(10_000, 4000), turns),
        _Case("2 ms", "burn", 2, bench.size(1000, 400), turns, goal=even),
        _Case("50 ms", "burn", 50, bench.size(160, 20)),
        _Case("2 ms, GIL let go", "digest", 2, bench.size(1000, 400), turns, goal=even),
        _Case("mix of 1 and 200 ms", "burn", 1, mix, longer=LONGER, goal=tail),
        _Case("mix of 1 and 200 ms, GIL let go", "digest", 1, mix, longer=LONGER, goal=tail),
    ]


def _measure(bench: Bench, server: BenchServer, case: _Case, short: int) -> None:
    """One round: the busy loops before and after each turn of the pool."""
    server.empty()
    notes = bench.new_directory()
    with pool(server, "work", WORKERS, cwd=bench.new_directory(), notes=notes):
        base, ours = [_busy_rate(bench, case, short)], []
        for _ in range(case.turns):
            ours.append(_pool_rate(server, case, short, str(notes)))
            base.append(_busy_rate(bench, case, short))
    case.ours.append(mean(ours))
    case.base.append(mean(base))


def _long_ones(case: _Case) -> list[int]:
    """Which messages are long: an even number, the same at random places each time."""
    if case.longer == 1:
        return []
    many = int(case.count * LONG_SHARE / WORKERS) * WORKERS
    return sorted(random.Random(SEED).sample(range(1, case.count + 1), many))


# -- without a queue -------------------------------------------------------------------------------


def _busy_rate(bench: Bench, case: _Case, short: int) -> float:
    """Two processes, each with half of the short ones and half of the long ones."""
    long = len(_long_ones(case)) // WORKERS
    portions = [f"{short}:{case.count // WORKERS - long}"]
    if long:
        portions.append(f"{short * case.longer}:{long}")
    notes = bench.new_directory()
    with modules(WORKERS, "busy", case.work, *portions, notes=notes) as children:
        for child in children:
            _line(child)
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        times = [tuple(map(int, _line(child).split())) for child in children]
    began, ended = min(t[0] for t in times), max(t[1] for t in times)
    return case.count * 1e9 / (ended - began)


def _line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"a busy loop ended early, exit code {child.wait()}"
    return line


# -- the pool --------------------------------------------------------------------------------------


def _pool_rate(server: BenchServer, case: _Case, short: int, notes: str) -> float:
    payload = json.dumps({"do": case.work, "n": short})
    long_payload = json.dumps({"do": case.work, "n": short * case.longer})
    before = time.monotonic_ns()
    started = server.fill(case.count, payload, long_payload, _long_ones(case))
    server.wait_done(poll_s=RARELY_S)  # looking takes processor time from the workers
    executions = [note for note in read_notes(notes) if note.first >= before]
    assert len(executions) == case.count, f"{len(executions)} executions of {case.count} messages"
    case.waits.append(_longest_wait_ms(executions, started))
    return case.count * 1e9 / (max(e.second for e in executions) - started)


def _longest_wait_ms(executions: list[Note], started_ns: int) -> float:
    """The longest time that a worker was idle while some message had not begun anywhere."""
    last_begin = max(e.first for e in executions)
    by_worker: dict[int, list[Note]] = {}
    for execution in executions:
        by_worker.setdefault(execution.pid, []).append(execution)
    if len(by_worker) < WORKERS:  # one of them never got anything
        return (last_begin - started_ns) / 1e6
    longest = 0
    for mine in by_worker.values():
        ends = [started_ns, *(e.second for e in mine)]
        begins = [*(e.first for e in mine), last_begin]
        longest = max(longest, *(b - e for e, b in zip(ends, begins, strict=True)))
    return longest / 1e6

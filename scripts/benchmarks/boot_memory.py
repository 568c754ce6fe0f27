"""What a pool costs before it does anything: time to boot, memory, and what it does when idle."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil

from tests.support.pool import PoolProcess

from .bench import Bench
from .figures import Figure, below
from .names import KEY
from .notes import count_notes, read_notes
from .processes import modules, pool, raw_loops
from .server import BenchServer

WORKERS = 2
SETTLE_S = 2.0
TIMEOUT_S = 30.0
MB = 1e6
FLAT_PERCENT = 5.0


def run(bench: Bench) -> list[Figure]:
    with BenchServer() as server:
        return [
            _boot(bench, server),
            *_at_rest(bench, server),
            _growth(bench, server),
        ]


# -- boot ------------------------------------------------------------------------------------------


def _boot(bench: Bench, server: BenchServer) -> Figure:
    ours: list[float] = []
    base: list[float] = []
    cwd = bench.new_directory()
    with pool(_emptied(server), "stamp", WORKERS, cwd=cwd):
        pass  # compiles what has never been compiled
    for _ in range(bench.size(5, 1) * bench.rounds):
        notes = _with_one_message(bench, server)
        with modules(1, "raw", "stamp", server.url, notes=notes):
            base.append(_first_start_ms(server, notes))
        notes = _with_one_message(bench, server)
        with pool(server, "stamp", WORKERS, cwd=cwd, notes=notes, wait=False):
            ours.append(_first_start_ms(server, notes))
    return Figure("boot to the first message", "ms", ours, base, "1 raw loop", below(300, "ms"))


def _emptied(server: BenchServer) -> BenchServer:
    server.empty()
    return server


def _with_one_message(bench: Bench, server: BenchServer) -> Path:
    """A stream with a message that says when it was put there; returns where to look for notes."""
    server.empty()
    server.client.xadd(KEY, {"data": json.dumps({"at": time.monotonic_ns()})})
    return bench.new_directory()


def _first_start_ms(server: BenchServer, notes: Path) -> float:
    server.wait(lambda: count_notes(str(notes)) == 1, TIMEOUT_S, "the first message is handled")
    [note] = read_notes(str(notes))
    return (note.second - note.first) / 1e6


# -- at rest ---------------------------------------------------------------------------------------


def _at_rest(bench: Bench, server: BenchServer) -> list[Figure]:
    window_s = bench.size(20, 4)
    worker, whole, cpu, commands = [], [], [], []
    raw_worker, raw_whole, raw_cpu, raw_commands = [], [], [], []
    for _ in bench.each_round():
        server.empty()
        with raw_loops(server, WORKERS) as children:
            pids = [child.pid for child in children]
            time.sleep(SETTLE_S)
            raw_worker.append(max(map(pss_mb, pids)))
            raw_whole.append(sum(map(pss_mb, pids)))
            percent, per_s = _idle(server, pids, window_s)
            raw_cpu.append(percent)
            raw_commands.append(per_s)
        server.empty()
        with pool(server, "batch", WORKERS, cwd=bench.new_directory()) as process:
            time.sleep(SETTLE_S)
            worker.append(max(map(pss_mb, process.workers())))
            whole.append(sum(map(pss_mb, pids_of(process))))
            percent, per_s = _idle(server, pids_of(process), window_s)
            cpu.append(percent)
            commands.append(per_s)
    raw = "2 raw loops"
    return [
        Figure("PSS of a worker", "MB", worker, raw_worker, "1 raw loop", below(16, "MB")),
        Figure("PSS of a pool of 2, all of it", "MB", whole, raw_whole, raw, below(70, "MB")),
        Figure("idle pool, of one core", "%", cpu, raw_cpu, raw, below(1, "%")),
        Figure("idle pool, per worker", "cmd/s", commands, raw_commands, raw, below(5, "cmd/s")),
    ]


def _idle(server: BenchServer, pids: list[int], window_s: float) -> tuple[float, float]:
    """Percent of a core that these processes use, and commands per second and worker."""
    calls, cpu_s, begin = server.calls(), sum(map(_cpu_s, pids)), time.monotonic()
    time.sleep(window_s)
    elapsed_s = time.monotonic() - begin
    used_s = sum(map(_cpu_s, pids)) - cpu_s
    return used_s / elapsed_s * 100, (server.calls() - calls) / elapsed_s / WORKERS


def _cpu_s(pid: int) -> float:
    """From the scheduler's own clock: the usual one counts in hundredths of a second."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def pids_of(process: PoolProcess) -> list[int]:
    """Master, template and workers."""
    return [p.pid for p in process.processes()]


def pss_mb(pid: int) -> float:
    """The process's share of memory, in MB of a million bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(kilobytes) * 1024 / MB


# -- under load ------------------------------------------------------------------------------------


def _growth(bench: Bench, server: BenchServer) -> Figure:
    """Memory of the whole pool after the last message, beside that after a tenth of them."""
    total = bench.size(1_000_000, 50_000)
    portion = total // 10
    server.empty()
    with pool(server, "each", WORKERS, cwd=bench.new_directory()) as process:
        sizes = []
        for number in range(10):
            bench.say(f"memory after {(number + 1) * portion} messages")
            server.fill(portion)
            server.wait_done()
            time.sleep(SETTLE_S / 4)
            sizes.append(sum(map(pss_mb, pids_of(process))))
        assert all(psutil.pid_exists(pid) for pid in process.workers())
    growth = (sizes[-1] - sizes[0]) / sizes[0] * 100
    goal = below(FLAT_PERCENT, "%")
    return Figure(f"growth from {portion:,} to {total:,} messages", "%", [growth], goal=goal)

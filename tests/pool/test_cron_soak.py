"""Periodic messages in the large: hosts whose clocks are wrong, and whose masters are killed again
and again: each tick is one message."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest
import redis

from tests.support.pool import PoolProcess
from tests.support.wrong_clock import wrong_clock

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

TICKS = 1000
SHIFTS_S = (0, 3600, -3600, 1800, -47)
EVERY_MS = 200
NAMES = {f"{kind}-{n}": kind for kind in ("all", "once") for n in range(3)}
APP = f"""
import time
from redis_stream_queue import Every, per_message, stream_handler

print("at", time.time(), flush=True)

@stream_handler("beats", group="g", periodic=[
    Every(name, {EVERY_MS / 1000}, catch_up=kind) for name, kind in {NAMES}.items()
])
@per_message
def handler(message):
    pass
"""


def test_a_thousand_ticks_are_a_thousand_messages(pool_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(redis.Redis.from_url(pool_url, decode_responses=True))
        pools: list[PoolProcess] = []

        def start(host: int) -> PoolProcess:
            cwd = tmp_path / f"{host}-{time.monotonic_ns()}"
            cwd.mkdir()
            env = wrong_clock(cwd, SHIFTS_S[host])
            pool = PoolProcess(APP, "--workers", "1", url=pool_url, cwd=cwd, env=env)
            return stack.enter_context(pool)

        pools = [start(host) for host in range(len(SHIFTS_S))]
        for shift_s, pool in zip(SHIFTS_S, pools, strict=True):
            pool.wait_ready()
            off_s = float(pool.stdout.split()[1]) - time.time()
            assert abs(off_s - shift_s) < 30
        kills = 0
        while server.xlen("beats") < TICKS:
            time.sleep(random.uniform(0.1, 1))
            host = random.randrange(len(pools))
            pools[host].send(signal.SIGKILL)
            pools[host].close()
            pools[host] = start(host)
            kills += 1
        for pool in pools:
            pool.wait_ready(30)
        for pool in pools:
            assert pool.drain() == 0

        found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for _, fields in server.xrange("beats"):
            at_ms = _ms(fields["rsq:tick"])
            found[fields["rsq:cron"]].append((at_ms, int(fields.get("rsq:missed", 0))))
    assert found.keys() == NAMES.keys()
    for name, ticks in found.items():
        times = [at_ms for at_ms, _ in ticks]
        assert times == sorted(set(times)), name
        first, missed = ticks[0]
        due = (times[-1] - first) // EVERY_MS + 1 + missed
        assert sum(1 + missed for _, missed in ticks) == due, name
    assert kills > 5


def _ms(tick: str) -> int:
    return round(datetime.fromisoformat(tick).timestamp() * 1000)

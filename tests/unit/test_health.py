"""Which workers are taken for stuck."""

from __future__ import annotations

import pytest

from redis_stream_queue._clock import mono_ms
from redis_stream_queue.pool.master.health import HealthCheck
from redis_stream_queue.pool.master.limits import POLL_LIMIT_MS, Limits
from redis_stream_queue.pool.master.slots import WorkerRecord
from redis_stream_queue.pool.master.states import WorkerState
from redis_stream_queue.pool.scoreboard import Scoreboard

NOBODY = 2**22 + 1  # a pid that no process has


@pytest.mark.parametrize(
    ("pid", "age_ms", "killed"),
    [
        pytest.param(0, POLL_LIMIT_MS + 1000, False, id="not forked yet"),
        pytest.param(NOBODY, 0, False, id="sent away while it started"),
        pytest.param(NOBODY, POLL_LIMIT_MS + 1000, True, id="and it has not ended since"),
    ],
)
async def test_a_worker_that_never_read_is_stuck_only_once_it_is_old(
    pid: int, age_ms: int, killed: bool
) -> None:
    worker = WorkerRecord(0, 1, 0, Scoreboard().row(0), pid=pid, began_ms=mono_ms() - age_ms)
    worker.move_to(WorkerState.DRAINING)
    ended: list[WorkerRecord] = []
    check = HealthCheck(
        lambda: [worker],
        Limits(),
        lambda: POLL_LIMIT_MS * 10,
        limited=False,
        kill=lambda dead, _: ended.append(dead),
        retire=ended.append,
    )
    await check.look()
    assert ended == ([worker] if killed else [])

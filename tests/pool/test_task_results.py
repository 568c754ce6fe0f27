"""Results of tasks, as those see them who wait for them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_stream_queue import ConfigError, Job, Queue, ResultGone, TaskFailed
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

RESULTS = """
import asyncio, os
from decimal import Decimal
from redis_stream_queue import Queue

queue = Queue("work", retry_delay_ms=20)

@queue.task(result_ttl_s=60)
def double(number: Decimal) -> Decimal:
    return number * 2

@queue.task(result_ttl_s=60, concurrency=10)
async def later(number: int) -> int:
    await asyncio.sleep(0.01)
    return number

@queue.task(result_ttl_s=60, max_deliveries=1)
def fails() -> None:
    raise ValueError("no such photo")

@queue.task(result_ttl_s=60, max_deliveries=1)
def dies() -> None:
    os._exit(7)

@queue.task(result_ttl_s=1)
def brief() -> int:
    return 1

@queue.task(result_ttl_s=60)
def odd() -> object:
    return object()

@queue.task(result_ttl_s=60)
def large(size: int) -> str:
    return "x" * size
"""
MOST_BYTES = 1 << 20  # of a value, the least that servers can be told


def test_results_are_read_by_all_who_wait_while_workers_die(
    pool_url: str, tmp_path: Path, imported: Callable[[str], Any]
) -> None:
    """Each is there once, also of what fails for good, and gone after its time."""
    app = imported(RESULTS)

    async def outcome(job: Job[Any]) -> Any:
        try:
            return await job.result(30)
        except TaskFailed as failed:
            return failed.reason

    async def ask(pool: PoolProcess) -> None:
        wanted: list[tuple[Job[Any], Any]] = []
        for number in range(200):
            wanted.append((await app.double.push(Decimal(number)), Decimal(2 * number)))
            wanted.append((await app.later.push(number), number))
            if number % 50 == 0:
                wanted.append((await app.fails.push(), "max_deliveries"))
        delayed = await app.later.options(delay_ms=300).push(-1)
        wanted += [(await app.dies.push(), "max_deliveries"), (delayed, -1)]
        waits = [
            asyncio.create_task(outcome(job))
            for place, (job, _) in enumerate(wanted)
            for _ in range(1 + place % 5)
        ]
        await asyncio.sleep(0.1)
        os.kill(pool.workers()[0], signal.SIGKILL)
        got = await asyncio.gather(*waits)
        assert got == [
            value for place, (_, value) in enumerate(wanted) for _ in range(1 + place % 5)
        ]
        with pytest.raises(TaskFailed, match="ValueError: no such photo") as failed:
            await (await app.fails.push()).result(10)
        assert (failed.value.type, failed.value.text) == ("ValueError", "no such photo")
        assert "raise ValueError" in failed.value.traceback
        assert failed.value.traceback.count("File ") == 1  # what ran it is not shown
        with pytest.raises(TaskFailed, match=r"returned \(object\) cannot travel"):
            await (await app.odd.push()).result(10)
        cancelled = await app.later.options(delay_ms=60_000).push(1)
        assert await cancelled.status() == "scheduled"
        assert await cancelled.cancel()
        assert await outcome(cancelled) == "cancelled"
        with pytest.raises(ResultGone):
            await app.queue.job("later", "1-1").result(5)
        assert await (await app.queue.push("later", 7)).result(10) == 7  # it knows the task
        elsewhere = Queue("work")  # does not
        job = await elsewhere.options(result_ttl_s=60).push("double", "1.5")
        assert await job.result(10) == "3.0"
        forgotten = await elsewhere.push("double", "1.5")
        with pytest.raises(ConfigError, match=r"queue\.options\(result_ttl_s=3600\)"):
            await forgotten.result(10)
        with pytest.raises(ResultGone):  # none is written, which is seen soon
            await app.queue.job("double", forgotten.id).result(10)
        await elsewhere.close()
        await app.queue.close()

    args = ("--workers", "2")
    with (
        PoolProcess(None, *args, url=pool_url, cwd=tmp_path, target="tasks_app:queue") as pool,
        redis.Redis.from_url(pool_url) as server,
    ):
        pool.wait_ready()
        asyncio.run(ask(pool))
        kept = list(server.scan_iter("*result*"))
        assert len(kept) > 400
        assert {server.llen(key) for key in kept} == {1}
        assert all(0 < server.pttl(key) <= 60_000 for key in kept)
        assert app.double.push_sync(Decimal("1.10")).result_sync(10) == Decimal("2.20")
        usual = server.config_get("proto-max-bulk-len")
        server.config_set("proto-max-bulk-len", MOST_BYTES)
        try:
            with pytest.raises(
                TaskFailed, match=r"2\.1 MB is more than the server takes"
            ) as failed:
                app.large.push_sync(2 * MOST_BYTES).result_sync(10)
        finally:
            server.config_set("proto-max-bulk-len", usual["proto-max-bulk-len"])
        assert failed.value.reason == "too_large"
        assert app.large.push_sync(2 * MOST_BYTES).result_sync(10) == "x" * 2 * MOST_BYTES
        reminder = app.later.options(delay_ms=60_000).push_sync(1)
        assert reminder.status_sync() == "scheduled"
        assert reminder.cancel_sync()
        brief = app.brief.push_sync()
        assert brief.result_sync(10) == 1
        assert brief.status_sync() == "done"
        wait_until(lambda: len(list(server.scan_iter(f"*{brief.id}"))) == 0, 5, "it is gone")
        with pytest.raises(ResultGone):
            brief.result_sync(10)
        assert pool.drain() == 0

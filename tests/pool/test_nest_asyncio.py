"""An app whose async handlers run the event loop anew, as nest_asyncio permits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pool import PoolProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until

APP = """
import asyncio
import nest_asyncio
from redis_stream_queue import per_message, stream_handler

nest_asyncio.apply()

handled = stream_handler("work", group="crew")

async def act():
    loop = asyncio.get_event_loop()
    assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
    await asyncio.sleep(0.001)
    assert loop.run_until_complete(asyncio.sleep(0.001, 6)) == 6

@handled
@per_message
async def one_by_one(message):
    await act()

@handled
@per_message(concurrency=3)
async def side_by_side(message):
    await act()

@handled
async def batch(messages):
    await act()
    return [message.id for message in messages]
"""


@pytest.mark.parametrize("target", ["one_by_one", "side_by_side", "batch"])
def test_a_loop_within_the_loop(
    pool_server: Server, pool_url: str, tmp_path: Path, target: str
) -> None:
    """Each message is handled, and the pool drains at once."""
    redis = pool_server.client()
    how = {"url": pool_url, "cwd": tmp_path, "target": f"app:{target}"}
    with PoolProcess(APP, "--workers", "2", **how) as pool:
        pool.wait_ready()
        for number in range(50):
            redis.xadd("work", {"data": str(number)})
        wait_until(
            lambda: [(g["lag"], g["pending"]) for g in redis.xinfo_groups("work")] == [(0, 0)],
            15,
            "all are acknowledged",
        )
        assert not redis.exists("work_dlq")
        assert pool.drain() == 0
        assert "Traceback" not in pool.stderr

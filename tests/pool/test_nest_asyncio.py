"""An app whose async handlers run the event loop anew, as nest_asyncio permits."""

from __future__ import annotations

from pathlib import Path

from tests.support.pool import PoolProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until

APP = """
import asyncio
import nest_asyncio
from redis_stream_queue import per_message, stream_handler

nest_asyncio.apply()

@stream_handler("work", group="crew")
@per_message(concurrency=3)
async def handler(message):
    loop = asyncio.get_event_loop()
    assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
    await asyncio.sleep(0.001)
    assert loop.run_until_complete(asyncio.sleep(0.001, 6)) == 6
"""


def test_a_loop_within_the_loop(pool_server: Server, pool_url: str, tmp_path: Path) -> None:
    """Each message is handled, and the pool drains at once."""
    redis = pool_server.client()
    with PoolProcess(APP, "--workers", "2", url=pool_url, cwd=tmp_path) as pool:
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

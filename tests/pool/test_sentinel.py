"""redis+sentinel://: library, pool and rsq find the master, and the next one after a failover."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from redis_stream_queue import StreamClient, StreamProducer
from tests.pool.scene import APP, NOTES
from tests.pool.trial import STREAM
from tests.support.pool import PoolProcess, plain_environment
from tests.support.sentinel import SentinelSet
from tests.support.waiting import wait_until

FAILOVER_S = 20.0


@pytest.fixture
def watched() -> Iterator[SentinelSet]:
    with SentinelSet() as watched:
        yield watched


def test_the_master_dies_under_load(watched: SentinelSet, tmp_path: Path) -> None:
    """Every push that returned after the failover is handled, by the same pool."""
    notes = tmp_path / "notes"
    notes.touch()
    with ExitStack() as stack:
        env = {NOTES: str(notes)}
        pool = stack.enter_context(
            PoolProcess(APP, "--workers", "2", url=watched.url, cwd=tmp_path, env=env)
        ).wait_ready()
        before, after = asyncio.run(push_through_a_failover(watched))
        wait_until(
            lambda: set(after) <= set(notes.read_text().split()), FAILOVER_S, "all are handled"
        )
        assert set(before) <= set(notes.read_text().split())
        stats = subprocess.run(
            [sys.executable, "-m", "redis_stream_queue.cli", "stats", STREAM],
            env=plain_environment(watched.url), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert STREAM in stats.stdout
        assert pool.drain() == 0
        assert "Traceback" not in pool.stderr


async def push_through_a_failover(watched: SentinelSet) -> tuple[list[str], list[str]]:
    producer = StreamProducer(StreamClient.from_url(watched.url, socket_timeout=1), STREAM)
    before = [await producer.push({}) for _ in range(5)]
    await asyncio.sleep(0.5)  # they are handled, and replicated
    watched.servers[0].kill()
    after: list[str] = []
    async with asyncio.timeout(FAILOVER_S):
        while len(after) < 20:
            try:
                after.append(await producer.push({}))
            except (RedisError, OSError):
                await asyncio.sleep(0.1)
    after.append(producer.push_sync({}))
    await producer.close()
    return before, after


def test_a_sentinel_that_does_not_answer_is_passed_over(watched: SentinelSet) -> None:
    """Asked once, also within the time limit of a push, where it is the only one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        url = watched.url.replace("redis+sentinel://", f"redis+sentinel://{address},")
        producer = StreamProducer(StreamClient.from_url(url), STREAM)
        producer.push_sync("x")
        asyncio.run(producer.push("x"))

        client = StreamClient.from_url(f"redis+sentinel://{address}/mymaster/0")
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="may or may not be in the stream"):
            StreamProducer(client, STREAM).push_sync("x", timeout_s=0.2)
        assert time.monotonic() - began < 5  # redis-py's own retries take 15

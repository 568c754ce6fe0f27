"""Pausing and cancelling reach every pool, at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_stream_queue import StreamClient
from tests.pool.conftest import StartPool
from tests.support.ledger import GROUP, STREAM, Ledger
from tests.support.waiting import wait_until


def ask(url: str, question: Callable[[StreamClient], Any]) -> Any:
    async def run() -> Any:
        client = StreamClient.from_url(url)
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(run())


@contextlib.contextmanager
def deaf(ledger: Ledger) -> Iterator[None]:
    """Nobody may read the bell."""
    ledger.redis.acl_setuser("default", enabled=True, commands=["-xread"])
    try:
        for one in ledger.redis.client_list():
            if one["cmd"] == "xread":
                ledger.redis.client_kill_filter(_id=one["id"])
        yield
    finally:
        ledger.redis.acl_setuser("default", enabled=True, commands=["+xread"])


def test_a_pause_holds_for_all_pools_and_new_ones_and_loses_nothing(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    pools = [start_pool("--workers", "2") for _ in range(2)]
    ids = ledger.push(*({"do": "sleep", "s": 0.03} for _ in range(200)))
    ledger.wait_started(20)

    ask(pool_url, lambda client: client.pause(STREAM, GROUP))
    said_at_s = time.time()
    for pool in pools:
        pool.wait_log("is paused for group")
    third = start_pool("--workers", "1")
    time.sleep(0.2)

    started = ledger.started()
    assert 20 <= len(started) < 200  # which take 1.5 s
    # 50 ms where nothing else runs, see `scripts/bench control`
    assert max(note.at_s for note in started) - said_at_s < 1
    assert "is paused for group" in third.stderr

    assert ask(pool_url, lambda client: client.resume(STREAM, GROUP))
    ledger.wait_ended(200)
    assert dict(ledger.executions()) == dict.fromkeys(ids, 1)
    for pool in [*pools, third]:
        assert pool.drain() == 0


@pytest.mark.parametrize("target", ["app:handler", "app:lanes"])
def test_a_running_handler_is_interrupted(
    start_pool: StartPool, ledger: Ledger, pool_url: str, target: str
) -> None:
    """A plain one in a blocking call, an async one in its await; nothing is retried or dead, and
    the next message is handled by the same worker."""
    pool = start_pool("--workers", "1", target=target)
    [long] = ledger.push({"do": "sleep", "s": 60})
    ledger.wait_started(1)

    began_s = time.monotonic()
    assert ask(pool_url, lambda client: client.cancel(STREAM, long)) == "running"
    [after] = ledger.push({"do": "ok"})
    ended = ledger.wait_ended(1)

    assert time.monotonic() - began_s < 5
    assert [note.id for note in ended] == [after]
    assert ledger.executions() == {long: 1, after: 1}
    wait_until(lambda: ledger.pending() == 0, 5, "nothing is pending")
    assert ledger.redis.xlen("work_dlq") == 0
    pool.wait_log(f"{long} of work was cancelled")

    with deaf(ledger):  # the bell is not heard: the renewal of what is held tells
        pool.wait_log("NOPERM|no permissions")
        [long] = ledger.push({"do": "sleep", "s": 60})
        ledger.wait_started(3)
        assert ask(pool_url, lambda client: client.cancel(STREAM, long)) == "running"
        pool.wait_log(f"{long} of work was cancelled")
    assert pool.drain() == 0

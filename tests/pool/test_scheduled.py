"""Scheduled messages and a pool: moved in time, by whoever is left, and by nobody twice."""

from __future__ import annotations

import signal
from collections import Counter

from redis_stream_queue import StreamClient, StreamProducer
from tests.pool.conftest import StartPool
from tests.support.ledger import STREAM, Ledger
from tests.support.servers import Server
from tests.support.waiting import wait_until


def scheduled_ids(ledger: Ledger) -> Counter[str]:
    """Of what is in the stream, by its scheduled id."""
    return Counter(
        fields[b"rsq:scheduled"].decode()
        for _, fields in ledger.redis.xrange(STREAM)
        if b"rsq:scheduled" in fields
    )


def test_pools_move_in_time_and_survive_the_death_of_any(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    """Masters are killed while messages are due; what is left moves all, each once."""
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM)
    pools = [start_pool("--workers", "1") for _ in range(3)]
    ids: list[str] = []
    for n, pool in enumerate(pools[:2]):
        ids += [producer.push_sync({"n": n}, delay_ms=ms) for ms in range(1, 600, 10)]
        pool.send(signal.SIGKILL)

    wait_until(lambda: len(scheduled_ids(ledger)) == len(ids), 10, "all are in the stream")

    assert scheduled_ids(ledger) == Counter(ids)
    ledger.wait_ended(len(ids))
    pools[2].send(signal.SIGUSR1)
    pools[2].wait_log(r"moved \d+, latest \d+ ms")
    assert pools[2].drain() == 0


def test_what_is_due_when_redis_is_killed_is_moved_once_it_is_back(
    start_pool: StartPool, ledger: Ledger, pool_url: str, pool_server: Server
) -> None:
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM)
    pool = start_pool("--workers", "1")
    ledger.redis.config_set("appendfsync", "always")
    ids = producer.push_many_sync([{"n": n} for n in range(500)], delay_ms=300)
    pool_server.kill()
    pool_server.restart()

    wait_until(lambda: len(scheduled_ids(ledger)) == len(ids), 15, "all are in the stream")

    assert scheduled_ids(ledger) == Counter(ids)
    assert pool.drain() == 0


def test_a_burst_handles_what_is_due_and_leaves_the_rest(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM)
    producer.push_many_sync([{"n": n} for n in range(250)], delay_ms=1)
    producer.push_sync({"n": 0}, delay_ms=3_600_000)

    pool = start_pool("--workers", "1", "--burst", ready=False)

    assert pool.wait(20) == 0
    assert len(ledger.ended()) == 250
    assert producer.client is not None
    assert ledger.redis.zcard(f"{{{STREAM}}}:later") == 1

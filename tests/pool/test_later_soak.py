"""What is scheduled or unique, in the large, while masters and the server are killed again and
again: nothing is missing, nothing there twice, nothing beside its like, and nothing blocked."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from redis_stream_queue import StreamClient, StreamProducer
from tests.pool.conftest import StartPool
from tests.support.ledger import GROUP, STREAM, Ledger
from tests.support.pool import PoolProcess
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

SCHEDULED, KEYS, PUSHERS, PUSHES = 30_000, 300, 8, 1_500
PUSHER = """
import random, sys
from redis_stream_queue import StreamClient, StreamProducer
url, stream, group, count, keys = sys.argv[1:]
producer = StreamProducer(StreamClient.from_url(url), stream, group=group)
for n in range(int(count)):
    producer.push_sync({"do": "ok"}, unique=f"k{random.randrange(int(keys))}")
"""


def entries(ledger: Ledger) -> dict[str, dict[bytes, bytes]]:
    return {entry_id.decode(): fields for entry_id, fields in ledger.redis.xrange(STREAM)}


def replace(pools: list[PoolProcess], start_pool: StartPool) -> None:
    """Kill the master of one, and start another."""
    pools.pop(0).send(signal.SIGKILL)
    pools.append(start_pool("--workers", "1", ready=False))


def test_of_many_scheduled_none_is_missing_and_none_there_twice(
    start_pool: StartPool, ledger: Ledger, pool_url: str, pool_server: Server
) -> None:
    ledger.redis.config_set("appendfsync", "always")
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM, max_len=None)
    ids: list[str] = []
    for _ in range(SCHEDULED // 1000):
        after_ms = random.randint(3000, 20_000)
        ids += producer.push_many_sync([{"do": "ok"}] * 1000, delay_ms=after_ms)
    pools = [start_pool("--workers", "1", ready=False) for _ in range(2)]
    ends_s = time.monotonic() + 25
    while time.monotonic() < ends_s:
        time.sleep(random.uniform(0.5, 2))
        if random.random() < 0.3:
            pool_server.kill()
            pool_server.restart()
            ledger.redis.config_set("appendfsync", "always")
        else:
            replace(pools, start_pool)

    wait_until(lambda: not ledger.redis.zcard(f"{{{STREAM}}}:later"), 120, "all are moved")
    moved = [fields[b"rsq:scheduled"].decode() for fields in entries(ledger).values()]
    assert len(moved) == len(set(moved))
    assert set(moved) == set(ids)


def test_of_a_key_one_is_unfinished_and_none_is_blocked_for_longer(
    start_pool: StartPool, ledger: Ledger, pool_url: str, tmp_path: Path
) -> None:
    """What was accepted is in the stream: each was handled before the next one of its key came."""
    ledger.redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    options = [pool_url, STREAM, GROUP, str(PUSHES), str(KEYS)]
    pools = [start_pool("--workers", "1", ready=False) for _ in range(2)]
    pushers = [subprocess.Popen([sys.executable, "-c", PUSHER, *options]) for _ in range(PUSHERS)]
    try:
        while any(pusher.poll() is None for pusher in pushers):
            time.sleep(random.uniform(0.5, 3))
            replace(pools, start_pool)
    finally:
        for pusher in pushers:
            pusher.kill()
            pusher.wait()
    assert [pusher.returncode for pusher in pushers] == [0] * PUSHERS
    accepted = entries(ledger)
    ledger.wait_settled(list(accepted), 60)

    ended = {note.id: note.at_s for note in ledger.ended()}  # the last time of each
    assert ended.keys() == accepted.keys()
    before: dict[bytes, float] = defaultdict(float)
    for entry_id, fields in accepted.items():
        pushed_s = int(entry_id.partition("-")[0]) / 1000
        assert before[fields[b"rsq:unique"]] < pushed_s + 0.001, entry_id
        before[fields[b"rsq:unique"]] = ended[entry_id]
    assert len(before) == KEYS
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM, group=GROUP)
    last = [producer.push_sync({"do": "ok"}, unique=f"k{n}") for n in range(KEYS)]
    assert not any(one.duplicate for one in last)  # type: ignore[attr-defined]

"""What is scheduled, unique or pushed again, in the large, while masters, producers and the server
are killed again and again: nothing is missing, nothing there twice, nothing beside its like, and
nothing blocked."""

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

SCHEDULED, KEYS, PUSHERS, PUSHES = 100_000, 1000, 8, 12_500
PUSHER = """
import random, sys
from redis_stream_queue import StreamClient, StreamProducer
url, stream, group, count, keys = sys.argv[1:]
producer = StreamProducer(StreamClient.from_url(url), stream, group=group)
for n in range(int(count)):
    producer.push_sync({"do": "ok"}, unique=f"k{random.randrange(int(keys))}")
"""

RETRIER = """
import random, sys, time
from redis.exceptions import RedisError
from redis_stream_queue import StreamClient, StreamProducer
url, stream, number, pushers, count = sys.argv[1:]
producer = StreamProducer(StreamClient.from_url(url), stream, max_len=None)
portion = int(count) // int(pushers)
for n in (int(number), (int(number) + 1) % int(pushers)):  # its own, and its neighbour's again
    start, end = n * portion, (n + 1) * portion
    while start < end:
        some = list(range(start, min(start + random.randint(1, 100), end)))
        try:
            producer.push_many_sync(some, dedup_ids=[f"hook-{one}" for one in some])
            start += len(some)
        except (RedisError, OSError):  # perhaps it was pushed: the same again
            time.sleep(0.01)
"""


def entries(ledger: Ledger) -> dict[str, dict[bytes, bytes]]:
    return {entry_id.decode(): fields for entry_id, fields in ledger.redis.xrange(STREAM)}


def crash(server: Server, ledger: Ledger) -> None:
    """And no reply is sent before what it says is on the disk."""
    server.kill()
    server.restart()
    ledger.redis.config_set("appendfsync", "always")


def replace(pools: list[PoolProcess], start_pool: StartPool) -> None:
    """Kill the master of one, and start another."""
    pools.pop(0).send(signal.SIGKILL)
    pools.append(start_pool("--workers", "1", ready=False))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_of_many_scheduled_none_is_missing_and_none_there_twice(
    start_pool: StartPool, ledger: Ledger, pool_url: str, pool_server: Server
) -> None:
    ledger.redis.config_set("appendfsync", "always")
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM, max_len=None)
    ids: list[str] = []
    for _ in range(SCHEDULED // 1000):
        after_ms = random.randint(3000, 40_000)
        ids += producer.push_many_sync([{"do": "ok"}] * 1000, delay_ms=after_ms)
    pools = [start_pool("--workers", "1", ready=False) for _ in range(2)]
    ends_s = time.monotonic() + 45
    while time.monotonic() < ends_s:
        time.sleep(random.uniform(0.5, 2))
        if random.random() < 0.3:
            crash(pool_server, ledger)
        else:
            replace(pools, start_pool)

    wait_until(lambda: not ledger.redis.zcard(f"{{{STREAM}}}:later"), 120, "all are moved")
    moved = [fields[b"rsq:scheduled"].decode() for fields in entries(ledger).values()]
    assert len(moved) == len(set(moved))
    assert set(moved) == set(ids)


@pytest.mark.soak
@pytest.mark.timeout(900)
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
    ledger.wait_settled(list(accepted), 300)

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


@pytest.mark.parametrize(
    ("count", "processes", "faults"),
    [
        (2000, 2, 2),
        pytest.param(100_000, 8, 20, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_what_is_pushed_again_is_there_once(
    count: int, processes: int, faults: int, ledger: Ledger, pool_url: str, pool_server: Server
) -> None:
    """By another process, by one that does not know what its last life has done, and by one whose
    server died before it answered."""
    ledger.redis.config_set("appendfsync", "always")

    def start(number: int) -> subprocess.Popen[bytes]:
        options = [pool_url, STREAM, *map(str, (number, processes, count))]
        return subprocess.Popen([sys.executable, "-c", RETRIER, *options])

    def wait_pushed(least: int) -> None:
        wait_until(lambda: ledger.redis.xlen(STREAM) >= least, 120, f"{least} are pushed")

    pushers = [start(number) for number in range(processes)]
    try:
        for n in range(1, faults + 1):
            wait_pushed(n * count // (faults + 1))
            if n % 2:
                crash(pool_server, ledger)
            else:
                victim = random.randrange(processes)
                pushers[victim].kill()
                pushers[victim].wait()
                pushers[victim] = start(victim)
        wait_until(lambda: all(p.poll() is not None for p in pushers), 300, "all are pushed")
    finally:
        for pusher in pushers:
            pusher.kill()
            pusher.wait()
    assert [pusher.returncode for pusher in pushers] == [0] * processes
    ids = {int(fields[b"data"]): entry_id for entry_id, fields in entries(ledger).items()}
    assert sorted(ids) == list(range(count))
    assert ledger.redis.xlen(STREAM) == count
    producer = StreamProducer(StreamClient.from_url(pool_url), STREAM)
    again = producer.push_many_sync([0, count - 1], dedup_ids=["hook-0", f"hook-{count - 1}"])
    assert again == [ids[0], ids[count - 1]]

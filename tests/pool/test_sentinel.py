"""redis+sentinel://: library, pool and rsq find the master, and the next one after a failover."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from redis_stream_queue import StreamClient, StreamProducer
from tests.support.ledger import SOURCE, STREAM, Notes
from tests.support.pool import PoolProcess
from tests.support.rsq import rsq
from tests.support.sentinel import SentinelSet
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

FAILOVER_S = 20.0
LATER = 20
BEATING = SOURCE.replace(
    'group="crew")',
    'group="crew", periodic=[redis_stream_queue.Every("beat", 0.2, {})])',
).replace("import time\n", "import time\n\nimport redis_stream_queue\n", 1)


@pytest.fixture
def watched() -> Iterator[SentinelSet]:
    with SentinelSet() as watched:
        yield watched


def test_the_master_dies_under_load(watched: SentinelSet, tmp_path: Path) -> None:
    """Every push that returned after the failover is handled, by the same pool, and each that was
    scheduled before it; ticks go on, each once."""
    notes = Notes(tmp_path / "notes")

    def handled() -> set[str]:
        return {note.id for note in notes.of("ended")}

    def later() -> set[int]:
        return {note.data["later"] for note in notes.of("ended") if "later" in note.data}

    with ExitStack() as stack:
        pool = stack.enter_context(
            PoolProcess(BEATING, "--workers", "2", url=watched.url, cwd=tmp_path)
        ).wait_ready()
        before, after = asyncio.run(push_through_a_failover(watched))
        wait_until(lambda: set(after) <= handled(), FAILOVER_S, "all are handled")
        assert set(before) <= handled()
        wait_until(lambda: later() == set(range(LATER)), FAILOVER_S, "all that was for later is")
        wait_until(lambda: len(ticks(watched)) > 3, FAILOVER_S, "there are ticks")
        assert max(Counter(ticks(watched)).values()) == 1
        assert STREAM in rsq("stats", STREAM, url=watched.url).stdout
        assert pool.drain() == 0
        assert "Traceback" not in pool.stderr
        assert "NOGROUP" not in pool.stderr


async def push_through_a_failover(watched: SentinelSet) -> tuple[list[str], list[str]]:
    """The pushes that returned, before and after the master died. The first of after, in a client
    of its own, is not tried twice: it waits for the next master."""
    producer = StreamProducer(StreamClient.from_url(watched.url, socket_timeout=1), STREAM)
    before = [await producer.push({}) for _ in range(5)]
    for n in range(LATER):  # some are due before it, some while nobody is the master, some after it
        await producer.push({"later": n}, delay_ms=100 + n * 200)
    with watched.servers[0].client() as master:
        master.execute_command("XADD", "mark", "*", "f", "v")
        assert master.wait(1, 5000) == 1  # all that was acknowledged has arrived
    watched.servers[0].kill()
    waiting = StreamClient.from_url(watched.url, socket_connect_timeout=FAILOVER_S)
    patient = StreamProducer(waiting, STREAM)
    after = [await patient.push({}), patient.push_sync({})]
    async with asyncio.timeout(FAILOVER_S):
        while len(after) < 20:
            try:
                after.append(await producer.push({}))
            except (RedisError, OSError):
                await asyncio.sleep(0.1)
    await producer.close()
    await patient.close()
    return before, after


def ticks(watched: SentinelSet) -> list[bytes]:
    """Those in the stream of the master of now."""
    with watched.servers[1].client() as master:
        found = [fields for _, fields in master.xrange(STREAM)]
    return [fields[b"rsq:tick"] for fields in found if b"rsq:tick" in fields]


def test_a_sentinel_that_is_wrong_is_passed_over(watched: SentinelSet) -> None:
    """It names a server that is dead, or hangs, or is a replica: the next one is asked."""
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        named = [free_port(), hangs.getsockname()[1], watched.servers[1].port]
        wrong = [watched.start_sentinel(port) for port in named]
        url = watched.url_of([*wrong, *watched.ports])
        producer = StreamProducer(StreamClient.from_url(url), STREAM)

        async def push_both_ways() -> None:
            await asyncio.gather(producer.push("x"), asyncio.to_thread(producer.push_sync, "x"))

        asyncio.run(push_both_ways())
        del wrong[1], named[1]  # it took its time
        assert STREAM in rsq("stats", STREAM, url=watched.url_of([*wrong, *watched.ports])).stdout

        client = StreamClient.from_url(watched.url_of(wrong[1:]), socket_connect_timeout=2)
        with pytest.raises(RedisError, match=f"{named[1]}: it is a replica"):
            asyncio.run(StreamProducer(client, STREAM).push("x"))


def test_a_sentinel_that_lags_behind_is_asked_again(watched: SentinelSet) -> None:
    """The only one that there is names a server that is promoted while a push connects."""
    replica = watched.servers[1]
    url = watched.url_of([watched.start_sentinel(replica.port)])
    promote = threading.Timer(0.5, lambda: promoted(replica))
    promote.start()
    StreamProducer(StreamClient.from_url(url), STREAM).push_sync("x")
    promote.join()


def promoted(server: Server) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


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

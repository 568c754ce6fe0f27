"""Promise 10: a timeout means silence, never the length of a transfer.

One real server behind a proxy that lets so many bytes a second through.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_stream_queue import DeadLetterQueue, StreamClient, StreamMessage, StreamProducer
from redis_stream_queue.delivery.pending import PendingList, SeenEntry
from tests.library.kit import GROUP, Bench, RecordingHandler, running
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server

MB = 1_000_000
SILENCE_S = 0.4  # the transfers below take longer


@pytest_asyncio.fixture
async def line(server: Server) -> AsyncIterator[FaultProxy]:
    """4 MB/s."""
    assert server.socket_path is not None
    async with FaultProxy(server.socket_path) as proxy:
        proxy.bytes_per_s = 4 * MB
        yield proxy
        await StreamClient.close_all()


def over(line: FaultProxy, **options: Any) -> StreamClient:
    return StreamClient.from_url(line.url, **{"socket_timeout": SILENCE_S, **options})


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (1, 6 * MB),
        (40, MB // 10),
        (3, MB),
        pytest.param(200, MB // 10, marks=pytest.mark.soak),
        pytest.param(1, 64 * MB, marks=pytest.mark.soak),
    ],
)
async def test_messages_that_take_longer_than_the_timeout_are_handled_once(
    server_bench: Bench, line: FaultProxy, count: int, size: int
) -> None:
    handler = RecordingHandler()
    ids = await server_bench.push(*("x" * size for _ in range(count)))
    consumer = server_bench.consumer(
        handler, client=over(line), block_ms=100, min_idle_claim_ms=60_000
    )
    async with running(server_bench, consumer):
        await server_bench.until(server_bench.settled, "all are done", 15 + count * size / MB)
    assert handler.runs == dict.fromkeys(ids, 1)


async def test_what_arrives_for_longer_than_an_idle_time_is_not_taken_by_others(
    server_bench: Bench, line: FaultProxy
) -> None:
    """It is leased while it comes, also in a read that would have waited longer than that."""
    handler = RecordingHandler()
    [entry_id] = await server_bench.push("x" * 12 * MB)
    options = {"block_ms": 5000, "min_idle_claim_ms": 1000}
    slow = server_bench.consumer(handler, client=over(line), **options)
    other = server_bench.consumer(handler, **options)
    reading = asyncio.create_task(slow.run_once())
    await server_bench.until(server_bench.pending, "the slow one is being sent it")
    async with running(server_bench, other):
        await server_bench.until(server_bench.settled, "it is done", 15)
    await reading
    assert handler.counts(entry_id) == [1]


async def test_taking_over_many_large_ones(server_bench: Bench, line: FaultProxy) -> None:
    """In answers of about a megabyte, each of which may take its time."""
    ids = await server_bench.push(*("x" * (MB // 2) for _ in range(12)))
    await server_bench.deliver("gone")
    pending = PendingList(over(line), server_bench.stream, GROUP)
    taken, gone, _ = await pending.take("me", [SeenEntry(i, "gone", 1, 0, 2) for i in ids])
    assert ([message.id for message in taken], gone) == (ids, [])


async def test_a_slow_upload(server_bench: Bench, line: FaultProxy) -> None:
    """Larger than what the sockets between hold."""
    line.bytes_per_s = 10 * MB
    producer = StreamProducer(over(line, socket_timeout=1.2), server_bench.stream)
    entry_id = await producer.push("x" * 24 * MB)
    await producer.close()
    [message] = await server_bench.client.fetch_by_ids(server_bench.stream, [entry_id])
    assert len(message.data) == 24 * MB + 2


async def test_dead_letters_that_are_large(server_bench: Bench, line: FaultProxy) -> None:
    for n in range(4):
        await server_bench.client.command(
            "XADD", server_bench.dlq, "*", "data", b"x" * MB, "n", str(n)
        )
    letters = await DeadLetterQueue(over(line), server_bench.dlq).list()
    assert [letter.headers["n"] for letter in letters] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("after", [0, 300_000], ids=["at once", "in the middle"])
async def test_silence_is_noticed(server_bench: Bench, line: FaultProxy, after: int) -> None:
    """Before the first byte, or after some of them."""
    [entry_id] = await server_bench.push("x" * 2 * MB)
    client = over(line)
    await client.stream_len(server_bench.stream)
    if not after:
        line.stall()
    asked = asyncio.create_task(client.fetch_by_ids(server_bench.stream, [entry_id]))
    if after:
        await asyncio.sleep(after / 4 / MB)
        line.stall()
    began = time.monotonic()
    with pytest.raises(RedisTimeoutError):
        await asked
    assert time.monotonic() - began < 4 * SILENCE_S
    line.resume()


class HeldBack(FaultProxy):
    """Holds back the replies of reads that found nothing, as if their BLOCK had been lengthened
    (which Redis 7.2.0 to 7.2.4 do each time another consumer gets the message)."""

    NOTHING = b"*-1\r\n"

    async def _pump(self, source: Any, sink: Any, is_reply: bool = False) -> None:
        while data := await source.read(1 << 16):
            if data == self.NOTHING:
                await asyncio.sleep(3)
            sink.write(data)
            await sink.drain()


async def test_a_read_that_lasts_longer_than_it_was_asked_to_is_no_outage(
    server: Server, server_bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """The server answers everything else: nothing is logged, and the next message is handled."""
    assert server.socket_path is not None
    handler = RecordingHandler()
    async with HeldBack(server.socket_path) as proxy:
        consumer = server_bench.consumer(
            handler, client=over(proxy), block_ms=50, min_idle_claim_ms=60_000
        )
        async with running(server_bench, consumer):
            await asyncio.sleep(2)  # it lasts so long
            ids = await server_bench.push(1, 2, 3)
            await server_bench.until(server_bench.settled, "all are done", 5)
        await StreamClient.close_all()
    assert handler.runs == dict.fromkeys(ids, 1)
    assert not warnings_logged.records


async def test_a_long_round_trip(
    server_bench: Bench, line: FaultProxy, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """Longer than the timeout: the time that an answer takes at least is no silence."""
    line.bytes_per_s, line.latency_s = None, 0.15
    handled = asyncio.Event()

    async def handle(messages: list[StreamMessage]) -> list[str]:
        handled.set()
        return [message.id for message in messages]

    consumer = server_bench.consumer(
        handle, client=over(line, socket_timeout=0.2), block_ms=100, min_idle_claim_ms=60_000
    )
    async with running(server_bench, consumer):
        await server_bench.push(1)
        async with asyncio.timeout(10):
            await handled.wait()
        await server_bench.until(server_bench.settled, "it is done", 5)
    assert not warnings_logged.records

"""What stands beside a stream on a cluster: all of it in the stream's slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.crc import key_slot

from redis_stream_queue import ClusterSlotError, Every, StreamClient, StreamProducer
from redis_stream_queue.later.keys import companions
from tests.library.kit import GROUP, Bench, RecordingHandler, running

HOUR_MS = 3_600_000


@pytest_asyncio.fixture(params=["orders", "{shop}orders"])
async def bench(request: pytest.FixtureRequest, cluster_url: str) -> AsyncIterator[Bench]:
    """Names with and without a hash tag."""
    async with Bench(StreamClient.from_url(cluster_url), f"{request.param}later") as bench:
        yield bench
    await StreamClient.close_all()


@pytest.mark.parametrize("key", ["orders", "{shop}orders", "{orders}", "o{}x", "a{b}c{d}", "ü"])
def test_all_keys_are_in_the_slot_of_the_stream_or_refused(key: str) -> None:
    try:
        beside = companions(key)
    except ClusterSlotError:
        assert key == "o{}x"
        return
    slots = {key_slot(k.encode()) for k in (*beside, beside.dedup("x{y}z"))}
    assert slots == {key_slot(key.encode())}


async def test_everything_works_there(bench: Bench) -> None:
    """Delays, once, pause, cancel, periodic; async and sync."""
    client, stream, handler = bench.client, bench.stream, RecordingHandler()
    await client.create_group(stream, GROUP)
    producer = StreamProducer(client, stream, group=GROUP)
    far = await producer.push("far", delay_ms=HOUR_MS)
    await asyncio.to_thread(producer.push_sync, "soon", delay_ms=200)
    await asyncio.gather(*(producer.push("once", dedup_id=f"x{{{n % 2}}}y") for n in range(6)))
    await asyncio.gather(*(producer.push("unique", unique="u") for _ in range(5)))
    [cancelled] = await producer.push_many(["cancelled"])
    assert await client.cancel(stream, cancelled) == "waiting"
    await client.pause(stream, for_s=0.1)

    consumer = bench.consumer(handler, block_ms=500, periodic=[Every("beat", 0.2, "beat")])
    async with running(bench, consumer):
        await bench.until(lambda: len(handler.messages) >= 5, "all are handled")

    handled = [m.data for m in handler.messages if m.data != "beat"]
    assert sorted(handled) == ["once", "once", "soon", "unique"]
    found = await client.find(stream, far)
    assert found is not None
    assert found.state == "scheduled"
    assert await producer.cancel(far)
    await producer.close()

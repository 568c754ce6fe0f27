"""A replica that was behind becomes the master: what stands beside a stream goes back with it,
to one moment. What the replica had not heard of comes again, once; no note keeps anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

from redis_stream_queue import (
    Every,
    JsonSerializer,
    Mover,
    StreamClient,
    StreamMessage,
    StreamProducer,
)
from redis_stream_queue.later.periodic import schedules_of
from redis_stream_queue.later.ticker import Ticker
from tests.library.kit import GROUP, Bench
from tests.support.servers import Server
from tests.support.waiting import wait_until_async

EVERY_MS = 100


async def entries(client: StreamClient, stream: str) -> list[StreamMessage]:
    found = await client.command("XRANGE", stream, "-", "+")
    return await client.fetch_by_ids(stream, [entry_id.decode() for entry_id, _ in found])


def ticking(client: StreamClient, stream: str) -> asyncio.Task[Any]:
    beat = schedules_of([Every("beat", EVERY_MS / 1000)], JsonSerializer().encode)
    return asyncio.create_task(Ticker(client, stream, GROUP, beat).run())


async def test_all_goes_back_to_one_moment_and_comes_again_once(
    replicated: tuple[Server, Server], stream: str
) -> None:
    master, replica = replicated
    client = StreamClient.from_url(master.url)
    producer = StreamProducer(client, stream, GROUP)
    async with Bench(client, stream) as bench:
        ticker = ticking(client, stream)
        heard = await producer.push("heard", dedup_id="heard")
        running = await producer.push("runs", unique="runs")
        await bench.deliver("c")
        due = await producer.push("due", delay_ms=1)
        cancelled = await producer.push("cancelled", delay_ms=3_600_000)
        with master.client(socket_timeout=15) as raw:
            raw.execute_command("INCR", "mark")
            assert raw.wait(1, 10_000) == 1
        with replica.client() as raw:
            raw.execute_command("REPLICAOF", "NO", "ONE")  # from here on it hears of nothing

        await asyncio.sleep(0.01)
        assert await Mover(client, stream).move() == 1
        await producer.push("unheard", dedup_id="unheard")
        await producer.push("new", unique="new")
        await client.ack(stream, GROUP, running)
        assert await producer.cancel(cancelled)
        await client.pause(stream)
        before = await client.stream_len(stream)

        async def some_ticks() -> bool:
            return await client.stream_len(stream) >= before + 3

        await wait_until_async(some_ticks, 10, "it goes on")
        ticker.cancel()
        await asyncio.wait([ticker])
        master.kill()
    await StreamClient.close_all()

    client = StreamClient.from_url(replica.url)
    producer = StreamProducer(client, stream, GROUP)
    ticker = ticking(client, stream)
    assert await Mover(client, stream).move() == 1
    repeated = await producer.push("heard", dedup_id="heard")
    assert (repeated, repeated.duplicate) == (heard, True)
    assert not (await producer.push("unheard", dedup_id="unheard")).duplicate
    again = await producer.push("runs", unique="runs")
    assert (again, again.duplicate) == (running, True)  # its acknowledgement is not known here
    assert not (await producer.push("new", unique="new")).duplicate
    assert await producer.cancel(cancelled)  # it was back
    before = await client.stream_len(stream)
    await wait_until_async(some_ticks, 10, "it goes on here, too")
    ticker.cancel()
    await asyncio.wait([ticker])

    found = await entries(client, stream)
    data = Counter(m.data for m in found if "rsq:tick" not in m.headers)
    assert data == Counter({b'"heard"', b'"runs"', b'"due"', b'"unheard"', b'"new"'})
    assert [m.headers["rsq:scheduled"] for m in found if "rsq:scheduled" in m.headers] == [due]
    ticks = [m.headers for m in found if "rsq:tick" in m.headers]
    times = [datetime.fromisoformat(one["rsq:tick"]).timestamp() * 1000 for one in ticks]
    stood_for = sum(int(one.get("rsq:missed", 0)) for one in ticks[1:])
    assert len(times) + stood_for == round((times[-1] - times[0]) / EVERY_MS) + 1
    assert sorted(set(times)) == times
    await StreamClient.close_all()

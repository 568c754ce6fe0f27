"""One life of a consumer: what it still has to tell Redis does not turn against what it holds."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_stream_queue import (
    ConsumerConfig,
    StreamClient,
    StreamMessage,
    StreamProducer,
    per_message,
)
from redis_stream_queue.connection.exchange import OUTAGES
from redis_stream_queue.delivery.host import Host
from redis_stream_queue.delivery.pending import SeenEntry
from redis_stream_queue.delivery.session import Session
from tests.library.kit import GROUP, WAIT_S, Bench
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server


async def session_of(bench: Bench) -> Session:
    await bench.client.create_group(bench.stream, GROUP)
    session = Session(bench.client, bench.stream, ConsumerConfig(GROUP), lambda _: [])
    await session.in_flight.reserve_name()
    return session


async def with_one_done(bench: Bench) -> Session:
    """It has handled one message, and Redis does not know yet."""
    session = await session_of(bench)
    session.handler = lambda messages: [m.id for m in messages]
    await bench.push("x")
    await session.handle(await session.read(1, 0))
    return session


async def test_what_waits_to_be_given_back_is_given_back_before_anything_is_taken(
    bench: Bench,
) -> None:
    """Else it would be given back while it runs here again, and run elsewhere, too."""
    session = await session_of(bench)
    [entry_id] = await bench.push("x")
    session.in_flight.unsettled.release(await session.read(1, 0))
    assert (
        await session.in_flight.take([SeenEntry(entry_id, session.in_flight.name, 1, 0, 2)]) == []
    )
    [entry] = await bench.client.pending_range(bench.stream, GROUP, 10)
    assert entry.consumer.startswith(f"{GROUP}:retry:")
    await session.close()


async def test_what_is_done_is_not_run_again_before_redis_knows(bench: Bench) -> None:
    session = await with_one_done(bench)
    [entry_id] = await bench.entry_ids()
    assert (
        await session.in_flight.take([SeenEntry(entry_id, session.in_flight.name, 1, 0, 2)]) == []
    )
    await session.in_flight.flush_acks()
    assert await bench.client.pending_range(bench.stream, GROUP, 10) == []
    await session.close()


async def test_what_is_done_does_not_wait_until_what_is_stranded_has_been_handled(
    bench: Bench,
) -> None:
    session = await with_one_done(bench)
    [stranded] = await bench.push("y")
    await bench.client.read(bench.stream, GROUP, session.in_flight.name, 1, 0)
    session.in_flight.unsure = True  # as after a read whose reply was lost
    assert [message.id for message in await session.read(1, 0)] == [stranded]
    assert [e.id for e in await bench.client.pending_range(bench.stream, GROUP, 10)] == [stranded]
    await session.close()


async def test_what_is_done_does_not_wait_until_what_was_taken_over_has_been_handled(
    bench: Bench,
) -> None:
    session = await with_one_done(bench)
    [other] = await bench.push("y")
    await bench.client.read(bench.stream, GROUP, "other", 1, 0)
    taken = await session.in_flight.take([SeenEntry(other, "other", 1, 0, 2)])
    assert [message.id for message in taken] == [other]
    assert [e.id for e in await bench.client.pending_range(bench.stream, GROUP, 10)] == [other]
    await session.close()


async def test_what_ends_before_a_read_beside_it_begins_is_acknowledged_with_that_read(
    bench: Bench,
) -> None:
    """Not with the next one: each may take long."""
    ends = {"first": asyncio.Event(), "last": asyncio.Event()}
    ended, pending = asyncio.Event(), []

    @per_message(concurrency=2)
    async def handler(message: StreamMessage) -> None:
        await ends[message.data].wait()
        ended.set()

    await bench.client.create_group(bench.stream, GROUP)
    host = Host(wanted=lambda _: 1)
    session = Session(bench.client, bench.stream, ConsumerConfig(GROUP), handler, host=host)
    await session.in_flight.reserve_name()

    async def look() -> None:
        pending.append([e.id for e in await bench.client.pending_range(bench.stream, GROUP, 10)])
        ends["first" if len(pending) == 1 else "last"].set()
        await ended.wait()

    first, last = await bench.push("first", "last")
    messages = await session.read(2, 0)
    session.in_flight.look_before_reading = look  # type: ignore[method-assign]
    async with asyncio.timeout(WAIT_S):
        await session.handle(messages, grows=True)
    assert pending[:2] == [[first, last], [last]]
    await session.leave()


async def test_what_is_done_does_not_wait_until_the_reading_connection_is_open_again(
    server: Server, stream: str
) -> None:
    assert server.socket_path is not None
    async with FaultProxy(server.socket_path) as proxy:
        client = StreamClient.from_url(proxy.url)
        session = await with_one_done(Bench(client, stream))
        assert await client.pending_range(stream, GROUP, 10)  # opens a connection beside it
        await session.reader.end_broken_read()
        proxy.refuse = True
        with pytest.raises(OUTAGES):
            await session.read(1, 0)
        proxy.refuse = False
        assert await client.pending_range(stream, GROUP, 10) == []
        await session.close()
        await client.close()


async def test_what_is_done_does_not_wait_until_a_broken_read_is_tried_again(
    server: Server, stream: str
) -> None:
    """As after a restart of Redis: the reading connection is gone, and nobody has noticed."""
    assert server.socket_path is not None
    async with FaultProxy(server.socket_path) as proxy:
        client = StreamClient.from_url(proxy.url)
        session = await with_one_done(Bench(client, stream))
        proxy.reset_all()
        with pytest.raises(OUTAGES):
            await session.read(1, 0)
        assert await client.pending_range(stream, GROUP, 10) == []
        await session.close()
        await client.close()


async def test_a_dead_connection_is_noticed_by_the_acknowledgement_not_by_the_end_of_the_block(
    server: Server, stream: str
) -> None:
    assert server.socket_path is not None
    async with FaultProxy(server.socket_path) as proxy:
        client = StreamClient.from_url(proxy.url, socket_timeout=0.5)
        session = await with_one_done(Bench(client, stream))
        proxy.strand_all()
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(RedisTimeoutError):
                await session.read(1, 60_000)
        await session.leave()
        assert await client.pending_range(stream, GROUP, 10) == []
        await client.close()


@pytest.mark.parametrize("what", ["stop", "cancel"])
async def test_what_is_said_while_a_batch_is_made_ready_counts(
    bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked for its time where messages expire: then a pause or a cancellation may
    come in between."""
    session, started = await session_of(bench), list[str]()
    session.handler = lambda messages: started.extend(m.id for m in messages) or started
    producer = StreamProducer(bench.client, bench.stream)
    first, second = await producer.push_many([1, 2], ttl_ms=60_000)
    ask = session.in_flight.pending.server_ms

    async def ask_and_hear() -> int | None:
        if what == "stop":
            session.stop_starting()
        else:
            assert await bench.client.cancel(bench.stream, first) == "running"
            session.cancel(first)
        return await ask()

    monkeypatch.setattr(session.in_flight.pending, "server_ms", ask_and_hear)
    await session.handle(await session.read(2, 0))
    await session.in_flight.flush_acks()
    assert started == ([] if what == "stop" else [second])
    assert sorted(await bench.pending()) == ([first, second] if what == "stop" else [])
    await session.close()

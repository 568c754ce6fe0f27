"""Movers bring scheduled messages into their stream when they are due, each exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from redis_stream_queue import Mover, StreamProducer
from redis_stream_queue.connection.link import Link
from redis_stream_queue.connection.scripts import Script
from redis_stream_queue.later.ids import due_ms
from redis_stream_queue.later.keys import companions
from redis_stream_queue.later.scheduled import count_scheduled, purge_scheduled
from redis_stream_queue.later.scripts import MOVE
from redis_stream_queue.operations.readings import server_ms
from tests.library.kit import Bench, RecordingHandler, running, waiting
from tests.support.waiting import wait_until_async

HOUR_MS = 3_600_000


async def test_a_running_consumer_moves_what_is_due(real_bench: Bench) -> None:
    """In the order it is due; one that is due earlier than all others is on time, too."""
    producer, handler = StreamProducer(real_bench.client, real_bench.stream), RecordingHandler()
    consumer = real_bench.consumer(handler, block_ms=1000)
    async with running(real_bench, consumer):
        far = await producer.push("far", delay_ms=HOUR_MS)
        late = await producer.push("late", delay_ms=400)
        early = await producer.push("early", delay_ms=100, headers={"a": "b"})
        await real_bench.until(lambda: len(handler.messages) == 2, "both are handled")

    assert [m.data for m in handler.messages] == ["early", "late"]
    assert [m.headers for m in handler.messages] == [
        {"rsq:scheduled": early, "a": "b"},
        {"rsq:scheduled": late},
    ]
    late_ms = [int(m.id.partition("-")[0]) - due_ms(m.headers["rsq:scheduled"])
               for m in handler.messages]  # fmt: skip
    assert all(0 <= ms < 2500 for ms in late_ms)  # not by the five seconds of a look
    assert [m.id for m in await waiting(producer)] == [far]


async def test_run_once_moves_what_is_due(real_bench: Bench) -> None:
    producer, handler = StreamProducer(real_bench.client, real_bench.stream), RecordingHandler()
    await producer.push_many([1, 2, 3], delay_ms=1)
    consumer = real_bench.consumer(handler)

    async def turn() -> bool:
        await consumer.run_once()
        return len(handler.messages) == 3

    await real_bench.until(turn, "all are handled")


async def test_a_mover_works_for_foreign_consumers(server_bench: Bench) -> None:
    """What waited while nobody was there is moved by the first who comes, however much it is."""
    producer = StreamProducer(server_bench.client, server_bench.stream)
    await producer.push_many(list(range(1234)), delay_ms=1)
    mover = Mover(server_bench.client, server_bench.stream)
    running = asyncio.create_task(mover.run())

    await wait_until_async(lambda: mover.lateness.metrics().moved == 1234, 5, "all are moved")

    running.cancel()
    await asyncio.wait([running])
    entries = await server_bench.client.command("XRANGE", server_bench.stream, "-", "+")
    assert [int(fields[1]) for _, fields in entries] == list(range(1234))
    assert await waiting(producer) == []


async def test_many_movers_move_each_message_once(server_bench: Bench) -> None:
    producer = StreamProducer(server_bench.client, server_bench.stream)
    movers = [Mover(server_bench.client, server_bench.stream) for _ in range(8)]
    tasks = [asyncio.create_task(mover.run()) for mover in movers]

    for start in range(0, 500, 50):
        await asyncio.gather(*(producer.push(n, delay_ms=n % 50) for n in range(start, start + 50)))

    async def all_moved() -> bool:
        return await server_bench.client.stream_len(server_bench.stream) >= 500

    await wait_until_async(all_moved, 5, "all are moved")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    entries = await server_bench.client.command("XRANGE", server_bench.stream, "-", "+")
    assert sorted(int(fields[1]) for _, fields in entries) == list(range(500))


async def test_many_at_once_are_left_to_the_mover_that_leads(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is silent; and a note from before a clock was set back keeps nobody away."""
    # each call moves 100, also on a machine where that takes longer than it may
    monkeypatch.setattr("redis_stream_queue.later.mover.AT_ONCE_S", 60.0)
    client, producer = server_bench.client, StreamProducer(server_bench.client, server_bench.stream)
    control = companions(client.key(server_bench.stream)).control
    mover = Mover(client, server_bench.stream)

    async def led_for(ms: int) -> None:
        until = await server_ms(client, server_bench.stream) + ms
        await client.link().call(control, "HSET", control, "moving", f"{until}:another")

    await producer.push_many(list(range(500)), delay_ms=1)
    await asyncio.sleep(0.01)
    await led_for(900)
    assert await mover.move() == 0
    await led_for(-1)
    assert await mover.move() == 100
    await led_for(3_600_000)
    assert await mover.move() == 100

    running = asyncio.create_task(mover.run())
    await wait_until_async(lambda: mover.lateness.metrics().moved == 500, 5, "all are moved")
    await producer.push_many(list(range(1000)), delay_ms=1)
    await wait_until_async(lambda: mover.lateness.metrics().moved == 1500, 5, "all are moved")
    running.cancel()
    await asyncio.wait([running])
    assert not await client.link().call(control, "EXISTS", control)
    entries = await client.command("XRANGE", server_bench.stream, "-", "+")
    assert [int(fields[1]) for _, fields in entries] == [*range(500), *range(1000)]


async def test_a_call_that_is_out_of_time_moves_some_all_the_same(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order they are due; the next call goes on behind them."""
    monkeypatch.setattr("redis_stream_queue.later.mover.AT_ONCE_S", 0.0)
    client = server_bench.client
    await StreamProducer(client, server_bench.stream).push_many(list(range(120)), delay_ms=1)
    mover = Mover(client, server_bench.stream)
    await wait_until_async(mover.move, 5, "the first are moved")
    timed = await client.link().call("", "EVAL", "return pcall(function() os.clock() end)", 0)
    assert mover.lateness.metrics().moved == (1 if timed else 100)

    await wait_until_async(lambda: _moved(mover, 120), 5, "all are moved")

    entries = await client.command("XRANGE", server_bench.stream, "-", "+")
    assert [int(fields[1]) for _, fields in entries] == list(range(120))


async def test_a_purge_amid_movers_takes_what_they_have_not_moved(real_bench: Bench) -> None:
    """Each message is in the stream, or was purged, and never both."""
    client, stream = real_bench.client, real_bench.stream
    await StreamProducer(client, stream).push_many(list(range(4000)), delay_ms=1)
    movers = [Mover(client, stream) for _ in range(2)]
    running = [asyncio.create_task(mover.run()) for mover in movers]
    await wait_until_async(lambda: client.stream_len(stream), 5, "some are moved")
    purged = await purge_scheduled(client, stream, None)
    assert await count_scheduled(client, stream) == 0
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    moved = [int(fields[1]) for _, fields in await client.command("XRANGE", stream, "-", "+")]
    assert len(set(moved)) == len(moved) == 4000 - purged
    assert 0 < purged < 4000


async def test_two_groups_get_each_message_once(server_bench: Bench) -> None:
    producer = StreamProducer(server_bench.client, server_bench.stream)
    handlers = [RecordingHandler(), RecordingHandler()]
    consumers = [
        server_bench.consumer(handler, group=f"g{n}", block_ms=1000)
        for n, handler in enumerate(handlers)
    ]
    async with running(server_bench, *consumers):
        await producer.push_many(list(range(20)), delay_ms=50)
        await server_bench.until(
            lambda: all(len(handler.messages) >= 20 for handler in handlers), "both have them"
        )
    assert [sorted(m.data for m in handler.messages) for handler in handlers] == [
        list(range(20))
    ] * 2


async def test_what_others_put_among_them_stops_nothing(server_bench: Bench) -> None:
    """It is moved as it stands: a dead letter shows it."""
    beside = companions(server_bench.client.key(server_bench.stream))
    producer = StreamProducer(server_bench.client, server_bench.stream)
    for odd in ("x", "0000000000000-000000000001:99:[]", "1-1:5:hello{}", "\xff"):
        await server_bench.client.link().call(beside.later, "ZADD", beside.later, 1, odd)
    await producer.push("good", delay_ms=1)

    assert len(await waiting(producer)) == 5
    mover = Mover(server_bench.client, server_bench.stream)
    await wait_until_async(lambda: _moved(mover, 5), 5, "all are moved")


async def _moved(mover: Mover, count: int) -> bool:
    await mover.move()
    return mover.lateness.metrics().moved == count


# -- trouble ---------------------------------------------------------------------------------------


async def test_a_full_server_loses_and_doubles_nothing(server_bench: Bench) -> None:
    """The move fails before it has changed anything, and works once there is memory again."""
    client = server_bench.client
    producer = StreamProducer(client, server_bench.stream)
    await producer.push_many(["x" * 1000] * 50, delay_ms=1)
    await asyncio.sleep(0.01)
    mover = Mover(client, server_bench.stream)
    await client.link().call("", "CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(Exception, match="maxmemory"):
            await mover.move()
        with pytest.raises(Exception, match="maxmemory"):
            await producer.push(1, delay_ms=5)
        assert len(await waiting(producer)) == 50
    finally:
        await client.link().call("", "CONFIG", "SET", "maxmemory", "0")
    await wait_until_async(lambda: _moved(mover, 50), 5, "all are moved")
    assert await client.stream_len(server_bench.stream) == 50


async def test_a_cut_amid_many_is_waited_out_in_silence(
    server_bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    client, producer = server_bench.client, StreamProducer(server_bench.client, server_bench.stream)
    await producer.push_many(list(range(10_000)), delay_ms=1)
    mover = Mover(client, server_bench.stream)
    running = asyncio.create_task(mover.run())
    for least in (500, 3000, 6000):
        await wait_until_async(partial(_has_moved, mover, least), 5, f"{least} are moved")
        await client.link().call("", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def all_moved() -> bool:
        return await client.stream_len(server_bench.stream) == 10_000

    await wait_until_async(all_moved, 10, "all are moved")
    running.cancel()
    await asyncio.wait([running])
    assert not warnings_logged.records


def _has_moved(mover: Mover, least: int) -> bool:
    return mover.lateness.metrics().moved >= least


async def test_a_lost_bell_costs_one_look(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL takes the bell away; what is scheduled then is found all the same."""
    monkeypatch.setattr("redis_stream_queue.later.bell.WAIT_MS", 200)
    client = server_bench.client
    mover = Mover(client, server_bench.stream)
    task = asyncio.create_task(mover.run())
    beside = companions(client.key(server_bench.stream))
    last = f"{2**64 - 1}-1"  # as if the server's clock had been far ahead
    await client.link().call(beside.bell, "XADD", beside.bell, last, "nothing", "due")
    await wait_until_async(lambda: mover._bell._last == last, 5, "it has heard that")
    await client.link().call("", "FLUSHALL")
    now = await server_ms(client, server_bench.stream)
    member = f"{now:013d}-{1:012d}:0:1"
    await client.link().call(beside.later, "ZADD", beside.later, now, member)  # no bell rings

    await wait_until_async(lambda: mover.lateness.metrics().moved == 1, 5, "it is moved")
    await wait_until_async(lambda: mover._bell._last == "0-0", 5, "it hears new rings again")
    task.cancel()
    await asyncio.wait([task])


class _HeldAnswer:
    """Holds the next answer to MOVE back until ``go`` is set; ``came``: Redis has given it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.came, self.go = asyncio.Event(), asyncio.Event()
        script = Link.script

        async def held(link: Link, what: Script, keys: Sequence[str], *args: Any) -> Any:
            reply = await script(link, what, keys, *args)
            if what is MOVE and not self.came.is_set():
                self.came.set()
                await self.go.wait()
            return reply

        monkeypatch.setattr(Link, "script", held)


def _is_paused(mover: Mover, wanted: bool) -> bool:
    return bool(mover.paused("g")) is wanted


@pytest.mark.parametrize("delay_ms", [1, 300])
async def test_what_comes_while_an_answer_travels_is_on_time(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch, delay_ms: int
) -> None:
    """An answer from before a push, read after the ring for it, does not make that forgotten."""
    client, stream = server_bench.client, server_bench.stream
    mover, producer = Mover(client, stream), StreamProducer(client, stream)
    task = asyncio.create_task(mover.run())
    await wait_until_async(lambda: mover._bell._last, 5, "it listens")
    answer, begun_s = _HeldAnswer(monkeypatch), asyncio.get_running_loop().time()

    await producer.push("first", delay_ms=1)
    await answer.came.wait()
    heard = mover._rung_ms
    await producer.push("second", delay_ms=delay_ms)
    await wait_until_async(lambda: mover._rung_ms > heard, 5, "it has heard of the second")
    answer.go.set()

    await wait_until_async(lambda: mover.lateness.metrics().moved == 2, 5, "both are moved")
    assert asyncio.get_running_loop().time() - begun_s < 3  # not by the look every five seconds
    task.cancel()
    await asyncio.wait([task])


async def test_a_pause_that_comes_while_an_answer_travels_holds(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer from before a pause, read after what tells of it, does not end it; nor a resume."""
    client, stream = server_bench.client, server_bench.stream
    mover, producer = Mover(client, stream), StreamProducer(client, stream)
    task = asyncio.create_task(mover.run())
    await wait_until_async(lambda: mover._bell._last, 5, "it listens")
    for change, after in ((client.pause, True), (client.resume, False)):
        with monkeypatch.context() as patch:
            answer = _HeldAnswer(patch)
            before = mover.lateness.metrics().moved
            await producer.push(1, delay_ms=1)
            await answer.came.wait()
            await change(stream)
            await wait_until_async(partial(_is_paused, mover, after), 2, "it is heard")
            answer.go.set()
            await wait_until_async(partial(_has_moved, mover, before + 1), 5, "it is answered")
            assert bool(mover.paused("g")) is after
    task.cancel()
    await asyncio.wait([task])


async def test_a_stream_that_was_deleted_is_there_again(server_bench: Bench) -> None:
    """What was scheduled is data of its own: it is moved and handled all the same."""
    handler = RecordingHandler()
    consumer = server_bench.consumer(handler, block_ms=100)
    producer = StreamProducer(server_bench.client, server_bench.stream)
    async with running(server_bench, consumer):
        await server_bench.push(1)
        await server_bench.until(lambda: len(handler.messages) == 1, "the first is handled")
        await producer.push(2, delay_ms=200)
        await server_bench.client.command("DEL", server_bench.stream)
        await server_bench.until(lambda: len(handler.messages) == 2, "the other one is handled")

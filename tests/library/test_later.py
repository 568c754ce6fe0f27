"""Messages for later: on every way of pushing, moved exactly once, when they are due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from redis_stream_queue import (
    BacklogFull,
    ConfigError,
    Mover,
    ScheduledMessage,
    StreamClient,
    StreamProducer,
)
from redis_stream_queue.exceptions import ClusterSlotError
from redis_stream_queue.later.ids import due_ms, is_scheduled
from redis_stream_queue.later.keys import companions
from tests.library.kit import Bench, RecordingHandler, running
from tests.support.waiting import wait_until_async

HOUR_MS = 3_600_000

Push = Callable[..., Any]
WAYS: dict[str, Push] = {
    "push": lambda p, **when: p.push({"n": 1}, **when),
    "gather": lambda p, **when: asyncio.gather(*(p.push({"n": 1}, **when) for _ in range(3))),
    "push_many": lambda p, **when: p.push_many([{"n": 1}, {"n": 1}], **when),
    "push_sync": lambda p, **when: asyncio.to_thread(p.push_sync, {"n": 1}, **when),
    "push_many_sync": lambda p, **when: asyncio.to_thread(p.push_many_sync, [{"n": 1}], **when),
}


async def waiting(producer: StreamProducer, **before: Any) -> list[ScheduledMessage]:
    return [message async for message in producer.scheduled(**before)]


async def server_ms(client: StreamClient, stream: str) -> int:
    seconds, micros = await client.link().call(client.key(stream), "TIME")
    return int(seconds) * 1000 + int(micros) // 1000


# -- pushing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_of_pushing_takes_a_delay(real_bench: Bench, way: str) -> None:
    """Nothing is in the stream; each waits under its id, with its payload and headers."""
    producer = StreamProducer(real_bench.client, real_bench.stream)
    asked_ms = await server_ms(real_bench.client, real_bench.stream)

    pushed = await WAYS[way](producer, delay_ms=HOUR_MS, headers={"trace": "ü\n1"})

    ids = [pushed] if isinstance(pushed, str) else list(pushed)
    assert await real_bench.entry_ids() == []
    found = await waiting(producer)
    assert [message.id for message in found] == sorted(ids)
    assert all(0 <= due_ms(i) - asked_ms - HOUR_MS < 5000 for i in ids)
    assert [(m.data, m.headers) for m in found] == [({"n": 1}, {"trace": "ü\n1"})] * len(ids)
    await producer.close()


@pytest.mark.parametrize("way", WAYS)
async def test_a_date_that_has_passed_is_now(real_bench: Bench, way: str) -> None:
    producer = StreamProducer(real_bench.client, real_bench.stream)
    past = datetime.now(UTC) - timedelta(seconds=10)

    pushed = await WAYS[way](producer, at=past)

    ids = [pushed] if isinstance(pushed, str) else list(pushed)
    assert not any(map(is_scheduled, ids))
    assert await real_bench.entry_ids() == sorted(ids)
    await producer.close()


async def test_a_date_is_due_at_that_date(server_bench: Bench) -> None:
    """Whatever its zone, rounded up to a millisecond."""
    producer = StreamProducer(server_bench.client, server_bench.stream)
    at = datetime(2099, 7, 1, 12, 0, 0, 1, tzinfo=UTC)
    zoned = at.astimezone(datetime.now().astimezone().tzinfo)

    ids = [await producer.push(1, at=at), await producer.push(2, at=zoned)]

    assert [due_ms(i) for i in ids] == [4086590400001] * 2
    assert [m.due for m in await waiting(producer)] == [at.replace(microsecond=1000)] * 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "when",
    [{"at": datetime(2030, 1, 1)}, {"at": "2030-01-01"}, {"delay_ms": -1}, {"delay_ms": "1"},
     {"delay_ms": float("nan")}, {"delay_ms": 10**15}, {"delay_ms": 1, "at": datetime.now(UTC)}],
    ids=["naive", "text", "past", "delay-text", "nan", "ages", "both"],
)  # fmt: skip
async def test_what_is_no_time_is_refused(way: str, when: dict[str, Any]) -> None:
    """Before anything is sent: nobody listens there."""
    producer = StreamProducer(StreamClient.from_url("redis://127.0.0.1:1"), "s")
    with pytest.raises(ConfigError, match=r"delay_ms|at must"):
        await WAYS[way](producer, **when)


async def test_an_option_that_there_is_not_is_refused() -> None:
    producer: Any = StreamProducer(StreamClient.from_url("redis://127.0.0.1:1"), "s")
    with pytest.raises(TypeError, match="dealy_ms"):
        await producer.push(1, dealy_ms=5)


async def test_names_without_room_beside_them_are_refused(server_client: StreamClient) -> None:
    with pytest.raises(ClusterSlotError, match="braces"):
        await StreamProducer(server_client, "a}b{").push(1, delay_ms=5)
    assert companions("orders").later == "{orders}:later"
    assert companions("{orders}").later != companions("orders").later  # streams of their own


async def test_max_scheduled_bounds_what_waits(server_bench: Bench) -> None:
    """What is beyond is refused alone, and has room again once one is cancelled."""
    producer = StreamProducer(server_bench.client, server_bench.stream, max_scheduled=2)
    got = await asyncio.gather(
        *(producer.push(n, delay_ms=HOUR_MS) for n in range(4)), return_exceptions=True
    )
    pushed = [one for one in got if isinstance(one, str)]
    assert len(pushed) == 2
    assert [type(one) for one in got if not isinstance(one, str)] == [BacklogFull] * 2

    assert await producer.cancel(pushed[0])
    await producer.push("fits", delay_ms=HOUR_MS)
    with pytest.raises(BacklogFull, match="max_scheduled"):
        await asyncio.to_thread(producer.push_sync, 1, delay_ms=HOUR_MS)
    await producer.push("now")
    await producer.close()


async def test_many_are_scheduled_wholly_or_not_at_all(server_bench: Bench) -> None:
    """Also where they are more than travel at once; one that is there already needs no room."""
    producer = StreamProducer(server_bench.client, server_bench.stream, max_scheduled=150)
    for way in (producer.push_many, partial(asyncio.to_thread, producer.push_many_sync)):
        with pytest.raises(BacklogFull, match="max_scheduled"):
            await way(list(range(200)), delay_ms=HOUR_MS)
        assert [m async for m in producer.scheduled()] == []
    await producer.push_many(
        list(range(149)), delay_ms=HOUR_MS, dedup_ids=[f"{n}" for n in range(149)]
    )
    with pytest.raises(BacklogFull):
        await producer.push_many([1, 2], delay_ms=HOUR_MS, dedup_ids=["a", "b"])
    ids: Any = await producer.push_many([1, 2], delay_ms=HOUR_MS, dedup_ids=["0", "1"])
    assert [one.duplicate for one in ids] == [True, True]
    await producer.push_many([1], delay_ms=HOUR_MS, dedup_ids=["a"])
    await producer.close()


async def test_what_is_listed_before_a_date_without_a_zone_is_refused() -> None:
    producer = StreamProducer(StreamClient.from_url("redis://127.0.0.1:1"), "s")
    with pytest.raises(ConfigError, match="before must be a datetime with a time zone"):
        await anext(aiter(producer.scheduled(before=datetime(2030, 1, 1))))


# -- cancelling and listing ------------------------------------------------------------------------


async def test_cancel_takes_back_the_one_that_is_meant(real_bench: Bench) -> None:
    """Among many that are due in the same millisecond, and only once."""
    producer = StreamProducer(real_bench.client, real_bench.stream)
    at = datetime(2099, 1, 1, tzinfo=UTC)
    ids = await producer.push_many(list(range(250)), at=at)

    assert await producer.cancel(ids[17])
    assert not await producer.cancel(ids[17])
    assert not await producer.cancel("@0000000000001-000000000001")
    assert [m.data for m in await waiting(producer)] == [n for n in range(250) if n != 17]
    for wrong in ("1-1", "@12", "@" + "x" * 26):
        with pytest.raises(ConfigError, match="scheduled"):
            await producer.cancel(wrong)


async def test_listing_ends_before_a_date(server_bench: Bench) -> None:
    producer = StreamProducer(server_bench.client, server_bench.stream)
    dates = [datetime(2099, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    for at in dates:
        await producer.push(at.day, at=at)

    assert [m.data for m in await waiting(producer)] == [1, 2, 3]
    assert [m.data for m in await waiting(producer, before=dates[0])] == [1, 2]


# -- moving ----------------------------------------------------------------------------------------


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
    assert all(0 <= ms < 500 for ms in late_ms)  # not by the five seconds of a look
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


async def test_many_at_once_are_left_to_the_mover_that_leads(server_bench: Bench) -> None:
    """Until it is silent; and a note from before a clock was set back keeps nobody away."""
    client, producer = server_bench.client, StreamProducer(server_bench.client, server_bench.stream)
    control = companions(client.key(server_bench.stream)).control
    mover = Mover(client, server_bench.stream)

    async def led_for(ms: int) -> None:
        until = await server_ms(client, server_bench.stream) + ms
        await client.link().call(control, "HSET", control, "moving", f"{until}:another")

    await producer.push_many(list(range(500)), delay_ms=1)
    await asyncio.sleep(0.01)
    await led_for(200)
    assert await mover.move() == 0
    await wait_until_async(lambda: _moved(mover, 100), 5, "it goes on")
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
    await client.link().call("", "FLUSHALL")
    now = await server_ms(client, server_bench.stream)
    member = f"{now:013d}-{1:012d}:0:1"
    await client.link().call(beside.later, "ZADD", beside.later, now, member)  # no bell rings

    await wait_until_async(lambda: mover.lateness.metrics().moved == 1, 5, "it is moved")
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

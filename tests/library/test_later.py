"""Messages for later: every way of pushing takes a delay or a date; listing and cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from redis.exceptions import RedisError

from redis_stream_queue import BacklogFull, ConfigError, StreamClient, StreamProducer, _blocking
from redis_stream_queue.exceptions import ClusterSlotError
from redis_stream_queue.later import push
from redis_stream_queue.later.ids import due_ms, is_scheduled
from redis_stream_queue.later.keys import companions
from redis_stream_queue.operations.readings import server_ms
from tests.library.kit import Bench, waiting
from tests.support.faultproxy import ThreadedFaultProxy
from tests.support.servers import Server

HOUR_MS = 3_600_000

Push = Callable[..., Any]
WAYS: dict[str, Push] = {
    "push": lambda p, **when: p.push({"n": 1}, **when),
    "gather": lambda p, **when: asyncio.gather(*(p.push({"n": 1}, **when) for _ in range(3))),
    "push_many": lambda p, **when: p.push_many([{"n": 1}, {"n": 1}], **when),
    "push_sync": lambda p, **when: asyncio.to_thread(p.push_sync, {"n": 1}, **when),
    "push_many_sync": lambda p, **when: asyncio.to_thread(p.push_many_sync, [{"n": 1}], **when),
}


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
     {"delay_ms": float("nan")}, {"delay_ms": 10**15}, {"delay_ms": 1, "at": datetime.now(UTC)},
     {"at": datetime.max.replace(tzinfo=UTC)}],
    ids=["naive", "text", "past", "delay-text", "nan", "ages", "both", "too-late"],
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


async def test_a_call_that_others_took_the_room_from_takes_all_back(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused can be pushed again under the same ids."""
    monkeypatch.setattr("redis_stream_queue.later.push.AT_ONCE", 2)
    client, stream = server_bench.client, server_bench.stream
    many: dict[int, Any] = {
        n: {"delay_ms": HOUR_MS, "dedup_ids": [f"{n}:{i}" for i in range(200)]} for n in range(3)
    }
    producers = [StreamProducer(client, stream, max_scheduled=350) for _ in many]
    ways = [
        asyncio.to_thread(p.push_many_sync, [n] * 200, **many[n]) for n, p in enumerate(producers)
    ]
    refused = [
        n
        for n, got in enumerate(await asyncio.gather(*ways, return_exceptions=True))
        if isinstance(got, BacklogFull)
    ]
    assert len(refused) >= 2
    assert len(await waiting(producers[0])) == 200 * (3 - len(refused))
    again: Any = await StreamProducer(client, stream).push_many([0] * 200, **many[refused[0]])
    assert not any(one.duplicate for one in again)
    for producer in producers:
        await producer.close()


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("trouble", ["refused", "lost"])
async def test_what_cannot_be_taken_back_is_not_called_refused(
    server: Server, stream: str, monkeypatch: pytest.MonkeyPatch, sync: bool, trouble: str
) -> None:
    """The caller gets that error instead: some may be scheduled."""
    monkeypatch.setattr("redis_stream_queue.later.push.AT_ONCE", 2)
    take_back = push._back
    with ThreadedFaultProxy(server.socket_path or "") as proxy, server.client() as others:
        client = StreamClient.from_url(f"redis://127.0.0.1:{proxy.port}/0")
        producer = StreamProducer(client, stream, max_scheduled=3)
        later = companions(client.key(stream)).later

        def meanwhile(*args: Any) -> Any:
            if trouble == "lost":
                proxy.set(refuse=True)
                proxy.reset_all()
            else:
                others.execute_command("ACL", "SETUSER", "default", "-zremrangebyrank")
            return take_back(*args)

        def calls(*args: Any) -> Any:
            for call in all_calls(*args):
                if call[3][2] == 1:  # the last one: others have taken the room
                    others.zadd(later, {"theirs": 9e12})
                yield call

        all_calls = push.calls
        monkeypatch.setattr(push, "_back", meanwhile)
        monkeypatch.setattr(push, "calls", calls)
        monkeypatch.setattr(_blocking, "calls", calls)
        many = producer.push_many
        way = partial(asyncio.to_thread, producer.push_many_sync) if sync else many
        try:
            with pytest.raises((RedisError, OSError)):
                await way([1, 2, 3], delay_ms=HOUR_MS)
        finally:
            others.execute_command("ACL", "SETUSER", "default", "+@all")
        assert others.zcard(later) == 3
        assert producer.metrics().total_pushed == 0
    await StreamClient.close_all()


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

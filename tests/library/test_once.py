"""dedup_id and unique: nothing is pushed twice, and no lock gets stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    DeadLetterQueue,
    DLQError,
    Mover,
    Reject,
    StreamClient,
    StreamMessage,
    StreamProducer,
)
from redis_stream_queue.later.keys import companions
from tests.library.kit import GROUP, Bench

HOUR_MS = 3_600_000


@pytest.fixture
def producer(real_bench: Bench) -> StreamProducer:
    return StreamProducer(real_bench.client, real_bench.stream, group=GROUP)


# -- dedup_id --------------------------------------------------------------------------------------


async def test_the_same_id_again_gets_the_first_ones(
    producer: StreamProducer, real_bench: Bench
) -> None:
    """Whatever became of the first, and in every way of pushing one message."""
    first: Any = await producer.push(1, dedup_id="webhook ü")
    await real_bench.client.command("XDEL", real_bench.stream, first)
    again: Any = await producer.push(2, dedup_id="webhook ü")
    later: Any = await producer.push(3, dedup_id="webhook ü", delay_ms=5)
    sync: Any = await asyncio.to_thread(producer.push_sync, 4, dedup_id="webhook ü")
    other: Any = await producer.push(5, dedup_id="webhook")

    assert (again, later, sync) == (first, first, first)
    assert [i.duplicate for i in (first, again, later, sync, other)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert await real_bench.entry_ids() == [other]
    assert producer.metrics().total_pushed == 2
    await producer.close()


async def test_of_pushes_of_one_moment_one_goes_in(
    producer: StreamProducer, real_bench: Bench
) -> None:
    got: list[Any] = await asyncio.gather(
        *(producer.push(n, dedup_id=f"id{n % 30}") for n in range(300))
    )
    assert len(set(got)) == 30
    assert sum(not i.duplicate for i in got) == 30
    assert sorted(set(got)) == sorted(await real_bench.entry_ids())


async def test_many_have_an_id_each(producer: StreamProducer, real_bench: Bench) -> None:
    """Also twice in one call, and with what has none in between."""
    ids = ["a", "b", None, "a"]
    first: Any = await producer.push_many([1, 2, 3, 4], dedup_ids=ids)
    again: Any = await asyncio.to_thread(
        producer.push_many_sync, [1, 2, 3, 4], dedup_ids=ids, delay_ms=5
    )
    assert [i.duplicate for i in first] == [False, False, False, True]
    assert [i.duplicate for i in again] == [True, True, False, True]
    assert (first[3], again[0], again[1]) == (first[0], first[0], first[1])
    assert await real_bench.entry_ids() == first[:3]
    for wrong in (["a"], "abcd", []):
        with pytest.raises(ConfigError, match="dedup_ids must be a list"):
            await producer.push_many([1, 2, 3, 4], dedup_ids=wrong)
    await producer.close()


async def test_a_window_ends(server_bench: Bench) -> None:
    producer = StreamProducer(server_bench.client, server_bench.stream)
    first: Any = await producer.push(1, dedup_id="a", dedup_ttl_s=0.05)

    async def again() -> bool:
        pushed: Any = await producer.push(1, dedup_id="a", dedup_ttl_s=0.05)
        return not pushed.duplicate and pushed != first

    await server_bench.until(again, "it is pushed again")


async def test_a_scheduled_one_is_the_first_one_too(
    producer: StreamProducer, real_bench: Bench
) -> None:
    first: Any = await producer.push(1, dedup_id="a", delay_ms=HOUR_MS)
    again: Any = await producer.push(1, dedup_id="a", delay_ms=HOUR_MS)
    assert again == first
    assert again.duplicate
    assert len([m async for m in producer.scheduled()]) == 1


# -- unique ----------------------------------------------------------------------------------------


async def push_unique(producer: StreamProducer, **options: Any) -> Any:
    return await producer.push("sync", unique="customer:17", **options)


async def test_not_while_the_same_work_is_unfinished(
    producer: StreamProducer, real_bench: Bench
) -> None:
    """Waiting, scheduled, running or to be tried again; then it goes in once more."""
    client, stream = real_bench.client, real_bench.stream
    first = await push_unique(producer)
    assert (await push_unique(producer)).duplicate  # it waits, and there is no group yet
    [read] = await real_bench.deliver("c")
    assert read == first
    assert (await push_unique(producer)).duplicate  # it runs
    await real_bench.set_pending(first, f"{GROUP}:retry:4096", 0, 1)
    assert (await push_unique(producer)) == first  # it waits for its next try
    await client.ack(stream, GROUP, first)

    second = await push_unique(producer, delay_ms=1)
    assert not second.duplicate
    assert (await push_unique(producer)) == second  # it is scheduled
    await asyncio.sleep(0.01)
    await Mover(client, stream).move()
    moved = await push_unique(producer)
    assert moved.duplicate
    assert [moved] == (await real_bench.entry_ids())[1:]  # it is in the stream
    assert not (await producer.push("other", unique="customer:18")).duplicate


@pytest.mark.parametrize("how", ["XDEL", "XACK", "DEL", "XTRIM", "FLUSHALL", "cancel"])
async def test_no_note_gets_stuck(producer: StreamProducer, real_bench: Bench, how: str) -> None:
    """What is gone by whatever way blocks nothing."""
    client, stream = real_bench.client, real_bench.stream
    first = await push_unique(producer, delay_ms=HOUR_MS if how == "cancel" else None)
    if how == "cancel":
        assert await producer.cancel(first)
    elif how == "XACK":
        await real_bench.deliver("c")
        await client.ack(stream, GROUP, first)
    elif how == "FLUSHALL":
        await client.link().call("", "FLUSHALL")
    else:
        rest = {"XDEL": (first,), "XTRIM": ("MAXLEN", 0), "DEL": ()}[how]
        await client.command(how, stream, *rest)

    assert not (await push_unique(producer)).duplicate


async def test_a_letter_that_is_sent_back_is_unique_again(
    producer: StreamProducer, real_bench: Bench
) -> None:
    """It stays a letter while the same work is unfinished, also where that is one in a delay."""

    async def reject(messages: list[StreamMessage]) -> None:
        raise Reject("no")

    consumer = real_bench.consumer(reject, dlq_stream=real_bench.dlq)
    await push_unique(producer)
    await real_bench.drain(consumer)
    letters = DeadLetterQueue(real_bench.client, real_bench.dlq)
    second: Any = await push_unique(producer, delay_ms=HOUR_MS)
    assert not second.duplicate
    with pytest.raises(DLQError, match=f"unique key.*unfinished as {second}"):
        await letters.requeue()
    assert await producer.cancel(second)

    assert await letters.requeue() == 1
    [sent_back] = (await real_bench.entry_ids())[1:]
    assert await push_unique(producer) == sent_back  # it waits
    await real_bench.deliver("c")
    assert await push_unique(producer) == sent_back  # it runs
    assert await push_unique(producer, unique_until="started") != sent_back
    assert await letters.count() == 0


async def test_until_started_one_may_wait_while_another_runs(
    producer: StreamProducer, real_bench: Bench
) -> None:
    first = await push_unique(producer, unique_until="started")
    assert (await push_unique(producer, unique_until="started")) == first
    await real_bench.deliver("c")
    second = await push_unique(producer, unique_until="started")
    assert not second.duplicate
    assert (await push_unique(producer, unique_until="started")) == second


async def test_each_group_has_its_own(producer: StreamProducer, real_bench: Bench) -> None:
    other = StreamProducer(real_bench.client, real_bench.stream, group="others")
    assert not (await push_unique(producer)).duplicate
    assert not (await push_unique(other)).duplicate
    assert (await push_unique(producer)).duplicate
    assert (await push_unique(other)).duplicate


async def test_void_notes_do_not_pile_up(producer: StreamProducer, real_bench: Bench) -> None:
    """Two thousand keys whose messages are long gone leave few notes; one of a living stays."""
    alive = await producer.push(1, unique="alive")
    await real_bench.deliver("c")
    for start in range(0, 2000, 100):
        ids = await asyncio.gather(
            *(producer.push(1, unique=f"k{n}") for n in range(start, start + 100))
        )
        await real_bench.client.command("XDEL", real_bench.stream, *ids)
    for n in range(300):
        await real_bench.client.command(
            "XDEL", real_bench.stream, await producer.push(1, unique=f"single{n}")
        )
    notes = companions(real_bench.client.key(real_bench.stream)).unique
    assert await real_bench.client.link().call(notes, "HLEN", notes) < 2200
    assert (await producer.push(1, unique="alive")) == alive


@pytest.mark.parametrize(
    "options",
    [{"dedup_id": ""}, {"dedup_id": 5}, {"dedup_id": "x" * 1001}, {"dedup_id": "\ud800"},
     {"dedup_id": "a", "dedup_ttl_s": 0}, {"dedup_id": "a", "dedup_ttl_s": "1"}, {"unique": ""},
     {"unique": "a", "unique_until": "done"}, {"ttl_ms": -1}, {"ttl_ms": 0},
     {"ttl_ms": 5, "expired": "maybe"}],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(options: Any) -> None:
    client = StreamClient.from_url("redis://127.0.0.1:1")
    with pytest.raises(ConfigError, match="|".join(options)):
        await StreamProducer(client, "s", group="g").push(1, **options)


@pytest.mark.parametrize("options", [{"dedup_id": "a"}, {"unique": "a"}])
async def test_many_cannot_share_what_is_there_once(options: Any) -> None:
    """All but the first would not be added."""
    client = StreamClient.from_url("redis://127.0.0.1:1")
    producer = StreamProducer(client, "s", group="g")
    with pytest.raises(ConfigError, match="not for push_many"):
        await producer.push_many([1], **options)
    with pytest.raises(ConfigError, match="not for push_many"):
        producer.push_many_sync([1, 2], **options)
    ids: Any = (f"{n}" for n in range(2))
    with pytest.raises(ConfigError, match="dedup_ids must be a list"):
        await producer.push_many([1, 2], dedup_ids=ids)


async def test_unique_needs_a_group() -> None:
    client = StreamClient.from_url("redis://127.0.0.1:1")
    with pytest.raises(ConfigError, match="group"):
        await StreamProducer(client, "s").push(1, unique="a")

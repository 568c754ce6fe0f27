"""Soak (it takes a C compiler): the clock of the server jumps. What is beside a stream is early or
late by the jump; nothing is lost, nothing there twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import (
    Every,
    JsonSerializer,
    Mover,
    StreamClient,
    StreamProducer,
)
from redis_stream_queue.later.keys import companions
from redis_stream_queue.later.periodic import schedules_of
from redis_stream_queue.later.postponed import Postponed, postpone
from redis_stream_queue.later.ticker import Ticker
from tests.chaos.jump import JumpingClock
from tests.library.kit import GROUP, Bench, RecordingHandler
from tests.support.servers import NAMES, Server

pytestmark = [pytest.mark.soak]

HOUR_S = 3600


async def jump(bench: Bench, clock: JumpingClock, seconds: int) -> None:
    """Set the clock, and wait until the server sees it: some commands see the time before it."""

    async def now_s() -> int:
        return int((await bench.client.link().call("", "TIME"))[0])

    before_s = await now_s()
    clock.jump(seconds)

    async def seen() -> bool:
        return abs(await now_s() - before_s - seconds) < HOUR_S / 100

    await bench.until(seen, "the clock has jumped")


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    clock = JumpingClock(tmp_path)
    assert clock.works, "this test takes a C compiler: apt-get install gcc"
    return clock


@pytest_asyncio.fixture
async def bench(clock: JumpingClock, stream: str) -> AsyncIterator[Bench]:
    with Server.start(NAMES[0], env=clock.env) as server:
        async with Bench(StreamClient.from_url(server.url), stream) as bench:
            yield bench
        await StreamClient.close_all()


async def test_a_window_of_dedup_lasts_longer_or_shorter_by_the_jump(
    bench: Bench, clock: JumpingClock
) -> None:
    producer = StreamProducer(bench.client, bench.stream)

    async def is_duplicate(dedup_id: str) -> bool:
        pushed: Any = await producer.push(1, dedup_id=dedup_id, dedup_ttl_s=HOUR_S)
        return bool(pushed.duplicate)

    assert not await is_duplicate("ahead")
    await jump(bench, clock, 2 * HOUR_S)
    assert not await is_duplicate("ahead")
    assert not await is_duplicate("back")
    await jump(bench, clock, -2 * HOUR_S)
    assert await is_duplicate("back")
    await jump(bench, clock, 2 * HOUR_S - 60)
    assert await is_duplicate("back")
    await jump(bench, clock, HOUR_S + 120)
    assert not await is_duplicate("back")


async def test_what_is_scheduled_is_early_or_late_and_there_once(
    bench: Bench, clock: JumpingClock
) -> None:
    producer, mover = StreamProducer(bench.client, bench.stream), Mover(bench.client, bench.stream)

    early = await producer.push("early", delay_ms=HOUR_S * 1000)
    await jump(bench, clock, 2 * HOUR_S)
    assert await mover.move() == 1
    late = await producer.push("late", delay_ms=1000)
    await jump(bench, clock, -2 * HOUR_S)
    assert await mover.move() == 0
    await jump(bench, clock, 2 * HOUR_S + 2)
    assert await mover.move() == 1
    ids = await bench.entry_ids()
    found = await bench.client.fetch_by_ids(bench.stream, ids)
    assert [m.headers["rsq:scheduled"] for m in found] == [early, late]


async def test_a_consumer_that_waits_notices_that_the_time_has_come(
    bench: Bench, clock: JumpingClock
) -> None:
    """With its next look: for a message that is due now, and a pause that is over."""
    producer, handler = StreamProducer(bench.client, bench.stream), RecordingHandler()
    consumer = bench.consumer(handler)
    bench.start(consumer)
    await producer.push("first", delay_ms=1)
    await bench.until(lambda: len(handler.messages) == 1, "it runs")
    await producer.push("due", delay_ms=HOUR_S * 1000)
    await jump(bench, clock, 2 * HOUR_S)
    await bench.until(lambda: len(handler.messages) == 2, "it is moved")
    await bench.client.pause(bench.stream, GROUP, for_s=HOUR_S)
    await bench.until(lambda: consumer._paused, "it stands still")
    await producer.push("paused")
    await jump(bench, clock, 2 * HOUR_S)
    await bench.until(lambda: len(handler.messages) == 3, "it goes on")
    await bench.stop(consumer)


async def test_what_is_pushed_behind_a_jump_back_has_not_expired(
    bench: Bench, clock: JumpingClock
) -> None:
    """Also for a consumer that has asked for the time just before the jump."""
    producer, handler = StreamProducer(bench.client, bench.stream), RecordingHandler()
    consumer = bench.consumer(handler)
    bench.start(consumer)
    await producer.push(0, ttl_ms=10_000)
    await bench.until(lambda: len(handler.messages) == 1, "the time is known")
    await jump(bench, clock, -HOUR_S)
    await producer.push_many([1, 2], ttl_ms=10_000, delay_ms=1100)
    await bench.until(lambda: consumer.metrics().total_acked == 3, "they are settled")
    assert [m.data for m in handler.messages] == [0, 1, 2]
    await bench.stop(consumer)


@pytest.mark.parametrize("where", ["running", "scheduled"])
async def test_a_long_retry_is_found_by_its_first_id_as_long_as_it_is_unfinished(
    bench: Bench, clock: JumpingClock, where: str
) -> None:
    """Also days after it was due, while others wait for retries of theirs; not when it is gone."""
    client, stream, beside = bench.client, bench.stream, companions(bench.stream)

    async def retry_later(count: int) -> str:
        await bench.push(*range(count))
        ids = await bench.deliver("c")
        later = [Postponed(entry_id, 1, HOUR_S * 1000, "") for entry_id in ids]
        for one in later:  # each forgets two notes that are of no use
            assert await postpone(client.link(), beside, GROUP, "c", [one])
        return ids[0]

    async def state() -> str:
        found = await client.find(stream, first)
        return found.state if found else "gone"

    first = await retry_later(1)
    if where == "running":
        await jump(bench, clock, HOUR_S + 60)
        assert await Mover(client, stream).move() == 1
        await bench.deliver("holder")
    await jump(bench, clock, 3 * 24 * HOUR_S)
    await retry_later(10)
    assert await state() == where
    assert await client.cancel(stream, first) == where
    assert await state() == "gone"

    async def forgotten() -> bool:
        await retry_later(10)
        return not await client.link().call(stream, "HEXISTS", beside.retried, first)

    await bench.until(forgotten, "nothing is left of it")


async def test_no_tick_comes_twice(bench: Bench, clock: JumpingClock) -> None:
    beat = schedules_of([Every("beat", 0.1)], JsonSerializer().encode)
    ticking = asyncio.create_task(Ticker(bench.client, bench.stream, GROUP, beat).run())

    async def more_than(count: int) -> None:
        async def there() -> bool:
            return await bench.client.stream_len(bench.stream) > count

        await bench.until(there, "it ticks")

    await more_than(3)
    await jump(bench, clock, HOUR_S)
    before = await bench.client.stream_len(bench.stream)
    await more_than(before + 3)
    await jump(bench, clock, -1)
    before = await bench.client.stream_len(bench.stream)
    await more_than(before + 3)
    ticking.cancel()
    await asyncio.wait([ticking])
    found = await bench.client.fetch_by_ids(bench.stream, await bench.entry_ids())
    ticks = [m.headers["rsq:tick"] for m in found]
    assert max(Counter(ticks).values()) == 1
    assert ticks == sorted(ticks)
    assert datetime.fromisoformat(ticks[-1]) > datetime.now(UTC)

"""Retries that wait long wait beside the stream: they keep their past, and hold up no trimming."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import Retry, StreamMessage, StreamProducer, per_message
from redis_stream_queue.delivery import in_flight
from redis_stream_queue.delivery.retention import Retention

from .kit import GROUP, Bench, RecordingHandler

DAY_MS = 86_400_000


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for more than 20 ms waits long."""
    monkeypatch.setattr(in_flight, "LONG_MS", 20)


class Failing:
    """Fails each time with its number; ids and counts as they were delivered."""

    def __init__(self, delay_ms: int, **options: Any) -> None:
        self.seen: list[StreamMessage] = []
        self.batches: list[int] = []

        @per_message
        async def handle(message: StreamMessage) -> None:
            self.seen.append(message)
            why = f"for the {len(self.seen)}. time"
            raise Retry(why, delay_ms=delay_ms, **options)

        self.handler = handle


@pytest.mark.usefixtures("soon")
async def test_it_comes_back_with_its_deliveries_and_dies_of_them(real_bench: Bench) -> None:
    """The last permitted delivery is one to the server too, and the letter says what it was."""
    failing = Failing(40)
    consumer = real_bench.consumer(
        failing.handler, max_deliveries=3, dlq_stream=real_bench.dlq, block_ms=20
    )
    producer = StreamProducer(real_bench.client, real_bench.stream, GROUP)
    first = await producer.push("x", unique="key", headers={"a": "ü\x00"})
    await real_bench.client.create_group(real_bench.stream, GROUP)
    await consumer.run_once()
    assert await real_bench.entry_ids() == []
    found = await real_bench.client.find(real_bench.stream, first)
    assert found is not None
    assert (found.state, found.data, found.headers["a"]) == ("scheduled", b'"x"', "ü\x00")
    assert (await producer.push("y", unique="key")).duplicate  # type: ignore[attr-defined]

    real_bench.start(consumer)
    await real_bench.until(lambda: real_bench.letters(), "it is dead")
    assert [message.delivery_count for message in failing.seen] == [1, 2, 3]
    [letter] = await real_bench.letters()
    assert letter["delivery_count"] == "3"
    assert letter["rsq:first"] == first
    assert "for the 3. time" in letter["last_error"]
    assert not (await producer.push("z", unique="key")).duplicate  # type: ignore[attr-defined]


@pytest.mark.usefixtures("soon")
async def test_what_does_not_count_is_not_counted_after_it_either(server_bench: Bench) -> None:
    failing = Failing(30, counted=False)
    consumer = server_bench.consumer(failing.handler, max_deliveries=2, block_ms=20)
    await server_bench.push("x")
    server_bench.start(consumer)
    await server_bench.until(lambda: len(failing.seen) >= 4, "it is tried again and again")
    assert {message.delivery_count for message in failing.seen} == {1}


@pytest.mark.usefixtures("soon")
async def test_whoever_reads_it_and_dies_costs_it_no_delivery(server_bench: Bench) -> None:
    """Its count is in its headers until somebody has given it back with it."""
    failing = Failing(30)
    consumer = server_bench.consumer(failing.handler, max_deliveries=3)
    await server_bench.push("x")
    await consumer.run_once()
    await asyncio.sleep(0.05)
    assert await consumer._mover.move() == 1
    [entry_id] = await server_bench.deliver("dead")
    await server_bench.set_pending(entry_id, "dead", 60_000, 1)
    await server_bench.until(lambda: _turn(consumer, failing, 2), "it is handled again")
    assert [message.delivery_count for message in failing.seen] == [1, 2]


async def _turn(consumer: Any, failing: Failing, wanted: int) -> bool:
    await consumer.run_once()
    return len(failing.seen) == wanted


async def test_where_another_group_reads_the_stream_it_stays(server_bench: Bench) -> None:
    """That group would get it again. Nor do entries that others have made go."""
    failing = Failing(DAY_MS)
    await server_bench.client.create_group(server_bench.stream, "others")
    consumer = server_bench.consumer(failing.handler)
    ids = await server_bench.push(1, 2)
    await consumer.run_once()
    assert list(await server_bench.pending()) == ids
    await server_bench.client.command("XGROUP DESTROY", server_bench.stream, "others")
    foreign = await server_bench.add_raw({"text": "x", "data": "1"})
    ours = (await server_bench.push(3))[0]
    await consumer.run_once()
    assert list(await server_bench.pending()) == [*ids, foreign]
    assert await server_bench.client.cancel(server_bench.stream, ours) == "scheduled"


async def _trims(bench: Bench, retries: int, finished: int, limit: int) -> int:
    failing, handler = Failing(DAY_MS), RecordingHandler()
    failer = bench.consumer(failing.handler, batch_size=500)
    await bench.push(*range(retries))
    while len(failing.seen) < retries:
        await failer.run_once()
    worker = bench.consumer(handler, batch_size=1000)
    for start in range(0, finished, 10_000):
        await bench.push(*range(min(10_000, finished - start)))
        while len(handler.messages) < min(start + 10_000, finished):
            await worker.run_once()
    retention = Retention(worker._in_flight.pending, limit)
    await retention.trim()
    assert len([m async for m in StreamProducer(bench.client, bench.stream).scheduled()]) == retries
    return await bench.client.stream_len(bench.stream)


async def test_what_is_finished_behind_it_is_trimmed(server_bench: Bench) -> None:
    assert await _trims(server_bench, 60, 3000, 1000) <= 1200


@pytest.mark.soak
async def test_two_thousand_delays_of_a_day_hold_up_nothing(server_bench: Bench) -> None:
    assert await _trims(server_bench, 2000, 200_000, 5000) <= 6000

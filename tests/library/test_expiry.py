"""ttl_ms: what has not started in time does not start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import DeadLetterQueue, StreamMessage, StreamProducer, per_message
from tests.library.kit import GROUP, Bench, RecordingHandler


async def test_what_waited_too_long_is_counted_or_dead(real_bench: Bench) -> None:
    """The others of its batch are handled."""
    producer = StreamProducer(real_bench.client, real_bench.stream)
    handler = RecordingHandler()
    await producer.push_many(["late", "late"], ttl_ms=5)
    await producer.push("dead", ttl_ms=5, expired="dead")
    await producer.push("in time", ttl_ms=60_000)
    await producer.push("plain")
    await asyncio.sleep(0.02)

    consumer = real_bench.consumer(handler, dlq_stream=real_bench.dlq)
    await real_bench.drain(consumer)

    assert [m.data for m in handler.messages] == ["in time", "plain"]
    assert consumer.metrics().total_expired == 2
    assert consumer.metrics().total_acked == 4
    [letter] = await real_bench.letters()
    assert (letter["reason"], letter["data"]) == ("expired", '"dead"')


async def test_waiting_for_its_time_counts(server_bench: Bench) -> None:
    """A delay that is longer than the ttl expires."""
    producer, handler = StreamProducer(server_bench.client, server_bench.stream), RecordingHandler()
    await producer.push("late", delay_ms=50, ttl_ms=10)
    await producer.push("in time", delay_ms=50, ttl_ms=60_000)
    consumer = server_bench.consumer(handler)
    await server_bench.client.create_group(server_bench.stream, GROUP)

    async def turn() -> bool:
        await consumer.run_once()
        return consumer.metrics().total_acked == 2

    await server_bench.until(turn, "both are settled")
    assert [m.data for m in handler.messages] == ["in time"]


@pytest.mark.parametrize("plain", [True, False])
async def test_it_is_looked_at_just_before_each_start(server_bench: Bench, plain: bool) -> None:
    """One of a batch that expires while another one runs."""
    started: list[Any] = []

    @per_message
    async def handle(message: StreamMessage) -> None:
        started.append(message.data)
        await asyncio.sleep(0.3)

    @per_message
    def handle_plain(message: StreamMessage) -> None:
        import time

        started.append(message.data)
        time.sleep(0.3)

    producer = StreamProducer(server_bench.client, server_bench.stream)
    await producer.push(1)
    await producer.push(2, ttl_ms=250)
    consumer = server_bench.consumer(handle_plain if plain else handle)
    await server_bench.drain(consumer)
    assert started == [1]
    assert consumer.metrics().total_expired == 1


async def test_a_requeued_letter_has_its_time_again(server_bench: Bench) -> None:
    handler = RecordingHandler()
    pushed = {"data": '"x"', "rsq:pushed": 1, "rsq:ttl": 60_000, "rsq:expired": "dead"}
    await server_bench.add_raw(pushed)  # in 1970
    consumer = server_bench.consumer(handler, dlq_stream=server_bench.dlq)
    await server_bench.drain(consumer)
    assert [letter["reason"] for letter in await server_bench.letters()] == ["expired"]
    dead = DeadLetterQueue(server_bench.client, server_bench.dlq)
    await dead.requeue([letter.id for letter in await dead.list()])
    await server_bench.drain(consumer)
    assert [m.data for m in handler.messages] == ["x"]


async def test_odd_times_of_others_mean_nothing(server_bench: Bench) -> None:
    handler = RecordingHandler()
    for odd in ("", "soon", "1e3", "9" * 400):
        await server_bench.add_raw({"data": "1", "rsq:ttl": odd})
    await server_bench.drain(server_bench.consumer(handler))
    assert len(handler.messages) == 4

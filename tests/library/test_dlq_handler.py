"""A dlq_handler gets each dead message, with the reason, before the letter moves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_stream_queue import Reject, StreamMessage, per_message
from tests.library.kit import GROUP, Bench, RecordingHandler, running


async def test_dlq_handler_gets_the_message_and_the_reason(bench: Bench) -> None:
    """Decoded where it decodes, the raw bytes where not."""
    got: list[tuple[Any, str, int]] = []

    async def on_dead(message: StreamMessage, reason: str) -> None:
        got.append((message.data, reason, message.delivery_count))

    @per_message
    async def handle(message: StreamMessage) -> None:
        if message.data == "rejected":
            raise Reject
        raise ValueError

    await bench.push("rejected", {"n": 1})
    await bench.add_raw({"data": b"not json"})
    consumer = bench.consumer(handle, dlq_handler=on_dead, max_deliveries=2, retry_delay_ms=0)
    await bench.drain(consumer)

    assert sorted(got, key=lambda line: line[1]) == [
        (b"not json", "decode_error", 1),
        ({"n": 1}, "max_deliveries", 2),
        ("rejected", "rejected", 1),
    ]
    assert consumer.metrics().total_dlq == 3


async def test_dlq_handler_is_called_before_the_letter_moves(bench: Bench) -> None:
    order: list[tuple[int, int]] = []

    async def on_dead(message: StreamMessage, reason: str) -> None:
        order.append((len(await bench.letters()), len(await bench.pending())))

    await bench.add_raw({"data": b"not json"})
    await bench.consumer(RecordingHandler(), dlq_handler=on_dead, dlq_stream=bench.dlq).run_once()

    assert order == [(0, 1)]
    assert len(await bench.letters()) == 1


async def test_dlq_handler_that_raises_with_a_stream_loses_nothing(
    bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the letter moves all the same."""

    async def broken(message: StreamMessage, reason: str) -> None:
        raise ConnectionError("ticket system is down")

    await bench.add_raw({"data": b"not json"})
    await bench.consumer(RecordingHandler(), dlq_handler=broken, dlq_stream=bench.dlq).run_once()

    assert len(await bench.letters()) == 1
    assert await bench.settled()
    assert "ticket system is down" in warnings_logged.text


async def test_dlq_handler_that_raises_without_a_stream_is_offered_it_again(bench: Bench) -> None:
    """At the next sweep, until it takes it; the handler does not get it any more."""
    handler, offers = RecordingHandler(), 0

    async def broken_twice(message: StreamMessage, reason: str) -> None:
        nonlocal offers
        offers += 1
        if offers < 3:
            raise ConnectionError("ticket system is down")

    [entry_id] = await bench.push({"mode": "fail"})
    consumer = bench.consumer(handler, dlq_handler=broken_twice, max_deliveries=2, retry_delay_ms=0)
    await bench.drain(consumer)

    assert offers == 3
    assert handler.runs == {entry_id: 2}
    assert consumer.metrics().total_dlq == 1


@pytest.mark.parametrize("count", [10, 3 * 10**10 + 10])
async def test_dlq_handler_is_passed_over_only_if_it_died_and_a_stream_takes_the_letter(
    bench: Bench, count: int
) -> None:
    """A count above max_deliveries, which may have been lowered, is not yet a sign of that."""
    told: list[str] = []

    async def on_dead(message: StreamMessage, reason: str) -> None:
        told.append(message.id)

    await bench.client.create_group(bench.stream, GROUP)
    ids: list[str] = []
    for options in ({"dlq_stream": bench.dlq}, {}):
        ids += await bench.push("a")
        await bench.client.read(bench.stream, GROUP, "gone", 1, 0)
        await bench.client.command(
            "XCLAIM", bench.stream, GROUP, "gone", 0, ids[-1],
            "IDLE", 100_000, "RETRYCOUNT", count,
        )  # fmt: skip
        await bench.consumer(RecordingHandler(), dlq_handler=on_dead, **options).run_once()
    assert told == (ids if count == 10 else ids[1:])
    assert [letter["original_id"] for letter in await bench.letters()] == ids[:1]


@pytest.mark.parametrize("count", [10**15 + 5, 2**63 - 1])
async def test_a_count_that_somebody_else_made_huge_is_no_obstacle(
    bench: Bench, count: int
) -> None:
    """Redis' own XNACK FATAL leaves the greatest there is."""
    told: list[tuple[str, str]] = []

    async def on_dead(message: StreamMessage, reason: str) -> None:
        told.append((message.id, reason))

    await bench.client.create_group(bench.stream, GROUP)
    [entry_id] = await bench.push("a")
    await bench.client.read(bench.stream, GROUP, "gone", 1, 0)
    await bench.client.command(
        "XCLAIM", bench.stream, GROUP, "gone", 0, entry_id, "IDLE", 100_000, "RETRYCOUNT", count
    )
    consumer = bench.consumer(RecordingHandler(), dlq_handler=on_dead, dlq_stream=bench.dlq)
    await consumer.run_once()
    assert told == [(entry_id, "max_deliveries")]
    assert [letter["original_id"] for letter in await bench.letters()] == [entry_id]
    assert await bench.settled()


@pytest.mark.parametrize("kind", ["undecodable", "rejected"])
async def test_dlq_handler_that_raises_is_offered_other_kinds_again_too(
    bench: Bench, kind: str
) -> None:
    """Without another execution: they are dead."""
    executed: list[Any] = []
    reasons: list[str] = []

    async def broken_once(message: StreamMessage, reason: str) -> None:
        reasons.append(reason)
        if len(reasons) == 1:
            raise ConnectionError("ticket system is down")

    @per_message
    async def handle(message: StreamMessage) -> None:
        executed.append(message.data)
        raise Reject("never")

    if kind == "undecodable":
        await bench.add_raw({"data": b"not json"})
    else:
        await bench.push("x")
    await bench.drain(bench.consumer(handle, dlq_handler=broken_once))

    assert reasons[0] == {"undecodable": "decode_error", "rejected": "rejected"}[kind]
    assert len(reasons) == 2
    assert executed == ([] if kind == "undecodable" else ["x"])


async def test_slow_dlq_handler_is_not_called_by_a_second_consumer(bench: Bench) -> None:
    """Burying begins by claiming, so that one process does it, however long it takes."""
    calls: list[str] = []

    async def slow(message: StreamMessage, reason: str) -> None:
        calls.append(message.id)
        await asyncio.sleep(0.8)

    bad = await bench.add_raw({"data": b"not json"})
    options = {"dlq_handler": slow, "dlq_stream": bench.dlq, "min_idle_claim_ms": 200}
    first, second = (
        bench.consumer(RecordingHandler(), max_deliveries=1, block_ms=50, **options) for _ in "12"
    )
    async with running(bench, first, second):
        await bench.until(bench.letters, "the letter has moved")
    assert calls == [bad]


async def test_slow_dlq_handler_does_not_make_finished_messages_run_twice(bench: Bench) -> None:
    """What is done is acknowledged in time, whatever another message of its batch needs."""
    executed: list[int] = []

    @per_message
    async def handle(message: StreamMessage) -> None:
        executed.append(message.data)
        if message.data == 0:
            raise Reject("slow burial")

    async def slow(message: StreamMessage, reason: str) -> None:
        await asyncio.sleep(0.8)

    await bench.push(*range(5))
    first, second = (
        bench.consumer(handle, dlq_handler=slow, min_idle_claim_ms=200, block_ms=50) for _ in "12"
    )
    async with running(bench, first, second):
        await bench.until(bench.settled, "everything is settled")
    assert sorted(executed) == [0, 1, 2, 3, 4]

"""A letter that Redis refuses waits, in silence, and stops nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from redis_stream_queue import Reject, StreamMessage, per_message
from redis_stream_queue._burial_mark import MAX_DELIVERIES, marked
from redis_stream_queue._names import parking_name
from tests.library.kit import GROUP, Bench, RecordingHandler

BAD = 30
GOOD = 30


async def wrong_type(bench: Bench) -> None:
    await bench.client.command("SET", bench.dlq, "oops")


async def out_of_memory(bench: Bench) -> None:
    await bench.client.link().call("", "CONFIG", "SET", "maxmemory", "1")


async def mended(bench: Bench) -> None:
    await bench.client.link().call("", "CONFIG", "SET", "maxmemory", "0")
    if await bench.client.command("TYPE", bench.dlq) == b"string":
        await bench.client.command("DEL", bench.dlq)


@pytest.mark.parametrize("refuse", [wrong_type, out_of_memory])
async def test_letters_that_are_refused(
    server_bench: Bench,
    refuse: Callable[[Bench], Awaitable[None]],
    warnings_logged: pytest.LogCaptureFixture,
) -> None:
    """New messages and retries go on; the log has a line or two; and when it is mended, all
    letters arrive."""
    bench = server_bench
    runs: list[tuple[str, int]] = []
    refused = asyncio.Event()

    async def handle(message: StreamMessage) -> None:
        await refused.wait()
        runs.append((message.data, message.delivery_count))
        if message.data == "bad":
            raise Reject("no")
        if message.delivery_count == 1:
            raise ValueError("the first time fails")

    ids = await bench.push(*["bad"] * BAD, *["good"] * GOOD)
    consumer = bench.consumer(
        per_message(handle), dlq_stream=bench.dlq, retry_delay_ms=50, block_ms=20
    )
    bench.start(consumer)
    meter = consumer._in_flight.meter
    await bench.until(lambda: meter.read.total, "it has begun")
    try:
        await refuse(bench)
        refused.set()
        await bench.until(lambda: meter.acked.total == GOOD, "the good ones are done")
        assert meter.dlq == 0
        refusals = [r for r in warnings_logged.records if "could not be buried" in r.message]
        assert len(refusals) == 1
        assert "script:" not in refusals[0].message  # what it says of the server's own
        found = await bench.client.find(bench.stream, ids[0])
        assert found
        assert found.groups[0].delivery_count == 1
        assert len([r for r in warnings_logged.records if "is dead" in r.message]) == 0
    finally:
        await mended(bench)
    await bench.until(lambda: meter.dlq == BAD, "all letters arrive", 15)
    assert runs.count(("bad", 1)) == BAD
    assert len(runs) == BAD + 2 * GOOD
    assert {letter["reason"] for letter in await bench.letters()} == {"rejected"}


async def test_a_letter_that_another_process_writes_says_where_its_error_is(
    server_bench: Bench,
) -> None:
    """Whose burial was refused or cut off is buried by who comes next, who has not seen it fail."""
    bench = server_bench
    await bench.push("bad")
    [entry_id] = await bench.deliver("gone")
    count = marked(2, MAX_DELIVERIES)
    await bench.set_pending(entry_id, parking_name(GROUP, 1)[0], idle_ms=5000, delivery_count=count)
    consumer = bench.consumer(
        RecordingHandler(), dlq_stream=bench.dlq, block_ms=20, max_deliveries=2
    )
    bench.start(consumer)
    await bench.until(lambda: consumer._in_flight.meter.dlq == 1, "it is buried")
    [letter] = await bench.letters()
    assert "burial had begun before" in letter["last_error"]
    assert letter["delivery_count"] == "2"

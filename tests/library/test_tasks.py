"""Tasks in a consumer of the library: plain and async ones, and what its cancellation does."""

from __future__ import annotations

import asyncio

import pytest

from redis_stream_queue import Queue, StreamConsumer
from tests.library.kit import GROUP, WAIT_S, Bench


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_async_tasks_behind_a_plain_one_run_together_and_are_cancelled(
    bench: Bench, concurrency: int
) -> None:
    """As many at a time as may; what the cancellation of the consumer ends is not counted."""
    queue = Queue(bench.stream, group=GROUP, client=bench.client)
    did: list[str] = []
    begun = asyncio.Event()

    @queue.task(name="plain")
    def plain() -> None:
        did.append("plain")

    @queue.task(name="waits", concurrency=concurrency)
    async def waits() -> None:
        did.append("begun")
        if did.count("begun") == concurrency:
            begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            did.append("cancelled")
            raise

    first = await plain.push()
    others = [await waits.push() for _ in range(4)]
    consumer: StreamConsumer = bench.consumer(queue.stream_handler())
    running = asyncio.ensure_future(consumer.run())
    await asyncio.wait_for(begun.wait(), WAIT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert did == ["plain", *["begun"] * concurrency, *["cancelled"] * concurrency]
    assert consumer.metrics().total_errors == 0
    pending = await bench.pending()
    assert first.id not in pending
    assert {pending[job.id][1] for job in others} == {0}

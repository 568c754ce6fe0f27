"""Tasks in a consumer of the library: plain and async ones, and what its cancellation does."""

from __future__ import annotations

import asyncio

import pytest

from redis_stream_queue import Mover, Queue, StreamConsumer, StreamProducer, TaskFailed
from redis_stream_queue.delivery.answers import VALUE
from redis_stream_queue.later.keys import companions
from redis_stream_queue.tasks.results import MOST_LOOKS
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


@pytest.mark.parametrize("state", ["scheduled", "moved", "waiting", "running", "retrying"])
async def test_whoever_waits_is_told_of_a_cancellation_in_the_same_step(
    real_bench: Bench, state: str
) -> None:
    """By whichever id; nobody sees it gone without a result. Without one there is no key."""
    client, stream = real_bench.client, real_bench.stream
    queue = Queue(stream, group=GROUP, client=client)

    @queue.task(name="kept", result_ttl_s=60)
    def kept() -> None: ...

    @queue.task(name="plain")
    def plain() -> None: ...

    await client.create_group(stream, GROUP)
    for task in (kept, plain):
        delay_ms = {"scheduled": 60_000, "moved": 1}.get(state, 0)
        job = await task.options(delay_ms=delay_ms).push()
        if state == "moved":
            await asyncio.sleep(0.01)
            assert await Mover(client, stream).move() == 1
        elif state in ("running", "retrying"):
            holder = "c" if state == "running" else f"{GROUP}:retry:1024"
            assert await real_bench.deliver(holder) == [job.id]
        entry_id, expected = job.id, state
        if state == "moved":
            [entry_id], expected = await real_bench.entry_ids(), "waiting"
        if state == "scheduled":
            assert await StreamProducer(client, stream).cancel(job.id)
        else:
            assert await client.cancel(stream, entry_id) == expected
        assert await job.status() == "gone"
        key = companions(client.key(stream)).result(job.id)
        left_ms = await client.link().call(key, "PTTL", key)
        if task is kept:
            with pytest.raises(TaskFailed, match="cancelled"):
                await job.result(5)
            assert 0 < left_ms <= 60_000
        else:
            assert left_ms == -2
    await queue.close()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_many_wait_for_results_without_a_connection_each(
    server_bench: Bench, when: str
) -> None:
    """As many as are opened together are in time on a slow machine; who waits has one each."""
    client, stream = server_bench.client, server_bench.stream
    queue, jobs = Queue(stream, group=GROUP, client=client).options(result_ttl_s=60), 100
    pushed = [await queue.push("task", number) for number in range(jobs)]

    async def connections() -> int:
        stats = await client.link().call("", "INFO", "stats")
        return int(stats.partition(b"total_connections_received:")[2].split()[0])

    async def answer() -> None:
        for number, job in enumerate(pushed):
            key = companions(client.key(stream)).result(job.id)
            await client.link().call(key, "LPUSH", key, VALUE + b"%d" % number)

    before = await connections()
    if when == "before":
        await answer()
    waits = [asyncio.create_task(job.result(WAIT_S)) for job in pushed for _ in range(3)]
    if when == "meanwhile":
        await answer()
    got = await asyncio.gather(*waits)

    assert got == [number for number in range(jobs) for _ in range(3)]
    if when == "before":
        assert await connections() - before <= MOST_LOOKS

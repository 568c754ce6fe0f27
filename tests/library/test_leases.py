"""A lease is kept while its handler runs, and what nobody renews is taken over."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from redis.exceptions import NoPermissionError

from redis_stream_queue import StreamMessage, per_message
from redis_stream_queue._clock import mono_ms
from redis_stream_queue.delivery.pending import PendingList
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running
from tests.support.held import Held


class TestLease:
    """While its process lives, nobody else takes a message in somebody's hands."""

    @pytest.mark.parametrize("min_idle_ms", [20, 100, 300])
    @pytest.mark.parametrize("kind", ["async", "plain", "per_message", "plain per_message"])
    async def test_slow_handler_is_neither_run_twice_nor_buried(
        self, server_bench: Bench, kind: str, min_idle_ms: int
    ) -> None:
        """Whatever min_idle_claim_ms says, and also on the last permitted delivery."""
        bench = server_bench
        executed: list[str] = []
        slow_s = max(0.3, min_idle_ms * 3 / 1000)

        async def a_batch(messages: list[StreamMessage]) -> list[str]:
            executed.extend(m.id for m in messages)
            await asyncio.sleep(slow_s)
            return [m.id for m in messages]

        def plain_batch(messages: list[StreamMessage]) -> list[str]:
            executed.extend(m.id for m in messages)
            time.sleep(slow_s)
            return [m.id for m in messages]

        @per_message
        async def one(message: StreamMessage) -> None:
            executed.append(message.id)
            await asyncio.sleep(slow_s / 2)

        @per_message
        def plain_one(message: StreamMessage) -> None:
            executed.append(message.id)
            time.sleep(slow_s / 2)

        handler = {
            "async": a_batch, "plain": plain_batch, "per_message": one,
            "plain per_message": plain_one,
        }[kind]  # fmt: skip
        ids = await bench.push(1, 2)
        options = {"min_idle_claim_ms": min_idle_ms, "max_deliveries": 1, "block_ms": 20}
        first = bench.consumer(handler, dlq_stream=bench.dlq, **options)
        second = bench.consumer(handler, dlq_stream=bench.dlq, **options)
        async with running(bench, first, second):
            await bench.until(bench.settled, "both messages are done")

        assert sorted(executed) == ids
        assert await bench.letters() == []

    async def test_abandoned_message_is_taken_over(self, bench: Bench) -> None:
        """One that nobody renews is taken once it was idle for min_idle_claim_ms, not before."""
        [entry_id] = await bench.push(1)
        await bench.deliver("gone")
        handler = RecordingHandler()
        consumer = bench.consumer(handler, min_idle_claim_ms=400)
        await consumer.run_once()
        assert handler.batches == []
        await bench.drain(consumer)
        assert handler.counts(entry_id) == [2]

    async def test_message_that_was_taken_away_is_not_started(self, server_bench: Bench) -> None:
        """Renewal notices that others hold it now, and the rest of the batch goes on."""
        bench = server_bench
        ids = await bench.push(0, 1, 2)
        started: list[int] = []
        release = threading.Event()

        @per_message
        def handle(message: StreamMessage) -> None:
            started.append(message.data)
            if message.data == 0:
                assert release.wait(WAIT_S)

        consumer = bench.consumer(handle, min_idle_claim_ms=1500)
        iteration = bench.once(consumer)
        await bench.until(lambda: started, "the first message runs")
        await bench.set_pending(ids[1], "thief", 0, 2)

        async def renewed_since() -> bool:
            entries = await bench.client.pending_range(bench.stream, GROUP, 10)
            idle = {entry.id: entry.idle_ms for entry in entries}
            return idle[ids[1]] > 600 and idle[ids[2]] < 600

        await bench.until(renewed_since, "a renewal went by")
        release.set()
        await iteration

        assert started == [0, 2]
        assert await bench.pending() == {ids[1]: ("thief", 2)}


async def test_what_arrives_while_a_renewal_travels_is_as_old_as_it_was(
    server_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not renewed: an answer that lay around (a stopped process) may be others' by now. And
    of what is said of the name meanwhile the renewal does not tell, either."""
    consumer = server_bench.consumer(RecordingHandler(), min_idle_claim_ms=1000)
    leases = consumer._in_flight.leases
    leases.name, now_ms = "me", mono_ms()
    first, old = await server_bench.push(1, 2)
    await server_bench.deliver("me")
    leases.hold([StreamMessage(first, b"", 1)], now_ms)

    answer = Held(monkeypatch, PendingList, "renew")
    renewal = asyncio.create_task(leases.renew())
    await answer.came.wait()
    leases.hold([StreamMessage(old, b"", 1)], now_ms - 60_000)
    leases.name_was_made(NoPermissionError("it cannot be told whether that made the name"))
    answer.go.set()
    await renewal
    assert leases.is_old(mono_ms())
    assert leases.look_first

    await leases.renew()
    assert not leases.is_old(mono_ms())
    assert not leases.look_first
    leases.close()

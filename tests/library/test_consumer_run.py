"""run() handles what comes, gives everything back, and stop() ends it at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import Any

import pytest

from redis_stream_queue import StreamConsumer, StreamMessage, per_message
from redis_stream_queue.delivery import sightings
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running

LONG_MS = 60_000  # an idle threshold that no test reaches
AT_ONCE_S = 0.9  # on a busy machine; whoever waits in vain for the mover to end takes 1 s


class TestRun:
    """run() loops until stop() or cancellation."""

    async def test_handles_what_comes(self, bench: Bench) -> None:
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, block_ms=5000)):
            for n in range(3):
                [entry_id] = await bench.push(n)
                await bench.until(lambda i=entry_id: i in handler.runs, "it was handled")
        assert [m.data for m in handler.messages] == [0, 1, 2]

    async def test_leaves_neither_consumer_nor_pending_entry(self, bench: Bench) -> None:
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, block_ms=5000)):
            await bench.push(1)
            await bench.until(lambda: handler.batches, "handled")
        assert await bench.pending() == {}
        assert await bench.consumers() == []

    async def test_stop_from_another_thread_ends_a_blocked_read_at_once(
        self, real_bench: Bench
    ) -> None:
        """Not after block_ms. (fakeredis has no CLIENT UNBLOCK.)"""
        bench = real_bench
        consumer = bench.consumer(RecordingHandler(), block_ms=60_000)
        task = bench.start(consumer)

        async def is_blocked() -> bool:
            clients = await bench.client.link().call(bench.stream, "CLIENT", "LIST")
            return b"cmd=xreadgroup" in clients and b"flags=b" in clients

        await bench.until(is_blocked, "the consumer waits for messages")
        started = time.monotonic()
        threading.Thread(target=consumer.stop).start()
        await asyncio.wait_for(task, WAIT_S)
        assert time.monotonic() - started < AT_ONCE_S

    async def test_stop_at_any_moment_is_quick(self, server_bench: Bench) -> None:
        """Also while the consumer is just starting, reading or handling."""
        bench = server_bench
        consumer = bench.consumer(RecordingHandler(), block_ms=60_000)
        slowest = 0.0
        for n in range(60):
            task = asyncio.create_task(consumer.run())
            for _ in range(n):
                await asyncio.sleep(0)
            await bench.push(n)
            started = time.monotonic()
            consumer.stop()
            await asyncio.wait_for(task, WAIT_S)
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < AT_ONCE_S

    async def test_stop_lets_the_batch_in_hand_finish(self, bench: Bench) -> None:
        done: list[int] = []
        consumer: StreamConsumer

        async def handle(messages: list[StreamMessage]) -> list[str]:
            consumer.stop()
            await asyncio.sleep(0.05)
            done.extend(m.data for m in messages)
            return [m.id for m in messages]

        consumer = bench.consumer(handle, batch_size=2)
        ids = await bench.push(0, 1, 2, 3)
        await asyncio.wait_for(consumer.run(), WAIT_S)

        assert done == [0, 1]
        assert await bench.pending() == {}
        info = await bench.client.group_info(bench.stream)
        assert info[0]["last-delivered-id"] == ids[1]

    async def test_can_run_again_after_stop(self, bench: Bench) -> None:
        handler = RecordingHandler()
        consumer = bench.consumer(handler)
        for n in range(3):
            await bench.push(n)
            async with running(bench, consumer):
                await bench.until(lambda n=n: len(handler.messages) == n + 1, f"message {n}")
        assert [m.data for m in handler.messages] == [0, 1, 2]

    @pytest.mark.parametrize("kind", ["async", "plain", "per_message", "concurrent"])
    async def test_cancellation_gives_everything_back(self, bench: Bench, kind: str) -> None:
        """What was not finished is due at once and uncounted; the consumer's name is removed."""
        started: list[str] = []
        release = threading.Event()

        async def batch(messages: list[StreamMessage]) -> list[str]:
            started.extend(m.id for m in messages)
            await asyncio.sleep(WAIT_S)
            return []

        @per_message
        async def one(message: StreamMessage) -> None:
            started.append(message.id)
            if len(started) > 1:
                await asyncio.sleep(WAIT_S)

        @per_message
        def plain(message: StreamMessage) -> None:  # cannot be interrupted: it finishes
            started.append(message.id)
            release.wait(WAIT_S)

        @per_message(concurrency=3)
        async def many(message: StreamMessage) -> None:
            started.append(message.id)
            if len(started) > 1:
                await asyncio.sleep(WAIT_S)

        handler: Any
        handler, wanted, finished = {
            "async": (batch, 3, 0),
            "plain": (plain, 1, 1),
            "per_message": (one, 2, 1),
            "concurrent": (many, 3, 1),
        }[kind]
        ids = await bench.push(0, 1, 2)
        task = bench.start(bench.consumer(handler, min_idle_claim_ms=LONG_MS))
        await bench.until(lambda: len(started) == wanted, "the handler runs")

        task.cancel()
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert await bench.consumers() == []
        assert await bench.pending() == dict.fromkeys(ids[finished:], (f"{GROUP}:retry:1", 0))
        handler = RecordingHandler()
        await bench.consumer(handler, min_idle_claim_ms=LONG_MS).run_once()
        assert [m.delivery_count for m in handler.messages] == [1] * (3 - finished)

    async def test_a_free_lane_takes_the_next_message_while_another_is_busy(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """@per_message(concurrency=2), between two sweeps: messages that come while the other lane
        is busy."""
        monkeypatch.setattr("redis_stream_queue.delivery.reclaiming.SWEEP_INTERVAL_MS", LONG_MS)
        release = asyncio.Event()
        ended: list[str] = []

        @per_message(concurrency=2)
        async def lanes(message: StreamMessage) -> None:
            if message.data == "long":
                await release.wait()
            ended.append(message.id)

        consumer = bench.consumer(lanes, min_idle_claim_ms=LONG_MS)
        bench.start(consumer)
        first = await bench.push("first")
        await bench.until(lambda: ended == first, "it runs, and has swept")
        await bench.push("long")
        await bench.until(lambda: consumer.metrics().total_read == 2, "one lane is busy")

        others = await bench.push(*range(20))
        await bench.until(lambda: len(ended) == 21, "the other lane goes on")

        assert ended == first + others
        release.set()
        await bench.until(lambda: len(ended) == 22, "the long one ended")

    async def test_plain_handler_keeps_its_lease_while_a_cancelled_consumer_waits_for_it(
        self, bench: Bench
    ) -> None:
        """It cannot be interrupted, so its message stays in its hands until it returns."""
        executed: list[str] = []

        def slow(messages: list[StreamMessage]) -> list[str]:
            executed.extend(m.id for m in messages)
            time.sleep(0.8)
            return [m.id for m in messages]

        [entry_id] = await bench.push(1)
        task = bench.start(bench.consumer(slow, min_idle_claim_ms=200))
        await bench.until(lambda: executed, "the handler runs")
        task.cancel()
        other = bench.consumer(slow, min_idle_claim_ms=200, block_ms=20)
        bench.start(other)
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.cancelled()
        await bench.until(bench.settled, "the message is done")
        assert executed == [entry_id]

    @pytest.mark.parametrize("kind", ["plain", "async"])
    async def test_nothing_is_given_back_while_it_runs_however_often_it_is_cancelled(
        self, bench: Bench, kind: str
    ) -> None:
        """The Ctrl-C of a gather: cancelled, and then by asyncio.run() once more, as every task."""
        running, most = 0, 0
        release = threading.Event()

        def plain(messages: list[StreamMessage]) -> list[str]:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            release.wait(WAIT_S)
            running -= 1
            return [m.id for m in messages]

        async def cleans_up(messages: list[StreamMessage]) -> list[str]:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                await asyncio.to_thread(release.wait, 0.3)
            finally:
                while not release.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.02)
                running -= 1
            return [m.id for m in messages]

        handler = {"plain": plain, "async": cleans_up}[kind]
        others = asyncio.all_tasks()
        await bench.push(1)
        task = bench.start(bench.consumer(handler, min_idle_claim_ms=200))
        await bench.until(lambda: running, "the handler runs")
        for _ in range(3):
            for one in {task, *(asyncio.all_tasks() - others)}:
                one.cancel()
            await asyncio.sleep(0.05)
        other = bench.consumer(handler, min_idle_claim_ms=200, block_ms=20)
        bench.start(other)
        # longer than an abandoned message would be left alone
        await asyncio.sleep(1 + sightings.WATCH_MS / 1000)
        assert running == 1
        release.set()
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.cancelled()
        await bench.until(bench.settled, "the message is done")
        assert most == 1
        assert other.metrics().total_acked == (kind == "async")

    async def test_cancelled_reads_strand_nothing(self, server_bench: Bench) -> None:
        """Consumers that are cancelled while messages come in leave them for others at once."""
        bench = server_bench
        handler = RecordingHandler()
        await bench.client.create_group(bench.stream, GROUP)
        ids: list[str] = []
        for n in range(40):
            task = asyncio.create_task(
                bench.consumer(handler, block_ms=5000, min_idle_claim_ms=LONG_MS).run()
            )
            for _ in range(20 + n % 17):
                await asyncio.sleep(0)
            push = asyncio.create_task(bench.push(n))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            task.cancel()
            ids += await push
            await asyncio.gather(task, return_exceptions=True)
        assert {name for name, _ in (await bench.pending()).values()} <= {f"{GROUP}:retry:1"}
        assert {count for _, count in (await bench.pending()).values()} <= {0}
        assert await bench.consumers() == []
        await bench.consumer(handler, min_idle_claim_ms=LONG_MS).run_once()
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_error_of_the_loop_is_logged_and_survived(
        self, server_bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """A stream key of the wrong type: an error in the log, and it goes on once it is mended."""
        bench = server_bench  # fakeredis breaks over a key of another type
        await bench.client.link().call(bench.stream, "SET", bench.stream, "not a stream")
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler)):
            await bench.until(lambda: "WRONGTYPE" in warnings_logged.text, "the error in the log")
            await bench.client.command("DEL", bench.stream)
            await bench.push(1)
            await bench.until(lambda: handler.batches, "handled after the repair", 3)
        assert len(warnings_logged.records) < 10

    async def test_reclaims_and_buries_by_itself(self, bench: Bench) -> None:
        old, dead = await bench.push("old", "dead")
        await bench.deliver("gone")
        await bench.set_pending(old, "gone", 10_000, 1)
        await bench.set_pending(dead, "gone", 10_000, 3)
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, dlq_stream=bench.dlq, block_ms=5000)):
            await bench.until(bench.settled, "both are settled before that read ends", 4.5)
        assert handler.counts(old) == [2]
        assert [letter["original_id"] for letter in await bench.letters()] == [dead]

    async def test_trims_finished_messages(self, real_bench: Bench) -> None:
        """max_stream_size bounds finished work, approximately. (fakeredis trims no nodes.)"""
        bench = real_bench
        await bench.push(*range(2000))
        handler = RecordingHandler()
        consumer = bench.consumer(handler, max_stream_size=100, batch_size=500)
        while len(handler.messages) < 2000:
            await consumer.run_once()

        async def trimmed() -> bool:
            return await bench.client.stream_len(bench.stream) <= 300

        async with running(bench, consumer):
            await bench.until(trimmed, "the finished messages are trimmed")


async def test_start_and_end_are_in_the_log(
    server_bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each at level info, with what it has done."""
    caplog.set_level(logging.INFO, logger="redis_stream_queue")
    await server_bench.push({"n": 1})
    consumer = server_bench.consumer(RecordingHandler())
    server_bench.start(consumer)
    await server_bench.until(lambda: consumer.metrics().total_acked == 1, "it is done")
    name = (await server_bench.consumers())[0]
    await server_bench.stop(consumer)

    stream = server_bench.stream
    assert [r.getMessage() for r in caplog.records] == [
        f"a consumer of {stream} in group {GROUP} starts",
        f"consumer {name} of {stream} has ended: 1 acknowledged, 0 dead, 0 handler errors",
    ]

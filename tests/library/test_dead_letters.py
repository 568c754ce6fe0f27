"""A message that cannot be handled becomes one dead letter, and is never lost on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from redis_stream_queue import (
    Reject,
    StreamMessage,
    StreamProducer,
    per_message,
)
from tests.library.kit import GROUP, Bench, RecordingHandler, running


class TestDeadLetters:
    """After max_deliveries executions a message is one dead letter, and nothing else is."""

    async def test_executions_then_one_letter_with_all_fields(self, bench: Bench) -> None:
        handler = RecordingHandler()
        [entry_id] = await bench.push({"mode": "fail", "n": 1})
        consumer = bench.consumer(
            handler, retry_delay_ms=0, max_deliveries=3, dlq_stream=bench.dlq, worker_name="w1"
        )

        before_ms = time.time() * 1000
        await bench.drain(consumer)
        for _ in range(2):
            await consumer.run_once()

        assert handler.runs == {entry_id: 3}
        [letter] = await bench.letters()
        last_error = letter.pop("last_error")
        assert before_ms - 1000 <= int(letter.pop("dead_letter_ts")) <= time.time() * 1000 + 1000
        assert letter == {
            "data": '{"mode":"fail","n":1}',
            "original_stream": bench.stream,
            "original_id": entry_id,
            "group": GROUP,
            "reason": "max_deliveries",
            "delivery_count": "3",
            "worker": "w1",
        }
        assert last_error.startswith("RuntimeError: this payload cannot be handled")
        assert "in __call__" in last_error  # the end of the traceback
        assert consumer.metrics().total_dlq == 1

    async def test_innocents_of_the_batch_live(self, bench: Bench) -> None:
        """20 messages, one always raises: 19 are handled, 1 is dead."""
        handler = RecordingHandler()
        payloads: list[Any] = [{"n": n} for n in range(20)]
        payloads[7] = {"mode": "fail"}
        ids = await bench.push(*payloads)

        await bench.drain(bench.consumer(handler, retry_delay_ms=0, dlq_stream=bench.dlq))

        assert [letter["original_id"] for letter in await bench.letters()] == [ids[7]]
        succeeded = {m.id for b in handler.batches for m in b if ids[7] not in [x.id for x in b]}
        assert succeeded == set(ids) - {ids[7]}

    @pytest.mark.parametrize("max_deliveries", [2, 3, 5])
    async def test_last_permitted_delivery_is_alone(
        self, bench: Bench, max_deliveries: int
    ) -> None:
        """So that nobody else is condemned with a message that raises."""
        handler = RecordingHandler()
        await bench.push(*[{"mode": "fail"}] * 4)

        await bench.drain(
            bench.consumer(
                handler, retry_delay_ms=0, max_deliveries=max_deliveries, dlq_stream=bench.dlq
            )
        )

        sizes = {n: [] for n in range(1, max_deliveries + 1)}  # type: dict[int, list[int]]
        for batch in handler.batches:
            [count] = {m.delivery_count for m in batch}
            sizes[count].append(len(batch))
        assert sizes[max_deliveries] == [1, 1, 1, 1]
        assert all(sizes[n] == [4] for n in range(1, max_deliveries))

    async def test_one_permitted_delivery_is_executed_once(self, bench: Bench) -> None:
        handler = RecordingHandler()
        ids = await bench.push({"mode": "fail"}, {})
        await bench.drain(bench.consumer(handler, max_deliveries=1, dlq_stream=bench.dlq))
        assert set(handler.runs.values()) == {1}
        assert {letter["original_id"] for letter in await bench.letters()} == set(ids)

    async def test_used_up_entry_is_never_handed_out_again(self, bench: Bench) -> None:
        """Whoever delivered it so often."""
        handler = RecordingHandler()
        [entry_id] = await bench.push({"n": 1})
        await bench.deliver("gone")
        await bench.set_pending(entry_id, "gone", 10_000, 3)

        await bench.consumer(handler, dlq_stream=bench.dlq).run_once()

        assert handler.batches == []
        [letter] = await bench.letters()
        assert (letter["worker"], letter["delivery_count"]) == ("gone", "3")

    async def test_undecodable_is_dead_at_once_and_the_rest_is_handled(self, bench: Bench) -> None:
        handler = RecordingHandler()
        [first] = await bench.push({"n": 1})
        bad = await bench.add_raw({"data": b"\xff\x00 not json", "trace": "t1"})
        consumer = bench.consumer(handler, dlq_stream=bench.dlq)

        await consumer.run_once()

        assert list(handler.runs) == [first]
        [letter] = await bench.letters()
        assert (letter["original_id"], letter["reason"]) == (bad, "decode_error")
        assert letter["trace"] == "t1"
        assert letter["delivery_count"] == "1"
        assert "SerializationError" in letter["last_error"]
        raw = await bench.client.command("XRANGE", bench.dlq, "-", "+")
        assert raw[0][1][1] == b"\xff\x00 not json"
        assert await bench.settled()
        assert consumer.metrics().total_dlq == 1
        assert consumer.metrics().total_errors == 0

    async def test_undecodable_does_not_wait_for_the_handler(self, bench: Bench) -> None:
        """It is dead at once, also while the rest of its batch runs for long."""
        await bench.push({"n": 1})
        await bench.add_raw({"data": b"not json"})
        release = asyncio.Event()

        async def handle(messages: list[StreamMessage]) -> list[str]:
            await release.wait()
            return [m.id for m in messages]

        consumer = bench.consumer(handle, dlq_stream=bench.dlq)
        iteration = bench.once(consumer)
        await bench.until(bench.letters, "the undecodable message is a dead letter", 2)
        release.set()
        await iteration

    async def test_dlq_handler_gets_the_message_and_the_reason(self, bench: Bench) -> None:
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

    async def test_dlq_handler_is_called_before_the_letter_moves(self, bench: Bench) -> None:
        order: list[tuple[int, int]] = []

        async def on_dead(message: StreamMessage, reason: str) -> None:
            order.append((len(await bench.letters()), len(await bench.pending())))

        await bench.add_raw({"data": b"not json"})
        await bench.consumer(
            RecordingHandler(), dlq_handler=on_dead, dlq_stream=bench.dlq
        ).run_once()

        assert order == [(0, 1)]
        assert len(await bench.letters()) == 1

    async def test_dlq_handler_that_raises_with_a_stream_loses_nothing(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and the letter moves all the same."""

        async def broken(message: StreamMessage, reason: str) -> None:
            raise ConnectionError("ticket system is down")

        await bench.add_raw({"data": b"not json"})
        await bench.consumer(
            RecordingHandler(), dlq_handler=broken, dlq_stream=bench.dlq
        ).run_once()

        assert len(await bench.letters()) == 1
        assert await bench.settled()
        assert "ticket system is down" in warnings_logged.text

    async def test_dlq_handler_that_raises_without_a_stream_is_offered_it_again(
        self, bench: Bench
    ) -> None:
        """At the next sweep, until it takes it; the handler does not get it any more."""
        handler, offers = RecordingHandler(), 0

        async def broken_twice(message: StreamMessage, reason: str) -> None:
            nonlocal offers
            offers += 1
            if offers < 3:
                raise ConnectionError("ticket system is down")

        [entry_id] = await bench.push({"mode": "fail"})
        consumer = bench.consumer(
            handler, dlq_handler=broken_twice, max_deliveries=2, retry_delay_ms=0
        )
        await bench.drain(consumer)

        assert offers == 3
        assert handler.runs == {entry_id: 2}
        assert consumer.metrics().total_dlq == 1

    @pytest.mark.parametrize("count", [10, 3 * 10**10 + 10])
    async def test_dlq_handler_is_passed_over_only_if_it_died_and_a_stream_takes_the_letter(
        self, bench: Bench, count: int
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
        self, bench: Bench, count: int
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
        self, bench: Bench, kind: str
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

    async def test_neither_configured_warns_with_the_id_and_acknowledges(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        [entry_id] = await bench.push({"mode": "fail"})
        await bench.drain(bench.consumer(RecordingHandler(), retry_delay_ms=0, max_deliveries=2))
        assert any(
            entry_id in record.getMessage() and record.levelno == logging.WARNING
            for record in warnings_logged.records
        )

    async def test_dead_entry_deleted_from_the_stream_is_acknowledged_with_a_warning(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        dead, alive = await bench.push("dead", "alive")
        await bench.deliver("gone")
        await bench.set_pending(dead, "gone", 10_000, 3)
        await bench.set_pending(alive, "gone", 10_000, 1)
        await bench.client.command("XDEL", bench.stream, dead, alive)
        handler, called = RecordingHandler(), []

        async def on_dead(message: StreamMessage, reason: str) -> None:
            called.append(message)

        await bench.consumer(handler, dlq_handler=on_dead, dlq_stream=bench.dlq).run_once()

        assert await bench.settled()
        assert (handler.batches, called, await bench.letters()) == ([], [], [])
        assert dead in warnings_logged.text
        assert alive in warnings_logged.text

    async def test_entry_deleted_while_it_is_handled_is_no_problem(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """The last failure of a message that is gone: a warning, acknowledged, no letter."""
        [entry_id] = await bench.push(1)

        async def handle(messages: list[StreamMessage]) -> list[str]:
            await bench.client.command("XDEL", bench.stream, entry_id)
            raise ValueError

        consumer = bench.consumer(handle, max_deliveries=1, dlq_stream=bench.dlq)
        await consumer.run_once()
        await consumer.run_once()

        assert await bench.settled()
        assert await bench.letters() == []
        assert entry_id in warnings_logged.text

    async def test_dlq_group_is_made_on_the_dead_letter_stream(self, bench: Bench) -> None:
        consumer = bench.consumer(RecordingHandler(), dlq_stream=bench.dlq, dlq_group="undertakers")
        await consumer.run_once()
        assert [g["name"] for g in await bench.client.group_info(bench.dlq)] == ["undertakers"]

    async def test_dlq_group_is_made_where_the_group_was_known_before(self, bench: Bench) -> None:
        """Also in a process whose producer or another consumer has ensured the group already."""
        await StreamProducer(bench.client, bench.stream, GROUP).ensure_group()
        consumer = bench.consumer(RecordingHandler(), dlq_stream=bench.dlq, dlq_group="undertakers")
        await consumer.run_once()
        assert [g["name"] for g in await bench.client.group_info(bench.dlq)] == ["undertakers"]

    async def test_dlq_max_len_cuts_the_dead_letter_stream(self, real_bench: Bench) -> None:
        """Approximately: whole nodes of 100 entries. (fakeredis cuts exactly.)"""
        bench = real_bench
        for _ in range(6):
            await asyncio.gather(*[bench.add_raw({"data": b"not json"}) for _ in range(100)])
        consumer = bench.consumer(
            RecordingHandler(), dlq_stream=bench.dlq, dlq_max_len=100, batch_size=600
        )
        await consumer.run_once()
        assert consumer.metrics().total_dlq == 600
        assert await bench.client.stream_len(bench.dlq) <= 200

    async def test_slow_dlq_handler_is_not_called_by_a_second_consumer(self, bench: Bench) -> None:
        """Burying begins by claiming, so that one process does it, however long it takes."""
        calls: list[str] = []

        async def slow(message: StreamMessage, reason: str) -> None:
            calls.append(message.id)
            await asyncio.sleep(0.8)

        bad = await bench.add_raw({"data": b"not json"})
        options = {"dlq_handler": slow, "dlq_stream": bench.dlq, "min_idle_claim_ms": 200}
        first, second = (
            bench.consumer(RecordingHandler(), max_deliveries=1, block_ms=50, **options)
            for _ in "12"
        )
        async with running(bench, first, second):
            await bench.until(bench.letters, "the letter has moved")
        assert calls == [bad]

    async def test_slow_dlq_handler_does_not_make_finished_messages_run_twice(
        self, bench: Bench
    ) -> None:
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
            bench.consumer(handle, dlq_handler=slow, min_idle_claim_ms=200, block_ms=50)
            for _ in "12"
        )
        async with running(bench, first, second):
            await bench.until(bench.settled, "everything is settled")
        assert sorted(executed) == [0, 1, 2, 3, 4]

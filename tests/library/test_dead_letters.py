"""A message that cannot be handled becomes one dead letter, and is never lost on the way."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from redis_stream_queue import StreamMessage, StreamProducer
from tests.library.kit import GROUP, Bench, RecordingHandler


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
        await bench.until(bench.letters, "the undecodable message is a dead letter")
        release.set()
        await iteration

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

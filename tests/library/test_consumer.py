"""A consumer reads, handles and acknowledges, and says how it went."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from redis_stream_queue import (
    ConsumerConfig,
    MsgpackSerializer,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
    per_message,
)
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running
from tests.support.waiting import wait_until, wait_until_async

LONG_MS = 60_000  # an idle threshold that no test reaches


class TestRunOnce:
    """One iteration: ensure the group, read and handle new, reclaim and handle, bury."""

    async def test_makes_the_group_and_handles_what_is_there(self, bench: Bench) -> None:
        handler = RecordingHandler()
        ids = await bench.push({"n": 1}, {"n": 2})

        await bench.consumer(handler).run_once()

        assert [m.id for m in handler.messages] == ids
        assert [m.data for m in handler.messages] == [{"n": 1}, {"n": 2}]
        assert await bench.pending() == {}

    async def test_comes_back_from_an_empty_stream(self, bench: Bench) -> None:
        """A stream that nobody has made yet is made."""
        handler = RecordingHandler()
        await bench.consumer(handler).run_once()
        assert handler.batches == []
        assert await bench.client.stream_len(bench.stream) == 0

    async def test_order_is_new_then_reclaimed_then_dead(self, bench: Bench) -> None:
        """New messages come before those of a dead consumer; burying comes last."""
        order: list[str] = []
        old, dead = await bench.push("old", "dead")
        await bench.deliver("gone")
        await bench.set_pending(old, "gone", 10_000, 1)
        await bench.set_pending(dead, "gone", 10_000, 3)
        await bench.push("new")

        async def handle(messages: list[StreamMessage]) -> list[str]:
            order.extend(m.data for m in messages)
            return [m.id for m in messages]

        async def on_dead(message: StreamMessage, reason: str) -> None:
            order.append(f"{message.data} ({reason})")

        await bench.consumer(handle, dlq_handler=on_dead).run_once()

        assert order == ["new", "old", "dead (max_deliveries)"]
        assert await bench.pending() == {}

    async def test_each_batch_is_acknowledged_before_the_next_step(self, bench: Bench) -> None:
        """When the reclaimed messages are handled, the new ones are acknowledged already."""
        [old] = await bench.push("old")
        await bench.deliver("gone")
        await bench.set_pending(old, "gone", 10_000, 1)
        [new] = await bench.push("new")
        seen: dict[str, set[str]] = {}

        async def handle(messages: list[StreamMessage]) -> list[str]:
            seen[messages[0].data] = set(await bench.pending())
            return [m.id for m in messages]

        await bench.consumer(handle).run_once()

        assert seen == {"new": {old, new}, "old": {old}}

    async def test_follows_the_pending_list_to_its_end(self, bench: Bench) -> None:
        """Also where the first pages hold nothing that is due."""
        ids = await bench.push(*range(1200))
        await bench.deliver("alive", 1100)
        await bench.deliver("gone", 100)
        for entry_id in ids[1100:]:
            await bench.set_pending(entry_id, "gone", LONG_MS, 1)
        handler = RecordingHandler()

        await bench.consumer(handler, min_idle_claim_ms=30_000).run_once()

        assert set(handler.runs) == set(ids[1100:])

    async def test_max_claim_passes_bounds_one_iteration(self, bench: Bench) -> None:
        """What one iteration does not reach, the following ones do not need either: they begin
        at the front, where what is due first waits."""
        ids = await bench.push(*range(1200))
        await bench.deliver("alive", 1100)
        await bench.deliver("gone", 100)
        for entry_id in ids[1100:]:
            await bench.set_pending(entry_id, "gone", LONG_MS, 1)
        handler = RecordingHandler()

        await bench.consumer(handler, min_idle_claim_ms=30_000, max_claim_passes=1).run_once()

        assert handler.batches == []

    async def test_batch_size_bounds_reads_and_claims(self, bench: Bench) -> None:
        await bench.push(*range(10))
        await bench.deliver("gone", 5)
        for entry_id in await bench.pending():
            await bench.set_pending(entry_id, "gone", 10_000, 1)
        handler = RecordingHandler()
        consumer = bench.consumer(handler, batch_size=2)

        await consumer.run_once()

        assert [len(batch) for batch in handler.batches] == [2, 2, 2, 1]

    async def test_sync_forms_need_no_event_loop(self, redis_url: str, stream: str) -> None:
        """run_once_sync() twice, then run_sync() until stop(), in a thread without a loop."""
        seen: list[Any] = []

        def handle(messages: list[StreamMessage]) -> list[str]:
            seen.extend(m.data for m in messages)
            return [m.id for m in messages]

        def work() -> None:
            client = StreamClient.from_url(redis_url)
            producer = StreamProducer(client, stream)
            consumer = StreamConsumer(
                client, stream, ConsumerConfig(group=GROUP, block_ms=0), handle
            )
            for n in range(2):
                producer.push_sync(n)
                consumer.run_once_sync()
            producer.push_sync(2)
            runner = threading.Thread(target=consumer.run_sync)
            runner.start()
            wait_until(lambda: len(seen) == 3, WAIT_S, "run_sync handled the third message")
            consumer.stop()
            runner.join(WAIT_S)
            assert not runner.is_alive()

        await asyncio.to_thread(work)
        assert seen == [0, 1, 2]


class TestPayload:
    """payload_field names the field with the payload; None takes the whole entry."""

    async def test_other_fields_are_headers(self, bench: Bench) -> None:
        await bench.add_raw({"trace": "t1", "data": b"5", "tenant": "ü"})
        handler = RecordingHandler()
        await bench.consumer(handler).run_once()
        [message] = handler.messages
        assert message.data == 5
        assert message.headers == {"trace": "t1", "tenant": "ü"}

    async def test_another_field(self, bench: Bench) -> None:
        await bench.add_raw({"data": "no", "body": b'{"n":1}'})
        handler = RecordingHandler()
        await bench.consumer(handler, payload_field="body").run_once()
        [message] = handler.messages
        assert message.data == {"n": 1}
        assert message.headers == {"data": "no"}

    async def test_whole_entry(self, bench: Bench) -> None:
        """For streams that others write: all fields as text, nothing is decoded."""
        await bench.add_raw({"sensor": "7", "celsius": "21.5"})
        await bench.add_raw({"one": b"\xff"})
        handler = RecordingHandler()
        await bench.consumer(handler, payload_field=None).run_once()
        assert [m.data for m in handler.messages] == [
            {"sensor": "7", "celsius": "21.5"},
            {"one": "\ufffd"},
        ]

    async def test_whole_entry_as_dead_letter_keeps_its_fields(self, bench: Bench) -> None:
        """Also when it was reclaimed, and the dlq_handler gets the dict."""
        got: list[Any] = []

        async def on_dead(message: StreamMessage, reason: str) -> None:
            got.append(message.data)

        @per_message
        def handle(message: StreamMessage) -> None:
            assert message.data == {"a": "1", "b": "2"}
            raise ValueError

        await bench.add_raw({"a": "1", "b": "2"})
        consumer = bench.consumer(
            handle, payload_field=None, dlq_handler=on_dead, dlq_stream=bench.dlq,
            max_deliveries=2, retry_delay_ms=0,
        )  # fmt: skip
        await bench.drain(consumer)

        assert got == [{"a": "1", "b": "2"}]
        [letter] = await bench.letters()
        assert (letter["a"], letter["b"]) == ("1", "2")

    async def test_missing_payload_field_is_a_decode_error(self, bench: Bench) -> None:
        await bench.add_raw({"something": "else"})
        await bench.consumer(RecordingHandler(), dlq_stream=bench.dlq).run_once()
        [letter] = await bench.letters()
        assert (letter["reason"], letter["something"]) == ("decode_error", "else")

    async def test_serializer_is_used_on_both_sides(self, bench: Bench) -> None:
        handler = RecordingHandler()
        producer = StreamProducer(bench.client, bench.stream, serializer=MsgpackSerializer())
        await producer.push({"raw": b"\x00\xff"})
        await bench.consumer(handler, serializer=MsgpackSerializer()).run_once()
        assert [m.data for m in handler.messages] == [{"raw": b"\x00\xff"}]


class TestNames:
    """Worker names are unique, at most 64 characters, and reserved in Redis."""

    async def test_drawn_names_are_unique_and_short(self, bench: Bench) -> None:
        consumers = [bench.consumer(RecordingHandler()) for _ in range(5)]
        await bench.push(1)
        for consumer in consumers:
            await consumer.run_once()
        names = await bench.consumers()
        assert len(names) == 5
        assert all(len(name) <= 64 and name.startswith(f"{GROUP}_") for name in names)

    async def test_a_taken_name_is_drawn_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draws = iter(["same", "same", "other"])
        monkeypatch.setattr(
            "redis_stream_queue.delivery.in_flight.worker_name", lambda *_: next(draws)
        )
        for _ in range(2):
            await bench.consumer(RecordingHandler()).run_once()
        assert sorted(await bench.consumers()) == ["other", "same"]

    async def test_a_configured_name_is_used_as_it_is(self, bench: Bench) -> None:
        await bench.consumer(RecordingHandler(), worker_name="me").run_once()
        assert await bench.consumers() == ["me"]

    async def test_a_name_is_not_reused(self, bench: Bench) -> None:
        """Each run() is a new life with a new name."""
        consumer, names = bench.consumer(RecordingHandler()), set()
        for _ in range(3):
            async with running(bench, consumer):
                [name] = await bench.until(bench.consumers, "the consumer has a name")
                names.add(name)
        assert len(names) == 3


class TestMetrics:
    async def test_count_what_happened(self, bench: Bench) -> None:
        consumer = bench.consumer(
            RecordingHandler(), retry_delay_ms=0, max_deliveries=2, dlq_stream=bench.dlq
        )
        before = consumer.metrics()
        assert (before.total_read, before.tps_in, before.uptime_secs) == (0, 0.0, 0.0)

        await bench.push({}, {"mode": "fail"})
        await bench.drain(consumer)

        after = consumer.metrics()
        # two read, two failed together; two read again one by one: one done, one dead
        assert (after.total_read, after.total_acked, after.total_dlq) == (4, 1, 1)
        assert after.total_errors == 2
        assert after.tps_in == 4.0
        assert after.tps_out == 1.0
        assert after.tps_total == after.tps_in + after.tps_out
        assert after.avg_tps == 1.0
        assert 0 < after.uptime_secs < 60

    async def test_all_metrics_sees_living_instances_only(self, bench: Bench) -> None:
        """Dead instances leave by garbage collection."""
        gc.collect()
        before = len(StreamConsumer.all_metrics())
        consumers = [bench.consumer(RecordingHandler()) for _ in range(3)]
        assert len(StreamConsumer.all_metrics()) == before + 3
        del consumers
        gc.collect()
        assert len(StreamConsumer.all_metrics()) == before

    async def test_need_neither_redis_nor_an_event_loop(self) -> None:
        def look() -> Any:
            client = StreamClient(port=1)
            consumer = StreamConsumer(client, "s", ConsumerConfig(group="g"), RecordingHandler())
            return consumer.metrics()

        assert (await asyncio.to_thread(look)).total_read == 0


async def test_two_consumers_share_the_work(bench: Bench) -> None:
    """Each message goes to one of them."""
    handlers = [RecordingHandler(), RecordingHandler()]
    async with running(bench, *(bench.consumer(handler, batch_size=5) for handler in handlers)):
        ids = []
        for n in range(20):
            ids += await bench.push(*range(n))
        await wait_until_async(
            lambda: sum(len(handler.messages) for handler in handlers) >= len(ids),
            WAIT_S,
            "all handled",
        )
    assert handlers[0].runs + handlers[1].runs == dict.fromkeys(ids, 1)

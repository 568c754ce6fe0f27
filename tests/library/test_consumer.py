"""A consumer reads, handles, acknowledges, reclaims and buries, and says how it went."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    ConsumerConfig,
    MsgpackSerializer,
    Reject,
    Retry,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
    per_message,
)
from tests.library.kit import GROUP, WAIT_S, Bench, Ledger, running
from tests.support.waiting import wait_until, wait_until_async

LONG_MS = 60_000  # an idle threshold that no test reaches


class TestRunOnce:
    """One iteration: ensure the group, read and handle new, reclaim and handle, bury."""

    async def test_makes_the_group_and_handles_what_is_there(self, bench: Bench) -> None:
        ledger = Ledger()
        ids = await bench.push({"n": 1}, {"n": 2})

        await bench.consumer(ledger).run_once()

        assert [m.id for m in ledger.messages] == ids
        assert [m.data for m in ledger.messages] == [{"n": 1}, {"n": 2}]
        assert await bench.pending() == {}

    async def test_comes_back_from_an_empty_stream(self, bench: Bench) -> None:
        """A stream that nobody has made yet is made."""
        ledger = Ledger()
        await bench.consumer(ledger).run_once()
        assert ledger.batches == []
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
        ledger = Ledger()

        await bench.consumer(ledger, min_idle_claim_ms=30_000).run_once()

        assert set(ledger.runs) == set(ids[1100:])

    async def test_max_claim_passes_bounds_one_iteration(self, bench: Bench) -> None:
        """What one iteration does not reach, the following ones do not need either: they begin
        at the front, where what is due first waits."""
        ids = await bench.push(*range(1200))
        await bench.deliver("alive", 1100)
        await bench.deliver("gone", 100)
        for entry_id in ids[1100:]:
            await bench.set_pending(entry_id, "gone", LONG_MS, 1)
        ledger = Ledger()

        await bench.consumer(ledger, min_idle_claim_ms=30_000, max_claim_passes=1).run_once()

        assert ledger.batches == []

    async def test_batch_size_bounds_reads_and_claims(self, bench: Bench) -> None:
        await bench.push(*range(10))
        await bench.deliver("gone", 5)
        for entry_id in await bench.pending():
            await bench.set_pending(entry_id, "gone", 10_000, 1)
        ledger = Ledger()
        consumer = bench.consumer(ledger, batch_size=2)

        await consumer.run_once()

        assert [len(batch) for batch in ledger.batches] == [2, 2, 2, 1]

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


class TestHandlerResult:
    """What a batch handler returns or raises decides what is acknowledged."""

    async def test_only_returned_ids_are_acknowledged(self, bench: Bench) -> None:
        _, skipped, _ = await bench.push({}, {"mode": "skip"}, {})
        await bench.consumer(Ledger()).run_once()
        assert list(await bench.pending()) == [skipped]

    async def test_empty_list_acknowledges_nothing_and_is_no_error(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        ids = await bench.push({"mode": "skip"}, {"mode": "skip"})
        consumer = bench.consumer(Ledger())

        await consumer.run_once()

        assert list(await bench.pending()) == ids
        assert consumer.metrics().total_errors == 0
        assert warnings_logged.text == ""

    async def test_none_acknowledges_nothing_and_warns(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        ids = await bench.push(1, 2)

        async def forgot_to_return(messages: list[StreamMessage]) -> None:
            pass

        await bench.consumer(forgot_to_return).run_once()

        assert list(await bench.pending()) == ids
        assert "returned None" in warnings_logged.text

    async def test_foreign_ids_are_ignored_with_a_warning(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """Ids that were not in the batch are not acknowledged, also if they are pending."""
        [other] = await bench.push("other")
        await bench.deliver("somebody")
        [mine] = await bench.push("mine")

        async def handle(messages: list[StreamMessage]) -> list[str]:
            return [other, "1-1", *(m.id for m in messages)]

        await bench.consumer(handle, min_idle_claim_ms=LONG_MS).run_once()

        assert await bench.pending() == {other: ("somebody", 1)}
        assert mine not in await bench.pending()
        assert "not in its batch" in warnings_logged.text

    @pytest.mark.parametrize(
        "result",
        [
            pytest.param(lambda messages: messages, id="the messages themselves"),
            pytest.param(lambda messages: [[m.id] for m in messages], id="lists of ids"),
            pytest.param(lambda messages: (m.data["no"] for m in messages), id="a generator"),
            pytest.param(lambda messages: True, id="a truth"),
            pytest.param(lambda messages: messages[0].id, id="one bare id"),
        ],
    )
    async def test_nonsense_acknowledges_nothing_and_counts_as_a_delivery(
        self,
        server_bench: Bench,
        warnings_logged: pytest.LogCaptureFixture,
        result: Callable[[list[StreamMessage]], Any],
    ) -> None:
        """A handler with a wrong result is told so; its message is dead after max_deliveries."""
        bench = server_bench
        [entry_id] = await bench.push({"n": 1})
        deliveries: list[int] = []

        def handle(messages: list[StreamMessage]) -> Any:
            deliveries.extend(m.delivery_count for m in messages)
            return result(messages)

        consumer = bench.consumer(handle, retry_delay_ms=0, max_deliveries=2, dlq_stream=bench.dlq)
        await bench.drain(consumer)

        assert deliveries == [1, 2]
        assert [letter["original_id"] for letter in await bench.letters()] == [entry_id]
        assert warnings_logged.records

    async def test_exception_acknowledges_nothing_counts_and_calls_the_hook(
        self, bench: Bench
    ) -> None:
        ids = await bench.push({}, {"mode": "fail"})
        hooked: list[tuple[str, list[str]]] = []

        def hook(error: BaseException, messages: list[StreamMessage]) -> None:
            hooked.append((str(error), [m.id for m in messages]))

        consumer = bench.consumer(Ledger(), error_hook=hook)
        await consumer.run_once()

        assert hooked == [("this payload cannot be handled", ids)]
        assert consumer.metrics().total_errors == 1
        assert consumer.metrics().total_acked == 0
        assert list(await bench.pending()) == ids

    async def test_hook_that_raises_does_no_harm(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        await bench.push({"mode": "fail"})

        def hook(error: BaseException, messages: list[StreamMessage]) -> None:
            raise ValueError("broken hook")

        consumer = bench.consumer(Ledger(), error_hook=hook)
        await consumer.run_once()
        await consumer.run_once()

        assert "broken hook" in warnings_logged.text

    async def test_system_exit_in_a_handler_is_an_error_like_any_other(self, bench: Bench) -> None:
        [entry_id] = await bench.push(1)

        async def handle(messages: list[StreamMessage]) -> list[str]:
            raise SystemExit(3)

        consumer = bench.consumer(handle)
        await consumer.run_once()

        assert consumer.metrics().total_errors == 1
        assert list(await bench.pending()) == [entry_id]

    async def test_cancellation_that_the_app_made_itself_is_an_error_like_any_other(
        self, bench: Bench
    ) -> None:
        [entry_id] = await bench.push(1)

        async def handle(messages: list[StreamMessage]) -> list[str]:
            raise asyncio.CancelledError

        consumer = bench.consumer(handle)
        await consumer.run_once()

        assert consumer.metrics().total_errors == 1
        assert list(await bench.pending()) == [entry_id]

    async def test_plain_function_runs_beside_the_loop(self, bench: Bench) -> None:
        """A plain handler may block: the event loop stays alive meanwhile."""
        await bench.push(1)
        loop_moved = threading.Event()

        def handle(messages: list[StreamMessage]) -> list[str]:
            assert loop_moved.wait(WAIT_S), "the loop stood still while a plain handler ran"
            return [m.id for m in messages]

        async def move() -> None:
            loop_moved.set()

        await asyncio.gather(bench.consumer(handle).run_once(), move())
        assert await bench.settled()

    async def test_objects_and_methods_are_handlers_too(self, bench: Bench) -> None:
        class Shop:
            def __init__(self) -> None:
                self.seen: list[Any] = []

            async def handle(self, messages: list[StreamMessage]) -> list[str]:
                self.seen += [m.data for m in messages]
                return [m.id for m in messages]

        class Callable_(Shop):
            async def __call__(self, messages: list[StreamMessage]) -> list[str]:
                return await self.handle(messages)

        shop, called = Shop(), Callable_()
        await bench.push(1)
        await bench.consumer(shop.handle).run_once()
        await bench.push(2)
        await bench.consumer(called).run_once()
        assert (shop.seen, called.seen) == ([1], [2])

    async def test_handler_that_is_none_is_refused(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="handler must be callable"):
            bench.consumer(None)


class TestPerMessage:
    """@per_message: each message is acknowledged when its call returns, one that raises fails
    alone."""

    async def test_failures_stay_alone(self, bench: Bench) -> None:
        ids = await bench.push(*range(5))

        @per_message
        async def handle(message: StreamMessage) -> None:
            if message.data == 2:
                raise ValueError("not this one")

        hooked: list[list[str]] = []
        consumer = bench.consumer(
            handle, error_hook=lambda error, messages: hooked.append([m.id for m in messages])
        )
        await consumer.run_once()

        assert list(await bench.pending()) == [ids[2]]
        assert hooked == [[ids[2]]]
        assert consumer.metrics().total_errors == 1
        assert consumer.metrics().total_acked == 4

    async def test_plain_function(self, bench: Bench) -> None:
        ids = await bench.push(*range(5))
        seen: list[int] = []

        @per_message
        def handle(message: StreamMessage) -> None:
            seen.append(message.data)
            if message.data == 2:
                raise SystemExit

        await bench.consumer(handle).run_once()

        assert seen == [0, 1, 2, 3, 4]
        assert list(await bench.pending()) == [ids[2]]

    async def test_acknowledges_while_the_rest_still_runs(self, bench: Bench) -> None:
        """Done is acknowledged within 50 ms or so, not at the end of the batch."""
        first, second = await bench.push("quick", "long")
        release = asyncio.Event()

        @per_message
        async def handle(message: StreamMessage) -> None:
            if message.data == "long":
                await release.wait()

        iteration = bench.once(bench.consumer(handle))

        async def first_is_acknowledged() -> bool:
            pending = await bench.pending()
            return second in pending and first not in pending

        await bench.until(first_is_acknowledged, "the first message is acknowledged by itself", 2)
        release.set()
        await iteration
        assert await bench.settled()

    async def test_concurrency_runs_side_by_side(self, bench: Bench) -> None:
        """50 calls are under way at once, and never more."""
        await bench.push(*range(120))
        together = asyncio.Barrier(50)
        running_now, most = 0, 0

        @per_message(concurrency=50)
        async def handle(message: StreamMessage) -> None:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            if message.data < 100:
                await together.wait()
            running_now -= 1

        consumer = bench.consumer(handle, batch_size=120)
        await asyncio.wait_for(consumer.run_once(), WAIT_S)

        assert most == 50
        assert await bench.settled()

    async def test_side_by_side_failures_stay_alone(self, bench: Bench) -> None:
        ids = await bench.push(*range(60))

        @per_message(concurrency=50)
        async def handle(message: StreamMessage) -> None:
            await asyncio.sleep(0)
            if message.data % 10 == 7:
                raise asyncio.CancelledError if message.data == 17 else ValueError

        await bench.consumer(handle).run_once()

        assert list(await bench.pending()) == [ids[n] for n in (7, 17, 27, 37, 47, 57)]

    @pytest.mark.parametrize("concurrency", [0, -1, True, "2"])
    def test_bad_concurrency_is_refused(self, concurrency: Any) -> None:
        with pytest.raises(ConfigError, match="concurrency"):

            @per_message(concurrency=concurrency)
            async def handle(message: StreamMessage) -> None: ...

    def test_concurrency_of_a_plain_function_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="concurrency=2 needs an 'async def'"):

            @per_message(concurrency=2)
            def handle(message: StreamMessage) -> None: ...

    async def test_can_be_called_outside_a_consumer(self) -> None:
        """In a test of one's own, say: it returns the ids that succeeded."""

        @per_message
        def plain(message: StreamMessage) -> None:
            if message.data:
                raise ValueError

        @per_message
        async def coroutine(message: StreamMessage) -> None:
            plain.func(message)

        messages = [StreamMessage("1-0", 0), StreamMessage("2-0", 1), StreamMessage("3-0", 0)]
        assert plain(messages) == ["1-0", "3-0"]
        assert await coroutine(messages) == ["1-0", "3-0"]
        assert plain.__name__ == "plain"
        assert inspect.iscoroutinefunction(coroutine.func)


class TestRetry:
    """What failed is delivered again after its delay, counted truly."""

    async def test_delivery_count_is_the_true_one(self, bench: Bench) -> None:
        ledger = Ledger()
        [entry_id] = await bench.push({"mode": "fail"})
        await bench.drain(bench.consumer(ledger, retry_delay_ms=0, max_deliveries=4))
        assert ledger.counts(entry_id) == [1, 2, 3, 4]

    async def test_waits_for_its_delay(self, bench: Bench) -> None:
        """Not before the delay minus 25 % jitter, and by itself soon after it."""
        times: list[float] = []

        @per_message
        async def handle(message: StreamMessage) -> None:
            times.append(time.monotonic())
            if len(times) == 1:
                raise ValueError("try again")

        async with running(bench, bench.consumer(handle, block_ms=5000, retry_delay_ms=400)):
            await bench.push(1)
            await bench.until(lambda: len(times) == 2, "the second delivery")
        assert 0.3 <= times[1] - times[0] < 0.4 + 0.3

    async def test_delay_of_ones_own(self, bench: Bench) -> None:
        """raise Retry(delay_ms=...) is exact, is no error, and keeps the configured delay out."""
        times: list[float] = []

        @per_message
        async def handle(message: StreamMessage) -> None:
            times.append(time.monotonic())
            if message.delivery_count == 1:
                raise Retry(delay_ms=300)

        consumer = bench.consumer(handle, block_ms=5000, retry_delay_ms=LONG_MS)
        async with running(bench, consumer):
            await bench.push(1)
            await bench.until(lambda: len(times) == 2, "the second delivery")
        assert 0.3 <= times[1] - times[0] < 0.6
        assert consumer.metrics().total_errors == 0

    async def test_waits_under_a_parking_name(self, bench: Bench) -> None:
        """While it waits it is in nobody's hands, and the count tells how often it was tried."""
        [entry_id] = await bench.push(1)

        @per_message
        def handle(message: StreamMessage) -> None:
            raise Retry(delay_ms=5000)

        await bench.consumer(handle).run_once()
        assert await bench.pending() == {entry_id: (f"{GROUP}:retry:8192", 1)}

    async def test_growing_delays(self, bench: Bench) -> None:
        """The n-th retry waits retry_delay_ms * 2**(n-1), up to retry_max_delay_ms."""
        [entry_id] = await bench.push({"mode": "fail"})
        names = []
        for deliveries in (0, 1, 2, 3):
            consumer = bench.consumer(
                Ledger(), max_deliveries=9, retry_delay_ms=32_000, retry_max_delay_ms=128_000
            )
            if deliveries:
                await bench.set_pending(entry_id, "gone", LONG_MS, deliveries)
            await consumer.run_once()
            names.append((await bench.pending())[entry_id])
        assert names == [
            (f"{GROUP}:retry:32768", 1),
            (f"{GROUP}:retry:65536", 2),
            (f"{GROUP}:retry:131072", 3),
            (f"{GROUP}:retry:131072", 4),
        ]

    @pytest.mark.parametrize("use_async", [True, False], ids=["async", "plain"])
    async def test_reject_is_dead_at_once(self, bench: Bench, use_async: bool) -> None:
        """Reason ``rejected``, and what the handler said."""
        [entry_id] = await bench.push(1)

        if use_async:

            @per_message
            async def handle(message: StreamMessage) -> None:
                raise Reject("no such customer")
        else:

            @per_message
            def handle(message: StreamMessage) -> None:
                raise Reject("no such customer")

        consumer = bench.consumer(handle, dlq_stream=bench.dlq)
        await consumer.run_once()

        [letter] = await bench.letters()
        assert letter["reason"] == "rejected"
        assert "no such customer" in letter["last_error"]
        assert letter["original_id"] == entry_id
        assert consumer.metrics().total_errors == 0
        assert await bench.settled()

    def test_negative_delay_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="delay_ms"):
            Retry(delay_ms=-1)


class TestDeadLetters:
    """After max_deliveries executions a message is one dead letter, and nothing else is."""

    async def test_executions_then_one_letter_with_all_fields(self, bench: Bench) -> None:
        ledger = Ledger()
        [entry_id] = await bench.push({"mode": "fail", "n": 1})
        consumer = bench.consumer(
            ledger, retry_delay_ms=0, max_deliveries=3, dlq_stream=bench.dlq, worker_name="w1"
        )

        before_ms = time.time() * 1000
        await bench.drain(consumer)
        for _ in range(2):
            await consumer.run_once()

        assert ledger.runs == {entry_id: 3}
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
        ledger = Ledger()
        payloads: list[Any] = [{"n": n} for n in range(20)]
        payloads[7] = {"mode": "fail"}
        ids = await bench.push(*payloads)

        await bench.drain(bench.consumer(ledger, retry_delay_ms=0, dlq_stream=bench.dlq))

        assert [letter["original_id"] for letter in await bench.letters()] == [ids[7]]
        succeeded = {m.id for b in ledger.batches for m in b if ids[7] not in [x.id for x in b]}
        assert succeeded == set(ids) - {ids[7]}

    @pytest.mark.parametrize("max_deliveries", [2, 3, 5])
    async def test_last_permitted_delivery_is_alone(
        self, bench: Bench, max_deliveries: int
    ) -> None:
        """So that nobody else is condemned with a message that raises."""
        ledger = Ledger()
        await bench.push(*[{"mode": "fail"}] * 4)

        await bench.drain(
            bench.consumer(
                ledger, retry_delay_ms=0, max_deliveries=max_deliveries, dlq_stream=bench.dlq
            )
        )

        sizes = {n: [] for n in range(1, max_deliveries + 1)}  # type: dict[int, list[int]]
        for batch in ledger.batches:
            [count] = {m.delivery_count for m in batch}
            sizes[count].append(len(batch))
        assert sizes[max_deliveries] == [1, 1, 1, 1]
        assert all(sizes[n] == [4] for n in range(1, max_deliveries))

    async def test_one_permitted_delivery_is_executed_once(self, bench: Bench) -> None:
        ledger = Ledger()
        ids = await bench.push({"mode": "fail"}, {})
        await bench.drain(bench.consumer(ledger, max_deliveries=1, dlq_stream=bench.dlq))
        assert set(ledger.runs.values()) == {1}
        assert {letter["original_id"] for letter in await bench.letters()} == set(ids)

    async def test_used_up_entry_is_never_handed_out_again(self, bench: Bench) -> None:
        """Whoever delivered it so often."""
        ledger = Ledger()
        [entry_id] = await bench.push({"n": 1})
        await bench.deliver("gone")
        await bench.set_pending(entry_id, "gone", 10_000, 3)

        await bench.consumer(ledger, dlq_stream=bench.dlq).run_once()

        assert ledger.batches == []
        [letter] = await bench.letters()
        assert (letter["worker"], letter["delivery_count"]) == ("gone", "3")

    async def test_undecodable_is_dead_at_once_and_the_rest_is_handled(self, bench: Bench) -> None:
        ledger = Ledger()
        [first] = await bench.push({"n": 1})
        bad = await bench.add_raw({"data": b"\xff\x00 not json", "trace": "t1"})
        consumer = bench.consumer(ledger, dlq_stream=bench.dlq)

        await consumer.run_once()

        assert list(ledger.runs) == [first]
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
        await bench.consumer(Ledger(), dlq_handler=on_dead, dlq_stream=bench.dlq).run_once()

        assert order == [(0, 1)]
        assert len(await bench.letters()) == 1

    async def test_dlq_handler_that_raises_with_a_stream_loses_nothing(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """It is logged, and the letter moves all the same."""

        async def broken(message: StreamMessage, reason: str) -> None:
            raise ConnectionError("ticket system is down")

        await bench.add_raw({"data": b"not json"})
        await bench.consumer(Ledger(), dlq_handler=broken, dlq_stream=bench.dlq).run_once()

        assert len(await bench.letters()) == 1
        assert await bench.settled()
        assert "ticket system is down" in warnings_logged.text

    async def test_dlq_handler_that_raises_without_a_stream_is_offered_it_again(
        self, bench: Bench
    ) -> None:
        """At the next sweep, until it takes it; the handler does not get it any more."""
        ledger, offers = Ledger(), 0

        async def broken_twice(message: StreamMessage, reason: str) -> None:
            nonlocal offers
            offers += 1
            if offers < 3:
                raise ConnectionError("ticket system is down")

        [entry_id] = await bench.push({"mode": "fail"})
        consumer = bench.consumer(
            ledger, dlq_handler=broken_twice, max_deliveries=2, retry_delay_ms=0
        )
        await bench.drain(consumer)

        assert offers == 3
        assert ledger.runs == {entry_id: 2}
        assert consumer.metrics().total_dlq == 1

    @pytest.mark.parametrize("count", [10, 10**9 + 10])
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
            await bench.consumer(Ledger(), dlq_handler=on_dead, **options).run_once()
        assert told == (ids if count == 10 else ids[1:])
        assert [letter["original_id"] for letter in await bench.letters()] == ids[:1]

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
        await bench.drain(bench.consumer(Ledger(), retry_delay_ms=0, max_deliveries=2))
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
        ledger, called = Ledger(), []

        async def on_dead(message: StreamMessage, reason: str) -> None:
            called.append(message)

        await bench.consumer(ledger, dlq_handler=on_dead, dlq_stream=bench.dlq).run_once()

        assert await bench.settled()
        assert (ledger.batches, called, await bench.letters()) == ([], [], [])
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
        consumer = bench.consumer(Ledger(), dlq_stream=bench.dlq, dlq_group="undertakers")
        await consumer.run_once()
        assert [g["name"] for g in await bench.client.group_info(bench.dlq)] == ["undertakers"]

    async def test_dlq_group_is_made_where_the_group_was_known_before(self, bench: Bench) -> None:
        """Also in a process whose producer or another consumer has ensured the group already."""
        await StreamProducer(bench.client, bench.stream, GROUP).ensure_group()
        consumer = bench.consumer(Ledger(), dlq_stream=bench.dlq, dlq_group="undertakers")
        await consumer.run_once()
        assert [g["name"] for g in await bench.client.group_info(bench.dlq)] == ["undertakers"]

    async def test_dlq_max_len_cuts_the_dead_letter_stream(self, real_bench: Bench) -> None:
        """Approximately: whole nodes of 100 entries. (fakeredis cuts exactly.)"""
        bench = real_bench
        for _ in range(6):
            await asyncio.gather(*[bench.add_raw({"data": b"not json"}) for _ in range(100)])
        consumer = bench.consumer(Ledger(), dlq_stream=bench.dlq, dlq_max_len=100, batch_size=600)
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
            bench.consumer(Ledger(), max_deliveries=1, block_ms=50, **options) for _ in "12"
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
        ledger = Ledger()
        consumer = bench.consumer(ledger, min_idle_claim_ms=400)
        await consumer.run_once()
        assert ledger.batches == []
        await bench.drain(consumer)
        assert ledger.counts(entry_id) == [2]

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


class TestPayload:
    """payload_field names the field with the payload; None takes the whole entry."""

    async def test_other_fields_are_headers(self, bench: Bench) -> None:
        await bench.add_raw({"trace": "t1", "data": b"5", "tenant": "ü"})
        ledger = Ledger()
        await bench.consumer(ledger).run_once()
        [message] = ledger.messages
        assert message.data == 5
        assert message.headers == {"trace": "t1", "tenant": "ü"}

    async def test_another_field(self, bench: Bench) -> None:
        await bench.add_raw({"data": "no", "body": b'{"n":1}'})
        ledger = Ledger()
        await bench.consumer(ledger, payload_field="body").run_once()
        [message] = ledger.messages
        assert message.data == {"n": 1}
        assert message.headers == {"data": "no"}

    async def test_whole_entry(self, bench: Bench) -> None:
        """For streams that others write: all fields as text, nothing is decoded."""
        await bench.add_raw({"sensor": "7", "celsius": "21.5"})
        await bench.add_raw({"one": b"\xff"})
        ledger = Ledger()
        await bench.consumer(ledger, payload_field=None).run_once()
        assert [m.data for m in ledger.messages] == [
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
        await bench.consumer(Ledger(), dlq_stream=bench.dlq).run_once()
        [letter] = await bench.letters()
        assert (letter["reason"], letter["something"]) == ("decode_error", "else")

    async def test_serializer_is_used_on_both_sides(self, bench: Bench) -> None:
        ledger = Ledger()
        producer = StreamProducer(bench.client, bench.stream, serializer=MsgpackSerializer())
        await producer.push({"raw": b"\x00\xff"})
        await bench.consumer(ledger, serializer=MsgpackSerializer()).run_once()
        assert [m.data for m in ledger.messages] == [{"raw": b"\x00\xff"}]


class TestRun:
    """run() loops until stop() or cancellation."""

    async def test_handles_what_comes(self, bench: Bench) -> None:
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, block_ms=5000)):
            for n in range(3):
                [entry_id] = await bench.push(n)
                await bench.until(lambda i=entry_id: i in ledger.runs, "it was handled")
        assert [m.data for m in ledger.messages] == [0, 1, 2]

    async def test_leaves_neither_consumer_nor_pending_entry(self, bench: Bench) -> None:
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, block_ms=5000)):
            await bench.push(1)
            await bench.until(lambda: ledger.batches, "handled")
        assert await bench.pending() == {}
        assert await bench.consumers() == []

    async def test_stop_from_another_thread_ends_a_blocked_read_at_once(
        self, real_bench: Bench
    ) -> None:
        """Not after block_ms. (fakeredis has no CLIENT UNBLOCK.)"""
        bench = real_bench
        consumer = bench.consumer(Ledger(), block_ms=60_000)
        task = bench.start(consumer)

        async def is_blocked() -> bool:
            clients = await bench.client.link().call(bench.stream, "CLIENT", "LIST")
            return b"cmd=xreadgroup" in clients and b"flags=b" in clients

        await bench.until(is_blocked, "the consumer waits for messages")
        started = time.monotonic()
        threading.Thread(target=consumer.stop).start()
        await asyncio.wait_for(task, WAIT_S)
        assert time.monotonic() - started < 0.3

    async def test_stop_at_any_moment_is_quick(self, server_bench: Bench) -> None:
        """Also while the consumer is just starting, reading or handling."""
        bench = server_bench
        consumer = bench.consumer(Ledger(), block_ms=60_000)
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
        assert slowest < 0.5

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
        ledger = Ledger()
        consumer = bench.consumer(ledger)
        for n in range(3):
            await bench.push(n)
            async with running(bench, consumer):
                await bench.until(lambda n=n: len(ledger.messages) == n + 1, f"message {n}")
        assert [m.data for m in ledger.messages] == [0, 1, 2]

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
        ledger = Ledger()
        await bench.consumer(ledger, min_idle_claim_ms=LONG_MS).run_once()
        assert [m.delivery_count for m in ledger.messages] == [1] * (3 - finished)

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

    async def test_cancelled_reads_strand_nothing(self, server_bench: Bench) -> None:
        """Consumers that are cancelled while messages come in leave them for others at once."""
        bench = server_bench
        ledger = Ledger()
        await bench.client.create_group(bench.stream, GROUP)
        ids: list[str] = []
        for n in range(40):
            task = asyncio.create_task(
                bench.consumer(ledger, block_ms=5000, min_idle_claim_ms=LONG_MS).run()
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
        await bench.consumer(ledger, min_idle_claim_ms=LONG_MS).run_once()
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_error_of_the_loop_is_logged_and_survived(
        self, server_bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        """A stream key of the wrong type: an error in the log, and it goes on once it is mended."""
        bench = server_bench  # fakeredis breaks over a key of another type
        await bench.client.link().call(bench.stream, "SET", bench.stream, "not a stream")
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger)):
            await bench.until(lambda: "WRONGTYPE" in warnings_logged.text, "the error in the log")
            await bench.client.command("DEL", bench.stream)
            await bench.push(1)
            await bench.until(lambda: ledger.batches, "handled after the repair", 3)
        assert len(warnings_logged.records) < 10

    async def test_reclaims_and_buries_by_itself(self, bench: Bench) -> None:
        old, dead = await bench.push("old", "dead")
        await bench.deliver("gone")
        await bench.set_pending(old, "gone", 10_000, 1)
        await bench.set_pending(dead, "gone", 10_000, 3)
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, dlq_stream=bench.dlq, block_ms=5000)):
            await bench.until(bench.settled, "both are settled", 3)
        assert ledger.counts(old) == [2]
        assert [letter["original_id"] for letter in await bench.letters()] == [dead]

    async def test_trims_finished_messages(self, real_bench: Bench) -> None:
        """max_stream_size bounds finished work, approximately. (fakeredis trims no nodes.)"""
        bench = real_bench
        await bench.push(*range(2000))
        ledger = Ledger()
        consumer = bench.consumer(ledger, max_stream_size=100, batch_size=500)
        while len(ledger.messages) < 2000:
            await consumer.run_once()

        async def trimmed() -> bool:
            return await bench.client.stream_len(bench.stream) <= 300

        async with running(bench, consumer):
            await bench.until(trimmed, "the finished messages are trimmed")


class TestGroupLost:
    """XGROUP DESTROY, DEL and FLUSHALL: the consumer goes on by itself."""

    @pytest.mark.parametrize("loss", ["XGROUP DESTROY", "DEL", "FLUSHALL"])
    async def test_run_goes_on(self, bench: Bench, loss: str) -> None:
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, block_ms=300)):
            [first] = await bench.push(1)
            await bench.until(lambda: first in ledger.runs, "the first message is handled")
            await bench.until(bench.settled, "and acknowledged")
            await self.lose(bench, loss)
            [second] = await bench.push(2)
            await bench.until(lambda: second in ledger.runs, "a message after the loss", 4)
        assert ledger.runs[second] == 1

    @pytest.mark.parametrize("loss", ["XGROUP DESTROY", "DEL", "FLUSHALL"])
    async def test_run_once_goes_on(self, bench: Bench, loss: str) -> None:
        """At most one iteration raises; the next one makes the group again."""
        ledger = Ledger()
        consumer = bench.consumer(ledger)
        await bench.push(1)
        await consumer.run_once()
        await self.lose(bench, loss)
        [second] = await bench.push(2)
        try:
            await consumer.run_once()
        except Exception as error:
            assert "NOGROUP" in str(error)  # noqa: PT017 - it may raise, and then this
            await consumer.run_once()
        assert second in ledger.runs

    async def test_finished_messages_do_not_run_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The group is made again behind what the last trim tick saw finished."""
        monkeypatch.setattr("redis_stream_queue.consumer.TRIM_INTERVAL_S", 0.01)
        monkeypatch.setattr("redis_stream_queue.consumer.SWEEP_INTERVAL_MS", 10)
        ledger = Ledger()
        consumer = bench.consumer(ledger, block_ms=20)
        async with running(bench, consumer):
            ids = await bench.push(*range(20))
            await bench.until(lambda: len(ledger.runs) == 20, "20 handled")
            await bench.until(
                lambda: consumer._retention.restart_id >= ids[-1], "a trim tick saw them finished"
            )
            await self.lose(bench, "XGROUP DESTROY")
            ids += await bench.push(*range(5))
            await bench.until(lambda: len(ledger.runs) == 25, "5 more handled")
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_what_this_consumer_just_finished_does_not_run_again(self, bench: Bench) -> None:
        """Also before the first trim tick: it knows itself what it has done."""
        ledger = Ledger()
        async with running(bench, bench.consumer(ledger, block_ms=200)):
            ids = await bench.push(*range(20))
            await bench.until(lambda: len(ledger.runs) == 20, "20 handled")
            await bench.until(bench.settled, "and acknowledged")
            await self.lose(bench, "XGROUP DESTROY")
            ids += await bench.push(*range(5))
            await bench.until(lambda: len(ledger.runs) == 25, "5 more handled")
        assert ledger.runs == dict.fromkeys(ids, 1)

    async def test_unread_messages_survive_the_loss(self, bench: Bench) -> None:
        ledger = Ledger()
        await bench.client.create_group(bench.stream, GROUP)
        consumer = bench.consumer(ledger, batch_size=1)
        ids = await bench.push(*range(5))
        await consumer.run_once()
        await self.lose(bench, "XGROUP DESTROY")
        async with running(bench, consumer):
            await bench.until(lambda: len(ledger.runs) == 5, "all five are handled")
        assert set(ledger.runs) == set(ids)

    @staticmethod
    async def lose(bench: Bench, how: str) -> None:
        if how == "XGROUP DESTROY":
            await bench.client.command(how, bench.stream, GROUP)
        elif how == "DEL":
            await bench.client.command(how, bench.stream)
        else:
            await bench.client.link().call(bench.stream, how)


class TestNames:
    """Worker names are unique, at most 64 characters, and reserved in Redis."""

    async def test_drawn_names_are_unique_and_short(self, bench: Bench) -> None:
        consumers = [bench.consumer(Ledger()) for _ in range(5)]
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
        monkeypatch.setattr("redis_stream_queue.session.worker_name", lambda *_: next(draws))
        for _ in range(2):
            await bench.consumer(Ledger()).run_once()
        assert sorted(await bench.consumers()) == ["other", "same"]

    async def test_a_configured_name_is_used_as_it_is(self, bench: Bench) -> None:
        await bench.consumer(Ledger(), worker_name="me").run_once()
        assert await bench.consumers() == ["me"]

    async def test_a_name_is_not_reused(self, bench: Bench) -> None:
        """Each run() is a new life with a new name."""
        consumer, names = bench.consumer(Ledger()), set()
        for _ in range(3):
            async with running(bench, consumer):
                [name] = await bench.until(bench.consumers, "the consumer has a name")
                names.add(name)
        assert len(names) == 3


class TestMetrics:
    async def test_count_what_happened(self, bench: Bench) -> None:
        consumer = bench.consumer(
            Ledger(), retry_delay_ms=0, max_deliveries=2, dlq_stream=bench.dlq
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
        consumers = [bench.consumer(Ledger()) for _ in range(3)]
        assert len(StreamConsumer.all_metrics()) == before + 3
        del consumers
        gc.collect()
        assert len(StreamConsumer.all_metrics()) == before

    async def test_need_neither_redis_nor_an_event_loop(self) -> None:
        def look() -> Any:
            client = StreamClient(port=1)
            consumer = StreamConsumer(client, "s", ConsumerConfig(group="g"), Ledger())
            return consumer.metrics()

        assert (await asyncio.to_thread(look)).total_read == 0


async def test_two_consumers_share_the_work(bench: Bench) -> None:
    """Each message goes to one of them."""
    ledgers = [Ledger(), Ledger()]
    async with running(bench, *(bench.consumer(ledger, batch_size=5) for ledger in ledgers)):
        ids = []
        for n in range(20):
            ids += await bench.push(*range(n))
        await wait_until_async(
            lambda: sum(len(ledger.messages) for ledger in ledgers) >= len(ids),
            WAIT_S,
            "all handled",
        )
    assert ledgers[0].runs + ledgers[1].runs == dict.fromkeys(ids, 1)

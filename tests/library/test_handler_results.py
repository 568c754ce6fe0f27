"""What a handler returns or raises decides about each message; so does @per_message."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    Reject,
    Retry,
    StreamConsumer,
    StreamMessage,
    per_message,
)
from tests.library.kit import GROUP, WAIT_S, Bench, Ledger, running

LONG_MS = 60_000  # an idle threshold that no test reaches


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
        assert "this consumer does not hold" in warnings_logged.text

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

    async def test_a_group_where_the_settings_belong_is_explained(self, bench: Bench) -> None:
        """StreamConsumer(client, "orders", "workers", handler): what a ConsumerConfig is."""
        with pytest.raises(ConfigError, match=r"must be a ConsumerConfig, got 'workers'.*\(group="):
            StreamConsumer(bench.client, "orders", "workers", print)  # type: ignore[arg-type]


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

    async def test_a_retry_that_does_not_count_uses_up_no_delivery(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Waiting for a rate limit may take more tries than max_deliveries; a failure counts."""
        caplog.set_level(logging.INFO, logger="redis_stream_queue")
        [entry_id] = await bench.push(1)
        deliveries: list[int] = []

        @per_message
        def handle(message: StreamMessage) -> None:
            deliveries.append(message.delivery_count)
            if len(deliveries) < 6:
                raise Retry("rate limit", delay_ms=1.5, counted=False)
            raise ValueError("now it fails")

        consumer = bench.consumer(handle, retry_delay_ms=0, max_deliveries=2, dlq_stream=bench.dlq)
        await bench.drain(consumer)

        assert deliveries == [1, 1, 1, 1, 1, 1, 2]
        [letter] = await bench.letters()
        assert letter["last_error"].startswith("ValueError: now it fails")
        said = f"{entry_id} of {bench.stream} is tried again in 2 ms (delivery 1 of 2, not counted)"
        assert f"{said}: rate limit" in caplog.text

    @pytest.mark.parametrize(
        "delay",
        [
            pytest.param(5.5, id="float"),
            pytest.param(Decimal("5.5"), id="Decimal"),
            pytest.param(timedelta(milliseconds=5.5), id="timedelta"),
            pytest.param(float("nan"), id="nan"),
            pytest.param(10**25, id="huge"),
        ],
    )
    async def test_an_odd_delay_costs_its_own_message_at_most(
        self, server_bench: Bench, delay: Any
    ) -> None:
        """What is a delay is waited for; what is none is that message's failure. Neighbours are
        acknowledged."""
        bench = server_bench
        odd, *others = await bench.push("odd", 1, 2)
        done: list[str] = []

        @per_message
        def handle(message: StreamMessage) -> None:
            if message.data == "odd" and message.delivery_count == 1:
                raise Retry(delay_ms=delay)
            done.append(message.id)

        await bench.drain(bench.consumer(handle, retry_delay_ms=0))

        assert sorted(done) == sorted([odd, *others])
        assert await bench.settled()

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

"""What a batch handler returns or raises decides what is acknowledged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from redis_stream_queue import ConfigError, StreamConsumer, StreamMessage
from tests.library.kit import WAIT_S, Bench, RecordingHandler

LONG_MS = 60_000  # an idle threshold that no test reaches


class TestHandlerResult:
    """What a batch handler returns or raises decides what is acknowledged."""

    async def test_only_returned_ids_are_acknowledged(self, bench: Bench) -> None:
        _, skipped, _ = await bench.push({}, {"mode": "skip"}, {})
        await bench.consumer(RecordingHandler()).run_once()
        assert list(await bench.pending()) == [skipped]

    async def test_empty_list_acknowledges_nothing_and_is_no_error(
        self, bench: Bench, warnings_logged: pytest.LogCaptureFixture
    ) -> None:
        ids = await bench.push({"mode": "skip"}, {"mode": "skip"})
        consumer = bench.consumer(RecordingHandler())

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

        consumer = bench.consumer(RecordingHandler(), error_hook=hook)
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

        consumer = bench.consumer(RecordingHandler(), error_hook=hook)
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

"""@per_message settles each message by itself."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from redis_stream_queue import ConfigError, StreamMessage, per_message
from tests.library.kit import WAIT_S, Bench

LONG_MS = 60_000  # an idle threshold that no test reaches


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

        await bench.until(first_is_acknowledged, "the first message is acknowledged by itself")
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

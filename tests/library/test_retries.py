"""A failed message waits and comes again; Retry and Reject ask for something else."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from redis_stream_queue import ConfigError, Reject, Retry, StreamMessage, per_message
from tests.library.kit import GROUP, Bench, RecordingHandler, running

LONG_MS = 60_000  # an idle threshold that no test reaches


class TestRetry:
    """What failed is delivered again after its delay, counted truly."""

    async def test_delivery_count_is_the_true_one(self, bench: Bench) -> None:
        handler = RecordingHandler()
        [entry_id] = await bench.push({"mode": "fail"})
        await bench.drain(bench.consumer(handler, retry_delay_ms=0, max_deliveries=4))
        assert handler.counts(entry_id) == [1, 2, 3, 4]

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
                RecordingHandler(),
                max_deliveries=9,
                retry_delay_ms=32_000,
                retry_max_delay_ms=128_000,
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

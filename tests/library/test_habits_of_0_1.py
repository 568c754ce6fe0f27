"""What programs written for 0.1.x lean on beyond names and parameters."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from redis_stream_queue import (
    ConsumerConfig,
    ConsumerGroup,
    ConsumerInfo,
    ConsumerMetrics,
    PendingEntry,
    ProducerMetrics,
    SerializationError,
    StreamConsumer,
    StreamMessage,
    StreamStats,
)
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler
from tests.support.pool import plain_environment
from tests.support.servers import Server
from tests.support.waiting import wait_until

CTRL_C = """
import asyncio, os, sys
from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer

async def handle(messages):
    return [m.id for m in messages]

async def monitor():
    while True:
        print("alive", flush=True)
        await asyncio.sleep(0.02)

async def main():
    client = StreamClient.from_url(os.environ["REDIS_URL"])
    consumer = StreamConsumer(client, sys.argv[1], ConsumerConfig(group="g"), handle)
    await asyncio.gather(consumer.run(), monitor())

asyncio.run(main())
"""


class TestAHandlerThatCollects:
    """It answers [] until it has enough, and then with the ids of all of them."""

    async def test_ids_of_earlier_batches_are_acknowledged(self, bench: Bench) -> None:
        collected: list[str] = []

        async def collect(messages: list[StreamMessage]) -> list[str]:
            collected.extend(m.id for m in messages)
            return collected if len(collected) == 6 else []

        consumer = bench.consumer(collect, batch_size=2, min_idle_claim_ms=60_000)
        await bench.push(*range(6))
        assert [await consumer.run_once() for _ in range(3)] == [0, 0, 6]
        assert await bench.client.pending_range(bench.stream, GROUP, 10) == []
        assert consumer.metrics().total_acked == 6
        await consumer.close()

    async def test_what_it_leaves_out_is_one_line_a_batch(self, bench: Bench, caplog: Any) -> None:
        async def collect(messages: list[StreamMessage]) -> list[str]:
            return []

        consumer = bench.consumer(collect, min_idle_claim_ms=60_000)
        await bench.push(*range(50))
        with caplog.at_level("INFO", "redis_stream_queue"):
            await consumer.run_once()
        assert caplog.text.count("tried again") == 1
        assert "and 49 more" in caplog.text
        await consumer.close()

    async def test_in_run(self, bench: Bench) -> None:
        collected: list[str] = []

        def collect(messages: list[StreamMessage]) -> list[str]:
            collected.extend(m.id for m in messages)
            return collected if len(collected) == 6 else []

        consumer = bench.consumer(collect, batch_size=1, min_idle_claim_ms=60_000)
        await bench.push(*range(6))
        running = asyncio.create_task(consumer.run())
        await bench.until(lambda: consumer.metrics().total_acked == 6, "all are acknowledged")
        consumer.stop()
        await asyncio.wait_for(running, WAIT_S)
        assert await bench.client.pending_range(bench.stream, GROUP, 10) == []

    async def test_ids_of_others_are_not(self, bench: Bench, caplog: Any) -> None:
        [foreign] = await bench.push("foreign")
        await bench.deliver("somebody", 1)
        await bench.push("mine")

        async def wrong(messages: list[StreamMessage]) -> list[Any]:
            return [foreign, "0-1", 5, messages[0].id]

        consumer = bench.consumer(wrong, min_idle_claim_ms=60_000)
        assert await consumer.run_once() == 1
        left = await bench.client.pending_range(bench.stream, GROUP, 10)
        assert [entry.id for entry in left] == [foreign]
        assert "3 id(s) that this consumer does not hold" in caplog.text
        await consumer.close()


class TestRunOnce:
    async def test_returns_how_many_were_acknowledged(self, bench: Bench) -> None:
        consumer = bench.consumer(RecordingHandler(), min_idle_claim_ms=60_000)
        await bench.push(1, {"mode": "skip"}, 3)
        assert await consumer.run_once() == 2
        assert await consumer.run_once() == 0
        await consumer.close()

    async def test_of_a_subclass_is_what_run_calls(self, bench: Bench) -> None:
        class Counting(StreamConsumer):
            rounds = 0

            async def run_once(self) -> int:
                self.rounds += 1
                return await super().run_once()

        handler = RecordingHandler()
        consumer = Counting(
            bench.client, bench.stream, ConsumerConfig(group=GROUP, block_ms=10), handler
        )
        running = asyncio.create_task(consumer.run())
        await bench.push("x")
        await bench.until(lambda: bool(handler.messages) and consumer.rounds > 3, "it goes round")
        consumer.stop()
        await asyncio.wait_for(running, WAIT_S)

    async def test_max_claim_passes_counts_pages_of_batch_size(self, bench: Bench) -> None:
        await bench.push(*range(20))
        await bench.deliver("gone", 20)
        handler = RecordingHandler()
        consumer = bench.consumer(handler, batch_size=5, max_claim_passes=2, min_idle_claim_ms=0)
        assert await consumer.run_once() == 10
        await consumer.close()

    async def test_run_gets_through_a_long_list_by_short_walks(self, server_bench: Bench) -> None:
        """What a dead consumer held: it has to be watched first, over several walks."""
        bench = server_bench
        ids = await bench.push(*range(60))
        await bench.deliver("gone", 60)
        handler = RecordingHandler()
        consumer = bench.consumer(handler, batch_size=5, max_claim_passes=1, block_ms=100)
        bench.start(consumer)
        await bench.until(lambda: len(handler.runs) == len(ids), "all are handled", 20)
        assert set(handler.runs.values()) == {1}
        await bench.stop(consumer)


@pytest.mark.parametrize("loss", ["DEL", "FLUSHALL", "XGROUP DESTROY"])
@pytest.mark.parametrize("way", ["run_once", "run"])
async def test_a_new_consumer_of_a_group_that_was_lost(
    server_bench: Bench, loss: str, way: str
) -> None:
    """The process remembers the group; a new consumer looks for itself and makes it again."""
    bench = server_bench
    key = bench.client.key(bench.stream)
    await bench.consumer(RecordingHandler()).run_once()
    args = {"DEL": [key], "FLUSHALL": []}.get(loss, [key, GROUP])
    await bench.client.link().call(key, *loss.split(), *args)
    consumer = bench.consumer(RecordingHandler(), block_ms=10)
    if way == "run":
        bench.start(consumer)
        await bench.until(
            lambda: bench.client.group_info(bench.stream), "it has made the group again"
        )
    await bench.push("x")
    if way == "run_once":
        assert await consumer.run_once() == 1
        await consumer.close()
    else:
        await bench.until(lambda: consumer.metrics().total_acked == 1, "it is handled")
        await bench.stop(consumer)


def test_ctrl_c_of_a_gather_removes_the_consumer_s_name(
    server: Server, stream: str, tmp_path: Path
) -> None:
    """asyncio.run() cancels the consumer twice."""
    with server.client() as look:
        for _ in range(3):
            program = subprocess.Popen(
                [sys.executable, "-c", CTRL_C, stream],
                env=plain_environment(server.url),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert program.stdout is not None
            wait_until(
                lambda: look.exists(stream) and look.xinfo_consumers(stream, "g"),
                WAIT_S,
                "it has joined the group",
            )
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=WAIT_S)
            assert look.xinfo_consumers(stream, "g") == []


def test_records_have_a_dict_and_take_new_attributes() -> None:
    for record in (
        StreamMessage("1-0", {}),
        PendingEntry("1-0", "c", 1, 1),
        ConsumerInfo("c", 1, 1),
        StreamStats("s", "g", 0, 0, 0, ""),
        ConsumerMetrics(),
        ProducerMetrics(),
    ):
        assert vars(record) == record.__dict__
        record.note = "x"  # type: ignore[union-attr]
        assert vars(record)["note"] == "x"


def test_a_serialization_error_is_a_type_error() -> None:
    assert issubclass(SerializationError, TypeError)


class TestHealth:
    async def test_retries_are_no_consumers(self, bench: Bench) -> None:
        consumer = bench.consumer(RecordingHandler(), min_idle_claim_ms=60_000)
        await bench.push({"mode": "skip"}, {"mode": "skip"}, 3)
        await consumer.run_once()
        stats = await ConsumerGroup(bench.client, bench.stream, GROUP).stats()
        assert [c.pending for c in stats.consumers] == [0]
        assert (stats.waiting_retries, stats.group_pel_size) == (2, 2)
        await consumer.close()

    async def test_messages_that_wait_while_nobody_reads_are_an_issue(self, bench: Bench) -> None:
        group = ConsumerGroup(bench.client, bench.stream, GROUP)
        await group.ensure()
        await bench.client.read(bench.stream, GROUP, "silent", 1, 0)
        await bench.push(1)
        await bench.deliver("silent", 1)
        ids = [entry.id for entry in await group.pending_details()]
        await bench.client.ack(bench.stream, GROUP, *ids)
        await asyncio.sleep(0.02)
        assert (await group.health_check(max_idle_ms=1))["healthy"]  # it only has nothing to do
        await bench.push(2)
        found = await group.health_check(max_idle_ms=1)
        assert not found["healthy"]
        assert "no consumer has read for" in found["issues"][0]

"""A Redis Cluster keeps the same promises: one real cluster of three masters."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.crc import key_slot

from redis_stream_queue import (
    ClusterSlotError,
    ConsumerConfig,
    ConsumerGroup,
    DeadLetterQueue,
    StreamClient,
    StreamConsumer,
    StreamProducer,
)
from tests.library.kit import GROUP, WAIT_S, Bench, RecordingHandler, running
from tests.support.cluster import Cluster
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

APP = """
from redis_stream_queue import per_message

@per_message
def handler(message):
    if message.data["do"] == "raise":
        raise ValueError("this one always fails")
"""


@pytest_asyncio.fixture(params=["from_cluster", "url"])
async def either_client(
    request: pytest.FixtureRequest, cluster_url: str, nodes: list[dict[str, Any]]
) -> AsyncIterator[StreamClient]:
    """The cluster, reached in both ways."""
    if request.param == "url":
        yield StreamClient.from_url(cluster_url, prefix="shop")
    else:
        yield StreamClient.from_cluster(nodes[1:2], prefix="shop")
    await StreamClient.close_all()


class TestProducer:
    async def test_sync_time_limits(self, cluster_url: str, stream: str) -> None:
        """Those of 0 and less are over at once, also while the cluster is looked for."""
        producer = StreamProducer(StreamClient.from_url(cluster_url), stream)
        for timeout_s in (0, -1, 0.0):
            with pytest.raises(TimeoutError, match="may or may not be in the stream"):
                await asyncio.to_thread(producer.push_sync, "x", timeout_s=timeout_s)
        assert await asyncio.to_thread(producer.push_sync, "x", timeout_s=WAIT_S)
        assert await asyncio.to_thread(producer.push_sync, "x", timeout_s=float("inf"))
        await producer.close()

    def test_a_cluster_that_does_not_answer_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis+cluster://127.0.0.1:{silent.getsockname()[1]}"
            producer = StreamProducer(StreamClient.from_url(url), "s")
            with pytest.raises(TimeoutError, match="may or may not be in the stream"):
                producer.push_sync("x", timeout_s=0.2)

    async def test_push(self, either_client: StreamClient, stream: str) -> None:
        """One by one, together and many; each stream on whichever node serves it."""
        for n in range(6):
            name = f"{stream}{n}"
            producer = StreamProducer(either_client, name, group=GROUP)
            await producer.ensure_group()
            ids = [await producer.push(0)]
            ids += await asyncio.gather(*(producer.push(i) for i in range(50)))
            ids += await producer.push_many(list(range(1500)))
            assert len(set(ids)) == 1551
            fetched = await either_client.fetch_by_ids(name, ids)
            assert [m.id for m in fetched] == ids
            assert await either_client.stream_len(name) == 1551

    async def test_push_sync(self, either_client: StreamClient, stream: str) -> None:
        def push() -> list[str]:
            return [producer.push_sync(1), *producer.push_many_sync([2, 3, 4])]

        producer = StreamProducer(either_client, stream)
        ids = await asyncio.to_thread(push)
        fetched = await either_client.fetch_by_ids(stream, ids)
        assert [m.data for m in fetched] == [b"1", b"2", b"3", b"4"]
        await producer.close()

    async def test_finished_messages_are_trimmed(self, bench: Bench) -> None:
        producer = StreamProducer(bench.client, bench.stream, max_len=100)
        await producer.ensure_group(GROUP)
        await producer.push_many([0] * 500)
        consumer = bench.consumer(RecordingHandler(), batch_size=500)
        await consumer.run_once()
        await producer.push_many([0] * 1000)
        assert await bench.client.stream_len(bench.stream) < 1500


class TestConsumer:
    async def test_dead_letters_in_the_same_slot(self, bench: Bench) -> None:
        """Handled, retried, buried in one step, and requeued."""
        handler = RecordingHandler()
        consumer = bench.consumer(
            handler, dlq_stream=bench.dlq, retry_delay_ms=0, max_deliveries=2, dlq_group="look"
        )
        good, bad = await bench.push({}, {"mode": "fail"})
        await bench.drain(consumer)
        assert handler.counts(bad) == [1, 2]
        [letter] = await bench.letters()
        assert (letter["original_id"], letter["reason"]) == (bad, "max_deliveries")
        assert await DeadLetterQueue(bench.client, bench.dlq).requeue() == 1
        assert await bench.letters() == []
        assert len(await bench.entry_ids()) == 3
        assert good in handler.runs

    async def test_loop(self, bench: Bench) -> None:
        """Blocking reads, take-over from a dead consumer, and a group that is destroyed."""
        handler = RecordingHandler()
        [old] = await bench.push("old")
        await bench.deliver("gone")
        await bench.set_pending(old, "gone", 10_000, 1)
        async with running(bench, bench.consumer(handler, block_ms=5000, dlq_stream=bench.dlq)):
            await bench.until(lambda: handler.counts(old) == [2], "the old one is taken over")
            await bench.client.command("XGROUP DESTROY", bench.stream, GROUP)
            [new] = await bench.push("new")
            await bench.until(lambda: new in handler.runs, "a message after the loss")

    async def test_status(self, bench: Bench) -> None:
        await bench.push(1, 2, 3)
        await bench.deliver("c", 1)
        group = ConsumerGroup(bench.client, bench.stream, GROUP)
        stats = await group.stats(bench.dlq)
        assert (stats.stream_length, stats.lag, stats.group_pel_size) == (3, 2, 1)
        assert stats.dlq_length == 0
        assert (await group.health_check())["healthy"]


class TestSlots:
    """Stream and dead-letter stream in different slots: said at the start, with a way out."""

    @pytest.mark.parametrize(
        ("prefix", "name", "dlq", "keys", "works"),
        [
            ("", "orders", "dead", ("orders", "dead"), "{orders}_dlq"),
            ("shop", "orders", "dead", ("shop_orders", "shop_dead"), "{shop_orders}_dlq"),
            ("", "{a}_main", "{b}_dlq", ("{a}_main", "{b}_dlq"), "{a}_main_dlq"),
        ],
    )
    async def test_error_names_both_keys_and_a_name_that_works(
        self, cluster_url: str, prefix: str, name: str, dlq: str, keys: Any, works: str
    ) -> None:
        client = StreamClient.from_url(cluster_url, prefix=prefix)
        config = ConsumerConfig(group=GROUP, block_ms=0, dlq_stream=dlq)
        with pytest.raises(ClusterSlotError) as caught:
            await asyncio.wait_for(
                StreamConsumer(client, name, config, RecordingHandler()).run_once(), WAIT_S
            )
        assert repr(keys[0]) in str(caught.value)
        assert repr(keys[1]) in str(caught.value)
        assert repr(works) in str(caught.value)
        with pytest.raises(ClusterSlotError):
            await ConsumerGroup(client, name, GROUP).ensure(dlq_stream=dlq)
        await client.close()

    @pytest.mark.parametrize("prefix", ["", "shop"])
    async def test_the_name_it_proposes_works_when_it_is_used(
        self, cluster_url: str, prefix: str
    ) -> None:
        """Taken from the text as it stands there, given as dlq_stream, it is accepted."""
        client = StreamClient.from_url(cluster_url, prefix=prefix)
        group = ConsumerGroup(client, "orders", GROUP)
        with pytest.raises(ClusterSlotError) as caught:
            await group.ensure(dlq_stream="dead")
        proposed = str(caught.value).partition("Name the dead-letter stream '")[2].partition("'")[0]
        await group.ensure(dlq_stream=proposed)
        await client.close()


@pytest.mark.parametrize("prefix", [None, "shop"])
def test_pool_has_a_dead_letter_stream_that_works(
    cluster_url: str, real_cluster: Cluster, tmp_path: Path, prefix: str | None
) -> None:
    """A pool on a cluster without any option: bad messages end in ``{key}_dlq``."""
    key = f"{prefix}_orders" if prefix else "orders"
    dlq = f"{prefix}_{{{key}}}_dlq" if prefix else "{orders}_dlq"
    assert key_slot(dlq.encode()) == key_slot(key.encode())
    options = ["--workers", "2", "--stream", "orders", "--max-deliveries", "2"]
    options += ["--retry-delay-ms", "10", *(["--prefix", prefix] if prefix else [])]
    with (
        PoolProcess(APP, *options, url=cluster_url, cwd=tmp_path) as pool,
        real_cluster.node_of(key).client() as look,
    ):
        pool.wait_ready()

        async def push() -> list[str]:
            client = StreamClient.from_url(cluster_url, prefix=prefix or "")
            producer = StreamProducer(client, "orders")
            ids = await producer.push_many([{"do": "ok"}] * 20 + [{"do": "raise"}])
            await producer.close()
            return ids

        ids = asyncio.run(push())
        wait_until(lambda: look.xlen(dlq) == 1, WAIT_S, f"the bad one is in {dlq}")
        wait_until(
            lambda: look.xpending(key, "orders_workers")["pending"] == 0, WAIT_S, "all are settled"
        )
        [[_, letter]] = look.xrange(dlq)
        assert letter[b"original_id"].decode() == ids[-1]
        assert pool.drain() == 0

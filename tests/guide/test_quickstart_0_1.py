"""A program written for redis-stream-queue 0.1.x runs unchanged, and without a warning.

The programs here use the public names of 0.1.3 as its users do; every warning is an error.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_stream_queue import (
    ConsumerConfig,
    ConsumerGroup,
    ConsumerInfo,
    ConsumerMetrics,
    JsonSerializer,
    MsgpackSerializer,
    PendingEntry,
    PickleSerializer,
    ProducerMetrics,
    RetryHandler,
    Serializer,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
    StreamStats,
)
from tests.support.cluster import Cluster
from tests.support.servers import Server
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.filterwarnings("error")

WAIT_S = 10.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def tcp_server(_no_process_left: None) -> Iterator[Server]:
    with Server.start("valkey-9.1", tcp=True) as server:
        yield server


@pytest.fixture
def make_client(tcp_server: Server) -> Callable[..., StreamClient]:
    """``StreamClient(host, port)``, as most programs make it."""
    tcp_server.flush()
    return lambda **options: StreamClient(host="127.0.0.1", port=tcp_server.port, **options)


@pytest.fixture
def stream() -> str:
    """A new name each time: the library remembers in a process which groups exist."""
    return f"shop{next(_numbers)}"


async def handle_all(messages: list[StreamMessage]) -> list[str]:
    return [m.id for m in messages]


async def run_until(consumer: StreamConsumer, condition: Callable[[], Any], what: str) -> None:
    """Run the infinite loop as a task and cancel it, the way 0.1.x programs end it."""
    task = asyncio.create_task(consumer.run())
    try:
        await wait_until_async(condition, WAIT_S, what)
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_producer(
    make_client: Callable[..., StreamClient], stream: str, tcp_server: Server
) -> None:
    """Make the group at each start, push one, push many, close."""

    async def main() -> list[str]:
        client = make_client(prefix="eu")
        producer = StreamProducer(client, stream, group="pickers", max_len=50_000)
        assert producer.client is client
        await producer.ensure_group()
        await producer.ensure_group("packers")
        one = await producer.push({"order_id": 1})
        many = await producer.push_many([{"order_id": 2}, {"order_id": 3}])
        await client.close()
        return [one, *many]

    ids = asyncio.run(main())
    with tcp_server.client() as look:
        entries = look.xrange(f"eu_{stream}")
        groups = {group["name"] for group in look.xinfo_groups(f"eu_{stream}")}
    assert [entry_id.decode() for entry_id, _ in entries] == ids
    assert [json.loads(fields[b"data"]) for _, fields in entries] == [
        {"order_id": n} for n in (1, 2, 3)
    ]
    assert groups == {b"pickers", b"packers"}


def test_consumer_with_a_dlq_handler(
    make_client: Callable[..., StreamClient], stream: str, tcp_server: Server
) -> None:
    """Good messages are handled, a message that always fails and one that cannot be decoded reach
    the dlq_handler, and cancelling the loop raises CancelledError."""
    done: list[Any] = []
    dead: list[tuple[Any, str]] = []

    async def handle(messages: list[StreamMessage]) -> list[str]:
        good = [m for m in messages if "bad" not in m.data]
        done.extend(m.data["n"] for m in good)
        return [m.id for m in good]

    async def on_dlq(msg: StreamMessage, reason: str) -> None:
        dead.append((msg.data, reason))

    async def main() -> None:
        client = make_client()
        await StreamProducer(client, stream).push_many([{"n": 1}, {"bad": 1}, {"n": 2}])
        await client.push(stream, b"{not json")
        config = ConsumerConfig(
            group="pickers",
            dlq_stream=f"{stream}_dlq",
            dlq_group="undertakers",
            batch_size=10,
            block_ms=20,
            min_idle_claim_ms=30,
            max_deliveries=2,
            max_stream_size=10_000,
            max_claim_passes=5,
        )
        consumer = StreamConsumer(
            client=client, stream=stream, config=config, handler=handle, dlq_handler=on_dlq
        )
        await run_until(consumer, lambda: len(dead) == 2, "both dead ones are told")
        assert await client.pending_range(stream, "pickers", 10) == []
        await client.close()

    asyncio.run(main())
    assert sorted(done) == [1, 2]
    assert sorted(dead, key=lambda letter: letter[1]) == [
        (b"{not json", "decode_error"),
        ({"bad": 1}, "max_deliveries"),
    ]
    with tcp_server.client() as look:
        assert [g["name"] for g in look.xinfo_groups(f"{stream}_dlq")] == [b"undertakers"]


def test_consumer_metrics_are_polled_beside_the_loop(
    make_client: Callable[..., StreamClient], stream: str
) -> None:
    """A monitor task reads every field while ``run()`` works."""
    seen: list[ConsumerMetrics] = []

    async def monitor(consumer: StreamConsumer) -> None:
        while not (seen and seen[-1].total_acked == 5):
            seen.append(consumer.metrics())
            await asyncio.sleep(0.005)

    async def main() -> None:
        client = make_client()
        await StreamProducer(client, stream).push_many([{"n": n} for n in range(5)])
        config = ConsumerConfig(group="pickers", block_ms=20)
        consumer = StreamConsumer(client=client, stream=stream, config=config, handler=handle_all)
        running = asyncio.gather(consumer.run(), monitor(consumer))
        await wait_until_async(lambda: seen and seen[-1].total_acked == 5, WAIT_S, "5 are done")
        consumer.stop()
        await asyncio.wait_for(running, WAIT_S)
        await client.close()

    asyncio.run(main())
    last = seen[-1]
    assert (last.total_read, last.total_acked, last.total_dlq, last.total_errors) == (5, 5, 0, 0)
    assert last.tps_total == last.tps_in + last.tps_out
    assert f"{last.tps_in:.1f} {last.avg_tps:.1f} {last.uptime_secs:.0f}s" == "5.0 5.0 0s"


def test_producer_metrics(make_client: Callable[..., StreamClient], stream: str) -> None:
    async def main() -> ProducerMetrics:
        client = make_client()
        producer = StreamProducer(client, stream)
        await producer.push_many([{"n": n} for n in range(3)])
        await producer.close()
        return producer.metrics()

    m = asyncio.run(main())
    assert isinstance(m, ProducerMetrics)
    assert (m.total_pushed, m.tps, m.avg_tps) == (3, 3.0, 3.0)
    assert f"{m.uptime_secs:.0f}s" == "0s"


def test_metrics_of_all_instances(make_client: Callable[..., StreamClient], stream: str) -> None:
    """Several consumers and producers in one loop; all_metrics() lists each of them."""

    async def main() -> None:
        client = make_client()
        names = [f"{stream}_{part}" for part in ("a", "b", "c")]
        producers = [StreamProducer(client=client, stream=name) for name in names]
        config = ConsumerConfig(group="pickers", block_ms=20)
        consumers = [
            StreamConsumer(client=client, stream=name, config=config, handler=handle_all)
            for name in names
        ]
        await asyncio.gather(*(p.push({"n": 7}) for p in producers))
        running = asyncio.gather(*(c.run() for c in consumers))

        def acked() -> bool:
            return sum(m.total_acked for m in StreamConsumer.all_metrics()) >= 3

        await wait_until_async(acked, WAIT_S, "each has handled one")
        assert sum(m.total_pushed == 1 for m in StreamProducer.all_metrics()) >= 3
        for consumer in consumers:
            consumer.stop()
        await asyncio.wait_for(running, WAIT_S)
        await StreamClient.close_all()

    asyncio.run(main())


def test_stats_health_and_pending_details(
    make_client: Callable[..., StreamClient], stream: str
) -> None:
    """A monitoring program: lengths, lag, who holds what, what is wrong."""

    async def main() -> None:
        client = make_client()
        await StreamProducer(client, stream, group="pickers").ensure_group()
        ids = await StreamProducer(client, stream).push_many([{"n": n} for n in range(4)])
        await client.read(stream, "pickers", "anna", 1, 0)
        cg = ConsumerGroup(client, stream=stream, group="pickers")
        await cg.ensure()

        stats = await cg.stats(dlq_stream=f"{stream}_dlq")
        assert stats == StreamStats(
            stream=stream, group="pickers", stream_length=4, group_pel_size=1, lag=3,
            last_delivered_id=ids[0], dlq_length=0,
            consumers=[ConsumerInfo("anna", 1, stats.consumers[0].idle_ms)],
        )  # fmt: skip

        health = await cg.health_check(max_lag=1000, max_idle_ms=60_000)
        assert (health["healthy"], health["issues"]) == (True, [])
        sick = await cg.health_check(max_lag=2)
        assert not sick["healthy"]
        assert len(sick["issues"]) == 1

        [entry] = await cg.pending_details(count=50)
        assert entry == PendingEntry(ids[0], "anna", entry.idle_ms, 1)
        cg.reset()
        await client.close()

    asyncio.run(main())


def test_poison_pills_swept_by_hand(
    make_client: Callable[..., StreamClient], stream: str, tcp_server: Server
) -> None:
    """RetryHandler without a consumer: finds what is used up, tells the handler, acknowledges."""
    dead: list[tuple[Any, str]] = []

    async def on_dlq(msg: StreamMessage, reason: str) -> None:
        dead.append((msg.data, reason))

    async def main() -> None:
        client = make_client()
        await StreamProducer(client, stream, group="pickers").ensure_group()
        [entry_id] = await StreamProducer(client, stream).push_many([{"n": 1}])
        await client.read(stream, "pickers", "anna", 1, 0)
        with tcp_server.client() as look:  # as if it had been delivered twice, long ago
            look.xclaim(stream, "pickers", "anna", 0, [entry_id], idle=60_000, retrycount=2)
        handler = RetryHandler(client, stream, "pickers", dlq_handler=on_dlq, max_deliveries=2)
        assert await handler.handle_poison_pills() == 1
        assert await handler.handle_poison_pills() == 0
        await handler.send_to_dlq(StreamMessage(id="1-1", data={"n": 2}), "decode_error")
        await client.close()

    asyncio.run(main())
    assert dead == [({"n": 1}, "max_deliveries"), ({"n": 2}, "decode_error")]


class CsvSerializer:
    """A user's own format: nothing but the two methods."""

    def encode(self, data: dict) -> bytes:
        return ",".join(f"{key}={value}" for key, value in data.items()).encode()

    def decode(self, raw: bytes) -> dict:
        return dict(part.split("=") for part in raw.decode().split(","))


@pytest.mark.parametrize(
    "make", [CsvSerializer, JsonSerializer, MsgpackSerializer, PickleSerializer]
)
def test_serializers(
    make: Callable[[], Serializer], make_client: Callable[..., StreamClient], stream: str
) -> None:
    """The same on both ends; a class of one's own needs no base class."""
    got: list[Any] = []

    async def handle(messages: list[StreamMessage]) -> list[str]:
        got.extend(m.data for m in messages)
        return [m.id for m in messages]

    async def main() -> None:
        client = make_client()
        await StreamProducer(client, stream, serializer=make()).push({"size": "XL"})
        config = ConsumerConfig(group="pickers", block_ms=0)
        await StreamConsumer(client, stream, config, handle, serializer=make()).run_once()
        await client.close()

    assert isinstance(make(), Serializer)
    asyncio.run(main())
    assert got == [{"size": "XL"}]


@pytest.mark.parametrize("kind", ["url", "cluster nodes", "cluster url"])
def test_other_ways_to_connect(kind: str, request: pytest.FixtureRequest, stream: str) -> None:
    """from_url and from_cluster with the options that 0.1.x took."""
    options: dict[str, Any] = {"prefix": "eu", "max_connections": 20, "socket_timeout": 5.0}
    if kind == "url":
        server: Server = request.getfixturevalue("tcp_server")
        server.flush()
        client = StreamClient.from_url(server.url, pool_timeout=2, client_name="shop", **options)
    else:
        cluster: Cluster = request.getfixturevalue("real_cluster")
        cluster.flush()
        if kind == "cluster url":
            client = StreamClient.from_url(cluster.url, **options)
        else:
            nodes = [{"host": "127.0.0.1", "port": port} for port in cluster.ports]
            client = StreamClient.from_cluster(nodes, password=None, **options)

    async def main() -> None:
        name = f"{{{stream}}}_main"
        await StreamProducer(client, name).push_many([{"n": 1}, {"n": 2}])
        config = ConsumerConfig(group="pickers", block_ms=0, dlq_stream=f"{{{stream}}}_dlq")
        consumer = StreamConsumer(client, name, config, handle_all)
        await consumer.run_once()
        assert consumer.metrics().total_acked == 2
        await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("client", "StreamClient"),
        ("consumer", "StreamConsumer"),
        ("exceptions", "RedisStreamError DLQError SerializationError ClusterSlotError"),
        ("group", "ConsumerConfig ConsumerGroup"),
        ("message", "ConsumerInfo PendingEntry StreamMessage StreamStats"),
        ("message", "ConsumerMetrics ProducerMetrics"),
        ("producer", "StreamProducer"),
        ("retry", "DLQHandler RetryHandler"),
        ("serializers", "JsonSerializer MsgpackSerializer PickleSerializer Serializer"),
    ],
)  # fmt: skip
def test_names_are_where_they_were(module: str, names: str) -> None:
    """The modules of 0.1.x still hold what programs import from them."""
    found = importlib.import_module(f"redis_stream_queue.{module}")
    assert [name for name in names.split() if not hasattr(found, name)] == []

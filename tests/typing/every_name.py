"""A user's app that uses every public name: type checkers find nothing wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import assert_type

import redis_stream_queue
from redis_stream_queue import (
    BacklogFull,
    Cancelled,
    ClusterSlotError,
    ConfigError,
    ConsumerConfig,
    ConsumerGroup,
    ConsumerInfo,
    ConsumerMetrics,
    Cron,
    DeadLetterQueue,
    DLQError,
    DLQHandler,
    Every,
    GroupState,
    Job,
    JsonSerializer,
    MessageState,
    Mover,
    MsgpackSerializer,
    NotDurable,
    PendingEntry,
    PickleSerializer,
    ProducerMetrics,
    PushedId,
    Queue,
    RedisStreamError,
    Reject,
    ResultGone,
    Retry,
    RetryHandler,
    ScheduledMessage,
    SerializationError,
    Serializer,
    SignedSerializer,
    SoftTimeLimitExceeded,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
    StreamStats,
    Task,
    TaskFailed,
    TaskUnknown,
    UnsupportedServer,
    current,
    per_message,
    popoto,
    stream_handler,
)
from redis_stream_queue.integrations.opentelemetry import TracedProducer, traced
from redis_stream_queue.middleware import Middleware
from redis_stream_queue.pool import Pool, PoolConfig, PoolMetrics

queue = Queue("work", retry_delay_ms=5)


@queue.task
def plain(photo: int, width: int = 800) -> str:
    return str(photo + width)


@queue.task(concurrency=5, retry_on=(OSError,), no_retry_on=KeyError, result_ttl_s=1)
async def later(url: str) -> int:
    running = current()
    assert_type(running.headers, dict[str, str])
    return len(url)


@queue.cron("0 3 * * *", tz="Europe/Berlin", max_deliveries=3)
def nightly() -> None: ...


async def dlq_handler(message: StreamMessage, reason: str) -> None: ...


def hook(error: BaseException, messages: list[StreamMessage]) -> None: ...


def middleware(message: StreamMessage, call_next: Callable[[StreamMessage], object]) -> object:
    return call_next(message)


async def amiddleware(
    message: StreamMessage, call_next: Callable[[StreamMessage], object]
) -> object:
    return call_next(message)


async def start() -> None: ...


@stream_handler(
    "orders",
    group="g",
    max_deliveries=5,
    serializer=MsgpackSerializer(),
    dlq_handler=dlq_handler,
    error_hook=hook,
    periodic=[
        Cron("n", "0 3 * * *", {"a": 1}, tz="UTC", catch_up="skip", late_s=5, overlap=False),
        Every("b", 30),
    ],
    middleware=[middleware, traced()],
    on_worker_start=start,
    on_worker_stop=lambda: None,
    workers=2,
    nice=10,
)
@per_message
def handle(message: StreamMessage) -> None:
    if message.delivery_count > 1:
        raise Reject("no")
    raise Retry("x", delay_ms=timedelta(seconds=1), counted=False)


@stream_handler("o2")
@per_message(concurrency=5)
async def ahandle(message: StreamMessage) -> None: ...


@stream_handler("o3")
def batch(messages: list[StreamMessage]) -> list[str]:
    return [m.id for m in messages]


@stream_handler("o4")
async def abatch(messages: list[StreamMessage]) -> list[str]:
    return [m.id for m in messages]


async def main() -> None:
    client = StreamClient.from_url("redis://localhost", prefix="a")
    assert_type(client, StreamClient)
    StreamClient.from_cluster([{"host": "a", "port": 1}], password="x")
    StreamClient(socket_keepalive_options={1: 2}, db="1", port="6379")
    producer = StreamProducer(
        client, "s", "g", 5, SignedSerializer(JsonSerializer(), [b"x" * 16]), trim="any"
    )
    assert_type(producer.max_len, int | None)
    assert_type(producer.stream, str)
    assert_type(
        await producer.push(
            {"a": 1},
            headers={"a": "b"},
            timeout_s=1,
            delay_ms=5,
            ttl_ms=timedelta(1),
            expired="dead",
        ),
        str,
    )
    pushed = await producer.push(1, dedup_id="x", dedup_ttl_s=5)
    assert isinstance(pushed, PushedId)
    assert_type(pushed.duplicate, bool)
    assert_type(
        await producer.push_many([1], dedup_ids=["a", None], at=datetime.now(UTC)), list[str]
    )
    producer.push_sync(1, unique="a", unique_until="started")
    producer.push_many_sync([1])
    async for m in producer.scheduled(before=datetime.now(UTC)):
        assert_type(m, ScheduledMessage)
    assert_type(await producer.cancel("@1-1"), bool)
    assert_type(producer.metrics(), ProducerMetrics)
    config = ConsumerConfig(group="g", block_ms=5)
    consumer = StreamConsumer(
        client,
        "s",
        config,
        batch,
        dlq_handler,
        PickleSerializer(),
        hook,
        periodic=[Every("x", 1)],
        middleware=[amiddleware],
    )
    StreamConsumer(client, "s", config, handle)
    StreamConsumer(client, "s", config, ahandle)
    StreamConsumer(client, "s", config, abatch)
    assert_type(consumer.config, ConsumerConfig)
    assert_type(await consumer.run_once(), int)
    assert_type(consumer.metrics(), ConsumerMetrics)
    group = consumer.group
    assert_type(group, ConsumerGroup)
    stats: StreamStats = await group.stats()
    infos: list[ConsumerInfo] = stats.consumers
    details: list[PendingEntry] = await group.pending_details()
    health = await group.health_check()
    assert_type(health["healthy"], bool)
    state = await client.find("s", "1-1")
    assert_type(state, MessageState | None)
    groups: list[GroupState] = state.groups if state else []
    dlq = DeadLetterQueue(client, "d")
    for letter in await dlq.list():
        print(letter.called, letter.headers, infos, details, groups)
    await dlq.requeue(["1-1"], to="s")
    rh = RetryHandler(client, "s", "g", dlq_handler)
    assert_type(await rh.handle_poison_pills(), int)
    await Mover(client, "s").run()
    job = await plain.push(42, width=3)
    assert_type(job, Job[str])
    assert_type(await job.result(5), str)
    j2 = await later.options(delay_ms=5, headers={"a": "b"}).push("x")
    assert_type(j2, Job[int])
    assert_type(await later("x"), int)
    assert_type(plain(1), str)
    assert_type((await later.push_many([("a",)])), list[Job[int]])
    assert_type(later.push_sync("x").result_sync(), int)
    assert_type(await job.status() == "done", bool)
    await queue.options(result_ttl_s=5, ttl_ms=6).push("plain", 1)
    t: Task[..., str, str] = plain
    print(t.name)
    handle(StreamMessage("1-0", {}))
    await ahandle(StreamMessage("1-0", {}))
    with queue.testing(run=False) as calls:
        print(calls[0].task)
    Queue("x", producer=TracedProducer)
    try:
        print(await group.pending_details())
    except NotDurable as e:
        print(e.ids)
    except TaskFailed as e:
        print(e.reason, e.type, e.text, e.traceback)
    except (
        BacklogFull,
        Cancelled,
        ClusterSlotError,
        ConfigError,
        DLQError,
        RedisStreamError,
        ResultGone,
        SerializationError,
        SoftTimeLimitExceeded,
        TaskUnknown,
        UnsupportedServer,
    ):
        ...
    h: DLQHandler = dlq_handler
    s: Serializer = JsonSerializer()
    m2: Middleware = middleware
    print(h, s, m2, redis_stream_queue.Queue)
    pool = Pool(PoolConfig(target=["a:b", "c:d=2"], workers=4))
    pm: PoolMetrics = pool.metrics()
    print(pm.acked)
    popoto.StreamConsumer("s", "g", "c", lambda entries: None).run_sync()
    raise SystemExit(pool.run())


asyncio.run(main())

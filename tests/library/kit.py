"""A workbench for the library's tests: one stream, its consumers, and the facts in Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from redis.exceptions import ResponseError

from redis_stream_queue import (
    ConsumerConfig,
    ScheduledMessage,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
)
from redis_stream_queue.message import id_key
from tests.support.faultproxy import FaultProxy
from tests.support.waiting import wait_until_async

GROUP = "workers"
WAIT_S = 10.0


async def waiting(producer: StreamProducer, **before: Any) -> list[ScheduledMessage]:
    """The scheduled messages of a producer's stream, in the order in which they are due."""
    return [message async for message in producer.scheduled(**before)]


class CountingProxy(FaultProxy):
    """Keeps the bursts in which requests came: about one for each round trip."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.requests: list[bytes] = []

    async def _pump(self, source: Any, sink: Any, is_reply: bool = False) -> None:
        while data := await source.read(1 << 20):
            if not is_reply:
                self.requests.append(data)
            sink.write(data)
            await sink.drain()


class RecordingHandler:
    """An async batch handler that notes what it was given; modes by payload.

    A payload that is a dict with ``mode`` decides what happens to it: ``fail`` raises, ``skip`` is
    not acknowledged, anything else is done.
    """

    def __init__(self) -> None:
        self.batches: list[list[StreamMessage]] = []

    @property
    def messages(self) -> list[StreamMessage]:
        return [message for batch in self.batches for message in batch]

    @property
    def runs(self) -> Counter[str]:
        """Executions by id."""
        return Counter(message.id for message in self.messages)

    def counts(self, entry_id: str) -> list[int]:
        """Delivery counts with which one message arrived, in order."""
        return [m.delivery_count for m in self.messages if m.id == entry_id]

    async def __call__(self, messages: list[StreamMessage]) -> list[str]:
        self.batches.append(list(messages))
        modes = {m.id: m.data.get("mode") if isinstance(m.data, dict) else None for m in messages}
        if "fail" in modes.values():
            raise RuntimeError("this payload cannot be handled")
        return [entry_id for entry_id, mode in modes.items() if mode != "skip"]


class Bench:
    """One stream and everything around it."""

    def __init__(self, client: StreamClient, stream: str) -> None:
        self.client = client
        self.stream = stream
        self.dlq = f"{stream}_dlq"
        self._running: dict[StreamConsumer, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- making things ---------------------------------------------------------------------------

    def consumer(self, handler: Any, *, client: StreamClient | None = None, **options: Any) -> Any:
        """A consumer that does not wait long; options: ConsumerConfig's and StreamConsumer's."""
        outer = {
            name: options.pop(name)
            for name in ("dlq_handler", "serializer", "error_hook", "periodic", "middleware")
            if name in options
        }
        settings = {"group": GROUP, "block_ms": 0, "min_idle_claim_ms": 200, **options}
        config = ConsumerConfig(**settings)
        return StreamConsumer(client or self.client, self.stream, config, handler, **outer)

    def start(self, consumer: StreamConsumer) -> asyncio.Task[None]:
        """Run it in the background; it is cancelled at the end of the test."""
        task = self._running[consumer] = asyncio.create_task(consumer.run())
        self._tasks.append(task)
        return task

    def once(self, consumer: StreamConsumer) -> asyncio.Task[None]:
        """One iteration in the background."""
        task = asyncio.create_task(consumer.run_once())
        self._tasks.append(task)
        return task

    async def stop(self, consumer: StreamConsumer) -> None:
        """Stop it in good order."""
        consumer.stop()
        await asyncio.wait_for(self._running.pop(consumer), WAIT_S)

    async def push(self, *payloads: Any) -> list[str]:
        return await StreamProducer(self.client, self.stream).push_many(payloads)

    async def add_raw(self, fields: dict[str, Any], stream: str | None = None) -> str:
        """An entry that somebody else wrote."""
        flat = [part for pair in fields.items() for part in pair]
        return (await self.client.command("XADD", stream or self.stream, "*", *flat)).decode()

    async def deliver(self, consumer: str, count: int = 100) -> list[str]:
        """A foreign consumer reads new messages and keeps them; the group is made if needed."""
        await self.client.create_group(self.stream, GROUP)
        read = await self.client.read(self.stream, GROUP, consumer, count, 0)
        return [message.id for message in read]

    async def set_pending(
        self, entry_id: str, consumer: str, idle_ms: int, delivery_count: int
    ) -> None:
        """Make one line of the pending list look like this."""
        await self.client.command(
            "XCLAIM", self.stream, GROUP, consumer, 0, entry_id,
            "IDLE", idle_ms, "RETRYCOUNT", delivery_count, "FORCE", "JUSTID",
        )  # fmt: skip

    # -- looking at the facts --------------------------------------------------------------------

    async def pending(self) -> dict[str, tuple[str, int]]:
        """Consumer and delivery count by id; empty where there is no group yet."""
        try:
            entries = await self.client.pending_range(self.stream, GROUP, 10_000)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return {}
        return {entry.id: (entry.consumer, entry.delivery_count) for entry in entries}

    async def settled(self) -> bool:
        """Everything in the stream was delivered, and nothing is pending."""
        groups = [g for g in await self.client.group_info(self.stream) if g["name"] == GROUP]
        newest = await self.client.command("XREVRANGE", self.stream, "+", "-", "COUNT", 1)
        return (
            bool(groups)
            and groups[0]["pending"] == 0
            and (
                not newest
                or id_key(newest[0][0].decode()) <= id_key(groups[0]["last-delivered-id"])
            )
        )

    async def entry_ids(self, stream: str | None = None) -> list[str]:
        entries = await self.client.command("XRANGE", stream or self.stream, "-", "+")
        return [entry[0].decode() for entry in entries]

    async def letters(self) -> list[dict[str, str]]:
        """The dead letters, all fields as text."""
        entries = await self.client.command("XRANGE", self.dlq, "-", "+")
        return [
            {
                fields[i].decode(): fields[i + 1].decode(errors="replace")
                for i in range(0, len(fields), 2)
            }
            for _, fields in entries
        ]

    async def consumers(self) -> list[str]:
        """Consumer names of the group that are not parking names."""
        names = [c["name"] for c in await self.client.consumer_info(self.stream, GROUP)]
        return [name for name in names if ":retry:" not in name]

    async def until(
        self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S
    ) -> Any:
        """Wait for a fact."""
        return await wait_until_async(condition, timeout_s, what)

    async def drain(self, consumer: StreamConsumer, what: str = "everything is settled") -> None:
        """Run iterations until everything is settled."""

        async def turn() -> bool:
            await consumer.run_once()
            return await self.settled()

        await self.until(turn, what)


@contextlib.asynccontextmanager
async def running(bench: Bench, *consumers: StreamConsumer) -> Any:
    """Consumers that run inside the block and stop in good order after it."""
    for consumer in consumers:
        bench.start(consumer)
    yield
    for consumer in consumers:
        await bench.stop(consumer)

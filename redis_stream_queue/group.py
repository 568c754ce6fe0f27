"""A consumer group: creates it, tells its state, removes consumers that are gone."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TypedDict

from redis.exceptions import ResponseError

from ._burial_mark import read_count
from ._clock import span_text
from ._names import check_same_slot, parking_due_ms
from ._validate import Text, check
from .client import StreamClient, check_client
from .config import ConsumerConfig as ConsumerConfig  # 0.1.x had it here
from .connection.scripts import COUNT_AFTER
from .delivery.pending import PendingList
from .message import ConsumerInfo, PendingEntry, StreamStats, id_key

GHOST_IDLE_MS = 60_000  # a consumer that holds nothing and was silent so long is gone
UNKNOWN = ""  # last_delivered_id of a group that does not exist
COUNT_LIMIT = 20_000  # entries counted where the server does not know the lag; else all count


class Health(TypedDict):
    """Answer of health_check."""

    healthy: bool
    issues: list[str]
    stats: StreamStats


def group_is_lost(error: BaseException) -> bool:
    """Does this error say that the stream or the group is gone (FLUSHALL, XGROUP DESTROY, DEL)?"""
    words = str(error)
    return isinstance(error, ResponseError) and (
        "NOGROUP" in words
        or "UNBLOCKED the stream key" in words
        or "requires the key to exist" in words  # XGROUP, where nothing was read yet
    )


class ConsumerGroup:
    """A consumer group of a stream.

    >>> stats = await ConsumerGroup(client, "orders", "order_workers").stats()

    dlq_stream, dlq_group (of its methods): where dead letters go, and a group for those who read
        them; None = there is none.
    """

    _known: set[tuple[int, object, str, str]] = set()  # noqa: RUF012 - shared on purpose

    def __init__(self, client: StreamClient, stream: str, group: str) -> None:
        check_client(client)
        check("stream", stream, Text())
        check("group", group, Text())
        self.client = client
        self.stream = stream
        self.group = group
        self._pending = PendingList(client, stream, group)
        self._letters: tuple[str, str] | None = None  # dead-letter stream and its group

    def _name(self, stream: str, group: str) -> tuple[int, object, str, str]:
        return os.getpid(), self.client.endpoint, self.client.key(stream), group

    async def ensure(self, dlq_stream: str | None = None, dlq_group: str | None = None) -> None:
        """Create the stream and the group where they are missing; remembered in this process.

        dlq_stream: checked to be in the same cluster slot; dlq_group: created on it.
        Raises ClusterSlotError.
        """
        if self.client.endpoint.cluster and dlq_stream is not None:
            check_same_slot(self.client.key(self.stream), self.client.key(dlq_stream))
        await self._ensure(self.stream, self.group)
        if dlq_stream is not None and dlq_group is not None:
            self._letters = dlq_stream, dlq_group
            await self._ensure(dlq_stream, dlq_group)

    async def _ensure(self, stream: str, group: str) -> None:
        name = self._name(stream, group)
        if name not in self._known:
            await self.client.create_group(stream, group)
            self._known.add(name)

    def reset(self) -> None:
        """Forget which groups exist; the next ensure() looks again."""
        self._known.clear()

    async def recreate(self, start_id: str) -> None:
        """Create a lost group again so that it starts after ``start_id``.

        A stream that is younger than that id is read from its beginning.
        """
        try:
            reply = await self.client.command("XINFO STREAM", self.stream)
        except ResponseError:  # no such key
            start_id = "0"
        else:
            fields = dict(zip(reply[::2], reply[1::2], strict=False))
            newest = fields.get(b"last-generated-id", b"0-0").decode()
            if id_key(newest) < id_key(start_id):
                start_id = "0"
        self.reset()
        await self.client.create_group(self.stream, self.group, start_id)
        if self._letters is not None:  # FLUSHALL took it, too
            await self.client.create_group(*self._letters)

    async def stats(self, dlq_stream: str | None = None) -> StreamStats:
        """Lengths, lag and consumers; all zero for a stream or group that does not exist."""
        client = self.client
        length, groups, consumers = await asyncio.gather(
            client.stream_len(self.stream),
            client.group_info(self.stream),
            self._consumers(),
        )
        info = next((g for g in groups if g["name"] == self.group), None)
        last_id = str(info["last-delivered-id"]) if info else UNKNOWN
        lag = length
        if info is not None:
            known = info.get("lag")
            lag = known if isinstance(known, int) else await self._count_lag(last_id, length)
        return StreamStats(
            stream=self.stream,
            group=self.group,
            stream_length=length,
            group_pel_size=int(info["pending"]) if info else 0,
            lag=lag,
            last_delivered_id=last_id,
            consumers=[c for c in consumers if not self._parks(c)],
            waiting_retries=sum(c.pending for c in consumers if self._parks(c)),
            dlq_length=None if dlq_stream is None else await client.stream_len(dlq_stream),
        )

    def _parks(self, consumer: ConsumerInfo) -> bool:
        """Is this a parking name, under which retries wait?"""
        return parking_due_ms(self.group, consumer.name) is not None

    async def _consumers(self) -> list[ConsumerInfo]:
        try:
            lines = await self.client.consumer_info(self.stream, self.group)
        except ResponseError as error:
            if group_is_lost(error):
                return []
            raise
        return [ConsumerInfo(c["name"], c["pending"], c["idle"]) for c in lines]

    async def _count_lag(self, last_id: str, length: int) -> int:
        after, counted, done = last_id, 0, False
        while not done:  # a step at a time: counting a long list would hold up the server
            counted, after, done = await self.client.script(
                COUNT_AFTER, self.stream, COUNT_LIMIT, after, counted
            )
        return int(counted) if int(counted) < COUNT_LIMIT else length

    async def health_check(
        self,
        max_lag: int = 10_000,
        max_idle_ms: int = 60_000,
        dlq_stream: str | None = None,
    ) -> Health:
        """Is the group keeping up? Returns ``{"healthy", "issues", "stats"}``.

        max_lag: undelivered messages that are still fine.
        max_idle_ms: a consumer that holds messages and has been idle for longer is an issue, and so
            are messages that wait while every consumer has been idle for longer. An idle consumer
            that holds nothing is none, nor are retries that wait.
        """
        stats = await self.stats(dlq_stream)
        issues = []
        if stats.last_delivered_id == UNKNOWN:
            issues.append(f"stream {self.stream} has no group {self.group}")
        if stats.lag > max_lag:
            issues.append(f"lag {stats.lag} is above {max_lag}")
        for consumer in stats.consumers:
            if consumer.pending and consumer.idle_ms > max_idle_ms:
                issues.append(
                    f"consumer {consumer.name} holds {consumer.pending} message(s) and has been "
                    f"idle for {span_text(consumer.idle_ms)} (limit {span_text(max_idle_ms)})"
                )
        idle_ms = min((consumer.idle_ms for consumer in stats.consumers), default=None)
        if stats.lag and idle_ms is not None and idle_ms > max_idle_ms:
            issues.append(
                f"{stats.lag} message(s) wait and no consumer has read for {span_text(idle_ms)} "
                f"(limit {span_text(max_idle_ms)})"
            )
        return {"healthy": not issues, "issues": issues, "stats": stats}

    async def pending_details(self, count: int = 100) -> list[PendingEntry]:
        """The first ``count`` pending entries; retries show under ``<group>:retry:<ms>``."""
        entries = await self.client.pending_range(self.stream, self.group, count)
        return [replace(e, delivery_count=read_count(e.delivery_count)[2]) for e in entries]

    async def prune_consumers(self, idle_ms: int) -> list[str]:
        """Remove consumers that hold nothing and have been idle for ``idle_ms``; returns names."""
        pruned = []
        for consumer in await self._consumers():
            idle = consumer.idle_ms >= idle_ms and not consumer.pending
            if idle and await self._pending.prune(consumer.name):
                pruned.append(consumer.name)
        return pruned

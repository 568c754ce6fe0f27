"""StreamProducer: put messages into a stream."""

from __future__ import annotations

import asyncio
import copy
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ._link import OUTAGES
from ._log import log
from ._replies import text
from ._scripts import BACKLOG
from ._sync import SyncLink
from .backlog import Backlog, Claim
from .client import StreamClient, check_client
from .config import check_text
from .exceptions import ConfigError
from .group import ConsumerGroup
from .metrics import ProducerMeter, ProducerMetrics
from .pending import PendingList
from .serializers import JsonSerializer, Serializer

MAX_LEN = 100_000
TRIM_EVERY = 1000  # pushes between two trims


class StreamProducer:
    """Pushes messages into one stream.

    >>> producer = StreamProducer(client, "orders", group="order_workers")
    >>> message_id = await producer.push({"order_id": 1})

    group: consumer group that ``ensure_group()`` creates.
    max_len: approximate length the stream is kept at; only finished messages are removed.
    serializer: JSON by default.
    trim: "finished", or "any" for a lossy ring buffer: the oldest go, handled or not.
    max_backlog: most unfinished messages; a push beyond raises BacklogFull, or first waits up to
        backlog_timeout_s seconds for room (None = for ever).
    """

    _instances: ClassVar[weakref.WeakSet[StreamProducer]] = weakref.WeakSet()

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str | None = None,
        max_len: int = MAX_LEN,
        serializer: Serializer | None = None,
        *,
        trim: Literal["finished", "any"] = "finished",
        max_backlog: int | None = None,
        backlog_timeout_s: float | None = 0,
    ) -> None:
        check_text("stream", stream)
        check_client(client)
        if trim not in ("finished", "any"):
            raise ConfigError(f"trim must be 'finished' or 'any', got {trim!r}.")
        if isinstance(max_len, bool) or not isinstance(max_len, int) or max_len < 1:
            raise ConfigError(f"max_len must be a whole number of 1 or more, got {max_len!r}.")
        self._client = client
        self.stream = stream
        self.group = group
        self.max_len = max_len
        self.serializer = serializer or JsonSerializer()
        self.trim = trim
        self._backlog = Backlog(max_backlog, backlog_timeout_s)
        self._meter = ProducerMeter()
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[bytes, asyncio.Future[str]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._until_trim = TRIM_EVERY
        self._sync: SyncLink | None = None
        self._instances.add(self)

    @property
    def client(self) -> StreamClient:
        """The client this producer was made with."""
        return self._client

    async def push(self, data: Any) -> str:
        """Add one message; returns its entry id.

        Pushes that are awaited together travel together. Raises SerializationError, and redis-py's
        errors; after a lost connection the message may or may not have been added.
        """
        payload = self.serializer.encode(data)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        waiting = self._waiting.setdefault(loop, [])
        waiting.append((payload, future))
        if len(waiting) == 1:
            loop.call_soon(self._send_waiting, loop)
        return await future

    def _send_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(self._send(self._waiting.pop(loop)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, waiting: list[tuple[bytes, asyncio.Future[str]]]) -> None:
        results: Sequence[Any]
        payloads = [payload for payload, _ in waiting]
        if self._backlog.most:  # each waits for its own room, in turn
            claims = [Claim(self._backlog, 1) for _ in payloads]
            results = [
                await self._push_or_error([payload], claim)
                for payload, claim in zip(payloads, claims, strict=True)
            ]
        else:
            try:
                results = await self._push_payloads(payloads)
            except Exception as error:  # each caller gets it as its own
                results = [copy.copy(error) for _ in waiting]
        for (_, future), result in zip(waiting, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(text(result))

    async def _push_or_error(self, payloads: list[bytes], claim: Claim) -> Any:
        try:
            [result] = await self._push_payloads(payloads, claim)
        except Exception as error:  # its caller gets it
            return error
        return result

    async def push_many(self, data: Sequence[Any]) -> list[str]:
        """Add many messages, a thousand in one step; returns their ids in order.

        Everything is encoded first: a message that cannot be encoded stops the call before any is
        added. On an error of Redis some may have been added.
        """
        results = await self._push_payloads(self._encoded(data))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [text(result) for result in results]

    def _encoded(self, data: Sequence[Any]) -> list[bytes]:
        if isinstance(data, str | bytes | Mapping):
            raise TypeError(
                f"push_many wants a list of messages, got a {type(data).__name__}; for one message "
                "use push"
            )
        encode = self.serializer.encode
        return [encode(item) for item in data]

    async def _push_payloads(
        self, payloads: Sequence[bytes], claim: Claim | None = None
    ) -> list[Any]:
        claim = claim or Claim(self._backlog, len(payloads))
        while (pause_s := claim.wait_s()) is not None:
            if pause_s:
                await asyncio.sleep(pause_s)
            claim.saw(int(await self._client.script(BACKLOG, self.stream, self._backlog.most)))
        max_len = self.max_len if self.trim == "any" else None
        if len(payloads) == 1:
            results = [await self._client.push(self.stream, payloads[0], max_len)]
        else:
            results = await self._client.push_payloads(self.stream, "data", payloads, max_len)
        self._meter.pushed.record(sum(not isinstance(r, Exception) for r in results))
        self._until_trim -= len(payloads)
        if self._until_trim <= 0 and self.trim == "finished":
            self._until_trim = TRIM_EVERY
            await self._trim()
        return results

    async def _trim(self) -> None:
        try:
            await PendingList(self._client, self.stream, self.group or "").trim(self.max_len)
        except OUTAGES as error:  # the messages are in; trimming can wait
            log.warning("could not trim %s: %s", self.stream, error)

    def push_sync(self, data: Any) -> str:
        """``push`` for code without an event loop; safe in threads and after a fork."""
        return self.push_many_sync([data])[0]

    def push_many_sync(self, data: Sequence[Any]) -> list[str]:
        """``push_many`` for code without an event loop; safe in threads and after a fork."""
        payloads = self._encoded(data)
        if self._sync is None:
            self._sync = SyncLink(self._client.endpoint)
        sync, key = self._sync, self._client.key(self.stream)
        claim = Claim(self._backlog, len(payloads))
        while (pause_s := claim.wait_s()) is not None:
            if pause_s:
                time.sleep(pause_s)
            claim.saw(sync.backlog(key, self._backlog.most))
        ids = sync.push(key, payloads)
        self._meter.pushed.record(len(ids))
        self._until_trim -= len(payloads)
        if self.trim == "any":
            sync.cut(key, self.max_len)
        elif self._until_trim <= 0:
            self._until_trim = TRIM_EVERY
            try:
                sync.trim(key, self.max_len)
            except OUTAGES as error:  # the messages are in; trimming can wait
                log.warning("could not trim %s: %s", self.stream, error)
        return ids

    async def ensure_group(self, group: str | None = None) -> None:
        """Create the stream and its consumer group where they are missing.

        Raises ValueError if no group is given, here or at construction.
        """
        name = group or self.group
        if not name:
            raise ConfigError(
                "no group given: pass ensure_group('name') or StreamProducer(..., group='name')."
            )
        await ConsumerGroup(self._client, self.stream, name).ensure()

    def metrics(self) -> ProducerMetrics:
        """Counters and rates so far; no Redis call."""
        return self._meter.snapshot()

    @classmethod
    def all_metrics(cls) -> list[ProducerMetrics]:
        """Metrics of every producer of this process."""
        return [producer.metrics() for producer in list(cls._instances)]

    async def close(self) -> None:
        """Wait for pushes under way, and close the connections."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sync is not None:
            self._sync.close()
            self._sync = None
        await self._client.close()

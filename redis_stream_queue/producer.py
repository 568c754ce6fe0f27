"""StreamProducer: put messages into a stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Unpack

from redis.exceptions import ResponseError

from ._blocking import SyncLink, bounded
from ._log import logger
from ._validate import Choice, Maybe, Text, Whole, check
from .client import StreamClient, check_client
from .connection.link import OUTAGES
from .connection.replies import text
from .connection.scripts import BACKLOG
from .delivery.pending import PendingList
from .delivery.server_check import no_backlog
from .exceptions import ConfigError
from .later.extras import Asked, ManyExtras, OneExtras, expiry_parts, terms_of, terms_of_each
from .later.keys import companions
from .later.push import push_asked
from .later.scheduled import ScheduledMessage, cancel_scheduled, scheduled
from .metrics import ProducerMeter, ProducerMetrics
from .pushing.backlog import Backlog, RoomRequest
from .pushing.bulk import push_one
from .pushing.durability import ConfirmingLink, Durability
from .pushing.encoding import encode_all, encode_one
from .pushing.headers import Parts, header_parts
from .pushing.outbox import Outbox
from .pushing.outcome import ids_of, is_new
from .pushing.portions import Pushes
from .pushing.time_limit import late, limit_s, within
from .serializers import JsonSerializer, Serializer, for_stream

log = logger(__name__)

MAX_LEN = 100_000
TRIM_EVERY = 1000  # pushes between two trims


class StreamProducer:
    """Pushes messages into one stream.

    >>> producer = StreamProducer(client, "orders", group="order_workers")
    >>> message_id = await producer.push({"order_id": 1})

    group: consumer group that ``ensure_group()`` creates.
    max_len: approximate length the stream is kept at; only finished messages are removed. None =
        this producer removes none.
    serializer: JSON by default.
    max_payload_bytes: a larger payload is refused, as consumers with this setting would; None = any
        size.
    trim: "finished", or "any" for a lossy ring buffer: the oldest go, handled or not.
    max_backlog: most unfinished messages; a push beyond raises BacklogFull, or first waits up to
        backlog_timeout_s seconds for room (None = for ever).
    max_scheduled: most messages that wait for their time; a push beyond raises BacklogFull.
    min_replicas: so many replicas must confirm a push within replica_timeout_ms, or it raises
        NotDurable, which names the ids. (On a cluster: push and push_many only.)
    """

    _instances: ClassVar[weakref.WeakSet[StreamProducer]] = weakref.WeakSet()

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str | None = None,
        max_len: int | None = MAX_LEN,
        serializer: Serializer | None = None,
        *,
        trim: Literal["finished", "any"] = "finished",
        max_backlog: int | None = None,
        backlog_timeout_s: float | None = 0,
        max_payload_bytes: int | None = None,
        max_scheduled: int | None = None,
        min_replicas: int = 0,
        replica_timeout_ms: int = 1000,
    ) -> None:
        check("stream", stream, Text())
        check_client(client)
        check("trim", trim, Choice(("finished", "any")))
        check("max_len", max_len, Maybe(Whole(1), none="no trimming"))
        check("max_payload_bytes", max_payload_bytes, Maybe(Whole(1)))
        self._client = client
        self.stream = stream
        self.group = group
        self.max_len = max_len
        check("max_scheduled", max_scheduled, Maybe(Whole(1)))
        self.max_scheduled = max_scheduled
        self.serializer = for_stream(serializer or JsonSerializer(), client.key(stream))
        self.max_payload_bytes = max_payload_bytes
        self.trim = trim
        self._backlog = Backlog(max_backlog, backlog_timeout_s)
        self._durability = Durability(min_replicas, replica_timeout_ms)
        self._meter = ProducerMeter()
        send = self._send_in_turn if max_backlog else self._send
        self._outbox: Outbox[tuple[bytes, Parts]] = Outbox(
            lambda pairs: send(Pushes.of(pairs)), bool(max_backlog)
        )
        self._asked: Outbox[Asked] = Outbox(self._send_asked)
        self._until_trim = TRIM_EVERY
        self._sync: SyncLink | None = None
        self._instances.add(self)

    @property
    def client(self) -> StreamClient:
        """The client this producer was made with."""
        return self._client

    async def push(
        self,
        data: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[OneExtras],
    ) -> str:
        """Add one message; returns its entry id, of one for later ``@<due ms>-<number>``.

        data: what the serializer takes.
        headers: texts that travel beside the payload and arrive as ``message.headers``.
        timeout_s: seconds for the whole call, connecting included; then TimeoutError, and the
            message may or may not be in the stream. None = the client's ``socket_timeout`` of
            silence.
        extras: delay_ms, at, dedup_id, dedup_ttl_s, unique, unique_until, ttl_ms, expired; see
            docs/later.md. With dedup_id or unique the id has a ``duplicate``: True = it is an
            earlier message's.

        Pushes that are awaited together travel together; each gets its own id or its own error.
        Raises SerializationError, ConfigError for wrong headers or times, BacklogFull, and
        redis-py's errors; after a lost connection the message may or may not have been added.
        """
        payload = encode_one(data, self.serializer, self.max_payload_bytes)
        parts = header_parts(headers)
        within_s = limit_s(timeout_s)
        if extras:
            terms, parts = terms_of(extras, self.group), parts + expiry_parts(extras)
            if terms is not None:
                asked = self._asked.push(Asked(payload, parts, terms))
                pushed: str = await within(within_s, self.stream, asked)
                return pushed
        sending = self._outbox.push((payload, parts))
        if within_s is not None:
            sending = within(within_s, self.stream, sending)
        return text(await sending)

    async def push_many(
        self,
        data: Sequence[Any],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[ManyExtras],
    ) -> list[str]:
        """Add many messages, a thousand in one step; returns their ids in order.

        data: one item for each message. headers: go with each of them. timeout_s: see push.
        extras: delay_ms, at, ttl_ms, expired, dedup_ids (one for each message), dedup_ttl_s. With
            dedup_ids each id has a ``duplicate``, as for push.

        Everything is encoded first: a message that cannot be encoded stops the call before any is
        added. On an error of Redis the others may have been added.
        """
        pushes, asked = self._asked_for(data, headers, extras)
        if asked:
            sending = self._send_asked(asked, whole=True)
            return ids_of(await within(limit_s(timeout_s), self.stream, sending))
        request, within_s = RoomRequest(self._backlog, len(pushes.payloads)), limit_s(timeout_s)
        return ids_of(await within(within_s, self.stream, self._send(pushes, request)))

    def _asked_for(
        self,
        data: Sequence[Any],
        headers: Mapping[str, str] | None,
        extras: OneExtras | ManyExtras,
        one: bool = False,
    ) -> tuple[Pushes, list[Asked]]:
        """What to push, and the same with its terms; [] where none are asked for."""
        parts = header_parts(headers) + expiry_parts(extras)
        terms = terms_of_each(extras, self.group, len(data), one=one) if extras else None
        pushes = Pushes(encode_all(data, self.serializer, self.max_payload_bytes), parts)
        asked = zip(pushes.payloads, terms or (), strict=bool(terms))
        return pushes, [Asked(payload, parts, its) for payload, its in asked]

    async def _unfinished(self) -> int:
        done, state = 0, ()
        while not done:  # a step at a time, where the server has to count
            try:
                done, unfinished, state = await self._client.script(
                    BACKLOG, self.stream, self._backlog.most, *state
                )
            except ResponseError as error:
                raise no_backlog(self._client, error) from None
        return int(unfinished)

    async def _send(self, pushes: Pushes, request: RoomRequest | None = None) -> list[Any]:
        """Add them when there is room; an id or an exception for each."""
        client, count = self._client, len(pushes.payloads)
        if request is not None:
            await self._room(request)
        max_len = self.max_len if self.trim == "any" else None
        link: Any = client.link()
        if self._durability.min_replicas:
            link = ConfirmingLink(link, self._durability)
        if count == 1:
            results = [await push_one(link, client.key(self.stream), pushes, max_len)]
        else:
            results = await client.push_all(self.stream, pushes, max_len, link)
        return await self._sent(results, link)

    async def _room(self, request: RoomRequest) -> None:
        """Wait until there is room for it. Raises BacklogFull."""
        while (pause_s := request.wait_s()) is not None:
            if pause_s:
                await asyncio.sleep(pause_s)
            request.saw(await self._unfinished())

    async def _sent(self, results: list[Any], link: Any) -> list[Any]:
        """What came of it, once the replicas have it; and trim, if it is time to."""
        if self._durability.min_replicas:
            results = self._durability.judged(results, link.confirmed)
        if self._pushed(results):
            try:
                pending = PendingList(self._client, self.stream, self.group or "")
                await pending.trim(self.max_len or 0)
            except OUTAGES as error:  # the messages are in; trimming can wait
                log.warning("could not trim %s: %s", self.stream, error)
        return results

    async def _send_asked(self, asked: Sequence[Asked], whole: bool = False) -> list[Any]:
        """Add them under their terms; an id or an exception for each. whole: see push_asked()."""
        for one in asked:
            if not one.terms.scheduled:
                await self._room(RoomRequest(self._backlog, 1))
        link: Any = self._client.link()
        if self._durability.min_replicas:
            link = ConfirmingLink(link, self._durability)
        beside = companions(self._client.key(self.stream))
        most = self.max_scheduled or 0
        results = await push_asked(link, asked, beside, most, self.group, whole=whole)
        if self.trim == "any" and self.max_len is not None:
            await self._client.command("XTRIM", self.stream, "MAXLEN", "~", self.max_len)
        return await self._sent(results, link)

    async def _send_in_turn(self, pushes: Pushes) -> list[Any]:
        """The same where each of them waits for its own room."""
        requests = [RoomRequest(self._backlog, 1) for _ in pushes.payloads]
        results: list[Any] = []
        for index, request in enumerate(requests):
            try:
                results += await self._send(pushes.part(index, index + 1), request)
            except Exception as error:  # its caller gets it
                results.append(error)
        return results

    def _pushed(self, results: Sequence[Any]) -> bool:
        """Count them; is it time to trim?"""
        self._meter.pushed.record(sum(map(is_new, results)))
        if self.max_len is None or self.trim == "any":
            return False
        self._until_trim -= len(results)
        if self._until_trim > 0:
            return False
        self._until_trim = TRIM_EVERY
        return True

    def push_sync(
        self,
        data: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[OneExtras],
    ) -> str:
        """``push`` for code without an event loop; safe in threads and after a fork.

        data, headers, extras: as for push.
        timeout_s: as for push, but for the look-up of a host name; on a cluster each step of the
            call has so long.
        """
        return self._push_sync([data], headers, timeout_s, extras, one=True)[0]

    def push_many_sync(
        self,
        data: Sequence[Any],
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[ManyExtras],
    ) -> list[str]:
        """``push_many`` for code without an event loop; safe in threads and after a fork.

        data, headers, extras: as for push_many. timeout_s: as for push_sync.
        """
        return self._push_sync(data, headers, timeout_s, extras)

    def _push_sync(
        self,
        data: Sequence[Any],
        headers: Mapping[str, str] | None,
        timeout_s: float | None,
        extras: OneExtras | ManyExtras,
        one: bool = False,
    ) -> list[str]:
        pushes, asked = self._asked_for(data, headers, extras, one)
        timeout_s = limit_s(timeout_s)
        if self._sync is None:
            self._sync = SyncLink(self._client.endpoint)
        try:
            with bounded(timeout_s):
                return self._send_sync(self._sync.with_timeout(timeout_s), pushes, asked)
        except TimeoutError:
            if timeout_s is None:
                raise
            raise late(timeout_s, self.stream) from None

    def _send_sync(self, sync: SyncLink, pushes: Pushes, asked: Sequence[Asked]) -> list[str]:
        key = self._client.key(self.stream)
        push: Callable[[SyncLink], list[Any]] = lambda by: by.push(key, pushes)  # noqa: E731
        if asked:
            beside, most = companions(key), self.max_scheduled or 0
            push = lambda by: by.push_asked(asked, beside, most, self.group)  # noqa: E731
        later = bool(asked) and asked[0].terms.scheduled
        request = RoomRequest(self._backlog, 0 if later else len(pushes.payloads))
        while (pause_s := request.wait_s()) is not None:
            if pause_s:
                time.sleep(pause_s)
            try:
                request.saw(sync.backlog(key, self._backlog.most))
            except ResponseError as error:
                raise no_backlog(self._client, error) from None
        if not self._durability.min_replicas:
            results = push(sync)
        else:
            results = self._durability.judged(*sync.and_wait(push, self._durability))
        try:
            if self._pushed(results):
                sync.trim(key, self.max_len or 0)
            elif self.trim == "any" and self.max_len is not None:
                sync.cut(key, self.max_len)
        except OUTAGES as error:  # the messages are in; trimming can wait
            log.warning("could not trim %s: %s", self.stream, error)
        return ids_of(results)

    async def cancel(self, scheduled_id: str) -> bool:
        """Take back a message that is not in the stream yet; False if it has moved there.

        scheduled_id: what its push returned.
        Raises ConfigError for what is no ``@<due ms>-<number>``.
        """
        [gone] = await cancel_scheduled(self._client, self.stream, [scheduled_id])
        return gone

    async def scheduled(self, before: datetime | None = None) -> AsyncIterator[ScheduledMessage]:
        """Messages that are not in the stream yet, in the order they are due.

        before: only those that are due before it (a ``datetime`` with a time zone). A payload that
        cannot be decoded stays ``bytes``. Those that come and go meanwhile may be missing.
        """
        async for message in scheduled(self._client, self.stream, before):
            with contextlib.suppress(Exception):  # a serializer may raise anything
                message.data = self.serializer.decode(message.data)
            yield message

    async def ensure_group(self, group: str | None = None) -> None:
        """Create the stream and its consumer group where they are missing, asking each time.

        Raises ValueError if no group is given, here or at construction.
        """
        name = group or self.group
        if not name:
            raise ConfigError(
                "no group given: pass ensure_group('name') or StreamProducer(..., group='name')."
            )
        await self._client.create_group(self.stream, name)

    def metrics(self) -> ProducerMetrics:
        """Counters and rates so far; no Redis call."""
        return self._meter.snapshot()

    @classmethod
    def all_metrics(cls) -> list[ProducerMetrics]:
        """Metrics of every producer of this process."""
        return [producer.metrics() for producer in list(cls._instances)]

    async def close(self) -> None:
        """Wait for pushes under way, and close the connections."""
        await self._outbox.until_sent()
        await self._asked.until_sent()
        if self._sync is not None:
            self._sync.close()
            self._sync = None
        await self._client.close()

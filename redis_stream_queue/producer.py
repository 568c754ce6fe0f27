"""StreamProducer: put messages into a stream."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Unpack

from ._blocking import SyncLink, bounded
from ._sending import Sending
from ._validate import Choice, Maybe, Settled, Text, Whole, check
from .client import StreamClient, check_client
from .connection.replies import text
from .exceptions import ConfigError
from .later.extras import Asked, ManyExtras, OneExtras, expiry_parts, terms_of, terms_of_each
from .later.scheduled import ScheduledMessage, cancel_scheduled, scheduled
from .metrics import ProducerMetrics
from .pushing.backlog import Backlog
from .pushing.durability import Durability
from .pushing.encoding import encode_all, encode_one
from .pushing.headers import Parts, header_parts
from .pushing.outbox import Outbox
from .pushing.outcome import ids_of
from .pushing.portions import Pushes
from .pushing.time_limit import late, limit_s, within
from .serializers import JsonSerializer, Serializer, for_stream

MAX_LEN = 100_000
LENGTH = Maybe(Whole(1), none="no trimming")


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

    stream = Settled[str]()
    group = Settled[str | None]()
    max_len = Settled[int | None]()
    trim = Settled[Literal["finished", "any"]]()
    max_scheduled = Settled[int | None]()

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
        check("group", group, Maybe(Text()))
        check("trim", trim, Choice(("finished", "any")))
        check("max_len", max_len, LENGTH)
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
        self._sending = sending = Sending(
            client,
            stream,
            group,
            max_len,
            trim,
            Backlog(max_backlog, backlog_timeout_s),
            Durability(min_replicas, replica_timeout_ms),
            max_scheduled,
        )
        send = sending.send_in_turn if max_backlog else sending.send
        self._outbox: Outbox[tuple[bytes, Parts]] = Outbox(
            lambda pairs: send(Pushes.of(pairs)), bool(max_backlog)
        )
        self._later: Outbox[Asked] = Outbox(sending.send_asked)
        self._asked = Outbox(sending.send_asked_in_turn, True) if max_backlog else self._later
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
        """Add one message; returns its entry id, or ``@<due ms>-<number>`` of one for later.

        data: what the serializer takes.
        headers: texts that travel beside the payload and arrive as ``message.headers``.
        timeout_s: seconds for the whole call, connecting included; then TimeoutError, and the
            message may or may not be in the stream. None = the client's ``socket_timeout`` of
            silence.
        extras: delay_ms, at, dedup_id, dedup_ttl_s, unique, unique_until, ttl_ms, expired; see
            docs/later.md. With dedup_id or unique the id has an attribute ``duplicate``: True = it
            is the id of an earlier message.

        Pushes that are awaited together are sent together; each gets its own id or its own error.
        Raises SerializationError, ConfigError for wrong headers or times, BacklogFull, and
        redis-py's errors; after a lost connection the message may or may not have been added.
        """
        payload = encode_one(data, self.serializer, self.max_payload_bytes)
        parts = header_parts(headers)
        within_s = limit_s(timeout_s)
        if extras:
            terms, parts = terms_of(extras, self.group), parts + expiry_parts(extras)
            if terms is not None:
                outbox = self._later if terms.scheduled else self._asked
                asked = outbox.push(Asked(payload, parts, terms))
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
            room = self._sending.room_for(asked)
            sending = self._sending.send_asked(asked, room, whole=True)
            return ids_of(await within(limit_s(timeout_s), self.stream, sending))
        request, within_s = self._sending.room(len(pushes.payloads)), limit_s(timeout_s)
        return ids_of(await within(within_s, self.stream, self._sending.send(pushes, request)))

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
                return self._sending.send_sync(self._sync.with_timeout(timeout_s), pushes, asked)
        except TimeoutError:
            if timeout_s is None:
                raise
            raise late(timeout_s, self.stream) from None

    async def cancel(self, scheduled_id: str) -> bool:
        """Cancel a message that is not in the stream yet; returns False if it has moved there.

        scheduled_id: the id that its push returned.
        Raises ConfigError for an id of another form than ``@<due ms>-<number>``.
        """
        [gone] = await cancel_scheduled(self._client, self.stream, [scheduled_id])
        return gone

    async def scheduled(self, before: datetime | None = None) -> AsyncIterator[ScheduledMessage]:
        """Messages that are not in the stream yet, in the order in which they are due.

        before: only those due before this ``datetime``, which has a time zone. A payload that
        cannot be decoded stays ``bytes``. Messages that come and go meanwhile may be missing.
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
        return self._sending.meter.snapshot()

    @classmethod
    def all_metrics(cls) -> list[ProducerMetrics]:
        """Metrics of every producer of this process."""
        return [producer.metrics() for producer in list(cls._instances)]

    async def close(self) -> None:
        """Wait for pushes under way, and close the connections."""
        await self._outbox.until_sent()
        for outbox in {self._later, self._asked}:
            await outbox.until_sent()
        if self._sync is not None:
            self._sync.close()
            self._sync = None
        await self._client.close()

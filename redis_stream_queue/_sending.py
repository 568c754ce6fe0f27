"""What becomes of pushes: room for them, the exchange, the replicas, and trimming now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from redis.exceptions import ResponseError

from ._blocking import SyncLink
from ._log import logger
from .client import StreamClient
from .connection.exchange import OUTAGES
from .connection.scripts import BACKLOG
from .delivery.pending import PendingList
from .delivery.server_check import no_backlog
from .later.extras import Asked
from .later.keys import companions
from .later.push import push_asked
from .metrics import ProducerMeter
from .pushing.backlog import Backlog, RoomRequest
from .pushing.bulk import push_one
from .pushing.durability import ConfirmingLink, Durability
from .pushing.outcome import ids_of, is_new
from .pushing.portions import Pushes

log = logger(__name__)
T = TypeVar("T")

TRIM_EVERY = 1000  # pushes between two trims


class Sending:
    """Sends the pushes of one producer, with and without an event loop; see StreamProducer.

    meter: counts what was added.
    """

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str | None,
        max_len: int | None,
        trim: Literal["finished", "any"],
        backlog: Backlog,
        durability: Durability,
        max_scheduled: int | None,
    ) -> None:
        self.meter = ProducerMeter()
        self._client = client
        self._stream = stream
        self._group = group
        self._max_len = max_len
        self._trim = trim
        self._backlog = backlog
        self._durability = durability
        self._max_scheduled = max_scheduled
        self._until_trim = TRIM_EVERY

    def room(self, count: int) -> RoomRequest:
        """To be given to ``send``: so many wait for room together."""
        return RoomRequest(self._backlog, count)

    async def send(self, pushes: Pushes, request: RoomRequest | None = None) -> list[Any]:
        """Add them when there is room; an id or an exception for each."""
        client, count = self._client, len(pushes.payloads)
        if request is not None:
            await self._wait_for(request)
        max_len = self._max_len if self._trim == "any" else None
        link: Any = client.link()
        if self._durability.min_replicas:
            link = ConfirmingLink(link, self._durability)
        if count == 1:
            results = [await push_one(link, client.key(self._stream), pushes, max_len)]
        else:
            results = await client.push_all(self._stream, pushes, max_len, link)
        return await self._sent(results, link)

    async def _wait_for(self, request: RoomRequest) -> None:
        """Wait until there is room for it. Raises BacklogFull."""
        while (pause_s := request.wait_s()) is not None:
            if pause_s:
                await asyncio.sleep(pause_s)
            request.saw(await self._unfinished())

    async def _unfinished(self) -> int:
        done, state = 0, ()
        while not done:  # a step at a time, where the server has to count
            try:
                done, unfinished, state = await self._client.script(
                    BACKLOG, self._stream, self._backlog.most, *state
                )
            except ResponseError as error:
                raise no_backlog(self._client, error) from None
        return int(unfinished)

    async def _sent(self, results: list[Any], link: Any) -> list[Any]:
        """What came of it, once the replicas have it; and trim, if it is time to."""
        if self._durability.min_replicas:
            results = self._durability.judged(results, link.confirmed)
        if self._pushed(results):
            try:
                pending = PendingList(self._client, self._stream, self._group or "")
                await pending.trim(self._max_len or 0)
            except OUTAGES as error:  # the messages are in; trimming can wait
                log.warning("could not trim %s: %s", self._stream, error)
        return results

    def room_for(self, asked: Sequence[Asked]) -> RoomRequest:
        """The same for messages of one call: what is for later takes no room."""
        return self.room(0 if asked[0].terms.scheduled else len(asked))

    async def send_asked(
        self, asked: Sequence[Asked], request: RoomRequest | None = None, whole: bool = False
    ) -> list[Any]:
        """Add them under their terms; an id or an exception for each. whole: see push_asked()."""
        if request is not None:
            await self._wait_for(request)
        link: Any = self._client.link()
        if self._durability.min_replicas:
            link = ConfirmingLink(link, self._durability)
        beside = companions(self._client.key(self._stream))
        most = self._max_scheduled or 0
        results = await push_asked(link, asked, beside, most, self._group, whole=whole)
        if self._trim == "any" and self._max_len is not None:
            await self._client.command("XTRIM", self._stream, "MAXLEN", "~", self._max_len)
        return await self._sent(results, link)

    async def send_in_turn(self, pushes: Pushes) -> list[Any]:
        """As send(), but each of them waits for its own room."""
        each = [pushes.part(index, index + 1) for index in range(len(pushes.payloads))]
        return await self._in_turn(self.send, each)

    async def send_asked_in_turn(self, asked: Sequence[Asked]) -> list[Any]:
        """As send_asked(), but each of them waits for its own room."""
        return await self._in_turn(self.send_asked, [(one,) for one in asked])

    async def _in_turn(
        self, send: Callable[[T, RoomRequest], Awaitable[list[Any]]], each: Sequence[T]
    ) -> list[Any]:
        requests = [self.room(1) for _ in each]
        results: list[Any] = []
        for one, request in zip(each, requests, strict=True):
            try:
                results += await send(one, request)
            except Exception as error:  # its caller gets it
                results.append(error)
        return results

    # -- without an event loop -----------------------------------------------------------------

    def send_sync(self, sync: SyncLink, pushes: Pushes, asked: Sequence[Asked]) -> list[str]:
        """Add them, under their terms where ``asked`` has any; returns their ids, or raises."""
        key = self._client.key(self._stream)
        push: Callable[[SyncLink], list[Any]] = lambda by: by.push(key, pushes)  # noqa: E731
        if asked:
            beside, most = companions(key), self._max_scheduled or 0
            push = lambda by: by.push_asked(asked, beside, most, self._group)  # noqa: E731
        request = self.room_for(asked) if asked else self.room(len(pushes.payloads))
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
                sync.trim(key, self._max_len or 0)
            elif self._trim == "any" and self._max_len is not None:
                sync.cut(key, self._max_len)
        except OUTAGES as error:  # the messages are in; trimming can wait
            log.warning("could not trim %s: %s", self._stream, error)
        return ids_of(results)

    # -- both ----------------------------------------------------------------------------------

    def _pushed(self, results: Sequence[Any]) -> bool:
        """Count them; is it time to trim?"""
        self.meter.pushed.record(sum(map(is_new, results)))
        if self._max_len is None or self._trim == "any":
            return False
        self._until_trim -= len(results)
        if self._until_trim > 0:
            return False
        self._until_trim = TRIM_EVERY
        return True

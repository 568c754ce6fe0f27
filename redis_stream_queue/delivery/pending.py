"""The pending entries list of one group: every guarded write, and reading it page by page.

Nothing here decides anything (see fate.py); each method is one script or command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError, ResponseError

from .._clock import mono_ms
from .._names import parking_name
from ..client import StreamClient
from ..connection.carrying import NotCarriedError, carry, moving
from ..connection.exchange import first_error, of_transaction
from ..connection.packing import Command
from ..connection.refusals import is_full
from ..connection.replies import entry_message, pending_entries, text
from ..connection.scripts import BURY, PARK, PRUNE, RENEW, RENEW_RANGE, SIZES, TAKE, TRIM
from ..exceptions import ClusterSlotError
from ..later.control import cancelled
from ..later.keys import companions
from ..later.postponed import Postponed, postpone
from ..message import GREATEST_ID, PendingEntry, StreamMessage
from .answers import Answer, write_answers

RENEW_CHUNK = 500  # entries per script: two ms of Redis's time
HELD_PAGE = 1000  # entries per XPENDING
MOST_VALUES = 7000  # that a script passes to one command; Lua's own limit is about 8,000
WRITE_CHUNK = 50  # entries that a script takes over or gives back: a few ms of Redis's time
ANY_COUNT = -1  # as the count that was seen
STANDS_STILL = -1  # as a least idle time: see SeenEntry
TAKE_BYTES = 1 << 20  # of payloads in one answer
ASK_TIME_EVERY_MS = 60_000  # where nothing is pending; clocks drift apart meanwhile
SMALL_BYTES = 1 << 16  # what is larger is brought in alone, once it was lost on its way
NO_PAYLOADS = 0
LOST = "rsq:lost"  # the first field of a letter without a payload
MOST_EXACT = 2**53  # greater integers are rounded in Lua
TRIM_AT_ONCE = 10_000  # entries per script call: bounds how long it holds Redis


class SeenEntry(NamedTuple):
    """An entry as it was seen, and the delivery count it gets when it is taken.

    seen_count: ANY_COUNT = whatever it is.
    min_idle_ms: it must have been idle for so long, or it is no longer as it was seen;
        STANDS_STILL: its idle time must be 0 still, since the server's clock went back.
    """

    id: str
    owner: str
    seen_count: int
    min_idle_ms: int
    new_count: int


class Parked(NamedTuple):
    """An entry to give back: due after ``delay_ms``, with ``deliveries`` so far (-1 = as it is).

    suspect: it may have killed a worker.
    """

    id: str
    delay_ms: int = 0
    deliveries: int = -1
    seen_count: int = -1
    suspect: bool = False


class Renewed(NamedTuple):
    """Which entries were not simply renewed.

    taken: others hold them. gone: nobody does, they were acknowledged or deleted. back: the
    consumer's name had been deleted with them, and they were claimed back.
    """

    taken: set[str]
    gone: set[str]
    back: set[str]


class Trimmed(NamedTuple):
    """Outcome of one trim.

    removed, length: entries removed, and left.
    oldest_unfinished: oldest unread or pending id of this group, "" if the group is unknown.
    blocking_id, blocking_group: the same of the group that is furthest behind.
    """

    removed: int
    length: int
    oldest_unfinished: str
    blocking_id: str
    blocking_group: str


class PendingList:
    """The pending entries of ``group`` on ``stream``. only_reads: see Link.read."""

    def __init__(
        self,
        client: StreamClient,
        stream: str,
        group: str,
        payload_field: str | None = "data",
        *,
        only_reads: bool = False,
    ) -> None:
        self.client = client
        self.stream = stream
        self.group = group
        self.payload_field = payload_field
        self._was_empty = False
        self._time_asked_ms = 0
        self._only_reads = only_reads

    async def page(
        self, after: str | None, count: int, consumer: str | None = None
    ) -> list[PendingEntry]:
        """Up to ``count`` entries with ids above ``after`` (None = from the start)."""
        start = "-" if after is None else f"({after}"
        return await self.client.pending_range(
            self.stream, self.group, count, consumer, start=start
        )

    async def look(
        self, after: str | None, count: int, *, end: str = "+"
    ) -> tuple[list[PendingEntry], int | None]:
        """A page as it is now, and the server's time in ms.

        None where an ACL forbids TIME, and where nothing is pending, as in the look before: then it
        is asked for once a minute only.
        """
        start = "-" if after is None else f"({after}"
        page = "XPENDING", self.client.key(self.stream), self.group, start, end, count
        if self._was_empty and mono_ms() - self._time_asked_ms < ASK_TIME_EVERY_MS:
            [reply] = first_error(await self._ask(page))
            if not reply:
                return [], None
        self._time_asked_ms = mono_ms()
        replies = await self._ask(page, ("TIME",))
        first_error(replies[:1])
        self._was_empty = not replies[0]
        return pending_entries(replies[0]), _server_ms(replies[1])

    async def server_ms(self) -> int | None:
        """The server's time in ms; None where an ACL forbids TIME."""
        [reply] = await self._ask(("TIME",))
        return _server_ms(reply)

    async def _ask(self, *commands: Command) -> list[Any]:
        link, limit_s = self.client.link(), self.client.endpoint.socket_timeout
        run = link.read if self._only_reads else link.run
        return await run(self.client.key(self.stream), commands, limit_s)

    async def newest(self) -> str:
        """The highest pending id, "+" if nothing is pending."""
        _, _, newest, _ = await self.client.command("XPENDING", self.stream, self.group)
        return text(newest) if newest else "+"

    async def held_by(self, consumer: str) -> list[PendingEntry]:
        """Everything one consumer holds."""
        held: list[PendingEntry] = []
        while True:
            page = await self.page(held[-1].id if held else None, HELD_PAGE, consumer)
            held += page
            if len(page) < HELD_PAGE or page[-1].id == GREATEST_ID:
                return held

    async def renew(
        self, consumer: str, counts: Mapping[str, int], deleted: bool = False
    ) -> Renewed:
        """Set the idle time of these entries to 0 if they are still the consumer's.

        counts: their ids, and the delivery count of each, should its entry have to be made anew.
        deleted: the consumer's name was deleted, and made again since then.
        """
        renewed, was_deleted = Renewed(set(), set(), set()), int(deleted)
        ids = list(counts)
        for start in range(0, len(ids), RENEW_CHUNK):
            pairs = [part for i in ids[start : start + RENEW_CHUNK] for part in (i, counts[i])]
            *found_ids, was_deleted = await self.client.script(
                RENEW, self.stream, self.group, consumer, was_deleted, *pairs
            )
            for kind, found in zip(renewed, found_ids, strict=True):
                kind.update(map(text, found))
        return renewed

    async def cancelled(self, gone: Collection[str]) -> set[str]:
        """Which of these messages, none of which is pending any more, were cancelled."""
        limit_s = self.client.endpoint.socket_timeout
        return await cancelled(self.client.link(), self.client.key(self.stream), gone, limit_s)

    async def renew_range(self, consumer: str, first: str, last: str) -> None:
        """Renew what the consumer holds from ``first`` to ``last``."""
        while first:
            reply = await self.client.script(
                RENEW_RANGE, self.stream, self.group, consumer, first, last, RENEW_CHUNK
            )
            first = text(reply) and f"({text(reply)}"

    async def sizes(self, ids: Sequence[str]) -> dict[str, int]:
        """How large these entries are, in bytes; 0 = gone."""
        sizes: dict[str, int] = {}
        while len(sizes) < len(ids):
            some = ids[len(sizes) : len(sizes) + HELD_PAGE]
            found = await self.client.script(SIZES, self.stream, *some)
            sizes |= zip(some, found, strict=False)
        return sizes

    async def take(
        self, consumer: str, offers: Sequence[SeenEntry], *, carried: bool = True
    ) -> tuple[list[StreamMessage], list[str], bool]:
        """Take over those entries that are still as they were seen.

        carried: with their payloads.
        Returns (messages with raw data and their new delivery count, ids that exist no more and
        were acknowledged, was the consumer's name made for it).
        Source: https://redis.io/docs/latest/commands/xclaim/
        """
        messages: list[StreamMessage] = []
        deleted: list[str] = []
        start, made = 0, 0
        while start < len(offers):
            chunk = offers[start : start + WRITE_CHUNK]
            args: list[Any] = [self.group, consumer, TAKE_BYTES if carried else NO_PAYLOADS]
            for o in chunk:
                args += (o.id, o.owner, o.seen_count, o.min_idle_ms, o.new_count)
            taken, gone, looked_at, newly = await self.client.script(TAKE, self.stream, *args)
            start, made = start + int(looked_at), made or newly
            counts = {o.id: o.new_count for o in chunk}
            messages += [
                entry_message(entry, self.payload_field, count)
                for entry in taken
                if (count := counts.get(text(entry[0]))) is not None
            ]
            deleted += [text(i) for i in gone]
        return messages, deleted, bool(made)

    async def park(self, owner: str, entries: Sequence[Parked]) -> list[str]:
        """Give entries of ``owner`` back, each due after its delay; returns the ids that were its.

        A parked entry is pending under ``<group>:retry:<D>`` and due once idle >= D ms.
        """
        parked: list[str] = []
        for start in range(0, len(entries), WRITE_CHUNK):
            args: list[Any] = []
            for entry in entries[start : start + WRITE_CHUNK]:
                name, idle_ms = parking_name(self.group, entry.delay_ms, suspect=entry.suspect)
                count = min(entry.deliveries, MOST_EXACT)
                args += (entry.id, entry.seen_count, name, idle_ms, count)
            reply = await self.client.script(PARK, self.stream, self.group, owner, *args)
            parked += [text(i) for i in reply]
        return parked

    async def postpone(
        self, owner: str, entries: Sequence[Parked], errors: Mapping[str, str]
    ) -> set[str]:
        """Schedule entries of ``owner`` for their next delivery; returns the ids of those that are.

        The others stay as they are: they are not the owner's, other groups read the stream too, or
        there is no room beside it. errors: their last ones, by id.
        """
        wanted = [Postponed(e.id, e.deliveries, e.delay_ms, errors[e.id]) for e in entries]
        try:
            beside = companions(self.client.key(self.stream))
            return set(await postpone(self.client.link(), beside, self.group, owner, wanted))
        except (ClusterSlotError, ResponseError):
            return set()

    async def move_to_dlq(
        self,
        owner: str,
        entry_id: str,
        dlq_stream: str,
        dlq_max_len: int | None,
        extra: dict[str, str],
        dlq_group: str | None = None,
    ) -> str | None:
        """Move an entry of ``owner`` to the dead-letter stream in one step.

        dlq_group: made on the dead-letter stream if that is new.
        Returns the dead letter's id, "" if the entry no longer exists, None if it is not the
        owner's any more.
        """
        client = self.client
        keys = [client.key(self.stream), client.key(dlq_stream)]
        with contextlib.suppress(ClusterSlotError):  # then nobody can wait for a result either
            keys.append(companions(keys[0]).results)
        max_len, made = dlq_max_len or 0, dlq_group or ""

        async def move(most_values: int) -> Any:
            args = self.group, owner, entry_id, max_len, made, most_values, *_flat(extra)
            try:
                return await client.link().script(BURY, keys, *args)
            except NoPermissionError:
                if len(keys) == 2:
                    raise
                del keys[2]  # whoever may write no results has nobody who waits for them
                return await client.link().script(BURY, keys, *args)

        reply = await move(MOST_VALUES)
        if reply == -2:
            try:
                return await self._move_large(keys, owner, entry_id, max_len, _flat(extra))
            except NotCarriedError as error:
                why = f"{error}. It has too many fields to be copied."
                extra = {LOST: why, **extra, "last_error": why}
                reply = await move(NO_PAYLOADS)
        if isinstance(reply, bytes | str):
            return text(reply)
        return None if reply == 0 else ""

    async def _move_large(
        self, keys: list[str], owner: str, entry_id: str, max_len: int, extra: list[str]
    ) -> str | None:
        """The same for an entry with thousands of fields, which no script can copy.

        A transaction cannot look who has the entry. So its lease is renewed just before: nobody
        takes it over within the second that this takes. Raises NotCarriedError.
        """
        renewed = await self.renew(owner, {entry_id: 1})
        if renewed.taken or renewed.gone:
            return None
        stream, dlq, *_ = keys
        link, limit_s = self.client.link(), self.client.endpoint.socket_timeout
        size = (await self.sizes([entry_id]))[entry_id]
        found = await carry(
            link, stream, size, lambda: link.call(stream, "XRANGE", stream, entry_id, entry_id)
        )
        if not found:
            await self.ack([entry_id])
            return ""
        cut = ("MAXLEN", "~", max_len) if max_len else ()
        add = (dlq, *cut, "*", *found[0][1], *extra)
        commands = moving(add, "XACK", stream, self.group, entry_id)
        letter_id, _ = of_transaction(await link.run(stream, commands, limit_s)) or ("", 0)
        return text(letter_id)

    async def answer(self, answers: Mapping[str, Answer]) -> int:
        """Acknowledge entries and write their answers; returns how many could not be written."""
        beside = companions(self.client.key(self.stream))
        return await write_answers(self.client.link(), self.group, beside, answers)

    async def ack(self, ids: Sequence[str]) -> int:
        """Acknowledge these messages, even if others hold them."""
        return await self.client.ack(self.stream, self.group, *ids)

    async def prune(self, *consumers: str) -> bool:
        """Remove those consumers that hold nothing; False if one holds something."""
        return not await self.client.script(PRUNE, self.stream, self.group, *consumers)

    async def trim(self, max_len: int) -> Trimmed:
        """Remove finished entries while the stream is longer than ``max_len`` (approximately)."""
        removed = 0
        while True:
            trimmed, length, *ids = await self.client.script(
                TRIM, self.stream, self.group, max_len, TRIM_AT_ONCE
            )
            removed += int(trimmed)
            if int(trimmed) < TRIM_AT_ONCE // 2:
                return Trimmed(removed, int(length) - int(trimmed), *map(text, ids))

    async def reserve(self, consumer: str) -> bool:
        """Create a consumer; False if the name is taken.

        Where the memory is full its first read creates it, which is allowed then.
        """
        try:
            return bool(
                await self.client.command(
                    "XGROUP CREATECONSUMER", self.stream, self.group, consumer
                )
            )
        except ResponseError as error:
            if not is_full(error):
                raise
        others = await self.client.consumer_info(self.stream, self.group)
        return consumer not in [other["name"] for other in others]


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _server_ms(reply: Any) -> int | None:
    if isinstance(reply, Exception):
        return None
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000

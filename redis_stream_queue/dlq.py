"""DeadLetterQueue: look at dead letters, send them back, throw them away."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

from ._validate import Text, check
from .client import StreamClient, check_client
from .connection.carrying import NotCarriedError, carry, moving
from .connection.dlq_scripts import HEADS, NEWEST, ORIGINS, ORIGINS_OF, REQUEUE
from .connection.exchange import OUTAGES, first_error, of_transaction
from .connection.replies import entry_message, mapping, text
from .delivery.dead_letter import LETTER_FIELDS
from .delivery.pending import MOST_VALUES
from .exceptions import ClusterSlotError, DLQError
from .later.keys import companions
from .later.scripts import REQUEUE_UNIQUE
from .message import GREATEST_ID, StreamMessage, id_before

PAGE = 100
ORIGINS_AT_ONCE = 200  # small ones; of large ones a call looks at fewer
IDS_AT_ONCE = 10
REQUEUE_TRIES = 10
HEAD_BYTES = 4000  # of a value
EARLIER_IDS = ("rsq:scheduled", "rsq:first")  # headers: ids that the message had before
CALLED = ("rsq:task", "rsq:cron")  # headers: what was called, by a push or by a schedule

Origins = list[tuple[str, str]]  # a letter's id, and the stream it came from


@dataclass
class DeadLetter(StreamMessage):
    """A dead letter. id: of the letter, not of the message.

    own_headers: the headers of the message itself. unread: why neither these nor the payload could
    be read; "" if they are here.
    """

    own_headers: dict[str, str] = field(default_factory=dict)
    unread: str = ""

    @property
    def called(self) -> str:
        """Name of the task, or of the periodic message, that it was; "" = neither."""
        return next((self.headers[name] for name in CALLED if name in self.headers), "")


def _own_length(fields: Sequence[Any]) -> int:
    """How many of a letter's values are the message's own."""
    keep = len(fields) - 2 * len(LETTER_FIELDS)
    if keep < 2 or tuple(map(text, fields[keep::2])) != LETTER_FIELDS:
        return len(fields)  # no letter of ours
    return keep


def _letter(entry: Any) -> DeadLetter:
    message, fields = entry_message(entry, "data", 0), entry[1]
    own = mapping(fields[: _own_length(fields)])
    own.pop("data", None)
    return DeadLetter(message.id, message.data, 0, message.headers, own)


class DeadLetterQueue:
    """The dead letters in ``dlq_stream``, read by ``client``.

    A letter's ``data`` is the raw payload; its ``headers`` say why it is here (``reason``,
    ``last_error``, ``original_stream``, ``original_id``, ``delivery_count``, ...).
    """

    def __init__(self, client: StreamClient, dlq_stream: str) -> None:
        check_client(client)
        check("dlq_stream", dlq_stream, Text())
        self.client = client
        self.dlq_stream = dlq_stream

    async def list(
        self, count: int = PAGE, after: str | None = None, *, payloads: bool = True
    ) -> Sequence[DeadLetter]:
        """Up to ``count`` letters, oldest first. after: only letters behind this id.

        payloads: False = without payloads, so that large letters cost little. A letter that is too
        large to be read in says so in ``unread``.
        """
        if not payloads:
            return [head for head, _ in await self._heads(count, after)]
        if after == GREATEST_ID:
            return []
        start = "-" if after is None else f"({after}"
        asked = ("XRANGE", self.dlq_stream, start, "+", "COUNT", count)
        try:
            return [_letter(entry) for entry in await self.client.command(*asked)]
        except ResponseError:
            raise
        except (*OUTAGES, MemoryError):  # together they are too large, perhaps
            read = [await self._read(*head) for head in await self._heads(count, after)]
            return [letter for letter in read if letter is not None]

    async def newest(self, count: int) -> Sequence[str]:
        """The ids of up to ``count`` letters, newest first."""
        found = await self.client.script(NEWEST, self.dlq_stream, count)
        return [text(letter_id) for letter_id in found]

    async def get(self, letter_id: str, *, payloads: bool = True) -> DeadLetter | None:
        """One letter, or None.

        letter_id: the letter's own id, not the message's. payloads: see ``list``.
        """
        for head in await self._heads(1, id_before(letter_id)):
            if head[0].id == letter_id:
                return await self._read(*head) if payloads else head[0]
        return None

    async def _heads(self, count: int, after: str | None) -> Sequence[tuple[DeadLetter, int]]:
        """Letters without their payloads, and how large they are in bytes."""
        heads: builtins.list[tuple[DeadLetter, int]] = []
        behind = after or ""
        while len(heads) < count and behind != GREATEST_ID:
            most = min(count - len(heads), PAGE)
            named = *LETTER_FIELDS, *CALLED, *EARLIER_IDS
            found = await self.client.script(
                HEADS, self.dlq_stream, behind, most, HEAD_BYTES, *named
            )
            if not found:
                break
            heads += [
                (DeadLetter(text(letter_id), b"", 0, mapping(shown)), size)
                for letter_id, size, shown in found
            ]
            behind = heads[-1][0].id
        return heads[:count]

    async def _read(self, head: DeadLetter, size: int) -> DeadLetter | None:
        """The whole letter; None if it is gone."""
        client = self.client
        link, key = client.link(), client.key(self.dlq_stream)
        asked = partial(client.command, "XRANGE", self.dlq_stream, head.id, head.id)
        try:
            found = await carry(link, key, size, asked, 1)
        except NotCarriedError as error:
            return replace(head, unread=str(error))
        return _letter(found[0]) if found else None

    async def count(self) -> int:
        """How many letters there are now; those are the oldest ones from now on."""
        return await self.client.stream_len(self.dlq_stream)

    async def requeue(self, ids: Sequence[str] | None = None, to: str | None = None) -> int:
        """Send letters back to the stream they came from; returns how many.

        ids: which ones; None = all that are there now. to: name of another stream.
        Each letter moves in one atomic step, so an interrupted call loses and doubles nothing. A
        letter with a unique key has it again; it stays while the same work is unfinished.
        Raises DLQError for a letter that does not say where it came from (give ``to``), and at the
        end for those that cannot be moved.
        """
        moved, stuck = 0, list[str]()
        for letter_id, target in await self._targets(ids, to):
            keys = [self.client.key(self.dlq_stream), target]
            reply: Any = await self.client.link().script(
                REQUEUE, keys, letter_id, MOST_VALUES, *LETTER_FIELDS
            )
            if reply == -3:
                stuck.append(f"letter {letter_id} has no payload, its last_error says why")
            elif reply == -4:
                moved += await self._requeue_unique(keys, letter_id, stuck)
            elif reply == -2:
                try:
                    moved += await self._requeue_large(keys, letter_id)
                except NotCarriedError as error:
                    why = f"{error}, and it has too many fields to be copied by the server"
                    stuck.append(f"letter {letter_id}: {why}")
            else:
                moved += reply != 0
        if stuck:
            raise DLQError(f"left in {self.dlq_stream} ({moved} moved): {'; '.join(stuck)}.")
        return moved

    async def _requeue_unique(
        self, keys: Sequence[str], letter_id: str, stuck: builtins.list[str]
    ) -> int:
        """The same for one with a unique key, which has it again then."""
        try:
            beside = companions(keys[1])
        except ClusterSlotError as error:
            stuck.append(f"letter {letter_id}: {error}")
            return 0
        reply, unfinished = await self.client.link().script(
            REQUEUE_UNIQUE,
            [*keys, beside.later, beside.unique],
            *(letter_id, MOST_VALUES, *LETTER_FIELDS),
        )
        if reply == -4:
            why = f"the same work is unfinished as {text(unfinished)}"
            stuck.append(f"letter {letter_id} has a unique key, and {why}")
        return not isinstance(reply, int)

    async def _requeue_large(self, keys: Sequence[str], letter_id: str) -> int:
        """The same for a letter with thousands of fields, which no script can copy."""
        dlq, target = keys
        link, limit_s = self.client.link(), self.client.endpoint.socket_timeout
        channel = self.client.channel(self.dlq_stream)
        commands = [("WATCH", dlq), ("XRANGE", dlq, letter_id, letter_id)]
        look = partial(channel.run, commands, limit_s)
        size = max([size for _, size in await self._heads(1, id_before(letter_id))], default=0)
        try:
            for _ in range(REQUEUE_TRIES):
                _, found = first_error(await carry(link, dlq, size, look, 1))
                if not found:
                    return 0
                fields = found[0][1]
                add = (target, "*", *fields[: _own_length(fields)])
                move = moving(add, "XDEL", dlq, letter_id)
                if of_transaction(await channel.run(move, limit_s)) is not None:
                    return 1
        finally:
            await link.drop(channel)
        raise DLQError(
            f"letter {letter_id} of {self.dlq_stream} has too many fields to be moved while "
            "letters come and go: try again in a quieter moment."
        )

    async def _targets(
        self, ids: Sequence[str] | None, to: str | None
    ) -> Sequence[tuple[str, str]]:
        letters = await self._all() if ids is None else await self._those(ids)
        targets = []
        for letter_id, origin in letters:
            target = self.client.key(to) if to else origin
            if not target:
                raise DLQError(
                    f"letter {letter_id} of {self.dlq_stream} has no original_stream: "
                    "say where it should go with to='stream'."
                )
            targets.append((letter_id, target))
        return targets

    async def _those(self, ids: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Those of these letters that are there, and where they came from."""
        found: Origins = []
        for start in range(0, len(ids), IDS_AT_ONCE):
            some = ids[start : start + IDS_AT_ONCE]
            origins = await self.client.script(ORIGINS_OF, self.dlq_stream, *some)
            pairs = zip(some, origins, strict=True)
            found += [(i, text(origin)) for i, origin in pairs if origin != 0]
        return found

    async def _all(self) -> Sequence[tuple[str, str]]:
        """All letters that are there now, and where they came from; no payload travels."""
        letters: Origins = []
        count = await self.count()
        while len(letters) < count:
            after = letters[-1][0] if letters else ""
            if after == GREATEST_ID:
                break
            page = await self.client.script(ORIGINS, self.dlq_stream, after, ORIGINS_AT_ONCE)
            if not page:
                break
            texts = [*map(text, page)]
            letters += zip(texts[::2], map(sys.intern, texts[1::2]), strict=True)
        return letters[:count]

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete letters for good; returns how many. ids: which ones; None = all that are there."""
        if ids is None:
            ids = [letter_id for letter_id, _ in await self._all()]
        deleted = 0
        for start in range(0, len(ids), PAGE):
            deleted += int(
                await self.client.command("XDEL", self.dlq_stream, *ids[start : start + PAGE])
            )
        return deleted

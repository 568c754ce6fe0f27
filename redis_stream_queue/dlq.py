"""DeadLetterQueue: look at dead letters, send them back, throw them away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ._replies import entry_message, mapping, text
from ._scripts import Script
from .burial import LETTER_FIELDS
from .client import StreamClient
from .exceptions import DLQError
from .message import GREATEST_ID, StreamMessage

PAGE = 100

# KEYS: dead-letter stream, target stream. ARGV: letter id, names of the fields added at burial
# Copies the letter without what burial added to the end of the target, then deletes it.
# Returns the new id, or 0 if the letter is gone.
REQUEUE = Script("""
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fields, added = letter[2], #ARGV - 1
local keep = #fields - 2 * added
for i = 1, added do
  if fields[keep + 2 * i - 1] ~= ARGV[i + 1] then keep = #fields break end
end
if keep < 2 then keep = #fields end
local add = {'XADD', KEYS[2], '*'}
for i = 1, keep do add[#add + 1] = fields[i] end
local id = redis.call(unpack(add))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
""")


@dataclass
class DeadLetter(StreamMessage):
    """A letter; its id is its own.

    own_headers: what the message itself brought beside its payload, whatever it is called.
    """

    own_headers: dict[str, str] = field(default_factory=dict)


def _letter(entry: Any) -> DeadLetter:
    message, fields = entry_message(entry, "data", 0), entry[1]
    keep = len(fields) - 2 * len(LETTER_FIELDS)
    if keep < 2 or tuple(map(text, fields[keep::2])) != LETTER_FIELDS:
        keep = len(fields)  # no letter of ours
    own = mapping(fields[:keep])
    own.pop("data", None)
    return DeadLetter(message.id, message.data, 0, message.headers, own)


class DeadLetterQueue:
    """The dead letters in ``dlq_stream``, read by ``client``.

    A letter's ``data`` is the raw payload; its ``headers`` say why it is here (``reason``,
    ``last_error``, ``original_stream``, ``original_id``, ``delivery_count``, ...).
    """

    def __init__(self, client: StreamClient, dlq_stream: str) -> None:
        self.client = client
        self.dlq_stream = dlq_stream

    async def list(self, count: int = PAGE, after: str | None = None) -> Sequence[DeadLetter]:
        """Up to ``count`` letters, oldest first; ``after``: go on behind this id."""
        if after == GREATEST_ID:
            return []
        start = "-" if after is None else f"({after}"
        entries = await self.client.command("XRANGE", self.dlq_stream, start, "+", "COUNT", count)
        return [_letter(entry) for entry in entries]

    async def get(self, letter_id: str) -> DeadLetter | None:
        """One letter, or None."""
        found = await self.client.command("XRANGE", self.dlq_stream, letter_id, letter_id)
        return _letter(found[0]) if found else None

    async def count(self) -> int:
        """How many letters there are now; those are the oldest ones from now on."""
        return await self.client.stream_len(self.dlq_stream)

    async def requeue(self, ids: Sequence[str] | None = None, to: str | None = None) -> int:
        """Send letters back to the stream they came from; returns how many.

        ids: which ones; None = all that are there now. to: another stream's name.
        Each moves in one atomic step, so an interrupted call loses and doubles nothing.
        Raises DLQError for a letter that does not say where it came from (give ``to``).
        """
        moved = 0
        for letter_id, target in await self._targets(ids, to):
            keys = [self.client.key(self.dlq_stream), target]
            reply: Any = await self.client.link().script(REQUEUE, keys, letter_id, *LETTER_FIELDS)
            moved += reply != 0
        return moved

    async def _targets(
        self, ids: Sequence[str] | None, to: str | None
    ) -> Sequence[tuple[str, str]]:
        letters = await self._all() if ids is None else await self._those(ids)
        targets = []
        for letter in letters:
            target = self.client.key(to) if to else letter.headers.get("original_stream")
            if not target:
                raise DLQError(
                    f"letter {letter.id} of {self.dlq_stream} has no original_stream: "
                    "say where it should go with to='stream'."
                )
            targets.append((letter.id, target))
        return targets

    async def _those(self, ids: Sequence[str]) -> Sequence[StreamMessage]:
        return await self.client.fetch_by_ids(self.dlq_stream, ids)

    async def _all(self) -> Sequence[StreamMessage]:
        letters: list[StreamMessage] = []
        count = await self.count()
        while len(letters) < count:
            page = await self.list(PAGE, letters[-1].id if letters else None)
            if not page:
                break
            letters += page
        return letters[:count]

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete letters for good; returns how many. ids: which ones; None = all that are there."""
        if ids is None:
            ids = [letter.id for letter in await self._all()]
        deleted = 0
        for start in range(0, len(ids), PAGE):
            deleted += int(
                await self.client.command("XDEL", self.dlq_stream, *ids[start : start + PAGE])
            )
        return deleted

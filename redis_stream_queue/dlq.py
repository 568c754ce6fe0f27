"""DeadLetterQueue: look at dead letters, send them back, throw them away."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ._link import Command, first_error
from ._replies import entry_message, mapping, text
from ._scripts import Script
from .burial import LETTER_FIELDS
from .client import StreamClient
from .exceptions import DLQError
from .message import GREATEST_ID, StreamMessage
from .pending import MOST_VALUES

PAGE = 100
ORIGINS_AT_ONCE = 200  # small ones; of large ones a call looks at fewer
IDS_AT_ONCE = 10
REQUEUE_TRIES = 10

Origins = list[tuple[str, str]]  # a letter's id, and the stream it came from

# KEYS: dead-letter stream, target stream. ARGV: letter id, most values, names of the fields added
#       at burial
# Copies the letter without what burial added to the end of the target, then deletes it.
# Returns the new id, 0 if the letter is gone, or -2 if it has too many fields for a script.
REQUEUE = Script("""
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fields, added = letter[2], #ARGV - 2
if #fields > tonumber(ARGV[2]) then return -2 end
local keep = #fields - 2 * added
for i = 1, added do
  if fields[keep + 2 * i - 1] ~= ARGV[i + 2] then keep = #fields break end
end
if keep < 2 then keep = #fields end
local add = {'XADD', KEYS[2], '*'}
for i = 1, keep do add[#add + 1] = fields[i] end
local id = redis.call(unpack(add))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
""")

# ARGV: id to go on behind ('' = from the start), most letters
# Returns an id and an original stream ('' = none) for each letter, as far as one call may look:
# about 512 kB of letters.
ORIGINS = Script("""
local found, after, bytes, n = {}, ARGV[1], 524288, 1
while #found < 2 * tonumber(ARGV[2]) and bytes > 0 do
  local from, size = after == '' and '-' or '(' .. after, 0
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', n)
  for _, letter in ipairs(page) do
    local fields, origin = letter[2], ''
    for i = 1, #fields, 2 do
      size = size + #fields[i] + #fields[i + 1]
      if fields[i] == 'original_stream' then origin = fields[i + 1] end
    end
    found[#found + 1], found[#found + 2] = letter[1], origin
  end
  if #page < n then break end
  after, bytes = page[#page][1], bytes - size
  if after == '18446744073709551615-18446744073709551615' then break end
  n = size < 32768 and math.min(n * 2, 100) or math.max(math.floor(n / 2), 1)
end
return found
""")

# ARGV: id...
# Returns the original stream of each of these letters: '' = it names none, 0 = it is gone.
ORIGINS_OF = Script("""
local origins = {}
for i, id in ipairs(ARGV) do
  local letter, origin = redis.call('XRANGE', KEYS[1], id, id)[1], 0
  if letter then
    origin = ''
    for j = 1, #letter[2], 2 do
      if letter[2][j] == 'original_stream' then origin = letter[2][j + 1] end
    end
  end
  origins[i] = origin
end
return origins
""")


@dataclass
class DeadLetter(StreamMessage):
    """A letter; its id is its own.

    own_headers: what the message itself brought beside its payload, whatever it is called.
    """

    own_headers: dict[str, str] = field(default_factory=dict)


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
            reply: Any = await self.client.link().script(
                REQUEUE, keys, letter_id, MOST_VALUES, *LETTER_FIELDS
            )
            if reply == -2:
                reply = await self._requeue_large(keys, letter_id)
            moved += reply != 0
        return moved

    async def _requeue_large(self, keys: Sequence[str], letter_id: str) -> int:
        """The same for a letter with thousands of fields, which no script can copy."""
        dlq, target = keys
        link, limit_s = self.client.link(), self.client.endpoint.socket_timeout
        channel = self.client.channel(self.dlq_stream)
        look = [("WATCH", dlq), ("XRANGE", dlq, letter_id, letter_id)]
        try:
            for _ in range(REQUEUE_TRIES):
                _, found = first_error(await channel.run(look, limit_s))
                if not found:
                    return 0
                fields = found[0][1]
                move: Sequence[Command] = [
                    ("MULTI",),
                    ("XADD", target, "*", *fields[: _own_length(fields)]),
                    ("XDEL", dlq, letter_id),
                    ("EXEC",),
                ]
                if first_error(await channel.run(move, limit_s))[-1] is not None:
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

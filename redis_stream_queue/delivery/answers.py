"""Answers: results of messages, for the programs that pushed them.

An answer is written in one step with the acknowledgement of its message. A message that wants one
has a header that says how long the answer is kept. The answer is a list of one value, so that any
number of programs can wait for it and leave it there (BLMOVE from the list to itself).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from .._burial_mark import TOO_LARGE
from .._log import logger
from ..connection.carrying import NotCarriedError, carry, size_text
from ..connection.link import Link
from ..connection.scripts import Script
from ..later.keys import Companions
from ..message import StreamMessage

log = logger(__name__)

RESULT = "rsq:result"  # ms that the answer is kept
FIRST, SCHEDULED = "rsq:first", "rsq:scheduled"
VALUE, FAILED = b"V", b"E"  # how an answer begins
MOST_TTL_MS = 366 * 24 * 3600 * 1000
AT_ONCE = 50
LARGE_BYTES = 1 << 20  # what is larger is written alone: the server may not take it

# KEYS: stream, then the key of each answer. ARGV: group, then for each: id, ms to keep it, answer
# Acknowledges each entry, and writes its answer unless somebody else has acknowledged it.
# Returns how many answers were refused (OOM, a key of another type): those entries are done, too.
ANSWER = Script("""
local refused = 0
for i = 2, #KEYS do
  local at = (i - 2) * 3 + 2
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[at]) == 1 then
    local written = redis.pcall('RPUSH', KEYS[i], ARGV[at + 2])
    if type(written) == 'table' then
      refused = refused + 1
    else
      redis.call('PEXPIRE', KEYS[i], ARGV[at + 1])
    end
  end
end
return refused
""").returning(int)


class Answer(NamedTuple):
    """The result of a message. job_id: the id that its push returned. ttl_ms: how long it lasts."""

    job_id: str
    ttl_ms: int
    value: bytes


def answer_to(message: StreamMessage, value: bytes) -> Answer | None:
    """The answer to a message, with this value; None if the message wants no answer."""
    headers = message.headers
    kept = headers.get(RESULT, "")
    if not kept.isdecimal() or not 0 < (ttl_ms := int(kept[:15])) <= MOST_TTL_MS:
        return None
    return Answer(headers.get(FIRST) or headers.get(SCHEDULED) or message.id, ttl_ms, value)


def failure(reason: str, error: str) -> bytes:
    """The value of the answer to a message that has failed for good."""
    return FAILED + json.dumps([reason, error]).encode()


async def write_answers(
    link: Link, group: str, beside: Companions, answers: Mapping[str, Answer]
) -> int:
    """Acknowledge entries and write their answers; returns how many could not be written.

    answers: by the ids of their entries. One that is too large for the server is replaced by a
    failure.
    """

    async def write(some: Mapping[str, Answer]) -> int:
        keys, args = _script_args(group, beside, some)
        return int(await link.script(ANSWER, keys, *args))

    large = {i: answer for i, answer in answers.items() if len(answer.value) > LARGE_BYTES}
    small = {i: answer for i, answer in answers.items() if i not in large}
    refused = await write(small) if small else 0
    for entry_id, answer in large.items():
        size = len(answer.value)
        try:
            refused += await carry(link, beside.stream, size, partial(write, {entry_id: answer}))
        except NotCarriedError as error:
            why = f"it is done, but its result of {size_text(size)} is more than the server takes"
            log.error("message %s: %s (%s)", entry_id, why, error.__cause__)
            refused += await write({entry_id: answer._replace(value=failure(TOO_LARGE, why))})
    return refused


def _script_args(
    group: str, beside: Companions, answers: Mapping[str, Answer]
) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of ANSWER. answers: by the ids of their entries."""
    keys, args = [beside.stream], [group]
    for entry_id, answer in answers.items():
        keys.append(beside.result(answer.job_id))
        args += [entry_id, answer.ttl_ms, answer.value]  # type: ignore[list-item]
    return keys, args

"""Scheduled messages: list and cancel them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .._validate import Maybe, Moment, check
from ..client import StreamClient
from ..connection.replies import text
from .ids import MOST_DUE_MS, as_datetime, due_ms, epoch_ms
from .keys import companions
from .scripts import CANCEL_LATER, CANCELLED, LIST_LATER, PURGE_LATER

PAGE = 100
PAGE_BYTES = 1 << 20
PURGED_AT_ONCE = 500  # less than a ms of Redis' time


@dataclass
class ScheduledMessage:
    """A message that is not in the stream yet.

    id: ``@<due ms>-<number>``. due: when it will be moved into the stream. data: the decoded
    payload, or ``bytes`` where nothing decoded it. headers: the texts beside the payload.
    """

    id: str
    due: datetime
    data: Any
    headers: dict[str, str] = field(default_factory=dict)


async def cancel_scheduled(client: StreamClient, stream: str, ids: Sequence[str]) -> list[bool]:
    """Remove scheduled messages; returns for each id whether it was still scheduled.

    Raises ConfigError for ids of another form.
    """
    for scheduled_id in ids:
        due_ms(scheduled_id)
    beside = companions(client.key(stream))
    keys, found = [beside.later, beside.results], list[bool]()
    for start in range(0, len(ids), PAGE):
        numbers = [i.removeprefix("@") for i in ids[start : start + PAGE]]
        found += map(bool, await client.link().script(CANCEL_LATER, keys, CANCELLED, *numbers))
    return found


async def purge_scheduled(client: StreamClient, stream: str, before: datetime | None) -> int:
    """Delete those that are due before this date, None = all; returns how many.

    Raises ConfigError for a date without a time zone.
    """
    key, until, purged = companions(client.key(stream)).later, _until(before), 0
    while True:
        gone: int = await client.link().script(PURGE_LATER, [key], until, PURGED_AT_ONCE)
        purged += gone
        if gone < PURGED_AT_ONCE:
            return purged


async def count_scheduled(client: StreamClient, stream: str, before: datetime | None = None) -> int:
    """How many are due before this date, None = how many there are.

    Raises ConfigError for a date without a time zone.
    """
    key, until = companions(client.key(stream)).later, _until(before)
    asked = ("ZCOUNT", key, "-inf", f"({until}") if until else ("ZCARD", key)
    return int(await client.link().call(key, *asked))


async def find_scheduled(
    client: StreamClient, stream: str, scheduled_id: str
) -> ScheduledMessage | None:
    """The scheduled message with this id, None if it is not scheduled (any more)."""
    just_before = f"{scheduled_id[1:-12]}{max(int(scheduled_id[-12:]) - 1, 0):012d}"
    behind = str(due_ms(scheduled_id)), just_before
    async for message in _listed(client, stream, "", behind, page_size=1):
        return message if message.id == scheduled_id else None
    return None


def scheduled(
    client: StreamClient, stream: str, before: datetime | None = None
) -> AsyncIterator[ScheduledMessage]:
    """Scheduled messages with raw payloads, in the order in which they are due.

    before: only those due before this date. Raises ConfigError for a date without a time zone.
    """
    return _listed(client, stream, _until(before), ("", ""), PAGE)


async def _listed(
    client: StreamClient, stream: str, until: str, behind: tuple[Any, Any], page_size: int
) -> AsyncIterator[ScheduledMessage]:
    """behind: score and id, as the set is ordered, whatever others have put into it."""
    key = companions(client.key(stream)).later
    while True:
        args = *behind, until, page_size, PAGE_BYTES
        page = await client.link().script(LIST_LATER, [key], *args)
        for entry_id, parts, payload, score in page:
            texts = [text(part) for part in parts]
            headers = dict(zip(texts[::2], texts[1::2], strict=False))
            behind = score, entry_id[1:]  # as it is: others' bytes need not be text
            due = as_datetime(min(max(float(score), 0), MOST_DUE_MS))
            yield ScheduledMessage(text(entry_id), due, payload, headers)
        if not page:
            return


def _until(before: datetime | None) -> str:
    check("before", before, Maybe(Moment()))
    return "" if before is None else str(epoch_ms(before))

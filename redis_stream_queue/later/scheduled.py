"""Scheduled messages: list and cancel them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .._validate import Maybe, Moment, check
from ..client import StreamClient
from ..connection.replies import text
from .ids import as_datetime, due_ms, epoch_ms
from .keys import companions
from .scripts import CANCEL_LATER, LIST_LATER

PAGE = 100
PAGE_BYTES = 1 << 20


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


async def count_scheduled(client: StreamClient, stream: str) -> int:
    """How many messages are scheduled. Raises what Redis raises, and ClusterSlotError."""
    key = companions(client.key(stream)).later
    return int(await client.link().call(key, "ZCARD", key))


async def cancel_scheduled(client: StreamClient, stream: str, ids: Sequence[str]) -> list[bool]:
    """Remove scheduled messages; returns for each id whether it was still scheduled.

    Raises ConfigError for ids of another form.
    """
    for scheduled_id in ids:
        due_ms(scheduled_id)
    key = companions(client.key(stream)).later
    found: list[bool] = []
    for start in range(0, len(ids), PAGE):
        numbers = [i.removeprefix("@") for i in ids[start : start + PAGE]]
        found += map(bool, await client.link().script(CANCEL_LATER, [key], *numbers))
    return found


async def find_scheduled(
    client: StreamClient, stream: str, scheduled_id: str
) -> ScheduledMessage | None:
    """The scheduled message with this id, None if it is not scheduled (any more)."""
    number = int(scheduled_id[-12:])
    just_before = f"{scheduled_id[:-12]}{max(number - 1, 0):012d}"
    async for message in scheduled(client, stream, after=just_before, page_size=1):
        return message if message.id == scheduled_id else None
    return None


async def scheduled(
    client: StreamClient,
    stream: str,
    before: datetime | None = None,
    after: str = "",
    page_size: int = PAGE,
) -> AsyncIterator[ScheduledMessage]:
    """Scheduled messages with raw payloads, in the order in which they are due.

    before: only those due before this date. after: only those behind this id ("" = all).
    page_size: how many to ask for at once. Raises ConfigError for a date without a time zone.
    """
    check("before", before, Maybe(Moment()))
    key = companions(client.key(stream)).later
    until = "" if before is None else str(epoch_ms(before))
    behind = after.removeprefix("@")
    while True:
        page = await client.link().script(LIST_LATER, [key], behind, until, page_size, PAGE_BYTES)
        for entry_id, parts, payload in page:
            texts = [text(part) for part in parts]
            headers = dict(zip(texts[::2], texts[1::2], strict=False))
            shown = text(entry_id)
            yield ScheduledMessage(shown, as_datetime(_due(shown)), payload, headers)
            behind = shown.removeprefix("@")
        if not page:
            return


def _due(shown: str) -> int:
    digits = shown[1:14]
    return int(digits) if digits.isdecimal() else 0

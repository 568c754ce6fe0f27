"""Keeps a stream at its length, and notes the oldest entry that is not finished."""

from __future__ import annotations

from redis.exceptions import ResponseError

from .._clock import mono_ms, span_text
from .._log import logger
from .._names import parking_due_ms
from .._plain import plain_cut
from ..client import StreamClient
from ..connection.refusals import is_forbidden
from ..message import PendingEntry, id_before
from .pending import PendingList, Trimmed
from .server_check import missing_right

log = logger(__name__)

TRIM_INTERVAL_S = 5.0
TOLERANCE = 1.2  # a length above so many times the limit is warned of, as trimming is approximate
SAY_EVERY_MS = 600_000


class Retention:
    """Trims one stream on behalf of one group."""

    def __init__(self, pending: PendingList, max_len: int) -> None:
        self._pending = pending
        self._max_len = max_len
        self._oldest_unfinished = ""
        self._say_next_ms = 0

    @property
    def restart_id(self) -> str:
        """Where a lost group is made again: right before the oldest unfinished entry."""
        return id_before(self._oldest_unfinished) if self._oldest_unfinished else "0"

    async def trim(self) -> None:
        """Remove finished entries beyond the limit; log what keeps the stream above it."""
        try:
            trimmed = await self._pending.trim(self._max_len)
        except ResponseError as error:
            if not is_forbidden(error):
                raise
            self._say_not_permitted(error)
            return
        self._oldest_unfinished = trimmed.oldest_unfinished or self._oldest_unfinished
        if trimmed.length > self._max_len * TOLERANCE and mono_ms() >= self._say_next_ms:
            self._say_next_ms = mono_ms() + SAY_EVERY_MS
            log.warning(
                "stream %s holds %d entries, limit %d: %s",
                self._pending.stream,
                trimmed.length,
                self._max_len,
                await blocker(self._pending.client, self._pending.stream, trimmed),
            )

    def _say_not_permitted(self, error: Exception) -> None:
        if mono_ms() >= self._say_next_ms:
            self._say_next_ms = mono_ms() + SAY_EVERY_MS
            log.warning(
                "stream %s is not trimmed, and its group would begin anew at 0 if it were lost: "
                "this user lacks a right (%s). ACL SETUSER name %s",
                self._pending.stream,
                error,
                missing_right(error, "+xinfo|groups +xtrim"),
            )


async def blocker(client: StreamClient, stream: str, trimmed: Trimmed) -> str:
    """A text about the unfinished entry that prevents trimming: its id and its holder."""
    group, oldest = trimmed.blocking_group, trimmed.blocking_id
    if not group:
        return "no group reads it, so nothing counts as finished"
    held = await client.pending_range(stream, group, 1)
    if held and held[0].id == oldest:
        return f"group {group} has not finished {oldest}, {holder_text(held[0], group)}"
    if oldest == "0-1":
        return f"group {group} has not read anything yet"
    return f"group {group} has read nothing after {id_before(oldest)}"


def holder_text(entry: PendingEntry, group: str) -> str:
    """Who holds an unfinished entry, and its last sign of life; or when it is tried again."""
    due_ms = parking_due_ms(group, entry.consumer)
    if due_ms is None:
        holder = plain_cut(entry.consumer, 100) or "nobody"
        return f"held by {holder}, renewed {span_text(entry.idle_ms)} ago"
    return f"to be tried again in {span_text(max(due_ms - entry.idle_ms, 0))}"

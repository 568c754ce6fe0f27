"""Messages that must not start after their time: their deadlines, by our own clock.

The entry of such a message has the ms that it may wait (``rsq:ttl``) since its push
(``rsq:pushed``, or else the time in its id). The server's clock counts. It is asked once a minute,
and before a message is given up, as it may have been set back; and only if there are such messages.
"""

from __future__ import annotations

from collections.abc import Iterable

from .._clock import mono_ms, wall_ms
from ..connection.exchange import OUTAGES
from ..message import StreamMessage, id_key
from .pending import PendingList

TTL, PUSHED, DEAD = "rsq:ttl", "rsq:pushed", "rsq:expired"
ASK_EVERY_MS = 60_000
ASKED_JUST_NOW_MS = 1000


class Expiry:
    """Knows deadlines of messages of ``pending``'s stream."""

    def __init__(self, pending: PendingList) -> None:
        self._pending = pending
        self._offset_ms = 0  # the server's clock minus ours
        self._asked_ms: int | None = None

    async def deadlines(self, messages: Iterable[StreamMessage]) -> dict[str, int]:
        """The deadlines of messages that have one, by id, in ms of mono_ms()."""
        expiring = [message for message in messages if TTL in message.headers]
        if not expiring:
            return {}
        ends = {message.id: _ends_ms(message) for message in expiring}
        now_ms = mono_ms()
        known_ms = None if self._asked_ms is None else now_ms - self._asked_ms
        is_over = min(ends.values()) <= now_ms + self._offset_ms
        if known_ms is None or known_ms > (ASKED_JUST_NOW_MS if is_over else ASK_EVERY_MS):
            await self._ask()
        return {entry_id: ends_ms - self._offset_ms for entry_id, ends_ms in ends.items()}

    async def _ask(self) -> None:
        asked_ms = mono_ms()
        try:
            server_ms = await self._pending.server_ms()
        except OUTAGES:  # use the difference that is known, or else this machine's clock
            server_ms = None if self._asked_ms is None else asked_ms + self._offset_ms
        self._offset_ms = (wall_ms() if server_ms is None else server_ms) - asked_ms
        self._asked_ms = asked_ms


def _ends_ms(message: StreamMessage) -> int:
    """The deadline by the server's clock; never, if other programs wrote no number there."""
    try:
        pushed_ms = int(message.headers.get(PUSHED) or id_key(message.id)[0])
        return pushed_ms + int(message.headers[TTL])
    except ValueError:
        return 1 << 62

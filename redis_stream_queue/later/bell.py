"""The bell of a stream: a short stream beside it that wakes whoever waits for a change.

Everybody hears it and nothing is consumed: each ring is an entry, and who waits goes on behind the
last one that it has heard. What rang meanwhile is still there after a reconnect. A look at the
state itself comes with each wait, so that a ring that was lost costs no more than one wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..client import StreamClient
from ..connection.link import Command, DedicatedConnection, first_error
from ..connection.reading import read_entries
from ..connection.replies import mapping, text

WAIT_MS = 5000
MARGIN_S = 2.0  # how much longer than its block a read may take before it counts as dead


class Bell:
    """Waits on the bell ``key`` of ``stream``, on a connection of its own."""

    def __init__(self, client: StreamClient, stream: str, key: str) -> None:
        self._client = client
        self._stream = stream
        self._key = key
        self._last = ""
        self._dedicated: DedicatedConnection | None = None

    @property
    def newest(self) -> Command:
        """Asks for the newest ring; see ``begin``."""
        return ("XREVRANGE", self._key, "+", "-", "COUNT", 1)

    def begin(self, found: Any) -> None:
        """Wait for what rings behind this reply to ``newest``; it has begun where it had."""
        self._last = self._last or (text(found[0][0]) if found else "0-0")

    async def wait(
        self, looks: Sequence[Command], on_look: Callable[[int, Any], None]
    ) -> list[dict[str, Any]]:
        """What has rung, or [] after five seconds.

        looks: commands that are run first; on_look gets the number and the reply of each at once.
        """
        dedicated = self._own()
        if not self._last:
            [found] = first_error(
                await dedicated.run([self.newest], self._client.endpoint.socket_timeout)
            )
            self.begin(found)
        read = ("XREAD", "COUNT", 100, "BLOCK", WAIT_MS, "STREAMS", self._key, self._last)

        *_, rings = first_error(
            await dedicated.run(
                [*looks, read],
                self._client.endpoint.socket_timeout,
                on_look,
                last_s=WAIT_MS / 1000 + MARGIN_S,
            )
        )
        entries = read_entries(rings)
        if entries:
            self._last = text(entries[-1][0])
        return [mapping(fields) for _, fields in entries if fields]

    def _own(self) -> DedicatedConnection:
        link = self._client.link()
        if self._dedicated is None or self._dedicated.link is not link:
            self._dedicated = link.dedicated(self._client.key(self._stream))
        return self._dedicated

    async def close(self) -> None:
        """Close the connection."""
        dedicated, self._dedicated = self._dedicated, None
        if dedicated is not None and dedicated.link is self._client.link():
            await dedicated.link.drop(dedicated)
